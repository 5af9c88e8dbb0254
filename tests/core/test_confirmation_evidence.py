"""Trials that confirm allocations on fresh instances are evidence about those instances alone."""

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from study_cases import one_stage, small, trial_of

from optuna_agenttts import storage
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
        system_attrs=storage.confirmation_marks(block, 1) if block else None,
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
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return Archive(task, maximize=True).read(study.trials)


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
