"""Results of a pipeline on inputs that need no gold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from optuna_agenttts import AgentTTSError
from optuna_agenttts.task.allocation import Allocation, AllocationLike
from optuna_agenttts_integrations.pipeline.evaluation import StageUsage

_LISTED_CAUSES = 3
"""Causes of failures listed in a message. Chosen by hand, to keep it on one line."""


class _Allocated(Protocol):
    """An object with an allocation, such as a `Recommendation`."""

    @property
    def allocation(self) -> AllocationLike: ...


PredictionAllocation = AllocationLike | _Allocated
"""An allocation, or an object that has one as `allocation`, such as a `Recommendation`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Answer to one input, with its cost.

    Args:
        id: ID of the input, or else its position.
        answer: The answer: `Pipeline.answer` of the final state, by default the result of the
            last stage. None if the input failed, or every reply of the last stage was malformed.
        results: Results of all stages and steps, by name; empty if the input failed.
        stages: Usage of each stage that ran, by name.
        spend: Cost of the calls, failed and repeated ones included, in units of the task's cost
            model. Samples that the store had are free.
        tokens: Tokens that were generated.
        error: Why the input failed: the error of a call, a step or a function of the pipeline,
            or `SpendLimitError`. None if it did not.
    """

    id: str
    answer: Any
    results: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, StageUsage] = field(default_factory=dict)
    spend: float = 0.0
    tokens: int = 0
    error: Exception | None = None

    @property
    def failed(self) -> bool:
        """True if the input has no answer because something failed."""
        return self.error is not None

    @property
    def malformed(self) -> int:
        """Number of replies that could not be parsed."""
        return int(self.total("malformed"))

    def total(self, name: str) -> float:
        """Return the sum of a field of `StageUsage` over the stages.

        Args:
            name: Name of the field, such as ``"spend"``.
        """
        return float(sum(getattr(usage, name) for usage in self.stages.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions(Sequence[Prediction]):
    """Predictions of an allocation, one for each input, in order.

    Args:
        results: The predictions.
        allocation: The allocation.
        seconds: Duration of the run, in seconds.
        unit: Unit of the spend.
    """

    results: tuple[Prediction, ...]
    allocation: Allocation
    seconds: float
    unit: str

    @overload
    def __getitem__(self, position: int) -> Prediction: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[Prediction]: ...

    def __getitem__(self, position: int | slice) -> Prediction | Sequence[Prediction]:
        """Return the prediction of the input at a position, or those of a slice."""
        return self.results[position]

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self.results)

    def __str__(self) -> str:
        """Format the totals as text, with the causes of failures."""
        text = f"{len(self)} inputs: spend {self.spend:.4g} {self.unit}".rstrip()
        text += f", {self.tokens} tokens generated, {self.malformed} malformed replies"
        return f"{text}, {self.failed} failed: {self.causes()}" if self.failed else text

    @property
    def answers(self) -> list[Any]:
        """Answers in the order of the inputs; None for those that failed."""
        return [prediction.answer for prediction in self.results]

    @property
    def spend(self) -> float:
        """Cost of all calls, in units of the task's cost model."""
        return math.fsum(prediction.spend for prediction in self.results)

    @property
    def tokens(self) -> int:
        """Tokens that were generated."""
        return sum(prediction.tokens for prediction in self.results)

    @property
    def malformed(self) -> int:
        """Number of replies that could not be parsed."""
        return sum(prediction.malformed for prediction in self.results)

    @property
    def failed(self) -> int:
        """Number of inputs that failed."""
        return sum(prediction.failed for prediction in self.results)

    def causes(self, *, in_full: bool = True) -> str:
        """List the most common causes of failures.

        Args:
            in_full: Whether to state messages of users' exceptions, which may quote the inputs.
        """
        causes: Counter[str] = Counter()
        for error in (p.error for p in self.results if p.error is not None):
            stated = in_full or isinstance(error, AgentTTSError)
            causes[f"{type(error).__name__}: {error}" if stated else type(error).__name__] += 1
        listed = causes.most_common(_LISTED_CAUSES)
        return "; ".join(f"{count} x {cause}" for cause, count in listed)
