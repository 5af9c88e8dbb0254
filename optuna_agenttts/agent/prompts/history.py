"""Blocks of a prompt about the trials: those that are finished, and those that are running."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optuna_agenttts.agent.prompts.data import block, quote, table
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.agent.prompts.tables import allocation_line
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.feasibility import worst_violations
from optuna_agenttts.planner.pools import choices_of
from optuna_agenttts.task.efforts import efforts_by_model
from optuna_agenttts.task.stage import Stage

_BEST, _RECENT = 10, 8
"""Trials in the history of a prompt: so many of the best and of the latest. Chosen by hand."""


_ORIGINS = {
    "agent": "you",
    "numerical": "fit",
    "fallback": "fit",
    "opening": "opening",
    "confirmation": "confirmation",
}


def origin_text(origin: str) -> str:
    """Return who proposed a trial, as the prompt's tables have it."""
    return _ORIGINS.get(origin, "-")


def history_block(data: PromptData) -> str:
    """Return the table of trials."""
    evidence, task = data.evidence, data.task
    violated = worst_violations(evidence)
    allocations = choices_of(evidence.models, evidence.samples)
    why = listed_trials(evidence)
    rows = []
    for row in sorted(why):
        choices, error = allocations[row], _standard_error(evidence, row)
        value = float(evidence.sign * evidence.scores[row])
        constraints = [_constraints(violated.get(choices, {}))] * bool(evidence.constraints)
        rows.append(
            (
                str(evidence.numbers[row] if evidence.numbers else row),
                allocation_line(task.allocation(choices)),
                f"{value:.4g}" + (f" ± {error:.2g}" if error is not None else ""),
                f"{task.feasible.cost(choices):.4g}",
                *constraints,
                origin_text(evidence.origins[row] if evidence.origins else ""),
                why[row],
            )
        )
    if not rows:
        return ""
    columns = ["trial", "allocation", "value", "cost", "proposed by", "shown because"]
    if evidence.constraints:
        columns.insert(-2, "constraints")
    shown = f"{len(rows)} of {len(evidence.scores)} trials; ± is the standard error over instances"
    return block("history", [shown, *table(columns, rows)])


def running_block(data: PromptData) -> str:
    """Return the allocations of the running trials."""
    pending = (data.task.allocation(choices) for choices in data.evidence.pending)
    return block("running", map(allocation_line, pending))


def listed_numbers(evidence: Evidence) -> list[int]:
    """Return the numbers of the trials in the history."""
    return [evidence.numbers[row] if evidence.numbers else row for row in listed_trials(evidence)]


def _constraints(violated: Mapping[str, float]) -> str:
    """Return which constraints an allocation violates and by how much."""
    excess = ", ".join(f"{quote(key)} by {value:.3g}" for key, value in violated.items())
    return f"violates {excess}" if excess else "met"


def listed_trials(evidence: Evidence) -> dict[int, str]:
    """Select the best trials, the latest, and the best with each model of each stage.

    Thinking efforts of one model count as one, since their number would make prompts long.

    Args:
        evidence: The trials so far.

    Returns:
        Why each is listed, by row of the evidence: ``"best"``, ``"recent"``, or ``"telling"`` for
        the best trial with a model of a stage.
    """
    why: dict[int, str] = {}
    allocations = choices_of(evidence.models, evidence.samples)
    violated = worst_violations(evidence)
    # Allocations that violate a constraint come after all others.
    violates = np.array([bool(violated.get(choices)) for choices in allocations])
    order = np.lexsort((-evidence.scores, violates)).tolist()
    for row in order[:_BEST]:
        why[row] = "best"
    for row in range(len(order))[-_RECENT:]:
        why.setdefault(row, "recent")
    for stage in range(len(evidence.task.stages)):
        for models in _groups(evidence.task.stages[stage]):
            holders = [row for row in order if evidence.models[row, stage] in models]
            for row in holders[:1]:
                why.setdefault(row, "telling")
    return dict(sorted(why.items()))


def _groups(stage: Stage) -> list[list[int]]:
    """Return the positions of a stage's choices, those that are one model together."""
    kin = efforts_by_model(stage.models)
    return [
        [position] if model.thinking is None else kin.pop(model.thinking.model)
        for position, model in enumerate(stage.models)
        if model.thinking is None or model.thinking.model in kin
    ]


def _standard_error(evidence: Evidence, row: int) -> float | None:
    """Return the standard error of a trial's value over instances; None if unknown."""
    outcomes = list(evidence.outcomes[row].values()) if evidence.outcomes else []
    if len(outcomes) < 2 or not np.isfinite(outcomes).all():
        return None
    return float(np.std(outcomes, ddof=1) / np.sqrt(len(outcomes)))
