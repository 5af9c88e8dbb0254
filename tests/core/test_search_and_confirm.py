"""`search` runs trials on some instances and confirms on the others, within one limit."""

import logging
import math
import multiprocessing
import re
from collections import Counter
from contextlib import suppress

import numpy as np
import optuna
import optuna_dashboard
import pytest
from confirmation_cases import FRESH, SEARCH, TASK, Evaluate, outcome, search_in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler, TPESampler
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from optuna_agenttts import (
    AgentTTSSampler,
    NoEvidenceError,
    NoTaskError,
    Stage,
    StopWhenExhausted,
    StopWhenSettled,
    Task,
    TaskError,
    confirm,
    search,
    spend,
    storage,
)
from optuna_agenttts.confirmation.limits import Limits
from optuna_agenttts.confirmation.looks import Look, write_look
from optuna_agenttts.confirmation.splitting import instances_per_trial
from optuna_agenttts.study.fresh import read_fresh

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

ALL = SEARCH + FRESH


def study_of(sampler=None, direction="maximize"):
    """Return a new study."""
    return optuna.create_study(
        direction=direction, sampler=sampler or AgentTTSSampler(TASK, seed=0, explain=False)
    )


def facts(study):
    """Return what a search determines about its trials."""
    return [(t.params, t.value, t.state, t.intermediate_values) for t in study.trials]


@pytest.mark.parametrize("sampler", [AgentTTSSampler, TPESampler, RandomSampler])
def test_any_sampler_searches_and_confirms(sampler):
    """Trials run on one part of the instances, the confirmation on the other; a note ends it."""
    study = study_of(sampler(TASK, seed=0) if sampler is AgentTTSSampler else sampler(seed=0))
    evaluate = Evaluate()
    found = search(study, evaluate, ALL, evaluations=1000, task=TASK)
    assert sorted(found.search_instances + found.fresh_instances) == sorted(ALL)
    assert found.evaluations == len(evaluate.runs) <= 1000
    assert found.trials + len(confirmed(study)) == len(study.trials)
    searched = study.trials[: found.trials]
    steps = dict(enumerate(found.search_instances))
    for trial in searched:
        assert list(trial.intermediate_values) == list(steps)
        allocation = {"answer": (trial.params["answer.model"], trial.params["answer.samples"])}
        for step, value in trial.intermediate_values.items():
            assert value == outcome(allocation, steps[step])
    assert found.confirmation.looks
    assert found.spend == pytest.approx(spend(study).total)
    assert str(found.recommendation) in str(found)
    assert optuna_dashboard.get_note(study)


def confirmed(study):
    """Return the confirmation trials."""
    return [t for t in study.trials if storage.confirmation_block(t)]


def test_the_same_seed_gives_the_same_search():
    results, studies = [], []
    for _ in range(2):
        studies.append(study_of())
        results.append(search(studies[-1], Evaluate(), ALL, evaluations=800, seed=3))
    assert facts(studies[0]) == facts(studies[1])
    assert results[0] == results[1]


def test_another_seed_splits_differently():
    splits = {
        search(study_of(), Evaluate(), ALL, evaluations=200, seed=seed).search_instances
        for seed in range(2)
    }
    assert len(splits) == 2


def test_the_log_says_how_instances_are_split(caplog):
    with caplog.at_level(logging.INFO):
        found = search(study_of(), Evaluate(), ALL, evaluations=800)
    assert f"trials run on {len(found.search_instances)} of {len(ALL)} instances" in caplog.text


@pytest.mark.parametrize("unit", ["spend", "evaluations"])
def test_a_limit_for_few_instances_is_a_warning_that_names_a_larger_one(caplog, unit):
    """With the limit that it names, trials run on 20 instances, and there is no warning."""
    search(study_of(), Evaluate(), ALL, **{unit: 200 * (TASK.budget if unit == "spend" else 1)})
    (line,) = [r.getMessage() for r in caplog.records if "mostly chance" in r.getMessage()]
    limit = int(re.search(r"raise the limit to ([\d,.]+)", line)[1].replace(",", ""))
    caplog.clear()
    found = search(study_of(), Evaluate(), ALL, **{unit: limit})
    assert len(found.search_instances) == 20
    assert "mostly chance" not in caplog.text
    search(study_of(), Evaluate(), ALL[:30], **{unit: limit})
    assert "pass 40 instances or more" in caplog.text


@pytest.mark.parametrize("stop_after", [1, 130, 500])
def test_an_interrupted_search_goes_on(stop_after):
    """Wherever it ends, another call gives the result that it would have had."""
    whole = study_of()
    expected = search(whole, Evaluate(), ALL, evaluations=800)
    study, evaluate = study_of(), Evaluate()

    def interrupted(allocation, names):
        if len(evaluate.runs) >= stop_after:
            raise KeyboardInterrupt
        return evaluate(allocation, names)

    with pytest.raises(KeyboardInterrupt):
        search(study, interrupted, ALL, evaluations=800)
    study.sampler = AgentTTSSampler(TASK, seed=0)
    found = search(study, evaluate, ALL, evaluations=800)
    assert found.search_instances == expected.search_instances
    assert found.fresh_instances == expected.fresh_instances
    assert found.evaluations <= 800
    assert not {name for _, name in evaluate.runs} - set(ALL)
    blocks = Counter(
        (str(t.params), step) for t in confirmed(study) for step in t.intermediate_values
    )
    assert max(blocks.values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("die_after", [90, 330])
def test_a_killed_search_goes_on(die_after, tmp_path):
    """Without notice, in trials or in the confirmation: no block is evaluated twice."""
    path = tmp_path / "study.db"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=search_in_process, args=(str(path), 600, die_after))
    process.start()
    process.join()
    assert process.exitcode == -9
    log = tmp_path / "study.db.runs"
    before = log.read_text().splitlines()
    assert len(before) == die_after
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{path}")
    kept = [t.number for t in study.trials if t.state == TrialState.COMPLETE]
    names = read_fresh(study)
    found = search_in_process(str(path), 600)
    after = log.read_text().splitlines()[len(before) :]
    assert found.search_instances == names.search
    assert found.fresh_instances == names.names
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{path}")
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert [t.number for t in complete][: len(kept)] == kept
    # What the killed process had evaluated of an unfinished block is the only repetition.
    repeated = Counter(before) & Counter(after)
    assert sum(repeated.values()) <= max(len(t.intermediate_values) for t in complete)
    assert found.evaluations <= 600
    study._storage._backend.engine.dispose()


@settings(max_examples=8)
@given(
    evaluations=st.integers(10, 150),
    count=st.integers(11, 430),
    per_trial=st.none() | st.integers(2, 10),
)
def test_the_limit_holds_over_trials_and_confirmation(evaluations, count, per_trial):
    evaluate = Evaluate()
    study = study_of(RandomSampler(seed=1))
    found = search(
        study, evaluate, ALL[:count], evaluations=evaluations, per_trial=per_trial, task=TASK
    )
    assert found.evaluations == len(evaluate.runs) <= evaluations
    searched, fresh = set(found.search_instances), set(found.fresh_instances)
    assert not searched & fresh
    assert searched | fresh == set(ALL[:count])
    assert per_trial is None or len(searched) == per_trial


@given(evaluations=st.integers(8, 10**6), available=st.integers(2, 10**4))
def test_a_trial_takes_a_reasonable_part(evaluations, available):
    """Neither more than half of the instances nor more than a quarter of the limit."""
    count = instances_per_trial(TASK, Limits(evaluations=evaluations), available)
    assert 1 <= count <= min(50, available / 2, max(1, evaluations / 4))
    if evaluations >= 2500 and available >= 100:
        assert count == 50
    spend = evaluations * min(
        TASK.budget, max(float(row.max()) for rows in TASK.feasible.costs for row in rows)
    )
    assert instances_per_trial(TASK, Limits(spend), available) in (count, count - 1)


def test_spend_limits_a_search():
    limit = 300 * TASK.budget
    study = study_of()
    found = search(study, Evaluate(), ALL, spend=limit)
    assert found.spend == pytest.approx(spend(study).total)
    assert found.spend <= limit * (1 + 1e-9)
    assert spend(study).limit == limit
    assert found.confirmation.spend == pytest.approx(spend(study).confirmation)


def test_n_trials_and_callbacks_end_the_trials():
    """The confirmation follows, and callbacks about further trials do not end it."""
    study, seen = study_of(), []
    found = search(
        study,
        Evaluate(),
        ALL,
        evaluations=1000,
        n_trials=4,
        callbacks=[
            lambda study, trial: seen.append(trial.number),
            StopWhenSettled(),
            StopWhenExhausted(),
            MaxTrialsCallback(4),
        ],
    )
    assert found.trials == 4
    assert found.confirmation.looks
    assert seen == [trial.number for trial in study.trials]


def test_a_stopped_search_confirms():
    """`Study.stop` in a trial ends the trials."""
    found = search(
        study_of(),
        Evaluate(),
        ALL,
        evaluations=1000,
        callbacks=[lambda study, trial: study.stop() if trial.number == 2 else None],
    )
    assert found.trials == 3
    assert found.confirmation.evaluations


@pytest.mark.usefixtures("unexplained")
@settings(max_examples=20)
@given(
    share=st.floats(0.001, 60),
    per_trial=st.none() | st.integers(1, 60),
    sampler=st.sampled_from([AgentTTSSampler, TPESampler, RandomSampler]),
)
def test_no_trial_exceeds_the_limit_on_the_spend(share, per_trial, sampler):
    """Also if it covers few instances, or no trial of many: that is an error."""
    evaluate, limit = Evaluate(), share * TASK.budget
    study = study_of(None if sampler is AgentTTSSampler else sampler(seed=0))
    found = None
    with suppress(TaskError):
        found = search(study, evaluate, ALL, spend=limit, per_trial=per_trial, task=TASK)
    paid = sum(TASK.cost({"answer": key[0][1]}) for key, _ in evaluate.runs)
    assert paid == pytest.approx(found.spend if found else 0.0)
    assert paid <= limit * (1 + 1e-9)


def test_trials_that_did_not_run_use_nothing():
    """Samplers that do not know of the budget propose allocations that are pruned at once."""
    stages = [
        Stage(
            name,
            models=TASK.stages[0].models,
            prompt_tokens=256,
            generation_tokens=64,
            max_samples=8,
        )
        for name in ("plan", "answer")
    ]
    tight = Task(name="two", stages=stages, budget=200, metric_range=(0, 1))
    study, runs = study_of(RandomSampler(seed=0)), []

    def evaluate(allocation, names):
        runs.extend(names)
        return [outcome({"answer": allocation["answer"]}, name) for name in names]

    found = search(study, evaluate, ALL, evaluations=600, task=tight)
    assert any(trial.state == TrialState.PRUNED for trial in study.trials)
    assert found.evaluations == len(runs)


def test_a_larger_limit_runs_further_trials():
    """The same limit does not, and the result counts all looks."""
    study, evaluate = study_of(), Evaluate()
    small = search(study, evaluate, ALL, evaluations=200)
    assert search(study, evaluate, ALL, evaluations=200) == small
    large = search(study, evaluate, ALL, evaluations=1500)
    assert large.trials > small.trials
    assert 200 < large.evaluations == len(evaluate.runs) <= 1500
    assert Counter(evaluate.runs).most_common(1)[0][1] == 1
    blocks = {storage.confirmation_block(trial) for trial in confirmed(study)}
    assert large.confirmation.looks == len(blocks) > 4


def test_the_reason_names_the_limit_that_was_given():
    study, given = study_of(), np.int64(27)
    found = search(study, Evaluate(), ALL, evaluations=given, per_trial=3)
    assert found.confirmation.reason == f"its limit of {given} evaluations is reached"


def test_a_limit_beyond_the_instances_does_not_run_thousands_of_trials():
    found = search(study_of(), Evaluate(), ALL[:12], evaluations=10**6)
    assert found.trials < 70


def test_a_worker_stops_trials_once_another_confirms():
    def plan(study, trial):
        if storage.confirmation_block(trial):
            return
        choices = TASK.read(trial.params)
        limits = Limits(evaluations=500)
        write_look(study, TASK, Look(1, (choices,), (1000, 1001), trial.number + 1, limits))

    found = search(study_of(), Evaluate(), ALL, evaluations=500, callbacks=[plan])
    assert found.trials == 1
    assert found.confirmation.evaluations == 2


def test_confirmed_instances_of_a_search_are_refused():
    study = study_of()
    found = search(study, Evaluate(), ALL, evaluations=300)
    with pytest.raises(TaskError, match="must not occur in the search"):
        confirm(study, Evaluate(), found.search_instances, evaluations=1000)


def test_unsuitable_studies_and_instances_are_refused():
    evaluate = Evaluate()
    with pytest.raises(TaskError, match="`instances` is needed"):
        search(study_of(), evaluate, evaluations=100)
    with pytest.raises(TaskError, match="2 or more"):
        search(study_of(), evaluate, ["a"], evaluations=100)
    with pytest.raises(TaskError, match="`per_trial`"):
        search(study_of(), evaluate, ALL, evaluations=100, per_trial=len(ALL))
    with pytest.raises(TaskError, match="the limit of 9 evaluations must cover a trial"):
        search(study_of(), evaluate, ALL, evaluations=9, per_trial=10)
    with pytest.raises(TaskError, match="give `spend`"):
        search(study_of(), evaluate, ALL)
    with pytest.raises(NoTaskError, match="pass `task=`"):
        search(study_of(RandomSampler()), evaluate, ALL, evaluations=100)
    unlike = optuna.create_study(directions=["minimize", "maximize"])
    with pytest.raises(NoTaskError, match="2 objectives"):
        search(unlike, evaluate, ALL, evaluations=100)
    used = study_of()
    used.optimize(lambda trial: TASK.suggest(trial) and 0.5, n_trials=1)
    with pytest.raises(TaskError, match="1 finished trials"):
        search(used, evaluate, ALL, evaluations=100)
    assert not evaluate.runs


def test_a_resumed_search_needs_the_instances_of_its_trials():
    study = study_of()
    found = search(study, Evaluate(), ALL, evaluations=300)
    with pytest.raises(TaskError, match="must include those of the study's trials"):
        search(study, Evaluate(), found.fresh_instances, evaluations=300)
    again = search(study, Evaluate(), [*ALL, "new"], evaluations=300)
    assert again.search_instances == found.search_instances
    assert again.fresh_instances == (*found.fresh_instances, "new")


def test_steps_of_fresh_instances_are_beyond_those_of_all():
    """Trials on all instances, which `objective(trial)` runs, would have steps up to 1,199."""
    study = study_of()
    search(study, Evaluate(), range(1200), evaluations=60, per_trial=5)
    assert read_fresh(study).base == 10_000
    assert min(min(t.intermediate_values) for t in confirmed(study)) == 10_000


def test_failed_trials_may_be_caught():
    evaluate = Evaluate(lambda allocation, names: allocation["answer"].samples < 3)
    with pytest.raises(RuntimeError, match="the server is down"):
        search(study_of(), evaluate, ALL, evaluations=500, n_trials=8)
    found = search(study_of(), evaluate, ALL, evaluations=500, n_trials=8, catch=(RuntimeError,))
    assert found.recommendation.failed
    assert math.isfinite(found.recommendation.value)


def test_an_objective_of_trials_is_refused_before_a_trial_runs():
    """The error names the two arguments, and the study is as before."""
    study = study_of()
    with pytest.raises(TaskError, match="must accept two arguments, allocation and instances"):
        search(study, lambda trial: 1.0, ALL, evaluations=800)
    assert not study.trials


def test_trials_that_all_fail_are_named():
    """The error has their number."""

    def failing(allocation, names):
        raise OSError("down")

    study = study_of()
    with pytest.raises(NoEvidenceError, match=r"no completed trial .*, and \d+ failed: the log"):
        search(study, failing, ALL, evaluations=400, n_trials=3, catch=(OSError,))
