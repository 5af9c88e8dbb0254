"""A stage of a pipeline, and the models that it can use."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optuna_agenttts.exceptions import TaskError

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)
_UNITS = {"b": 1e9, "m": 1e6}


def size_in_name(name: str) -> float | None:
    """The number of parameters that a model's name tells, or None: 7e9 for "Qwen2.5-7B"."""
    found = _SIZE.findall(name.replace("-", " ").replace("_", " ").replace("/", " "))
    return float(found[-1][0]) * _UNITS[found[-1][1].lower()] if found else None


def _check_positive(owner: str, name: str, value: Any) -> None:
    if not (is_finite(value) and value > 0):
        raise TaskError(f"{owner}: `{name}` is {value!r}: give a finite number above 0.")


def is_finite(value: object) -> bool:
    """Whether a value is a finite number, of Python or numpy, and no bool."""
    return (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


@dataclass(frozen=True, slots=True)
class Model:
    """A language model that a stage can use.

    Args:
        name: What the server calls it, such as a model id of the Hugging Face Hub.
        parameters: Number of parameters, as in ``7e9``; `FlopsCost` needs it.
        input_price: USD per million input tokens; `PriceCost` needs it.
        output_price: USD per million output tokens; `PriceCost` needs it.
        prompt_tokens_per_second: Speed of reading a prompt; `LatencyCost` needs it.
        generation_tokens_per_second: Speed of writing one sample; `LatencyCost` needs it.

    Raises:
        TaskError: A number is not finite and above zero (a price may be zero).
    """

    name: str
    parameters: float | None = field(default=None, kw_only=True)
    input_price: float | None = field(default=None, kw_only=True)
    output_price: float | None = field(default=None, kw_only=True)
    prompt_tokens_per_second: float | None = field(default=None, kw_only=True)
    generation_tokens_per_second: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.name, str) or not self.name:
            raise TaskError(f"Model: `name` is {self.name!r}: give a non-empty string.")
        owner = f"Model {self.name!r}"
        for name in ("parameters", "prompt_tokens_per_second", "generation_tokens_per_second"):
            if getattr(self, name) is not None:
                _check_positive(owner, name, getattr(self, name))
                object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("input_price", "output_price"):
            price = getattr(self, name)
            if price is not None and not (is_finite(price) and price >= 0):
                raise TaskError(f"{owner}: `{name}` is {price!r}: give USD per million tokens.")
            if price is not None:
                object.__setattr__(self, name, float(price))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a pipeline (the paper's subtask).

    Args:
        name: Its name, without a dot, because parameters are called ``<stage>.model`` and
            ``<stage>.samples``.
        models: The models to choose from, in any order, at least one.
        prompt_tokens: Mean prompt length of one call, in tokens (Np).
        generation_tokens: Mean length of one sample, in tokens (Nd).
        max_samples: The most samples to consider.
        description: What the stage does, in a sentence, for people and for the agent.
        model_parameter: Name of the parameter that holds the model, for a pipeline that has its
            own names. Default: ``<stage>.model``.
        samples_parameter: Name of the parameter that holds the number of samples. Default:
            ``<stage>.samples``.

    Raises:
        TaskError: A value makes no sense.
    """

    name: str
    models: Sequence[Model] = field(kw_only=True)
    prompt_tokens: float = field(kw_only=True)
    generation_tokens: float = field(kw_only=True)
    max_samples: int = field(default=100, kw_only=True)
    description: str = field(default="", kw_only=True)
    model_parameter: str = field(default="", kw_only=True)
    samples_parameter: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        """Check the values and fill in the names of the parameters."""
        if not isinstance(self.name, str) or not self.name or "." in self.name:
            raise TaskError(
                f"Stage: `name` is {self.name!r}: give a non-empty string without a dot, because "
                "parameters are called '<stage>.model' and '<stage>.samples'."
            )
        owner = f"Stage {self.name!r}"
        models = tuple(self.models) if isinstance(self.models, Iterable) else ()
        if not models or not all(isinstance(model, Model) for model in models):
            raise TaskError(f"{owner}: `models` is {self.models!r}: give one `Model` or more.")
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise TaskError(f"{owner}: `models` names {names!r}: name each model once.")
        _check_positive(owner, "prompt_tokens", self.prompt_tokens)
        _check_positive(owner, "generation_tokens", self.generation_tokens)
        most = self.max_samples
        if not is_finite(most) or most != int(most) or most < 1:
            raise TaskError(f"{owner}: `max_samples` is {self.max_samples!r}: give 1 or more.")
        object.__setattr__(self, "models", models)
        object.__setattr__(self, "prompt_tokens", float(self.prompt_tokens))
        object.__setattr__(self, "generation_tokens", float(self.generation_tokens))
        object.__setattr__(self, "max_samples", int(self.max_samples))
        object.__setattr__(self, "model_parameter", self.model_parameter or f"{self.name}.model")
        object.__setattr__(
            self, "samples_parameter", self.samples_parameter or f"{self.name}.samples"
        )
