"""Trials that confirm allocations on fresh instances are evidence about those instances alone."""

import numpy as np
import optuna
import pytest
from core_support import SMALL
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from study_cases import draw_outcomes, one_stage, small, trial_of

from optuna_agenttts import AgentTTSSampler, recommend, storage
from optuna_agenttts.study.archive import Archive

FRESH = 1000
"""Step of the first fresh instance, beyond those of the search."""


def trial(task, samples, outcomes, *, block=0, **options):
    """Return a trial with its outcomes; those of a block have steps of their own."""
    first = FRESH * block
    return trial_of(
        task,
        small(samples),
        float(np.mean(outcomes)),
        intermediate_values=dict(enumerate(map(float, outcomes), first)),
        system_attrs=storage.confirmation_marks(block) if block else None,
        **options,
    )


def search_and_confirmation(task, rng, scale=1.0):
    """Return trials of a search, one of them stopped, and confirmations on 40 instances."""
    draws = scale * rng.random((4, 12))
    search = [trial(task, i + 1, row) for i, row in enumerate(draws)]
    search.append(trial(task, 9, draws[0, :4], state=TrialState.PRUNED))
    fresh = [trial(task, i + 1, scale * rng.random(40) + scale, block=1) for i in range(2)]
    return search, fresh


def read(task, trials):
    """Return trials as evidence."""
    return Archive(task, maximize=True).read(study_of(trials).trials)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_confirmations_change_nothing_about_trials_of_the_search(scale):
    """Scores, shares, scale and outliers of the search are the same, in any unit."""
    task = one_stage()
    search, fresh = search_and_confirmation(task, np.random.default_rng(0), scale)
    before, after = read(task, search), read(task, search + fresh)
    rows = np.flatnonzero(after.block_of_rows() == 0)
    np.testing.assert_array_equal(after.scores[rows], before.scores)
    np.testing.assert_array_equal(after.shares[rows], before.shares)
    assert after.scale == before.scale
    assert after.outliers == before.outliers == ()
    assert after.tried == before.tried
    assert after.blocks == (0, 0, 0, 0, 0, 1, 1)


def test_a_study_of_confirmations_alone_has_a_scale():
    """Its trials are told apart although none is of the search."""
    task = one_stage()
    _, fresh = search_and_confirmation(task, np.random.default_rng(0), 300.0)
    assert read(task, fresh).scale.informative


def test_a_confirmation_does_not_show_that_constraints_are_met():
    """It runs no objective, so it has no constraints although it is complete."""
    task = one_stage()
    rng = np.random.default_rng(0)
    attributes = {"constraints": (1.0,)}
    search = trial(task, 1, rng.random(12))
    search.system_attrs = attributes
    evidence = read(task, [search, trial(task, 1, rng.random(40), block=1)])
    assert len(evidence.constraints) == 1


def test_a_failed_confirmation_is_no_failure_of_the_search():
    """Its allocation was tried, and confirmations are no progress after which to retry others."""
    task = one_stage()
    rng = np.random.default_rng(0)
    search = [trial(task, 1, rng.random(12)), trial(task, 2, rng.random(12))]
    failed = trial_of(task, small(4), None, state=TrialState.FAIL)
    confirmed = [trial(task, 1, rng.random(40), block=block) for block in (1, 2, 3)]
    broken = trial_of(
        task,
        small(2),
        None,
        state=TrialState.FAIL,
        system_attrs=storage.confirmation_marks(4),
    )
    before = read(task, [*search, failed])
    after = read(task, [*search, failed, *confirmed, broken])
    assert after.visited == before.visited
    assert after.failed == before.failed


@pytest.mark.parametrize("kind", ["memory", "sqlite", "journal"])
def test_the_mark_of_a_confirmation_is_read_from_every_storage(kind, tmp_path):
    """Also by another process, which reads the trials anew."""
    if kind == "memory":
        place = InMemoryStorage()
    elif kind == "sqlite":
        place = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    else:
        file = str(tmp_path / "journal")
        place = JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))
    study = optuna.create_study(storage=place, study_name="s", direction="maximize")
    search, fresh = search_and_confirmation(one_stage(), np.random.default_rng(0))
    study.add_trials(search + fresh)
    again = optuna.load_study(storage=place, study_name="s")
    blocks = [storage.confirmation_block(trial) for trial in again.trials]
    assert blocks == [0, 0, 0, 0, 0, 1, 1]
    if kind == "sqlite":
        place.engine.dispose()


def study_of(trials):
    """Return a study of some trials."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


def confirmed_study(task, seed, rates, instances=200):
    """Return a study of six allocations, the three best of which were confirmed in two blocks."""
    rng = np.random.default_rng(seed)
    outcomes = draw_outcomes(rng, rates, 50 + 2 * instances)
    trials = [trial(task, 4 * i + 1, row[:50]) for i, row in enumerate(outcomes)]
    best = np.argsort(-outcomes[:, :50].mean(axis=1))[:3].tolist()
    for block in (1, 2):
        part = slice(50 + (block - 1) * instances, 50 + block * instances)
        trials += [trial(task, 4 * i + 1, outcomes[i, part], block=block) for i in best]
    return study_of(trials)


def test_fresh_instances_decide_between_what_the_search_cannot():
    """The luckiest trial of the search is not recommended if it fails on fresh instances."""
    task = one_stage()
    rng = np.random.default_rng(0)
    outcomes = draw_outcomes(rng, [0.3, 0.75, 0.6], 450)
    outcomes[2, :50] = np.maximum(outcomes[2, :50], outcomes[1, :50])
    samples = (1, 2, 16)
    search = [trial(task, *pair) for pair in zip(samples, outcomes[:, :50])]
    fresh = [trial(task, *pair, block=1) for pair in zip(samples[1:], outcomes[1:, 50:])]
    before, after = recommend(study_of(search), task), recommend(study_of(search + fresh), task)
    assert before.allocation["answer"].samples == 16
    assert after.allocation["answer"].samples == 2
    assert after.value == pytest.approx(0.75, abs=0.05)
    assert after.interval[0] < 0.75 < after.interval[1]


def test_fresh_instances_show_ties():
    """A cheaper allocation with the same rate is a tie, on the instances that both saw."""
    task = one_stage()
    rng = np.random.default_rng(0)
    outcomes = draw_outcomes(rng, [0.3, 0.7, 0.7], 850, shared=0.9)
    # The two good ones differ on few instances.
    outcomes[2] = np.where(rng.random(850) < 0.97, outcomes[1], 1 - outcomes[1])
    outcomes[2, :10] = 1.0
    search = [trial(task, 2 * i + 1, row[:50]) for i, row in enumerate(outcomes)]
    fresh = [trial(task, 2 * i + 1, outcomes[i, 50:], block=1) for i in (1, 2)]
    before, after = recommend(study_of(search), task), recommend(study_of(search + fresh), task)
    assert not before.ties
    assert [tie.shared for tie in after.ties] == [850]


def test_an_interval_narrows_with_fresh_instances():
    """By about the square root of their number."""
    task = one_stage()
    widths = []
    for instances in (100, 400):
        found = recommend(confirmed_study(task, 3, [0.5, 0.55, 0.6, 0.6, 0.6, 0.6], instances))
        widths.append(np.subtract(*found.interval[::-1]))
    assert 0.4 < widths[1] / widths[0] < 0.7


def test_intervals_of_confirmed_allocations_cover():
    """The 90 % interval holds the true rate of allocations that are hard to tell apart."""
    task, rates = one_stage(), [0.4, 0.5, 0.55, 0.55, 0.6, 0.6]
    covered = []
    for seed in range(40):
        found = recommend(confirmed_study(task, seed, rates, 60), task)
        rate = rates[(found.allocation["answer"].samples - 1) // 4]
        covered.append(found.interval[0] <= rate <= found.interval[1])
    assert np.mean(covered) >= 0.8


def test_outcomes_of_a_confirmation_give_an_interval_where_the_search_reports_none():
    """Fresh outcomes tell how far a confirmed value may be from the truth."""
    task = one_stage(metric_range=(0, 1))
    search = [trial_of(task, small(i), value) for i, value in ((1, 0.3), (2, 0.6), (3, 0.7))]
    assert recommend(study_of(search), task).interval is None
    fresh = trial(task, 3, np.tile([1.0, 1.0, 0.0], 60), block=1)
    low, high = recommend(study_of([*search, fresh]), task).interval
    assert low < 2 / 3 < high < low + 0.25


def test_the_next_trial_of_a_search_ignores_that_scores_of_blocks_differ():
    """An allocation is not repeated because it has other scores on other instances."""
    task = one_stage(metric_range=(0, 1))
    rng = np.random.default_rng(0)
    search = [trial(task, i, rng.random(12).round()) for i in (1, 3, 5, 8)]
    fresh = [trial(task, 8, rng.random(40).round(), block=1)]
    study = study_of(search + fresh)
    study.sampler = AgentTTSSampler(task, seed=0)
    for _ in range(4):
        allocation = task.suggest(study.ask())
        assert allocation["answer"] not in {(SMALL, i) for i in (1, 3, 5, 8)}
