"""A task as HTML, for notebooks and web pages."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html
from optuna_agenttts.support.plain import amount_text
from optuna_agenttts.task.feasible import FeasibleSet
from optuna_agenttts.task.stage import Stage


def overview(
    name: str,
    description: str,
    metric: str,
    stages: Sequence[Stage],
    feasible: FeasibleSet,
    unit: str,
) -> Html:
    """Return name, description, budget and models of a task.

    Args:
        name: Name of the task.
        description: Its description.
        metric: Name of its metric; empty if it has none.
        stages: Its stages.
        feasible: Its costs and budget.
        unit: Unit of the costs.
    """
    count = feasible.count()
    facts = {
        "metric": metric,
        "budget": f"{amount_text(feasible.budget, unit)} per instance",
        "allocations within it": f"{count:,}" if isinstance(count, int) else f"about {count:.3g}",
    }
    parts = [html.heading(f"Task {name}"), html.paragraph(description), html.facts(facts)]
    return html.join([*parts, _models(stages, feasible, unit)])


def _models(stages: Sequence[Stage], feasible: FeasibleSet, unit: str) -> Html:
    """Return a table of the models of each stage, with the samples that the budget allows."""
    rows: list[list[object]] = []
    cheapest = [min(float(row[0]) for row in costs) for costs in feasible.costs]
    for index, stage in enumerate(stages):
        others = sum(cheapest) - cheapest[index]
        # Of efforts, each sample with its thoughts.
        varies = len({stage.sample_tokens(model) for model in stage.models}) > 1
        for position, model in enumerate(stage.models):
            first = position == 0
            rows.append(
                [
                    _stage(stage) if first else None,
                    f"{amount_text(stage.prompt_tokens)} + "
                    f"{amount_text(stage.sample_tokens(model))}"
                    if first or varies
                    else None,
                    html.line(model.name),
                    amount_text(float(feasible.costs[index][position][0])),
                    feasible.max_samples(index, position, others),
                ]
            )
    head = (
        "stage",
        "tokens (prompt + sample)",
        "model",
        f"cost of one sample ({unit})" if unit else "cost of one sample",
        "most samples",
    )
    return html.table(head, rows, numbers=(1, 3, 4))


def _stage(stage: Stage) -> Html:
    """Return name and description of a stage."""
    if not stage.description:
        return html.element("b", stage.name)
    return html.join([html.element("b", stage.name), html.BREAK, stage.description])
