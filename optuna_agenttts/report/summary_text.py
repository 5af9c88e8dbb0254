"""A summary of a study as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from optuna_agenttts.report.outcomes import InstanceOutcomes
from optuna_agenttts.report.text import count_text, score_text, spend_text, table
from optuna_agenttts.study.claims import summary as summary_of_verdicts
from optuna_agenttts.support.plain import one_line

if TYPE_CHECKING:
    from optuna_agenttts.report.summary import Summary

_NAME = 60
"""Maximum length of a name, in characters. Chosen by hand, to keep tables on a screen."""
_EXPENSES = 6
"""Models listed with their spend. Chosen by hand."""
_INSTANCES = 5
"""Instances listed by name. Chosen by hand."""


def text_of(summary: Summary) -> str:
    """Return a summary as plain text, for a terminal."""
    parts = [
        ("", _head(summary)),
        ("Recommended", _recommended(summary)),
        ("What matters", _importances(summary)),
        ("Samples", _saturation(summary)),
        ("Spend", _spend(summary)),
        ("Instances", _instances(summary)),
        ("Guidelines of the agent", _guidelines(summary)),
        ("Warnings", [f"- {line}" for line in summary.warnings]),
        ("Next", [f"- {line}" for line in summary.next_steps]),
    ]
    blocks = []
    for title, lines in parts:
        if shown := list(lines):
            blocks.append("\n".join([title, *(f"  {line}" for line in shown)] if title else shown))
    return "\n\n".join(blocks)


def duration_text(seconds: float) -> str:
    """Return a duration in its largest unit, with the next smaller one if that says more."""
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def metric_of(summary: Summary) -> str:
    """Return the name of the metric, or "score"."""
    return one_line(summary.task.metric, _NAME) or "score"


def _head(summary: Summary) -> Iterator[str]:
    """Yield what was tuned, under which budget, and by how many trials."""
    task, unit = summary.task, one_line(summary.spend.unit, _NAME) or "units of the task's cost"
    yield f"Study {one_line(summary.study)!r} of task {one_line(task.name)!r}"
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
    direction = {True: ", higher is better", False: ", lower is better", None: ""}
    yield f"metric: {metric_of(summary)}{direction[summary.maximize]}"
    allocations = task.count_allocations()
    count = f"{allocations:,}" if isinstance(allocations, int) else f"about {allocations:.2g}"
    yield (
        f"budget: {task.budget:.4g} {unit} per instance, for {count} "
        f"allocation{'' if allocations == 1 else 's'}"
    )
    states = ", ".join(f"{count} {name}" for name, count in summary.states.items()) or "none"
    text = f"trials: {states}"
    if summary.instances:
        text += f"; on {count_text(summary.instances, 'instance')} each"
    if summary.fresh:
        text += f"; confirmed on {count_text(summary.fresh, 'fresh instance')}"
    if summary.seconds is not None:
        text += f"; {duration_text(summary.seconds)}"
    yield text
    if summary.pruned:
        yield f"pruned, with the mean of what each saw: {summary.pruned}"


def _recommended(summary: Summary) -> Iterator[str]:
    """Yield what to use, and why it is not the luckiest trial."""
    found = summary.recommendation
    if found is None:
        yield summary.without
        return
    yield from str(found).splitlines()
    if summary.luckiest is not None:
        number, value = summary.luckiest
        better = value - found.value if summary.maximize else found.value - value
        if better > 0:
            yield (
                f"The best score, {score_text(value, found.margin)} of trial {number}, is partly "
                "luck."
            )


def _importances(summary: Summary) -> Iterator[str]:
    """Yield how much the score depends on each setting."""
    rows = [("setting", "share", "90 % interval", "loss if random")]
    rows += [
        (
            f"{each.setting} of {one_line(each.stage, _NAME)}",
            f"{each.share:.0%}",
            f"{each.interval[0]:.0%} to {each.interval[1]:.0%}",
            score_text(each.loss),
        )
        for each in sorted(summary.importances, key=lambda each: -each.share)
    ]
    if summary.importances:
        yield f"Share of the differences in {metric_of(summary)} within the budget"
        yield from table(rows)


def _saturation(summary: Summary) -> Iterator[str]:
    """Yield where the recommended models' samples saturate."""
    if summary.saturation is None:
        return
    margin = score_text(summary.saturation.margin)
    for curve in summary.saturation.curves:
        if not curve.recommended or curve.saturates_at is None:
            continue
        text = f"{one_line(curve.stage, _NAME)}, {one_line(curve.model, _NAME)}: "
        most = f"{curve.affordable} that the budget allows"
        if curve.affordable == 1:
            yield f"{text}the budget allows 1 sample"
        elif curve.saturates_at == curve.affordable:
            yield f"{text}still gains at the {most}"
        else:
            yield (
                f"{text}saturates at {count_text(curve.saturates_at, 'sample')}; more, up to the "
                f"{most}, are expected to gain less than {margin}"
            )


def _spend(summary: Summary) -> Iterator[str]:
    """Yield what the search was spent on."""
    yield str(summary.spend)
    costs = summary.expenditure
    total = sum(expense.spend for expense in costs.expenses)
    ranked = sorted(costs.expenses, key=lambda expense: -expense.spend)
    saved = sum(expense.saved for expense in costs.expenses)
    if saved:
        yield f"Reuse of samples saved {spend_text(saved, one_line(costs.unit, _NAME))}."
    rows = [("stage", "model", "spend", "share", "trials")]
    rows += [
        (
            one_line(expense.stage, _NAME),
            one_line(expense.model, _NAME),
            spend_text(expense.spend, "").removesuffix(" units of the cost"),
            f"{expense.spend / total:.0%}",
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


def _instances(summary: Summary) -> Iterator[str]:
    """Yield which instances fail, and which ones tell allocations apart."""
    found = summary.outcomes.instances
    if len(found) < 2:
        return

    def listed(instances: Sequence[InstanceOutcomes]) -> str:
        return ", ".join(
            f"{one_line(each.name, _NAME)} ({score_text(each.mean)})" for each in instances
        )

    yield f"worst mean {metric_of(summary)} over the trials: {listed(found[:_INSTANCES])}"
    deciding = [each for each in found if each.decides > 0]
    deciding.sort(key=lambda each: -each.decides)
    if deciding:
        yield f"tell good allocations from bad ones best: {listed(deciding[:_INSTANCES])}"


def _guidelines(summary: Summary) -> Iterator[str]:
    """Yield the agent's latest guidelines."""
    planned = summary.guidelines
    if planned is None:
        return
    yield f"Round {planned.number}, after {planned.trials} trials, by {one_line(planned.model)}"
    yield from (f"- {one_line(line, 1000)}" for line in planned.guidelines)
    if checked := summary_of_verdicts(planned.verdicts):
        yield checked
