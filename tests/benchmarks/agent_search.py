"""Benefit of the agent, cost of a bad agent, and benefit of each part of the prompt.

``python tests/benchmarks/agent_search.py [--seeds 20] [--trials 60]``

On the playground's measured grid, beside the numerical planner alone, scripted agents:

* ``knowing`` has seen the grid and proposes the best allocations that have not been tried.
* ``worst`` proposes the worst that are feasible.
* ``attentive`` knows its prompt alone, and follows the tables in it (see
  `search_quality/attentive.py`).

The methods below differ in what the attentive agent is told. Reported are the trials until an
allocation was tried whose regret is under .10, under .02, and until the best allocation of all was
tried (regret 0 is the best feasible allocation, 1 the median one; both true on all 200 problems,
while a trial sees 50 of them).
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import optuna

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, guidelines
from optuna_agenttts_integrations.playground import make_task
from optuna_agenttts_integrations.playground.grid import load_grid

sys.path.insert(0, str(Path(__file__).parent / "search_quality"))

from agents import PromptSampler
from attentive import as_reply, attentive

PROBLEMS = 50
METHODS = {
    "none": ("none", {}),
    "knowing": ("knowing", {}),
    "worst": ("worst", {}),
    "attentive": ("attentive", {}),
    **{
        f"{name}, auto": (name, {"llm_when": "auto"}) for name in ("knowing", "worst", "attentive")
    },
    "attentive, no Insight 1": ("attentive", {"insights": (2, 3)}),
    "attentive, no Insight 2": ("attentive", {"insights": (1, 3)}),
    "attentive, no Insight 3": ("attentive", {"insights": (1, 2)}),
    "attentive, no tables": ("attentive", {"tables": ()}),
    "AgentHPO-like": ("attentive", {"insights": (), "tables": ()}),
    "LLM_ZS": ("attentive", {"insights": (), "tables": (), "guidelines": False}),
}


@cache
def landscape():
    """Return the task, each allocation's outcomes by problem, and its true score."""
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


def one_search(method, seed, trials):
    """Run one search; returns trials to each goal, and requests."""
    agent, options = METHODS[method]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task, positions, keys, outcomes, truth = landscape()
    order = np.argsort(-truth if agent == "knowing" else truth, kind="stable")
    problems = np.random.default_rng(seed).choice(200, PROBLEMS, replace=False)
    tried = []

    def reply(request):
        if agent == "attentive":
            return as_reply(task, attentive(task, request.messages[1].content))
        fresh = [keys[i] for i in order[:400].tolist() if i not in tried][:8]
        return as_reply(task, fresh)

    def objective(trial):
        position = positions[tuple(task.choices(task.suggest(trial)))]
        values = outcomes[position, problems].astype(float)
        for step, value in enumerate(values):
            trial.report(value, step)
        tried.append(position)
        return float(values.mean())

    llm = None if agent == "none" else ScriptedChatModel(reply)
    sampler = AgentTTSSampler if llm is None else PromptSampler
    study = optuna.create_study(
        direction="maximize", sampler=sampler(task, llm=llm, seed=seed, **options)
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
        "tokens": sum(p.prompt_tokens + p.completion_tokens for p in guidelines(study)),
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    landscape()
    print(f"{options.seeds} seeds, {options.trials} trials; median (quartiles), then mean")
    with ProcessPoolExecutor(options.workers) as pool:
        for agent in options.methods:
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
            print(f"{agent:24s} " + " | ".join(cells))


if __name__ == "__main__":
    main()
