"""Blocks of a prompt about the agent's earlier proposals: its queue, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.agent.prompts.history import number_of
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.study.proposals import Proposal

_ROUNDS = 2
"""Rounds whose proposals a prompt shows; chosen by hand."""
_DROPPED = 4
"""Proposals of a round that were not kept and that a prompt shows; chosen by hand."""


def shown_fates(fates: Sequence[Proposal]) -> tuple[Proposal, ...]:
    """Return the whole queue, and the other proposals of the latest two rounds.

    Spare ones, which were not needed, are left out.
    """
    latest = sorted({fate.round for fate in fates})[-_ROUNDS:]
    dropped = dict.fromkeys(latest, 0)
    shown = []
    for fate in fates:
        if fate.outcome == "dropped" and fate.round in latest:
            dropped[fate.round] += fate.kind != "spare"
            if fate.kind == "spare" or dropped[fate.round] > _DROPPED:
                continue
        if fate.outcome == "queued" or fate.round in latest:
            shown.append(fate)
    return tuple(shown)


def fate_blocks(
    fates: Sequence[Proposal],
    line: Callable[[Mapping[str, Any]], str],
    listed: Collection[int] = (),
) -> list[str]:
    """Return the blocks about the queue and about earlier proposals; empty without any.

    Args:
        fates: What became of the proposals.
        line: Formats parameters on one line.
        listed: Numbers of the trials in the prompt's history, which need no second description.
    """
    queue = [
        f"trial {fate.trial}: {_what(fate, line)}" for fate in fates if fate.outcome == "queued"
    ]
    in_history: dict[int, list[str]] = {}
    others = []
    for fate in fates:
        if fate.outcome == "tried" and fate.trial in listed and fate.asked is None:
            in_history.setdefault(fate.round, []).append(str(fate.trial))
        elif fate.outcome != "queued":
            others.append(f"round {fate.round}: {_what(fate, line)}: {_became(fate)}")
    others += [
        f"round {number}: tried as {', '.join(trials)}" for number, trials in in_history.items()
    ]
    note = (
        "Your candidates that are still to be tried, with their trials; new ones come after them:"
    )
    about = "What became of your other recent candidates:"
    return [
        block("queue", [note, *queue] if queue else []),
        block("proposals", [about, *others] if others else []),
    ]


def queue_block(data: PromptData) -> str:
    """Return the agent's queue."""
    return fate_blocks(data.fates, partial(_params_line, data))[0]


def proposals_block(data: PromptData) -> str:
    """Return what became of the agent's other recent proposals."""
    listed = [number_of(data.evidence, row) for row in range(len(data.evidence.scores))]
    return fate_blocks(data.fates, partial(_params_line, data), listed)[1]


def _params_line(data: PromptData, params: Mapping[str, Any]) -> str:
    """Format a trial's parameters as an allocation on one line."""
    choices = data.task.read(params)
    return quote(dict(params)) if choices is None else data.line(choices)


def _what(fate: Proposal, line: Callable[[Mapping[str, Any]], str]) -> str:
    """Return a proposal on one line, with what it was reduced from."""
    if fate.params is None:
        return "unreadable"
    reduced = "" if fate.asked is None else f" (reduced to the budget from {line(fate.asked)})"
    return line(fate.params) + reduced


def _became(fate: Proposal) -> str:
    """Return what became of a proposal; texts with parts of replies are quoted."""
    return (
        fate.text
        if fate.outcome != "dropped" or fate.text.startswith("repeated")
        else quote(fate.text)
    )
