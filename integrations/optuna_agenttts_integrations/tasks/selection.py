"""Prompts, parsing and votes of stages that select numbered candidates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna_agenttts_integrations.pipeline.aggregation import Vote, id_vote
from optuna_agenttts_integrations.tasks.id_lists import NONE, NOUN, UNREADABLE, read_entries

_ENTRY = re.compile(
    rf"[^\w-]*(?:{NOUN}(?:[^\w-]|_)*)?[dfpt]?(\d+)(?:\.0+)?"
    r"(?:\s*(?:[-~\u2013\u2014]|\.\.+|to\b|through\b)\s*(\d+))?[^\w.]*(?:(?:[(\u2020]|:(?!\d)).*)?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Candidates selected by a reply, or by the vote over several.

    Args:
        ids: Numbers of the selected candidates, from 1, ascending.
        out_of_range: Number of entries of the answer list without such a candidate.
        repeated: Number of entries that repeat a candidate.
        partial: Number of replies in whose list some entry could not be read.
    """

    ids: tuple[int, ...]
    out_of_range: int = 0
    repeated: int = 0
    partial: int = 0


def parse_selection(text: str, count: int) -> Selection | None:
    """Parse the list of a reply: the last ``Answer: [3, 17]`` or ``Answer: none``.

    Lists in other forms are read, too: without brackets, in bullets, as JSON, boxed in LaTeX,
    after labels such as "Selected facts:", or without a label if the reply is nothing else.
    Numbers in prose are ignored. A range such as 3-5 selects the numbers from 3 to 5.

    Args:
        text: The reply.
        count: The number of candidates.

    Returns:
        The selection; None if there is no list or no entry of it can be read.
    """
    entries = read_entries(text)
    return None if entries is None else _selection(entries, count)


def _selection(entries: Sequence[str], count: int) -> Selection | None:
    """Return the selection of some list entries; None if no entry can be parsed."""
    numbers: list[int] = []
    readable = not entries
    partial = False
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if match:
            readable = True
            numbers += _numbers(match, count)
        elif NONE.fullmatch(entry.strip("\"'` \t").rstrip(".")):
            readable = True
        else:
            partial = True
            if entry != UNREADABLE:
                numbers.append(0)
    if not readable:
        return None
    valid = [number for number in numbers if 1 <= number <= count]
    chosen = tuple(sorted(set(valid)))
    return Selection(chosen, len(numbers) - len(valid), len(valid) - len(chosen), int(partial))


def _numbers(entry: re.Match[str], count: int) -> Iterator[int]:
    """Yield the numbers of an entry; out-of-range ends of a range are yielded, too."""
    ends = [_clipped(digits, count) for digits in entry.groups() if digits is not None]
    yield from ends
    if len(ends) == 2:
        yield from range(max(1, ends[0] + 1), min(ends[1], count + 1))


def _clipped(digits: str, count: int) -> int:
    """Return a number, clipped to `count` + 1, as Python refuses numbers of 10,000 digits."""
    digits = digits.lstrip("0")
    return count + 1 if len(digits) > len(str(count)) else int(digits or "0")


def selection_vote(threshold: float) -> Vote:
    """Create a vote that selects the candidates in at least a fraction of the samples.

    Args:
        threshold: The fraction, in (0, 1]; see `id_vote`.

    Returns:
        An aggregation of selections into one, whose counts are sums over the samples.

    Raises:
        ValueError: The threshold is out of range.
    """
    return _SelectionVote(id_vote(threshold))


@dataclass(frozen=True, slots=True)
class _SelectionVote:
    """Vote on each candidate; see `selection_vote`."""

    vote: Vote

    def __call__(self, samples: Sequence[Selection]) -> Selection:
        return Selection(
            tuple(self.vote([sample.ids for sample in samples])),
            sum(sample.out_of_range for sample in samples),
            sum(sample.repeated for sample in samples),
            sum(sample.partial for sample in samples),
        )

    def further(self, samples: Sequence[Selection], left: int, probability: float) -> int:
        return self.vote.further([sample.ids for sample in samples], left, probability)


def format_candidates(candidates: Sequence[str]) -> str:
    """Return candidates numbered from 1, one per line."""
    return "\n".join(f"[{number}] {text}" for number, text in enumerate(candidates, 1))
