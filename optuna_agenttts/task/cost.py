"""Cost models.

A cost model prices one stage at a time, ``stage_cost(stage, model, samples)``; the cost of an
allocation is the sum over its stages. Costs are per instance. Three cost models are provided:

* `FlopsCost`: FLOPs by Theorem 1 of AgentTTS (arXiv 2508.00890), in reference samples.
* `PriceCost`: US dollars, from prices per million input and output tokens.
* `LatencyCost`: seconds, from the speeds of prompt processing and generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from optuna_agenttts.exceptions import MissingFactError, TaskError
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.cost_model import CostModel as CostModel
from optuna_agenttts.task.cost_model import Floats, Ints, cost_row
from optuna_agenttts.task.model import Model, check_positive
from optuna_agenttts.task.stage import Stage


def _tokens(
    stage: Stage, model: Model, samples: Ints, *, prefix_sharing: bool, fusion: bool
) -> tuple[Floats, Floats]:
    """Return prompt and generated tokens of one instance, including the fusion call."""
    count = samples.astype(np.float64)
    prompt = np.full_like(count, stage.prompt_tokens)
    if not prefix_sharing:
        prompt = prompt * count
    generated = count * stage.sample_tokens(model)
    if fusion:
        # One more call reads the prompt and every sample and generates one answer. A single
        # sample needs no fusion.
        fused = count > 1
        prompt = prompt + fused * (stage.prompt_tokens + count * _answer_tokens(stage, model))
        generated = generated + fused * stage.sample_tokens(model)
    return prompt, generated


def _answer_tokens(stage: Stage, model: Model) -> float:
    """Return the mean length of a sample without its thoughts, which no fusion reads."""
    return stage.sample_tokens(model) if model.thinking is None else stage.generation_tokens


def _fact(model: Model, fact: str, cost: str) -> float:
    value: float | None = getattr(model, fact)
    if value is None:
        raise MissingFactError(
            f"{cost} needs `{fact}` of model {model.name!r}, got None: use "
            f"Model({model.name!r}, {fact}=...) or another `cost`."
        )
    return value


@dataclass(frozen=True, kw_only=True)
class FlopsCost:
    """FLOPs in samples of a small reference model (Theorem 1).

    For a model with M = 3e9 r parameters, S samples, a prompt of Np tokens and generations of Nd
    tokens::

        cost = r * S * Nd / 64 + max(0, r * Np - 128) / 64

    The unit, a reference sample, is the compute of one sample of a model with 3e9 parameters, a
    prompt of 128 tokens and a generation of 64 tokens. Where r * Np is 128 or more, this is
    Theorem 1. Below, the theorem would make generations free or negative: there only the prompt
    is free. Costs are positive and increase with each sample.

    Args:
        prefix_sharing: Whether the prompt is counted once for all samples of a stage (servers
            with prefix caching, and the theorem) or once per sample.
        fusion: Whether to count the call that fuses S > 1 samples into one answer. It reads the
            prompt and every sample. The theorem leaves it out.
        reference_parameters: Number of parameters of the reference model, above 0.
        reference_prompt_tokens: Prompt length of the reference, in tokens, 0 or more.
        reference_generation_tokens: Generation length of the reference, in tokens, above 0.

    Raises:
        TaskError: A reference value is out of range.
    """

    prefix_sharing: bool = True
    fusion: bool = False
    reference_parameters: float = 3e9
    reference_prompt_tokens: float = 128
    reference_generation_tokens: float = 64

    kind: ClassVar[str] = "flops"
    unit: ClassVar[str] = "reference samples"

    def __post_init__(self) -> None:
        """Check the reference values."""
        for name in ("reference_parameters", "reference_generation_tokens"):
            check_positive("FlopsCost", name, getattr(self, name))
        prompt = self.reference_prompt_tokens
        if not (is_finite(prompt) and prompt >= 0):
            raise TaskError(
                "FlopsCost: `reference_prompt_tokens` must be finite and 0 or more, got "
                f"{prompt!r}."
            )

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Return the cost of a stage; see `CostModel.stage_cost`."""
        prompt, generated = _tokens(
            stage, model, samples, prefix_sharing=self.prefix_sharing, fusion=self.fusion
        )
        ratio = _fact(model, "parameters", "FlopsCost") / self.reference_parameters
        theorem = ratio * (prompt + generated) - self.reference_prompt_tokens
        return np.maximum(theorem, ratio * generated) / self.reference_generation_tokens


@dataclass(frozen=True, kw_only=True)
class PriceCost:
    """US dollars, from the prices of a `Model` (USD per million tokens).

    If a model has a `cached_price`, the prompt is billed at it for all samples of a stage but the
    first. The spend of a search counts the cached tokens that servers report.

    A price of 0 is a fact like any other: a free model costs 0, and no limit ends its use.

    Args:
        prefix_sharing: Whether the prompt is billed once for all samples of a stage. The default
            is False because most providers bill it per request.
        fusion: Whether to count the call that fuses S > 1 samples into one answer.
    """

    prefix_sharing: bool = False
    fusion: bool = False

    kind: ClassVar[str] = "price"
    unit: ClassVar[str] = "USD"

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Return the cost of a stage; see `CostModel.stage_cost`."""
        cached = None if self.prefix_sharing else model.cached_price
        prompt, generated = _tokens(
            stage,
            model,
            samples,
            prefix_sharing=self.prefix_sharing or cached is not None,
            fusion=self.fusion,
        )
        input_price = _fact(model, "input_price", "PriceCost")
        output_price = _fact(model, "output_price", "PriceCost")
        total = prompt * input_price + generated * output_price
        if cached is not None:
            total = total + (samples - 1) * stage.prompt_tokens * cached
        return np.asarray(total / 1e6, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class LatencyCost:
    """Seconds, from `Model.prompt_tokens_per_second` and `Model.generation_tokens_per_second`.

    Stages run one after another, so their latencies add up. Within a stage, samples run in waves
    of `concurrency`: each wave processes the prompt (only the first one with prefix sharing) and
    generates all of its samples in the time of one.

    Args:
        concurrency: Samples of one instance that the server generates in parallel, 1 or more.
        prefix_sharing: Whether only the first wave processes the prompt.
        fusion: Whether to count the call that fuses S > 1 samples into one answer.
    """

    concurrency: int = 1
    prefix_sharing: bool = True
    fusion: bool = False

    kind: ClassVar[str] = "latency"
    unit: ClassVar[str] = "s"

    def __post_init__(self) -> None:
        """Check the concurrency."""
        if not (is_finite(self.concurrency) and self.concurrency >= 1):
            raise TaskError(
                f"LatencyCost: `concurrency` must be 1 or more, got {self.concurrency!r}."
            )

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Return the cost of a stage; see `CostModel.stage_cost`."""
        read = _fact(model, "prompt_tokens_per_second", "LatencyCost")
        write = _fact(model, "generation_tokens_per_second", "LatencyCost")
        waves = np.ceil(samples / self.concurrency)
        prompt = stage.prompt_tokens * (np.ones_like(waves) if self.prefix_sharing else waves)
        length = stage.sample_tokens(model)
        seconds = prompt / read + waves * length / write
        if self.fusion:
            candidates = samples * _answer_tokens(stage, model)
            call = (stage.prompt_tokens + candidates) / read + length / write
            seconds = seconds + (samples > 1) * call
        return np.asarray(seconds, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class TableCost:
    """Costs from a table. A user-defined cost model is stored as one.

    Args:
        table: Costs of 1, 2, ... samples, by stage and model.
        unit_name: Unit shown to people.
    """

    table: Mapping[str, Mapping[str, tuple[float, ...]]]
    unit_name: str = ""

    kind: ClassVar[str] = "table"

    @property
    def unit(self) -> str:
        """The given unit."""
        return self.unit_name

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Return the cost of a stage; see `CostModel.stage_cost`."""
        try:
            row = self.table[stage.name][model.name]
        except KeyError:
            raise MissingFactError(
                f"TableCost has no costs of model {model.name!r} in stage {stage.name!r}: add a "
                "row to `table`."
            ) from None
        if samples.max(initial=1) > len(row):
            raise MissingFactError(
                f"TableCost has costs of 1 to {len(row)} samples of model {model.name!r} in stage "
                f"{stage.name!r}, got {samples.max()} samples: extend the row or lower the "
                "stage's `max_samples`."
            )
        return np.asarray(row, dtype=np.float64)[samples - 1]


_MAX_LISTED = 1000
"""Samples up to which a row of a table is stored as a list, as in earlier versions."""
_ROUNDING = 1e-12
"""Rounding errors of a row that is linear between its knots, as a share of its largest cost: far
below the tolerance of a budget."""

_KINDS: Mapping[str, type[Any]] = {
    cost.kind: cost for cost in (FlopsCost, PriceCost, LatencyCost, TableCost)
}


def cost_to_dict(cost: CostModel, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """Return a cost model as JSON-ready values.

    A user-defined cost model becomes a table, because a study's storage must never name code to
    run. Its long rows are stored as knots, between which costs are linear.
    """
    if type(cost) in _KINDS.values() and not isinstance(cost, TableCost):
        return {"kind": cost.kind, **asdict(cost)}  # type: ignore[attr-defined, call-overload]
    table = {
        stage.name: {
            model.name: _encoded(cost_row("Task", cost, stage, model)) for model in stage.models
        }
        for stage in stages
    }
    return {"kind": TableCost.kind, "table": table, "unit_name": cost.unit}


def _encoded(row: Floats) -> list[float] | dict[str, list[float]]:
    """Return a row, or its knots if it is long, piecewise linear and equal to its interpolation.

    A row of 10,000 numbers is 200 kB in a storage that takes 2 kB at a time.
    """
    costs: list[float] = row.tolist()
    if len(row) <= _MAX_LISTED:
        return costs
    knots = _knots(row)
    # Otherwise knots save too little; chosen by hand.
    if len(knots["samples"]) <= len(row) / 4:
        again = _decoded(knots)
        # Equal again, so that a task that was stored and read equals the original.
        if np.abs(again - row).max() <= _ROUNDING * row[-1] and _knots(again) == knots:
            return knots
    return costs


def _knots(row: Floats) -> dict[str, list[float]]:
    """Return the first and last point of a row, and those at which its slope changes."""
    bends = np.flatnonzero(np.abs(np.diff(row, 2)) > _ROUNDING * row[-1]) + 1
    at = np.concatenate([[0], bends, [len(row) - 1]])
    return {"samples": (at + 1).tolist(), "costs": row[at].tolist()}


def _decoded(values: Sequence[float] | Mapping[str, Sequence[float]]) -> Floats:
    """Return the row that `_encoded` encoded."""
    if not isinstance(values, Mapping):
        return np.asarray(values, dtype=np.float64)
    samples = np.arange(1, values["samples"][-1] + 1)
    row: Floats = np.interp(samples, values["samples"], values["costs"])
    return row


def cost_from_dict(values: Mapping[str, Any]) -> CostModel:
    """Build a cost model from the values of `cost_to_dict`.

    Raises:
        TaskError: The kind of cost model is unknown.
    """
    options = dict(values)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise TaskError(
            f"Unknown kind of cost model {kind!r}: this version has {', '.join(sorted(_KINDS))}."
        )
    if kind == TableCost.kind:
        options["table"] = {
            stage: {model: tuple(_decoded(row).tolist()) for model, row in rows.items()}
            for stage, rows in options["table"].items()
        }
    cost: CostModel = _KINDS[kind](**options)
    return cost
