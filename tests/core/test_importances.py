"""Importances of models and samples: brute force, known truths, limit cases."""

import itertools
from collections import Counter

import numpy as np
import pytest
from explained_cases import make_task, searched, searches
from hypothesis import given, settings
from optuna.trial import TrialState

from optuna_agenttts import NoEvidenceError, recommend
from optuna_agenttts.report.importances import Importance, _redrawn, importances_of
from optuna_agenttts.report.sections import matters_section
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.feasible import FeasibleSet
from optuna_agenttts.visualization import plot_importances


def of(study, task=None):
    """Return importances by stage and setting."""
    found = importances_of(StudyView(study, task))
    return {(importance.stage, importance.setting): importance for importance in found}


@settings(max_examples=10)
@given(searches())
def test_shares_add_up(case):
    """Shares are from 0 to 1, lie in their interval, and add up to 1 unless nothing matters."""
    task, study = case
    found = of(study, task)
    if not found:
        complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
        assert len({str(t.params) for t in complete}) < 3 or len({t.value for t in complete}) == 1
        return
    assert list(found) == [(s.name, what) for s in task.stages for what in ("model", "samples")]
    total = sum(importance.share for importance in found.values())
    assert total == pytest.approx(1) or total == 0
    for (stage, what), importance in found.items():
        low, high = importance.interval
        assert 0 <= low <= importance.share + 1e-12
        assert importance.share - 1e-12 <= high <= 1
        assert importance.loss >= 0
        assert importance.parameter == f"{stage}.{what}"
    for stage in task.stages:
        if len(stage.models) == 1:
            assert found[stage.name, "model"].share == 0
        if stage.max_samples == 1:
            assert found[stage.name, "samples"].share == 0


@pytest.mark.parametrize(("trials", "known"), [(1, False), (3, True)])
def test_nothing_is_said_after_one_trial(trials, known):
    """Shares would be those of the prior; a figure of them says that trials are missing."""
    study = searched(make_task(), lambda allocation: 0.5, trials=trials, seed=2)
    assert len({str(trial.params) for trial in study.trials}) == trials
    assert bool(of(study)) == known
    if not known:
        with pytest.raises(NoEvidenceError, match="Too few"):
            plot_importances(study)


def test_they_do_not_depend_on_chance():
    """Two calls return the same."""
    study = searched(make_task(), lambda allocation: 0.5, trials=8)
    assert of(study) == of(study)


def weight(choices):
    """Return the weight of an allocation: numbers of samples weigh evenly by ratio."""
    return 1 / np.prod([samples for _, samples in choices])


def effects(table, value):
    """Return the shares of all settings in the variance, by enumeration."""
    every = list(table)
    total = sum(map(weight, every))
    found = []
    for stage, setting in itertools.product(range(len(table.costs)), range(2)):
        groups = {}
        for choices in every:
            others = [pair for i, pair in enumerate(choices) if i != stage]
            kept = choices[stage][1 - setting]
            groups.setdefault((tuple(others), kept), []).append(choices)
        variance = 0.0
        for group in groups.values():
            weights = np.array([weight(choices) for choices in group])
            values = np.array([value(choices) for choices in group])
            mean = np.average(values, weights=weights)
            variance += weights.sum() / total * np.average((values - mean) ** 2, weights=weights)
        found.append(variance)
    return np.array(found) / sum(found)


def test_allocations_are_drawn_evenly():
    """Each allocation within the budget is drawn as often as it weighs, also drawn again."""
    table = FeasibleSet(
        [
            [np.array([1.0, 2, 3]), np.array([2.0, 4, 6])],
            [np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])],
        ],
        8.0,
    )
    count = 40_000
    every = list(table)
    expected = np.array([weight(choices) for choices in every])
    expected *= count / expected.sum()
    masks = [{"model": np.ones((2, 2), dtype=bool)}] * 2
    for models, samples in _redrawn(table, np.random.default_rng(0), count, masks):
        seen = Counter(tuple(zip(m, n)) for m, n in zip(models.tolist(), samples.tolist()))
        assert seen.keys() <= set(every)
        counts = np.array([seen[choices] for choices in every])
        assert np.abs((counts - expected) / np.sqrt(expected)).max() < 5


def test_shares_agree_with_enumeration():
    """Shares of the expected scores are close to those over all allocations."""

    def truth(allocation):
        (first, samples), (second, _) = allocation.values()
        return 0.1 + 0.2 * (first == "m2-2B") + 0.04 * samples + 0.1 * (second == "m2-2B")

    study = searched(make_task(max_samples=6), truth, trials=60)
    view = StudyView(study)

    def value(choices):
        points = view.candidates.points_of(*np.array([choices]).transpose(2, 0, 1))
        return view.candidates.posterior.at(points).mean()[0]

    expected = effects(view.task.feasible, value)
    found = importances_of(view)
    assert np.abs([importance.share for importance in found] - expected).max() < 0.06


def test_the_only_setting_that_matters_has_most_of_the_variance():
    """If the score depends on one model alone, its share is large and its loss known."""
    study = searched(
        make_task(),
        lambda allocation: 0.2 + 0.6 * (allocation["s1"][0] == "m2-2B"),
        trials=60,
        instances=100,
    )
    found = of(study)
    assert found["s1", "model"].share > 0.9
    assert found["s1", "model"].loss == pytest.approx(0.3, abs=0.1)
    for key in found.keys() - {("s1", "model")}:
        assert found[key].interval[0] < 0.05
        assert found[key].loss < 0.05


def test_a_study_that_minimizes_has_the_same_importances():
    """Negated outcomes change nothing."""

    def truth(allocation):
        return 0.2 + 0.05 * allocation["s0"][1]

    up, down = (
        of(searched(make_task(metric_range=ends), truth, sign=sign))
        for sign, ends in ((1, (0, 1)), (-1, (-1, 0)))
    )
    for key, importance in up.items():
        assert importance.share == pytest.approx(down[key].share)
        assert importance.loss == pytest.approx(down[key].loss)


@pytest.mark.parametrize("losses", [(0.3, 0.0), (0.3, 0.2)])
def test_a_loss_of_zero_is_explained(losses):
    """Where the setting has a share of the variation, since that looks like a contradiction."""
    importances = [
        Importance("s0", setting, f"s0.{setting}", 0.5, (0.1, 0.9), loss)
        for setting, loss in zip(("model", "samples"), losses)
    ]
    text = repr(matters_section(make_task(), importances))
    assert ("nothing else fits into the budget" in text) == (0.0 in losses)


def test_loss_is_that_of_another_setting():
    """It is the mean over the models that fit with the recommended samples."""
    study = searched(
        make_task(share=0.9), lambda allocation: 0.2 + 0.5 * (allocation["s0"][0] == "m2-2B")
    )
    view = StudyView(study)
    best = recommend(study).allocation
    samples = best["s0"].samples
    others = [{**best, "s0": (model.name, samples)} for model in view.task.stages[0].models]
    choices = np.array([view.task.choices(o) for o in others if view.task.fits(o)])
    points = view.candidates.points_of(choices[..., 0], choices[..., 1])
    values = view.candidates.values(points, view.candidates.posterior.at(points).mean())
    expected = view.recommendation.value - values.mean()
    assert of(study)["s0", "model"].loss == pytest.approx(expected)
