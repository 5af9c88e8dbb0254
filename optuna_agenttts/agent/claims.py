"""What the agent's guidelines come to, as data: claims about each stage that can be checked.

Guidelines are prose, which nothing can be held against. Claims say the same of each stage in
names and numbers, and `agreement.py` compares them with the fit. They are by the way: a claim
that cannot be used is dropped and counted, and never a reason to ask again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna_agenttts.agent.parsing import match_model, read_integer
from optuna_agenttts.study.claims import Claim
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task

_MAX_ITEMS = 32
"""Claims of a reply that are looked at, and models of a claim."""


def read_claims(given: Any, task: Task, *, samples: bool) -> tuple[tuple[Claim, ...], int]:
    """Read the claims of a reply.

    Args:
        given: What stands there for claims; None for nothing.
        task: The task.
        samples: Whether samples were asked for; else what is said of them is passed over.

    Returns:
        At most one claim for each stage, in the task's names and ranges, and how many things
        could not be used: whole claims, or only the samples of one.
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
        # A list from which an unknown name were dropped would say something else.
        models = _models(item.get("models"), stages[name])
        if models is None:
            unusable += 1
            continue
        interval = None
        if samples and item.get("samples") is not None:
            interval = _interval(item["samples"], stages[name].max_samples)
            unusable += interval is None
        found[name] = Claim(name, models, interval)
    return tuple(found.values()), unusable


def _models(given: Any, stage: Stage) -> tuple[str, ...] | None:
    if not isinstance(given, list) or not 0 < len(given) <= _MAX_ITEMS:
        return None
    names = [model.name for model in stage.models]
    found: dict[str, None] = {}
    for name in given:
        position = match_model(name, names)
        if position is None:
            return None
        found[names[position]] = None
    return tuple(found)


def _interval(given: Any, most: int) -> tuple[int, int] | None:
    if not isinstance(given, list) or len(given) != 2:
        return None
    low, high = (read_integer(bound) for bound in given)
    if low is None or high is None or not 1 <= low <= high <= most:
        return None
    return low, high
