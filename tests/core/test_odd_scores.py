"""Studies with odd scores: penalties, NaN, outcomes of another metric, equal scores."""

from __future__ import annotations

import math
import random
import sys

import numpy as np
import optuna
import pytest

from optuna_agenttts import AgentTTSSampler, Model, NoEvidenceError, Stage, Task, recommend
from optuna_agenttts.planner.scale import find_outliers

TASK = Task(
    name="odd",
    budget=900,
    stages=[
        Stage(
            "answer",
            models=[Model("7B", parameters=7e9), Model("72B", parameters=72e9)],
            prompt_tokens=256,
            generation_tokens=64,
        )
    ],
)


def told(values, outcomes=()):
    """Return a study of told values, of allocations that grow costlier."""
    study = optuna.create_study(direction="maximize")
    for number, value in enumerate(values):
        study.enqueue_trial(TASK.params({"answer": ("7B", number + 1)}))
        trial = study.ask()
        TASK.suggest(trial)
        for step, outcome in enumerate(outcomes[number] if outcomes else ()):
            trial.report(outcome, step)
        study.tell(trial, value)
    return study


def binary(count=9, instances=30):
    """Return outcomes 0 or 1 of trials that grow better."""
    rng = random.Random(1)
    return [
        [float(rng.random() < min(1, 0.75 + 0.03 * trial)) for _ in range(instances)]
        for trial in range(count)
    ]


def test_equal_scores_of_unknown_range_have_no_margin():
    """Outcomes that differ, with equal means, raised ZeroDivisionError."""
    result = recommend(told([0.5, 0.5], [[0.2, 0.8], [0.8, 0.2]]))
    assert (result.value, result.margin, result.ties, result.undecided) == (0.5, 0, (), ())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("trials", [1, 9])
def test_outcomes_that_are_not_finite_are_missing(bad, trials):
    """The instance is left out; value and interval were NaN."""
    outcomes = binary()
    for row in outcomes[:trials]:
        row[5] = bad
    values = [float(np.mean([x for x in row if math.isfinite(x)])) for row in outcomes]
    result = recommend(told(values, outcomes))
    low, high = result.interval
    assert 0 <= low <= result.value <= high <= 1


def test_intermediate_values_of_another_metric_have_no_effect():
    """Losses that were reported beside an accuracy moved its expected value to 1.69."""
    rng = random.Random(2)
    values = [0.4 + 0.03 * trial for trial in range(10)]
    losses = [[rng.expovariate(0.3 + 0.05 * trial) for _ in range(40)] for trial in range(10)]
    assert str(recommend(told(values, losses))) == str(recommend(told(values)))


def test_rounded_scores_are_means_of_their_outcomes():
    """Rates are often rounded to three decimals."""
    outcomes = binary()
    exact = recommend(told([float(np.mean(row)) for row in outcomes], outcomes))
    rounded = recommend(told([round(float(np.mean(row)), 3) for row in outcomes], outcomes))
    assert rounded.allocation == exact.allocation
    assert rounded.interval == pytest.approx(exact.interval, abs=0.002)


@pytest.mark.parametrize("penalty", [-1.0, -1000.0, -1e300])
def test_outcomes_of_a_penalty_leave_the_range(penalty):
    """Outcomes of one trial that are a penalty do not make an accuracy exceed 1."""
    outcomes = binary()
    outcomes[4] = [penalty] * 30
    result = recommend(told([float(np.mean(row)) for row in outcomes], outcomes))
    assert result.interval[1] <= 1
    assert [number for number, _ in result.outliers] == [4]


@pytest.mark.parametrize("penalty", [-sys.float_info.max, -1e300, -math.inf])
def test_largest_numbers_are_outliers_from_the_first_trial_on(penalty):
    """Their differences overflowed, and the sampler raised."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    for number in range(6):
        trial = study.ask()
        samples = TASK.suggest(trial)["answer"].samples
        study.tell(trial, penalty if number == 0 else 0.5 + 0.01 * math.log(samples))
        if number == 0:
            with pytest.raises(NoEvidenceError):
                recommend(study)
    assert 0.4 < recommend(study).value < 0.7


def test_bad_allocations_are_no_outliers():
    """Scores that differ are of bad allocations, which a planner has to learn from."""
    good = np.linspace(0.79, 0.83, 9)
    assert not find_outliers(np.array([0.155, 0.189, *good]), None).any()
    assert find_outliers(np.array([-1.0, -1.0, *good]), None).sum() == 2
    assert find_outliers(np.array([-1000.0] * 4 + [-999.5, *good]), None).sum() == 5
    assert find_outliers(np.array([-1000.0, -1.0, *good]), None).sum() == 2


def test_stopped_trials_do_not_set_the_scale():
    """The mean of a few hard instances is no outlier, and does not widen the margin."""
    study, easy = optuna.create_study(direction="maximize"), [0.2] * 6 + [0.9] * 54
    for number in range(12):
        study.enqueue_trial(TASK.params({"answer": ("7B", number + 1)}))
        trial = study.ask()
        TASK.suggest(trial)
        outcomes = [outcome + 0.001 * number for outcome in easy]
        stopped = number in (5, 7, 9, 11)
        for step, outcome in enumerate(outcomes[:6] if stopped else outcomes):
            trial.report(outcome, step)
        if stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, float(np.mean(outcomes)))
    result = recommend(study)
    assert result.outliers == ()
    assert result.margin == pytest.approx(0.05 * 0.011)


def test_penalties_of_earlier_studies_have_no_weight():
    """An infinite or very low score of an earlier study raised, or hid all others."""
    chosen = []
    for penalty in (-1000.0, -sys.float_info.max):
        values = [0.5 + 0.02 * trial for trial in range(10)]
        earlier = told([penalty, *values])
        sampler = AgentTTSSampler(TASK, experience=[earlier])
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(lambda trial: 0.1 * math.log(TASK.suggest(trial)["answer"].samples), 3)
        chosen.append([trial.params for trial in study.trials])
    assert chosen[0] == chosen[1]


def test_repeats_are_within_a_lowered_budget():
    """An earlier trial over the budget was proposed once more, and pruned."""
    models = TASK.stages[0].models
    stages = [
        Stage(name, models=models, prompt_tokens=prompt, generation_tokens=64, max_samples=6)
        for name, prompt in (("retrieval", 2048), ("answer", 256))
    ]
    larger, smaller = (Task(name="two", budget=budget, stages=stages) for budget in (1e5, 900))
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    rng = random.Random(0)

    def objective(trial):
        chosen = larger.suggest(trial).values()
        return sum(math.log(s.samples) + (s.model == "72B") for s in chosen) + rng.gauss(0, 0.3)

    study.optimize(objective, n_trials=200)
    study.sampler = AgentTTSSampler(smaller)
    for _ in range(3):
        trial = study.ask()
        smaller.suggest(trial)  # Raises TrialPruned over the budget.
        study.tell(trial, 0.0)


def test_text_has_the_digits_that_tell_scores_apart():
    """A score of 1000000.83 was printed as 1e+06."""
    text = str(recommend(told([1e6 + 0.82 + 0.002 * trial for trial in range(9)])))
    assert "1000000.83" in text
    assert "e+" not in str(recommend(told([1500 + 40.0 * trial for trial in range(9)])))


def test_values_of_an_undeclared_range_stay_within_what_was_observed():
    """The mean of graded outcomes up to 1 is not above 1, with outcomes and with scores alone."""
    rng = np.random.default_rng(0)
    hard = rng.beta(9, 1, 30)
    table = [
        np.clip(hard + 0.01 * trial + rng.normal(0, 0.02, 30), 0, 1).tolist()
        for trial in range(12)
    ]
    values = [float(np.mean(row)) for row in table]
    for outcomes in (table, ()):
        found = recommend(told(values, outcomes))
        low, high = found.interval or (found.value, found.value)
        assert low <= found.value <= high <= 1
