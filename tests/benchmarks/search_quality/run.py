"""Search simulated landscapes with a known optimum, and write each search's figures down.

``python tests/benchmarks/search_quality/run.py --out FILE [--families ...] [--samplers ...]``

A search is 50 trials on 50 simulated instances; a trial's value is the mean outcome. Trials that
`Task.suggest` prunes, because the models alone are over the budget, cost nothing and do not count
(up to 250 of them): in a user's study they would, to the disadvantage of samplers that do not know
the budget. One line of JSON is written for each search, keyed by family, index of the landscape,
sampler and seed; those in the file already are not run again. `report.py` makes tables of it.
"""

import argparse
import itertools
import json
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from families import cycle
from landscapes import DEVELOPMENT, FAMILIES, REPORT, VERSION, landscape
from peers import SAMPLERS, TALKING, make_sampler

from optuna_agenttts import StopWhenSettled, guidelines, recommend

KEY = ("version", "family", "index", "sampler", "seed")
TARGETS = (0.10, 0.05)
ATTEMPTS = 6
COUNTS = {"calibrated": 6, "random": 12, "violating": 8}
"""Landscapes of each family."""


PRUNERS = {"none": optuna.pruners.NopPruner, "Wilcoxon": optuna.pruners.WilcoxonPruner}


def one_search(family, index, name, seed, trials, instances, llm=None, pruner="none", gain=None):
    """Run one search; returns its figures. See `make_sampler` for `llm`.

    A trial that the pruner stops has run, on some of the instances; an allocation counts as found
    all the same. With a gain, the search ends by `StopWhenSettled`.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    place = landscape(family, index)
    task = place.task
    # Of its own for each landscape: else the first random trials were the same in all of them.
    own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % 2**31)
    sampler = make_sampler(name, task, own_seed, place=place, llm=llm)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=PRUNERS[pruner]())
    regrets, spend, seconds, stopped, shares = [], [], [], 0, []
    settled = []
    study.stop = lambda: settled.append(True)
    stop = StopWhenSettled(gain) if gain else lambda study, trial: None
    while len(regrets) < trials and len(study.trials) < ATTEMPTS * trials and not settled:
        start = time.perf_counter()
        trial = study.ask()
        try:
            allocation = task.suggest(trial)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            continue
        seconds.append(time.perf_counter() - start)
        models, samples = np.array(task.choices(allocation)).T
        outcomes = place.outcomes(models, samples, seed, instances)
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome, step)
            # Its test takes as long as an ask; outcomes come in fives where requests are parallel.
            if step % 5 == 4 and step + 1 < instances and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                stopped += 1
                break
        else:
            study.tell(trial, float(outcomes.mean()))
        shares.append((step + 1) / instances)
        regrets.append(float(place.regret(place.truth(models, samples))))
        spend.append(shares[-1] * task.cost(allocation))
        stop(study, study.trials[-1])
    best_so_far, spent = np.minimum.accumulate([*regrets, np.inf]), np.cumsum([*spend, 0.0])
    record = {
        "version": VERSION,
        "family": family,
        "index": index,
        "sampler": name,
        "seed": seed,
        "name": place.name,
        "trials": trials,
        "instances": instances,
        "budget": task.budget,
        "reference": [round(value, 5) for value in place.reference],
        "ran": len(regrets),
        "pruned": len(study.trials) - len(regrets),
        "stopped": stopped,
        "share": round(float(np.mean(shares)), 4) if shares else None,
        "spend": round(float(spent[-1]), 2),
        "seconds": round(float(np.mean(seconds)), 5) if seconds else None,
        "requests": sum(planned.requests for planned in guidelines(study)),
        "tokens": sum(p.prompt_tokens + p.completion_tokens for p in guidelines(study)),
        "curve": [round(float(r), 4) for r in best_so_far[:-1]],
    }
    for target in TARGETS:
        hits = np.flatnonzero(best_so_far < target)
        record[f"hit{target:.2f}"] = int(hits[0]) + 1 if len(hits) else trials + 1
        record[f"spend{target:.2f}"] = round(float(spent[hits[0]]), 2) if len(hits) else None
    return record | _winners(study, place)


def _winners(study, place):
    """Regrets of what is recommended and of the best trial."""

    def truth(allocation):
        return float(place.truth(*np.array(place.task.choices(allocation)).T))

    if not any(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials):
        return dict.fromkeys(("recommended", "best_trial", "covered", "width", "error"))
    found = recommend(study, place.task)
    known = place.task.choices_from_params(study.best_params)
    luckiest = place.task.allocation([known[i] for i in range(len(place.task.stages))])
    low, high = found.interval
    recommended = truth(found.allocation)
    return {
        "recommended": round(float(place.regret(recommended)), 4),
        "best_trial": round(float(place.regret(truth(luckiest))), 4),
        "covered": bool(low <= recommended <= high),
        "width": round(high - low, 4),
        "error": round(found.value - recommended, 4),
    }


def read(path):
    """Read the records of a file, skipping any partial line left by a killed run."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records += [json.loads(line)] if line else []
        except json.JSONDecodeError:
            print(f"{path}: skipped {line[:60]!r}", file=sys.stderr)
    return records


def main():
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["TPE", "AgentTTS"])
    parser.add_argument(
        "--landscapes", type=int, help="of each family; default: 6 calibrated, 12, 8"
    )
    parser.add_argument("--seeds", type=int, default=3, help="searches of each landscape")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--instances", type=int, default=50)
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--label", default="", help="added to the sampler's name in the records")
    parser.add_argument("--gain", type=float, help="end searches by StopWhenSettled")
    parser.add_argument("--pruner", choices=PRUNERS, default="none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--llm",
        help="language model behind the methods that talk to one: a model id of the Hub or a "
        "server's URL; default: their scripted stand-in. Their searches are recorded under names "
        "with it",
    )
    options = parser.parse_args()
    split = DEVELOPMENT if options.split == "development" else REPORT
    jobs = []
    for family in options.families:
        count = 1 if family == "playground" else options.landscapes or COUNTS[family]
        # A split begins with the first kind.
        first = -(-split.start // cycle(family)) * cycle(family)
        indices, seeds = range(first, first + count), split[: options.seeds]
        jobs += itertools.product([family], indices, options.samplers, seeds)

    def named(sampler):
        model = f" ({options.llm})" if options.llm and sampler in TALKING else ""
        pruned = "" if options.pruner == "none" else f", {options.pruner}"
        ended = f", gain {options.gain:g}" if options.gain else ""
        return sampler + model + pruned + ended + options.label

    def label(job):
        return (VERSION, job[0], job[1], named(job[2]), job[3])

    done = {tuple(record.get(k) for k in KEY) for record in read(options.out)}
    jobs = [job for job in jobs if label(job) not in done]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    half = options.out.exists() and not options.out.read_text().endswith("\n")
    start = time.monotonic()
    with ProcessPoolExecutor(options.workers) as pool, options.out.open("a") as file:
        file.write("\n" * half)
        running = {
            pool.submit(
                one_search,
                *job,
                options.trials,
                options.instances,
                options.llm,
                options.pruner,
                options.gain,
            )
            for job in jobs
        }
        for number, future in enumerate(as_completed(running), 1):
            record = future.result()
            record["sampler"] = named(record["sampler"])
            file.write(json.dumps(record) + "\n")
            file.flush()
            if number % 20 == 0 or number == len(jobs):
                passed = time.monotonic() - start
                print(f"{number} of {len(jobs)} searches, {passed:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
