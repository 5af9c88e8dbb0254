"""What the agent adds, what a bad one costs, and what each thing that it is told is worth.

``python tests/benchmarks/agent_search.py [--seeds 20] [--trials 60]``

On the playground's measured grid, beside the numerical planner alone, scripted agents:

* ``knowing`` has seen the grid and proposes the best allocations that have not been tried.
* ``worst`` proposes the worst that are feasible.
* ``attentive`` knows its prompt alone: it combines, for each stage, models that the table of
  models cannot tell from the best with the samples at which they are said to saturate (or, where
  it is not told, with those of the best trials listed).

The methods below differ in what the attentive agent is told. Reported are the trials until an
allocation was tried whose regret is under .10, under .02, and until the best allocation of all was
tried (regret 0 is the best feasible allocation, 1 the median one; both true on all 200 problems,
while a trial sees 50 of them).
"""

import argparse
import itertools
import json
import re
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import optuna

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, guidelines
from optuna_agenttts_integrations.playground import make_task
from optuna_agenttts_integrations.playground.grid import load_grid

PROBLEMS = 50
METHODS = {
    "none": ("none", {}),
    "knowing": ("knowing", {}),
    "worst": ("worst", {}),
    "attentive": ("attentive", {}),
    "attentive, no Insight 1": ("attentive", {"insights": (2, 3)}),
    "attentive, no Insight 2": ("attentive", {"insights": (1, 3)}),
    "attentive, no Insight 3": ("attentive", {"insights": (1, 2)}),
    "AgentHPO-like": ("attentive", {"insights": ()}),
    "LLM_ZS": ("attentive", {"insights": (), "guidelines": False}),
}
ROW = re.compile(
    r'^"(?P<stage>\w+)" \| "(?P<model>[\w-]+)" \| (?P<first>[^|]+) \| (?P<second>[^|]+)', re.M
)
SETTING = re.compile(r'"(\w+)": "([\w-]+)" x (\d+)')


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


def between(text, name):
    """A block of a prompt."""
    return text.partition(f"<{name}>")[2].partition(f"</{name}>")[0]


def attentive(task, text):
    """Allocations that a prompt speaks for, best first."""
    tried = {
        tuple((m, int(n)) for _, m, n in SETTING.findall(line.split(" | ")[1]))
        for line in between(text, "history").splitlines()
        if SETTING.search(line)
    }
    near = {stage.name: [] for stage in task.stages}
    for line in between(text, "models").splitlines():
        cells = line.split(" | ")
        if not SETTING.search(line):
            continue
        behind = re.fullmatch(r"(\S+) ± (\S+)", cells[4])
        if behind is None or float(behind[1]) <= 2 * float(behind[2]):
            near[json.loads(cells[0])].append(json.loads(cells[1]))
    samples = {}
    for line in between(text, "saturation").splitlines():
        found = re.search(r'^"(\w+)" \| "([\w-]+)" \| (\d+) \((\d+) to (\d+)\)', line)
        if found:
            at, low, high = (int(found[i]) for i in (3, 4, 5))
            middle = round((low * high) ** 0.5)
            samples[found[1], found[2]] = list(dict.fromkeys((at, middle, low, high)))
    for allocation in tried:
        for stage, (model, n) in zip(near, allocation):
            if not between(text, "saturation"):
                samples.setdefault((stage, model), []).append(n)
    options = [
        [(model, n) for model in models for n in samples.get((stage, model), [1])]
        for stage, models in near.items()
    ]
    fresh = [a for a in itertools.product(*options) if a not in tried]
    feasible = [a for a in fresh if task.fits(dict(zip(near, a)))]
    return feasible[:: max(1, len(feasible) // 8)][:8]


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
            names = [stage.name for stage in task.stages]
            chosen = [dict(zip(names, a)) for a in attentive(task, request.messages[1].content)]
        else:
            fresh = [keys[i] for i in order[:400].tolist() if i not in tried][:8]
            chosen = [task.allocation(choices) for choices in fresh]
        candidates = [
            {
                "allocation": {s: {"model": m, "samples": n} for s, (m, n) in allocation.items()},
                "reason": "scripted",
            }
            for allocation in chosen
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
        direction="maximize", sampler=AgentTTSSampler(task, llm=llm, seed=seed, **options)
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
        for agent in METHODS:
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
