"""Time that explaining may take, and the trials after which it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARE = 0.01
"""Share of the time of a search that explaining may take. What takes longer than expected is not
interrupted, and 2 % must not be exceeded."""
_EVERY = 5
"""Trials between notes. Chosen by hand."""
START = 2.5
"""Seconds that explaining may take beyond its share. Measured on the quickstart, a note takes
.35 s (the first one .6 s) and all figures 1.2 s. Twenty trials of less than a second then have
notes after 1, 5, 10 and 20 trials and most figures for 2.6 s; twenty of ten seconds have all for
2 % of their time. With 2 s, the latter had figures one by one; with 3 s, these took 2.3 % where
everything takes twice as long."""
_EXPECTED = 0.3
"""Seconds that the note or a figure is expected to take before it has been written once: measured
with 40 trials of two stages. A trial's note takes milliseconds."""


def has_note(count: int) -> bool:
    """Return whether the note is written after this number of trials."""
    return count == 1 or count % _EVERY == 0


def has_figures(count: int) -> bool:
    """Return whether figures are made after this number of trials: 10, 20, 50, 100, 200, ..."""
    while count > 50 and count % 10 == 0:
        count //= 10
    return count in (10, 20, 50)


class Pace:
    """Time that explaining a study may take in this process.

    Args:
        clock: Monotonic clock, in seconds.
        share: Share of the time since the first trial of this process.
    """

    def __init__(self, clock: Callable[[], float], share: float) -> None:
        """See the class."""
        # Importing it takes .1 s, once for each process, which is not counted.
        import optuna_dashboard  # noqa: F401

        self._clock, self._share = clock, share
        self._start, self._spent = clock(), 0.0
        self._since: float | None = None
        self._expected = {"trial": 0.0}
        self.figures: tuple[str, ...] = ()
        """Names of the figures that are to be made as soon as there is time."""

    def allows(self, part: str, spare: int = 0) -> bool:
        """Return whether there is time for a part and then `spare` notes, by their last times."""
        now = self._clock()
        allowed = START + self._share * (now - self._start)
        running = 0.0 if self._since is None else now - self._since
        ahead = self._expected.get(part, _EXPECTED) + spare * self._expected.get("note", _EXPECTED)
        return self._spent + running + ahead <= allowed

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Count the time that a part takes."""
        self._since = start = self._clock()
        try:
            yield
        finally:
            self._since = None
            self._expected[part] = self._clock() - start
            self._spent += self._expected[part]
