"""What checks found, as values and as a table for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from optuna_agenttts.exceptions import CheckError

Level = Literal["ok", "warning", "error"]

_WORDS: Mapping[Level, str] = {"ok": "ok", "warning": "WARN", "error": "FAIL"}
_WIDTH, _GAP = 99, "  "
_SUBJECT, _CHECK, _LEVEL = 28, 18, 5
"""The most columns for what a finding is about and for the check; those of the level."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        subject: The model or endpoint.
        check: What was checked, in a word or two.
        level: ``"error"`` for what would make a search fail, ``"warning"`` for what may.
        says: What was found.
        remedy: What to do about it.
    """

    subject: str
    check: str
    level: Level
    says: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What checks found; as a string, a table for a terminal of 100 columns."""

    findings: tuple[Finding, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What would make a search fail."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def __add__(self, other: Report) -> Report:
        """The findings of both."""
        return Report(self.findings + other.findings)

    @classmethod
    def joined(cls, reports: Iterable[Report]) -> Report:
        """The findings of all."""
        return cls(tuple(finding for report in reports for finding in report.findings))

    def raise_for_errors(self) -> None:
        """Pass if there is no error.

        Raises:
            CheckError: There is; the message holds the table.
        """
        if not self.ok:
            count = len(self.errors)
            raise CheckError(f"{count} check{'s' if count > 1 else ''} failed.\n\n{self}")

    def __str__(self) -> str:
        """The table."""
        if not self.findings:
            return "Nothing was checked."
        subjects = max(len("subject"), *(len(finding.subject) for finding in self.findings))
        checks = max(len("check"), *(len(finding.check) for finding in self.findings))
        first, second = min(_SUBJECT, subjects), min(_CHECK, checks)
        widths = (first, second, _LEVEL, _WIDTH - first - second - _LEVEL - 3 * len(_GAP))
        lines = _row(("subject", "check", "level", "what"), widths)
        lines.append(_GAP.join("-" * width for width in widths))
        above = None
        for finding in self.findings:
            shown = finding.subject if finding.subject != above else ""
            above = finding.subject
            lines += _row((shown, finding.check, _WORDS[finding.level], finding.says), widths)
            lines += textwrap.wrap(
                finding.remedy,
                _WIDTH,
                initial_indent="    > ",
                subsequent_indent="      ",
                break_on_hyphens=False,
            )
        return "\n".join(lines)


def _row(cells: tuple[str, ...], widths: tuple[int, ...]) -> list[str]:
    """One row of a table, on as many lines as its longest cell needs."""
    wrapped = [textwrap.wrap(c, w, break_on_hyphens=False) for c, w in zip(cells, widths)]
    return [
        _GAP.join(part.ljust(width) for part, width in zip(parts, widths)).rstrip()
        for parts in zip_longest(*wrapped, fillvalue="")
    ]
