"""Reader of the claims in a reply.

Guidelines are prose and cannot be checked. Claims state the same about each stage in names and
numbers, and `verdicts.py` compares them with the fitted facts. Claims are optional: an unusable
one is dropped and counted, and never causes a repair request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna_agenttts.agent.parsing import match_choices, read_integer
from optuna_agenttts.study.claims import Claim
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task

_MAX_ITEMS = 32
"""Maximum number of claims to read from a reply, and of models in a claim; chosen by hand."""


def read_claims(given: Any, task: Task, *, samples: bool) -> tuple[tuple[Claim, ...], int]:
    """Read the claims of a reply.

    Args:
        given: The reply's value under ``"claims"``; None if there is none.
        task: The task.
        samples: Whether samples were requested; otherwise they are ignored.

    Returns:
        At most one claim per stage, with names and ranges of the task, and the number of unusable
        parts: whole claims, or the samples of one.
    """
    if given is None:
        return (), 0
    if not isinstance(given, list):
        return (), 1
    stages = {stage.name: stage for stage in task.stages}
    found: dict[str, Claim] = {}
    unusable = 0
    for item in given[:_MAX_ITEMS]:
        name = item.get("stage") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or name not in stages or name in found:
            unusable += 1
            continue
        # Dropping only the unknown names would change the claim's meaning.
        models = _models(item.get("models"), stages[name])
        if models is None:
            unusable += 1
            continue
        interval = None
        # Of a model at all its thinking efforts, it is not known which one saturates.
        first = _positions(item["models"][0], stages[name])
        if samples and item.get("samples") is not None and len(first) == 1:
            interval = _interval(item["samples"], stages[name].max_samples)
            unusable += interval is None
        found[name] = Claim(name, models, interval)
    return tuple(found.values()), unusable


def _models(given: Any, stage: Stage) -> tuple[str, ...] | None:
    """Return the distinct model names of a claim; None if any is unknown.

    The name of a model without an effort stands for all of its thinking efforts.
    """
    if not isinstance(given, list) or not 0 < len(given) <= _MAX_ITEMS:
        return None
    found: dict[str, None] = {}
    for item in given:
        positions = _positions(item, stage)
        if not positions:
            return None
        found |= dict.fromkeys(stage.models[position].name for position in positions)
    return tuple(found)


def _positions(item: Any, stage: Stage) -> list[int]:
    """Return the choices of a stage that an item of a claim means."""
    return match_choices(item if isinstance(item, Mapping) else {"model": item}, stage.models)


def _interval(given: Any, most: int) -> tuple[int, int] | None:
    """Return a pair of integers with 1 <= low <= high <= most; None if it is not one."""
    if not isinstance(given, list) or len(given) != 2:
        return None
    low, high = (read_integer(bound) for bound in given)
    if low is None or high is None or not 1 <= low <= high <= most:
        return None
    return low, high
