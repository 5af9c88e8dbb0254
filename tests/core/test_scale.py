"""Scale of scores: units, outliers, and what a few scores tell."""

import logging
import math
from dataclasses import replace
from functools import cache

import numpy as np
import optuna
import pytest
from core_support import score, wiki_task
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from posterior_cases import draw_allocations
from study_cases import one_stage, small, study_of, study_with_outcomes, trial_of

from optuna_agenttts import AgentTTSSampler, NoEvidenceError, Tie, Undecided, recommend
from optuna_agenttts.planner.scale import Scale, find_outliers
from optuna_agenttts.study.archive import Archive

TASK = wiki_task()
few = settings(max_examples=12, derandomize=True, database=None)
units = st.floats(-3, 3).map(lambda exponent: 10.0**exponent)
zeros = st.floats(-1000, 1000)


@cache
def landscape(trials=24, instances=60):
    """Return allocations and a table of outcomes from about 0 to 1, none of them 0 or 1."""
    rng = np.random.default_rng(2)
    models, samples = draw_allocations(TASK, rng, trials)
    allocations = [
        TASK.allocation(list(zip(model, number)))
        for model, number in zip(models.tolist(), samples.tolist())
    ]
    # Some are equally good, so that cheaper ones are tied or undecided.
    truth = np.minimum([score(allocation) for allocation in allocations], 0.36)
    hard = 0.1 * rng.normal(size=instances)
    return allocations, truth[:, None] + hard + 0.02 * rng.normal(size=(trials, instances))


def study_in(unit, zero, *, outcomes, sign=1.0, task=TASK):
    """Return a study whose values are in some unit; the last but one trial was stopped."""
    allocations, table = landscape()
    table = sign * (unit * table + zero)
    direction = "maximize" if sign > 0 else "minimize"
    if outcomes:
        stopped = {len(table) - 2: 15}
        return study_with_outcomes(task, list(zip(allocations, table)), direction, stopped)
    return study_of(task, list(zip(allocations, table.mean(axis=1).tolist())), direction)


def proposals(study, task=TASK, count=3, **options):
    """Return what a sampler proposes next, to workers that ask before any of them is done."""
    study.sampler = AgentTTSSampler(task, seed=0, **options)
    return [task.suggest(study.ask()) for _ in range(count)]


def figures(study, unit=1.0, zero=0.0, *, sign=1.0, task=TASK):
    """Return all that a study recommends and proposes, in units of the landscape."""
    found = recommend(study, task)

    def relative(*values):
        return [round((sign * value - zero) / unit, 5) for value in values]

    return {
        "winner": found.allocation,
        "value": relative(found.value),
        "interval": sorted(relative(*found.interval or ())),
        "margin": round(found.margin / unit, 5),
        "others": [
            (type(tie), tie.allocation, relative(tie.value), round(tie.loss / unit, 5))
            for tie in (*found.ties, *found.undecided)
        ],
        "instances": [other.instances for other in found.undecided],
        "next": proposals(study, task),
    }


@cache
def expected(outcomes, declared=None):
    """Return the figures of the landscape in its own unit."""
    task = wiki_task(metric_range=declared)
    return figures(study_in(1, 0, outcomes=outcomes, task=task), task=task)


def test_cases_have_what_is_compared():
    """With outcomes there are an interval, a tie, and an undecided allocation."""
    assert expected(True)["interval"]
    assert {kind for kind, *_ in expected(True)["others"]} == {Tie, Undecided}
    assert expected(False)["others"] == expected(False)["interval"] == []


@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize(("unit", "zero"), [(1e-3, 5), (0.02, 0.82), (100, 0), (1e3, -7)])
def test_units_of_the_metric_change_nothing(outcomes, unit, zero):
    """Winner, relative interval, ties and next proposals are those of the landscape's unit."""
    assert figures(study_in(unit, zero, outcomes=outcomes), unit, zero) == expected(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@few
@given(units, zeros)
def test_no_unit_of_the_metric_changes_anything(outcomes, sign, unit, zero):
    """For units from 1e-3 to 1e3 and any zero, whether maximizing or minimizing."""
    study = study_in(unit, zero, outcomes=outcomes, sign=sign)
    assert figures(study, unit, zero, sign=sign) == expected(outcomes)


@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("unit", "zero"), [(1e-3, 0.5), (100, 0), (7, -300)])
def test_declared_ranges_in_other_units_change_nothing(outcomes, sign, unit, zero):
    """A range that is transformed along with the scores gives the same figures."""
    low, high = sorted(sign * (unit * end + zero) for end in (-0.5, 1.5))
    task = wiki_task(metric_range=(low, high))
    study = study_in(unit, zero, outcomes=outcomes, sign=sign, task=task)
    assert figures(study, unit, zero, sign=sign, task=task) == expected(outcomes, (-0.5, 1.5))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_metrics_of_small_spread_are_searched_as_those_of_large(direction):
    """Accuracies from .82 to .84 lead to the same trials as accuracies from 0 to 1."""
    sign, tried = 1 if direction == "maximize" else -1, []
    for unit, zero in ((1, 0), (0.02, 0.82)):
        study = optuna.create_study(direction=direction, sampler=AgentTTSSampler(TASK, seed=0))
        study.optimize(
            lambda trial, a=unit, b=zero: sign * (a * score(TASK.suggest(trial)) + b), n_trials=15
        )
        tried.append([trial.params for trial in study.trials])
    assert tried[0] == tried[1]


PENALTIES = [-1.0, -1000.0, -1e9, -1e300, -math.inf, math.inf]


def penalized(penalty, *, sign=1.0, rows=(4, 9), outcomes=False):
    """Return a study in which two trials have a penalty, and one in which they have no value."""
    allocations, table = landscape(22)
    table = sign * table
    direction = "maximize" if sign > 0 else "minimize"
    studies = [optuna.create_study(direction=direction) for _ in range(2)]
    for row, (allocation, values) in enumerate(zip(allocations, table.tolist())):
        steps = dict(enumerate(values)) if outcomes and row not in rows else {}
        value = penalty if row in rows else float(np.mean(values))
        with_penalty = trial_of(TASK, allocation, value, intermediate_values=steps)
        studies[0].add_trial(with_penalty)
        if row in rows:
            with_penalty = trial_of(TASK, allocation, None, state=TrialState.PRUNED)
        studies[1].add_trial(with_penalty)
    return studies


@pytest.mark.parametrize("outcomes", [False, True])
@pytest.mark.parametrize(
    ("penalty", "sign"), [*((value, 1.0) for value in PENALTIES), (1e300, -1.0), (1e4, -1.0)]
)
def test_penalties_have_no_weight(penalty, sign, outcomes, caplog):
    """Two of 22 trials with a penalty count as trials without a value, and are named once."""
    study, without = penalized(penalty, sign=sign, outcomes=outcomes)
    found, plain = recommend(study, TASK), recommend(without, TASK)
    assert found.outliers == ((4, penalty), (9, penalty))
    assert "Trials left out, since their values are outliers: 4, 9" in str(found)
    assert replace(found, outliers=()) == plain
    with caplog.at_level(logging.WARNING, logger="optuna_agenttts"):
        assert proposals(study) == proposals(without)
    named = [line for line in caplog.messages if "outlier" in line]
    assert [line.split(" has ")[0] for line in named] == ["Trial 4", "Trial 9"]


def test_penalties_given_during_a_search_do_not_change_it():
    """A search with penalties tries what one does whose trials have no value instead."""
    tried = []
    for penalty in (-1e9, None):
        rng = np.random.default_rng(0)
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK, seed=0))
        for number in range(20):
            trial = study.ask()
            value = score(TASK.suggest(trial)) + 0.05 * rng.normal()
            value = penalty if number in (9, 12) else value
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            study.tell(trial, value, state=state)
        tried.append([trial.params for trial in study.trials])
    assert tried[0] == tried[1]


@pytest.mark.parametrize("value", [7.0, -3.0, 1e300])
def test_scores_outside_of_the_declared_range_are_no_evidence(value):
    """If there are no others, the error says so; the sampler goes on."""
    task = one_stage(metric_range=(0, 1))
    study = study_of(task, [(small(n), value) for n in (1, 4, 16)])
    with pytest.raises(
        NoEvidenceError, match=r"of trial 0, is outside of its `metric_range`, 0 to 1"
    ):
        recommend(study, task)
    assert proposals(study, task)
    study.add_trial(trial_of(task, small(32), 0.5))
    found = recommend(study, task)
    assert (found.allocation, found.trials) == (small(32), 1)
    assert 0 <= found.value <= 1


def scale_of(study, task=None):
    """Return the scale of a study's scores."""
    task = task or one_stage()
    return Archive(task, maximize=study.direction.name == "MAXIMIZE").read(study.trials).scale


BINARY = [(small(n), row) for n, row in zip((1, 4, 16), np.eye(3)[:, [0, 1, 1, 2, 0, 0, 1, 2]])]


def test_outcomes_of_zero_and_one_have_the_range_from_zero_to_one():
    """Scores are rates then; minimized, they are rates of errors."""
    assert scale_of(study_with_outcomes(one_stage(), BINARY)) == Scale(0, 1)
    assert scale_of(study_with_outcomes(one_stage(), BINARY, "minimize")) == Scale(-1, 1)
    assert not scale_of(study_of(one_stage(), [(a, o.mean()) for a, o in BINARY])).bounded


def test_a_declared_range_counts_more_than_outcomes():
    """Outcomes that happen to be 0 or 1 do not narrow it."""
    task = one_stage(metric_range=(-1, 1))
    assert scale_of(study_with_outcomes(task, BINARY), task) == Scale(-1, 2)


def test_one_other_outcome_is_enough_for_another_range():
    """Outcomes of 0, 1 and .5 may be of any metric."""
    half = BINARY[0][1].copy()
    half[3] = 0.5
    assert not scale_of(study_with_outcomes(one_stage(), [*BINARY, (small(8), half)])).bounded


@pytest.mark.parametrize("value", [lambda o: 100 * o.mean(), lambda o: 3.0 + o[-1], np.sum])
def test_outcomes_that_do_not_explain_the_scores_do_not_give_the_range(value):
    """Percentages, sums and unrelated flags of 0 and 1 leave the range unknown."""
    study = optuna.create_study(direction="maximize")
    for allocation, outcomes in BINARY:
        steps = dict(enumerate(outcomes.tolist()))
        study.add_trial(
            trial_of(one_stage(), allocation, float(value(outcomes)), intermediate_values=steps)
        )
    assert not scale_of(study).bounded
    found = recommend(study, one_stage())
    values = study.trials_dataframe()["value"]
    assert found.interval is None
    assert values.min() <= found.value <= values.max()


scores = st.lists(st.integers(-1000, 1000), min_size=1, max_size=30).map(np.array)


@given(scores, st.integers(-3, 3), st.integers(-1000, 1000))
def test_outliers_do_not_depend_on_the_unit(values, exponent, zero):
    """The same scores are outliers in any unit, and never more than a quarter."""
    # Powers of two, so that no rounding decides where a gap is just at the threshold.
    others = 2.0**exponent * (values + zero)
    assume(-1 not in values and -1 not in others)
    found = find_outliers(values.astype(float), None)
    np.testing.assert_array_equal(find_outliers(others, None), found)
    assert found.sum() <= len(values) / 4


@given(scores)
def test_few_scores_have_no_outliers(values):
    """Bad first scores are not called outliers: .1 may be as true as .8, .81, .82 and .83."""
    assume(-1 not in values)
    assert not find_outliers(values[:8].astype(float), None).any()
    assert not find_outliers(np.array([0.1, 0.8, 0.81, 0.82, 0.83]), None).any()


@given(st.integers(8, 40), st.floats(3.01, 1e300), st.integers(1, 13))
def test_constants_far_below_all_others_are_outliers(others, distance, penalties):
    """Up to a quarter, if they are below by more than three times the spread of the others."""
    values = np.append(np.linspace(0, 1, others), np.full(penalties, -distance))
    found = find_outliers(values, None)
    if penalties <= len(values) // 4:
        np.testing.assert_array_equal(found, values < 0)
    elif distance < 50:
        assert not found.any()
    assert not find_outliers(np.maximum(values, -0.9), None).any()


@given(st.integers(8, 40), st.floats(3, 40), st.integers(2, 10))
def test_bad_allocations_are_no_outliers(others, distance, bad):
    """Several scores that differ are of bad allocations, which a planner has to learn from."""
    values = np.append(np.linspace(0, 1, others), -distance + np.linspace(0, 0.1, bad))
    assert not find_outliers(values, None).any()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_minus_one_beside_values_that_are_not_negative_marks_a_failed_run(sign):
    """However near it is to the others, if they are more; not if another value is negative."""
    values = np.array([-1.0, 41, 60, 0, -1, 74])
    assert find_outliers(sign * values, None, sign).tolist() == (values == -1).tolist()
    assert not find_outliers(sign * np.append(values, -0.5), None, sign).any()
    assert not find_outliers(sign * np.array([-1.0, 0.5]), None, sign).any()


def test_good_scores_are_no_outliers():
    """A breakthrough far above all others is what a search is for."""
    values = np.array([0.1, 0.11, 0.12, 0.1, 0.13, 0.11, 0.1, 0.12, 0.9])
    assert not find_outliers(values, None).any()
    assert find_outliers(-values, None).tolist() == [False] * 8 + [True]


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3], [1e6, 1e6, 1e6]])
def test_proposals_use_scores_from_two_distinct_ones_on(values):
    """One score of an unknown range, or equal ones, lead to the proposals without a score."""
    allocations, _ = landscape()
    studies = [optuna.create_study(direction="maximize") for _ in range(2)]
    for allocation, value in zip(allocations, values):
        studies[0].add_trial(trial_of(TASK, allocation, value))
        studies[1].add_trial(trial_of(TASK, allocation, None, state=TrialState.PRUNED))
    assert proposals(studies[0]) == proposals(studies[1])
    studies[0].add_trial(trial_of(TASK, allocations[5], values[0] / 2))
    studies[1].add_trial(trial_of(TASK, allocations[5], None, state=TrialState.PRUNED))
    assert proposals(studies[0]) != proposals(studies[1])
