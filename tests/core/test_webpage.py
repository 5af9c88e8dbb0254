"""A study as a web page: complete, without a network, and with names as text."""

import importlib.util
import re
from html.parser import HTMLParser

import optuna
import pytest

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task
from optuna_agenttts.explanation.webpage import web_page
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.rounds import Round, write_round

HOSTILE = "<img src=x onerror=alert(1)> \"q\" 'a' & | `x` </script>\n😀"
ABOUT = {"storage": "a.db", "Optuna": "5.0.0"}
VOID = {"meta", "br", "img"}


class Read(HTMLParser):
    """Tags and text of a page, without the content of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.addresses, self.texts, self.open = [], [], [], []
        self.feed(page)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open = self.open[:-1] if tag not in VOID else self.open

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)


def make_task(name="qa", models=("small-3B", "large-70B"), stages=("find", "answer"), **options):
    sizes = [Model(model, parameters=size) for model, size in zip(models, (3e9, 70e9))]
    return Task(
        name=name,
        stages=[
            Stage(stage, models=sizes, prompt_tokens=9, generation_tokens=9, max_samples=9)
            for stage in stages
        ],
        metric_range=(0, 1),
        **options,
    )


def run(task, trials=8, *, outcomes=8, **options):
    study = optuna.create_study(**{"direction": "maximize", **options})

    def objective(trial):
        allocation = task.suggest(trial)
        good = sum(setting.samples for setting in allocation.values()) / 20
        seen = [float((i + 1) / outcomes <= good) for i in range(outcomes)]
        for step, outcome in enumerate(seen):
            trial.report(outcome, step)
        return sum(seen) / outcomes if outcomes else good

    study.sampler = AgentTTSSampler(task)
    study.optimize(objective, n_trials=trials)
    return study


@pytest.fixture(scope="module")
def page():
    return web_page(StudyView(run(make_task(metric="exact match"))), ABOUT)


def test_page_answers_what_a_stranger_asks(page):
    """With a section for each question, a figure for each kind, and links to the sections."""
    read = Read(page)
    assert not read.open
    assert read.tags.count("section") == 7
    for text in (
        "Use find:",
        "exact match 0.",
        "90 % interval",
        "higher is better",
        "per instance",
    ):
        assert text in read.text
    assert "optuna.load_study(study_name='" in read.text
    assert "a.db" in read.text
    if importlib.util.find_spec("plotly") is not None:
        assert page.count('class="plotly-graph-div"') == 7


def test_page_needs_no_network(page):
    """Nothing is loaded, and the policy forbids it."""
    assert all(address.startswith("#") for address in Read(page).addresses)
    assert "default-src 'none'" in page
    assert not re.search(r"<script[^>]+src=|@import|url\(http", page)


def test_names_stay_text():
    """Those of study, task, stages, models, metric and instances, and texts of the agent."""
    task = make_task(
        HOSTILE,
        models=(f"a{HOSTILE}", f"b{HOSTILE}" * 9),
        stages=("find", "<b>answer"),
        metric=HOSTILE,
        description=HOSTILE,
    )
    study = run(task, study_name=HOSTILE)
    write_round(study, Round(number=1, guidelines=(HOSTILE,), model=HOSTILE))
    read = Read(web_page(StudyView(study), {"storage": HOSTILE}))
    assert not {"img", "b>answer"} & set(read.tags)
    assert not read.open
    assert "<img src=x onerror=alert(1)>" in read.text
    assert "What the agent concluded" in read.text


def test_without_plotly_everything_else_is_there(monkeypatch):
    """The page says how to get the figures."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    page = web_page(StudyView(run(make_task())), ABOUT)
    assert "<script" not in page
    assert page.count("pip install") == 1
    assert "Use find:" in Read(page).text


@pytest.mark.parametrize("kind", ["empty", "failed", "several", "scores", "minimize", "one stage"])
def test_every_study_has_a_page(kind):
    """It says why something is missing."""
    task, options = make_task(stages=("find",) if kind == "one stage" else ("find", "answer")), {}
    if kind == "several":
        study = optuna.create_study(directions=["minimize"] * 3)
        study.optimize(lambda t: (len(task.suggest(t)), 1.0, 1.0), n_trials=2)
    elif kind == "failed":
        study = optuna.create_study()
        study.optimize(lambda t: float("nan") if task.suggest(t) else 0.0, n_trials=2)
    else:
        options = {"direction": "minimize"} if kind == "minimize" else {}
        trials = 0 if kind == "empty" else 6
        study = run(task, trials, outcomes=0 if kind == "scores" else 8, **options)
        task.register(study)
    read = Read(web_page(StudyView(study), ABOUT))
    assert not read.open
    nothing = kind in ("empty", "failed", "several")
    assert ("There is nothing to recommend yet." in read.text) == nothing
    assert ("lower is better" in read.text) == (kind in ("minimize", "failed"))
