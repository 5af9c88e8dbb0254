"""Trials of a study over a search space without pipeline stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceEvidence:
    """Trials of a study over an arbitrary search space.

    Args:
        space: Distributions by parameter; the latest one if it changed between trials.
        conditional: Parameters that some trials do not have.
        maximize: Whether higher values are better.
        numbers: Numbers of the finished trials with a finite value.
        params: Parameters of these trials.
        values: Values of these trials.
        running: Parameters of the running trials.
        origins: Which part of the sampler proposed these trials; empty strings if not recorded.
    """

    space: Mapping[str, BaseDistribution] = field(default_factory=dict)
    conditional: tuple[str, ...] = ()
    maximize: bool = False
    numbers: tuple[int, ...] = ()
    params: tuple[Mapping[str, Any], ...] = ()
    values: tuple[float, ...] = ()
    running: tuple[Mapping[str, Any], ...] = ()
    origins: tuple[str, ...] = ()


def space_evidence(
    trials: Sequence[FrozenTrial], stated: Mapping[str, BaseDistribution], *, maximize: bool
) -> SpaceEvidence:
    """Collect the finished and running trials of a study over an arbitrary search space.

    Args:
        trials: The study's trials.
        stated: Distributions by parameter, as given by the user; may be empty.
        maximize: Whether higher values are better.
    """
    finished = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and trial.values is not None
        and math.isfinite(trial.values[0])
        and trial.params
    ]
    space: dict[str, BaseDistribution] = dict(stated)
    for trial in finished:
        space.update({n: d for n, d in trial.distributions.items() if not d.single()})
    return SpaceEvidence(
        space=space,
        conditional=tuple(
            name for name in space if any(name not in trial.params for trial in finished)
        ),
        maximize=maximize,
        numbers=tuple(trial.number for trial in finished),
        params=tuple(trial.params for trial in finished),
        values=tuple(float(trial.values[0]) for trial in finished if trial.values),
        running=tuple(t.params for t in trials if t.state == TrialState.RUNNING and t.params),
        origins=tuple(str(t.user_attrs.get(storage.ORIGIN, "")) for t in finished),
    )
