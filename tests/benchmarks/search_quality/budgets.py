"""Compare the frontier of one search with the truth, and with fresh searches at smaller budgets.

``python budgets.py record CACHE`` runs searches, and fresh ones at four smaller budgets, and
stores their trials. ``python budgets.py replay CACHE --out FILE`` calls `frontier` on each search,
and writes a line of JSON for each budget. ``python budgets.py table FILE [FILE ...]`` prints such
files. ``--real`` is the folder of the module `real_landscapes`; see `trust.py`.

Budgets are evenly spaced on a logarithmic axis from the cost of the cheapest allocation to the
searched budget. The loss of an allocation is its true score below that of the best one within the
budget; its regret is that loss divided by the difference of the best and the median allocation of
the whole task. A fresh search of 50 trials at each budget takes five times the evaluations of the
search, one of ten trials at each budget as many.
"""

import argparse
import copy
import itertools
import json
import pickle
import sys
import time
import warnings
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from landscapes import DEVELOPMENT, REPORT
from optuna.trial import TrialState
from peers import SAMPLERS
from trust import TRIALS, Real, draws, make_place, read, real_landscapes, search

from optuna_agenttts import BudgetError, NoEvidenceError, Task, frontier, recommend

COUNTS = {"calibrated": 6, "random": 6, "violating": 8, "playground": 1}
"""Landscapes of each family."""
FEWER = 10
"""Trials of the shorter fresh searches."""
LEVELS = 5
"""Budgets; the last one is that of the search."""
WITHIN = 0.05
"""Loss that `Frontier.cheapest` allows."""
TARGETS = (0.25, 0.5, 0.75)
"""Scores to reach, as shares of the way from the median to the best true score."""


def with_budget(task, budget):
    """Return the task with another budget."""
    return Task.from_dict(task.to_dict() | {"budget": budget})


def budgets_of(task):
    """Return the budgets of a task, smallest first."""
    low = task.feasible.cheapest_cost or task.budget / 100
    return [low * (task.budget / low) ** (k / LEVELS) for k in range(1, LEVELS)] + [task.budget]


class Within:
    """A landscape within a smaller budget."""

    def __init__(self, place, budget):
        self.task = with_budget(place.task, budget)
        self.truth, self.outcomes = place.truth, place.outcomes


@cache
def best_within(family, index, folder, budget):
    """Return the best true score within a budget, and the median one within the whole budget."""
    place = make_place(family, index, folder)
    if isinstance(place, Real):
        module = real_landscapes(folder)
        land = copy.copy(module.get(module.NAMES[index]))
        median = land.reference
        land.budget = budget
        return float(land.grid[land._feasible()].max()), float(median)
    inside = replace(place, task=with_budget(place.task, budget))
    return inside.reference[0], place.reference[1]


def jobs(options):
    """Yield (family, index, sampler, seed) and the beginning of the names of their files."""
    split = DEVELOPMENT if options.split == "development" else REPORT
    counts = COUNTS | {"real": len(real_landscapes(options.real).NAMES) if options.real else 0}
    for family in options.families:
        # A split begins with the first kind of each family; their numbers divide 24.
        first = 0 if family == "real" else -(-split.start // 24) * 24
        for job in itertools.product(
            [family],
            range(first, first + counts[family])[: options.landscapes],
            options.samplers,
            split[: options.seeds],
        ):
            yield job, options.paths[0] / "-".join(map(str, job))


def record(options):
    """Run the searches that the cache does not have."""
    options.paths[0].mkdir(parents=True, exist_ok=True)
    for (family, index, name, seed), start in jobs(options):
        place = make_place(family, index, options.real)
        for level, budget in enumerate(budgets_of(place.task), 1):
            path = Path(f"{start}-{level}.pkl")
            if path.exists():
                continue
            inside = place if level == LEVELS else Within(place, budget)
            study = search(inside, index, name, seed, TRIALS)
            part = path.with_suffix(".part")
            part.write_bytes(pickle.dumps(study.trials))
            part.rename(path)
        print(start.name, file=sys.stderr, flush=True)


def study_of(trials, most=TRIALS):
    """Return a study of the first trials that ran."""
    study = optuna.create_study(direction="maximize")
    ran = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    study.add_trials(ran[:most])
    return study


def compare(job, start, options):
    """Yield figures of what each method uses at each budget."""
    family, index, *_ = job
    place = make_place(family, index, options.real)
    budgets = budgets_of(place.task)
    best, median = best_within(family, index, options.real, budgets[-1])

    def figures(level, method, found):
        top, _ = best_within(family, index, options.real, budgets[level - 1])
        truth = score(found.allocation)
        low, high = found.interval
        return {
            "level": level,
            "method": method,
            "loss": top - truth,
            "regret": (top - truth) / (best - median),
            "covered": bool(low <= truth <= high),
            "error": found.value - truth,
            "width": high - low,
            "tried": getattr(found, "tried", True),
        }

    def score(allocation):
        return float(place.truth(*np.array(place.task.choices(allocation)).T))

    trials = pickle.loads(Path(f"{start}-{LEVELS}.pkl").read_bytes())
    study = study_of(trials)
    for method, tried_only in (("frontier", False), ("tried only", True)):
        began = time.perf_counter()
        found = frontier(study, place.task, tried_only=tried_only)
        seconds = time.perf_counter() - began
        for level, budget in enumerate(budgets, 1):
            try:
                yield figures(level, method, found.at(budget)) | {"seconds": seconds}
            except BudgetError:
                yield {"level": level, "method": method, "loss": None}
    alike = found.cheapest(within=WITHIN)
    yield {
        "level": LEVELS,
        "method": "cheapest",
        "loss": score(found.best.allocation) - score(alike.allocation),
        "saved": 1 - alike.cost / found.best.cost,
    }
    for share in TARGETS:
        wanted = median + share * (best - median)
        try:
            reached = recommend(study, place.task, at_least=wanted)
        except NoEvidenceError:
            yield {"level": LEVELS, "method": f"at least, {share}", "loss": None}
            continue
        yield {
            "level": LEVELS,
            "method": f"at least, {share}",
            "loss": wanted - score(reached.allocation),
            "saved": 1 - reached.cost / found.best.cost,
        }
    for level, budget in enumerate(budgets, 1):
        trials = pickle.loads(Path(f"{start}-{level}.pkl").read_bytes())
        # The longer one at the last budget is the search itself.
        for most in (FEWER,) if level == LEVELS else (TRIALS, FEWER):
            fresh = recommend(study_of(trials, most), with_budget(place.task, budget))
            yield figures(level, f"fresh, {most} trials", fresh)


def replay(options):
    """Compare all searches of the cache, write the figures, and print the tables."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w") as file:
        for job, start in jobs(options):
            if Path(f"{start}-{LEVELS}.pkl").exists():
                key = dict(zip(("family", "index", "sampler", "seed"), job))
                for found in compare(job, start, options):
                    file.write(json.dumps(key | found) + "\n")
                file.flush()
    table([options.out])


def mean_of(rows, key):
    """Return the mean of a figure with its bootstrap 90 % interval, as text."""
    rows = [row for row in rows if row.get(key) is not None]
    if not rows:
        return ""
    found = [np.mean([row[key] for row in draw]) for draw in draws(rows, np.random.default_rng(0))]
    low, high = np.percentile(found, [5, 95])
    return f"{np.mean([row[key] for row in rows]):.3f} ({low:.3f} to {high:.3f})"


def table(files):
    """Print figures by family, method and budget, with bootstrap 90 % intervals."""
    rows = [row for path in files for row in read(path)]
    families = list(dict.fromkeys(row["family"] for row in rows))
    columns = ("loss", "regret", "covered", "error", "tried")
    print(f"| family | sampler | budget | method | rows | none | {' | '.join(columns)} |")
    print("|" + "---|" * (6 + len(columns)))
    groups = defaultdict(list)
    for row in rows:
        if "regret" in row or row["method"] in ("frontier", "tried only"):
            levels = (row["level"], "below") if row["level"] < LEVELS else (row["level"],)
            for level in levels:
                groups[row["family"], row["sampler"], str(level), row["method"]].append(row)
    order = sorted(groups, key=lambda key: (families.index(key[0]), *key[1:]))
    for key in order:
        group = groups[key]
        none = sum(row["loss"] is None for row in group)
        cells = [*key, str(len(group)), str(none), *(mean_of(group, c) for c in columns)]
        print(f"| {' | '.join(cells)} |")
    print()
    print("| family | sampler | | searches | none | loss | right | saved |")
    print("|" + "---|" * 8)
    others = defaultdict(list)
    for row in rows:
        if row["method"] == "cheapest" or row["method"].startswith("at least"):
            allowed = WITHIN if row["method"] == "cheapest" else 0
            right = None if row["loss"] is None else row["loss"] <= allowed
            for family in (row["family"], "all"):
                others[family, row["sampler"], row["method"]].append(row | {"right": right})
    for key, group in others.items():
        none = sum(row["loss"] is None for row in group)
        cells = [str(len(group)), str(none), *(mean_of(group, c) for c in ("loss", "right"))]
        print(f"| {' | '.join([*key, *cells, mean_of(group, 'saved')])} |")


def main():
    """Record, replay or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("record", "replay", "table"))
    parser.add_argument("paths", nargs="+", type=Path, help="the cache; for `table`, files")
    families = (*COUNTS, "real")
    parser.add_argument("--families", nargs="+", choices=families, default=families)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["AgentTTS"])
    parser.add_argument("--real", type=Path, help="folder of the module `real_landscapes`")
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--landscapes", type=int, help="at most so many of each family")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each landscape")
    parser.add_argument("--out", type=Path, default=Path("budgets.jsonl"), help="of `replay`")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore")
    if options.step == "table":
        table(options.paths)
    else:
        {"record": record, "replay": replay}[options.step](options)


if __name__ == "__main__":
    main()
