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

With ``--measured``, the second value is no cost that the task can compute, a latency, say: the
task's cost, times a factor for each stage and model (lognormal, sd .7), or plus an overhead of
each stage, times lognormal noise. With "at once", n samples take n^.3 times as long as one. The
axis is that of the values without noise. "AgentTTS, task's cost" returns the task's cost instead.

With ``--floors``, searches look for the cheapest allocation that reaches a score, three quarters
of the way from the median to the best. Figures are the cost of the cheapest tried allocation that
truly reaches it, divided by the lowest cost of any; how often `recommend(at_least=)` names one;
and how often that one truly reaches it. TPE minimizes the cost with the score as a constraint, and
names the cheapest trial that meets it.
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

from optuna_agenttts import AgentTTSSampler, NoEvidenceError, recommend

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
    "AgentTTS, task's cost": lambda task, seed, floor: AgentTTSSampler(
        task, seed=seed, explain=False
    ),
}
MEASURED = {"none": 0.0, "factors": 0.1, "noisy factors": 0.3, "overheads": 0.1, "at once": 0.1}
"""Kinds of second values, and the standard deviation of the logarithm of their noise."""


@cache
def second_value(family, index, folder, kind):
    """Return a function from allocations to second values without noise."""
    feasible, rng = make_place(family, index, folder).task.feasible, np.random.default_rng(index)
    scale = np.sqrt(feasible.cheapest_cost * feasible.limit)
    overheads = scale * rng.dirichlet(np.ones(len(feasible.costs))) * (kind == "overheads")
    spread, power = 0.7 * (kind not in ("none", "overheads")), -0.7 * (kind == "at once")
    factors = [np.exp(spread * rng.normal(size=len(rows))) for rows in feasible.costs]

    def value(models, samples):
        total = overheads.sum()
        for stage, rows in enumerate(feasible.costs):
            costs = np.stack([factor * row for factor, row in zip(factors[stage], rows)])
            found = costs[models[..., stage], samples[..., stage] - 1]
            total = total + found * samples[..., stage] ** power
        return total

    return value


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
def everything(family, index, folder, kind):
    """Return costs and true scores of the allocations that are known, and the costs' limit."""
    place = make_place(family, index, folder)
    feasible = place.task.feasible
    arrays = feasible.arrays(ENUMERATED)
    if arrays is None:
        arrays = draw_uniform(feasible, np.random.default_rng(0), ENUMERATED)
    models, samples = arrays
    costs = second_value(family, index, folder, kind)(models, samples)
    ends = costs.min(), feasible.limit if kind == "none" else costs.max()
    return costs, place.truths(models, samples), ends


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
    cheapest = options.floors and name == "TPE"
    if cheapest:
        sampler = optuna.samplers.TPESampler(
            seed=own_seed,
            constraints_func=lambda trial: [floor - trial.user_attrs.get("score", 0.0)],
        )
    several = not options.floors
    directions = ["minimize"] if cheapest else ["maximize", "minimize"][: 1 + several]
    study = optuna.create_study(directions=directions, sampler=sampler)
    value = second_value(family, index, options.real, options.measured)
    noise = np.random.default_rng([seed, index])
    costs, truths, seconds, named = [], [], [], []
    began = time.process_time()
    while len(costs) < MARKS[-1] and len(study.trials) < ATTEMPTS * MARKS[-1]:
        start = time.perf_counter()
        if time.process_time() - began > options.seconds:
            break
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
        cost, score = float(value(models[None], samples[None])[0]), float(outcomes.mean())
        second = cost * float(np.exp(MEASURED[options.measured] * noise.normal()))
        if name == "AgentTTS, task's cost":
            second = float(task.cost(allocation))
        trial.set_user_attr("score", score)
        study.tell(trial, cost if cheapest else (score, second) if several else score)
        costs.append(cost)
        truths.append(float(place.truth(models, samples)))
        if options.floors and len(costs) in MARKS:
            named.append(name_reaching(study, task, floor, cheapest))
    return {
        "family": family,
        "index": index,
        "sampler": name + options.label,
        "seed": seed,
        "name": place.name,
        "floor": floor,
        "measured": options.measured,
        "named": [
            choices
            and [float(place.truth(*np.array(choices).T)), float(task.feasible.cost(choices))]
            for choices in named
        ],
        "costs": costs,
        "truths": [round(truth, 6) for truth in truths],
        "seconds": round(float(np.mean(seconds)), 5),
    }


def name_reaching(study, task, floor, cheapest):
    """Return the allocation that is named for a floor, or None."""
    if not cheapest:
        try:
            return task.choices(recommend(study, task, at_least=floor).allocation)
        except NoEvidenceError:
            return None
    complete = study.get_trials(states=[TrialState.COMPLETE])
    reach = [trial for trial in complete if trial.user_attrs["score"] >= floor]
    if not reach:
        return None
    params = min(reach, key=lambda trial: trial.value).params
    names = [(stage.model_parameter, stage.samples_parameter) for stage in task.stages]
    models = [[model.name for model in stage.models] for stage in task.stages]
    return [(own.index(params[m]), params[n]) for own, (m, n) in zip(models, names)]


def losses(record, log, folder, others):
    """Return the loss of a search at each of `MARKS`."""
    family, index = record["family"], record["index"]
    costs, truths, ends = everything(family, index, folder, record.get("measured", "none"))
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
    costs, truths, _ = everything(record["family"], record["index"], folder, "none")
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
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS)[:4])
    parser.add_argument("--landscapes", type=int, default=3, help="of each family")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--real", help="folder of the module `real_landscapes`; see `trust.py`")
    parser.add_argument("--label", default="", help="added to the samplers' names")
    parser.add_argument("--fixed", action="store_true", help="suggest from fixed ranges")
    parser.add_argument("--floors", action="store_true")
    parser.add_argument("--measured", choices=MEASURED, default="none")
    parser.add_argument(
        "--seconds",
        type=float,
        default=np.inf,
        help="of processor time, after which a search ends",
    )
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
