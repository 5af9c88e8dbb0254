"""What trials write: rounded numbers for people, exact facts for programs, names of instances."""

import math
import pickle

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import RDBStorage
from optuna.trial import FixedTrial, TrialState, create_trial
from pipeline_support import MODELS, allocation, make_objective
from storages_support import EVERY_STORAGE

from optuna_agenttts import (
    AgentTTSSampler,
    StopAtSpend,
    spend,
    storage,
    summarize,
    trials_dataframe,
)
from optuna_agenttts.report.expenditure import expenditure_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.fresh import instance_names
from optuna_agenttts.study.spending import rounded, stage_spends, stated_spend
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts_integrations.inspection.trials import recorded_outcomes

SETTING = st.tuples(st.sampled_from(MODELS), st.integers(1, 6))


def run(objective, allocations, study=None):
    """Run trials of some allocations."""
    study = study or optuna.create_study(direction="maximize")
    for chosen in allocations:
        study.enqueue_trial(objective.task.params(chosen))
    study.optimize(objective, n_trials=len(allocations))
    return study


def digits(value):
    """Return the significant digits of a number."""
    return len(f"{abs(value):.15g}".split("e")[0].replace(".", "").strip("0"))


@pytest.mark.parametrize("opened", EVERY_STORAGE)
def test_user_attributes_are_for_people(opened, tmp_path):
    """They hold texts and short numbers, and exact spend is beside them, on every storage."""
    objective, _ = make_objective(count=7)
    with objective, opened(tmp_path) as backend:
        study = optuna.create_study(
            direction="maximize", storage=backend, sampler=AgentTTSSampler(objective.task)
        )
        study.optimize(objective, n_trials=6)
        check_attributes(study, list(objective.instances))


def check_attributes(study, names):
    """Check what the trials of a search wrote."""
    for trial in study.trials:
        assert all(isinstance(value, (str, int, float)) for value in trial.user_attrs.values())
        for name in ("cost", "spend", "seconds"):
            assert digits(trial.user_attrs[name]) <= 4
        assert trial.user_attrs["spend"] == rounded(stated_spend(trial))
        assert stated_spend(trial) == trial.system_attrs["agenttts:spend"]
    exact = math.fsum(trial.system_attrs["agenttts:spend"] for trial in study.trials)
    assert spend(study).total == pytest.approx(exact, rel=1e-12)
    assert list(trials_dataframe(study)["spend"]) == [stated_spend(t) for t in study.trials]
    assert [instance_names(study)(step) for step in range(len(names))] == names
    assert expenditure_of(StudyView(study)).measured


@settings(max_examples=15)
@given(st.lists(st.tuples(SETTING, SETTING), min_size=1, max_size=4))
def test_spend_and_savings_of_stages_are_what_all_samples_cost(chosen):
    """Whatever is reused, and the stages add up to the trial."""
    objective, _ = make_objective(count=3, measure_after=None)
    pairs = [{"find": find, "say": say} for find, say in chosen]
    with objective:
        study = run(objective, pairs)
    for trial, pair in zip(study.trials, pairs):
        stages = stage_spends(trial)
        assert math.fsum(own for own, _ in stages.values()) == pytest.approx(stated_spend(trial))
        alone, _ = make_objective(count=3)
        with alone:
            assert alone.evaluate(pair).spend == pytest.approx(
                math.fsum(own + saved for own, saved in stages.values())
            )
        assert all(saved >= 0 for _, saved in stages.values())
    found = expenditure_of(StudyView(study))
    assert found.measured
    assert math.fsum(each.spend for each in found.expenses) == pytest.approx(found.total)


def test_a_repeated_trial_saves_what_the_first_one_spent():
    objective, _ = make_objective()
    with objective:
        study = run(objective, 2 * [allocation(say=("small", 5))])
    first, second = map(stage_spends, study.trials)
    for stage, (spent, saved) in first.items():
        assert (spent > 0, saved) == (True, 0)
        assert second[stage] == (0, pytest.approx(spent))
    assert "Reuse of samples saved" in str(summarize(study))


def test_a_trial_that_a_limit_stops_is_divided_too():
    options = {"measure_after": None, "concurrency": 2, "count": 100}
    free, _ = make_objective(**options)
    with free:
        limit = 0.8 * free.evaluate(allocation(say=("large", 3))).spend
    objective, _ = make_objective(max_spend=limit, **options)
    with objective:
        study = run(objective, [allocation(say=("large", 3))])
    assert study.trials[0].state == TrialState.PRUNED
    found = expenditure_of(StudyView(study))
    assert 0 < found.total == spend(study).trials <= limit
    assert math.fsum(each.spend for each in found.expenses) == pytest.approx(found.total)


def test_spend_that_other_code_writes_counts():
    """An objective that calls this one may add costs of its own."""
    objective, _ = make_objective()

    def dearer(trial):
        value = objective(trial)
        trial.set_user_attr("spend", 1e6)
        return value

    study = optuna.create_study(direction="maximize")
    with objective:
        study.optimize(dearer, n_trials=2)
    assert spend(study).total == 2e6


@pytest.mark.parametrize("stated", [math.nan, math.inf, "much"])
def test_a_spend_that_is_no_number_is_not_known(stated):
    """It would hide what all other trials spent, and no limit would be reached."""
    objective, _ = make_objective()
    study = optuna.create_study(direction="maximize")
    with objective:
        run(objective, [allocation()] * 2, study)
    known = spend(study).total
    study.add_trial(create_trial(value=0.5, user_attrs={"spend": stated}))
    assert spend(study).total == known
    study.optimize(lambda _: 0.5, n_trials=5, callbacks=[StopAtSpend(known)])
    assert len(study.trials) == 4


def test_steps_have_the_names_of_the_instances(tmp_path):
    """In the study itself, so that reports need no objective; also from another process."""
    backend = RDBStorage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(direction="maximize", storage=backend, study_name="s")
    objective, _ = make_objective(count=8)
    with pickle.loads(pickle.dumps(objective)) as other:
        run(other, [allocation()], study)
    loaded = optuna.load_study(study_name="s", storage=backend)
    name = instance_names(loaded)
    assert [name(step) for step in range(9)] == [*objective.instances, ""]
    assert {each.instance for each in recorded_outcomes(loaded, 0)} == set(objective.instances)
    table = summarize(loaded).outcomes
    outcomes = dict(zip(objective.instances, loaded.trials[0].intermediate_values.values()))
    assert {i.name: i.mean for i in table.instances} == outcomes
    backend.engine.dispose()


def test_trials_without_a_study_have_the_facts():
    objective, _ = make_objective(count=4)
    trial = FixedTrial(objective.task.params(allocation()))
    with objective:
        objective(trial)
    assert trial.system_attrs["agenttts:lengths"] == {"find": [10, 3], "say": [10, 3]}
    frozen = create_trial(params={}, value=0.0)
    storage.write_trial_facts(frozen, {storage.MEAN_STEP: 3})
    assert storage.read_trial_fact(frozen, storage.MEAN_STEP) == 3


@pytest.mark.parametrize("attributes", ["user_attrs", "system_attrs"])
def test_trials_of_earlier_versions_are_read(attributes):
    """These wrote user attributes without a prefix."""
    key = "mean_at_step" if attributes == "user_attrs" else storage.MEAN_STEP
    trial = create_trial(
        state=TrialState.PRUNED,
        intermediate_values={0: 1.0, 1: 0.0, 9: 0.5},
        **{attributes: {key: 9}},
    )
    assert outcomes_of(trial) == {0: 1.0, 1: 0.0}
    old = create_trial(value=1.0, user_attrs={"spend": 12.3456789, "agenttts:equal": {"a": "any"}})
    assert stated_spend(old) == 12.3456789
    assert storage.read_trial_fact(old, storage.EQUAL) == {"a": "any"}
