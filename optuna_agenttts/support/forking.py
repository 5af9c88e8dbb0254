"""Reset of objects in forked processes, which inherit locks and event loops but no threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

_T = TypeVar("_T")

_Hook = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class _Hooks:
    reset: _Hook
    before: _Hook | None
    after: _Hook | None


_hooks: WeakKeyDictionary[Any, _Hooks] = WeakKeyDictionary()

_fork = threading.RLock()
"""Held while a process forks, when no other thread may fork or add owners; resets may add some."""

_forking: list[tuple[Any, _Hooks]] = []
"""Owners whose hooks run in the current fork, kept alive until its end."""

_inherited: list[object] = []
"""Objects of the parent process that must not be finalized in this one."""


def on_fork(
    owner: object, reset: _Hook, *, before: _Hook | None = None, after: _Hook | None = None
) -> None:
    """Reset an object in each process that is forked while it exists.

    Args:
        owner: An object that can be weakly referenced; no reference to it is kept. It is the
            argument of the hooks, which must be functions and not its bound methods.
        reset: Hook for the new process: replaces locks, event loops and connections. It must not
            wait for a lock, since the thread that holds it does not exist in the new process.
        before: Hook for the old process, before the fork.
        after: Hook for the old process, after the fork.
    """
    with _fork:
        _hooks[owner] = _Hooks(reset, before, after)


def keep_inherited(inherited: object) -> None:
    """Keep an object of the parent process alive, so that it is not closed in this process."""
    _inherited.append(inherited)


class unlocked_cached_property(Generic[_T]):
    """Property that is computed once per object, at the cost of doing so twice in a race.

    Before Python 3.12, `functools.cached_property` holds a lock of its class while it computes,
    and a process that is forked at that time would wait for it forever.

    Args:
        function: Function that computes the value.
    """

    def __init__(self, function: Callable[[Any], _T]) -> None:
        """See the class."""
        self._function, self.__doc__ = function, function.__doc__

    def __get__(self, owner: Any, kind: type) -> _T:
        """Compute the value and keep it under the property's name, which has precedence."""
        value = owner.__dict__[self._function.__name__] = self._function(owner)
        return value


def _before() -> None:
    _fork.acquire()
    _forking.extend(_hooks.items())
    for owner, hooks in _forking:
        if hooks.before is not None:
            hooks.before(owner)


def _after_in_parent() -> None:
    for owner, hooks in _forking:
        if hooks.after is not None:
            hooks.after(owner)
    _forking.clear()
    _fork.release()


def _after_in_child() -> None:
    for owner, hooks in _forking:
        hooks.reset(owner)
    _forking.clear()
    _fork.release()


# Windows cannot fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
