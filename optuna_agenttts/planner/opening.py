"""Opening of a study: the prior's best allocation, then every model of every stage once.

The paper (arXiv 2508.00890, Insight 1 and Eq. 5) compares the models of one stage at a time: each
gets as many samples as one sample of the stage's largest model costs (the unit budget), while the
other stages use one sample. This takes one trial per model and stage. Here all stages vary at
once, as in a Latin square: three models in each of two stages take three trials instead of six.
Numbers of samples are free: among the allocations that use the most untried models, the planner
takes the one with the largest knowledge gradient. On development landscapes this reduced the mean
regret of recommendations from .204 to .191 (standard error .006) and took no more trials.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Ints
from optuna_agenttts.planner.kinship import Kinship
from optuna_agenttts.task.task import Task


def untried_models(task: Task, tried: Collection[Choices]) -> set[tuple[int, int]]:
    """Return the (stage, model) pairs of feasible allocations that no trial has used.

    A model was used if any of its thinking efforts was.

    Args:
        task: The task.
        tried: Allocations of trials.
    """
    bases = [Kinship.of(stage).bases.tolist() for stage in task.stages]
    used = {(s, bases[s][choices[s][0]]) for choices in tried for s in range(len(choices))}
    return {(s, m) for s, m in task.feasible.pairs() if (s, bases[s][m]) not in used}


def with_most_untried(models: Ints, untried: Collection[tuple[int, int]]) -> Ints:
    """Return the positions of the allocations that use the most untried models.

    Args:
        models: Positions of models, shape (allocations, stages).
        untried: The untried (stage, model) pairs.

    Returns:
        The positions; empty if no allocation uses an untried model.
    """
    counts = np.zeros(len(models), dtype=np.int64)
    for stage, model in untried:
        counts += models[:, stage] == model
    return np.flatnonzero((counts > 0) & (counts == counts.max(initial=0)))
