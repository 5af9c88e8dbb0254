"""Stopping a search once another trial is not worth it."""

import logging

import numpy as np
import optuna
import pytest
from core_support import objective, wiki_task

from optuna_agenttts import AgentTTSSampler, NoTaskError, StopWhenSettled, TaskError

TASK = wiki_task()


def trials(callback, most=60, sampler=None, scored=objective, direction="maximize"):
    """How many trials a search takes."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(direction=direction, sampler=sampler or AgentTTSSampler(TASK))
    study.optimize(scored, n_trials=most, callbacks=[callback])
    return len(study.trials)


def flat(trial):
    """Nothing matters."""
    TASK.suggest(trial)
    return 0.5


def test_a_search_stops_where_nothing_is_left_to_gain():
    """Of a flat landscape it is soon known; what has been shown of all models first stays."""
    found = trials(StopWhenSettled(), scored=flat)
    assert 5 <= found < 40


def test_a_smaller_gain_takes_longer():
    """And one that no search can rule out is never reached."""
    counts = [trials(StopWhenSettled(gain), most=30) for gain in (0.2, 0.02, 1e-9)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 30


def test_what_a_point_is_worth_decides_against_what_a_trial_costs():
    """Where a point is worth little, the search ends at once; where it is worth all, never."""
    assert trials(StopWhenSettled(worth=1.0)) < 8
    assert trials(StopWhenSettled(worth=1e12), most=20) == 20


def test_it_must_be_so_for_some_trials_in_a_row():
    """One doubtful trial does not end a search."""
    few, many = (trials(StopWhenSettled(0.05, trials=n)) for n in (1, 6))
    assert many >= few + 5


def test_other_samplers_and_directions_are_stopped_too(caplog):
    """It looks at trials, not at who proposed them, and says why it stops."""
    rng = np.random.default_rng(0)

    def errors(trial):
        return 1 - objective(trial) + rng.normal(0, 1e-3)

    with caplog.at_level(logging.INFO, "optuna_agenttts"):
        found = trials(
            StopWhenSettled(0.05),
            sampler=optuna.samplers.RandomSampler(seed=0),
            scored=errors,
            direction="minimize",
        )
    assert found < 60
    assert "expected gain of another trial" in caplog.text


def test_a_study_without_a_task_is_refused():
    """It says what to pass."""
    study = optuna.create_study()
    with pytest.raises(NoTaskError, match="task="):
        study.optimize(lambda trial: 1.0, n_trials=1, callbacks=[StopWhenSettled()])


@pytest.mark.parametrize("wrong", [{"gain": 0}, {"worth": -1}, {"trials": 0}, {"gain": None}])
def test_nonsense_is_refused(wrong):
    """Before the search."""
    with pytest.raises(TaskError, match=next(iter(wrong))):
        StopWhenSettled(**wrong)
