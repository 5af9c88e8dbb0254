"""A stage that chooses some of many numbered candidates: passages, triples."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, id_vote
from optuna_agenttts_integrations.tasks.answering import ANSWER

_WORD = r"(?:candidate|fact|id|number|paragraph|passage|triple)s?\b"
_LEAD = re.compile(rf"(?:[^\w\[]|_)*(?:{_WORD}(?:[^\w\[\n]|_)*)?", re.IGNORECASE)
_NONE = re.compile(r"none\b", re.IGNORECASE)
# Over several lines only numbers make a list: an unclosed one must not swallow what follows.
_ONE = re.compile(r"\[+([^\[\]\n]*|[\d\s,]*)\]+")
_BETWEEN = re.compile(r"(?:[ \t,;&]|and\b)*", re.IGNORECASE)
_LINE_END = re.compile(r"(?:[^\w\n]|_)*$", re.MULTILINE)
_COMMA = re.compile(r"[,;&\u3001]|\band\b|(?<=\d)\s+(?=\d)", re.IGNORECASE)
_ENTRY = re.compile(
    rf"[^\w-]*(?:{_WORD}[^\w-]*)?(\d+)"
    r"(?:\s*(?:[-\u2013\u2014]|\.\.+|to\b)\s*(\d+))?[^\w.]*(?:[(:].*)?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a reply, or the vote over several, chooses.

    Args:
        ids: Numbers of the chosen candidates, from 1, ascending.
        out_of_range: How many entries of the answer list named no candidate.
        repeated: How many named one again.
    """

    ids: tuple[int, ...]
    out_of_range: int = 0
    repeated: int = 0


def parse_selection(text: str, count: int) -> Selection | None:
    """Read the answer list of a reply: the last line ``Answer: [3, 17]``, or ``Answer: none``.

    Numbers anywhere else are part of the model's thoughts and do not count. A range such as 3-5 is
    the numbers from 3 to 5.

    Args:
        text: The reply.
        count: How many candidates there are.

    Returns:
        The selection, or None if there is no answer list, or one without any number in it.
    """
    # Digits, brackets and commas of full width become those of ASCII.
    text = unicodedata.normalize("NFKC", text)
    for head in reversed(list(ANSWER.finditer(text))):
        entries = _entries(text, head.end())
        if entries is not None:
            return _selection(entries, count)
    return None


def _entries(text: str, start: int) -> list[str] | None:
    """The entries of the lists that stand right behind `start`; None if there are none."""
    lead = _LEAD.match(text, start)
    position = lead.end() if lead else start
    below = "\n" in text[start:position]
    lists: list[str] = []
    while found := _ONE.match(text, position):
        lists.append(found[1])
        gap = _BETWEEN.match(text, found.end())
        position = gap.end() if gap else found.end()
    none = None if lists else _NONE.match(text, position)
    alone = _LINE_END.match(text, none.end() if none else position) is not None
    if not (lists or none) or (below and not alone):
        return None
    # Where words follow, later lists are theirs: "Answer: [4] and [9] is about his father".
    chosen = lists if alone else lists[:1]
    return [entry for inner in chosen for entry in _COMMA.split(inner) if entry.strip()]


def _selection(entries: Sequence[str], count: int) -> Selection | None:
    numbers: list[int] = []
    readable = not entries
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if match:
            readable = True
            numbers += _numbers(match, count)
        elif _NONE.fullmatch(entry.strip("\"'` \t").rstrip(".")):
            readable = True
        else:
            numbers.append(0)
    if not readable:
        return None
    valid = [number for number in numbers if 1 <= number <= count]
    chosen = tuple(sorted(set(valid)))
    return Selection(chosen, len(numbers) - len(valid), len(valid) - len(chosen))


def _numbers(entry: re.Match[str], count: int) -> Iterator[int]:
    """The numbers that an entry names; those beyond `count` as they come."""
    ends = [_clipped(digits, count) for digits in entry.groups() if digits is not None]
    yield from ends
    if len(ends) == 2:
        yield from range(max(1, ends[0] + 1), min(ends[1], count + 1))


def _clipped(digits: str, count: int) -> int:
    """A number, or the first one out of range: Python reads no number of 10,000 digits."""
    digits = digits.lstrip("0")
    return count + 1 if len(digits) > len(str(count)) else int(digits or "0")


def selection_vote(threshold: float) -> Aggregation:
    """A vote over candidates: those that at least a share of the samples choose.

    Args:
        threshold: The share; see `id_vote`.

    Returns:
        An aggregation of selections into one, whose counts are those of all samples together.

    Raises:
        ValueError: The threshold is out of range.
    """
    vote = id_vote(threshold)

    def join(samples: Sequence[Selection]) -> Selection:
        return Selection(
            tuple(vote([sample.ids for sample in samples])),
            sum(sample.out_of_range for sample in samples),
            sum(sample.repeated for sample in samples),
        )

    return join


def numbered(candidates: Sequence[str]) -> str:
    """Candidates, one a line, numbered from 1."""
    return "\n".join(f"[{number}] {text}" for number, text in enumerate(candidates, 1))
