"""Expected costs of allocations whose votes stop before all samples are drawn.

The number of samples of an allocation is the most that it may draw. The budget and the planner
count all of them. What is reported or forecast as an expectation counts those that trials drew:
for a number of samples that trials have used, their mean; for others, the share that it has
between the next ones of the same model, or else that of the stage's other models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

import numpy as np
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.task import Task

_Shares = Mapping[int, float]
"""Shares of the samples that were drawn, by number of samples."""


def cost_of_drawn(task: Task, choices: Choices, drawn: Mapping[str, float]) -> float:
    """Return the cost of an allocation for one instance if stages draw fewer samples.

    Args:
        task: The task.
        choices: The allocation.
        drawn: Mean number of samples drawn, by name of the stage. Others draw all.
    """
    costs = task.feasible.costs
    return sum(
        float(
            np.interp(
                drawn.get(stage.name, samples),
                np.arange(1, len(costs[position][model]) + 1),
                costs[position][model],
            )
        )
        for position, (stage, (model, samples)) in enumerate(zip(task.stages, choices))
    )


class ExpectedCosts:
    """Expected cost of allocations for one instance, by what trials drew.

    Args:
        task: The task.
        trials: Trials of the study, confirmations included.
    """

    def __init__(self, task: Task, trials: Iterable[FrozenTrial]) -> None:
        """See the class."""
        self._task = task
        found: list[dict[int, dict[int, list[float]]]] = [{} for _ in task.stages]
        for trial in trials:
            drawn = storage.read_trial_fact(trial, storage.DRAWN)
            choices = task.read(trial.params)
            if choices is None or not isinstance(drawn, Mapping):
                continue
            for stage, (model, samples), models in zip(task.stages, choices, found):
                count = drawn.get(stage.name)
                if isinstance(count, (int, float)) and is_finite(count):
                    share = min(1.0, max(count, 1) / samples)
                    models.setdefault(model, {}).setdefault(samples, []).append(share)
        self._shares = [
            {model: _means([numbers]) for model, numbers in models.items()} for models in found
        ]
        self._others = [_means(models.values()) for models in found]

    @property
    def known(self) -> bool:
        """Whether a trial drew fewer samples than it was allowed."""
        return any(share < 1 for shares in self._others for share in shares.values())

    def drawn(self, choices: Choices) -> dict[str, float]:
        """Return the expected number of samples of an allocation, by name of the stage."""
        return {
            stage.name: samples * _share(models.get(model) or others, samples)
            for stage, (model, samples), models, others in zip(
                self._task.stages, choices, self._shares, self._others
            )
        }

    def of(self, choices: Choices) -> float:
        """Return the expected cost of an allocation for one instance."""
        return cost_of_drawn(self._task, choices, self.drawn(choices))


def _means(groups: Iterable[Mapping[int, list[float]]]) -> _Shares:
    """Return the mean shares of the samples, by their number; a single one is always drawn."""
    shares: dict[int, list[float]] = {1: [1.0]}
    for group in groups:
        for samples, values in group.items():
            shares.setdefault(samples, []).extend(values)
    return {samples: fmean(shares[samples]) for samples in sorted(shares)}


def _share(shares: _Shares, samples: int) -> float:
    """Return the share of some number of samples, interpolated on logarithmic scales.

    Between numbers of which more draw more, this holds of those between them, too.
    """
    known, values = np.log(list(shares)), np.log(list(shares.values()))
    return float(np.exp(np.interp(np.log(samples), known, values)))
