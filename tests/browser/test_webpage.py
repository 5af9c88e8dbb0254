"""The web page of `agenttts report --html` opens without a network and prints as a PDF."""

import pytest
from browser_studies import STUDIES
from browser_support import Visitor
from optuna.storages import InMemoryStorage

from optuna_agenttts.explanation.webpage import web_page
from optuna_agenttts.report.view import StudyView

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("name", [name for name in STUDIES if "task" not in name])
def test_page_opens_offline(name, browser, pictures, tmp_path):
    """It requests nothing, logs no error, runs no script of a name and is not too wide."""
    study = STUDIES[name](InMemoryStorage())
    path = tmp_path / "report.html"
    path.write_text(web_page(StudyView(study), {"storage": "memory"}), encoding="utf-8")
    with Visitor(browser, pictures / name, offline=True) as visitor:
        visitor.open(path.as_uri(), "report")
        assert visitor.page.evaluate("window.injected") is None
        assert not visitor.page.query_selector_all("img[src=x], a[href^='javascript:']")
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert visitor.page.evaluate(width) <= 0
        visitor.page.pdf(path=visitor.folder / "report.pdf", prefer_css_page_size=True)
        visitor.check()
