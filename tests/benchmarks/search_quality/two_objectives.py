"""Compare searches for good scores at every cost: the area under what they have tried.

``python two_objectives.py --out FILE [--families ...] [--samplers ...] [--seeds N]`` runs what is
missing; ``python two_objectives.py --table FILE [FILE ...]`` prints tables.

Objectives return the mean of 50 outcomes and the task's cost. All samplers search the same bounded
ranges, those of `Task.suggest`; or, with ``--fixed``, ranges that do not depend on the parameters
before, where trials over the budget are pruned and do not count.

The area under the front of the true scores of the tried allocations, from a score of 0 and up to
the budget, is a hypervolume. Its loss is given: the area under the best true scores (of all
allocations, or of 100,000 drawn ones and all that any search tried) less that of a search, as a
share of it. The cost axis is linear from 0, or logarithmic from the cheapest allocation (from a
thousandth of the budget if that is more).

With ``--floors``, searches have one objective: the cheapest allocation that reaches a score, three
quarters of the way from the median to the best one. The figure is the cost of the cheapest tried
allocation that truly reaches it, divided by the lowest cost of any.
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from feasible_draws import draw_uniform
from landscapes import DEVELOPMENT, FAMILIES, REPORT
from optuna.trial import TrialState
from run import ATTEMPTS, read
from trust import make_place, real_landscapes

from optuna_agenttts import AgentTTSSampler

MARKS = (15, 30, 50)
INSTANCES = 50
ENUMERATED = 100_000
FLOOR = 0.75
"""Share of the way from the median to the best score."""
SAMPLERS = {
    "TPE": lambda task, seed, floor: optuna.samplers.TPESampler(seed=seed),
    "NSGA-II": lambda task, seed, floor: optuna.samplers.NSGAIISampler(seed=seed),
    "GP": lambda task, seed, floor: optuna.samplers.GPSampler(seed=seed),
    "AgentTTS": lambda task, seed, floor: AgentTTSSampler(
        task, seed=seed, explain=False, at_least=floor
    ),
    "AgentTTS, best score": lambda task, seed, floor: AgentTTSSampler(
        task, seed=seed, explain=False
    ),
}


def axis(costs, low, high, *, log):
    """Return positions of costs on an axis from 0 to 1."""
    if not log:
        return np.clip(np.asarray(costs) / high, 0, 1)
    low = max(low, high / 1000)
    return np.clip(np.log(np.maximum(costs, low) / low) / np.log(high / low), 0, 1)


def area(positions, scores):
    """Return the area under the front, from 0 to 1."""
    order = np.argsort(positions, kind="stable")
    front = np.maximum.accumulate(np.asarray(scores)[order])
    return float(np.diff(np.asarray(positions)[order], append=1.0) @ front)


@cache
def everything(family, index, folder):
    """Return costs and true scores of the allocations that are known."""
    place = make_place(family, index, folder)
    feasible = place.task.feasible
    arrays = feasible.arrays(ENUMERATED)
    if arrays is None:
        arrays = draw_uniform(feasible, np.random.default_rng(0), ENUMERATED)
    models, samples = arrays
    return feasible.costs_of(models, samples), place.truths(models, samples)


def suggest_fixed(task, trial):
    """Suggest an allocation from ranges that do not depend on what was suggested before.

    Raises:
        optuna.TrialPruned: It is over the budget.
    """
    choices = []
    for stage, rows in zip(task.stages, task.feasible.costs):
        rest = task.feasible.cheapest_cost - min(float(row[0]) for row in rows)
        fitting = [int(np.searchsorted(row, task.budget - rest, side="right")) for row in rows]
        names = [model.name for model in stage.models]
        model = names.index(trial.suggest_categorical(stage.model_parameter, names))
        most = max(1, *fitting)
        choices.append((model, trial.suggest_int(stage.samples_parameter, 1, most, log=True)))
    if not task.feasible.fits(choices):
        raise optuna.TrialPruned
    return task.allocation(choices)


def one_search(family, index, name, seed, options):
    """Run one search, and return its figures."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    place = make_place(family, index, options.real)
    task = place.task
    best, median = place.reference
    floor = median + FLOOR * (best - median) if options.floors else None
    own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % 2**31)
    sampler = SAMPLERS[name](task, own_seed, floor)
    several = not options.floors
    study = optuna.create_study(
        directions=["maximize", "minimize"][: 1 + several], sampler=sampler
    )
    costs, truths, seconds = [], [], []
    while len(costs) < MARKS[-1] and len(study.trials) < ATTEMPTS * MARKS[-1]:
        start = time.perf_counter()
        trial = study.ask()
        try:
            allocation = suggest_fixed(task, trial) if options.fixed else task.suggest(trial)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        seconds.append(time.perf_counter() - start)
        models, samples = np.array(task.choices(allocation)).T
        outcomes = place.outcomes(models, samples, seed, INSTANCES)
        if not several:
            for step, outcome in enumerate(outcomes.tolist()):
                trial.report(outcome, step)
        cost, score = float(task.cost(allocation)), float(outcomes.mean())
        study.tell(trial, (score, cost) if several else score)
        costs.append(cost)
        truths.append(float(place.truth(models, samples)))
    return {
        "family": family,
        "index": index,
        "sampler": name + options.label,
        "seed": seed,
        "name": place.name,
        "floor": floor,
        "costs": costs,
        "truths": [round(truth, 6) for truth in truths],
        "seconds": round(float(np.mean(seconds)), 5),
    }


def losses(record, log, folder, others):
    """Return the loss of a search at each of `MARKS`."""
    family, index = record["family"], record["index"]
    costs, truths = everything(family, index, folder)
    task = make_place(family, index, folder).task
    ends = task.feasible.cheapest_cost, task.budget
    whole = area(
        axis(np.concatenate([costs, *(o["costs"] for o in others)]), *ends, log=log),
        np.concatenate([truths, *(o["truths"] for o in others)]),
    )
    found = []
    for mark in MARKS:
        own = axis(record["costs"][:mark], *ends, log=log), record["truths"][:mark]
        found.append(1 - area(*own) / whole)
    return found


def excesses(record, folder, others):
    """Return the cost of the cheapest tried one that reaches the floor, relative to the lowest."""
    costs, truths = everything(record["family"], record["index"], folder)
    costs = np.concatenate([costs, *(o["costs"] for o in others)])
    truths = np.concatenate([truths, *(o["truths"] for o in others)])
    lowest = costs[truths >= record["floor"]].min()
    found = []
    for mark in MARKS:
        pairs = zip(record["costs"][:mark], record["truths"][:mark])
        reach = [cost for cost, truth in pairs if truth >= record["floor"]]
        found.append(min(reach, default=np.inf) / lowest)
    return found


def table(options):
    """Print tables of what was written."""
    records = [r for path in options.table for r in read(path)]
    places = {}
    for record in records:
        places.setdefault((record["family"], record["index"]), []).append(record)
    for family in (*FAMILIES, "real"):
        own = [r for r in records if r["family"] == family]
        if not own:
            continue
        count, seeds = len({r["index"] for r in own}), len({r["seed"] for r in own})
        print(f"\n{family}: {count} landscapes, {seeds} seeds\n")
        floors = own[0]["floor"] is not None
        what = ("cost",) if floors else ("linear", "log")
        heads = [f"{w}, {mark}" for w in what for mark in MARKS]
        print(f"| sampler | searches | {' | '.join(heads)} | ask, ms |")
        print("|" + "---|" * (3 + len(heads)))
        for sampler in dict.fromkeys(r["sampler"] for r in own):
            rows = [r for r in own if r["sampler"] == sampler]
            cells = []
            for log in (False,) if floors else (False, True):
                figures = []
                for r in rows:
                    others = places[r["family"], r["index"]]
                    if floors:
                        figures.append(excesses(r, options.real, others))
                    else:
                        figures.append(losses(r, log, options.real, others))
                middle = np.median if floors else np.mean
                form = ".2f" if floors else ".3f"
                cells += [f"{x:{form}}" for x in middle(np.array(figures), axis=0)]
            took = 1000 * np.mean([r["seconds"] for r in rows])
            print(f"| {sampler} | {len(rows)} | {' | '.join(cells)} | {took:.0f} |")


def main():
    """Run what is missing, or print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", nargs="+", type=Path)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS)[:-1])
    parser.add_argument("--landscapes", type=int, default=3, help="of each family")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--real", help="folder of the module `real_landscapes`; see `trust.py`")
    parser.add_argument("--label", default="", help="added to the samplers' names")
    parser.add_argument("--fixed", action="store_true", help="suggest from fixed ranges")
    parser.add_argument("--floors", action="store_true")
    options = parser.parse_args()
    if options.table:
        table(options)
        return
    split = DEVELOPMENT if options.split == "development" else REPORT
    start = -(-split.start // 24) * 24
    done = {(r["family"], r["index"], r["sampler"], r["seed"]) for r in read(options.out)}
    for seed, family in itertools.product(split[: options.seeds], options.families):
        first, count = start, options.landscapes
        if family == "playground":
            count = 1
        elif family == "real":
            first, count = 0, len(real_landscapes(options.real).NAMES)
        for index, name in itertools.product(range(first, first + count), options.samplers):
            if (family, index, name + options.label, seed) not in done:
                record = one_search(family, index, name, seed, options)
                with options.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(family, index, name, seed, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
