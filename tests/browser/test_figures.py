"""Figures open in a browser without an error or a request, for studies of every kind."""

import pytest
from browser_studies import STUDIES
from browser_support import Visitor
from optuna.storages import InMemoryStorage

from optuna_agenttts import AgentTTSError
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.visualization.figures import ALL_FIGURES, EFFORT_FIGURES

pytestmark = pytest.mark.browser

KINDS = ["pruned", "own_objective", "minimization", "four_stages", "hostile", "thousand"]
KINDS += ["efforts_of_models"]
SIZES = ["one_trial", "failures", "two_objectives"]


@pytest.mark.parametrize("kind", KINDS + SIZES)
def test_figures_open(kind, browser, pictures, tmp_path):
    """All figures of a study on one page; what cannot be drawn is refused by a clear error."""
    view = StudyView(STUDIES[kind](InMemoryStorage()))
    parts, refused = [], []
    for name, figure_of in ALL_FIGURES.items():
        try:
            figure = figure_of(view)
        except AgentTTSError:
            refused.append(name)
            continue
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    expected = {"outcomes", *(EFFORT_FIGURES if kind != "efforts_of_models" else ())}
    assert kind not in KINDS or not set(refused) - expected
    page = tmp_path / "figures.html"
    head = '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">'
    page.write_text(head + "".join(parts), encoding="utf-8")
    with Visitor(browser, pictures / "figures", offline=True) as visitor:
        visitor.open(page.as_uri(), kind)
        assert len(visitor.page.query_selector_all(".js-plotly-plot")) == len(parts)
        assert visitor.page.evaluate("window.injected") is None
        assert not visitor.page.query_selector_all("img[src=x], .main-svg a")
        visitor.check()
