"""Properties of all figures: for studies of all kinds, and names of all kinds."""

import json
import re

import numpy as np
import optuna
import pytest
from core_support import run, wiki_task
from optuna.samplers import TPESampler
from study_cases import draw_outcomes, one_stage, small, study_with_outcomes

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    NoEvidenceError,
    Stage,
    Task,
    TaskError,
    visualization,
)
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.visualization.figures import ALL_FIGURES, FIGURES

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "a\"'|`b` $x$ &amp; %{hostile}\n🎉",
    "y" * 300,
)
OWN_TAGS = re.compile(r"<br>|<extra></extra>|</?b>|</?sub>|</?span[^>]*>")


def strings(value):
    """Yield all texts in a figure's JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def study_of_stages(names, models, sampler, metric="", trials=6):
    """Return a study with outcomes of single instances."""
    stages = [
        Stage(
            name,
            models=[Model(model, parameters=1e9 * (i + 1)) for i, model in enumerate(models)],
            prompt_tokens=100,
            generation_tokens=50,
            max_samples=8,
        )
        for name in names
    ]
    task = Task(name=names[0], stages=stages, metric=metric, budget=1e5)
    rng = np.random.default_rng(0)

    def answer(trial):
        task.suggest(trial)
        trial.set_user_attr("agenttts:origin", models[trial.number % len(models)])
        outcomes = draw_outcomes(rng, [0.5], 10)[0]
        for step, outcome in enumerate(outcomes):
            trial.report(outcome, step)
        return float(np.mean(outcomes))

    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(answer, n_trials=trials)
    return study


@pytest.fixture(scope="module")
def views():
    """Return views of studies of several kinds, which all figures share as in the dashboard."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    task = one_stage()
    outcomes = draw_outcomes(np.random.default_rng(0), [0.3, 0.5, 0.7, 0.8], 20)
    evidence = [(small(2 * i + 1), row) for i, row in enumerate(outcomes)]
    two, four = (
        study_of_stages(names, ["m-1B", "m-8B"], AgentTTSSampler()) for names in ("ab", "abcd")
    )
    return {
        "one trial": StudyView(study_with_outcomes(task, evidence[:1]), task),
        "minimized": StudyView(study_with_outcomes(task, evidence, "minimize"), task),
        "pruned": StudyView(study_with_outcomes(task, evidence, seen={1: 5}), task),
        "without outcomes": StudyView(run(AgentTTSSampler(), n_trials=4)),
        "two stages": StudyView(two),
        "four stages": StudyView(four),
        "hostile": StudyView(
            study_of_stages(HOSTILE[:2], HOSTILE, TPESampler(seed=0), metric=HOSTILE[1])
        ),
    }


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_shown_as_they_are(views, name):
    """Plotly reads HTML and variables in texts: none of them comes from users."""
    figure = FIGURES[name](views["hostile"])
    values = json.loads(figure.to_json())
    for trace in values["data"]:
        # It is never shown.
        trace.pop("legendgroup", None)
        assert "%{hostile}" not in trace.get("hovertemplate", "")
    for text in strings(values):
        assert "<" not in OWN_TAGS.sub("", text), text
    page = figure.to_html(include_plotlyjs=False)
    assert "<img" not in page
    assert "</script><script>alert" not in page


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "kind", ["one trial", "minimized", "pruned", "without outcomes", "two stages", "four stages"]
)
def test_every_kind_of_study_has_figures(views, kind, name):
    view = views[kind]
    lacks = (kind, name) in (("without outcomes", "outcomes"), ("one trial", "importances"))
    if lacks or (name == "allocation-map" and len(view.task.stages) == 1):
        with pytest.raises((NoEvidenceError, TaskError)):
            FIGURES[name](view)
        return
    figure = FIGURES[name](view)
    assert figure.layout.title.text
    assert any(axis.title.text for axis in figure.select_xaxes())
    assert figure.layout.height is None, "a card of the dashboard sets the height"
    # NumPy's arrays become base64, which older versions of Plotly's script do not read.
    assert "bdata" not in figure.to_json()
    json.loads(figure.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", FIGURES)
def test_a_study_without_trials_says_so(name):
    view = StudyView(optuna.create_study(direction="maximize"), wiki_task())
    if name == "spend":
        assert not any(FIGURES[name](view).data[0].x)
    else:
        with pytest.raises(NoEvidenceError):
            FIGURES[name](view)


def test_each_figure_has_a_public_function(views):
    names = {f"plot_{name.replace('-', '_')}" for name in ALL_FIGURES}
    assert names == set(visualization.__all__)
    for name, make in FIGURES.items():
        plot = getattr(visualization, f"plot_{name.replace('-', '_')}")
        assert plot(views["two stages"].study) == make(views["two stages"])
