"""Inspected instances and trials as text for a terminal.

Replies are not trusted: characters that are not printable are escaped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from optuna_agenttts.report.text import count_text
from optuna_agenttts.support.plain import one_line
from optuna_agenttts_integrations.inspection.functions import short
from optuna_agenttts_integrations.inspection.records import (
    InspectedReply,
    InspectedRequest,
    InspectedStage,
)

MIN_WIDTH = 40
"""Minimum width in columns. Chosen by hand: narrower text cannot be read."""

_GAP, _MIN_CELL = "  ", 8
"""Separator of a table's columns, and the width below which none is cut. Chosen by hand."""

_MAX_VALUE = 2000
"""Maximum length of a parsed value or result, in characters. Chosen by hand."""

_MAX_SHOWN = 20_000
"""Maximum number of characters of a prompt or reply that are shown. Chosen by hand: about ten
times a normal reply, and wrapped in less than .1 s."""

SEPARATOR = " | "


def number(value: float | None) -> str:
    """Return an outcome in at most eight characters; "-" if it is not known."""
    return "-" if value is None else f"{value:.3g}"


def result_text(stage: InspectedStage) -> str:
    """Return a stage's result on one line, or why there is none."""
    return short(stage.result) if stage.status == "ran" else f"({stage.status})"


def side_by_side(
    left: Sequence[Sequence[str]], right: Sequence[Sequence[str]], width: int
) -> Iterator[str]:
    """Yield lines in two columns, each pair of sections from the same line on."""
    for sides in zip_longest(left, right, fillvalue=()):
        for one, other in zip_longest(*sides, fillvalue=""):
            yield f"{one:<{width}}{SEPARATOR}{other}".rstrip()


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table; cells too wide for it are cut."""
    widths = [max(map(len, column)) for column in zip(titles, *rows)]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width and max(widths) > _MIN_CELL:
        widths[widths.index(max(widths))] -= 1
    return [
        _GAP.join(one_line(cell, w).ljust(w) for cell, w in zip(row, widths)).rstrip()
        for row in (titles, ["-" * w for w in widths], *rows)
    ]


def stage_lines(stage: InspectedStage, width: int) -> Iterator[str]:
    """Yield the lines about a stage: prompts, replies and result."""
    samples = count_text(stage.samples, "sample")
    called = "" if stage.model is None else f": {stage.model}, {samples}"
    status = "" if stage.status == "ran" else f" ({stage.status})"
    yield from wrapped(f"== {stage.name}{called}{status}", width)
    for request in stage.requests:
        yield from _request_lines(request, width)
    if stage.status in ("ran", "skipped"):
        joined = f" of {stage.joined_by}" if stage.joined_by and stage.requests else ""
        yield from wrapped(f"result{joined}: {short(stage.result, _MAX_VALUE)}", width, "  ")


def _request_lines(request: InspectedRequest, width: int) -> Iterator[str]:
    yield "  prompt" if request.purpose == "samples" else f"  prompt of a {request.purpose}"
    for message in request.messages:
        if message.role != "user" or len(request.messages) > 1:
            yield f"    [{message.role}]"
        yield from _block(message.content, width)
    equal: dict[str | None, list[InspectedReply]] = {}
    for reply in request.replies:
        equal.setdefault(reply.text, []).append(reply)
    for text, replies in equal.items():
        yield from _reply_lines(text, replies, width)


def _reply_lines(text: str | None, replies: Sequence[InspectedReply], width: int) -> Iterator[str]:
    """Yield the lines of equal replies."""
    first = replies[0]
    names = _ranges([reply.index for reply in replies])
    if text is None:
        yield from wrapped(f"{names}: not in the store", width, "  ")
        return
    facts = [count_text(first.generated_tokens, "token"), f"ended by {first.finish_reason}"]
    if not all(reply.stored for reply in replies):
        facts.append("new")
    yield from wrapped(f"{names} ({', '.join(facts)})", width, "  ")
    if first.thoughts:
        yield from wrapped(f"thoughts: {short(first.thoughts, _MAX_VALUE)}", width, "    ")
    yield from _block(text, width)
    value = "malformed" if first.value is None else f"parsed: {short(first.value, _MAX_VALUE)}"
    yield from wrapped(f"-> {value}", width, "  ")


def _ranges(indices: Sequence[int]) -> str:
    """Return indices in words: "replies 0-3, 5"."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    listed = ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in ranges)
    return f"{'reply' if len(indices) == 1 else 'replies'} {listed}"


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return a sentence as lines, indented from the second one on."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    ) or [indent.rstrip()]


def _block(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a text, wrapped and indented, with unprintable characters escaped."""
    if (cut := len(text) - _MAX_SHOWN) > 0:
        text = f"{text[:_MAX_SHOWN]}\n[{cut} more characters]"
    for line in text.split("\n"):
        shown = escaped(line.replace("\t", "    "))
        yield from textwrap.wrap(
            shown,
            width,
            initial_indent="    ",
            subsequent_indent="    ",
            break_on_hyphens=False,
            drop_whitespace=False,
            replace_whitespace=False,
        ) or [""]


def escaped(text: str) -> str:
    """Return a text with characters escaped that are not printable."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def describe(allocation: Any) -> str:
    """Return an allocation in words."""
    return ", ".join(f"{stage}: {m} x {n}" for stage, (m, n) in allocation.items())
