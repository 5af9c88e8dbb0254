"""Comparison of the agent's odds with the fit.

A verdict states the Bayes factor of the odds of a stage's models, or of its range of samples,
against equal odds, given the posterior (`planner/odds.py`). The fit agrees with odds that it makes
more probable by a quarter, contradicts those that equal odds exceed as much, and leaves the others
open: odds that are about equal, and any odds where the fit knows nothing yet.

There is no verdict before the first score, nor where one cell alone can be the best: a stage with
one model within budget and constraints, or with one octave of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optuna_agenttts.agent.facts import Facts
from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.planner.odds import bayes_factor
from optuna_agenttts.study.claims import Aspect, Claim, Outcome, Verdict, odds_of
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.task import Task

_DECIDED = 1.25
"""Bayes factor from which the fit agrees; at its inverse, it contradicts. Chosen by hand."""
_NAMED = 3
"""Maximum number of models or octaves to name, the most probable first; chosen by hand."""
_MAX_TEXT = 400
"""Maximum number of characters in the text of a verdict; chosen by hand."""


def check_claims(claims: Sequence[Claim], facts: Facts, task: Task) -> tuple[Verdict, ...]:
    """Compare claims with the fit.

    Args:
        claims: The claims; stages and models that are not in the task are ignored.
        facts: The fitted facts, with the posterior probabilities.
        task: The task.

    Returns:
        The verdicts, at most one per claim and aspect.
    """
    stages = {stage.name: position for position, stage in enumerate(task.stages)}
    verdicts: list[Verdict] = []
    fitted = facts.odds
    if fitted is None:
        return ()
    for claim in claims:
        stage = stages.get(claim.stage)
        if stage is None:
            continue
        names = [model.name for model in task.stages[stage].models]
        if not set(claim.models) <= set(names):
            continue
        odds = odds_of([claim], task)
        most = task.stages[stage].max_samples
        octaves = [_octave_text(octave, most) for octave in range(len(odds.samples[stage]))]
        parts: list[tuple[Aspect, Floats, Floats, list[str]]] = [
            ("models", odds.models[stage], fitted.models[stage], names)
        ]
        if claim.samples is not None:
            parts += [("samples", odds.samples[stage], fitted.samples[stage], octaves)]
        for aspect, ours, theirs, labels in parts:
            if np.count_nonzero(theirs) < 2:
                continue
            outcome = _outcome(bayes_factor(ours, theirs))
            best = "number of samples" if aspect == "samples" else "model"
            text = (
                f"{claim.stage}: the odds of the best {best} were {_stated(claim, aspect)}; the "
                f"fit has {_probable(theirs, labels)}."
            )
            verdicts.append(Verdict(claim.stage, aspect, outcome, one_line(text, _MAX_TEXT)))
    return tuple(verdicts)


def _outcome(factor: float) -> Outcome:
    """Return the outcome that a Bayes factor means."""
    if factor >= _DECIDED:
        return "agrees"
    return "contradicts" if factor <= 1 / _DECIDED else "open"


def _stated(claim: Claim, aspect: Aspect) -> str:
    """Return the odds that a claim states, as text."""
    if aspect == "samples" and claim.samples is not None:
        low, high = claim.samples
        span = f"{low} to {high}" if low < high else f"{low}"
        return span if claim.sample_odds is None else f"{claim.sample_odds:.2g} for {span}"
    if not claim.model_odds:
        return " or ".join(claim.models[:_NAMED])
    pairs = list(zip(claim.model_odds, claim.models))[:_NAMED]
    return ", ".join(f"{odds:.2g} for {model}" for odds, model in pairs)


def _probable(fitted: Floats, labels: Sequence[str]) -> str:
    """Return the most probable models or octaves of the fit, as text."""
    order = np.argsort(-fitted, kind="stable")[:_NAMED].tolist()
    return ", ".join(f"{fitted[i]:.2g} for {labels[i]}" for i in order if fitted[i] > 0)


def _octave_text(octave: int, most: int) -> str:
    """Return the numbers of samples of an octave as text, up to the most of the stage."""
    low, high = 2**octave, min(2 ** (octave + 1) - 1, most)
    return f"{low}" if low == high else f"{low} to {high}"
