"""Saturation curves: agreement with the recommendation, brute force, known truths."""

import math
import time
from dataclasses import replace

import numpy as np
import optuna
import pytest
from explained_cases import make_task, searched, searches
from hypothesis import given, settings
from optuna.trial import TrialState
from study_cases import one_stage, small, study_of, study_with_outcomes, trial_of

from optuna_agenttts import Model, NoEvidenceError, NoTaskError, Stage, Task, frontier, recommend
from optuna_agenttts.report.saturation import saturation_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.visualization import plot_saturation
from optuna_agenttts_integrations.playground import make_task as playground_task
from optuna_agenttts_integrations.playground.grid import load_grid


def saturating(allocation):
    """Return a rate that gains from samples of the first stage up to 4, and from models."""
    rate = 0.0
    for number, (model, samples) in enumerate(allocation.values()):
        rate += 0.1 * int(model[1]) + (0.12 * math.log2(min(samples, 4)) if number == 0 else 0.0)
    return 0.15 + rate


@pytest.fixture(scope="module")
def view():
    """Return the view of a search with outcomes."""
    return StudyView(searched(make_task(), saturating))


def test_recommended_curves_contain_the_recommendation(view):
    """Value, interval and cost at its samples are those of `recommend`."""
    found = recommend(view.study)
    curves = [curve for curve in saturation_of(view).curves if curve.recommended]
    assert [curve.stage for curve in curves] == list(found.allocation)
    for curve in curves:
        model, samples = found.allocation[curve.stage]
        place = curve.samples.index(samples)
        assert curve.model == model
        assert curve.values[place] == pytest.approx(found.value)
        assert curve.intervals[place] == pytest.approx(found.interval)
        assert curve.costs[place] == pytest.approx(found.cost)


def test_view_agrees_with_the_public_functions(view):
    """One view gives what `recommend` and `frontier` return."""
    assert view.recommendation == recommend(view.study)
    assert view.frontier == frontier(view.study)


@settings(max_examples=10)
@given(searches())
def test_curves_agree_with_brute_force(case):
    """Budget, costs and saturation follow from the definition, for any task and study."""
    task, study = case
    view = StudyView(study, task)
    found, best = saturation_of(view), recommend(study, task).allocation
    names = [(stage.name, model.name) for stage in task.stages for model in stage.models]
    assert [(curve.stage, curve.model) for curve in found.curves] == names
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    for curve in found.curves:
        others = [{**best, curve.stage: (curve.model, number)} for number in curve.samples]
        assert curve.costs == pytest.approx([task.cost(other) for other in others])
        fits = [number for number, other in zip(curve.samples, others) if task.fits(other)]
        assert curve.affordable == max(fits, default=0)
        for value, interval in zip(curve.values, curve.intervals):
            assert interval is None or interval[0] <= value <= interval[1]
        if not fits:
            assert curve.saturates_at is curve.saturates_between is None
            continue
        scores = sign * np.array(curve.values[: len(fits)])
        gains = [scores[k:].max() - scores[k] for k in range(len(fits))]
        first = next(k for k, gain in enumerate(gains) if gain <= found.margin)
        assert curve.saturates_at == curve.samples[first]
        assert curve.gain == pytest.approx(gains[first])
        low, high = curve.saturates_between
        assert low <= curve.saturates_at <= high


def test_saturation_of_a_known_curve_is_found():
    """Samples gain up to 4 in the first stage, and nothing in the second."""
    task = make_task(max_samples=32, share=1.0)
    study = searched(task, saturating, trials=150, instances=200)
    first, second = (
        [curve for curve in saturation_of(StudyView(study)).curves if curve.stage == name]
        for name in ("s0", "s1")
    )
    for curve in first:
        assert 3 <= curve.saturates_at <= 6
        low, high = curve.saturates_between
        assert low <= 4 <= high
    for curve in second:
        assert curve.saturates_at == 1


def test_curves_of_a_study_that_minimizes_are_mirrored():
    """Negated outcomes give negated values, and the same numbers of samples."""
    up, down = (
        saturation_of(StudyView(searched(make_task(metric_range=ends), saturating, sign=sign)))
        for sign, ends in ((1, (0, 1)), (-1, (-1, 0)))
    )
    for ours, theirs in zip(up.curves, down.curves):
        assert ours.values == pytest.approx([-value for value in theirs.values])
        assert ours.saturates_at == theirs.saturates_at
        assert ours.saturates_between == theirs.saturates_between


def test_trials_are_complete_ones_and_marked_if_alike():
    """A stopped trial's mean is no point; alike are those with the recommended other stages."""
    task = make_task(stages=2)

    def allocation(first, second):
        return {"s0": ("m2-2B", first), "s1": ("m1-1B", second)}

    outcomes = [np.arange(40) < right for right in (32, 8, 16, 24)]
    allocations = [allocation(2, 3), allocation(1, 3), allocation(2, 5), allocation(1, 1)]
    study = study_with_outcomes(task, list(zip(allocations, outcomes)), seen={3: 20})
    curves = saturation_of(StudyView(study, task)).curves
    own = next(curve for curve in curves if curve.stage == "s0" and curve.recommended)
    assert [(t.number, t.samples, t.value, t.alike) for t in own.trials] == [
        (0, 2, 0.8, True),
        (1, 1, 0.2, True),
        (2, 2, 0.4, False),
    ]
    assert not next(curve for curve in curves if curve.model == "m1-1B").trials


def test_equal_samples_have_equal_values():
    """Where two samples vote as one, the curve is flat, and costs still rise."""
    stage = Stage(
        "answer",
        models=[Model("m-1B", parameters=1e9)],
        prompt_tokens=100,
        generation_tokens=50,
        max_samples=6,
        equal_samples=((1, 2),),
    )
    task = Task(name="t", stages=[stage], budget=100)
    study = searched(task, lambda allocation: 0.2 + 0.1 * allocation["answer"][1], trials=8)
    (curve,) = saturation_of(StudyView(study)).curves
    assert curve.values[0] == curve.values[1] != curve.values[2]
    own = {trial.number: trial.params["answer.samples"] for trial in study.trials}
    assert {trial.number: trial.samples for trial in curve.trials} == own
    assert curve.costs[0] < curve.costs[1]


def test_intervals_of_untried_models_are_wider_than_those_of_outcomes():
    """Fifty outcomes of one model do not make the score of another one as certain."""
    task = one_stage(max_samples=8)
    rng = np.random.default_rng(0)
    evidence = [(small(samples), rng.random(50) < 0.5) for samples in (1, 2, 4, 8)]
    tried, untried = saturation_of(StudyView(study_with_outcomes(task, evidence), task)).curves
    widths = [[high - low for low, high in curve.intervals] for curve in (tried, untried)]
    assert max(widths[0]) < 0.25 < min(widths[1])


def test_samples_that_violate_a_constraint_are_not_affordable():
    """Above 4 samples all trials violate a constraint; the budget allows 12."""
    task = one_stage(max_samples=12)
    study = optuna.create_study(direction="maximize")
    for number in range(1, 13):
        attributes = {"constraints": [number - 4.5]}
        study.add_trial(trial_of(task, small(number), 0.05 * number, system_attrs=attributes))
    curve = saturation_of(StudyView(study, task)).curves[0]
    assert curve.affordable == 4
    assert curve.samples[-1] == 12


def test_only_what_trials_suggest_has_a_curve():
    """A study that leaves out a model and some numbers of samples has no curve of them."""
    task = one_stage(max_samples=12)
    stage = task.stages[0]
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )

    def target(trial):
        trial.suggest_categorical(stage.model_parameter, [stage.models[1].name])
        return trial.suggest_int(stage.samples_parameter, 2, 8, step=2) / 10

    study.optimize(target, n_trials=8)
    (curve,) = saturation_of(StudyView(study, task)).curves
    assert curve.model == stage.models[1].name
    assert curve.samples == (2, 4, 6, 8)


def test_many_samples_are_thinned():
    """The curve of a stage of 5,000 samples has some hundred points, with all that were tried."""
    task = one_stage(max_samples=5000, budget=2000)
    study = searched(task, lambda allocation: 1 - 0.5 / allocation["answer"][1] ** 0.2)
    view = StudyView(study)
    start = time.process_time()
    curves = saturation_of(view).curves
    assert time.process_time() - start < 5
    for curve in curves:
        assert len(curve.samples) <= 150
        assert {1, curve.affordable, *(trial.samples for trial in curve.trials)} <= {
            *curve.samples
        }
        allocation = {"answer": (curve.model, curve.affordable)}
        assert task.fits(allocation)
        assert not task.fits({"answer": (curve.model, curve.affordable + 1)})


@pytest.mark.parametrize(
    ("affordable", "at", "between", "cell", "text"),
    [
        (0, None, None, "-", "not even 1 sample is allowed"),
        (1, 1, (1, 1), "-", "no more than 1 sample is allowed"),
        (
            *(12, 12, (4, 12), "not yet (4 to 12)"),
            "still gains at the most samples allowed, 12 (90 % interval 4 to 12)",
        ),
        (
            *(12, 1, (1, 5), "1 (1 to 5)"),
            "saturates at 1 sample (90 % interval 1 to 5) of at most 12",
        ),
        (
            *(12, 4, (2, 9), "4 (2 to 9)"),
            "saturates at 4 samples (90 % interval 2 to 9) of at most 12",
        ),
    ],
)
def test_findings_in_words(view, affordable, at, between, cell, text):
    """Texts and figures describe a curve in the same words."""
    curve = saturation_of(view).curves[0]
    found = replace(curve, affordable=affordable, saturates_at=at, saturates_between=between)
    assert found.finding == text
    assert found.brief_finding == cell


def test_equal_scores_tell_nothing():
    task = one_stage()
    view = StudyView(study_of(task, [(small(n), 7.0) for n in (1, 4, 9, 20)]), task)
    for curve in saturation_of(view).curves:
        assert curve.saturates_between == (1, curve.affordable)
    assert "do not tell" in plot_saturation(view.study, task).layout.title.subtitle.text


def test_trials_can_be_passed_in():
    """A sampler's `after_trial` sees the value before the storage has it."""
    task = make_task()
    study = searched(task, saturating, trials=6)
    trial = study.ask()
    allocation = task.suggest(trial)
    trials = study.get_trials()
    trials[-1].state, trials[-1].value = TrialState.COMPLETE, saturating(allocation)
    passed = StudyView(study, trials=trials)
    study.tell(trial, saturating(allocation))
    assert passed.recommendation == recommend(study)
    assert passed.recommendation.trials == 7
    assert saturation_of(passed) == saturation_of(StudyView(study))


def test_values_are_computed_once(view):
    """`get` returns the same object."""
    assert view.get(saturation_of) is view.get(saturation_of)


def test_studies_without_evidence_are_refused():
    """Without a task, a complete trial or a single objective there is no curve."""
    with pytest.raises(NoTaskError, match="No task"):
        StudyView(optuna.create_study())
    with pytest.raises(NoEvidenceError, match="Run some trials"):
        saturation_of(StudyView(optuna.create_study(), make_task()))
    several = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    with pytest.raises(NoTaskError, match="3 objectives"):
        saturation_of(StudyView(several, make_task()))


@pytest.mark.slow
def test_intervals_cover_the_truth_of_the_playground():
    """Of the recommended models' curves, 90 % intervals cover nearly that share of the truth."""
    grid, task = load_grid(), playground_task()
    covered, stopped = [], []
    for seed in range(12):
        problems = np.random.default_rng(seed).choice(200, 50, replace=False)

        def outcomes(allocation):
            models, samples = np.array(task.choices(allocation)).T
            return grid.outcomes(models[None], samples[None])[0].astype(float)

        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(30):
            trial = study.ask()
            seen = outcomes(task.suggest(trial))[problems]
            for step, outcome in enumerate(seen.tolist()):
                trial.report(outcome, step)
            study.tell(trial, float(seen.mean()))
        view = StudyView(study, task)
        best = view.recommendation.allocation
        for curve in saturation_of(view).curves:
            if curve.recommended:
                within = curve.samples[: curve.samples.index(curve.affordable) + 1]
                allocations = [{**best, curve.stage: (curve.model, n)} for n in within]
                truth = np.array([outcomes(allocation).mean() for allocation in allocations])
                low, high = np.array(curve.intervals[: len(within)]).T
                covered.append(np.mean((low <= truth) & (truth <= high)))
                first = curve.samples.index(curve.saturates_at)
                stopped.append(truth[first:].max() - truth[first])
    assert np.mean(covered) >= 0.8
    assert np.mean(stopped) <= 0.06
