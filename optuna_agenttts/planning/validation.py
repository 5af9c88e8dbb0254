"""From what a model replied to candidates, or to what is wrong with it.

A reply is data: read, checked, bounded, never executed. What can be mended without guessing what
was meant is mended: fences, trailing commas and truncation (by json-repair), a name in another
case, samples that are a little over the budget.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import json_repair
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_agenttts.llm.secrets import one_line
from optuna_agenttts.planning import Choices
from optuna_agenttts.task import Task

_LONGEST = 60_000
"""Characters of a reply that are read: some ten times what an honest one needs."""
_BRACKETS = 1000
"""Opening brackets in a reply that is mended: 50,000 of them take json-repair three seconds."""
_GUIDELINES, _GUIDELINE, _REASON = 8, 400, 300
_CANDIDATES = 32
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,9}(?:\.0+)?")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate that can be used: an allocation, or parameters of an arbitrary space."""

    reason: str
    choices: Choices = ()
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be used.

    Args:
        kind: What it is in fixed words, to be counted: ``"no JSON"``, ``"unknown model"``.
        text: What it is in this case, to be sent back.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, read and checked."""

    guidelines: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_plan(text: str, task: Task, taken: Collection[Choices]) -> Reply:
    """Read a reply about a task.

    Args:
        text: The reply.
        task: The task.
        taken: Allocations that were tried, are running, or have been proposed already.
    """
    values, problem = _decode(text)
    if problem is not None:
        return Reply(problems=(problem,))
    proposals: list[Proposal] = []
    problems: list[Problem] = []
    seen = set(taken)
    for position, item in enumerate(_candidates(values, "allocation", problems), start=1):
        label = f"candidate {position}"
        found = _choices(item.get("allocation"), task, label)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        fitted = _fitted(found, task, label)
        if isinstance(fitted, Problem):
            problems.append(fitted)
        elif fitted in seen:
            reduced = (
                " after its samples were reduced to fit the budget" if fitted != found else ""
            )
            problems.append(
                Problem("duplicate", f"{label} was tried or proposed already{reduced}")
            )
        else:
            seen.add(fitted)
            proposals.append(Proposal(_reason(item), choices=fitted))
    return Reply(_guidelines(values), tuple(proposals), tuple(problems))


def read_params(
    text: str,
    space: Mapping[str, BaseDistribution],
    optional: Collection[str],
    taken: Sequence[Mapping[str, Any]],
) -> Reply:
    """Read a reply about an arbitrary search space.

    Args:
        text: The reply.
        space: Distributions by parameter.
        optional: Parameters that a candidate may leave out.
        taken: Parameters that were tried, or are running.
    """
    values, problem = _decode(text)
    if problem is not None:
        return Reply(problems=(problem,))
    proposals: list[Proposal] = []
    problems: list[Problem] = []
    known = [dict(params) for params in taken]
    for position, item in enumerate(_candidates(values, "params", problems), start=1):
        label = f"candidate {position}"
        raw = item.get("params")
        if not isinstance(raw, Mapping):
            problems.append(Problem("wrong type", f"{label}: `params` is no object"))
            continue
        params: dict[str, Any] = {}
        wrong = None
        for name in raw:
            if name not in space:
                wrong = Problem("unknown parameter", f"{label}: no parameter {_short(name)}")
        for name, distribution in space.items():
            if name not in raw:
                if name not in optional:
                    wrong = Problem("missing parameter", f"{label} lacks {_short(name)}")
                continue
            value = _value(raw[name], distribution, f"{label}: {_short(name)}")
            if isinstance(value, Problem):
                wrong = value
            else:
                params[name] = value
        if wrong is not None:
            problems.append(wrong)
        elif params in known:
            problems.append(Problem("duplicate", f"{label} was tried or proposed already"))
        else:
            known.append(params)
            proposals.append(Proposal(_reason(item), params=params))
    return Reply(_guidelines(values), tuple(proposals), tuple(problems))


def _decode(text: str) -> tuple[Mapping[str, Any], Problem | None]:
    """The JSON object in a text, or why there is none."""
    text = _THOUGHTS.sub("", text[-_LONGEST:] if "</think>" in text else text[:_LONGEST]).strip()
    values: Any = None
    start, end = text.find("{"), text.rfind("}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        if start < 0:
            return {}, Problem("no JSON", "the reply holds no JSON object")
        try:
            values = json.loads(text[start : end + 1])
        except (ValueError, RecursionError):
            if text.count("{") + text.count("[") > _BRACKETS:
                return {}, Problem("no JSON", "the reply is no JSON, and too deep to be mended")
            try:
                values = json_repair.loads(text[start:])
            # A library that reads arbitrary text may fail in any way.
            except Exception as error:
                return {}, Problem("no JSON", f"the reply is no JSON ({type(error).__name__})")
    if isinstance(values, list):
        # Several objects: the answer is the last that looks like one.
        objects = [v for v in values if isinstance(v, Mapping) and "candidates" in v]
        values = objects[-1] if objects else None
    if not isinstance(values, Mapping):
        return {}, Problem("no JSON", "the reply is no JSON object")
    return values, None


def _candidates(
    values: Mapping[str, Any], name: str, problems: list[Problem]
) -> list[Mapping[str, Any]]:
    items = values.get("candidates")
    if not isinstance(items, list) or not items:
        problems.append(Problem("no candidates", "the reply has no list `candidates`"))
        return []
    good = [item for item in items[:_CANDIDATES] if isinstance(item, Mapping)]
    if len(good) < len(items[:_CANDIDATES]):
        problems.append(Problem("wrong type", f"each candidate must be an object with `{name}`"))
    return good


def _guidelines(values: Mapping[str, Any]) -> tuple[str, ...]:
    lines = values.get("guidelines")
    lines = [lines] if isinstance(lines, str) else lines
    if not isinstance(lines, list):
        return ()
    texts = [one_line(line, _GUIDELINE) for line in lines if isinstance(line, str)]
    return tuple(text for text in texts if text)[:_GUIDELINES]


def _reason(item: Mapping[str, Any]) -> str:
    reason = item.get("reason")
    return one_line(reason, _REASON) if isinstance(reason, str) and reason.strip() else ""


def _short(value: Any) -> str:
    try:
        return one_line(json.dumps(value, ensure_ascii=False, default=str), 80)
    except (ValueError, RecursionError):
        return "a value that cannot be shown"


def _choices(raw: Any, task: Task, label: str) -> Choices | Problem:
    """An allocation as choices; samples may still be over the stage's most or the budget."""
    if not isinstance(raw, Mapping):
        return Problem("wrong type", f"{label}: `allocation` is no object")
    names = [stage.name for stage in task.stages]
    for name in raw:
        if name not in names:
            return Problem("unknown stage", f"{label}: there is no stage {_short(name)}")
    choices = []
    for stage in task.stages:
        if stage.name not in raw:
            return Problem("missing stage", f"{label} lacks stage {_short(stage.name)}")
        setting = raw[stage.name]
        if not isinstance(setting, Mapping):
            return Problem(
                "wrong type", f"{label}: stage {_short(stage.name)} needs `model` and `samples`"
            )
        model = _model(setting.get("model"), [m.name for m in stage.models])
        if model is None:
            options = ", ".join(_short(m.name) for m in stage.models)
            return Problem(
                "unknown model",
                f"{label}: stage {_short(stage.name)} has no model "
                f"{_short(setting.get('model'))}; it has {options}",
            )
        samples = _integer(setting.get("samples"))
        if samples is None:
            return Problem(
                "wrong type",
                f"{label}: `samples` of stage {_short(stage.name)} is "
                f"{_short(setting.get('samples'))}, no integer",
            )
        if samples < 1:
            return Problem(
                "out of range",
                f"{label}: `samples` of stage {_short(stage.name)} is {samples}; it is 1 to "
                f"{stage.max_samples}",
            )
        choices.append((model, min(samples, stage.max_samples)))
    return tuple(choices)


def _fitted(choices: Choices, task: Task, label: str) -> Choices | Problem:
    """The allocation with its samples reduced to fit the budget, if its models do."""
    feasible = task.feasible
    if feasible.fits(choices):
        return choices
    least = [(model, 1) for model, _ in choices]
    if not feasible.fits(least):
        return Problem(
            "over budget",
            f"{label}: its models cost {feasible.cost(least):.4g} with one sample each, over the "
            f"budget of {feasible.budget:.4g}",
        )
    return tuple(feasible.project(choices))


def _model(name: Any, names: Sequence[str]) -> int | None:
    if not isinstance(name, str):
        return None
    if name in names:
        return names.index(name)
    plain = name.strip().casefold()
    alike = [i for i, known in enumerate(names) if known.casefold() == plain]
    # Models leave out the organization: "Llama-3B" for "meta/Llama-3B".
    alike = alike or [
        i for i, known in enumerate(names) if known.casefold().rpartition("/")[2] == plain
    ]
    return alike[0] if len(alike) == 1 else None


def _integer(value: Any) -> int | None:
    """An integer, also one that is written ``4.0`` or ``"4"``."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if abs(value) < 10**9 else None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(float(value))
    return None


def _value(value: Any, distribution: BaseDistribution, label: str) -> Any:
    """A value that a distribution contains, of its exact type; or the problem."""
    if isinstance(distribution, CategoricalDistribution):
        same = [c for c in distribution.choices if type(c) is type(value) and c == value]
        # Choices that are no strings arrive as what JSON makes of them.
        alike = same or [c for c in distribution.choices if _short(c) == _short(value)]
        if alike:
            return alike[0]
        return Problem("unknown choice", f"{label} is {_short(value)}, none of its choices")
    if isinstance(distribution, IntDistribution):
        number = _integer(value)
        if number is None:
            return Problem("wrong type", f"{label} is {_short(value)}, no integer")
        step, low = distribution.step, distribution.low
        if distribution.low <= number <= distribution.high:
            return low + round((number - low) / step) * step if step != 1 else number
        return Problem("out of range", f"{label} is {number}; it is {low} to {distribution.high}")
    if isinstance(distribution, FloatDistribution):
        real = _float(value)
        if real is None:
            return Problem("wrong type", f"{label} is {_short(value)}, no number")
        if not distribution.low <= real <= distribution.high:
            return Problem(
                "out of range",
                f"{label} is {real:g}; it is {distribution.low:g} to {distribution.high:g}",
            )
        if distribution.step is None:
            return real
        steps = round((real - distribution.low) / distribution.step)
        return min(distribution.high, distribution.low + steps * distribution.step)
    return Problem("wrong type", f"{label} is of a kind that cannot be proposed")


def _float(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
