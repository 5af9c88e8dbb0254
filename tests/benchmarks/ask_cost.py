"""What `ask` and its suggestions cost beside TPE, in one process: medians and their ratio.

``python tests/benchmarks/ask_cost.py [--trials 1000] [--asks 40] [--large] [--outcomes 50]``

``--explain`` measures instead what the explanation of a study for optuna-dashboard costs: searches
with it and without it, in turn, on SQLite, whose trials seem to take ten seconds each.

``--shapes`` prints a row for each of some large tasks instead: seconds of the processor for
construction, count, first ask, later asks (medians up to 20 and up to 200 trials), `recommend` and
the agent's facts.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
import optuna

from optuna_agenttts import AgentTTSSampler, Explain, Model, Stage, Task, recommend
from optuna_agenttts.agent.facts import fit_facts
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.study.archive import Archive


def make_task(*, large=False):
    """Two stages of three models, as in the paper's 2WikiMultiHopQA, or four of four."""

    def stage(name, sizes, prompt, generation):
        models = [Model(f"{name}-{size}B", parameters=size * 1e9) for size in sizes]
        return Stage(name, models=models, prompt_tokens=prompt, generation_tokens=generation)

    if large:
        names = ("plan", "write", "review", "test")
        return Task(
            name="large", stages=[stage(n, (1, 8, 32, 70), 512, 128) for n in names], budget=2000
        )
    return Task(
        name="2wiki",
        stages=[stage("retrieval", (7, 32, 72), 2048, 128), stage("answer", (3, 8, 70), 256, 64)],
    )


def filled_study(task, sampler, trials, outcomes):
    """Create an in-memory study with random past trials."""
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    rng = np.random.default_rng(0)

    def objective(trial):
        allocation = task.suggest(trial)
        spent = sum(np.log(setting.samples) for setting in allocation.values())
        rate = float(np.clip(0.3 + 0.05 * spent + rng.normal(0, 0.05), 0, 1))
        if not outcomes:
            return rate
        found = (rng.random(outcomes) < rate).astype(float)
        for step, outcome in enumerate(found.tolist()):
            trial.report(outcome, step)
        return float(found.mean())

    study.optimize(objective, n_trials=trials)
    study.sampler = sampler
    return study


SHAPES = [(2, 3, 100), (4, 4, 100), (6, 3, 100), (12, 5, 100), (2, 20, 10_000), (12, 20, 10_000)]
"""Stages, models per stage and `max_samples`."""


def time_of(function, *arguments):
    """Return a function's result and the seconds of the processor that it takes."""
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def shaped_task(stages, models, samples):
    """Return a task whose stages and models all differ, so that no costs are equal."""
    return Task(
        name="shaped",
        stages=[
            Stage(
                f"s{i}",
                models=[
                    Model(f"m{j}", parameters=1e9 * 1.7**j * (1 + 0.03 * i * j))
                    for j in range(models)
                ],
                prompt_tokens=500 + 7 * i,
                generation_tokens=100 + 3 * i,
                max_samples=samples,
            )
            for i in range(stages)
        ],
    )


def measure_shapes(trials=200):
    """Print a row for each of `SHAPES`."""
    print("stages x models x samples  construct  count  first  to 20  to 200  recommend  facts")
    for shape in SHAPES:
        task, construct = time_of(shaped_task, *shape)
        _, count = time_of(task.count_allocations)
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
        rng, asks = np.random.default_rng(0), []
        for _ in range(trials):
            trial = study.ask()
            allocation, seconds = time_of(task.suggest, trial)
            asks.append(seconds)
            spent = sum(np.log(setting.samples) for setting in allocation.values())
            study.tell(trial, float(np.clip(0.3 + 0.02 * spent + rng.normal(0, 0.05), 0, 1)))
        _, recommended = time_of(recommend, study)
        evidence = Archive(task, maximize=True).read(study.trials)
        _, facts = time_of(fit_facts, NumericalPlanner(task), evidence)
        early, late = statistics.median(asks[1:20]), statistics.median(asks[20:])
        print(
            f"{' x '.join(map(str, shape)):<25}  {construct:9.4f}  {count:5.2f}  {asks[0]:5.2f}  "
            f"{early:5.3f}  {late:6.3f}  {recommended:9.2f}  {facts:5.2f}"
        )


def measure_explaining(trials, outcomes, seconds=10.0):
    """Print the time from `ask` to `tell` of searches with and without explanation.

    Args:
        trials: Number of trials.
        outcomes: Number of outcomes that each one reports.
        seconds: Time that a trial seems to take.
    """
    task, slept, rng = make_task(), [0.0], np.random.default_rng(0)
    explain = Explain(clock=lambda: time.monotonic() + slept[0])
    with tempfile.TemporaryDirectory() as folder:
        studies = [
            optuna.create_study(
                direction="maximize",
                storage=f"sqlite:///{folder}/{name}.db",
                sampler=AgentTTSSampler(task, seed=0, explain=option),
            )
            for name, option in (("off", False), ("on", explain))
        ]
        times = [[], []]
        for _ in range(trials):
            found = (rng.random(outcomes) < 0.5).astype(float)
            for study, taken in zip(studies, times):
                start = time.perf_counter()
                trial = study.ask()
                task.suggest(trial)
                taken.append(time.perf_counter() - start)
                for step, outcome in enumerate(found.tolist()):
                    trial.report(outcome, step)
                start = time.perf_counter()
                study.tell(trial, float(found.mean()))
                taken[-1] += time.perf_counter() - start
            slept[0] += seconds
    for name, taken in zip(("off", "on"), times):
        print(
            f"explain {name:<3}  mean {1000 * statistics.mean(taken):6.1f} ms  median "
            f"{1000 * statistics.median(taken):6.1f} ms  largest {1000 * max(taken):7.1f} ms"
        )
    share = (sum(times[1]) - sum(times[0])) / (trials * seconds)
    print(f"explaining takes {share:.2%} of {trials} trials of {seconds:g} s")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--asks", type=int, default=40)
    parser.add_argument("--large", action="store_true", help="four stages of four models")
    parser.add_argument("--outcomes", type=int, default=0, help="reported by each trial")
    parser.add_argument("--explain", action="store_true", help="see above")
    parser.add_argument("--shapes", action="store_true", help="large tasks; see above")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.shapes:
        measure_shapes()
        return
    if arguments.explain:
        measure_explaining(arguments.trials, arguments.outcomes or 50)
        return
    task = make_task(large=arguments.large)
    samplers = {
        "TPESampler": optuna.samplers.TPESampler(seed=0),
        "AgentTTSSampler": AgentTTSSampler(task, seed=0),
    }
    studies = {
        name: filled_study(task, sampler, arguments.trials, arguments.outcomes)
        for name, sampler in samplers.items()
    }
    times = {name: [] for name in samplers}
    for _ in range(arguments.asks):
        for name, study in studies.items():
            start = time.perf_counter()
            trial = study.ask()
            task.suggest(trial)
            times[name].append(1000 * (time.perf_counter() - start))
            study.tell(trial, 0.5)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<16} {median:6.2f} ms  (first {times[name][0]:.1f} ms)")
    print(f"ratio {medians['AgentTTSSampler'] / medians['TPESampler']:.2f}")


if __name__ == "__main__":
    main()
