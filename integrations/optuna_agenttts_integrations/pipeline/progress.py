"""Progress bar over the instances of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm.auto import tqdm


class _Finished(Protocol):
    def total(self, name: str) -> float: ...


class ProgressBar:
    """Progress bar that shows finished instances, reuse and spend.

    Args:
        bar: The tqdm bar to update.
        unit: Unit of the spend.
    """

    def __init__(self, bar: tqdm, unit: str) -> None:
        """See the class."""
        self._unit = unit
        self._bar, self._calls, self._generated, self._spend = bar, 0.0, 0.0, 0.0

    def add(self, result: _Finished) -> None:
        """Count a finished instance."""
        self._calls += result.total("calls")
        self._generated += result.total("generated")
        self._spend += result.total("spend")
        reused = 1 - self._generated / max(1.0, self._calls)
        spend = f"spend {self._spend:.3g} {self._unit}"
        self._bar.set_postfix_str(f"{reused:.0%} reused, {spend}", refresh=False)
        self._bar.update()


def is_shown() -> bool:
    """Return whether progress bars are shown by default: on a terminal and in a notebook."""
    # tqdm has found out where it runs.
    notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    return notebook or sys.stderr.isatty()


@contextmanager
def progress_bar(total: int, title: str, *, unit: str, show: bool) -> Iterator[ProgressBar]:
    """Open a progress bar for a number of instances; a hidden one counts silently."""
    with tqdm(total=total, desc=title, disable=not show, leave=False) as bar:
        yield ProgressBar(bar, unit)
