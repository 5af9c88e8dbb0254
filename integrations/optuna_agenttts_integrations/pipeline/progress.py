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


_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
"""True in a notebook, as tqdm has found out."""
_idle: dict[int, list[tqdm]] = {}
"""Bars of a notebook's cell, by its number, that no run is using. Each closed bar would leave an
empty output behind, one for each trial."""


def is_shown() -> bool:
    """Return whether progress bars are shown by default: on a terminal and in a notebook."""
    return _NOTEBOOK or sys.stderr.isatty()


@contextmanager
def progress_bar(total: int, title: str, *, unit: str, show: bool) -> Iterator[ProgressBar]:
    """Open a progress bar for a number of instances; a hidden one counts silently."""
    idle = _idle_bars() if show and _NOTEBOOK else None
    try:
        # Trials may run in several threads.
        bar = (idle or []).pop()
        bar.reset(total)
        bar.set_description(title)
    except IndexError:
        bar = tqdm(total=total, desc=title, disable=not show, leave=False)
    try:
        yield ProgressBar(bar, unit)
    finally:
        if idle is None:
            bar.close()
        else:
            bar.refresh()
            idle.append(bar)


def _idle_bars() -> list[tqdm]:
    """Return the idle bars of the cell that is running, and close those of earlier ones."""
    cell = sys.modules["IPython"].get_ipython().execution_count
    for other in {*_idle} - {cell}:
        for bar in _idle.pop(other, ()):
            bar.close()
    return _idle.setdefault(cell, [])
