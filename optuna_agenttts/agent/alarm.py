"""Alarms: reasons to ask the agent, with ``llm_when="auto"``.

The numerical planner needs no help while its recommendation agrees with simpler looks at the same
trials, and its trials score what it expects.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from optuna_agenttts.planner.evidence import Bools, Evidence
from optuna_agenttts.planner.feasibility import Feasibility
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.posterior import Posterior

# Chosen by hand.
_TRIALS = 2
"""Minimum number of trials with a model, for its raw mean to count."""
_DOUBT = 0.1
"""Minimum weight of the kernels that recommend another model."""
_DISAPPOINTED = 6
"""Number of the planner's latest trials that all scored below their expectation."""

SILENCE = "raw means and kernels agree with the fit, and scores are as expected"
"""Reason why the agent is not asked, without any alarm."""


def alarms(planner: NumericalPlanner, evidence: Evidence) -> Iterator[str]:
    """Yield reasons to ask the agent; none if nothing speaks for it.

    Args:
        planner: The numerical planner.
        evidence: The trials so far.
    """
    if planner.in_opening(evidence):
        yield "the opening is not over"
    if len(evidence.scores) == 0 or not evidence.scale.informative:
        yield "there are no two different scores"
        return
    known = planner.with_experience(evidence)
    eligible = None
    if evidence.constraints:
        eligible = Feasibility(evidence, planner.surrogate).eligible(known)
    posterior = Posterior(planner.surrogate, known, eligible=eligible)
    incumbents = posterior.incumbents
    moments = incumbents.moments()
    best = incumbents.points.models[int(np.argmax(moments.mean()))].tolist()
    own = evidence.block_of_rows() == 0
    if eligible is not None:
        own &= eligible[: len(own)]
    stages = planner.task.stages
    for index, (stage, model) in enumerate(zip(stages, best)):
        raw = _best_by_raw_means(evidence, own, index, model)
        if raw != model:
            names = stage.models[model].name, stage.models[raw].name
            yield f"the fit recommends {names[0]!r} in {stage.name!r}, raw means {names[1]!r}"
    chosen = incumbents.points.models[np.argmax(moments.means, axis=1)]
    doubts = moments.weights @ (chosen != best)
    if doubts.max() >= _DOUBT:
        name = stages[int(np.argmax(doubts))].name
        yield f"kernels disagree about the model of {name!r}"
    if _has_disappointed(planner, evidence):
        yield f"the planner's last {_DISAPPOINTED} trials scored below what was expected"


def _best_by_raw_means(evidence: Evidence, own: Bools, stage: int, model: int) -> int:
    """Return the model of a stage with the best mean score, at least two trials, or the fit's."""
    used, scores = evidence.models[own, stage], evidence.scores[own]
    best, mean = model, float(scores[used == model].mean()) if (used == model).any() else -np.inf
    for other in np.unique(used).tolist():
        own_scores = scores[used == other]
        if len(own_scores) >= _TRIALS and own_scores.mean() > mean:
            best, mean = other, float(own_scores.mean())
    return best


def _has_disappointed(planner: NumericalPlanner, evidence: Evidence) -> bool:
    """Return whether the planner's latest trials all scored below the fit to the trials before."""
    numerical = [i for i, o in enumerate(evidence.origins) if o in ("numerical", "fallback")]
    latest = np.array(numerical[-_DISAPPOINTED:], dtype=np.int64)
    if len(latest) < _DISAPPOINTED:
        return False
    before = evidence.take(np.setdiff1d(np.arange(len(evidence.scores)), latest))
    posterior = Posterior(planner.surrogate, planner.with_experience(before))
    points = planner.surrogate.points(evidence.models[latest], evidence.samples[latest])
    expected = posterior.at(points).mean()
    return bool((posterior.scale.rates(evidence.scores[latest]) < expected).all())
