"""Names that a storage cannot hold are refused before a search, with the reason."""

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from storages_support import EVERY_STORAGE

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task, TaskError, carry_over
from optuna_agenttts.support.names import LONGEST_KEY, name_problem

SURROGATE, NUL, LONG = "a\ud800b", "a\0b", "x" * 10_000
LENGTHS = {"prompt_tokens": 10, "generation_tokens": 10, "max_samples": 3}


def stage(name="stage", model="1B", **options):
    return Stage(name, models=[Model(model, parameters=1e9)], **LENGTHS, **options)


def task(**options):
    return Task(**{"name": "task", "stages": [stage()], **options})


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda text: Model(text), "name"),
        (lambda text: stage(text), "name"),
        (lambda text: stage(description=text), "description"),
        (lambda text: stage(model_parameter=text), "model_parameter"),
        (lambda text: stage(samples_parameter=text), "samples_parameter"),
        (lambda text: task(name=text), "name"),
        (lambda text: task(metric=text), "metric"),
        (lambda text: task(description=text), "description"),
        (lambda text: carry_over(optuna.create_study(), task(), study_name=text), "study_name"),
    ],
)
@pytest.mark.parametrize(
    ("text", "reason"), [(SURROGATE, "unpaired surrogate"), (NUL, "NUL"), (5, "string")]
)
def test_the_argument_and_the_reason_are_named(make, argument, text, reason):
    with pytest.raises(TaskError, match=f"`{argument}` .*{reason}"):
        make(text)


@pytest.mark.parametrize(
    "make",
    [
        stage,
        lambda text: stage(model_parameter=text),
        lambda text: stage(samples_parameter=text),
        lambda text: carry_over(optuna.create_study(), task(), study_name=text),
    ],
)
def test_names_of_parameters_and_studies_are_of_limited_length(make):
    """Optuna's tables hold 512 characters; the message does not repeat all of a longer name."""
    with pytest.raises(TaskError, match="at most 512 characters, got 10000") as caught:
        make(LONG)
    assert len(str(caught.value)) < 300


def test_a_parameter_may_be_longer_than_its_stage():
    longest = "x" * (LONGEST_KEY - len(".samples"))
    assert len(stage(longest).samples_parameter) == LONGEST_KEY
    with pytest.raises(TaskError, match=r"`samples_parameter` .*at most 512"):
        stage(longest + "x")


@pytest.mark.parametrize("opened", EVERY_STORAGE)
def test_allowed_names_work_in_searches(opened, tmp_path):
    """The longest ones, control characters, and models of any length."""
    odd = task(
        name="t\n\x1b" + LONG,
        metric=LONG,
        stages=[stage("é\n" + "x" * 502), stage("😀", model="\x7f1B" + LONG)],
    )
    with opened(tmp_path) as storage:
        study = optuna.create_study(
            study_name="é" * LONGEST_KEY,
            storage=storage,
            direction="maximize",
            sampler=AgentTTSSampler(odd),
        )
        study.optimize(lambda trial: len(odd.suggest(trial)), n_trials=3)
        assert Task.registered(study) == odd


@given(st.text(st.characters(codec=None), max_size=600))
def test_sqlite_holds_every_allowed_name(names_storage, text):
    study = optuna.create_study(storage=names_storage)
    if name_problem(text) is not None:
        return
    study.enqueue_trial({text: 1})
    trial = study.ask({text: IntDistribution(1, 2)})
    trial.set_user_attr(text, text)
    assert study.trials[-1].params == {text: 1}
    assert study.trials[-1].user_attrs == {text: text}


@pytest.fixture(scope="module")
def names_storage():
    storage = optuna.storages.RDBStorage("sqlite://")
    yield storage
    storage.engine.dispose()
