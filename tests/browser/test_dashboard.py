"""Every page of optuna-dashboard opens without an error, for studies of every kind."""

import pytest
from browser_studies import STUDIES, best, llm_agent, minimization
from browser_support import Visitor, dashboard
from optuna.storages import InMemoryStorage
from storages_support import open_grpc, open_journal, open_postgresql, open_sqlite

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("name", STUDIES)
def test_pages_open(name, browser, pictures):
    """No page logs an error or loads anything in vain, and nothing in a name is markup."""
    visit(browser, pictures / name, STUDIES[name](InMemoryStorage()))


@pytest.mark.parametrize("opened", [open_sqlite, open_journal, open_grpc, open_postgresql])
def test_pages_open_on_every_storage(opened, browser, pictures, tmp_path):
    """Also the page that compares studies."""
    folder = pictures / opened.__name__
    with opened(tmp_path) as storage:
        studies = [llm_agent(storage, trials=12), minimization(storage)]
        visit(browser, folder, studies[0])
        with dashboard(storage) as address, Visitor(browser, folder) as visitor:
            ids = ",".join(str(study._study_id) for study in studies)
            visitor.open(f"{address}/compare-studies?ids={ids}", "compare")
            visitor.check()


def visit(browser, folder, study):
    """Open every page of a study, and keep the pictures in a folder."""
    with dashboard(study._storage) as address, Visitor(browser, folder) as visitor:
        visitor.open(address, "studies")
        for page, path in pages(study).items():
            visitor.open(f"{address}/{path}", page)
            if page == "top":
                show_all_rows(visitor)
            assert visitor.page.evaluate("window.injected") is None
            assert not visitor.page.query_selector_all("img[src=x], a[href^='javascript:']")
        visitor.check()


def show_all_rows(visitor):
    """Show all attributes of the study, and keep a picture."""
    visitor.page.get_by_label("Rows per page").select_option(label="All")
    visitor.settle()
    visitor.keep("attributes")


def pages(study):
    """Return the pages of a study, by name."""
    top = f"studies/{study._study_id}"
    names = {"analytics": "analytics", "trials": "trials", "table": "trialTable", "note": "note"}
    found = {"top": top, **{name: f"{top}/{path}" for name, path in names.items()}}
    if study.get_trials(deepcopy=False):
        found["trial"] = f"{top}/trials?numbers={best(study)}"
        # Fails without a trial, in optuna-dashboard 0.21.
        found["selection"] = f"{top}/smartSelection"
    return found
