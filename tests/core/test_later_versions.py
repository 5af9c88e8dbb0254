"""Studies whose task a later version of this package has stored."""

import json

import optuna
import pytest
from optuna.samplers import TPESampler

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task, TaskError, recommend
from optuna_agenttts.storage import TASK, read_study_value, registered, write_study_value

STAGES = [
    Stage(name, models=[Model("m-7B"), Model("m-70B")], prompt_tokens=100, generation_tokens=10)
    for name in ("find", "say")
]
LATER = {
    "another format": lambda values: {**values, "format": 2},
    "a stage's field": lambda values: {
        **values,
        "stages": [{**stage, "retries": 3} for stage in values["stages"]],
    },
    "a model's field": lambda values: {
        **values,
        "stages": [
            {**stage, "models": [{**model, "quantization": "int4"} for model in stage["models"]]}
            for stage in values["stages"]
        ],
    },
}


@pytest.fixture(params=LATER)
def study(request):
    """Search, and let a later version have stored the task."""
    task = Task(name="qa", stages=STAGES)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task, seed=0))
    study.optimize(lambda trial: float(len(str(task.suggest(trial)))), n_trials=4)
    values = LATER[request.param](json.loads(task.text))
    write_study_value(study._storage, study._study_id, TASK, values)
    return optuna.load_study(
        study_name=study.study_name,
        storage=study._storage,
        sampler=AgentTTSSampler(Task(name="qa", stages=STAGES, budget=1e15)),
    )


def stored(study):
    """Return the values of the task as stored."""
    return read_study_value(study._storage.get_study_system_attrs(study._study_id), TASK)


@pytest.mark.parametrize("sampler", [AgentTTSSampler, TPESampler])
def test_searches_are_refused(study, sampler):
    """The trial fails, the task stays, and the error says what to do."""
    task, before = Task(name="qa", stages=STAGES, budget=1e15), stored(study)
    if sampler is TPESampler:
        study.sampler = TPESampler()
    with pytest.raises(TaskError, match=r"later version of optuna-agenttts.*Upgrade it"):
        study.optimize(lambda trial: float(len(str(task.suggest(trial)))), n_trials=1)
    assert registered(study) == stored(study) == before
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["FAIL"]


def test_reports_are_refused_unless_they_have_the_task(study):
    with pytest.raises(TaskError, match="later version"):
        recommend(study)
    assert recommend(study, task=Task(name="qa", stages=STAGES)).allocation


def test_without_a_task_the_search_goes_on_with_a_warning(study, caplog):
    """Parameters of a task that cannot be read are left to the independent sampler."""
    before = stored(study)
    study.sampler = AgentTTSSampler(seed=0)
    study.optimize(lambda trial: trial.suggest_float("threshold", 0, 1), n_trials=1)
    assert "later version" in caplog.text
    assert stored(study) == before


def test_a_task_of_this_version_has_no_format():
    """Earlier versions, which do not know it, read what this one writes."""
    assert "format" not in json.loads(Task(name="qa", stages=STAGES).text)
