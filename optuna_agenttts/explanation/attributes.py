"""Attributes of a study for people: what is tuned, and what was found."""

from __future__ import annotations

from optuna_agenttts.report.points import measured_cost
from optuna_agenttts.report.summary import Summary
from optuna_agenttts.report.text import (
    count_text,
    direction_text,
    interval_text,
    metric_of,
    models_of,
    score_text,
    sentence,
)
from optuna_agenttts.support.plain import amount_text, shortened
from optuna_agenttts.task.stage import Stage

_LINE = 150
"""Characters of a value: the dashboard does not wrap lines. Chosen by hand."""


def facts_of(summary: Summary) -> dict[str, str]:
    """Return the attributes of a study, in order of importance; values are single lines."""
    task, found = summary.task, summary.recommendation
    unit = task.cost_model.unit or "units of the cost"
    budget = f"{amount_text(task.budget, unit)} per instance"
    metric = metric_of(task)
    if summary.maximize is not None:
        metric += f", {direction_text(summary.maximize)}"
    # The dashboard shows five attributes at first.
    names = ("Recommended", "Expected", "Cost", "As good for less")
    facts = dict.fromkeys(names if summary.maximize is not None else (), "not known yet")
    if found is not None:
        facts["Recommended"] = sentence(found.allocation)
        facts["Expected"] = f"{metric_of(task)} {score_text(found.value, found.margin)}"
        if found.interval is not None:
            ends = interval_text(found.interval, found.margin)
            facts["Expected"] += f" (90 % interval {ends})"
        cost = f"{amount_text(found.cost)} of at most {budget}"
        facts["Cost"] = "; ".join(
            filter(None, [measured_cost(found.frontier, found.cost, found.unit), cost])
        )
        facts["As good for less"] = "no tried allocation is shown to be"
        if found.interval is None:
            facts["As good for less"] = "not known: this takes outcomes of single instances"
        if found.ties:
            tie = found.ties[0]
            facts["As good for less"] = (
                f"{sentence(tie.allocation)}: {score_text(tie.value, found.margin)}, "
                f"cost {amount_text(tie.cost)}"
            )
    facts["Task"] = f"{task.name}: {metric}"
    facts["Budget"] = budget
    facts["Cost model"] = f"{type(task.cost_model).__name__}, in {unit}"
    facts["Metric"] = metric
    if task.metric_range is not None:
        facts["Metric"] += ", from {:g} to {:g}".format(*task.metric_range)
    for number, stage in enumerate(task.stages, 1):
        facts[f"Stage {number}"] = _stage(stage)
    facts["Spend"] = amount_text(summary.spend.total, unit)
    if not summary.spend.whole:
        facts["Spend"] += ", for one instance per trial"
    return {name: shortened(" ".join(value.split()), _LINE) for name, value in facts.items()}


def _stage(stage: Stage) -> str:
    models = ", ".join(models_of(stage))
    samples = count_text(stage.max_samples, "sample")
    return f"{stage.name}: 1 to {samples} of {models}"
