"""Compare what `recommend` returns with the truth, on recorded searches.

``python trust.py record CACHE`` runs searches and stores their trials. ``python trust.py replay
CACHE --out FILE`` calls `recommend` on each of them and writes a line of JSON. ``python trust.py
table FILE [FILE ...]`` prints such files by family, for example of two versions of the package.

Families are those of `landscapes`; ``edges``, in which the best score is near 0 or near 1; and
``real``, recorded outcomes of language models, which the module `real_landscapes` in the folder
``--real`` reads (left out without it). Searches are those of `run.py`, with the same seeds.
"""

import argparse
import importlib
import itertools
import json
import os
import pickle
import sys
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from inspect import signature
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from families import cycle
from landscapes import DEVELOPMENT, FAMILIES, REPORT, Landscape, landscape
from optuna.trial import TrialState
from peers import SAMPLERS, make_sampler
from run import ATTEMPTS, COUNTS, read

import optuna_agenttts.task.cost
from optuna_agenttts import recommend

LOSSES = (0.02, 0.05)  # In score; ties that lose more count as wrong.
INSTANCES, TRIALS, GRID_TRIALS = 50, 50, 30  # Of a search; the last on the playground's grid.
_GRID_SEEDS = 5  # Searches of the playground's grid for one of another landscape.
_LEVELS = (0.97, 0.03, 0.985, 0.015, 0.96, 0.04)
"""Best true scores of the landscapes of ``edges``, in turn."""
_DRAWS = 1000  # Of searches, for bootstrap intervals.


@dataclass(frozen=True, eq=False)
class Shifted(Landscape):
    """Landscape whose scores are shifted on the logit scale, so that its best is at an edge."""

    base: Landscape | None = None
    level: float = 0.5

    def truth(self, models, samples):
        """See `Landscape.truth`."""
        return self._shift(self.base.truth(models, samples))

    @cached_property
    def reference(self):
        """See `Landscape.reference`."""
        return tuple(float(self._shift(value)) for value in self.base.reference)

    def _shift(self, score):
        best = self.base.reference[0]
        odds = score / (1 - score) * self.level / (1 - self.level) * (1 - best) / best
        return odds / (1 + odds)


class Real:
    """Recorded outcomes of language models; a seed draws instances and the order of samples."""

    def __init__(self, land):
        self.name, self.task = land.name, land.task()
        self.truth, self.truths = land.truth, land.truths
        self.regret, self._world = land.regret, cache(land.world)
        self.instances, self.reference = land.instances, (land.optimum, land.reference)

    def outcomes(self, models, samples, seed, count):
        """See `Landscape.outcomes`."""
        return self._world(seed).outcomes(models, samples, count)


@cache
def real_landscapes(folder):
    """Import the module of the real landscapes."""
    sys.path.append(str(folder))
    # It may import the cost models from where they were before they moved to `task`.
    sys.modules.setdefault("optuna_agenttts.cost", optuna_agenttts.task.cost)
    return importlib.import_module("real_landscapes")


@cache
def make_place(family, index, folder):
    """Return a landscape; see `landscapes.landscape`."""
    if family == "real":
        module = real_landscapes(folder)
        return Real(module.get(module.NAMES[index]))
    if family != "edges":
        return landscape(family, index)
    base, level = landscape(FAMILIES[index % 3], index), _LEVELS[index % len(_LEVELS)]
    name = "high" if level > 0.5 else "low"
    return Shifted(family, name, index, base.task, None, base.shared, base, level)


def searches(options):
    """Yield (family, index, sampler, seed) and the file of each search."""
    split = DEVELOPMENT if options.split == "development" else REPORT
    counts = COUNTS | {"playground": 1, "edges": 2 * len(_LEVELS), "real": 0}
    if options.real:
        counts["real"] = len(real_landscapes(options.real).NAMES)
    for family in options.families:
        # A split begins with the first kind.
        period = len(_LEVELS) if family == "edges" else cycle(family)
        first = 0 if family == "real" else -(-split.start // period) * period
        indices = range(first, first + counts[family])[: options.landscapes]
        seeds = split[: options.seeds * (_GRID_SEEDS if family == "playground" else 1)]
        for job in itertools.product([family], indices, options.samplers, seeds):
            yield job, options.paths[0] / f"{'-'.join(map(str, job))}.pkl"


def search(place, index, name, seed, trials):
    """Run a search as `run.one_search` does, and return its study."""
    own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % 2**31)
    sampler = make_sampler(name, place.task, own_seed, place=place)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    ran = 0
    while ran < trials and len(study.trials) < ATTEMPTS * trials:
        trial = study.ask()
        try:
            allocation = place.task.suggest(trial)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        outcomes = place.outcomes(*_arrays(place, allocation), seed, INSTANCES)
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome, step)
        study.tell(trial, float(outcomes.mean()))
        ran += 1
    return study


def _arrays(place, allocation):
    return np.array(place.task.choices(allocation)).T


def record(options):
    """Run the searches that the cache does not have."""
    options.paths[0].mkdir(parents=True, exist_ok=True)
    for (family, index, name, seed), path in searches(options):
        if not path.exists():
            trials = GRID_TRIALS if family == "playground" else TRIALS
            study = search(make_place(family, index, options.real), index, name, seed, trials)
            part = path.with_suffix(".part")
            part.write_bytes(pickle.dumps(study.trials))
            part.rename(path)
            print(path.name, file=sys.stderr)


def compare(place, trials, options):
    """Recommend from recorded trials, and compare with the truth."""
    study = optuna.create_study(direction="maximize")
    for trial in trials if options.scores_only else ():
        trial.intermediate_values = {}
    study.add_trials(trials)

    def score(allocation):
        return float(place.truth(*_arrays(place, allocation)))

    def tried(trial):
        known = place.task.choices_from_params(trial.params)
        return place.task.allocation([known[i] for i in range(len(place.task.stages))])

    takes = "margin" in signature(recommend).parameters and options.margin is not None
    start = time.perf_counter()
    found = recommend(study, place.task, **({"margin": options.margin} if takes else {}))
    seconds = time.perf_counter() - start
    truth = score(found.allocation)
    complete = [tried(trial) for trial in trials if trial.state == TrialState.COMPLETE]
    cheaper = {repr(a): a for a in complete if place.task.cost(a) < found.cost}
    regrets = [float(place.regret(score(allocation))) for allocation in complete]
    return {
        "name": place.name,
        "value": found.value,
        "interval": found.interval and list(found.interval),
        "truth": truth,
        "losses": [truth - score(tie.allocation) for tie in found.ties],
        "cheaper": [truth - score(allocation) for allocation in cheaper.values()],
        "undecided": len(getattr(found, "undecided", ())),
        "cheapest": truth - score(found.cheapest),
        "saved": 1 - place.task.cost(found.cheapest) / found.cost if found.cost else 0.0,
        "regret": float(place.regret(truth)),
        "best_trial": float(place.regret(score(tried(study.best_trial)))),
        "hit": next((i for i, r in enumerate(regrets, 1) if r < 0.1), len(regrets) + 1),
        "seconds": seconds,
    }


def replay(options):
    """Recommend from the searches of the cache, write the comparisons, and print the table."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w") as file:
        for (family, index, name, seed), path in searches(options):
            if path.exists():
                trials = pickle.loads(path.read_bytes())
                found = compare(make_place(family, index, options.real), trials, options)
                key = {"family": family, "index": index, "sampler": name, "seed": seed}
                file.write(json.dumps(key | found) + "\n")
    table([options.out], by_name=options.by_name)


def figures(rows):
    """Compute figures of a group of searches: value, format, and whether with an interval."""
    known = [(*row["interval"], row["truth"]) for row in rows if row["interval"]]
    low, high, truth = np.reshape(known, (-1, 3)).T
    losses = np.array([loss for row in rows for loss in row["losses"]])
    # Cheaper allocations that truly lose little: those named as ties, and all that were tried.
    named = np.sum(losses <= LOSSES[0])
    good = sum(loss <= LOSSES[0] for row in rows for loss in row["cheaper"])

    def mean(key):
        return np.mean([row[key] for row in rows])

    return {
        "90 % interval covers": (np.mean((low <= truth) & (truth <= high)), ".0%", True),
        "ends outside 0 to 1": (np.mean((low < 0) | (high > 1)), ".0%", False),
        "its width": (np.median(high - low), ".3f", False),
        "value minus truth": (mean("value") - mean("truth"), "+.3f", False),
        "ties per study": (len(losses) / len(rows), ".1f", True),
        **{f"losing > {loss}": (np.mean(losses > loss), ".0%", True) for loss in LOSSES},
        "mean loss": (np.mean(losses), "+.3f", True),
        "largest": (np.max(losses, initial=-1), "+.3f", False),
        "named of good": (named / good, ".0%", False),
        "undecided": (mean("undecided"), ".1f", False),
        "loss of `cheapest`": (mean("cheapest"), "+.3f", True),
        "its saving": (mean("saved"), ".0%", False),
        "trials to .10": (np.median([row["hit"] for row in rows]), ".0f", False),
        "regret": (mean("regret"), ".3f", True),
        "of best trial": (mean("best_trial"), ".3f", False),
        "ms": (1000 * np.median([row["seconds"] for row in rows]), ".0f", False),
    }


def draws(rows, rng):
    """Draw landscapes with repetition, then searches within each."""
    places = defaultdict(list)
    for row in rows:
        places[row["index"]].append(row)
    groups = list(places.values())
    for _ in range(_DRAWS):
        picked = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        yield [group[i] for group in picked for i in rng.integers(len(group), size=len(group))]


def table(files, *, by_name=False):
    """Print figures by family and sampler, with bootstrap 90 % intervals."""
    groups = defaultdict(list)
    for path in files:
        for row in read(path):
            name = f": {row['name']}" if by_name or row["family"] == "edges" else ""
            groups[row["family"] + name, row["sampler"], path.stem].append(row)
    columns = figures([row for rows in groups.values() for row in rows])
    print(f"| family | sampler | file | searches | {' | '.join(columns)} |")
    print("|" + "---|" * (len(columns) + 4))
    for names, rows in sorted(groups.items()):
        drawn = [figures(draw) for draw in draws(rows, np.random.default_rng(0))]
        cells = [*names, str(len(rows))]
        for column, (value, form, interval) in figures(rows).items():
            cells.append("" if np.isnan(value) else f"{value:{form}}")
            if interval and cells[-1]:
                low, high = np.nanpercentile([draw[column][0] for draw in drawn], [5, 95])
                cells[-1] += f" ({low:{form}} to {high:{form}})"
        print(f"| {' | '.join(cells)} |")


def main():
    """Record, replay or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("record", "replay", "table"))
    parser.add_argument("paths", nargs="+", type=Path, help="the cache; for `table`, files")
    families = (*FAMILIES, "edges", "real")
    parser.add_argument("--families", nargs="+", choices=families, default=families)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["AgentTTS"])
    parser.add_argument("--real", type=Path, help="folder of the module `real_landscapes`")
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--landscapes", type=int, help="at most so many of each family")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each landscape")
    parser.add_argument("--out", type=Path, default=Path("trust.jsonl"), help="of `replay`")
    parser.add_argument("--margin", type=float, help="of `recommend`, if it takes one")
    parser.add_argument("--scores-only", action="store_true", help="leave out the outcomes")
    parser.add_argument("--by-name", action="store_true", help="a row for each landscape")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore")
    if options.step == "table":
        table(options.paths, by_name=options.by_name)
    else:
        {"record": record, "replay": replay}[options.step](options)


if __name__ == "__main__":
    main()
