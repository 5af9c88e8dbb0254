"""Parsing of values in a model's reply: bounded, and repaired where the meaning is unambiguous."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna_agenttts.llm.untrusted import as_number, json_in_reply
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.efforts import efforts_by_model
from optuna_agenttts.task.model import Model

_SETTING = re.compile(r"(.+?)\s*[x×*]\s*(\d+|max\w*)")
"""Model and samples on a line, as in the tables of prompts."""
_INTEGER = re.compile(r"[+-]?\d{1,9}(?:\.0+)?")


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem that makes a reply, or a part of it, unusable.

    Args:
        kind: Fixed label for counting, such as ``"no JSON"`` or ``"unknown model"``.
        text: Description of this case, sent back to the model.
    """

    kind: str
    text: str


def read_object(text: str) -> tuple[Mapping[str, Any], Problem | None]:
    """Return the JSON object in a reply, or an empty one and the problem."""
    values = json_in_reply(text, "candidates")
    if values is None:
        listed = json_in_reply(text, "candidates", lists=True)
        if not isinstance(listed, list) or not any(isinstance(x, Mapping) for x in listed):
            return {}, Problem("no JSON", "the reply holds no JSON object")
        values = {"candidates": listed}
    if "candidates" not in values:
        # Such as {"answer": {"candidates": [...]}}.
        inner = (v for v in values.values() if isinstance(v, Mapping) and "candidates" in v)
        values = next(inner, values)
    return values, None


def abbreviate(value: Any) -> str:
    """Return a value as JSON of at most 80 characters, for the text of a problem."""
    try:
        return one_line(json.dumps(value, ensure_ascii=False, default=str), 80)
    except (ValueError, RecursionError):
        return "a value that cannot be shown"


def match_model(name: Any, names: Sequence[str]) -> int | None:
    """Return the position of a model name; None if it is unknown or ambiguous."""
    if not isinstance(name, str):
        return None
    if name in names:
        return names.index(name)
    plain = name.strip().casefold()
    alike = [i for i, known in enumerate(names) if known.casefold() == plain]
    # LLMs often omit the organization: "Llama-3B" for "meta/Llama-3B".
    alike = alike or [
        i for i, known in enumerate(names) if known.casefold().rpartition("/")[2] == plain
    ]
    return alike[0] if len(alike) == 1 else None


_EFFORT_FIELDS = (
    "thinking",
    "effort",
    "thinking_effort",
    "reasoning_effort",
    "thinking_tokens",
    "thinking_budget",
)
"""Fields in which a reply may name a thinking effort beside the model."""
_FILLERS = frozenset(("thinking", "reasoning", "effort", "tokens", "budget", "with"))
"""Words of a thinking effort that do not tell it from others."""


_NAME_AND_EFFORT = re.compile(r"(\S+?)[\s,:;@|]*[\s,:;@|(\[](.+)")
"""Name of a model, and its thinking effort."""


def given_effort(setting: Mapping[str, Any]) -> Any:
    """Return the thinking effort that a reply names beside a model; None without one."""
    given = (setting[field] for field in _EFFORT_FIELDS if setting.get(field) is not None)
    return next(given, None)


def match_choices(setting: Mapping[str, Any], models: Sequence[Model]) -> list[int]:
    """Return the positions of the choices that a model and a thinking effort in a reply mean.

    Args:
        setting: The reply's values: ``"model"``, a choice such as "m, low thinking", or the name
            of a model beside a field ``"thinking"``, or followed by the effort in other words.
        models: The choices.

    Returns:
        One position; all efforts of the model if it is named without one; none if the model or
        the effort is unknown, or two efforts are named.
    """
    name, effort = setting.get("model"), given_effort(setting)
    exact = match_model(name, [model.name for model in models])
    kin = efforts_by_model(models)
    base = match_model(name, list(kin))
    if exact is not None and (effort is None or base is None):
        plain = models[exact].thinking is None
        return [exact] if plain else _with_effort([exact], effort, models)
    if base is not None:
        return _with_effort(list(kin.values())[base], effort, models)
    if effort is None and isinstance(name, str):
        # Such as "Qwen3-8B (low)".
        parts = _NAME_AND_EFFORT.fullmatch(name.strip())
        if parts is not None and (base := match_model(parts[1], list(kin))) is not None:
            return _with_effort(list(kin.values())[base], parts[2], models)
    return []


def match_named(
    setting: Mapping[str, Any], models: Sequence[Model], names: Mapping[str, str]
) -> list[int]:
    """Return what `match_choices` does, also for short names of models, as prompts have them.

    Args:
        setting: The reply's values.
        models: The choices.
        names: Names of models by their short names; see `short_names.full_names`.
    """
    found, name = match_choices(setting, models), setting.get("model")
    if found or not isinstance(name, str):
        return found
    plain = name.strip().casefold()
    if plain in names:
        return match_choices({**setting, "model": names[plain]}, models)
    parts = _NAME_AND_EFFORT.fullmatch(plain)
    if parts is None or parts[1] not in names or given_effort(setting) is not None:
        return []
    return match_choices({"model": names[parts[1]], "thinking": parts[2]}, models)


def read_allocation(item: Mapping[str, Any], stages: Sequence[str]) -> Any:
    """Return the allocation of a candidate as settings by stage.

    Other forms are converted where their meaning is clear: without ``"allocation"`` around it, as
    a list in the order of the stages, on a line as in the tables of prompts, names of stages in
    other case, and further fields beside the stages. What is none of these is returned as it is.

    Args:
        item: The candidate.
        stages: Names of the stages.
    """
    given = item.get("allocation", item)
    if isinstance(given, str):
        given = given.split(",")
    if isinstance(given, list) and len(given) == len(stages):
        keys = [part.get("stage") if isinstance(part, Mapping) else None for part in given]
        given = dict(zip(stages if None in keys else map(str, keys), given))
    if not isinstance(given, Mapping):
        return given
    found = {}
    for name, setting in given.items():
        position = match_model(name, stages)
        if position is not None:
            found[stages[position]] = _setting(setting)
        elif isinstance(setting, Mapping):
            found[name] = setting
    return found


def _setting(given: Any) -> Any:
    """Return the setting of a stage, also from "7B x 4" or a pair of model and samples."""
    parts = _SETTING.fullmatch(given.strip()) if isinstance(given, str) else None
    pair = parts.groups() if parts else given
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str):
        return {"model": pair[0].strip('"'), "samples": pair[1]}
    return given


def _with_effort(positions: list[int], effort: Any, models: Sequence[Model]) -> list[int]:
    """Return those of some choices that are at an effort; all without an effort."""
    if effort is None:
        return positions
    thinking = [(place, models[place].thinking) for place in positions]
    return [p for p, t in thinking if t is not None and _key(t.effort) == _key(effort)]


def _key(effort: Any) -> str:
    """Return a thinking effort so that different ways to write it are equal."""
    if isinstance(effort, bool):
        return "on" if effort else "off"
    if isinstance(effort, float) and effort.is_integer():
        effort = int(effort)
    words = re.findall(r"[a-z]+|\d+", str(effort).replace(",", "").casefold())
    if words and all(word in _FILLERS for word in words):
        return "on"
    key = " ".join(word for word in words if word not in _FILLERS)
    return "off" if key in ("no", "none", "off", "0", "without", "disabled") else key


def read_integer(value: Any) -> int | None:
    """Return an integer, also for ``4.0`` or ``"4"``; None for any other value."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        # Far above any number of samples; chosen by hand.
        return value if abs(value) < 10**9 else None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(float(value))
    return None


def read_float(value: Any) -> float | None:
    """Return a finite number, also for a string that holds one; None for any other value."""
    try:
        return as_number(float(value) if isinstance(value, str) else value, least=-math.inf)
    except ValueError:
        return None


def is_most(value: Any) -> bool:
    """Return whether a value asks for as many samples as possible."""
    return isinstance(value, str) and value.strip().casefold() in ("max", "maximum")
