"""What `ask` and its suggestions cost beside TPE, in one process: medians and their ratio.

``python tests/benchmarks/ask_cost.py [--trials 1000] [--asks 40] [--large] [--outcomes 50]``
"""

import argparse
import statistics
import time

import numpy as np
import optuna

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task


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


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--asks", type=int, default=40)
    parser.add_argument("--large", action="store_true", help="four stages of four models")
    parser.add_argument("--outcomes", type=int, default=0, help="reported by each trial")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
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
