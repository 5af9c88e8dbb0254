"""Tasks of one to three stages and evidence for them, shared by tests of the posterior."""

from dataclasses import replace

import numpy as np
from core_support import wiki_task

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.scale import Scale

_SIZES = (1, 7, 70)
TASKS = {
    1: Task(
        name="one",
        stages=[
            Stage(
                "only",
                models=[Model(f"m-{size}B", parameters=size * 1e9) for size in _SIZES],
                prompt_tokens=256,
                generation_tokens=64,
                max_samples=60,
            )
        ],
        budget=600,
    ),
    2: wiki_task(),
    3: Task(
        name="three",
        stages=[
            Stage(
                name,
                models=[Model(f"m-{size}B", parameters=size * 1e9) for size in sizes],
                prompt_tokens=512,
                generation_tokens=128,
                max_samples=20,
            )
            for name, sizes in (("plan", (8, 70)), ("write", (3, 8, 70)), ("check", (2, 32)))
        ],
        budget=1200,
    ),
}
"""Tasks by number of stages."""

KINDS = ("scores", "outcomes", "stopped", "mixed", "errors", "seconds", "confirmed", "unseen")
"""Kinds of evidence. Two allocations are repeated in each, and all but "outcomes" have trials that
were stopped early: "scores" has no outcomes, "mixed" has outcomes of two trials in three, "errors"
is minimized, and "seconds" is minimized with outcomes outside of [0, 1]. In "confirmed" and
"unseen", some allocations were confirmed on two blocks of fresh instances, which overlap; in
"unseen" no trial of the search has outcomes."""


def draw_allocations(task, rng, count):
    """Draw feasible allocations."""
    found = []
    while len(found) < count:
        models = [rng.integers(len(stage.models)) for stage in task.stages]
        samples = [
            round(np.exp(rng.uniform(0, np.log(stage.max_samples)))) for stage in task.stages
        ]
        if task.feasible.cost(list(zip(models, samples))) <= task.feasible.limit:
            found.append((models, samples))
    models, samples = zip(*found)
    return np.array(models, dtype=np.int64), np.array(samples, dtype=np.int64)


def draw_evidence(task, kind, *, seed=0, trials=14, instances=30):
    """Draw trials whose outcomes share the difficulty of the instances."""
    rng = np.random.default_rng([seed, len(task.stages), KINDS.index(kind)])
    models, samples = draw_allocations(task, rng, trials)
    models[-2:], samples[-2:] = models[:2], samples[:2]
    blocks = np.zeros(trials, dtype=np.int64)
    if kind in ("confirmed", "unseen"):
        again = np.array([0, 3, 4, 0, 3])
        models, samples = (np.concatenate([part, part[again]]) for part in (models, samples))
        blocks = np.concatenate([blocks, [1, 1, 1, 2, 2]])
        trials += len(again)
    quality = 0.2 * np.log(samples).sum(axis=1) + 0.3 * models.sum(axis=1) - 0.8
    latent = 0.6 * rng.normal(size=instances) + 0.8 * rng.normal(size=(trials, instances))
    table = (latent < quality[:, None]).astype(float)
    sign = -1.0 if kind in ("errors", "seconds") else 1.0
    if kind == "errors":
        table = 1 - table
    if kind == "seconds":
        table = 40 * np.exp(latent - quality[:, None])
    seen = np.full(trials, instances)
    if kind != "outcomes":
        # The last trial repeats the second one and is stopped early.
        search = int((blocks == 0).sum())
        seen[2:search:3] = rng.integers(2, instances, len(seen[2:search:3]))
        seen[search - 1] = instances // 2
    # Blocks share a third of their instances with the next, but none with the search.
    firsts = np.where(blocks > 0, 80 + 20 * blocks, 0)
    outcomes = [
        dict(enumerate(row[:most], first))
        for row, most, first in zip(table.tolist(), seen, firsts.tolist())
    ]
    scores = sign * np.array([np.mean(list(row.values())) for row in outcomes])
    if kind == "scores":
        # Without outcomes no two scores are equal.
        outcomes, scores = [], np.clip(scores + rng.normal(0, 0.01, trials), 0, 1)
    if kind == "mixed":
        outcomes = [{} if i % 3 == 1 else row for i, row in enumerate(outcomes)]
    if kind == "unseen":
        outcomes = [row if block else {} for row, block in zip(outcomes, blocks)]
    return replace(
        Evidence.empty(task),
        models=models,
        samples=samples,
        scores=scores,
        shares=seen / instances,
        sign=sign,
        outcomes=tuple(outcomes),
        stopped=tuple((seen < instances).tolist()),
        blocks=tuple(blocks.tolist()),
        scale=Scale.of(scores) if kind == "seconds" else Scale(-1.0 if sign < 0 else 0.0),
    )
