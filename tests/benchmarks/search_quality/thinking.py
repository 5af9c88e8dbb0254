"""Search pipelines whose models think more or less: beside TPE, and beside 9 unrelated choices.

``python thinking.py run FILE`` runs searches and writes a line of JSON for each; those in the file
already are not run again. ``python thinking.py table FILE [FILE ...]`` prints the tables.

Landscapes have two stages, each with three models at three thinking efforts, and a known optimum.
"unrelated" is AgentTTS on the same landscape, where the nine choices of a stage have the same
names, sizes and costs, but are not known to be efforts of three models.
"""

import argparse
import itertools
import os
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from choosing import Watch, World, _reached, append_results
from families import _SIZES
from landscapes import DEVELOPMENT, REPORT, Landscape
from mechanism import Mechanism, draw_mechanism, with_curves
from peers import make_sampler
from report import clustered
from run import read

from optuna_agenttts import Stage, Task, recommend
from optuna_agenttts.planner.kinship import Kinship
from optuna_agenttts.planner.prior import draw_curves
from optuna_agenttts.task.model import Model

KINDS = (
    "saturating",
    "the prior's form",
    "rugged",
    "a model thinks badly",
    "thinking hurts",
    "one stage gains nothing",
)
"""``saturating``: errors fall by up to a share, half of it at some length of thoughts (another
form than the planner's). The others but the second change it: ``rugged``: each choice also has an
effect (standard deviation .35, in logits); a model, or both stages where thoughts are long, lose
by thinking; one stage does not change by it."""
SEARCHES = ("TPE", "unrelated", "AgentTTS")
EFFORTS = ("off", "low", "high")
UNITS = ("trials", "spend")
INSTANCES, TARGET = 50, 0.10
_KIN = 0.6
"""Share of the variance of instances' taste for a choice that is a taste for its model."""
KEY = ("kind", "index", "search", "seed")


@dataclass(frozen=True)
class Drawn:
    """A draw of the planner's prior as a mechanism."""

    curves: object

    def scores(self, models, samples):
        """See `Mechanism.scores`."""
        shape = models.shape[:-1]
        pair = (np.reshape(array, (-1, models.shape[-1])) for array in (models, samples))
        return np.clip(self.curves.rates(*pair)[0], 0.01, 0.99).reshape(shape)


class Thinking(Landscape):
    """Landscape in which instances have a taste for models, and less so for their efforts."""

    @cache  # noqa: B019 - landscapes live as long as the process
    def _instances(self, seed, count):
        rng = np.random.default_rng([seed, self.index, 17])
        kin = np.stack([Kinship.of(stage).bases for stage in self.task.stages])
        shape = (*kin.shape, count)
        stage = np.arange(len(kin))[:, None]

        def taste():
            return np.sqrt(_KIN) * rng.normal(size=shape)[stage, kin] + np.sqrt(
                1 - _KIN
            ) * rng.normal(size=shape)

        frequency = rng.normal(0, 1.2, shape)[stage, kin]
        return rng.normal(size=count), taste(), taste(), frequency

    __hash__ = Landscape.__hash__


@cache
def landscape(index):
    """Draw a landscape; its kind follows from the index."""
    kind = KINDS[index % len(KINDS)]
    rng = np.random.default_rng([9, index])
    task = _task(rng)
    rows = rng.permutation(task.feasible.count())[:8000]
    pool = tuple(array[rows] for array in task.feasible.arrays())
    for _ in range(20_000):
        if kind == "the prior's form":
            mechanism = Drawn(draw_curves(task, rng, draws=1))
        else:
            mechanism = _mechanism(rng, kind, task)
            level = rng.uniform(0.35, 0.95)
            best = float(mechanism.quality(*pool).max())
            mechanism = mechanism.scaled(best, level, level * rng.uniform(0, 0.3))
        if _is_clear(mechanism.scores(*pool)):
            return Thinking(kind, kind, index, task, mechanism, rng.uniform(0.15, 0.6))
    raise RuntimeError(f"no draw of landscape {index} is as wanted")


def _is_clear(truth):
    """Return whether the best is .1 above the median, and few of uniform draws are close to it."""
    gap = truth.max() - np.median(truth)
    return gap > 0.1 and np.mean(truth > truth.max() - 0.1 * gap) < 0.05


def _task(rng):
    """Draw a task of two stages with three models at three efforts."""
    stages = []
    for position in range(2):
        sizes = np.sort(rng.choice(_SIZES, 3, replace=False)).tolist()
        prompt, generation = np.exp(rng.uniform(np.log([64, 16]), np.log([4096, 1024])))
        models = [Model(f"model{i}-{s:g}B", parameters=s * 1e9) for i, s in enumerate(sizes)]
        stages.append(
            Stage(
                f"stage{position + 1}",
                models=models,
                thinking=EFFORTS,
                prompt_tokens=round(prompt),
                generation_tokens=round(generation),
                max_samples=32,
            )
        )
    task = Task(name="pipeline", stages=stages)
    factor = np.exp(rng.uniform(np.log(0.1), np.log(1.5)))
    budget = max(task.budget * factor, 1.3 * task.feasible.cheapest_cost)
    return Task(name="pipeline", stages=stages, budget=budget)


def unrelated(task):
    """Return the task with choices of the same names, sizes and costs that are not kin."""
    stages = [
        replace(
            stage,
            models=[
                replace(model, thinking=None, generation_tokens=stage.sample_tokens(model))
                for model in stage.models
            ],
        )
        for stage in task.stages
    ]
    return Task(name=task.name, stages=stages, budget=task.budget)


def _mechanism(rng, kind, task):
    """Draw a pipeline, then what thinking does to the chance that one sample is good."""
    kin = [Kinship.of(stage).bases for stage in task.stages]
    sizes = [
        [s.models[list(bases).index(b)].parameters for b in range(3)]
        for s, bases in zip(task.stages, kin)
    ]
    # Models write other lengths than was expected; those of costs are the expected ones.
    actual = [np.exp(rng.normal(0, 0.4, 3))[bases] for bases in kin]
    tokens = [
        ratio * [model.thinking.tokens for model in s.models]
        for s, ratio in zip(task.stages, actual)
    ]
    drawn = draw_mechanism(rng, sizes)
    idle = int(rng.integers(2)) if kind == "one stage gains nothing" else None
    bad = int(rng.integers(3)) if kind == "a model thinks badly" else None
    onset, harm = np.exp(rng.uniform(np.log(1000), np.log(4000))), rng.uniform(0.2, 0.6)

    def skill(curve, stage):
        length, bases = tokens[stage], kin[stage]
        most = rng.uniform(0, 0.3) if kind == "thinking hurts" else rng.uniform(0.1, 0.8)
        share = np.clip(most * np.exp(rng.normal(0, 0.2, 3)), 0, 0.9)[bases]
        half = np.exp(rng.uniform(np.log(200), np.log(6000)))
        chance = curve.skill[bases]
        if stage != idle:
            rise = length / (length + half)
            chance = np.where(
                bases == bad, chance * (1 - share * rise), 1 - (1 - chance) * (1 - share * rise)
            )
        if kind == "thinking hurts":
            x = (length / onset) ** 1.5
            chance = chance * (1 - harm * x / (1 + x))
        if kind == "rugged":
            odds = chance / (1 - chance) * np.exp(rng.normal(0, 0.35, len(chance)))
            chance = odds / (1 + odds)
        return np.clip(chance, 0.02, 0.98)

    spread = {
        name: lambda curve, stage, name=name: getattr(curve, name)[kin[stage]]
        for name in ("rise", "top", "onset", "depth")
    }
    assert isinstance(drawn, Mechanism)
    return with_curves(drawn, skill=skill, **spread)


def one_search(index, search, seed, trials=50):
    """Run a search, and return its figures."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    place = landscape(index)
    task = unrelated(place.task) if search == "unrelated" else place.task
    own_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % 2**31)
    sampler = make_sampler("TPE" if search == "TPE" else "AgentTTS", task, own_seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    world = World(place.family, replace(place, task=task), seed)
    watch = Watch(world)
    instances = np.random.default_rng(own_seed).permutation(world.size)[:INSTANCES]
    found = []

    def objective(trial):
        allocation = task.suggest(trial)
        outcomes = world.outcomes(allocation, instances)
        found.append(float(place.regret(world.truth(allocation))))
        for step, outcome in enumerate(outcomes):
            trial.report(outcome, step)
        return float(np.mean(outcomes))

    while len(watch.rows) < trials and len(study.trials) < 6 * trials:
        study.optimize(objective, n_trials=1, callbacks=[watch])
    recommended = world.truth(recommend(study, task).allocation)
    regrets = np.array([float(place.regret(row[3])) for row in watch.rows])
    hits = np.array([(*row[:3], 0.0) for row in watch.rows])
    first = np.minimum.accumulate(found) < TARGET
    return {
        **dict(zip(KEY, (place.name, index, search, seed))),
        "trials": watch.trials,
        "spend": watch.spend,
        "regret": float(place.regret(recommended)),
        "clipped": float(np.minimum(regrets, 1).mean()),
        "best": float(min(found)),
        **_reached("first", hits, first),
        **_reached("stays", watch.rows, regrets < TARGET),
    }


def jobs(options):
    """Yield the searches."""
    split = DEVELOPMENT if options.split == "development" else REPORT
    first = -(-split.start // len(KINDS)) * len(KINDS)
    indices = [
        first + cycle * len(KINDS) + kind
        for cycle in range(options.landscapes)
        for kind in range(len(KINDS))
    ]
    return itertools.product(indices, options.searches, split[: options.seeds])


def run(options):
    """Run the searches that the file does not have."""
    (path,) = options.paths
    done = {tuple(record[key] for key in KEY[1:]) for record in read(path)}
    left = [job for job in jobs(options) if job not in done]
    append_results(path, one_search, [(*job, options.trials) for job in left], options.workers)
    table(options)


def table(options):
    """Print a row for each kind and search, and paired comparisons."""
    records = [record for path in options.paths for record in read(path)]
    rng = np.random.default_rng(0)
    heads = (
        "landscapes", "search", "trials to .10", "spend to .10", "trials until it stays",
        "spend until it stays", "stays", "regret after each trial, at most 1", "regret",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for kind in (*KINDS, None):
        rows = [r for r in records if kind in (r["kind"], None)]
        for search in SEARCHES:
            if own := [r for r in rows if r["search"] == search]:
                count = len({r["index"] for r in own})
                print(f"| {kind or 'all'} ({count}) | {search} | {' | '.join(_cells(own, rng))} |")
    print("\n| AgentTTS beside | what | fewer | equal | more | ratio |\n|---|---|---|---|---|---|")
    for other, what in itertools.product(
        SEARCHES[:2], itertools.product(("first", "stays"), UNITS)
    ):
        own, others = (
            {(r["index"], r["seed"]): r for r in records if r["search"] == search}
            for search in ("AgentTTS", other)
        )
        keys = sorted(set(own) & set(others))
        if keys:
            logs = np.array([_log_ratio(own[key], others[key], *what) for key in keys])
            found = clustered(logs, [key[0] for key in keys], rng, np.mean)
            shares = [f"{np.mean(np.sign(logs) == sign):.0%}" for sign in (-1, 0, 1)]
            cells = [other, " ".join(what), *shares]
            print(
                f"| {' | '.join(cells)} | {'{:.2f} ({:.2f} to {:.2f})'.format(*np.exp(found))} |"
            )


def _log_ratio(record, other, what, unit):
    """Return the logarithm of how much more was used than by another search of the landscape.

    A search that never reached the target counts as if it had used all that either of them did.
    """
    most = max(record[unit], other[unit])
    used = [min(found[f"{what}_{unit}"], most) for found in (record, other)]
    return float(np.log(used[0] / used[1]))


def _cells(rows, rng):
    """Return the cells of one row: medians with bootstrap 90 % intervals, means of regrets."""
    at = [row["index"] for row in rows]

    def shown(key, form, statistic=np.median):
        middle, low, high = clustered([row[key] for row in rows], at, rng, statistic)
        cells = ["never" if np.isinf(x) else format(x, form) for x in (middle, low, high)]
        return "never" if np.isinf(low) else "{} ({} to {})".format(*cells)

    return [
        shown("first_trials", ".0f"),
        shown("first_spend", ".0f"),
        shown("stays_trials", ".0f"),
        shown("stays_spend", ".0f"),
        f"{np.mean([np.isfinite(row['stays_trials']) for row in rows]):.0%}",
        shown("clipped", ".3f", np.mean),
        shown("regret", ".3f", np.mean),
    ]


def main():
    """Run searches, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("run", "table"))
    parser.add_argument("paths", nargs="+", type=Path, help="the file; for `table`, files")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=SEARCHES)
    parser.add_argument("--landscapes", type=int, default=4, help="of each kind")
    parser.add_argument("--seeds", type=int, default=1, help="searches of each landscape")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    {"run": run, "table": table}[options.step](options)


if __name__ == "__main__":
    main()
