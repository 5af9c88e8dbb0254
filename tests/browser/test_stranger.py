"""A stranger reads in optuna-dashboard what was tuned, what to use, why, and what it cost.

Each question is answered by words on the note or the first page of a study. The numbers are those
of `summarize`; that they are readable was checked by looking at the pictures.
"""

import pytest
from browser_studies import llm_agent, pruned, quickstart
from browser_support import Visitor, dashboard
from optuna.storages import InMemoryStorage

from optuna_agenttts import summarize
from optuna_agenttts.report.text import score_text, share_text
from optuna_agenttts.support.plain import amount_text
from optuna_agenttts.visualization.figures import FIGURES

pytestmark = pytest.mark.browser


def answers(summary):
    """Return what must be readable, by question."""
    task, found = summary.task, summary.recommendation
    low, high = (score_text(end) for end in found.interval)
    curves = [curve for curve in summary.saturation.curves if curve.recommended]
    most = max(summary.importances, key=lambda importance: importance.share)
    unit = task.cost_model.unit
    asked = {
        "What was tuned?": [task.name, *(stage.name for stage in task.stages)],
        "By which measure?": [f"{task.metric}, higher is better"],
        "Under which budget, in which unit?": [f"{amount_text(task.budget, unit)} per instance"],
        "What should be used?": [
            f"{stage}: {setting.samples} x {setting.model}"
            for stage, setting in found.allocation.items()
        ],
        "How sure is that?": [score_text(found.value), f"90 % interval {low} to {high}"],
        "What does it cost?": [amount_text(found.cost, unit)],
        "What is as good for less?": ["As good for less"]
        + [score_text(tie.value) for tie in found.ties[:1]],
        "Which model matters in which stage?": [f"{most.setting} of {most.stage}"],
        "How much, and by how much are others worse?": [
            share_text(most.share),
            f"{most.loss:.2g}",
        ],
        "Where do samples saturate?": [curve.brief_finding for curve in curves],
        "What did the search cost?": [amount_text(summary.expenditure.total, unit)],
        "Which questions fail?": [summary.outcomes.instances[0].name],
    }
    if summary.rounds:
        asked["What did the agent conclude?"] = list(summary.rounds[-1].guidelines)
    return asked


@pytest.mark.parametrize("build", [quickstart, llm_agent, pruned])
def test_pages_answer_the_questions_of_a_stranger(build, browser, pictures):
    """In words; figures show the same."""
    study = build(InMemoryStorage())
    asked = answers(summarize(study))
    with dashboard(study._storage) as address, Visitor(browser, pictures / "stranger") as visitor:
        visitor.open(f"{address}/studies/{study._study_id}/note", f"{build.__name__}-note")
        shown = visitor.text
        visitor.open(f"{address}/studies/{study._study_id}", f"{build.__name__}-top")
        visitor.page.get_by_label("Rows per page").select_option(label="All")
        visitor.settle()
        words = " ".join(f"{shown} {visitor.text}".split())
        unanswered = {
            question: missing
            for question, texts in asked.items()
            if (missing := [text for text in texts if text not in words])
        }
        assert not unanswered
        graphs = visitor.page.evaluate("document.querySelectorAll('.js-plotly-plot').length")
        # Optuna's own are the history, importances, timeline and intermediate values.
        assert graphs == len(FIGURES) + 4
        visitor.check()
