"""What an allocation costs.

A cost model prices one stage at a time: ``stage_cost(stage, model, samples)``, and an allocation
costs the sum over its stages. Costs are per instance. Three are given, behind one protocol:

* `FlopsCost`: Theorem 1 of AgentTTS (arXiv 2508.00890), in samples of a small reference model.
* `PriceCost`: US dollars, from prices per million input and output tokens.
* `LatencyCost`: seconds, from the speeds at which a model reads and writes tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.exceptions import MissingFactError, TaskError

if TYPE_CHECKING:
    from optuna_agenttts.task.stage import Model, Stage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@runtime_checkable
class CostModel(Protocol):
    """Prices a stage. Any object with this method and attribute will do.

    A cost must be finite, at least zero, and must not fall as samples are added: the search
    for allocations that fit relies on it, and `Task` checks it when it is constructed.
    """

    @property
    def unit(self) -> str:
        """The unit of the cost, as shown to people: ``"USD"``, ``"s"``."""

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Price `samples` samples of `model` in `stage`, for one instance.

        Args:
            stage: The stage, with its prompt and generation lengths in tokens.
            model: One of the stage's models.
            samples: Numbers of samples, each at least 1, any shape.

        Returns:
            Costs, in the shape of `samples`.

        Raises:
            MissingFactError: The model does not state a fact that this cost needs.
        """


def _tokens(
    stage: Stage, samples: Ints, *, prefix_sharing: bool, fusion: bool
) -> tuple[Floats, Floats]:
    """Prompt and generated tokens of one instance, the fusion call included."""
    count = samples.astype(np.float64)
    prompt = np.full_like(count, stage.prompt_tokens)
    if not prefix_sharing:
        prompt = prompt * count
    generated = count * stage.generation_tokens
    if fusion:
        # One call more, which reads the instance and every candidate and writes one answer; a
        # single sample needs no fusion.
        fused = count > 1
        prompt = prompt + fused * (stage.prompt_tokens + generated)
        generated = generated + fused * stage.generation_tokens
    return prompt, generated


def _fact(model: Model, fact: str, cost: str) -> float:
    value: float | None = getattr(model, fact)
    if value is None:
        raise MissingFactError(
            f"{cost} needs `{fact}` of model {model.name!r}, which is None: "
            f"write Model({model.name!r}, {fact}=...) or choose another `cost`."
        )
    return value


@dataclass(frozen=True, kw_only=True)
class FlopsCost:
    """FLOPs, in samples of a small reference model (Theorem 1).

    With M parameters, S samples, a prompt of Np and a generation of Nd tokens::

        cost = ((M / 3e9) * (Np + S * Nd) - 128) / 64

    that is, how many samples of a 3e9-parameter model with a prompt of 128 and a generation of
    64 tokens the same FLOPs would buy. What the formula makes negative costs zero.

    Args:
        prefix_sharing: Whether the prompt is paid once for all samples of a stage, as servers
            with prefix caching do and the theorem assumes, or once for each of them.
        fusion: Whether to charge the call that fuses S > 1 samples into one answer: it reads the
            instance and every sample. The theorem leaves it out.
        reference_parameters: Size of the reference model.
        reference_prompt_tokens: Prompt length of the reference.
        reference_generation_tokens: Generation length of the reference.
    """

    prefix_sharing: bool = True
    fusion: bool = False
    reference_parameters: float = 3e9
    reference_prompt_tokens: float = 128
    reference_generation_tokens: float = 64

    kind: ClassVar[str] = "flops"

    def __post_init__(self) -> None:
        """Check the reference."""
        for name in ("reference_parameters", "reference_generation_tokens"):
            if not getattr(self, name) > 0:
                raise TaskError(f"`{name}` is {getattr(self, name)!r}: it must be above 0.")
        if not self.reference_prompt_tokens >= 0:
            raise TaskError(
                f"`reference_prompt_tokens` is {self.reference_prompt_tokens!r}: "
                "it must be 0 or more."
            )

    @property
    def unit(self) -> str:
        """The unit: samples of the reference model."""
        return "reference samples"

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Price a stage; see `CostModel.stage_cost`."""
        prompt, generated = _tokens(
            stage, samples, prefix_sharing=self.prefix_sharing, fusion=self.fusion
        )
        ratio = _fact(model, "parameters", "FlopsCost") / self.reference_parameters
        cost = ratio * (prompt + generated) - self.reference_prompt_tokens
        return np.maximum(cost / self.reference_generation_tokens, 0.0)


@dataclass(frozen=True, kw_only=True)
class PriceCost:
    """US dollars, from `Model.input_price` and `Model.output_price` (USD per million tokens).

    Args:
        prefix_sharing: Whether the prompt is billed once for all samples of a stage. Most
            providers bill it for each request, hence the default.
        fusion: Whether to charge the call that fuses S > 1 samples into one answer.
    """

    prefix_sharing: bool = False
    fusion: bool = False

    kind: ClassVar[str] = "price"

    @property
    def unit(self) -> str:
        """The unit: US dollars."""
        return "USD"

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Price a stage; see `CostModel.stage_cost`."""
        prompt, generated = _tokens(
            stage, samples, prefix_sharing=self.prefix_sharing, fusion=self.fusion
        )
        input_price = _fact(model, "input_price", "PriceCost")
        output_price = _fact(model, "output_price", "PriceCost")
        return (prompt * input_price + generated * output_price) / 1e6


@dataclass(frozen=True, kw_only=True)
class LatencyCost:
    """Seconds, from `Model.prompt_tokens_per_second` and `Model.generation_tokens_per_second`.

    The stages of a pipeline wait for each other, so their latencies add up. Within a stage, the
    prompt is read once for each wave of `concurrency` samples that run side by side (once in all
    with prefix sharing), and each wave writes its generations at the speed of one.

    Args:
        concurrency: How many samples of one instance the server generates side by side.
        prefix_sharing: Whether only the first wave has to read the prompt.
        fusion: Whether to charge the call that fuses S > 1 samples into one answer.
    """

    concurrency: int = 1
    prefix_sharing: bool = True
    fusion: bool = False

    kind: ClassVar[str] = "latency"

    def __post_init__(self) -> None:
        """Check the concurrency."""
        if self.concurrency < 1:
            raise TaskError(f"`concurrency` is {self.concurrency!r}: it must be 1 or more.")

    @property
    def unit(self) -> str:
        """The unit: seconds."""
        return "s"

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Price a stage; see `CostModel.stage_cost`."""
        read = _fact(model, "prompt_tokens_per_second", "LatencyCost")
        write = _fact(model, "generation_tokens_per_second", "LatencyCost")
        waves = np.ceil(samples / self.concurrency)
        prompt = stage.prompt_tokens * (np.ones_like(waves) if self.prefix_sharing else waves)
        seconds = prompt / read + waves * stage.generation_tokens / write
        if self.fusion:
            candidates = samples * stage.generation_tokens
            call = (stage.prompt_tokens + candidates) / read + stage.generation_tokens / write
            seconds = seconds + (samples > 1) * call
        return np.asarray(seconds, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class TableCost:
    """Costs that are listed: what a cost model of the user's own becomes in storage.

    Args:
        table: For each stage and model, the cost of 1, 2, ... samples.
        unit_name: The unit, as shown to people.
    """

    table: Mapping[str, Mapping[str, tuple[float, ...]]]
    unit_name: str = ""

    kind: ClassVar[str] = "table"

    @property
    def unit(self) -> str:
        """The unit that was stated."""
        return self.unit_name

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Look a stage up; see `CostModel.stage_cost`."""
        try:
            row = self.table[stage.name][model.name]
        except KeyError:
            raise MissingFactError(
                f"TableCost lists no cost of model {model.name!r} in stage {stage.name!r}: "
                "add a row to `table`."
            ) from None
        if samples.max(initial=1) > len(row):
            raise MissingFactError(
                f"TableCost lists {len(row)} numbers of samples of model {model.name!r} in stage "
                f"{stage.name!r}, and {samples.max()} were asked for: extend the row or lower "
                "the stage's `max_samples`."
            )
        return np.asarray(row, dtype=np.float64)[samples - 1]


def cost_row(owner: str, cost: CostModel, stage: Stage, model: Model) -> Floats:
    """What 1, 2, ... samples of a model cost in a stage, checked.

    Args:
        owner: Whose costs they are, for errors.
        cost: The cost model.
        stage: The stage.
        model: One of its models.

    Raises:
        TaskError: There is not one cost for each number of samples, or costs are not finite, below
            zero, or fall.
    """
    row = np.asarray(
        cost.stage_cost(stage, model, np.arange(1, stage.max_samples + 1)), dtype=np.float64
    )
    where = f"{owner}: `cost` of model {model.name!r} in stage {stage.name!r}"
    if row.shape != (stage.max_samples,):
        raise TaskError(
            f"{where} has shape {row.shape} for {stage.max_samples} numbers of samples: "
            "`stage_cost` must return one cost for each."
        )
    if not np.isfinite(row).all() or (row < 0).any():
        raise TaskError(f"{where} is {row.min()} to {row.max()}: costs are finite and 0 or more.")
    if (np.diff(row) < 0).any():
        raise TaskError(f"{where} falls as samples are added: costs must not.")
    row.flags.writeable = False
    return row


_KINDS: Mapping[str, type[Any]] = {
    cost.kind: cost for cost in (FlopsCost, PriceCost, LatencyCost, TableCost)
}


def cost_to_dict(cost: CostModel, stages: tuple[Stage, ...]) -> dict[str, Any]:
    """Turn a cost model into JSON-ready values.

    A cost model of the user's own is written down as the table of what it charges, because a
    study's storage must never name code to run.
    """
    if type(cost) in _KINDS.values() and not isinstance(cost, TableCost):
        return {"kind": cost.kind, **asdict(cost)}  # type: ignore[attr-defined, call-overload]
    table = {
        stage.name: {
            model.name: cost.stage_cost(stage, model, np.arange(1, stage.max_samples + 1)).tolist()
            for model in stage.models
        }
        for stage in stages
    }
    return {"kind": TableCost.kind, "table": table, "unit_name": cost.unit}


def cost_from_dict(values: Mapping[str, Any]) -> CostModel:
    """Undo `cost_to_dict`.

    Raises:
        TaskError: The kind of cost is unknown.
    """
    options = dict(values)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise TaskError(
            f"`cost` has kind {kind!r}: this version knows {', '.join(sorted(_KINDS))}."
        )
    if kind == TableCost.kind:
        options["table"] = {
            stage: {model: tuple(row) for model, row in rows.items()}
            for stage, rows in options["table"].items()
        }
    cost: CostModel = _KINDS[kind](**options)
    return cost
