"""Parts of a summary as HTML, for notebooks and web pages."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.report.expenditure import Expenditure
from optuna_agenttts.report.fragments import scores_table
from optuna_agenttts.report.importances import Importance
from optuna_agenttts.report.outcomes import OutcomeTable
from optuna_agenttts.report.saturation import Saturation
from optuna_agenttts.report.text import score_text, share_text, spend_text
from optuna_agenttts.study.claims import summary as verdicts_text
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html


def saturation_section(saturation: Saturation, metric: str) -> Html:
    """Return the models of each stage, with their expected scores and where samples saturate.

    Args:
        saturation: The curves.
        metric: Title of the scores.
    """
    rows = []
    for curve in saturation.curves:
        at, name = curve.saturates_at, html.escape(curve.model)
        if curve.recommended:
            name = html.join([html.element("b", name), " (recommended)"])
        if at is None:
            continue
        place = curve.samples.index(at)
        low, high = curve.saturates_between or (at, at)
        after = (f"{at} ({low} to {high})", curve.affordable, len(curve.trials))
        rows.append(((curve.stage, name), curve.values[place], curve.intervals[place], after))
    left_out = [
        f"{curve.stage}: {curve.model}: one sample is over the budget"
        for curve in saturation.curves
        if curve.saturates_at is None
    ]
    return html.join(
        [
            html.heading("Which model, and how many samples"),
            scores_table(
                rows,
                ("stage", "model"),
                ("samples (90 % interval)", "most samples within the budget", "trials"),
                margin=saturation.margin,
                score=f"expected {metric}",
                numbers=(0, 1, 2),
            ),
            html.bullets(left_out),
            html.paragraph(
                "Expected with as many samples as the model saturates at, the other stages being "
                "as recommended. Further samples within the budget are expected to gain at most "
                f"{saturation.margin:.2g}."
            ),
        ]
    )


def importances_section(importances: Sequence[Importance]) -> Html:
    """Return which settings matter, the most important one first."""
    rows = [
        (
            f"{each.setting} of {each.stage}",
            share_text(each.share),
            " to ".join(map(share_text, each.interval)),
            html.interval(each.share, each.interval, (0.0, 1.0), label=share_text(each.share)),
            f"{each.loss:.2g}",
        )
        for each in sorted(importances, key=lambda each: -each.share)
    ]
    head = ("setting", "share", "90 % interval", "from 0 to 100 %", "loss if chosen at random")
    about = "Shares of the variation of expected scores among all allocations within the budget."
    table = html.table(head, rows, numbers=(1, 4))
    return html.join([html.heading("What matters"), table, html.paragraph(about)])


def expenditure_section(expenditure: Expenditure) -> Html:
    """Return the spend on each model of each stage, the largest one first."""
    total = sum(expense.spend for expense in expenditure.expenses)
    rows = [
        (
            expense.stage,
            expense.model,
            spend_text(expense.spend, expenditure.unit),
            share_text(expense.spend / total) if total else "-",
            spend_text(expense.saved, expenditure.unit) if expense.saved else "-",
            expense.trials,
        )
        for expense in sorted(expenditure.expenses, key=lambda each: -each.spend)
    ]
    head = ("stage", "model", "spend", "share", "saved by reuse", "trials")
    parts = [html.heading("What it cost"), html.table(head, rows, numbers=(2, 3, 4, 5))]
    if not expenditure.measured:
        parts.append(
            html.paragraph("Divided among stages in proportion to the costs of allocations.")
        )
    return html.join(parts)


def outcomes_section(
    outcomes: OutcomeTable, metric: str, *, margin: float = 0.0, limit: int = 10
) -> Html:
    """Return the instances that fail most often.

    Args:
        outcomes: The outcomes.
        metric: Title of the scores.
        margin: Difference of scores that is worth showing, in units of the metric.
        limit: Maximum number of instances.
    """
    rows = [
        (each.name, score_text(each.mean, margin), f"{each.decides:.2f}", each.trials)
        for each in outcomes.instances[:limit]
    ]
    head = ("instance", f"mean {metric}", "agrees with other instances", "trials")
    about = (
        f"The worst {len(rows)} of {len(outcomes.instances)}. The correlation of an instance with "
        "the others is high where it tells good allocations from bad ones."
    )
    table = html.table(head, rows, numbers=(1, 2, 3))
    return html.join([html.heading("Which instances fail"), table, html.paragraph(about)])


def guidelines_section(planned: Round) -> Html:
    """Return the guidelines of a round of the agent, and how its claims compare with the fit."""
    title = f"Round {planned.number}, after {planned.trials} trials, by {planned.model}:"
    return html.join(
        [
            html.heading("Guidelines of the agent"),
            html.paragraph(title),
            html.bullets(planned.guidelines),
            html.paragraph(verdicts_text(planned.verdicts)),
        ]
    )
