"""Objects whose locks, caches and connections are not pickled."""

from __future__ import annotations

from typing import Any, ClassVar


class Resetting:
    """Base class of objects that another process starts with new locks and caches."""

    _unpickled: ClassVar[tuple[str, ...]]
    """Attributes that are left out of pickles; `_reset` creates all of them."""

    def _reset(self) -> None:
        """Create the attributes that are not pickled."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the attributes of `_unpickled`."""
        return {k: v for k, v in self.__dict__.items() if k not in self._unpickled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, with new locks and caches."""
        self.__dict__.update(state)
        self._reset()
