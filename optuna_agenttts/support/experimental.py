"""Mark parts of the public API as experimental.

Optuna's own decorators (`optuna._experimental`) are private, and their note points to Optuna's
releases. These emit the same public warning, `optuna.exceptions.ExperimentalWarning`, so that
one filter silences the experimental features of both packages.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from optuna.exceptions import ExperimentalWarning

_C = TypeVar("_C")
_P = ParamSpec("_P")
_R = TypeVar("_R")

_NOTE = """

.. note::
    Added in v{version} as an experimental feature. The interface may change in newer versions
    without prior notice.
"""


class _Once:
    """Warning about one feature, issued at its first use in a process.

    Workers construct hundreds of samplers and objectives, and Python's default filter repeats a
    warning for every line that it is attributed to.
    """

    def __init__(self, feature: str, version: str) -> None:
        self._message = (
            f"{feature} is experimental (supported from v{version}). "
            "The interface can change in the future."
        )
        self._warned = False

    def __call__(self) -> None:
        if not self._warned:
            self._warned = True
            # 1 is this line, 2 the wrapper, 3 the caller's.
            warnings.warn(self._message, ExperimentalWarning, stacklevel=3)


def _with_note(doc: str | None, version: str) -> str:
    return inspect.cleandoc(doc or "") + _NOTE.format(version=version)


def experimental_class(version: str) -> Callable[[type[_C]], type[_C]]:
    """Mark a class as experimental.

    Args:
        version: The first version that has it, such as ``"0.1.0"``.

    Returns:
        A decorator that adds a note to the docstring and warns when the first instance is
        constructed. The class stays the same object: `isinstance`, subclasses and pickles work.
    """

    def decorate(cls: type[_C]) -> type[_C]:
        warn = _Once(cls.__qualname__, version)
        construct: Callable[..., None] = cls.__init__

        @functools.wraps(construct)
        def __init__(self: _C, *args: Any, **kwargs: Any) -> None:
            warn()
            construct(self, *args, **kwargs)

        setattr(cls, "__init__", __init__)  # noqa: B010 - mypy forbids the plain assignment
        cls.__doc__ = _with_note(cls.__doc__, version)
        return cls

    return decorate


def experimental_function(version: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Mark a function as experimental.

    Args:
        version: The first version that has it, such as ``"0.1.0"``.

    Returns:
        A decorator that adds a note to the docstring and warns at the first call.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        warn = _Once(function.__qualname__, version)

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            warn()
            return function(*args, **kwargs)

        call.__doc__ = _with_note(function.__doc__, version)
        return call

    return decorate


def warn_experimental_argument(name: str) -> None:
    """Warn that an argument is experimental.

    Call it at each use of the argument: Python's default filter suppresses repeats.
    """
    warnings.warn(
        f"Argument `{name}` is experimental. The interface can change in the future.",
        ExperimentalWarning,
        stacklevel=3,
    )
