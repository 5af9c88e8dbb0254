"""Pruning of trials by outcomes of single instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.pruners import WilcoxonPruner

from optuna_agenttts.storage import study_of
from optuna_agenttts_integrations.exceptions import PipelineError

_BLOCKS = 10
"""Blocks of instances between which the pruner is consulted. Chosen by hand: finer blocks stop bad
trials earlier but leave less to run concurrently."""


def uses_pruner(trial: optuna.Trial) -> bool:
    """Return whether the trial's study has a pruner that can judge outcomes of instances.

    Optuna prunes no trials of several objectives.
    """
    study = study_of(trial)
    return (
        study is not None
        and len(study.directions) == 1
        and isinstance(study.pruner, WilcoxonPruner)
    )


def check_pruner(trial: optuna.Trial) -> None:
    """Raise if the pruner lacks a package.

    Optuna would raise only at the first pruning, after instances have been paid for.
    """
    if uses_pruner(trial) and find_spec("scipy") is None:
        raise PipelineError(
            "`WilcoxonPruner` needs scipy, which is not installed. Run "
            "`pip install 'optuna-agenttts[prune]'`, or create the study without the pruner."
        )


def blocks_of(instances: Mapping[str, Any], trial: optuna.Trial) -> Iterator[dict[str, Any]]:
    """Yield the instances in blocks between which the pruner is consulted."""
    named = list(instances.items())
    size = max(1, -(-len(named) // (_BLOCKS if uses_pruner(trial) else 1)))
    for start in range(0, len(named), size):
        yield dict(named[start : start + size])
