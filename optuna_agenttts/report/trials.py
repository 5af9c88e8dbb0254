"""Trials of a study in reports: how many ended how, and what the stopped ones saw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.report.text import count_text
from optuna_agenttts.study.stopped import mean_outcome, outcomes_of

STATE_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_LISTED = 10
"""Maximum number of stopped trials that are listed. Chosen by hand."""


def value_of(trial: FrozenTrial) -> float | None:
    """Return the first value of a trial, or the mean of what it saw if it was pruned."""
    if trial.state == TrialState.PRUNED:
        seen = mean_outcome(outcomes_of(trial).values())
        return None if math.isnan(seen) else seen
    return trial.values[0] if trial.values else None


def states_of(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Count trials by state, in words; those that confirm allocations on fresh ones are apart."""
    counts = Counter(
        (STATE_NAMES[trial.state], storage.confirmation_block(trial) > 0) for trial in trials
    )
    return {
        f"{name}{' in confirmation' if confirms else ''}": count
        for confirms in (False, True)
        for name in STATE_NAMES.values()
        if (count := counts[name, confirms])
    }


def count_states(trials: Sequence[FrozenTrial]) -> str:
    """Count trials by state, such as "8 complete, 2 pruned"; "none" without trials.

    Trials that confirm allocations on fresh instances are counted apart.
    """
    return ", ".join(f"{count} {name}" for name, count in states_of(trials).items()) or "none"


def stopped_trials(trials: Sequence[FrozenTrial]) -> str:
    """List the latest pruned trials with the mean of what they saw; empty if none saw any."""
    texts = []
    for trial in trials:
        mean = value_of(trial)
        if trial.state == TrialState.PRUNED and mean is not None:
            instances = count_text(len(outcomes_of(trial)), "instance")
            texts.append(f"trial {trial.number}: {mean:.3g} on {instances}")
    more = len(texts) - _LISTED
    return "; ".join(texts[-_LISTED:] + ([f"and {more} earlier"] if more > 0 else []))
