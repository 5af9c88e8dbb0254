"""Tables of computed evidence in the prompt: models, saturation, paired trials."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from optuna_agenttts.agent.prompts.data import block, quote, table
from optuna_agenttts.task.allocation import Allocation

TABLES = ("models", "saturation", "paired")
"""Names of the tables, in the order of the prompt."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Fitted facts about a model in a stage, with names; see `facts.ModelFact`."""

    stage: str
    model: str
    trials: int
    expected: float
    behind: float
    behind_sd: float
    companion: Allocation
    saturation: int
    saturation_range: tuple[int, int]
    gain: float
    gain_sd: float


@dataclass(frozen=True, slots=True)
class EffortRow:
    """Thinking efforts of a model in a stage, with names; see `facts.EffortFact`."""

    stage: str
    model: str
    efforts: tuple[str, ...]
    expected: tuple[float, ...]
    behind: tuple[float, ...]
    behind_sd: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PairedRow:
    """Paired comparison of two trials, with names; see `facts.PairedFact`."""

    stage: str
    better: str
    other: str
    numbers: tuple[int, int]
    difference: float
    error: float
    instances: int


def shown_tables(tables: Collection[str], insights: Collection[int]) -> tuple[str, ...]:
    """Return the names of the tables to show."""
    # The saturation table would reveal Insight 2.
    return tuple(
        name for name in TABLES if name in tables and (name != "saturation" or 2 in insights)
    )


def table_blocks(
    tables: Collection[str],
    facts: Sequence[ModelRow],
    paired: Sequence[PairedRow],
    efforts: Sequence[EffortRow] = (),
) -> list[str]:
    """Return the given tables, each as a block; empty for tables without rows."""
    models = [*_models(facts), *_efforts(efforts)]
    lines = {"models": models, "saturation": _saturation(facts), "paired": _paired(paired)}
    return [block(name, lines[name]) for name in TABLES if name in tables]


def allocation_line(allocation: Allocation) -> str:
    """Format an allocation on one line."""
    return ", ".join(
        f"{quote(stage)}: {quote(setting.model)} x {setting.samples}"
        for stage, setting in allocation.items()
    )


def _models(facts: Sequence[ModelRow]) -> list[str]:
    """Return the table of the distance of each model to the best."""
    if not facts:
        return []
    rows = [
        (
            quote(fact.stage),
            quote(fact.model),
            str(fact.trials),
            f"{fact.expected:.3g}",
            f"{fact.behind:.2g} ± {fact.behind_sd:.2g}" if fact.behind > 0 else "the best",
            allocation_line(fact.companion),
        )
        for fact in facts
    ]
    head = ("stage", "model", "trials", "expected at its best", "behind the best", "its best")
    note = "What a statistical fit to all trials says (± is one standard deviation):"
    return [note, *table(head, rows)]


def _efforts(efforts: Sequence[EffortRow]) -> list[str]:
    """Return the table of the distance of each thinking effort to the model's best."""
    if not efforts:
        return []
    rows = []
    for row in efforts:
        cells = [
            f"{effort} {expected:.3g} ({behind:.2g} ± {sd:.2g} behind)"
            if behind > 0
            else f"{effort} {expected:.3g} (best)"
            for effort, expected, behind, sd in zip(
                row.efforts, row.expected, row.behind, row.behind_sd
            )
        ]
        rows.append((quote(row.stage), quote(row.model), ", ".join(cells)))
    note = (
        "The same fit by thinking effort, each effort with what is best beside it within the "
        "budget; models above are at their best effort:"
    )
    head = ("stage", "model", "expected by effort (behind the model's best effort)")
    return [note, *table(head, rows)]


def _saturation(facts: Sequence[ModelRow]) -> list[str]:
    """Return the table of the samples at which each model saturates."""
    if not facts:
        return []
    rows = [
        (
            quote(fact.stage),
            quote(fact.model),
            f"{fact.saturation} ({fact.saturation_range[0]} to {fact.saturation_range[1]})",
            f"{fact.gain:.2g} ± {fact.gain_sd:.2g}",
        )
        for fact in facts
    ]
    head = ("stage", "model", "samples at saturation (range)", "gain over one sample")
    note = (
        "What a statistical fit to all trials says of samples beside the best rest (± is one "
        "standard deviation); the range holds those that cannot be told from the peak:"
    )
    return [note, *table(head, rows)]


def _paired(paired: Sequence[PairedRow]) -> list[str]:
    """Return the table of paired comparisons."""
    if not paired:
        return []
    rows = [
        (
            quote(pair.stage),
            f"{quote(pair.better)} (trial {pair.numbers[0]})",
            f"{quote(pair.other)} (trial {pair.numbers[1]})",
            f"{pair.difference:.2g} ± {pair.error:.2g}",
            str(pair.instances),
        )
        for pair in paired
    ]
    head = ("stage", "best trial with", "against best trial with", "difference", "instances")
    note = "On the same instances; the trials may differ in other stages too:"
    return [note, *table(head, rows)]
