"""Pace of the agent: the trials that a round covers, and the time to plan the next one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.study.rounds import Round

# Chosen by hand.
ROUND_SIZE = 6
"""Trials per round."""
FIRST_SPAN = 9
"""Trials of the first round of a task, which is planned before there is a score: with it, a search
has no more requests than if the first round began after six trials."""
SILENT_SPAN = 3
"""Trials of a round for which the agent is not asked: then it is considered again."""
ALARM_SPAN = 24
"""Trials after which an alarm counts again for which the agent was asked."""
SPARE = 2
"""Further candidates to ask for, which replace unusable ones."""
STRIDE = 2
"""Trials from one candidate of a round to the next in search spaces without stages."""
MIN_WAIT = 0.5
"""Time that a trial always waits for a round, in seconds."""
_UNKNOWN_LEAD = 3
"""Trials between the start of planning and the round's first trial, before two trials."""
MAX_ENQUEUED = 3
"""Enqueued trials from which on no round is planned, since they come first."""
_RECENT = 20
"""Trials whose times count."""


def lead(rounds: Sequence[Round], trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials before its first one a round is to be planned.

    It is the time that rounds take over the time between the starts of trials, plus one, and at
    most a whole round. Rounds that take less than trials wait anyway are planned as late as
    possible, from the most results.

    Args:
        rounds: The rounds so far.
        trials: The study's trials.
    """
    seconds = [planned.seconds for planned in rounds if planned.asked]
    latency = float(np.median(seconds)) if seconds else 0.0
    if latency <= MIN_WAIT:
        return 1
    starts = sorted(t.datetime_start for t in trials[-_RECENT:] if t.datetime_start is not None)
    gaps = [(later - start).total_seconds() for start, later in pairwise(starts)]
    if not gaps:
        return _UNKNOWN_LEAD
    return min(ROUND_SIZE, math.floor(latency / max(float(np.median(gaps)), 1e-3)) + 1)


def typical_seconds(trials: Sequence[FrozenTrial]) -> float:
    """Return the median duration of the last trials in seconds; 0 without any."""
    done = [t for t in trials if t.state == TrialState.COMPLETE][-_RECENT:]
    seconds = [t.duration.total_seconds() for t in done if t.duration is not None]
    return float(np.median(seconds)) if seconds else 0.0


def first_open(trials: Sequence[FrozenTrial]) -> int:
    """Return the number of the first trial after all that have an allocation or parameters.

    Trials that wait have those with which they were enqueued.
    """
    taken = (
        trial.number
        for trial in trials
        if trial.state.is_finished()
        or trial.state == TrialState.WAITING
        or trial.params
        or storage.ORIGIN in trial.user_attrs
    )
    return max(taken, default=-1) + 1


def allowed_repairs(rounds: Sequence[Round]) -> int:
    """Return the maximum number of repair requests in the next round.

    Zero after a round without usable candidates. Over a search, two, plus one for every third
    round, so that 50 trials take at most 12 requests to a server that answers.
    """
    asked = [planned for planned in rounds if planned.asked]
    if asked and asked[-1].error:
        return 0
    sent = sum(max(0, planned.requests - 1) for planned in asked)
    return max(0, 2 + len(asked) // 3 - sent)
