"""Parts of a summary as lines of plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optuna_agenttts.report.expenditure import Expenditure
from optuna_agenttts.report.importances import Importance
from optuna_agenttts.report.outcomes import InstanceOutcomes, OutcomeTable
from optuna_agenttts.report.saturation import Saturation
from optuna_agenttts.report.text import metric_text, score_text, share_text, spend_text, table
from optuna_agenttts.study.claims import summary as summary_of_verdicts
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.support.plain import amount_text, one_line
from optuna_agenttts.task.task import Task

_NAME = 60
"""Maximum length of a name, in characters. Chosen by hand, to keep tables on a screen."""
_EXPENSES = 6
"""Models listed with their spend. Chosen by hand."""
_INSTANCES = 5
"""Instances listed by name. Chosen by hand."""


def duration_text(seconds: float) -> str:
    """Return a duration in its largest unit, with the next smaller one if that says more."""
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def metric_of(task: Task) -> str:
    """Return the name of the metric, or "score"."""
    return one_line(task.metric, _NAME) or "score"


def task_lines(task: Task, maximize: bool | None) -> Iterator[str]:
    """Yield what is tuned, under which budget.

    Args:
        task: The task.
        maximize: Whether higher values are better; None if there are several objectives.
    """
    if task.description:
        yield one_line(task.description)
    rows = [("stage", "models", "samples")]
    rows += [
        (
            one_line(stage.name, _NAME),
            one_line(", ".join(model.name for model in stage.models), 2 * _NAME),
            f"1 to {stage.max_samples}",
        )
        for stage in task.stages
    ]
    yield ""
    yield from table(rows)
    yield ""
    named = metric_of(task) if maximize is None else metric_text(task.metric, maximize)
    yield f"metric: {named}"
    count = task.count_allocations()
    number = f"{count:,}" if isinstance(count, int) else f"about {count:.2g}"
    yield (
        f"budget: {spend_text(task.budget, task.cost_model.unit)} per instance, for {number} "
        f"allocation{'' if count == 1 else 's'}"
    )


def importance_lines(importances: Sequence[Importance], metric: str) -> Iterator[str]:
    """Yield how much the score depends on each setting."""
    rows = [("setting", "share", "90 % interval", "loss if random")]
    rows += [
        (
            f"{each.setting} of {one_line(each.stage, _NAME)}",
            share_text(each.share),
            " to ".join(map(share_text, each.interval)),
            f"{each.loss:.2g}",
        )
        for each in sorted(importances, key=lambda each: -each.share)
    ]
    if importances:
        yield f"Share of the differences in {metric} within the budget"
        yield from table(rows)


def saturation_lines(saturation: Saturation) -> Iterator[str]:
    """Yield where the recommended models' samples saturate."""
    for curve in saturation.curves:
        if curve.recommended:
            stage, model = one_line(curve.stage, _NAME), one_line(curve.model, _NAME)
            yield f"{stage}, {model}: {curve.finding}"
    yield f"Samples beyond that are expected to gain at most {saturation.margin:.2g}."


def expenditure_lines(costs: Expenditure) -> Iterator[str]:
    """Yield what the search was spent on."""
    unit = one_line(costs.unit, _NAME) or "units of the cost"
    total = sum(expense.spend for expense in costs.expenses)
    ranked = sorted(costs.expenses, key=lambda expense: -expense.spend)
    saved = sum(expense.saved for expense in costs.expenses)
    if saved:
        yield f"Reuse of samples saved {spend_text(saved, costs.unit)}."
    rows = [("stage", "model", f"spend ({unit})", "share", "trials")]
    rows += [
        (
            one_line(expense.stage, _NAME),
            one_line(expense.model, _NAME),
            amount_text(expense.spend),
            share_text(expense.spend / total),
            str(expense.trials),
        )
        for expense in ranked[:_EXPENSES]
    ]
    if total:
        yield from table(rows)
        if len(ranked) > _EXPENSES:
            yield f"and {len(ranked) - _EXPENSES} more"
        if not costs.measured:
            yield "Stages are not measured: spends are divided by the costs of allocations."


def outcome_lines(outcomes: OutcomeTable, metric: str, margin: float) -> Iterator[str]:
    """Yield which instances fail, and which ones tell allocations apart.

    Args:
        outcomes: The outcomes.
        metric: Name of the metric.
        margin: Difference of scores that is worth printing.
    """
    found = outcomes.instances
    if len(found) < 2:
        return

    def listed(instances: Sequence[InstanceOutcomes]) -> str:
        return ", ".join(
            f"{one_line(each.name, _NAME)} ({score_text(each.mean, margin)})" for each in instances
        )

    yield f"worst mean {metric} over the trials: {listed(found[:_INSTANCES])}"
    deciding = [each for each in found if each.decides > 0]
    deciding.sort(key=lambda each: -each.decides)
    if deciding:
        yield f"tell good allocations from bad ones best: {listed(deciding[:_INSTANCES])}"


def guideline_lines(planned: Round) -> Iterator[str]:
    """Yield the guidelines of a round of the agent."""
    yield f"Round {planned.number}, after {planned.trials} trials, by {one_line(planned.model)}"
    yield from (f"- {one_line(line, 1000)}" for line in planned.guidelines)
    if checked := summary_of_verdicts(planned.verdicts):
        yield checked
