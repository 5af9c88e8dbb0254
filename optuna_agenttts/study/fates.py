"""Fates of the agent's proposals: tried, queued, refused, reduced, or not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.study.proposals import Outcome, Proposal
from optuna_agenttts.study.rounds import Round, read_rounds

_TEXTS: Mapping[Outcome, str] = {
    "taken": "not tried: an earlier trial has the same allocation",
    "range": "not tried: outside of what the trial allowed",
    "missed": "not tried",
}
_REPEATED = {"duplicate": "repeated", "refused": "repeated, refused before"}
_STATES = {TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}


def guidelines(study: Study) -> tuple[Round, ...]:
    """Return the rounds that an agent planned for a study: guidelines, candidates, tokens.

    Only the study's storage is read, so the study may have any sampler.

    Args:
        study: The study.

    Returns:
        The rounds in order of number, with what became of their candidates; empty if no agent
        planned.
    """
    rounds = read_rounds(storage.attributes_of(study))
    return with_fates(rounds, storage.read_trials(study)) if rounds else ()


def with_fates(rounds: Sequence[Round], trials: Sequence[FrozenTrial]) -> tuple[Round, ...]:
    """Return rounds with what became of each proposal of the agent."""
    by_number = {trial.number: trial for trial in trials}
    begun = [trial.params for trial in trials if trial.params]
    found = []
    for planned in rounds:
        numbers = [
            number
            for number in range(planned.first, planned.end, planned.stride)
            if not _postponed(planned, by_number.get(number))
        ]
        candidates = []
        for candidate, number in zip_longest(planned.candidates, numbers):
            if candidate is not None:
                trial = None if number is None else by_number.get(number)
                outcome, text = _outcome(trial, number)
                if outcome == "queued" and candidate.params in begun and not candidate.again:
                    # Another trial was there meanwhile.
                    outcome, text = "taken", _TEXTS["taken"]
                fate = replace(candidate, round=planned.number, trial=number)
                candidates.append(replace(fate, outcome=outcome, text=text))
        dropped = [
            replace(
                each,
                round=planned.number,
                outcome="dropped",
                text=_REPEATED.get(each.kind, each.text),
            )
            for each in planned.dropped
        ]
        found.append(replace(planned, candidates=tuple(candidates), dropped=tuple(dropped)))
    return tuple(found)


def fates(trials: Sequence[FrozenTrial], rounds: Sequence[Round]) -> tuple[Proposal, ...]:
    """Return the agent's proposals with what became of each, in the order of the replies."""
    known = with_fates(rounds, trials)
    return tuple(each for planned in known for each in (*planned.candidates, *planned.dropped))


def position_of(planned: Round, number: int, trials: Sequence[FrozenTrial]) -> int:
    """Return the position of a trial's candidate in its round.

    Candidates that the opening did not leave a trial for are postponed to the next one.
    """
    earlier = (trial for trial in trials if planned.first <= trial.number < number)
    return number - planned.first - sum(_postponed(planned, trial) for trial in earlier)


def _postponed(planned: Round, trial: FrozenTrial | None) -> bool:
    """Return whether a round's candidate for a trial was postponed to the next trial."""
    record = None if trial is None else trial.system_attrs.get(storage.PROPOSED)
    if not isinstance(record, Mapping) or record.get("round") != planned.number:
        return False
    return record.get("outcome") == "opening"


def _outcome(trial: FrozenTrial | None, number: int | None) -> tuple[Outcome, str]:
    """Return what became of the candidate for a trial, and its description."""
    if number is None:
        return "missed", "not tried: the next round began"
    origin = None if trial is None else trial.user_attrs.get(storage.ORIGIN)
    if trial is None or not (trial.state.is_finished() or origin or trial.params):
        return "queued", f"queued for trial {number}"
    if origin == "agent":
        if trial.state == TrialState.COMPLETE and trial.values:
            return "tried", f"tried as trial {number}: {trial.values[0]:.4g}"
        return "tried", f"tried as trial {number}, {_STATES.get(trial.state, 'running')}"
    record = trial.system_attrs.get(storage.PROPOSED) or {}
    outcome, worth = record.get("outcome"), record.get("worth")
    if outcome == "refused" and isinstance(worth, (int, float)):
        return "refused", f"refused for trial {number}: expected to help {promise_text(worth)}"
    missed: Outcome = "missed"
    known = next((each for each in _TEXTS if each == outcome), missed)
    return known, _TEXTS[known]


def promise_text(worth: float) -> str:
    """Return how much a trial is expected to help, beside the planner's next trial, as text."""
    return f"{100 * worth:.0f} % as much as the planner's next trial"
