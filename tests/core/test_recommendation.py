"""Recommendations: winner, value, interval and text. Ties are tested in `test_ties.py`."""

import math

import numpy as np
import optuna
import pytest
from core_support import LARGE, SMALL, allocation_of, run, score, wiki_task
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from study_cases import (
    draw_outcomes,
    one_stage,
    small,
    study_of,
    study_with_outcomes,
    trial_of,
)

from optuna_agenttts import (
    AgentTTSSampler,
    NoEvidenceError,
    NoTaskError,
    Stage,
    StageAllocation,
    Task,
    TaskError,
    recommend,
)
from optuna_agenttts.report.text import allocation_table

TASK = wiki_task()


def with_outcomes(trial, instances=40, sign=1.0, unit=1.0):
    """Report outcomes around the score of a trial's allocation, and return their mean."""
    rng = np.random.default_rng(trial.number)
    truth = score(TASK.suggest(trial))
    outcomes = sign * unit * np.clip(truth + 0.1 * rng.normal(size=instances), 0, 1)
    for step, outcome in enumerate(outcomes.tolist()):
        trial.report(outcome, step)
    return float(outcomes.mean())


def test_without_noise_the_best_trial_is_recommended():
    """The winner of a search without noise scores nearly as well as the best trial."""
    study = run(AgentTTSSampler(TASK), n_trials=30)
    assert score(recommend(study).allocation) >= 0.985 * study.best_value


def test_clear_winner_that_was_measured_often_is_recommended():
    """Repeated measurements that agree outweigh the prior."""
    task = one_stage()
    values = {1: 0.3, 4: 0.45, 16: 0.7, 64: 0.5}
    evidence = [(small(n), v) for n, v in values.items() for _ in range(5)]
    assert recommend(study_of(task, evidence)).allocation == small(16)


def test_luckiest_trial_is_not_recommended():
    """One lucky trial among well-measured poor neighbours loses to a solid allocation."""
    task = one_stage()
    evidence = [(small(n), 0.40) for n in (7, 8, 9, 11, 12, 13) for _ in range(6)]
    evidence += [({"answer": (LARGE, n)}, 0.60) for n in (4, 5, 6) for _ in range(6)]
    study = study_of(task, [*evidence, (small(10), 0.63)])
    assert study.best_params["answer.samples"] == 10
    assert recommend(study).allocation["answer"].model == LARGE


def test_noisy_search_recommends_better_than_its_luckiest_trial():
    """Over several noisy searches, recommendations score better than best trials do."""
    recommended, luckiest = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)

        def noisy(trial, rng=rng):
            return score(TASK.suggest(trial)) + rng.normal(0, 0.1)

        study = run(RandomSampler(seed=seed), n_trials=40, target=noisy)
        recommended.append(score(recommend(study).allocation))
        luckiest.append(score(allocation_of(study.best_trial)))
    assert np.mean(recommended) > np.mean(luckiest)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_interval_contains_the_value_in_units_of_the_metric(direction, unit):
    """The interval is ordered, contains the value, and is near the scores."""
    study = optuna.create_study(direction=direction, sampler=AgentTTSSampler(TASK))
    sign = 1 if direction == "maximize" else -1
    study.optimize(lambda trial: with_outcomes(trial, sign=sign, unit=unit), n_trials=20)
    result = recommend(study)
    low, high = result.interval
    assert low < result.value < high
    assert high - low < 0.2 * unit
    assert result.value == pytest.approx(sign * unit * score(result.allocation), rel=0.1)


def test_scores_alone_have_a_value_but_no_interval():
    """How far a score is from the truth cannot be told from scores, however often they repeat."""
    evidence = [(small(n), 0.5 + 0.01 * n) for n in (4, 8, 16) for _ in range(10)]
    result = recommend(study_of(one_stage(), evidence))
    assert result.interval is None
    assert "No interval" in str(result)
    assert math.isfinite(result.value)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_declared_standard_deviation_of_scores_gives_an_interval(direction):
    """It is 1.645 standard deviations to either side, and within a declared range."""
    evidence = [(small(n), 0.9 + 0.001 * n) for n in (4, 8, 16)]
    study = study_of(one_stage(), evidence, direction)
    result = recommend(study, score_sd=0.05)
    assert result.interval == pytest.approx(
        (result.value - 1.645 * 0.05, result.value + 1.645 * 0.05), abs=1e-4
    )
    low, high = recommend(study, one_stage(metric_range=(0, 1)), score_sd=0.05).interval
    assert 0.7 < low < 0.9 < high < 1


@pytest.mark.parametrize("name", ["margin", "score_sd"])
@pytest.mark.parametrize("value", [0, -0.1, math.nan, math.inf, "much"])
def test_margin_and_standard_deviation_are_above_zero(name, value):
    """The error names the argument and the value."""
    with pytest.raises(TaskError, match=f"`{name}` must be finite and above 0, got {value!r}"):
        recommend(study_of(one_stage(), [(small(2), 0.5)]), **{name: value})


def test_interval_narrows_with_more_instances():
    """Outcomes of four times as many instances give an interval of half the width."""
    widths = []
    for instances in (50, 200):
        table = draw_outcomes(np.random.default_rng(0), np.full(4, 0.6), instances)
        study = study_with_outcomes(one_stage(), list(zip(map(small, (4, 8, 16, 32)), table)))
        low, high = recommend(study).interval
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.25)


def test_interval_includes_the_variance_between_instances():
    """Outcomes that differ much between instances widen the interval."""
    widths = []
    for spread in (0.1, 0.4):
        rng = np.random.default_rng(0)
        table = 0.5 + spread * np.sign(rng.normal(size=(4, 40))) + 0.01 * rng.normal(size=(4, 40))
        study = study_with_outcomes(one_stage(), list(zip(map(small, (4, 8, 16, 32)), table)))
        low, high = recommend(study).interval
        widths.append(high - low)
    assert widths[1] > widths[0] + 0.1


@pytest.mark.parametrize("bounded", [True, False])
def test_equal_scores_have_the_interval_of_their_outcomes(bounded):
    """Two allocations of the same mean, or a single one, are uncertain by their outcomes."""
    task = one_stage(metric_range=(0, 1) if bounded else None)
    outcomes = np.tile([0.1, 0.5, 0.9], 20)
    for evidence in (
        [(small(4), outcomes)],
        [(small(4), outcomes), (small(8), np.roll(outcomes, 1))],
    ):
        low, high = recommend(study_with_outcomes(task, evidence), task).interval
        assert low < 0.5 < high
        assert 0.1 < high - low < 0.3


@pytest.mark.parametrize(
    "curve", [lambda value: value * (1 - 0.5 ** np.arange(1, 31)), lambda value: np.arange(30.0)]
)
def test_intermediate_values_that_are_no_outcomes_change_nothing(curve):
    """Learning curves and counters say nothing about instances: value, ties and all are equal."""
    task, values = one_stage(), {1: 0.2, 4: 0.5, 16: 0.9, 32: 0.8, 48: 0.85}
    study = optuna.create_study(direction="maximize")
    for n, value in values.items():
        steps = dict(enumerate(curve(value).tolist()))
        study.add_trial(trial_of(task, small(n), value, intermediate_values=steps))
    alone = study_of(task, [(small(n), value) for n, value in values.items()])
    assert recommend(study, task) == recommend(alone, task)


def test_costs_are_those_of_the_task():
    """The winner, ties and undecided allocations are priced by the task."""
    result = recommend(run(AgentTTSSampler(TASK), n_trials=30, target=with_outcomes))
    for part in (result, *result.ties, *result.undecided):
        assert part.cost == pytest.approx(TASK.cost(part.allocation))


@pytest.mark.parametrize("sampler", [TPESampler, RandomSampler])
def test_studies_of_other_samplers_have_recommendations(sampler):
    """The task that `Task.suggest` registered is sufficient."""
    study = run(sampler(seed=0), n_trials=30)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    result = recommend(study)
    assert TASK.fits(result.allocation)
    assert result.trials == len(complete)
    assert score(result.allocation) >= 0.95 * study.best_value


def test_study_without_a_task_is_recognised_by_its_parameters():
    """Stages that are recognised by name need no task."""

    def by_hand(trial):
        model = trial.suggest_categorical("answer.model", [SMALL, LARGE])
        samples = trial.suggest_int("answer.samples", 1, 20)
        return 0.9 * (model == LARGE) * (1 - math.exp(-samples / 3))

    result = recommend(run(RandomSampler(seed=0), n_trials=30, target=by_hand))
    assert result.allocation["answer"].model == LARGE


def test_minimising_recommends_the_lowest():
    """The lowest loss wins, and the value is a loss."""
    task = one_stage()
    values = {1: 0.7, 4: 0.5, 16: 0.2, 64: 0.4}
    evidence = [(small(n), v) for n, v in values.items() for _ in range(5)]
    result = recommend(study_of(task, evidence, direction="minimize"))
    assert result.allocation == small(16)
    assert result.value == pytest.approx(0.2, abs=0.03)


def test_minimising_the_negative_recommends_the_same():
    """The direction changes nothing but the sign."""
    task = one_stage()
    evidence = [(small(n), 3.0 * math.log(n + 1)) for n in (1, 3, 9, 27)]
    up = recommend(study_of(task, evidence))
    down = recommend(study_of(task, [(a, -v) for a, v in evidence], direction="minimize"))
    assert (down.allocation, down.value) == (up.allocation, pytest.approx(-up.value))


def test_minimising_negative_outcomes_recommends_the_same():
    """Interval, ties and undecided allocations have the opposite sign, too."""
    table = 0.1 + draw_outcomes(np.random.default_rng(0), [0.3, 0.55, 0.6, 0.6, 0.6], 200)
    evidence = list(zip(map(small, (1, 3, 9, 27, 50)), table))
    up = recommend(study_with_outcomes(one_stage(), evidence))
    negated = [(allocation, -outcomes) for allocation, outcomes in evidence]
    down = recommend(study_with_outcomes(one_stage(), negated, "minimize"))
    assert down.allocation == up.allocation
    assert down.interval == pytest.approx((-up.interval[1], -up.interval[0]))
    for found, mirrored in ((down.ties, up.ties), (down.undecided, up.undecided)):
        assert [tie.allocation for tie in found] == [tie.allocation for tie in mirrored]
        for tie, other in zip(found, mirrored):
            assert (tie.value, tie.loss) == pytest.approx((-other.value, other.loss))


def test_recommendation_is_reproducible():
    """The same study gives the same answer."""
    study = run(AgentTTSSampler(TASK), n_trials=12)
    assert recommend(study) == recommend(study)


def test_params_can_be_enqueued():
    """An enqueued winner runs with the same allocation."""
    study = run(AgentTTSSampler(TASK), n_trials=12)
    result = recommend(study)
    study.enqueue_trial(result.params)
    assert TASK.suggest(study.ask()) == result.allocation


def test_allocations_over_a_lowered_budget_are_not_recommended():
    """With a smaller budget, only allocations within it are recommended."""
    study = run(AgentTTSSampler(TASK), n_trials=25)
    poorer = wiki_task(budget=600)
    result = recommend(study, poorer)
    assert poorer.fits(result.allocation)
    assert all(poorer.fits(tie.allocation) for tie in result.ties)


def test_one_trial_is_enough():
    """A single complete trial is recommended."""
    task = one_stage()
    result = recommend(study_of(task, [({"answer": (LARGE, 2)}, 0.5)]), task)
    assert (result.allocation, result.ties, result.trials) == ({"answer": (LARGE, 2)}, (), 1)


def test_study_without_a_task_is_an_error():
    """The error names the study and the remedy."""
    study = optuna.create_study(study_name="plain")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(NoTaskError, match=r"'plain'.* pass `task=`"):
        recommend(study)


def test_several_objectives_are_an_error():
    """The error says how many there are."""
    study = optuna.create_study(directions=["maximize"] * 2)
    with pytest.raises(NoTaskError, match="2 objectives"):
        recommend(study, TASK)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_study_without_a_score_is_an_error(value):
    """Trials that all failed are no evidence."""
    study = run(
        AgentTTSSampler(TASK), n_trials=3, target=lambda t: value if TASK.suggest(t) else None
    )
    with pytest.raises(NoEvidenceError, match="no completed trial of task 'wiki'"):
        recommend(study)


def test_empty_study_is_an_error():
    """A task alone is no evidence."""
    with pytest.raises(NoEvidenceError, match="'wiki'"):
        recommend(optuna.create_study(), TASK)


def test_trials_of_another_version_of_the_task_are_left_out():
    """A model that the task no longer has is no evidence about it."""
    study = run(AgentTTSSampler(TASK), n_trials=12)
    kept = Task(
        name="fewer",
        stages=[
            Stage(
                stage.name,
                models=stage.models[:1],
                prompt_tokens=stage.prompt_tokens,
                generation_tokens=stage.generation_tokens,
            )
            for stage in TASK.stages
        ],
        budget=900,
    )
    matching = [
        t for t in study.trials
        if (t.params["retrieval.model"], t.params["answer.model"]) == ("qwen-7B", SMALL)
    ]  # fmt: skip
    study.add_trial(trial_of(TASK, {"retrieval": ("qwen-7B", 2), "answer": (SMALL, 2)}, 0.2))
    result = recommend(study, kept)
    assert result.trials == len(matching) + 1
    assert {setting.model for setting in result.allocation.values()} == {"qwen-7B", SMALL}


@pytest.mark.slow
def test_values_are_not_shrunk_to_the_prior():
    """Values are unbiased on the playground's grid, where shrinkage is about .12.

    Its scores vary more than the prior expects, so posterior means of good trials are too low.
    """
    from optuna_agenttts_integrations.playground import make_task
    from optuna_agenttts_integrations.playground.grid import load_grid

    task, grid = make_task(), load_grid()
    errors, covered = [], []
    for seed in range(6):
        problems = np.random.default_rng(seed).choice(200, 50, replace=False)
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task, seed=seed))
        for _ in range(25):
            trial = study.ask()
            models, samples = np.array(task.choices(task.suggest(trial))).T
            outcomes = grid.outcomes(models[None], samples[None])[0, problems]
            for step, outcome in enumerate(outcomes.tolist()):
                trial.report(float(outcome), step)
            study.tell(trial, float(outcomes.mean()))
        result = recommend(study, task)
        models, samples = np.array(task.choices(result.allocation)).T
        truth = float(grid.outcomes(models[None], samples[None])[0].mean())
        low, high = result.interval
        errors.append(result.value - truth)
        covered.append(low <= truth <= high)
    assert abs(np.mean(errors)) < 0.06
    assert sum(covered) >= 4


@given(
    st.lists(
        st.lists(st.sampled_from(["m", "m-8B, low", "a" * 30, "b" * 60]), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_all_settings_of_a_table_are_columns_or_lines_in_order_of_stages(models):
    """Also if one of them alone is too long."""
    stages = ["plan", "find", "answer"]
    rows = [
        ((f"row {n}", "0.5"), {s: StageAllocation(m, 2) for s, m in zip(stages, row)})
        for n, row in enumerate(models)
    ]
    lines = allocation_table(("", "score"), rows)
    if all(stage in lines[0] for stage in stages):
        assert max(map(len, lines)) <= 80
        assert len(lines) == 1 + len(rows)
    else:
        assert lines[0].split() == ["score"]
        heads = [line.split(":")[0].strip() for line in lines[1:]]
        assert heads == [head for line in lines[1 :: 1 + len(stages)] for head in [line, *stages]]
