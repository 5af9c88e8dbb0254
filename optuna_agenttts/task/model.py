"""Models that stages of a pipeline can use."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.sizes import size_in_name
from optuna_agenttts.task.texts import check_texts
from optuna_agenttts.task.thinking import Thinking

_logger = logging.getLogger(__name__)

_assumed: set[str] = set()
"""Models whose assumed size this process has logged."""


def check_positive(owner: str, name: str, value: Any) -> None:
    """Raise `TaskError` if a value is not finite and above 0."""
    if not (is_finite(value) and value > 0):
        raise TaskError(f"{owner}: `{name}` must be finite and above 0, got {value!r}.")


@dataclass(frozen=True, slots=True, eq=False)
class JsonObject(Mapping[str, Any]):
    """Immutable JSON object.

    Args:
        text: The object as canonical JSON.
    """

    text: str

    def __getitem__(self, name: str) -> Any:
        """Return a copy of the value of a key."""
        return json.loads(self.text)[name]

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the keys."""
        return iter(json.loads(self.text))

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(json.loads(self.text))

    def __hash__(self) -> int:
        """Return a hash that is the same for equal objects."""
        return hash(self.text)

    def __repr__(self) -> str:
        """Return the object as a dict is shown."""
        return repr(dict(self))


_OWN_FIELDS = {"model", "messages", "seed", "stream", "n"}
"""Fields of requests that identify a sample, or decide how a reply is read."""


def _frozen_json(owner: str, extra: Any) -> JsonObject | None:
    """Return a mapping as immutable JSON; None if it is empty."""
    try:
        values = json.loads(json.dumps(dict(extra), allow_nan=False))
        text = json.dumps(values, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TaskError(
            f"{owner}: `extra` must be a dict of values that JSON can hold, got {extra!r}: {error}"
        ) from error
    if taken := _OWN_FIELDS & set(values):
        raise TaskError(f"{owner}: `extra` must not set {', '.join(sorted(taken))}.")
    return JsonObject(text) if values else None


@dataclass(frozen=True, slots=True)
class Model:
    """Language model that a stage can use.

    Args:
        name: Name on the server, such as a model id of the Hugging Face Hub.
        parameters: Number of parameters, as in ``7e9``, of a mixture of experts those that are
            active per token; `FlopsCost` needs it. Default: read from the name ("Qwen2.5-7B",
            "Qwen3-30B-A3B"), if it states the size.
        input_price: USD per million input tokens; `PriceCost` needs it.
        output_price: USD per million output tokens, thoughts included; `PriceCost` needs it.
        cached_price: USD per million input tokens that the server has cached. Default: the
            `input_price`.
        prompt_tokens_per_second: Speed of prompt processing (prefill); `LatencyCost` needs it.
        generation_tokens_per_second: Speed of generating one sample; `LatencyCost` needs it.
        extra: Further fields of each request to the model, such as ``{"reasoning_effort": "low"}``
            or ``{"chat_template_kwargs": {"enable_thinking": False}}``: values that JSON can hold.
        generation_tokens: Mean length of one sample, thoughts included, in tokens, where it
            differs from the stage's. Default: that of the stage, and the expected thoughts.
        thinks: Whether `Stage.thinking` applies to the model. Default: yes.
        thinking: Thinking effort, of a model that is one of several `efforts`.

    Raises:
        TaskError: The name is empty, a number is not finite and above zero (prices may be 0),
            `cached_price` is above `input_price`, `thinks` is no bool, `thinking` is no
            `Thinking`, or `extra` is no JSON object or sets a field that each request has.
    """

    name: str
    parameters: float | None = field(default=None, kw_only=True)
    input_price: float | None = field(default=None, kw_only=True)
    output_price: float | None = field(default=None, kw_only=True)
    cached_price: float | None = field(default=None, kw_only=True)
    prompt_tokens_per_second: float | None = field(default=None, kw_only=True)
    generation_tokens_per_second: float | None = field(default=None, kw_only=True)
    extra: Mapping[str, Any] | None = field(default=None, kw_only=True)
    generation_tokens: float | None = field(default=None, kw_only=True)
    thinks: bool | None = field(default=None, kw_only=True)
    thinking: Thinking | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check the values."""
        check_texts("Model", name=self.name)
        owner = f"Model {self.name!r}"
        if self.parameters is None and (size := size_in_name(self.name)) is not None:
            object.__setattr__(self, "parameters", size)
            if self.name not in _assumed:
                _assumed.add(self.name)
                _logger.info("%s: assuming %g parameters, from the name.", self.name, size)
        for name in (
            "parameters",
            "prompt_tokens_per_second",
            "generation_tokens_per_second",
            "generation_tokens",
        ):
            if (value := getattr(self, name)) is not None:
                check_positive(owner, name, value)
                object.__setattr__(self, name, float(value))
        for name in ("input_price", "output_price", "cached_price"):
            if (price := getattr(self, name)) is None:
                continue
            if not (is_finite(price) and price >= 0):
                raise TaskError(
                    f"{owner}: `{name}` must be finite USD per million tokens, 0 or more, got "
                    f"{price!r}."
                )
            object.__setattr__(self, name, float(price))
        full, cached = self.input_price, self.cached_price
        if full is not None and cached is not None and cached > full:
            raise TaskError(
                f"{owner}: `cached_price` must not be above `input_price`, got {cached:g} and "
                f"{full:g} USD per million tokens."
            )
        if self.thinks not in (None, False, True):
            raise TaskError(f"{owner}: `thinks` must be True, False or None, got {self.thinks!r}.")
        if self.thinking is not None and not isinstance(self.thinking, Thinking):
            raise TaskError(
                f"{owner}: `thinking` must be a `Thinking`, got {self.thinking!r}: call "
                "`efforts(model, low=None)`, or give the stage `thinking=('low',)`."
            )
        if self.extra is not None:
            object.__setattr__(self, "extra", _frozen_json(owner, self.extra))

    @property
    def served_name(self) -> str:
        """Name of the model on its server, which choices of several efforts share."""
        return self.name if self.thinking is None else self.thinking.model
