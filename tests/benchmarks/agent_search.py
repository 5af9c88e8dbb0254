"""What the agent adds, and what a bad one costs, on the playground's measured grid.

``python tests/benchmarks/agent_search.py [--seeds 20] [--trials 60]``

Two scripted agents beside the numerical planner alone: one that knows the grid and proposes the
best allocations that have not been tried, and one that proposes the worst that are feasible.
Reported are the trials until an allocation was tried whose regret is under .10, under .02, and
until the best allocation of all was tried (regret 0 is the best feasible allocation, 1 the median
one; both true on all 200 problems, while a trial sees 50 of them).
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import optuna

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, guidelines
from optuna_agenttts_integrations.playground import make_task
from optuna_agenttts_integrations.playground.grid import load_grid

PROBLEMS = 50
AGENTS = ("none", "knowing", "worst")


@cache
def landscape():
    """The task, each allocation's outcomes by problem, and its true score."""
    task, grid = make_task(), load_grid()
    models, samples = task.feasible.arrays()
    outcomes = np.concatenate(
        [
            grid.outcomes(m, s)
            for m, s in zip(np.array_split(models, 50), np.array_split(samples, 50))
        ]
    )
    keys = [tuple(zip(m, s)) for m, s in zip(models.tolist(), samples.tolist())]
    return task, {key: i for i, key in enumerate(keys)}, keys, outcomes, outcomes.mean(axis=1)


def one_search(agent, seed, trials):
    """Run one search; returns trials to each goal, and requests."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task, positions, keys, outcomes, truth = landscape()
    order = np.argsort(-truth if agent == "knowing" else truth, kind="stable")
    problems = np.random.default_rng(seed).choice(200, PROBLEMS, replace=False)
    tried = []

    def reply(request):
        chosen = [keys[i] for i in order[:400].tolist() if i not in tried][:8]
        candidates = [
            {
                "allocation": {
                    stage: {"model": setting.model, "samples": setting.samples}
                    for stage, setting in task.allocation(choices).items()
                },
                "reason": "scripted",
            }
            for choices in chosen
        ]
        return json.dumps({"guidelines": ["scripted"], "candidates": candidates})

    def objective(trial):
        position = positions[tuple(task.choices(task.suggest(trial)))]
        values = outcomes[position, problems].astype(float)
        for step, value in enumerate(values):
            trial.report(value, step)
        tried.append(position)
        return float(values.mean())

    llm = None if agent == "none" else ScriptedChatModel(reply)
    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(task, llm=llm, seed=seed)
    )
    study.optimize(objective, n_trials=trials)
    regrets = (truth.max() - truth[tried]) / (truth.max() - np.median(truth))

    def first(hits):
        return int(np.argmax(hits)) + 1 if hits.any() else trials + 1

    agents = sum(t.user_attrs.get("agenttts:origin") == "agent" for t in study.trials)
    return {
        "< .10": first(regrets < 0.10),
        "< .02": first(regrets < 0.02),
        "best": first(truth[tried] >= truth.max()),
        "agent's trials": agents,
        "requests": sum(planned.requests for planned in guidelines(study)),
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    options = parser.parse_args()
    landscape()
    print(f"{options.seeds} seeds, {options.trials} trials; median (quartiles), then mean")
    with ProcessPoolExecutor() as pool:
        for agent in AGENTS:
            jobs = [
                pool.submit(one_search, agent, seed, options.trials)
                for seed in range(options.seeds)
            ]
            found = [job.result() for job in jobs]
            cells = []
            for name in found[0]:
                values = [f[name] for f in found]
                low, middle, high = np.percentile(values, [25, 50, 75])
                cells.append(
                    f"{name}: {middle:g} ({low:g} to {high:g}) mean {np.mean(values):.1f}"
                )
            print(f"{agent:8s} " + " | ".join(cells))


if __name__ == "__main__":
    main()
