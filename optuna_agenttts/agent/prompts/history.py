"""Blocks of a prompt about the trials: those that are finished, and those that are running."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optuna_agenttts.agent.prompts.data import amount, block, quote, table
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.feasibility import worst_violations
from optuna_agenttts.planner.fronts import behind_front
from optuna_agenttts.planner.posterior import Z90
from optuna_agenttts.task.efforts import efforts_by_model
from optuna_agenttts.task.stage import Stage

_BEST, _RECENT = 10, 8
"""Trials in a history that does not have all: so many of the best and of the latest. Chosen by
hand."""
_FEW = 5, 4
"""The same for a history with a few."""
_MIN_SHARED = 5
"""Minimum number of shared instances for a paired comparison; chosen by hand."""


def history_block(data: PromptData) -> tuple[str, ...]:
    """Return the table of trials: of all, of the telling ones, of fewer, and of a few."""
    evidence, allocations = data.evidence, data.evidence.choices
    if not allocations:
        return ("",)
    violated = worst_violations(evidence)
    rivals = [_best(evidence)] * len(allocations)
    if evidence.frontier:
        rivals = behind_front(evidence)[1].tolist()
    front = "front" if evidence.frontier else "best"
    measured = evidence.measured if data.measures_cost else ()
    lines = []
    for row, choices in enumerate(allocations):
        value = float(evidence.sign * evidence.scores[row])
        cells = [
            f"{number_of(evidence, row)}{_origin(evidence, row)}",
            data.line(choices),
            data.figures.value(value),
            f"{'on' * evidence.frontier} the {front}".strip()
            if row == rivals[row]
            else data.figures.plus_minus(*behind(evidence, rivals[row], row)),
        ]
        if _has_fit(data):
            cells.append(data.figures.value(data.facts.expected[row]))
        cells.append(amount(data.task.feasible.cost(choices)))
        if measured:
            cells.append(amount(measured[row]) if np.isfinite(measured[row]) else "-")
        if evidence.constraints:
            cells.append(_constraints(violated.get(choices, {})))
        lines.append(cells)
    columns = ["trial", "allocation, by stage in order", "value", f"behind the {front}", "cost"]
    columns += ["measured cost"] * bool(measured)
    if _has_fit(data):
        columns.insert(4, "fit")
    if evidence.constraints:
        columns.append("constraints")
    lists = (
        range(len(lines)),
        listed_trials(evidence),
        listed_trials(evidence, *_FEW),
        listed_trials(evidence, *_FEW, models=False),
    )
    return tuple(
        block("history", [_note(data, len(rows)), *table(columns, [lines[row] for row in rows])])
        for rows in lists
    )


def _has_fit(data: PromptData) -> bool:
    """Return whether the table has a column of expected values."""
    return data.shows("models") and bool(data.facts.expected)


def _note(data: PromptData, shown: int) -> str:
    """Return the note above the table."""
    total = len(data.evidence.scores)
    which = "All trials" if shown == total else f"{shown} of {total} trials: best, latest, telling"
    fit = "; fit: what a statistical model of all trials expects" if _has_fit(data) else ""
    front = "; front: the best trial that is as cheap or cheaper" * data.evidence.frontier
    return (
        f"{which}; ±: one standard error, over the instances of both trials{front}{fit}; *: yours"
    )


def _origin(evidence: Evidence, row: int) -> str:
    """Return a mark of the trials that the agent proposed, and the name of other origins."""
    origin = evidence.origins[row] if evidence.origins else ""
    return {"agent": "*", "confirmation": " (confirmation)"}.get(origin, "")


def running_block(data: PromptData) -> str:
    """Return the allocations of the running trials."""
    return block("running", map(data.line, data.evidence.pending))


def number_of(evidence: Evidence, row: int) -> int:
    """Return the number of a trial."""
    return evidence.numbers[row] if evidence.numbers else row


def behind(evidence: Evidence, best: int, row: int) -> tuple[float, float | None]:
    """Return how far a trial is behind another one, and the standard error of that.

    The error is that of the paired difference over the instances that both saw. It is None if
    there are fewer than 5 of them and either trial's own error is not known.

    Args:
        evidence: The trials.
        best: Row of the other one.
        row: Row of the trial.
    """
    blocks = evidence.block_of_rows()
    # Trials that confirm an allocation have other instances.
    if evidence.outcomes and blocks[row] == blocks[best]:
        ours, theirs = evidence.outcomes[row], evidence.outcomes[best]
        shared = [step for step in theirs if step in ours]
        gaps = evidence.sign * np.array([theirs[step] - ours[step] for step in shared])
        gaps = gaps[np.isfinite(gaps)]
        if len(gaps) >= _MIN_SHARED:
            return float(gaps.mean()), float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    first, second = (_standard_error(evidence, each) for each in (best, row))
    error = None if first is None or second is None else float(np.hypot(first, second))
    return float(evidence.scores[best] - evidence.scores[row]), error


def near_best(evidence: Evidence) -> int:
    """Return how many trials of other allocations cannot be told from the best one."""
    if not len(evidence.scores):
        return 0
    best, allocations = _best(evidence), evidence.choices
    found = {
        choices
        for row, choices in enumerate(allocations)
        if (gap := behind(evidence, best, row))[1] and gap[0] < Z90 * gap[1]
    }
    return len(found - {allocations[best]})


def _best(evidence: Evidence) -> int:
    """Return the row of the best trial."""
    return _order(evidence)[0]


def _order(evidence: Evidence) -> list[int]:
    """Return the rows from the best, those that violate a constraint after all others.

    With two objectives, the best are on the front, or closest to it.
    """
    violated = worst_violations(evidence)
    allocations = evidence.choices
    violates = np.array([bool(violated.get(choices)) for choices in allocations])
    gaps = behind_front(evidence)[0] if evidence.frontier else np.zeros(len(violates))
    order: list[int] = np.lexsort((-evidence.scores, gaps, violates)).tolist()
    return order


def _constraints(violated: Mapping[str, float]) -> str:
    """Return which constraints an allocation violates and by how much."""
    excess = ", ".join(f"{quote(key)} by {value:.3g}" for key, value in violated.items())
    return f"violates {excess}" if excess else "met"


def listed_trials(
    evidence: Evidence, best: int = _BEST, recent: int = _RECENT, *, models: bool = True
) -> list[int]:
    """Select the best trials, the latest, and the best with each model of each stage.

    Thinking efforts of one model count as one, since their number would make prompts long.

    Args:
        evidence: The trials so far.
        best: Number of the best trials.
        recent: Number of the latest trials.
        models: Whether to select the best with each model, of which large tasks have many.

    Returns:
        Their rows in the evidence.
    """
    order = _order(evidence)
    rows = {*order[:best], *range(len(order))[-recent:]}
    for stage, found in enumerate(evidence.task.stages if models else ()):
        for group in _groups(found):
            rows.update([row for row in order if evidence.models[row, stage] in group][:1])
    return sorted(rows)


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
