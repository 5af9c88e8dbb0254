"""Stopped trials as evidence: nothing measured is lost, and the mean's step is no instance."""

import math

import numpy as np
import optuna
import pytest
from core_support import wiki_task
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from optuna_agenttts.report.trials import count_states, stopped_trials
from optuna_agenttts.study.archive import Archive

# With a declared range no outcome is an outlier.
TASK = wiki_task(metric_range=(0, 1))
SPACE = {
    "retrieval.model": CategoricalDistribution(["qwen-7B", "qwen-72B"]),
    "retrieval.samples": IntDistribution(1, 100),
    "answer.model": CategoricalDistribution(["small-3B", "large-70B"]),
    "answer.samples": IntDistribution(1, 100),
}
OUTCOMES = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=12)
TRIALS = st.lists(st.tuples(OUTCOMES, st.booleans()), min_size=1, max_size=8)


def trial_of(number, outcomes, *, stopped, mean=None):
    """Build a trial of an own allocation; `mean` is reported at the reserved step."""
    values = dict(enumerate(outcomes))
    attributes = {} if mean is None else {"mean_at_step": 12}
    if mean is not None:
        values[12] = mean
    allocation = {"retrieval": ("qwen-7B", 1 + number), "answer": ("small-3B", 1)}
    # What Optuna keeps: the mean of a complete trial, the last outcome of a pruned one.
    trial = create_trial(
        state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
        value=values[max(values)] if stopped else float(np.mean(outcomes)),
        params=TASK.params(allocation),
        distributions=SPACE,
        intermediate_values=values,
        user_attrs=attributes,
    )
    trial.number = number
    return trial


def read(trials, step=None):
    """Read trials as evidence, `step` trials more at each call."""
    archive = Archive(TASK, maximize=True)
    for count in range(step or len(trials), len(trials), step or len(trials)):
        archive.read(trials[:count])
    return archive.read(trials)


@given(TRIALS, st.integers(1, 3))
def test_every_outcome_is_evidence_in_whatever_order_trials_end(drawn, step):
    """Also of trials that were stopped after one instance, or before a trial was complete."""
    trials = [trial_of(n, *given[:1], stopped=given[1]) for n, given in enumerate(drawn)]
    evidence = read(trials, step)
    assert list(evidence.numbers) == list(range(len(drawn)))
    assert list(evidence.stopped) == [stopped for _, stopped in drawn]
    assert evidence.scores == pytest.approx([np.mean(outcomes) for outcomes, _ in drawn])
    complete = [len(outcomes) for outcomes, stopped in drawn if not stopped]
    whole = max(complete or [len(outcomes) for outcomes, _ in drawn])
    shares = [min(1, len(outcomes) / whole) for outcomes, _ in drawn]
    assert evidence.shares == pytest.approx(shares)


@given(TRIALS)
def test_the_reserved_step_changes_no_evidence(drawn):
    """Studies of earlier versions, without it, read the same."""
    old = [trial_of(n, outcomes, stopped=stopped) for n, (outcomes, stopped) in enumerate(drawn)]
    new = [
        trial_of(n, outcomes, stopped=stopped, mean=float(np.mean(outcomes)) if stopped else None)
        for n, (outcomes, stopped) in enumerate(drawn)
    ]
    one, other = read(old), read(new)
    assert one.outcomes == other.outcomes
    assert one.scores.tolist() == other.scores.tolist()
    assert one.shares.tolist() == other.shares.tolist()
    assert one.stopped == other.stopped
    assert stopped_trials(old) == stopped_trials(new)


def test_a_stopped_trial_without_a_finite_outcome_is_no_evidence():
    evidence = read([trial_of(0, [math.nan] * 3, stopped=True), trial_of(1, [1.0], stopped=False)])
    assert evidence.numbers == (1,)
    assert read([trial_of(0, [0.0, math.nan, 1.0], stopped=True)]).scores.tolist() == [0.5]


def test_reports_count_states_and_name_the_means_of_stopped_trials():
    study = optuna.create_study()
    assert count_states(study.trials) == "none"
    study.add_trials(
        [trial_of(0, [1.0, 0.0], stopped=False), trial_of(1, [1.0, 0.0], stopped=True)]
    )
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.add_trial(create_trial(state=TrialState.PRUNED))
    study.ask()
    study.enqueue_trial({})
    found = count_states(study.trials)
    assert found == "1 complete, 2 pruned, 1 failed, 1 running, 1 waiting"
    assert stopped_trials(study.trials) == "trial 1: 0.5 on 2 instances"
    study.add_trials([trial_of(n, [1.0], stopped=True) for n in range(12)])
    text = stopped_trials(study.trials)
    assert text.endswith("trial 17: 1 on 1 instance; and 3 earlier")
    assert text.count("trial") == 10
