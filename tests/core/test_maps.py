"""Maps of two stages' settings: brute force, limits, names."""

import numpy as np
import pytest
from explained_cases import make_task, searched, searches
from hypothesis import assume, given, settings
from optuna.trial import TrialState
from study_cases import one_stage, small, study_of

from optuna_agenttts import TaskError
from optuna_agenttts.report.importances import importances_of
from optuna_agenttts.report.maps import map_of
from optuna_agenttts.report.view import StudyView


def allocations_of(view, found, panel):
    """Return the allocations of a panel with their places in it."""
    best = view.recommendation.allocation
    for row, later in enumerate(found.later_samples):
        for column, earlier in enumerate(found.earlier_samples):
            one, two = (panel.earlier_model, earlier), (panel.later_model, later)
            yield (row, column), {**best, found.earlier: one, found.later: two}


@settings(max_examples=10)
@given(searches())
def test_panels_agree_with_brute_force(case):
    """Values are those of single allocations, and NaN over the budget."""
    task, study = case
    assume(len(task.stages) > 1)
    view = StudyView(study, task)
    found, candidates = map_of(view), view.candidates
    sign = candidates.evidence.sign
    stages = {stage.name: stage for stage in task.stages}
    assert [(panel.later_model, panel.earlier_model) for panel in found.panels] == [
        (later.name, earlier.name)
        for later in stages[found.later].models
        for earlier in stages[found.earlier].models
    ]
    for panel in found.panels:
        places, every = zip(*allocations_of(view, found, panel))
        choices = np.array([task.choices(allocation) for allocation in every])
        points = candidates.points_of(choices[..., 0], choices[..., 1])
        values = candidates.values(points, candidates.posterior.at(points).mean())
        for place, allocation, value in zip(places, every, values):
            fits = task.fits(allocation)
            assert panel.values[place] == pytest.approx(value if fits else np.nan, nan_ok=True)
        for best, column in zip(panel.best_later, panel.values.T):
            if best is None:
                assert np.isnan(column).all()
            else:
                assert column[found.later_samples.index(best)] * sign == np.nanmax(column * sign)


def test_every_complete_trial_is_in_one_panel():
    """Trials are points of the panel of their models, with their samples and value."""
    study = searched(make_task(), lambda allocation: 0.1 * allocation["s0"][1], trials=20)
    panels = map_of(StudyView(study)).panels
    found = {
        number: (panel.earlier_model, earlier, panel.later_model, later, value)
        for panel in panels
        for number, earlier, later, value in panel.trials
    }
    names = "s0.model", "s0.samples", "s1.model", "s1.samples"
    assert found == {
        trial.number: (*map(trial.params.get, names), trial.value)
        for trial in study.trials
        if trial.state == TrialState.COMPLETE
    }
    assert sum(len(panel.trials) for panel in panels) == len(found)


def test_more_samples_are_best_where_only_they_help():
    """The best number of later samples follows the truth."""
    task = make_task(max_samples=8, share=1.0)
    study = searched(
        task, lambda allocation: 0.2 + 0.08 * allocation["s1"][1], trials=80, instances=100
    )
    for panel in map_of(StudyView(study)).panels:
        assert min(panel.best_later) >= 7


def test_stages_are_chosen_by_name_or_by_importance():
    """Of four stages, the two that matter most are shown, or the ones that are asked for."""
    task = make_task(stages=4, max_samples=5)

    def truth(allocation):
        return sum(0.22 * (allocation[name][0] == "m2-2B") for name in ("s1", "s3")) + 0.3

    view = StudyView(searched(task, truth, trials=60, instances=100))
    shares = {i.stage: 0.0 for i in importances_of(view)}
    for importance in importances_of(view):
        shares[importance.stage] += importance.share
    expected = sorted(sorted(shares, key=shares.get)[-2:])
    found = map_of(view)
    assert [found.earlier, found.later] == expected == ["s1", "s3"]
    for arguments, stages in (
        ({"earlier": "s0"}, ("s0", "s1")),
        ({"later": "s2"}, ("s1", "s2")),
        ({"earlier": "s0", "later": "s3"}, ("s0", "s3")),
    ):
        found = map_of(view, **arguments)
        assert (found.earlier, found.later) == stages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"earlier": "s1", "later": "s0"}, "before `later`"),
        ({"earlier": "s1"}, "before `later`"),
        ({"later": "s0"}, "before `later`"),
        ({"later": "x"}, "`later` must be one of s0, s1, got 'x'"),
    ],
)
def test_wrong_stages_are_refused(arguments, message):
    """The message names the argument and the stages."""
    study = searched(make_task(), lambda allocation: 0.5, trials=2)
    with pytest.raises(TaskError, match=message):
        map_of(StudyView(study), **arguments)


def test_a_task_of_one_stage_has_no_map():
    """The message says what to look at instead."""
    task = one_stage()
    with pytest.raises(TaskError, match="needs two"):
        map_of(StudyView(study_of(task, [(small(2), 0.5)]), task))


def test_maps_of_many_models_and_samples_are_bounded():
    """Ten models in each stage and 1,000 samples give a few thousand allocations."""
    task = make_task(models=9, max_samples=1000)
    found = map_of(StudyView(searched(task, lambda allocation: 0.5, trials=5)))
    assert sum(panel.values.size for panel in found.panels) <= 2500
    assert found.earlier_samples[0] == found.later_samples[0] == 1
