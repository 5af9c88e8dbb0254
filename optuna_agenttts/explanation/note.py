"""The study's note in optuna-dashboard: a summary of the study as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from optuna.study import Study

from optuna_agenttts.explanation.markdown import section
from optuna_agenttts.report.agent_rounds import agent_section
from optuna_agenttts.report.document import Bullets, Line, Section, Strong, with_code
from optuna_agenttts.report.summary import Summary
from optuna_agenttts.report.text import count_text, score_text
from optuna_agenttts.study.fates import guidelines
from optuna_agenttts.study.rounds import Round

HEADING = "## Summary of the search"
GUIDELINES = "## Guidelines of the agent"
"""First lines of our parts of the note. Text before them belongs to the user and is kept."""


def save_note(study: Study, body: str) -> None:
    """Write the study's note below the user's text; an equal note stays as it is."""
    write_below(study, body, (HEADING, GUIDELINES))


def write_below(noted: Any, body: str, headings: Sequence[str]) -> None:
    """Write our part of a note below the user's text; an equal note stays as it is.

    Args:
        noted: What has the note, as `optuna_dashboard.save_note` takes it.
        body: Our part.
        headings: First lines that our parts may have.
    """
    import optuna_dashboard

    present = own = optuna_dashboard.get_note(noted)
    for heading in headings:
        own = own.partition(heading)[0]
    own = own.rstrip()
    text = f"{own}\n\n{body}" if own else body
    if text != present:
        optuna_dashboard.save_note(noted, text)


def save_guidelines(study: Study) -> None:
    """Write the agent's guidelines at the end of the study's note, after a round."""
    import optuna_dashboard

    present = optuna_dashboard.get_note(study)
    _, heading, tail = present.partition(HEADING)
    save_note(
        study,
        "\n\n".join(
            [
                *([heading + tail.partition(GUIDELINES)[0].rstrip()] if heading else []),
                guidelines_note(guidelines(study)),
            ]
        ),
    )


def note(summary: Summary, *, graphs: bool = True, constrained: bool = False) -> str:
    """Return the summary of a study as Markdown.

    Args:
        summary: The summary.
        graphs: Whether figures can be made, as Plotly is installed.
        constrained: Whether trials have constraints.
    """
    sections = summary.sections
    agent = sections.pop("agent", None)
    if dashboard := tuple(_dashboard(summary, graphs, constrained)):
        sections["dashboard"] = Section("In this dashboard", (Bullets(dashboard),))
    written = (
        f"*Written after {count_text(summary.trials, 'trial')}; `explain(study)` in Python writes "
        "it again. Text above the title stays.*"
    )
    parts = [HEADING, *map(section, sections.values()), written]
    return "\n\n".join([*parts, section(agent, 2)] if agent else parts)


def guidelines_note(rounds: Sequence[Round]) -> str:
    """Return the agent's guidelines and rounds as Markdown."""
    return section(agent_section(rounds), 2)


def _dashboard(summary: Summary, graphs: bool, constrained: bool) -> Iterator[Line]:
    """Yield where to look in the dashboard, and what misleads there."""
    found = summary.recommendation
    if found is not None and graphs:
        yield (
            "Figures are on the page of the study (first icon on the left). They are made after "
            "10, 20, 50, 100, ... trials."
        )
    elif found is not None:
        yield with_code(
            "`pip install optuna-agenttts[plot]`, then `explain(study)`, puts figures on the page "
            "of the study."
        )
    if found is not None and found.frontier is not None:
        yield (
            Strong("Best Trials"),
            " are the Pareto front of what trials scored, which the luckiest ones make up. The "
            "table of budgets above has expected scores.",
        )
    elif found is not None and summary.luckiest is not None:
        number, value = summary.luckiest
        yield (
            Strong("Best Trial"),
            f" is trial {number} ({score_text(value, found.margin)}): the luckiest trial, not the "
            "recommendation.",
        )
    if constrained:
        yield (
            Strong("Best Trial"),
            " ignores constraints; each trial's note has its constraints.",
        )
    if summary.importances:
        yield (
            Strong("Hyperparameter Importance"),
            " compares the best tenth of the trials with all trials: models look unimportant "
            "there, as a search rarely tries bad ones.",
        )
    if summary.pruned:
        yield "Lines of stopped trials in plots are means of the instances that they saw."
