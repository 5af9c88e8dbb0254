"""Reader of the claims in a reply.

Guidelines are prose and cannot be checked. Claims state the same about each stage as odds of
models and of a range of samples: they weigh what is tried next (`planner/odds.py`), and
`verdicts.py` compares them with the fit. Claims are optional: an unusable one is dropped and
counted, and never causes a repair request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna_agenttts.agent.parsing import is_most, match_choices, read_float, read_integer
from optuna_agenttts.agent.prompts.short_names import short_names
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
    # Replies may have a model's short name, as the tables of the prompt do.
    whole = {short: name for name, short in short_names(task).items()}
    found: dict[str, Claim] = {}
    unusable = 0
    for item in given[:_MAX_ITEMS]:
        name = item.get("stage") if isinstance(item, Mapping) else None
        if not isinstance(name, str) or name not in stages or name in found:
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
            sample_odds = None if interval is None else _share(item.get("samples_odds"))
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
    if isinstance(given, Mapping):
        given = [{"model": name, "odds": odds} for name, odds in given.items()]
    if not isinstance(given, list) or not 0 < len(given) <= _MAX_ITEMS:
        return None
    found: dict[str, float | None] = {}
    for item in given:
        positions = _positions(item, stage, whole)
        if not positions:
            return None
        odds = _share(item.get("odds")) if isinstance(item, Mapping) else None
        share = None if odds is None else odds / len(positions)
        for position in positions:
            found.setdefault(stage.models[position].name, share)
    return (
        None
        if found and not any(share is None or share > 0 for share in found.values())
        else found
    )


def _share(given: Any) -> float | None:
    """Return a share between 0 and 1, also if it is in percent; None for any other value."""
    share = read_float(given)
    if share is None or isinstance(given, bool) or not 0 <= share <= 100:
        return None
    return share / 100 if share > 1 else share


def _positions(item: Any, stage: Stage, whole: Mapping[str, str]) -> list[int]:
    """Return the choices of a stage that an item of a claim means."""
    setting = item if isinstance(item, Mapping) else {"model": item}
    found, name = match_choices(setting, stage.models), setting.get("model")
    if not found and isinstance(name, str) and name in whole:
        found = match_choices({"model": whole[name]}, stage.models)
    return found


def _interval(given: Any, most: int) -> tuple[int, int] | None:
    """Return a pair of integers with 1 <= low <= high <= most; None if it is not one."""
    if not isinstance(given, list) or len(given) != 2:
        return None
    low, high = (most if is_most(bound) else read_integer(bound) for bound in given)
    if low is None or high is None or not 1 <= low <= high <= most:
        return None
    return low, high
