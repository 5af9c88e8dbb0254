"""Functions that users write for a pipeline: how they are called, and what they may return."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna_agenttts.llm import Message
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.support.plain import one_line
from optuna_agenttts_integrations.pipeline.aggregation import is_count
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import Pipeline, StageProgram, Step

_ARGUMENTS = {
    "prompt": ("state",),
    "parse": ("text", "state"),
    "aggregate": ("samples",),
    "enough": ("aggregate", "samples", "left"),
    "messages": ("messages", "candidates"),
    "fallback": ("samples",),
    "repair": ("state", "text"),
    "run": ("state",),
    "when": ("state",),
    "otherwise": ("state",),
    "score": ("state",),
    "metric": ("state",),
    "answer": ("state",),
}
"""Positional arguments of each kind of function."""

_MEANINGS = {
    "state": "`state` is the `State` of the instance",
    "text": "`text` is a reply",
    "samples": "`samples` are the parsed samples",
    "aggregate": "`aggregate` is that of the stage",
    "left": "`left` is the number of samples that are left",
    "messages": "`messages` are the stage's own prompt",
    "candidates": "`candidates` are the distinct replies",
}

_REMEDIES = {
    "prompt": "Return the text of one user message, or a sequence of `Message`.",
    "messages": "Return a sequence of `Message`, as `fusion_messages` does.",
    "repair": "Return the text of a message that asks for a readable reply.",
    "aggregate": "It must accept any sequence of what `parse` returns, of one sample or more.",
    "fallback": "It must accept any sequence of what `parse` returns, of one sample or more.",
    "enough": "Return the number of further samples, 0 if there are enough.",
    "parse": "It must accept any text: return None for replies that cannot be read.",
    "score": "Return a finite number.",
    "metric": "Return a finite number.",
}

_SHOWN = 80
"""Maximum length of a value in a message, in characters. Chosen by hand."""

SHOWN_ERROR = 300
"""Maximum length of an exception in a message, in characters. Chosen by hand."""

AWAITED = frozenset({"score", "metric", "run", "answer"})
"""Kinds of functions that may be coroutine functions."""


class FunctionError(Exception):
    """A user's function raised, or returned a value that cannot be used.

    Args:
        function: The function.
        problem: What happened, as the end of a sentence that begins with the function.
    """

    def __init__(self, function: UserFunction, problem: str) -> None:
        super().__init__(f"{function.label} {problem}")
        self.function = function


@dataclass(frozen=True, slots=True)
class UserFunction:
    """Function of a pipeline.

    Args:
        stage: Name of its stage; "pipeline" for score, metrics and answer.
        kind: What it does: a key of `_ARGUMENTS`.
        function: The function.
        metric: Name of the metric, if it is one.
    """

    stage: str
    kind: str
    function: Any
    metric: str = ""

    @property
    def title(self) -> str:
        """The argument that it was passed as."""
        return f"metric {self.metric!r}" if self.metric else self.kind

    @property
    def label(self) -> str:
        """The argument that it was passed as, and its own name."""
        return f"`{self.title}` ({function_name(self.function)})"

    @property
    def remedy(self) -> str:
        """Advice for a function that raised or returned a value that cannot be used."""
        return _REMEDIES.get(self.kind, f"Correct {function_name(self.function)}.")

    @property
    def call_remedy(self) -> str:
        """Advice for a function that cannot be called with its arguments."""
        arguments = _ARGUMENTS[self.kind]
        meanings = ", ".join(_MEANINGS[name] for name in arguments)
        asynchronous = "" if self.kind in AWAITED else "plain "
        return f"Pass a {asynchronous}function of ({', '.join(arguments)}): {meanings}."

    def call_problem(self) -> str | None:
        """Return why the function cannot be called with its arguments; None if it can."""
        if not callable(self.function):
            return f"`{self.title}` is {short(self.function)}, which cannot be called"
        if self.kind not in AWAITED and inspect.iscoroutinefunction(self.function):
            return f"{self.label} is a coroutine function, which is not awaited here"
        arguments = _ARGUMENTS[self.kind]
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):
            # Some functions written in C have no signature.
            return None
        try:
            signature.bind(*arguments)
        except TypeError as error:
            called = f"{self.kind}({', '.join(arguments)})"
            return (
                f"{self.label} has the parameters {signature}, but is called as {called}: {error}"
            )
        return None

    def call(self, *arguments: Any) -> Any:
        """Call a function that is not awaited.

        Raises:
            FunctionError: It raised, or returned a value that cannot be used.
        """
        try:
            value = self.function(*arguments)
        # `sys.exit`, too, for example in a function that runs generated code.
        except (Exception, SystemExit) as error:
            raise self.error(error) from error
        if problem := self.value_problem(value):
            raise FunctionError(self, problem)
        return value

    def error(self, error: BaseException) -> FunctionError:
        """Return the error of a call that raised an exception."""
        # Messages of exceptions may hold the key of a server.
        return FunctionError(self, redact(f"raised {short(error, SHOWN_ERROR)}", ()))

    def value_problem(self, value: Any, limits: tuple[float, float] | None = None) -> str | None:
        """Return why a returned value cannot be used; None if it can.

        Args:
            value: The value.
            limits: Range of the score, if it is declared.
        """
        returned = f"returned {short(value)}"
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            return f"{returned}, which is not awaited here"
        if self.kind in ("prompt", "messages"):
            return _prompt_problem(value, returned, text_allowed=self.kind == "prompt")
        if self.kind == "repair" and not isinstance(value, str):
            return f"{returned}, which is not text"
        if self.kind == "enough" and not is_count(value):
            return f"{returned}, which is not a number of samples"
        if self.kind in ("score", "metric"):
            return _score_problem(value, returned, limits if self.kind == "score" else None)
        return None


def _prompt_problem(value: Any, returned: str, *, text_allowed: bool) -> str | None:
    if text_allowed and isinstance(value, str):
        return None if value.strip() else f"{returned}, which is empty"
    what = "neither text nor messages" if text_allowed else "not a sequence of messages"
    if not isinstance(value, Sequence) or not all(isinstance(item, Message) for item in value):
        return f"{returned}, which is {what}"
    if not all(isinstance(item.content, str) for item in value):
        return f"{returned}, with content that is not text"
    return None if any(item.content.strip() for item in value) else f"{returned}, which is empty"


def _score_problem(value: Any, returned: str, limits: tuple[float, float] | None) -> str | None:
    try:
        # `float` also reads texts.
        number = None if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        return f"{returned}, which is not a number"
    if not math.isfinite(number):
        return f"{returned}, which is not finite"
    if limits is not None and not limits[0] <= number <= limits[1]:
        return f"{returned}, outside of the task's `metric_range` {limits[0]:g} to {limits[1]:g}"
    return None


def stage_functions(stage: StageProgram | Step) -> Iterator[UserFunction]:
    """Yield the functions of a stage, those of its fusion included."""
    kinds = ("when", "prompt", "parse", "aggregate", "enough", "repair", "otherwise")
    for kind in kinds if isinstance(stage, StageProgram) else ("when", "run", "otherwise"):
        function = getattr(stage, kind)
        if isinstance(function, LLMFusion):
            yield UserFunction(stage.name, "messages", function.messages)
            yield UserFunction(stage.name, "fallback", function.fallback)
        elif kind not in ("enough", "repair") or function is not None:
            yield UserFunction(stage.name, kind, function)


def pipeline_functions(pipeline: Pipeline) -> Iterator[UserFunction]:
    """Yield all functions of a pipeline."""
    for stage in pipeline.stages:
        yield from stage_functions(stage)
    yield from score_functions(pipeline)
    if pipeline.answer is not None:
        yield UserFunction("pipeline", "answer", pipeline.answer)


def score_functions(pipeline: Pipeline) -> Iterator[UserFunction]:
    """Yield the score and the metrics of a pipeline."""
    yield UserFunction("pipeline", "score", pipeline.score)
    for name, function in pipeline.metrics.items():
        yield UserFunction("pipeline", "metric", function, name)


def function_name(function: Any) -> str:
    """Return the name of a function; of a lambda, also where it is."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    name = str(name).rpartition("<locals>.")[2]
    code = getattr(function, "__code__", None)
    if name == "<lambda>" and code is not None:
        return f"lambda in {os.path.basename(code.co_filename)}, line {code.co_firstlineno}"
    return name


def short(value: Any, length: int = _SHOWN) -> str:
    """Return a value on one line, with special characters escaped."""
    try:
        shown = repr(value)
    # A user's class may raise anything.
    except Exception:
        shown = f"<{type(value).__qualname__}>"
    return one_line(shown, length)
