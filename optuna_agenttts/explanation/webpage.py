"""A study as one web page that needs no network: summary, figures, trials, task, and how to go on.

Plotly's script is part of the page. A page without Plotly has everything but the figures.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.report.fragments import allocation_cell
from optuna_agenttts.report.sections import (
    expenditure_section,
    guidelines_section,
    importances_section,
    outcomes_section,
    saturation_section,
)
from optuna_agenttts.report.summary import Summary, summary_of
from optuna_agenttts.report.text import score_text, sentence
from optuna_agenttts.report.trials import STATE_NAMES
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.spending import stated_spend
from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html
from optuna_agenttts.task.parameters import read_choices
from optuna_agenttts.visualization.figures import FIGURES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:"
)
"""Content security policy: the page loads nothing, whatever names in it contain."""
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 1000px; margin: 0 auto; padding: 1.5em; overflow-wrap: break-word; }
h1 { font-size: 1.7em; margin: 0 0 .2em; }
h2 { font-size: 1.3em; border-bottom: 1px solid #bbb; margin: 1.6em 0 .5em; }
h3, h4 { font-size: 1.05em; }
pre { background: #f4f4f4; padding: .7em; white-space: pre-wrap; }
.lead { font-size: 1.15em; }
section { overflow-x: auto; }
nav a { margin-right: 1em; }
footer { margin-top: 2em; color: #555; }
@page { size: A4; margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  section { overflow: visible; }
  .figure, tr, pre { break-inside: avoid; }
  .figure { zoom: 0.7; }
  h2, h3, h4 { break-after: avoid; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""
_HEIGHT = 480
"""Height of a figure in pixels, unless the figure has its own. Chosen by hand."""
_WORST = 10
"""Instances shown without a click. Chosen by hand."""
_CODE = """\
import optuna
from optuna_agenttts import recommend

{storage}
study = optuna.load_study(study_name={name!r}, storage=storage)
print(recommend(study))
"""
_EVALUATION = """
# With your objective, on instances that the search has not seen:
# objective.evaluate({allocation!r}, held_out)
"""


def web_page(view: StudyView, about: Mapping[str, str], storage: str = "storage = ...") -> str:
    """Return a web page about a study.

    Args:
        view: The study.
        about: Facts for the end of the page by name, such as the date and the versions of
            packages.
        storage: Python code that sets ``storage``, for the code that loads the study.
    """
    summary = summary_of(view)
    page = _Page(view)
    body = [
        html.element("h1", f"Study {summary.study}"),
        html.element("p", _lead(summary), class_="lead"),
        page.section("tuned", "What was tuned", *_tuned(summary)),
        page.section("use", "What to use", *_use(summary), page.figure("frontier")),
        page.section("why", "Why", *_why(summary, page)),
    ]
    if summary.guidelines is not None:
        body.append(page.section("agent", "What the agent concluded", *_agent(summary)))
    body += [
        page.section("cost", "What the search cost", *_cost(summary, page)),
        page.section("instances", "Which questions fail", *_instances(summary, page)),
        page.section("trials", "Trials", *_trials(view, summary, page)),
        page.section("again", "How to reproduce it", *_again(summary, about, storage)),
    ]
    head = [
        html.element("title", f"Study {summary.study}"),
        html.element("style", Html(_STYLE)),
        page.script(),
    ]
    links = [html.element("a", title, href=f"#{anchor}") for anchor, title in page.sections]
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            html.join(head),
            "</head>\n<body>",
            html.join([*body[:2], html.element("nav", *links), *body[2:]]),
            "</body></html>\n",
        ]
    )


class _Page:
    """Sections and figures of a page.

    Args:
        view: The study.
    """

    def __init__(self, view: StudyView) -> None:
        self._view = view
        self._figures = 0
        self._plotly = importlib.util.find_spec("plotly") is not None
        self.sections: list[tuple[str, str]] = []

    def section(self, anchor: str, title: str, *content: object) -> Html:
        """Return a section, and note it for the links at the top."""
        self.sections.append((anchor, title))
        return html.element("section", html.element("h2", title), *content, id=anchor)

    def figure(self, name: str) -> Html:
        """Return a figure, or why there is none."""
        if not self._plotly:
            return html.paragraph(
                f"Figure {name!r} needs Plotly: pip install 'optuna-agenttts[plot]'."
            )
        try:
            figure = FIGURES[name](self._view)
        except AgentTTSError as error:
            return html.paragraph(f"No figure {name!r}: {error}")
        self._figures += 1
        return html.element("div", self._drawn(figure), class_="figure")

    def _drawn(self, figure: Figure) -> Html:
        return Html(
            figure.to_html(
                full_html=False,
                include_plotlyjs=False,
                default_height=f"{figure.layout.height or _HEIGHT}px",
                div_id=f"figure-{self._figures}",
                config={"displaylogo": False, "responsive": True},
            )
        )

    def script(self) -> Html:
        """Return Plotly's script if there is a figure."""
        if not self._figures:
            return Html()
        from plotly.offline import get_plotlyjs

        return html.element("script", Html(get_plotlyjs()))


def _lead(summary: Summary) -> Html:
    """Return what to use in one sentence."""
    found, unit = summary.recommendation, summary.task.cost_model.unit
    if found is None:
        return html.escape(f"There is nothing to recommend yet. {summary.without}")
    score = score_text(found.value, found.margin)
    interval = ""
    if found.interval is not None:
        ends = " to ".join(score_text(end, found.margin) for end in found.interval)
        interval = f" (90 % interval {ends})"
    cost = f"{found.cost:.4g} {unit}".rstrip()
    return html.join(
        [
            "Use ",
            html.element("b", sentence(found.allocation)),
            f": {summary.task.metric or 'score'} {score}{interval}, for {cost} per instance.",
        ]
    )


def _tuned(summary: Summary) -> list[object]:
    states = ", ".join(f"{count} {state}" for state, count in summary.states.items())
    direction = {True: "higher is better", False: "lower is better", None: "several objectives"}
    facts = {
        "direction": direction[summary.maximize],
        "trials": states or "none",
        "instances": summary.instances or None,
        "fresh instances": summary.fresh or None,
    }
    return [html.facts(facts), Html(summary.task._repr_html_())]


def _use(summary: Summary) -> list[object]:
    found = summary.recommendation
    parts: list[object] = [
        Html(found._repr_html_()) if found is not None else html.paragraph(summary.without)
    ]
    if summary.luckiest is not None and found is not None:
        number, value = summary.luckiest
        parts.append(
            html.paragraph(
                f"The best score, {score_text(value, found.margin)} of trial {number}, is partly "
                "luck: the expected score weighs it with those of similar allocations."
            )
        )
    # The recommendation has its own warnings below its table.
    shown = found.warnings if found is not None else ()
    others = [line for line in summary.warnings if line not in shown]
    for title, lines in (("To know", others), ("Next", summary.next_steps)):
        if lines:
            parts += [html.heading(title), html.bullets(map(_with_code, lines))]
    return parts


def _with_code(line: str) -> Html:
    """Return a sentence with what is between backticks as code."""
    parts = line.split("`")
    return html.join(html.element("code", p) if i % 2 else p for i, p in enumerate(parts))


def _why(summary: Summary, page: _Page) -> list[object]:
    parts: list[object] = []
    if summary.saturation is not None:
        parts.append(saturation_section(summary.saturation, summary.task.metric or "score"))
    parts.append(page.figure("saturation"))
    if summary.importances:
        parts.append(importances_section(summary.importances))
    return [*parts, page.figure("importances"), page.figure("allocation-map")]


def _agent(summary: Summary) -> list[object]:
    written = [planned for planned in summary.rounds if planned.guidelines]
    earlier = [guidelines_section(planned) for planned in reversed(written[:-1])]
    latest = guidelines_section(written[-1])
    return [latest, html.details(f"Earlier rounds ({len(earlier)})", *earlier) if earlier else ""]


def _cost(summary: Summary, page: _Page) -> list[object]:
    parts: list[object] = [html.paragraph(str(summary.spend))]
    if summary.expenditure.expenses:
        parts.append(expenditure_section(summary.expenditure))
    return [*parts, page.figure("spend")]


def _instances(summary: Summary, page: _Page) -> list[object]:
    count = len(summary.outcomes.instances)
    if not count:
        return [html.paragraph("Trials reported no outcomes of single instances.")]
    metric = summary.task.metric or "score"
    parts: list[object] = [outcomes_section(summary.outcomes, metric, limit=_WORST)]
    parts.append(page.figure("outcomes"))
    if count > _WORST:
        every = outcomes_section(summary.outcomes, metric, limit=count)
        parts.append(html.details(f"All {count} instances", every))
    return parts


def _trials(view: StudyView, summary: Summary, page: _Page) -> list[object]:
    head = ("trial", "state", "score", "cost", "spend", "origin", "allocation")
    rows = [_row(view, trial) for trial in view.trials]
    table = html.table(head, rows, numbers=(0, 2, 3, 4))
    return [page.figure("search"), html.details(f"All {len(rows)} trials", table)]


def _row(view: StudyView, trial: FrozenTrial) -> tuple[object, ...]:
    choices = read_choices(view.task, trial.params)
    scores = ", ".join(map(score_text, trial.values or ()))
    spent = stated_spend(trial)
    allocation = ", ".join(f"{name}: {value}" for name, value in trial.params.items())
    confirms = " in confirmation" if storage.confirmation_block(trial) else ""
    return (
        trial.number,
        f"{STATE_NAMES[trial.state]}{confirms}",
        scores,
        "" if choices is None else f"{view.task.feasible.cost(choices):.4g}",
        "" if spent is None else f"{spent:.4g}",
        trial.user_attrs.get("agenttts:origin", ""),
        allocation if choices is None else allocation_cell(view.task.allocation(choices)),
    )


def _again(summary: Summary, about: Mapping[str, str], storage: str) -> list[object]:
    code = _CODE.format(name=summary.study, storage=storage)
    found = summary.recommendation
    if found is not None:
        pairs = {stage: tuple(setting) for stage, setting in found.allocation.items()}
        code += _EVALUATION.format(allocation=pairs)
    task = json.dumps(summary.task.to_dict(), indent=2, ensure_ascii=False)
    return [
        html.facts(about),
        html.element("pre", code),
        html.details("The task as JSON, for `Task.from_dict`", html.element("pre", task)),
    ]
