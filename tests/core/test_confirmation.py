"""`confirm` compares the best allocations on fresh instances, pays once, and loses nothing."""

import math
import threading
from collections import Counter

import numpy as np
import optuna
import pytest
from confirmation_cases import FRESH, SEARCH, TASK, Evaluate, oriented, outcome, rate, searched
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from study_cases import one_stage, study_with_outcomes, trial_of

from optuna_agenttts import (
    Model,
    NoEvidenceError,
    NoTaskError,
    PriceCost,
    Stage,
    StopAtSpend,
    Task,
    TaskError,
    carry_over,
    confirm,
    recommend,
    spend,
    storage,
)
from optuna_agenttts.confirmation.limits import Limits
from optuna_agenttts.confirmation.result import Standing
from optuna_agenttts.report.trials import count_states
from optuna_agenttts.study.experience import read_experience
from optuna_agenttts.study.fresh import FreshInstances, read_fresh
from optuna_agenttts.study.spending import stated_spend

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.usefixtures("unexplained"),
]


def settings_of(study):
    """Return the model and the number of samples of each trial."""
    return [(t.params["answer.model"], t.params["answer.samples"]) for t in study.trials]


def confirmations(study, state=TrialState.COMPLETE):
    """Return the confirmation trials of a study."""
    return [t for t in study.trials if storage.confirmation_block(t) and t.state == state]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_allocation_is_found_where_trials_could_not_tell(direction):
    """Fresh instances show which of the contenders is good, in both directions."""
    study = searched(direction)

    def evaluate(allocation, names):
        return [oriented(outcome(allocation, name), direction) for name in names]

    found = confirm(study, evaluate, FRESH, evaluations=1500)
    rates = {str(dict(s.allocation)): rate(s.allocation) for s in found.contenders}
    best = rates[str(dict(found.recommendation.allocation))]
    assert best >= max(rates.values()) - 0.05
    assert found.recommendation == recommend(study)
    assert str(found).startswith(str(found.recommendation))
    assert len(str(found).splitlines()) > len(found.contenders)
    assert found.reason in str(found)
    own = [s for s in found.contenders if s.params == found.recommendation.params]
    assert [(s.difference, s.interval) for s in own] == [(None, None)]
    # The table begins with the recommended allocation, and its columns are aligned.
    lines = str(found).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  score  instances"))
    head, *rows = lines[start : start + len(found.contenders) + 1]
    assert ["recommended" in row for row in rows] == [True] + [False] * (len(rows) - 1)
    assert all(f"  {row[head.index('allocation') :]}" in row for row in rows)
    assert "e+" not in str(found)


def test_trials_are_marked_ordered_and_paired():
    """Each is complete, its value is the mean of outcomes at the steps of its block."""
    study, evaluate = searched(), Evaluate()
    before = study.trials
    found = confirm(study, evaluate, FRESH, evaluations=900)
    assert study.trials[: len(before)] == before
    fresh = read_fresh(study)
    steps_of = {}
    for trial in study.trials[len(before) :]:
        assert trial.state == TrialState.COMPLETE
        assert trial.user_attrs["agenttts:origin"] == "confirmation"
        assert trial.value == pytest.approx(np.mean(list(trial.intermediate_values.values())))
        assert min(trial.intermediate_values) >= fresh.base > len(SEARCH)
        assert trial.datetime_start <= trial.datetime_complete
        block = storage.confirmation_block(trial)
        steps = steps_of.setdefault(block, list(trial.intermediate_values))
        assert list(trial.intermediate_values) == steps
        (model, samples) = trial.params["answer.model"], trial.params["answer.samples"]
        for step, value in trial.intermediate_values.items():
            assert value == outcome({"answer": (model, samples)}, fresh.name(step))
    blocks = [storage.confirmation_block(trial) for trial in confirmations(study)]
    assert blocks == sorted(blocks)
    assert found.looks == len(steps_of) <= 4
    used = [step for steps in steps_of.values() for step in steps]
    assert len(set(used)) == len(used) == found.instances
    assert Counter(evaluate.runs).most_common(1)[0][1] == 1


@settings(max_examples=10)
@given(
    evaluations=st.none() | st.integers(2, 900),
    share=st.none() | st.floats(0.001, 1.0),
    fresh=st.integers(1, 300),
    seed=st.integers(0, 3),
)
def test_limits_are_kept(evaluations, share, fresh, seed):
    """Neither evaluations nor spend exceed what was given, and the result says what was used."""
    if evaluations is None and share is None:
        return
    study, evaluate = searched(count=5), Evaluate()
    limit = None if share is None else 2e5 * share
    dearest = sorted(TASK.cost({"answer": (m, s)}) for m, s in settings_of(study))
    options = {"evaluations": evaluations, "spend": limit, "seed": seed}
    if (evaluations or 2) < 2 or (limit or math.inf) < sum(dearest[:2]):
        with pytest.raises(TaskError, match="does not cover one instance"):
            confirm(study, evaluate, FRESH[:fresh], **options)
        assert not evaluate.runs
        return
    found = confirm(study, evaluate, FRESH[:fresh], **options)
    paid = sum(TASK.cost({"answer": key[0][1]}) for key, _ in evaluate.runs)
    assert found.evaluations == len(evaluate.runs) <= (evaluations or math.inf)
    assert found.spend == pytest.approx(paid)
    assert found.spend <= (limit or math.inf) * (1 + 1e-9)
    assert found.instances <= fresh


def test_a_second_call_does_nothing():
    """Limits are those of all confirmation trials of the study, so both calls agree."""
    study, evaluate = searched(), Evaluate()
    first = confirm(study, evaluate, FRESH, evaluations=700)
    runs = len(evaluate.runs)
    assert confirm(study, evaluate, FRESH, evaluations=700) == first
    assert len(evaluate.runs) == runs


def test_further_trials_begin_a_new_confirmation():
    """It goes on with instances that are still fresh, within a larger limit."""
    study, evaluate = searched(), Evaluate()
    first = confirm(study, evaluate, FRESH, evaluations=400)
    better = {"answer": (TASK.stages[0].models[1].name, 3)}
    outcomes = {i: outcome(better, name) for i, name in enumerate(SEARCH)}
    value = float(np.mean(list(outcomes.values())))
    study.add_trial(trial_of(TASK, better, value, intermediate_values=outcomes))
    second = confirm(study, evaluate, FRESH, evaluations=900)
    assert first.evaluations < second.evaluations <= 900
    assert Counter(evaluate.runs).most_common(1)[0][1] == 1


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_an_interruption_loses_no_block_and_repeats_none(after):
    """Ctrl-C in a block leaves those before; another call goes on to the same result."""
    whole, evaluate = searched(), Evaluate()
    expected = confirm(whole, evaluate, FRESH, evaluations=900)
    study, left = searched(), after

    def interrupted(allocation, names):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return evaluate(allocation, names)

    evaluate.runs.clear()
    with pytest.raises(KeyboardInterrupt):
        confirm(study, interrupted, FRESH, evaluations=900)
    assert len(confirmations(study)) == after
    assert confirm(study, evaluate, FRESH, evaluations=900) == expected
    assert Counter(evaluate.runs).most_common(1)[0][1] == 1
    steps = [list(t.intermediate_values.items()) for t in confirmations(study)]
    assert steps == [list(t.intermediate_values.items()) for t in confirmations(whole)]


def test_more_instances_are_appended():
    """Those that are known keep their steps."""
    study = searched()
    confirm(study, Evaluate(), FRESH[:100], evaluations=5000)
    before = read_fresh(study)
    confirm(study, Evaluate(), FRESH, evaluations=5000)
    after = read_fresh(study)
    assert after.names[:100] == before.names
    assert sorted(after.names) == sorted(FRESH)


def test_a_failing_allocation_does_not_lose_the_others(caplog):
    """It is recorded as a failed trial and left out; a later call tries it again."""
    study, failing = searched(), []

    def fail(allocation, names):
        failing[:] = failing or [allocation]
        return allocation == failing[0]

    found = confirm(study, Evaluate(fail), FRESH, evaluations=900)
    (failed,) = confirmations(study, TrialState.FAIL)
    assert "the server is down" in failed.user_attrs["error"]
    assert "the server is down" in caplog.text
    assert found.evaluations <= 900
    (standing,) = [s for s in found.contenders if s.failed]
    assert dict(standing.allocation) == dict(failing[0])
    assert math.isnan(standing.mean)
    assert "failed" in str(standing)
    assert len({str(t.params) for t in confirmations(study)}) >= 2
    failing[:] = [None]
    confirm(study, Evaluate(fail), FRESH, evaluations=2000)
    assert all(t.number == failed.number for t in confirmations(study, TrialState.FAIL))


def test_the_error_is_raised_if_all_contenders_fail():
    study = searched()
    with pytest.raises(RuntimeError, match="the server is down"):
        confirm(study, Evaluate(lambda allocation, names: True), FRESH, evaluations=900)
    assert not confirmations(study)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda names: [1.0] * (len(names) - 1), "an outcome for each"),
        (lambda names: [math.nan] * len(names), "finite"),
        (lambda names: ["good"] * len(names), "finite"),
        (lambda names: dict.fromkeys(names[1:], 1.0), "lacks"),
        (lambda names: dict.fromkeys([*names, "other"], 1.0), "unknown 'other'"),
        (lambda names: 0.5, "sequence"),
        (lambda names: {float(i) for i in range(len(names))}, "sequence"),
        (lambda names: "1" * len(names), "sequence"),
    ],
)
def test_unusable_outcomes_are_named(values, message):
    with pytest.raises(TaskError, match=message):
        confirm(searched(), lambda allocation, names: values(names), FRESH, evaluations=900)


class Report:
    """Functions may return outcomes by name, metered spend and metrics."""

    def __init__(self, outcomes, spend):
        self.outcomes, self.spend, self.metrics = outcomes, spend, {"recall": 0.25}


def test_instances_may_be_a_mapping_and_not_a_table():
    """A mapping gives names; a table has a length in rows, and its items are columns."""

    class Table:
        def __len__(self):
            return 3

        def __iter__(self):
            return iter(["question"])

    seen = []

    def evaluate(allocation, items):
        seen.extend(items)
        return [float(item % 2) for item in items]

    study = searched()
    confirm(study, evaluate, {f"q{i}": i for i in range(60)}, evaluations=200)
    assert set(seen) <= set(range(60))
    assert sorted(read_fresh(study).names) == sorted(f"q{i}" for i in range(60))
    with pytest.raises(TaskError, match="list of its rows"):
        confirm(searched(), evaluate, Table(), evaluations=200)


def test_metrics_are_stored_as_numbers(tmp_path):
    """Storages keep JSON, so others would fail after the evaluation has been paid for."""

    class Measured(Report):
        def __init__(self, outcomes):
            super().__init__(outcomes, np.float64(7.0))
            self.metrics = {"recall": np.float32(0.25), "failed": math.nan, "raw": object()}

    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db", direction="maximize")
    study.add_trials(searched(count=4).trials)
    confirm(
        study,
        lambda allocation, names: Measured([1.0] * len(names)),
        FRESH,
        evaluations=90,
        task=TASK,
    )
    (trial, *_) = confirmations(study)
    assert trial.user_attrs["recall"] == 0.25
    assert not {"failed", "raw"} & trial.user_attrs.keys()


def test_metered_spend_counts_instead_of_costs():
    """An evaluation that cost half of what was declared leaves more for further instances."""
    study = searched()

    def evaluate(allocation, names):
        outcomes = {name: outcome(allocation, name) for name in names}
        return Report(outcomes, 0.5 * TASK.cost(allocation) * len(names))

    found = confirm(study, evaluate, FRESH, spend=5e4)
    paid = [stated_spend(t) for t in confirmations(study)]
    assert found.spend == pytest.approx(sum(paid)) == pytest.approx(spend(study).confirmation)
    assert found.spend <= 5e4
    assert {t.user_attrs["recall"] for t in confirmations(study)} == {0.25}


def test_arguments_are_checked_before_anything_is_evaluated():
    study, evaluate = searched(), Evaluate()
    for options, message in (
        ({}, "give `spend`, `evaluations`"),
        ({"spend": -1}, "`spend`"),
        ({"evaluations": 0}, "`evaluations`"),
        ({"evaluations": 1}, "does not cover one instance"),
        ({"spend": 1e-3}, "does not cover one instance"),
    ):
        with pytest.raises(TaskError, match=message):
            confirm(study, evaluate, FRESH, **options)
    for instances in ([], "abc", ["a", "a"]):
        with pytest.raises(TaskError, match="`instances`"):
            confirm(study, evaluate, instances, evaluations=100)
    with pytest.raises(TaskError, match="confirm: `evaluate` must be callable"):
        confirm(study, None, FRESH, evaluations=100)
    empty = optuna.create_study(direction="maximize")
    with pytest.raises(NoEvidenceError):
        confirm(empty, evaluate, FRESH, evaluations=100, task=TASK)
    with pytest.raises(NoTaskError):
        confirm(optuna.create_study(directions=["minimize"] * 2), evaluate, FRESH, evaluations=9)
    assert not evaluate.runs
    assert len(study.trials) == 8


def test_the_study_can_be_stopped_from_callbacks():
    """`Study.stop` ends the confirmation after the block; another call goes on."""
    study, seen = searched(), []

    def stop(study, trial):
        seen.append(trial)
        study.stop()

    found = confirm(study, Evaluate(), FRESH, evaluations=900, callbacks=[stop])
    assert found.reason == "the study was stopped"
    assert [t.number for t in seen] == [t.number for t in confirmations(study)] == [8]
    assert confirm(study, Evaluate(), FRESH, evaluations=900).evaluations > found.evaluations
    with pytest.raises(RuntimeError, match=r"Study\.stop"):
        study.stop()


def test_the_spend_of_confirmations_counts_all_instances(caplog):
    """Also if the trials of the search report no spend; `StopAtSpend` stops both."""
    study = searched()
    before = spend(study)
    found = confirm(study, Evaluate(), FRESH, evaluations=500)
    after = spend(study)
    assert after.trials == pytest.approx(before.trials + found.spend)
    assert after.confirmation == pytest.approx(found.spend)
    assert not after.whole
    assert "confirmation" in str(after)
    stopping = searched()
    stop = StopAtSpend(1.5 * before.trials)
    assert confirm(stopping, Evaluate(), FRESH, evaluations=500, callbacks=[stop]).reason == (
        "the study was stopped"
    )


def test_workers_share_a_look():
    """Blocks that another worker has begun are evaluated last, and their spend is reserved."""
    study, order = searched(), []
    whole = confirm(searched(), Evaluate(), FRESH, evaluations=900)

    def evaluate(allocation, names):
        order.append(allocation["answer"])
        if len(order) == 2:
            # Another worker ends its share of the same look first.
            other = optuna.load_study(study_name=study.study_name, storage=study._storage)
            thread = threading.Thread(
                target=confirm, args=(other, ended, FRESH), kwargs={"evaluations": 900}
            )
            thread.start()
            thread.join()
        return [outcome(allocation, name) for name in names]

    def ended(allocation, names):
        others.append(allocation["answer"])
        return [outcome(allocation, name) for name in names]

    others = []
    found = confirm(study, evaluate, FRESH, evaluations=900)
    assert found.recommendation.params == whole.recommendation.params
    # The first allocation was finished, and the second one was left to the end of the look.
    assert order[0] not in others[: others.index(order[1])]
    assert len(set(others[: others.index(order[1]) + 1])) == others.index(order[1]) + 1
    assert len(order) == 2
    assert found.evaluations <= 900 + len(FRESH)


def test_an_allocation_whose_outcomes_are_known_from_another_is_confirmed():
    """The cheapest one with the same outcomes is a contender, though no trial ran it."""
    stage = Stage(
        "answer",
        models=TASK.stages[0].models,
        prompt_tokens=256,
        generation_tokens=64,
        max_samples=64,
        equal_samples=((1, 2),),
    )
    task = Task(name="votes", stages=[stage], budget=1000, metric_range=(0, 1))
    model = stage.models[1].name
    study = study_with_outcomes(
        task, [({"answer": (model, n)}, [float(i % 3 > 0) for i in range(30)]) for n in (2, 3, 4)]
    )
    found = confirm(study, Evaluate(), FRESH, evaluations=300, task=task)
    tried = {t.params["answer.samples"] for t in confirmations(study)}
    assert 1 in tried
    assert 2 not in tried
    assert found.evaluations


@pytest.mark.parametrize(
    ("unit", "text"),
    [(1.0, "0.700  50  -0.05 (-0.21 to +0.11)"), (1e5, "70000  50  -5000 (-21000 to +11000)")],
)
def test_differences_have_the_digits_of_their_error(unit, text):
    """Also of metrics that are large or small."""
    standing = Standing(
        params={},
        allocation=TASK.complete({}),
        cost=1.0,
        mean=0.7 * unit,
        instances=50,
        difference=-0.05 * unit,
        interval=(-0.21 * unit, 0.11 * unit),
        dropped=None,
    )
    assert str(standing).startswith(text)


def test_reports_count_confirmations_apart():
    study = searched()
    confirm(study, Evaluate(), FRESH, evaluations=500)
    number = len(confirmations(study))
    assert count_states(study.trials) == f"8 complete, {number} complete in confirmation"


def test_carried_trials_keep_their_steps_and_experience_skips_them():
    study = searched()
    confirm(study, Evaluate(), FRESH, evaluations=500)
    (experience,) = read_experience([study])
    assert len(experience.params) == 8
    carried = carry_over(study, one_stage(metric_range=(0, 1), max_samples=128))
    assert read_fresh(carried) == read_fresh(study)
    assert len(confirmations(carried)) == len(confirmations(study))
    evaluate = Evaluate()
    confirm(carried, evaluate, FRESH, evaluations=1000)
    seen = {read_fresh(study).name(s) for t in confirmations(study) for s in t.intermediate_values}
    assert evaluate.runs
    assert not seen & {name for _, name in evaluate.runs}


def test_parameters_outside_of_the_task_are_those_of_the_search():
    """So that the search space of other samplers stays as it is."""
    study = searched()
    study.sampler = optuna.samplers.TPESampler(seed=0)
    confirm(study, Evaluate(), FRESH, evaluations=300)
    distributions = study.trials[0].distributions
    assert all(t.distributions == distributions for t in study.trials)
    study.optimize(lambda trial: rate(TASK.suggest(trial)), n_trials=1)


@given(
    names=st.lists(st.text(), unique=True),
    more=st.lists(st.text(), unique=True),
    seed=st.integers(),
)
def test_names_keep_their_steps(names, more, seed):
    """Further names are appended in an order that the seed determines."""
    one = FreshInstances(1000).including(names, seed)
    both = one.including(more, seed)
    assert sorted(one.names) == sorted(names)
    assert both.names[: len(names)] == one.names
    assert set(both.names) == {*names, *more}
    assert all(both.name(step) == name for name, step in both.steps().items())
    assert both.name(999) == both.name(1000 + len(both.names)) == ""
    assert both.including(more, seed + 1) == both


@given(
    spend=st.floats(0.1, 1e6),
    evaluations=st.integers(1, 10**6),
    costs=st.lists(st.floats(0, 1e4), min_size=1),
)
def test_the_instances_of_a_look_fit_both_limits(spend, evaluations, costs):
    count = int(Limits(spend, evaluations).instances(costs))
    assert count * len(costs) <= evaluations
    assert count * math.fsum(costs) <= spend * (1 + 1e-8)


@pytest.mark.parametrize("unit", [1.0, 300.0])
def test_the_unit_of_the_metric_has_no_effect(unit):
    """Without a declared range, scores in hundreds give the same looks as those below 1."""
    task = one_stage()

    def graded(allocation, name):
        return rate(allocation) + 0.2 * outcome(allocation, name)

    def run(factor):
        study = searched()
        old = study.trials
        study = optuna.create_study(direction="maximize")
        for trial in old:
            allocation = {"answer": (trial.params["answer.model"], trial.params["answer.samples"])}
            outcomes = {i: factor * graded(allocation, name) for i, name in enumerate(SEARCH)}
            value = float(np.mean(list(outcomes.values())))
            study.add_trial(trial_of(task, allocation, value, intermediate_values=outcomes))
        found = confirm(
            study,
            lambda allocation, names: np.array([factor * graded(allocation, n) for n in names]),
            FRESH,
            evaluations=600,
            task=task,
        )
        return found, [list(t.intermediate_values) for t in confirmations(study)]

    found, steps = run(unit)
    expected, same = run(1.0)
    assert steps == same
    assert found.recommendation.params == expected.recommendation.params
    assert found.recommendation.value == pytest.approx(unit * expected.recommendation.value)


def test_scores_without_outcomes_are_confirmed():
    """Trials that reported no outcomes of instances are enough to choose contenders."""
    study = optuna.create_study(direction="maximize")
    for trial in searched().trials:
        trial.intermediate_values = {}
        study.add_trial(trial)
    found = confirm(study, Evaluate(), FRESH, evaluations=800, task=TASK)
    assert found.looks
    assert found.recommendation.interval is not None


def test_allocations_that_violate_constraints_are_not_contenders():
    study = optuna.create_study(direction="maximize")
    for trial in searched().trials:
        forbidden = trial.params["answer.model"].startswith("large")
        trial.system_attrs = {"constraints": (1.0 if forbidden else -1.0,)}
        study.add_trial(trial)
    found = confirm(study, Evaluate(), FRESH, evaluations=800, task=TASK)
    assert found.contenders
    assert all(s.allocation["answer"].model.startswith("small") for s in found.contenders)


def test_models_that_cost_nothing_are_limited_by_evaluations_and_instances():
    """A limit on the spend covers any number of evaluations of a free model."""
    free = [Model(name, input_price=0.0, output_price=0.0) for name in ("small-3B", "large-70B")]
    stage = Stage("answer", models=free, prompt_tokens=9, generation_tokens=9, max_samples=64)
    task = Task(name="free", stages=[stage], budget=1, cost=PriceCost(), metric_range=(0, 1))
    study = optuna.create_study(direction="maximize")
    for trial in searched().trials:
        study.add_trial(trial)
    found = confirm(study, Evaluate(), FRESH[:40], spend=1.0, task=task)
    assert found.evaluations
    assert found.spend == 0
    assert found.instances <= 40
