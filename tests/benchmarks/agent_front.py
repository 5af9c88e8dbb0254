"""Agents in searches for good scores at every cost, on the playground's measured grid.

``python tests/benchmarks/agent_front.py [--seeds 6] [--trials 40]``

The loss is the share of the area under the front of true scores, up to the budget, that the tried
allocations leave out, after a quarter, a half and all of the trials. The agents know the grid:
``knowing`` proposes what adds most to the area of the tried ones, ``worst`` the lowest scores,
``dear`` the highest costs.
"""

import argparse

import numpy as np
import optuna
from agent_search import PROBLEMS, landscape
from attentive import as_reply

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, report_outcomes

AGENTS = ("none", "knowing", "worst", "dear")


def area(rows):
    """Return the area under the front of some allocations."""
    task, _, keys, _, truth = landscape()
    pairs = sorted((task.feasible.cost(keys[row]), truth[row]) for row in rows)
    costs, scores = np.array(pairs).T
    return float(np.diff(costs, append=task.budget) @ np.maximum.accumulate(scores))


def proposals(agent, tried, front, costs):
    """Return the rows that an agent proposes next."""
    truth = landscape()[-1]
    if agent == "knowing":
        left = [row for row in front if row not in tried]
        return sorted(left, key=lambda row: -area([*tried, row]))[:8]
    order = np.argsort(truth if agent == "worst" else -costs, kind="stable")[:600].tolist()
    return [row for row in order if row not in tried][:8]


def one_search(agent, seed, trials):
    """Return the losses of a search, and how many trials were the agent's."""
    task, positions, keys, outcomes, truth = landscape()
    costs = np.array([task.feasible.cost(key) for key in keys])
    order = np.lexsort((-truth, costs))
    front = order[np.diff(np.maximum.accumulate(truth[order]), prepend=-1.0) > 0].tolist()
    problems = np.random.default_rng(seed).choice(200, PROBLEMS, replace=False)
    tried = []

    def reply(request):
        return as_reply(task, [keys[row] for row in proposals(agent, tried, front, costs)])

    def objective(trial):
        row = positions[tuple(task.choices(task.suggest(trial)))]
        report_outcomes(trial, outcomes[row, problems].astype(float).tolist())
        tried.append(row)
        return float(outcomes[row, problems].mean()), float(costs[row])

    llm = None if agent == "none" else ScriptedChatModel(reply)
    sampler = AgentTTSSampler(task, llm=llm, explain=False)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=trials)
    losses = [1 - area(tried[: trials // part]) / area(front) for part in (4, 2, 1)]
    return [*losses, sum(t.user_attrs["agenttts:origin"] == "agent" for t in study.trials)]


def main():
    """Print the means by agent."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for agent in AGENTS:
        rows = [one_search(agent, seed, options.trials) for seed in range(options.seeds)]
        *losses, own = np.mean(rows, axis=0)
        print(f"{agent:8s} {' / '.join(f'{loss:.3f}' for loss in losses)}, {own:.1f} trials")


if __name__ == "__main__":
    main()
