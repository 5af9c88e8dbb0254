"""Reader of the claims in a reply.

Guidelines are prose and cannot be checked. Claims state the same about each stage as odds of
models and of a range of samples: they weigh what is tried next (`planner/odds.py`), and
`verdicts.py` compares them with the fit. Claims are optional: an unusable one is dropped and
counted, and never causes a repair request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from optuna_agenttts.agent.parsing import (
    is_most,
    match_model,
    match_named,
    read_float,
    read_integer,
)
from optuna_agenttts.agent.prompts.short_names import full_names
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
    if isinstance(given, Mapping) and "stage" not in given:
        given = [
            {"stage": name, **claim} if isinstance(claim, Mapping) else None
            for name, claim in given.items()
        ]
    given = [given] if isinstance(given, Mapping) else given
    if not isinstance(given, list):
        return (), 1
    stages = {stage.name: stage for stage in task.stages}
    # Replies may have a model's short name, as the tables of the prompt do.
    whole = full_names(task)
    found: dict[str, Claim] = {}
    unusable = 0
    for item in given[:_MAX_ITEMS]:
        named = match_model(item.get("stage"), list(stages)) if isinstance(item, Mapping) else None
        name = "" if named is None else task.stages[named].name
        if named is None or name in found:
            unusable += 1
            continue
        # Dropping only the unknown names would change the claim's meaning.
        odds = _model_odds(item.get("models"), stages[name], whole)
        if odds is None:
            unusable += 1
            continue
        interval = sample_odds = None
        if samples and item.get("samples") is not None:
            interval = _interval(item["samples"], stages[name].max_samples)
            unusable += interval is None
            if interval is not None:
                (sample_odds,) = _shares([item.get("samples_odds")])
        stated = all(share is not None for share in odds.values())
        ranked = sorted(odds, key=lambda model: -(odds[model] or 0.0)) if stated else list(odds)
        shares = tuple(odds[model] or 0.0 for model in ranked) if stated else ()
        total = max(1.0, sum(shares))
        model_odds = tuple(share / total for share in shares)
        found[name] = Claim(name, tuple(ranked), interval, model_odds, sample_odds)
    return tuple(found.values()), unusable


def _model_odds(
    given: Any, stage: Stage, whole: Mapping[str, str]
) -> dict[str, float | None] | None:
    """Return the odds of the models of a claim; None if any is unknown.

    The name of a model without an effort stands for all of its thinking efforts, which share its
    odds. Odds that are missing or unusable are None.
    """
    if isinstance(given, Mapping) and "model" not in given:
        given = [{"model": name, "odds": odds} for name, odds in given.items()]
    given = [given] if isinstance(given, (str, Mapping)) else given
    if not isinstance(given, list) or not 0 < len(given) <= _MAX_ITEMS:
        return None
    found: dict[str, float | None] = {}
    settings = [item if isinstance(item, Mapping) else {"model": item} for item in given]
    shares = _shares([item.get("odds", item.get("probability")) for item in settings])
    for item, odds in zip(settings, shares):
        positions = match_named(item, stage.models, whole)
        if not positions:
            return None
        share = None if odds is None else odds / len(positions)
        for position in positions:
            found.setdefault(stage.models[position].name, share)
    return (
        None
        if found and not any(share is None or share > 0 for share in found.values())
        else found
    )


def _shares(given: Sequence[Any]) -> list[float | None]:
    """Return shares between 0 and 1; None for those that are unusable.

    All are in percent if one is above 1 or has a percent sign.
    """
    texts = [value.strip() if isinstance(value, str) else value for value in given]
    plain = [value.rstrip(" %") if isinstance(value, str) else value for value in texts]
    found = [None if isinstance(value, bool) else read_float(value) for value in plain]
    percent = texts != plain or any(share is not None and share > 1 for share in found)
    most = 100 if percent else 1
    return [None if s is None or not 0 <= s <= most else s / most for s in found]


def _interval(given: Any, most: int) -> tuple[int, int] | None:
    """Return a range of samples, cut to the most of the stage; None for any other value.

    It is a pair of integers, also as text such as "4 to 16", or by name; or one integer.
    """
    if isinstance(given, str):
        given = re.findall(r"\d+|max\w*", given)
    bounds = list(given.values()) if isinstance(given, Mapping) else given
    bounds = bounds if isinstance(bounds, list) else [bounds]
    if not 1 <= len(bounds) <= 2:
        return None
    numbers = [most if is_most(bound) else read_integer(bound) for bound in bounds]
    known = sorted(number for number in numbers if number is not None)
    if len(known) < len(bounds) or not 1 <= known[0] <= most:
        return None
    return known[0], min(known[-1], most)
