"""Results of pre-flight checks, and the table that shows them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from optuna_agenttts.exceptions import CheckError
from optuna_agenttts.support import html

Level = Literal["ok", "warning", "error"]

_LABELS: Mapping[Level, str] = {"ok": "ok", "warning": "WARN", "error": "FAIL"}
_STYLES: Mapping[Level, str] = {"ok": "", "warning": "color:#E69F00", "error": "color:#D55E00"}
"""Two colours that colour-blind people tell apart (Okabe, Ito); the labels differ, too."""
_TITLES, _NOTHING = ("subject", "check", "level", "message"), "Nothing was checked."
_TABLE_WIDTH, _LEAST_WIDTH, _GAP = 99, 72, "  "
"""Width of the table and its minimum, in columns of a terminal (chosen by hand), and the separator
of its columns."""
_MAX_SUBJECT_WIDTH, _MAX_CHECK_WIDTH, _LEVEL_WIDTH = 28, 18, 5
"""Maximum widths of the first two columns (chosen by hand); width of the title "level"."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Args:
        subject: The model or endpoint.
        check: Name of the check, in one or two words.
        level: ``"error"`` if a search would fail, ``"warning"`` if it might, else ``"ok"``.
        message: What was found.
        remedy: What to do about it.
    """

    subject: str
    check: str
    level: Level
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Results of several checks; as a string, a table for a terminal of 100 columns.

    Args:
        findings: The results, in order.
    """

    findings: tuple[Finding, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings of level ``"error"``."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def ok(self) -> bool:
        """True if there are no errors."""
        return not self.errors

    def __add__(self, other: Report) -> Report:
        """Concatenate the findings."""
        return Report(self.findings + other.findings)

    @classmethod
    def joined(cls, reports: Iterable[Report]) -> Report:
        """Concatenate the findings of several reports.

        Args:
            reports: The reports, in order.
        """
        return cls(tuple(finding for report in reports for finding in report.findings))

    def raise_for_errors(self) -> None:
        """Raise an exception if there are errors.

        Raises:
            CheckError: There are errors; the message contains the table.
        """
        if not self.ok:
            count = len(self.errors)
            raise CheckError(f"{count} check{'s' if count > 1 else ''} failed.\n\n{self}")

    def __str__(self) -> str:
        """Format the table."""
        return self.table()

    def _repr_html_(self) -> str:
        """Show what is wrong in a notebook, and what is right on a click."""
        if not self.findings:
            return html.paragraph(_NOTHING)
        rows: dict[bool, list[tuple[object, ...]]] = {True: [], False: []}
        for finding in self.findings:
            label = html.element("b", _LABELS[finding.level], style=_STYLES[finding.level])
            remedy = [html.BREAK, html.element("i", finding.remedy)] if finding.remedy else []
            message = html.join([finding.message, *remedy])
            row = finding.subject, finding.check, label, message
            rows[finding.level == "ok"].append(row)
        bad = html.table(_TITLES, rows[False]) if rows[False] else ""
        title = f"{len(rows[True])} of {len(self.findings)} checks passed"
        return html.join([bad, html.details(title, html.table(_TITLES, rows[True]))])

    def table(self, width: int = _TABLE_WIDTH) -> str:
        """Format the table for a terminal of some columns.

        Args:
            width: Maximum length of its lines, in characters. Below 72, lines have 72.
        """
        width = max(width, _LEAST_WIDTH)
        if not self.findings:
            return _NOTHING
        subjects = max(len("subject"), *(len(finding.subject) for finding in self.findings))
        checks = max(len("check"), *(len(finding.check) for finding in self.findings))
        first, second = min(_MAX_SUBJECT_WIDTH, subjects), min(_MAX_CHECK_WIDTH, checks)
        message = width - first - second - _LEVEL_WIDTH - 3 * len(_GAP)
        widths = (first, second, _LEVEL_WIDTH, message)
        lines = _row(_TITLES, widths)
        lines.append(_GAP.join("-" * width for width in widths))
        previous = None
        for finding in self.findings:
            shown = finding.subject if finding.subject != previous else ""
            previous = finding.subject
            lines += _row((shown, finding.check, _LABELS[finding.level], finding.message), widths)
            lines += textwrap.wrap(
                finding.remedy,
                width,
                initial_indent="    > ",
                subsequent_indent="      ",
                break_on_hyphens=False,
            )
        return "\n".join(lines)


def _row(cells: tuple[str, ...], widths: tuple[int, ...]) -> list[str]:
    """Format one row of the table, on as many lines as its longest cell needs."""
    wrapped = [textwrap.wrap(c, w, break_on_hyphens=False) for c, w in zip(cells, widths)]
    return [
        _GAP.join(part.ljust(width) for part, width in zip(parts, widths)).rstrip()
        for parts in zip_longest(*wrapped, fillvalue="")
    ]
