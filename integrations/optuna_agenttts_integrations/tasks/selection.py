"""Prompts, parsing and votes of stages that select numbered candidates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, id_vote
from optuna_agenttts_integrations.tasks.answering import ANSWER_HEADER

_MAX_ANSWER = 60_000
"""Characters at the end of a reply that are searched: about ten times a normal reply."""
_WORD = r"(?:candidate|fact|id|number|paragraph|passage|triple)s?\b"
_LEAD = re.compile(rf"(?:[^\w\[]|_)*(?:{_WORD}(?:[^\w\[\n]|_)*)?", re.IGNORECASE)
_NONE = re.compile(r"none\b", re.IGNORECASE)
# Lists over several lines hold numbers only, so that an unclosed bracket ends with its line.
_ONE = re.compile(r"\[+([^\[\]\n]*|[\d\s,]*)\]+")
_BETWEEN = re.compile(r"(?:[ \t,;&]|and\b)*", re.IGNORECASE)
# The next line with a list, and a line directly below that begins with a list or a bare number.
_NEXT_LINE = re.compile(r"[^\w\[\n]*\n[^\w\[]*(?:(?:\d{1,4}[.)]|and\b)[^\w\[\n]*)?(?=\[)")
_ITEM_BELOW = re.compile(r"[^\n]*\n(?:[^\w\n]|_)*\d")
_BARE_NUMBERS = re.compile(r"[^\w\n]*\d(?:[^\w\n]|\d)*$", re.MULTILINE)
_LINE_END = re.compile(r"(?:[^\w\n]|_)*$", re.MULTILINE)
_COMMA = re.compile(r"[,;&\u3001]|\band\b|(?<=\d)\s+(?=\d)", re.IGNORECASE)
_ENTRY = re.compile(
    rf"[^\w-]*(?:{_WORD}[^\w-]*)?(\d+)"
    r"(?:\s*(?:[-\u2013\u2014]|\.\.+|to\b)\s*(\d+))?[^\w.]*(?:[(:].*)?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Candidates selected by a reply, or by the vote over several.

    Args:
        ids: Numbers of the selected candidates, from 1, ascending.
        out_of_range: Number of entries of the answer list without such a candidate.
        repeated: Number of entries that repeat a candidate.
    """

    ids: tuple[int, ...]
    out_of_range: int = 0
    repeated: int = 0


def parse_selection(text: str, count: int) -> Selection | None:
    """Parse the answer list of a reply: the last ``Answer: [3, 17]`` or ``Answer: none``.

    Numbers elsewhere are ignored. A range such as 3-5 selects the numbers from 3 to 5.

    Args:
        text: The reply.
        count: The number of candidates.

    Returns:
        The selection; None if there is no answer list or the list has no number.
    """
    # Replace full-width digits, brackets and commas by ASCII; gpt-oss writes \u30103\u3011.
    text = unicodedata.normalize("NFKC", split_thoughts(text)[0][-_MAX_ANSWER:])
    text = text.translate({0x3010: "[", 0x3011: "]"})
    for head in reversed(list(ANSWER_HEADER.finditer(text))):
        entries = _entries(text, head.end())
        if entries is not None:
            return _selection(entries, count)
    return None


def _entries(text: str, start: int) -> list[str] | None:
    """Return the entries of the lists directly after `start`; None if there are none.

    A list may go on over several lines; if a part of it cannot be told from other text, no entry
    is returned that can be parsed.
    """
    lead = _LEAD.match(text, start)
    position = lead.end() if lead else start
    below = "\n" in text[start:position]
    lists, position = _lists(text, position)
    none = None if lists else _NONE.match(text, position)
    alone = _LINE_END.match(text, none.end() if none else position) is not None
    if not (lists or none) or (below and not alone):
        return None
    # If words follow, later lists belong to them: "Answer: [4] and [9] is about his father".
    chosen = lists if alone else lists[:1]
    while alone and lists and (line := _NEXT_LINE.match(text, position)):
        more, end = _lists(text, line.end())
        if not more or not _LINE_END.match(text, end):
            break
        chosen, position = chosen + more, end
    if lists and (_ITEM_BELOW.match(text, position) or _BARE_NUMBERS.match(text, position)):
        return ["?"]
    return [entry for inner in chosen for entry in _COMMA.split(inner) if entry.strip()]


def _lists(text: str, position: int) -> tuple[list[str], int]:
    """Return the lists on a line, and the position after them."""
    lists: list[str] = []
    while found := _ONE.match(text, position):
        lists.append(found[1])
        gap = _BETWEEN.match(text, found.end())
        position = gap.end() if gap else found.end()
    return lists, position


def _selection(entries: Sequence[str], count: int) -> Selection | None:
    """Return the selection of some list entries; None if no entry can be parsed."""
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
    """Yield the numbers of an entry; out-of-range ends of a range are yielded, too."""
    ends = [_clipped(digits, count) for digits in entry.groups() if digits is not None]
    yield from ends
    if len(ends) == 2:
        yield from range(max(1, ends[0] + 1), min(ends[1], count + 1))


def _clipped(digits: str, count: int) -> int:
    """Return a number, clipped to `count` + 1, as Python refuses numbers of 10,000 digits."""
    digits = digits.lstrip("0")
    return count + 1 if len(digits) > len(str(count)) else int(digits or "0")


def selection_vote(threshold: float) -> Aggregation:
    """Create a vote that selects the candidates in at least a fraction of the samples.

    Args:
        threshold: The fraction, in (0, 1]; see `id_vote`.

    Returns:
        An aggregation of selections into one, whose counts are sums over the samples.

    Raises:
        ValueError: The threshold is out of range.
    """
    return partial(_join_selections, id_vote(threshold))


def _join_selections(vote: Aggregation, samples: Sequence[Selection]) -> Selection:
    return Selection(
        tuple(vote([sample.ids for sample in samples])),
        sum(sample.out_of_range for sample in samples),
        sum(sample.repeated for sample in samples),
    )


def format_candidates(candidates: Sequence[str]) -> str:
    """Return candidates numbered from 1, one per line."""
    return "\n".join(f"[{number}] {text}" for number, text in enumerate(candidates, 1))
