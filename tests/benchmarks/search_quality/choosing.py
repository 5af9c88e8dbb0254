"""Search as a user would, with confirmation and without, at equal numbers of evaluations.

``python choosing.py run FILE`` runs searches and writes a line of JSON for each; those in the file
already are not run again. ``python choosing.py table FILE [FILE ...]`` prints the table.

A search may run the pipeline 2,500 times on one instance. Without confirmation that is 50 trials
on 50 instances, then `recommend`. With it, it is one call of `search`, which splits the instances
itself. After each trial the recommendation is compared with the truth: a user does not know when a
good allocation was tried, but gets one when the recommendation stays good.

Families are those of `landscapes`; ``real``, recorded outcomes of language models, needs
``--real``, the folder of the module `real_landscapes`.
"""

import argparse
import itertools
import json
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from families import cycle
from landscapes import DEVELOPMENT, FAMILIES, REPORT, VERSION
from optuna.trial import TrialState
from peers import make_sampler
from report import clustered
from run import COUNTS, read
from trust import make_place, real_landscapes

from optuna_agenttts import recommend, search
from optuna_agenttts.planner.kernels import Surrogate
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.study.archive import Archive

EVALUATIONS, INSTANCES = 2500, 50  # Of a search; of a trial without confirmation.
POPULATION = {"playground": 200}  # Instances that a user has.
_POPULATION = 800  # Of other families: those of CRUXEval.
REGRET, LOST, BAD = 0.10, 0.02, 0.3  # Good recommendations, in regret and in score; bad ones.
KEY = ("version", "family", "index", "sampler", "confirmed", "seed")


class World:
    """Outcomes of a landscape's instances, which a user sees, by number.

    Args:
        family: Family of the landscape.
        place: The landscape.
        seed: Draws the instances.
    """

    def __init__(self, family, place, seed):
        self.family, self.place, self.seed = family, place, seed
        self.size = POPULATION.get(family, _POPULATION)
        if family == "real":
            self.size = place.instances

    def outcomes(self, allocation, instances):
        """Run an allocation on some instances."""
        found = self.place.outcomes(*self.arrays(allocation), self.seed, self.size)
        return found[list(instances)].tolist()

    def truth(self, allocation):
        """Return the true score of an allocation."""
        return float(self.place.truth(*self.arrays(allocation)))

    def arrays(self, allocation):
        """Return the models and samples of an allocation."""
        return np.array(self.place.task.choices(allocation)).T


class Watch:
    """Callback that compares the recommendation with the truth after each trial.

    It chooses as `recommend` does, except for allocations with equal outcomes.
    """

    def __init__(self, world):
        self.world, task = world, world.place.task
        self.archive = Archive(task, maximize=True)
        self.surrogate = Surrogate(task, np.random.default_rng(0))
        self.evaluations, self.spend, self.trials = 0, 0.0, 0
        self.rows = []

    def __call__(self, study, trial):
        """See the class."""
        task, count = self.world.place.task, len(trial.intermediate_values)
        known = task.choices_from_params(trial.params)
        if trial.state != TrialState.COMPLETE:
            return
        allocation = task.allocation([known[i] for i in range(len(task.stages))])
        self.evaluations += count
        self.spend += count * task.cost(allocation) / task.budget
        evidence = self.archive.read(study.get_trials(deepcopy=False))
        self.trials = int((evidence.block_of_rows() == 0).sum())
        keys = list(dict.fromkeys(evidence.choices))
        best = 0
        if evidence.scale.informative:
            posterior = Posterior(self.surrogate, evidence)
            best = int(np.argmax(posterior.at(self.surrogate.points_of(keys)).mean()))
        truth = self.world.truth(task.allocation(keys[best]))
        self.rows.append((self.evaluations, self.spend, self.trials, truth))


def one_search(family, index, name, confirmed, seed, folder):
    """Run a search, and return its figures."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    place = make_place(family, index, folder)
    world = World(family, place, seed)
    own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % 2**31)
    sampler = make_sampler(name, place.task, own_seed, place=place)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    watch = Watch(world)
    if confirmed:
        found = search(
            study,
            world.outcomes,
            range(world.size),
            evaluations=EVALUATIONS,
            task=place.task,
            seed=own_seed,
            callbacks=[watch],
        ).recommendation
    else:
        instances = np.random.default_rng(own_seed).permutation(world.size)[:INSTANCES]

        def objective(trial):
            outcomes = world.outcomes(place.task.suggest(trial), instances)
            for step, outcome in enumerate(outcomes):
                trial.report(outcome, step)
            return float(np.mean(outcomes))

        while watch.evaluations < EVALUATIONS and len(study.trials) < EVALUATIONS:
            study.optimize(objective, n_trials=1, callbacks=[watch])
        found = recommend(study, place.task)
    truth, low, high = world.truth(found.allocation), *found.interval
    best = float(place.reference[0])
    rows = [*watch.rows, (*watch.rows[-1][:3], truth)]
    regrets = [float(place.regret(row[3])) for row in rows]
    return {
        "version": VERSION,
        **dict(zip(KEY[1:], (family, index, name, confirmed, seed))),
        "name": place.name,
        "trials": watch.trials,
        "evaluations": watch.evaluations,
        "spend": watch.spend,
        "regret": regrets[-1],
        "lost": best - truth,
        "error": found.value - truth,
        "width": high - low,
        "covered": bool(low <= truth <= high),
        **_reached("regret", rows, np.array(regrets) < REGRET),
        **_reached("score", rows, np.array([best - row[3] for row in rows]) < LOST),
    }


def _reached(what, rows, good):
    """Return what was used until the recommendation stayed good, or infinity."""
    bad = np.flatnonzero(~good)
    first = int(bad[-1]) + 1 if len(bad) else 0
    used = rows[first][:3] if first < len(rows) else (np.inf,) * 3
    return {f"{what}_{key}": value for key, value in zip(("evaluations", "spend", "trials"), used)}


def jobs(options):
    """Yield the searches."""
    split = DEVELOPMENT if options.split == "development" else REPORT
    counts = COUNTS | {"playground": 1, "real": 0}
    if options.real:
        counts["real"] = len(real_landscapes(options.real).NAMES)
    for family in options.families:
        # A split begins with the first kind.
        first = 0 if family == "real" else -(-split.start // cycle(family)) * cycle(family)
        indices = range(first, first + counts[family])[: options.landscapes]
        seeds = split[: options.seeds * (4 if family == "playground" else 1)]
        yield from itertools.product(
            [family], indices, options.samplers, options.confirmed, seeds, [options.real]
        )


def append_results(path, search, jobs, workers):
    """Append the record of each search to a file as it ends.

    Args:
        path: Path of the file.
        search: Function that returns the record of a job.
        jobs: Arguments of each call.
        workers: Number of processes.
    """
    with ProcessPoolExecutor(workers) as pool, path.open("a") as file:
        running = {pool.submit(search, *job) for job in jobs}
        for number, future in enumerate(as_completed(running), 1):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()
            if number % 20 == 0:
                print(f"{number} of {len(jobs)}", file=sys.stderr)


def run(options):
    """Run the searches that the file does not have."""
    (path,) = options.paths
    done = {tuple(record.get(key) for key in KEY) for record in read(path)}
    left = [job for job in jobs(options) if (VERSION, *job[:5]) not in done]
    append_results(path, one_search, left, options.workers)
    table(options)


def table(options):
    """Print a row for each family and way of searching."""
    records = [record for path in options.paths for record in read(path)]
    records = [record for record in records if record["version"] == VERSION]
    rng = np.random.default_rng(0)
    print(
        f"| landscapes | search | recommendation stays within {REGRET:.2f} | after evaluations "
        f"| after spend | within {LOST:.2f} of score, after spend | regret | score lost "
        f"| regret above {BAD} | 90 % interval covers | trials |"
    )
    print("|" + "---|" * 11)
    for family in ("real", *FAMILIES):
        for sampler, confirmed in itertools.product(("TPE", "AgentTTS"), (False, True)):
            key = family, sampler, confirmed
            rows = [r for r in records if (r["family"], r["sampler"], r["confirmed"]) == key]
            if rows:
                print(f"| {' | '.join(_cells(rows, family, sampler, confirmed, rng))} |")


def _cells(rows, family, sampler, confirmed, rng):
    """Return the cells of one row: medians and means with bootstrap 90 % intervals."""
    at = [row["index"] for row in rows]

    def shown(key, form, statistic):
        middle, low, high = clustered([row[key] for row in rows], at, rng, statistic)
        cells = ["never" if np.isinf(x) else format(x, form) for x in (middle, low, high)]
        return "never" if np.isinf(low) else "{} ({} to {})".format(*cells)

    def share(found):
        return f"{np.mean(found):.0%}"

    return [
        f"{family} ({len(set(at))})",
        f"{sampler}, confirmed" if confirmed else sampler,
        share([np.isfinite(row["regret_evaluations"]) for row in rows]),
        shown("regret_evaluations", ".0f", np.median),
        shown("regret_spend", ".0f", np.median),
        shown("score_spend", ".0f", np.median),
        shown("regret", ".3f", np.mean),
        shown("lost", ".3f", np.mean),
        share([row["regret"] > BAD for row in rows]),
        share([row["covered"] for row in rows]),
        f"{np.mean([row['trials'] for row in rows]):.0f}",
    ]


def main():
    """Run searches, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("run", "table"))
    parser.add_argument("paths", nargs="+", type=Path, help="the file; for `table`, files")
    families = (*FAMILIES, "real")
    parser.add_argument("--families", nargs="+", choices=families, default=FAMILIES)
    parser.add_argument("--samplers", nargs="+", default=["TPE", "AgentTTS"])
    parser.add_argument("--confirmed", nargs="+", type=json.loads, default=[False, True])
    parser.add_argument("--real", type=Path, help="folder of the module `real_landscapes`")
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--landscapes", type=int, help="at most so many of each family")
    parser.add_argument("--seeds", type=int, default=5, help="four times as many on the grid")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    {"run": run, "table": table}[options.step](options)


if __name__ == "__main__":
    main()
