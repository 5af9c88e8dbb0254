"""Computed facts about the evidence, for the tables of a prompt and the check of claims.

For each model of a stage, one fact per insight of the paper: how far it is behind the best, what
more samples gain, and the best choice for the other stages. They come from the posterior
(`planner/posterior.py`) and include its uncertainty. They are completed by comparisons of the
thinking efforts of one model, the noise of trials, and what the planner itself would try next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from optuna_agenttts.agent.noise_facts import NoiseFact, fit_noise
from optuna_agenttts.planner.costs import Costs
from optuna_agenttts.planner.evidence import Choices, Evidence, Odds
from optuna_agenttts.planner.feasibility import Feasibility
from optuna_agenttts.planner.frontier_improvement import FrontierImprovement, acquisition_of
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.odds import fitted_odds
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.task.efforts import efforts_by_model

_STEPS = (4, 16, 64)
"""Numbers of samples to compare with one sample; by ratio, since scores rise with their logarithm.
Chosen by hand."""
_EARLY = 12
"""Trials up to which corners are listed, which a fit to few trials seldom tries. Chosen by
hand."""


@dataclass(frozen=True, slots=True)
class ModelFact:
    """Fitted facts about a model in a stage, in the units of the study's values.

    Args:
        stage: Position of the stage.
        model: Position of the model.
        trials: Number of trials that use the model in the stage.
        expected: Expected value of the best allocation that uses it there.
        behind: Difference between the best of all allocations and that one, 0 or more.
        behind_sd: Standard deviation of that difference.
        companion: The best allocation that uses the model in the stage.
        gains: Changes of the score from one sample to 4, 16 and 64, or to the most that fit beside
            the `companion` in place of one that does not: number, difference and standard
            deviation.
    """

    stage: int
    model: int
    trials: int
    expected: float
    behind: float
    behind_sd: float
    companion: Choices
    gains: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class EffortFact:
    """Thinking efforts of one model in a stage, each with the best allocation that uses it.

    Args:
        stage: Position of the stage.
        name: Name of the model.
        models: Positions of its choices in the stage, from the least effort to the most.
        expected: Expected values, in units of the study's values.
        behind: Differences between the best effort and each, 0 or more.
        behind_sd: Standard deviations of these differences.
    """

    stage: int
    name: str
    models: tuple[int, ...]
    expected: tuple[float, ...]
    behind: tuple[float, ...]
    behind_sd: tuple[float, ...]


class Forecast(NamedTuple):
    """Expected value of an allocation, in units of the study's values.

    Args:
        choices: The allocation.
        mean: Posterior mean.
        sd: Posterior standard deviation.
        measured: Predicted second value; None if it is the task's cost, or there is none.
    """

    choices: Choices
    mean: float
    sd: float
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Computed facts; empty before the first score.

    Args:
        models: Facts about models.
        violating: Stages and models whose allocations are all likely to violate a constraint of
            the study. There are no facts about them.
        efforts: Facts about models at several thinking efforts.
        noise: The noise of trials; None before the first score.
        expected: Expected value of each trial's allocation.
        leaders: What the planner itself would try next, the first one first.
        front: The tried allocations of the best expected value at every cost, cheapest first, in
            searches for a front or for a cheap good score.
        corners: Untried allocations of the best models that spend all of the rest of the budget
            on one stage; listed early in a search.
        odds: Posterior probabilities of the models and samples of each stage; None before the
            first score.
    """

    models: tuple[ModelFact, ...] = ()
    violating: frozenset[tuple[int, int]] = frozenset()
    efforts: tuple[EffortFact, ...] = ()
    noise: NoiseFact | None = None
    expected: tuple[float, ...] = ()
    leaders: tuple[Forecast, ...] = ()
    front: tuple[Forecast, ...] = ()
    corners: tuple[Forecast, ...] = ()
    odds: Odds | None = None


def fit_facts(planner: NumericalPlanner, evidence: Evidence) -> Facts:
    """Compute the facts from the planner's posterior.

    Args:
        planner: The numerical planner of the task.
        evidence: The trials so far.

    Returns:
        The facts; empty before the first score.
    """
    if len(evidence.scores) == 0 or not evidence.scale.informative:
        return Facts()
    known = planner.with_experience(evidence)
    everything = pool = planner.pool(evidence).points
    feasibility = Feasibility(evidence, planner.surrogate) if evidence.constraints else None
    eligible = None if feasibility is None else feasibility.eligible(known)
    # The noise as it is: the tables state standard deviations.
    posterior = Posterior(planner.surrogate, known, power=1.0, eligible=eligible)
    if feasibility is not None:
        pool = pool.take(feasibility.likely(pool, np.arange(len(pool))))
    mean = posterior.at(pool).mean()
    pairs = _pairs(pool)
    best = int(np.argmax(mean))
    best_with_model = []
    for stage, model in pairs:
        with_model = np.flatnonzero(pool.models[:, stage] == model)
        best_with_model.append(int(with_model[np.argmax(mean[with_model])]))
    compared = pool.take(np.array([best, *best_with_model]))
    behind_sd = posterior.at(compared).differences_from(0).sd()[1:]
    span = posterior.scale.span
    facts = []
    for (stage, model), position, sd in zip(pairs, best_with_model, behind_sd):
        point = pool.take(np.array([position]))
        most = _most_samples(planner, point, stage)
        steps = sorted({min(n, most) for n in _STEPS if n < 2 * most} - {1})
        facts.append(
            ModelFact(
                stage=stage,
                model=model,
                trials=int((evidence.models[:, stage] == model).sum()),
                expected=float(evidence.sign * posterior.scale.scores(mean[position])),
                behind=float(mean[best] - mean[position]) * span,
                behind_sd=float(sd) * span,
                companion=point.choices[0],
                gains=tuple(_gains(planner, posterior, point, stage, steps)),
            )
        )
    violating = frozenset(_pairs(everything)) - frozenset(pairs)
    tried = posterior.at(planner.surrogate.points(evidence.models, evidence.samples)).mean()
    opening = planner.in_opening(evidence)
    costs = Costs(known)
    search = acquisition_of(posterior, known, everything, planner.floor)
    front: Sequence[Choices] = ()
    if isinstance(search, FrontierImprovement):
        front = search.front.choices
    leaders = () if opening else planner.compare(evidence, leaders=True).leaders
    corners = _corners(planner, evidence, pool.take(np.array([best])))
    return Facts(
        models=tuple(facts),
        violating=violating,
        efforts=tuple(
            _efforts(planner, posterior, pool, dict(zip(pairs, best_with_model)), facts)
        ),
        noise=fit_noise(posterior),
        expected=tuple((evidence.sign * posterior.scale.scores(tried)).tolist()),
        leaders=_forecasts(planner, evidence, posterior, leaders, costs),
        front=_forecasts(planner, evidence, posterior, front, costs),
        corners=_forecasts(planner, evidence, posterior, corners, costs),
        odds=fitted_odds(posterior, pool, planner.task),
    )


def _forecasts(
    planner: NumericalPlanner,
    evidence: Evidence,
    posterior: Posterior,
    keys: Sequence[Choices],
    costs: Costs,
) -> tuple[Forecast, ...]:
    """Return what is expected of allocations, as in the other tables."""
    if not keys:
        return ()
    points = planner.surrogate.points_of(keys)
    moments = posterior.at(points).moments()
    means = evidence.sign * posterior.scale.scores(moments.mean())
    sds = moments.sd() * posterior.scale.span
    measured: Sequence[float | None] = [None] * len(keys)
    if costs.unit is not None:
        measured = (costs.unit * costs(points)).tolist()
    return tuple(map(Forecast, keys, means.tolist(), sds.tolist(), measured))


def _corners(planner: NumericalPlanner, evidence: Evidence, best: Points) -> list[Choices]:
    """Return the untried corners early in a search; see `Facts`."""
    corners = []
    for stage in range(len(planner.task.stages) if len(evidence.scores) <= _EARLY else 0):
        single = replace(best, samples=np.ones_like(best.samples))
        single.samples[:, stage] = _most_samples(planner, single, stage)
        corners += single.choices
    return [
        choices
        for choices in dict.fromkeys(corners)
        if choices not in evidence.visited
        and (evidence.ranges is None or evidence.ranges.allow(choices))
    ]


def _pairs(pool: Points) -> list[tuple[int, int]]:
    """Return the stages and models of a pool."""
    return [(stage, m) for stage, row in enumerate(pool.models.T) for m in np.unique(row).tolist()]


def _efforts(
    planner: NumericalPlanner,
    posterior: Posterior,
    pool: Points,
    places: Mapping[tuple[int, int], int],
    facts: Sequence[ModelFact],
) -> Iterator[EffortFact]:
    """Yield the facts about efforts.

    Args:
        planner: The numerical planner of the task.
        posterior: The posterior.
        pool: The allocations that are compared.
        places: Place in the pool of the best allocation with each stage and model.
        facts: The facts about models.
    """
    known = {(fact.stage, fact.model): fact for fact in facts}
    for index, stage in enumerate(planner.task.stages):
        for name, positions in efforts_by_model(stage.models).items():
            models = [model for model in positions if (index, model) in known]
            if len(models) < 2:
                continue
            behind = np.array([known[index, model].behind for model in models])
            best = int(np.argmin(behind))
            own = pool.take(np.array([places[index, model] for model in models]))
            sds = posterior.at(own).differences_from(best).sd() * posterior.scale.span
            yield EffortFact(
                stage=index,
                name=name,
                models=tuple(models),
                expected=tuple(known[index, model].expected for model in models),
                behind=tuple((behind - behind[best]).tolist()),
                behind_sd=tuple(sds.tolist()),
            )


def _most_samples(planner: NumericalPlanner, point: Points, stage: int) -> int:
    """Return the maximum number of samples of a stage, given the rest of an allocation."""
    feasible = planner.task.feasible
    (choices,) = point.choices
    others = feasible.cost_of_others(choices, stage)
    return max(1, feasible.max_samples(stage, choices[stage][0], others))


def _gains(
    planner: NumericalPlanner,
    posterior: Posterior,
    point: Points,
    stage: int,
    numbers: Sequence[int],
) -> Iterator[tuple[int, float, float]]:
    """Yield numbers of samples of a stage, with the gain over one sample and its deviation."""
    samples = np.repeat(point.samples, len(numbers) + 1, axis=0)
    samples[:, stage] = (1, *numbers)
    models = np.repeat(point.models, len(samples), axis=0)
    view, span = posterior.at(planner.surrogate.points(models, samples)), posterior.scale.span
    mean, sd = view.mean(), view.differences_from(0).sd()
    for number, gain, error in zip(numbers, mean[1:] - mean[0], sd[1:]):
        yield number, float(gain) * span, float(error) * span
