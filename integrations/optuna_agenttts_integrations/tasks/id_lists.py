"""Lists of candidate numbers in replies, in the forms that models write."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from optuna_agenttts.llm.untrusted import json_in_reply
from optuna_agenttts_integrations.tasks.answering import ANSWER_HEADER, answer_text

UNREADABLE = "?"
"""Entry in place of a part of a list that cannot be told from other text."""

_MAX_ANSWER = 60_000
"""Characters at the end of a reply that are searched: about ten times a normal reply."""
_NOUN = (
    r"(?:candidate|doc(?:ument)?|fact|id|ind(?:ex|ice|exe)|item|number|paragraph|passage|statement"
    r"|triple(?:t)?)s?"
)
NOUN = rf"{_NOUN}(?![a-z])"
"""Pattern of nouns that models write before numbers of candidates."""
_LEAD = re.compile(rf"(?:[^\w\[]|_)*(?:{NOUN}(?:[^\w\[\n]|_)*)?", re.IGNORECASE)
NONE = re.compile(
    r"(?:none|nothing|null|empty|\u65e0|\u6ca1\u6709)\b|n/a\b|\{\s?\}|"
    rf"(?:there\s(?:is|are)\s)?no\s(?:(?:relevant|needed|useful|such|other)\s)?{NOUN}",
    re.IGNORECASE,
)
"""Pattern of words for an empty list."""
# A label of a list, such as "Selected facts:" or the JSON key "ids".
_LABEL = re.compile(
    rf"^(?:[^\w\n]|_)*(?:(?:the|my|final|best|selected|relevant|chosen|needed|required|necessary"
    rf"|supporting|useful|correct|knowledge|evidence|list|of|is|are|answers?|{_NOUN})(?![a-z0-9])"
    r"(?:[^\w\n:\uff1a]|_){0,9}){1,6}(?:[:\uff1a]|(?=\[))",
    re.IGNORECASE | re.MULTILINE,
)
_KEY = re.compile(
    rf"(?:(?:final|selected|relevant|chosen|needed|supporting)_?)?(?:answers?|selection|{_NOUN})"
    rf"(?:_?{_NOUN})?|selected|relevant|chosen|needed|supporting",
    re.IGNORECASE,
)
# Words before a list that say no more than a label, such as "The relevant facts are".
_INTRO = re.compile(
    rf"(?:[^\w\n\[]|_){{0,9}}(?:(?:the|only|most|following|selected|relevant|chosen|needed|required"
    rf"|necessary|supporting|useful|correct|numbers|of|{_NOUN})(?![a-z0-9])[ \t*_]{{1,9}}){{1,6}}"
    rf"(?:is|are)\b|\s{{0,9}}(?:(?:{_NOUN})\s)?(?:both|numbered|only)\s",
    re.IGNORECASE,
)
# Lists over several lines hold numbers only, so that an unclosed bracket ends with its line.
_ONE = re.compile(r"\[+([^\[\]\n]*|[\d\s,]*)\]+")
_BETWEEN = re.compile(r"(?:[ \t,;&]|and\b)*", re.IGNORECASE)
# The next line with a list, and a line directly below that begins with a list or a bare number.
_NEXT_LINE = re.compile(r"[^\w\[\n]*\n[^\w\[]*(?:(?:\d{1,4}[.)]|and\b)[^\w\[\n]*)?(?=\[)")
_ITEM_BELOW = re.compile(r"[^\n]*\n(?:[^\w\n]|_)*\d")
_BARE_NUMBERS = re.compile(r"[^\w\n]*\d(?:[^\w\n]|\d)*$", re.MULTILINE)
_LINE_END = re.compile(r"(?:[^\w\n]|_)*$", re.MULTILINE)
# The rest of a line after "None": "of the above."
_ALONE = re.compile(r"(?:\sof\sth[^\d\n]*)?\W*$")
# Further entries among explanations, such as "4: the film; 31: its director".
_FURTHER = re.compile(r"\[\d+\]|[;,]\s*\(?\d+\)?\s*:")
# A table in Markdown: its names, and its rows.
_TABLE = re.compile(
    r"^[ \t]*\|(.+)\|[ \t]*\n[ \t]*\|[ \t:|-]*-[ \t:|-]*\|[ \t]*\n((?:[ \t]*\|.*(?:\n|\Z))+)",
    re.MULTILINE,
)
_COMMA = re.compile(r"[,;&|/\u3001]|\band\b|(?<=\d)\s+(?=\d)", re.IGNORECASE)

# Parts of a line that is a list without brackets around it, such as "Passages 1, (3) and 5-7.".
_BULLET = re.compile(r"[\s>*_`~\u2022\u00b7\u2013\u2014+-]*")
_ORDINAL = re.compile(rf"\d{{1,3}}[.)]\s+(?=[\[({{<#]*(?:{_NOUN}\b|\d|[\[({{<#]))", re.IGNORECASE)
_OPEN = r"[\s\[({<\"'`*_#]{0,9}"
_CLOSE = r"[\])}>\"'`*_]{0,9}"
_ITEM = re.compile(
    rf"{_OPEN}(?:{_NOUN}(?![a-z])[\s:_]*)?(?:no\.\s?)?{_OPEN}[dfpt]?(\d+){_CLOSE}"
    rf"(?:\s?(?:[-~\u2013\u2014]|\.\.+|to\b|through\b)\s?[\[(#]*(?:{_NOUN}\s)?(\d+){_CLOSE})?"
    r"(?!\.?\w|\s?%)",
    re.IGNORECASE,
)
_REMARK = re.compile(r"\s?\((?!\s*#?\d+\s*\))[^()\n]*\)")
_SEPARATOR = re.compile(r"[\s,;&|/\u3001]*(?:and\b|or\b)?[\s,;&]*", re.IGNORECASE)
_LISTED = re.compile(r"(?:[*\u2022\u00b7\u2013\u2014+-]\s+|\d{1,3}[.)]\s+)[*_]*\[\d+\][*_]*\s")
_REST = re.compile(
    r"[^\w\n]*(?:(?:is|are)\s)?(?:(?:all\s)?(?:needed|relevant|required|necessary|useful|helpful)|etc)?"
    r"[^\w\n]*",
    re.IGNORECASE,
)
_EXPLANATION = re.compile(
    r"\s*[:|<(=\"\u2013\u2014](?!\s*\d+\W*$)|\s+-\s|,?\s+because\b", re.IGNORECASE
)
_NUMBERED = re.compile(r"\D{0,5}(\d{1,4})[.)]\s+\S")
_OBJECTS = re.compile(r"[\s`\"]*(?:json\s)?(?=\[\s*\{|\{\s*\")")
_NUMBER_FIRST = re.compile(r"[^\w]*\d")
_FENCE = re.compile(r"`{3,}\w*|~{3,}\w*")
_MOST_LINES = 200
"""Lines of a list: more than there are candidates, chosen by hand."""


def read_entries(text: str) -> list[str] | None:
    """Return the entries of the last list of candidates in a reply; None if there is no list.

    The list follows "Answer:", else a label such as "Selected facts:", or it is the value of a
    JSON object, or the whole reply, or its last line, in brackets. Entries need not be numbers.

    Args:
        text: The reply.
    """
    # Replace full-width digits, brackets and commas by ASCII; gpt-oss writes \u30103\u3011.
    text = unicodedata.normalize("NFKC", answer_text(text, _MAX_ANSWER))
    text = text.translate(
        {0x3010: "[", 0x3011: "]", 0x300C: "[", 0x300D: "]", 0x3001: ",", 0x548C: " and "}
    )
    for latex, plain in (("\\{", "["), ("\\}", "]"), ("\\,", ","), ("\\(", "("), ("\\)", ")")):
        text = text.replace(latex, plain)
    text = _TABLE.sub(_column, text)
    entries = _from_json(text) if text.lstrip().startswith("{") else None
    if entries is not None:
        return entries
    for label in (ANSWER_HEADER, _LABEL):
        heads = list(label.finditer(text))
        for head in reversed(heads):
            entries = _after(text, head.end(), strict=label is _LABEL)
            if entries is not None:
                return entries
        if label is ANSWER_HEADER and heads:
            return None
    return _from_json(text) if "{" in text else _unlabelled(text)


def _column(table: re.Match[str]) -> str:
    """Return the cells of a table's column of numbers, one a line; the table if it has none."""
    names = [name.strip("*_` \t").replace(" ", "_") for name in table[1].split("|")]
    column = next((n for n, name in enumerate(names) if _KEY.fullmatch(name)), None)
    if column is None:
        return table[0]
    rows = [row.strip().strip("|").split("|") for row in table[2].splitlines()]
    return "\n".join(dict(enumerate(row)).get(column, UNREADABLE).strip() for row in rows) + "\n"


def _after(text: str, start: int, strict: bool = False) -> list[str] | None:
    """Return the entries of the list that begins at a position; None if none begins there.

    Args:
        text: The reply.
        start: The position.
        strict: Whether words must not follow the list on its line.
    """
    start = _match_end(_INTRO, text, start)
    for read in (_objects, partial(_bracketed, strict=strict), _bare):
        entries = read(text, start)
        if entries is not None:
            return entries
    return None


def _bracketed(text: str, start: int, *, strict: bool) -> list[str] | None:
    """Return the entries of the lists in brackets directly after `start`; None if there are none.

    A list may go on over several lines; `UNREADABLE` is what cannot be told from other text.
    """
    lead = _LEAD.match(text, start)
    position = lead.end() if lead else start
    below = "\n" in text[start:position]
    none = NONE.match(text, position) or (lead and NONE.match(text[start : lead.end()].strip()))
    lists, position = ([], position) if none else _lists(text, position)
    alone = _LINE_END.match(text, none.end() if none else position) is not None
    if not (lists or none) or (below and not alone):
        return None
    if lists and not alone and (entries := _bare(text, start)) is not None:
        return entries
    if strict and not alone:
        return None
    # If words follow, later lists belong to them: "Answer: [4] and [9] is about his father".
    chosen = lists if alone else lists[:1]
    while alone and lists and (line := _NEXT_LINE.match(text, position)):
        more, end = _lists(text, line.end())
        if not more or not _LINE_END.match(text, end):
            break
        chosen, position = chosen + more, end
    entries = [entry for inner in chosen for entry in _COMMA.split(inner) if entry.strip()]
    unclear = lists and (
        len(lists) > 1 or _FURTHER.search(text[position:].split("\n", 1)[0])
        if not alone
        else _ITEM_BELOW.match(text, position) or _BARE_NUMBERS.match(text, position)
    )
    return [*entries, UNREADABLE] if unclear else entries


def _lists(text: str, position: int) -> tuple[list[str], int]:
    """Return the lists on a line, and the position after them."""
    lists: list[str] = []
    while found := _ONE.match(text, position):
        lists.append(found[1])
        gap = _BETWEEN.match(text, found.end())
        position = gap.end() if gap else found.end()
    return lists, position


def _bare(text: str, start: int) -> list[str] | None:
    """Return the entries of lines that are lists, the first one directly after `start`."""
    entries: list[str] = []
    numbered: list[str] = []
    for line, is_apart in _lines(text, start):
        found = _line_entries(line)
        item = None if found is not None or is_apart else _NUMBERED.match(line)
        if item:
            numbered.append(item[1])
        elif found is None or numbered:
            if entries and not is_apart and _NUMBER_FIRST.match(line):
                entries.append(UNREADABLE)
            break
        else:
            entries += found
    if numbered and not entries:
        # Numbers from 1 may count the lines instead of naming candidates.
        counts = [str(number) for number in range(1, len(numbered) + 1)]
        return None if numbered == counts else numbered
    return entries + [UNREADABLE] * len(numbered) or None


def _lines(text: str, start: int) -> Iterator[tuple[str, bool]]:
    """Yield the lines from a position that are not empty, and whether empty ones precede them."""
    first, is_apart = True, False
    for _ in range(_MOST_LINES):
        end = text.find("\n", start)
        line = text[start : len(text) if end < 0 else end].strip()
        if not line.strip("*_~` ") or _FENCE.fullmatch(line):
            is_apart = not first
        else:
            yield line, is_apart
            first, is_apart = False, False
        if end < 0:
            return
        start = end + 1


def _line_entries(line: str) -> list[str] | None:
    """Return the entries of a line that is a list, or one entry and its explanation."""
    start = _match_end(_BULLET, line, 0)
    position = start = _match_end(_ORDINAL, line, start)
    entries: list[str] = []
    end = position
    while item := _ITEM.match(line, position):
        entries.append("-".join(filter(None, item.groups())))
        end = _match_end(_REMARK, line, item.end())
        position = _match_end(_SEPARATOR, line, end)
    listed = line[start:end]
    # An unclosed bracket is that of a list that was cut off.
    if not entries or any(listed.count(a) > listed.count(b) for a, b in ("[]", "()", "{}")):
        return None
    if _REST.fullmatch(line, end):
        return entries
    explained = _EXPLANATION.match(line, end) or _LISTED.match(line)
    if len(entries) > 1 or not explained:
        return None
    return [*entries, UNREADABLE] if _FURTHER.search(line, end) else entries


def _match_end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Return the end of a pattern at a position, or the position."""
    found = pattern.match(text, position)
    return found.end() if found else position


def _objects(text: str, start: int) -> list[str] | None:
    """Return the entries of JSON such as ``[{"id": 3}]`` or ``{"ids": [3]}`` at a position."""
    found = _OBJECTS.match(text, start)
    if not found:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, found.end())
    except (ValueError, RecursionError):
        return None
    return _json_entries(value)


def _from_json(text: str) -> list[str] | None:
    """Return the entries of the JSON in a reply."""
    return _json_entries(json_in_reply(text, "answer", lists=True))


def _json_entries(value: Any) -> list[str] | None:
    """Return the entries of a JSON list, or of an object under a key such as ``ids``."""
    if isinstance(value, Mapping):
        named = [found for key, found in value.items() if _KEY.fullmatch(str(key))]
        # Without a key that says so, the only list of numbers is meant.
        value = (named or list(filter(_are_numbers, value.values())) or [None])[-1]
        if value is None and named:
            return []
    if isinstance(value, str):
        return _after(value, 0)
    return _values([value] if isinstance(value, int) else value)


def _are_numbers(value: Any) -> bool:
    """Return whether a JSON value is a list of numbers, also as texts."""
    return isinstance(value, list) and bool(value) and all(str(v).isdigit() for v in value)


def _values(values: Any) -> list[str] | None:
    """Return the values of a JSON list as entries; None if it is no list."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    entries = []
    for value in values:
        if isinstance(value, Mapping):
            named = [found for key, found in value.items() if _KEY.fullmatch(str(key))]
            value = named[0] if named else UNREADABLE
        entries.append(str(value) if isinstance(value, (int, float, str)) else UNREADABLE)
    return entries


def _unlabelled(text: str) -> list[str] | None:
    """Return the entries of a reply that is a list, or whose last line is a list in brackets."""
    lines = [line.strip() for line in text.strip()[-2000:].splitlines()]
    lines = [line for line in lines if line and not _FENCE.fullmatch(line)]
    if not lines:
        return None
    if len(lines) == 1 and (none := NONE.match(lines[0].lstrip("*_` "))):
        return [] if _ALONE.match(lines[0].lstrip("*_` "), none.end()) else None
    if named := re.search(r"\banswers?\s(?:is|are)\s{0,3}(?=\[)", lines[-1], re.IGNORECASE):
        return _after(lines[-1], named.end(), strict=True)
    if len(text.strip()) <= 2000 and _line_entries(lines[0]) is not None:
        return _after("\n".join(lines), 0)
    if _INTRO.match(lines[-1]):
        return _after(lines[-1], 0, strict=True)
    return _after(lines[-1], 0) if re.match(r"[^\w\[]*\[[^\[\]]*\]\W*$", lines[-1]) else None
