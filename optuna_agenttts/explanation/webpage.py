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
from optuna_agenttts.report.fragments import allocation_cell, blocks_html, section_html
from optuna_agenttts.report.points import measured_cost
from optuna_agenttts.report.sections import LISTED, instances_section
from optuna_agenttts.report.summary import Summary, summary_of
from optuna_agenttts.report.text import interval_text, score_text, sentence
from optuna_agenttts.report.trials import STATE_NAMES
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.spending import stated_spend
from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html
from optuna_agenttts.support.plain import amount_text
from optuna_agenttts.visualization.figures import ALL_FIGURES

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
@media (max-width: 600px) {
  body { padding: .8em; }
  th, td { min-width: 6em; }
  .figure { min-width: 620px; }
  ul { padding-left: 1.2em; }
}
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
    sections, task = summary.sections, Html(summary.task._repr_html_())
    body = [
        html.element("h1", f"Study {summary.study}"),
        html.element("p", _lead(summary), class_="lead"),
        page.missing(),
        page.section("tuned", "What was tuned", blocks_html(sections["tuned"]), task),
        page.section("use", "What to use", *_use(summary, page)),
        page.section("why", "Why", *_why(summary, page)),
    ]
    if agent := sections.get("agent"):
        body.append(page.section("agent", "What the agent concluded", blocks_html(agent)))
    cost = blocks_html(sections["cost"])
    body += [
        page.section("cost", "What the search cost", cost, page.figure("spend")),
        page.section("instances", "Which instances fail", *_instances(summary, page)),
        page.section("trials", "Trials", *_trials(view, page)),
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
            html.join([*body[:3], html.element("nav", *links), *body[3:]]),
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
            return Html()
        try:
            figure = ALL_FIGURES[name](self._view)
        except AgentTTSError as error:
            return html.paragraph(f"No figure {name!r}: {error}")
        self._figures += 1
        return html.element("div", self._drawn(figure), class_="figure")

    def missing(self) -> Html:
        """Return how to get figures if Plotly is not installed."""
        if self._plotly:
            return Html()
        return html.paragraph(
            "This page has no figures, because Plotly is not installed. To add them, run ",
            html.element("code", "pip install 'optuna-agenttts[plot]'"),
            ", and write the page again.",
        )

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
        interval = f" (90 % interval {interval_text(found.interval, found.margin)})"
    cost = measured_cost(found.frontier, found.cost, found.unit) or amount_text(found.cost, unit)
    return html.join(
        [
            "Use ",
            html.element("b", sentence(found.allocation)),
            f": {summary.task.metric or 'score'} {score}{interval}, for {cost} per instance.",
        ]
    )


def _use(summary: Summary, page: _Page) -> list[object]:
    sections = summary.sections
    shown = [sections[name] for name in ("frontier", "less", "know", "next") if name in sections]
    return [blocks_html(sections["use"]), page.figure("frontier"), *map(section_html, shown)]


def _why(summary: Summary, page: _Page) -> list[object]:
    parts: list[object] = []
    for name, figures in (
        ("samples", ["saturation"]),
        *([("thinking", ["thinking"])] if summary.thinking is not None else []),
        ("matters", ["importances", "allocation-map"]),
    ):
        if section := summary.sections.get(name):
            parts.append(section_html(section))
        parts += map(page.figure, figures)
    return parts


def _instances(summary: Summary, page: _Page) -> list[object]:
    sections, count = summary.sections, len(summary.outcomes.instances)
    if not count:
        return [html.paragraph("Trials reported no outcomes of single instances.")]
    parts: list[object] = [blocks_html(sections["instances"]), page.figure("outcomes")]
    if count > LISTED:
        margin = summary.recommendation.margin if summary.recommendation else 0.0
        every = instances_section(summary.task, summary.outcomes, margin, every=True)
        parts.append(html.details(f"All {count} instances", blocks_html(every)))
    return parts


def _trials(view: StudyView, page: _Page) -> list[object]:
    head = ("trial", "state", "score", "cost", "spend", "origin", "allocation")
    rows = [_row(view, trial) for trial in view.trials]
    table = html.table(head, rows, numbers=(0, 2, 3, 4))
    return [page.figure("search"), html.details(f"All {len(rows)} trials", table)]


def _row(view: StudyView, trial: FrozenTrial) -> tuple[object, ...]:
    choices = view.task.read(trial.params)
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
        trial.user_attrs.get(storage.ORIGIN, ""),
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
