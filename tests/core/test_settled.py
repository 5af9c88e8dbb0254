"""Stopping a search once another trial is not worth it."""

import logging

import numpy as np
import optuna
import pytest
from core_support import objective, wiki_task

from optuna_agenttts import AgentTTSSampler, NoTaskError, StopWhenSettled, TaskError

TASK = wiki_task()


def trials(callback, most=60, sampler=None, scored=objective, direction="maximize"):
    """Return the number of trials that a search takes."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(direction=direction, sampler=sampler or AgentTTSSampler(TASK))
    study.optimize(scored, n_trials=most, callbacks=[callback])
    return len(study.trials)


def flat(trial):
    """Return the same score for every allocation."""
    TASK.suggest(trial)
    return 0.5


def test_a_search_stops_where_nothing_is_left_to_gain():
    """A search of a flat landscape stops early, but not before the opening has ended."""
    found = trials(StopWhenSettled(), scored=flat)
    assert 5 <= found < 40


def test_a_smaller_gain_takes_longer():
    """More trials are needed for a smaller gain, and all of them for a negligible one."""
    counts = [trials(StopWhenSettled(gain), most=30) for gain in (0.2, 0.02, 1e-9)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 30


def test_the_worth_of_the_metric_is_compared_with_the_cost_of_a_trial():
    """A low worth ends the search at once; a very high one never does."""
    assert trials(StopWhenSettled(worth=1.0)) < 8
    assert trials(StopWhenSettled(worth=1e12), most=20) == 20


def test_the_gain_must_be_small_for_several_trials_in_a_row():
    """A search with `trials=6` takes at least five trials more than one with `trials=1`."""
    few, many = (trials(StopWhenSettled(0.05, trials=n)) for n in (1, 6))
    assert many >= few + 5


def test_other_samplers_and_directions_are_stopped_too(caplog):
    """Any sampler and direction can be stopped, and the log states the reason."""
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
    """The error names the argument to pass."""
    study = optuna.create_study()
    with pytest.raises(NoTaskError, match="task="):
        study.optimize(lambda trial: 1.0, n_trials=1, callbacks=[StopWhenSettled()])


@pytest.mark.parametrize("wrong", [{"gain": 0}, {"worth": -1}, {"trials": 0}, {"gain": "1"}])
def test_invalid_arguments_are_refused(wrong):
    """The error names the argument."""
    with pytest.raises(TaskError, match=next(iter(wrong))):
        StopWhenSettled(**wrong)
