"""Computed facts about the evidence, for the tables of a prompt and the check of claims.

For each model of a stage, one fact per insight of the paper: how far it is behind the best, at how
many samples it saturates, and the best choice for the other stages. They come from the posterior
(`planner/posterior.py`) and include its uncertainty. Paired comparisons of trials, which need no
fitted model, complete them, and comparisons of the thinking efforts of one model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Evidence, Floats, Ints
from optuna_agenttts.planner.feasibility import Feasibility
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.posterior import Z90, Posterior
from optuna_agenttts.task.efforts import efforts_by_model

_GRID_SIZE = 16
"""Number of sample counts, evenly spaced by ratio, to search for saturation; chosen by hand."""
_SATURATION_TOLERANCE = 0.1
"""Samples saturate where all but this fraction of the possible gain is reached; chosen by hand."""
_MIN_SHARED = 5
"""Minimum number of shared instances for a paired comparison; chosen by hand."""
_EPSILON = 1e-12
"""Tolerance for rounding errors, on the posterior's scale of scores."""


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
        saturation: Number of samples at which the model saturates, with the other stages as in
            `companion`.
        saturation_range: Smallest and largest number of samples that are indistinguishable from
            the peak: the central 90 % interval of the difference contains zero.
        gain: Difference between `saturation` samples and one sample.
        gain_sd: Standard deviation of that difference.
        most: Maximum number of samples within the budget, with the other stages as in `companion`.
    """

    stage: int
    model: int
    trials: int
    expected: float
    behind: float
    behind_sd: float
    companion: Choices
    saturation: int
    saturation_range: tuple[int, int]
    gain: float
    gain_sd: float
    most: int

    @property
    def excluded(self) -> bool:
        """True if the central 90 % interval of `behind` excludes zero."""
        return self.behind > Z90 * self.behind_sd


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


@dataclass(frozen=True, slots=True)
class PairedFact:
    """Paired comparison of the best trials with two models of a stage, over shared instances.

    Args:
        stage: Position of the stage.
        numbers: Numbers of the trials, the better one first.
        models: Positions of their models in the stage, in the same order.
        difference: Mean difference of the outcomes per instance.
        error: Standard error of `difference`.
        instances: Number of shared instances.
    """

    stage: int
    numbers: tuple[int, int]
    models: tuple[int, int]
    difference: float
    error: float
    instances: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about models and paired comparisons; empty before the first score.

    Args:
        models: Facts about models.
        paired: Paired comparisons of trials.
        violating: Stages and models whose allocations are all likely to violate a constraint of
            the study. There are no facts about them.
        efforts: Facts about models at several thinking efforts.
    """

    models: tuple[ModelFact, ...] = ()
    paired: tuple[PairedFact, ...] = ()
    violating: frozenset[tuple[int, int]] = frozenset()
    efforts: tuple[EffortFact, ...] = ()


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
    # The noise as it is: the tables state standard deviations.
    posterior = Posterior(planner.surrogate, planner.with_experience(evidence), power=1.0)
    everything = pool = planner.pool(evidence).points
    feasibility = Feasibility(evidence, planner.surrogate) if evidence.constraints else None
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
        number, interval, gain, gain_sd = _saturation(
            planner, posterior, feasibility, point, stage, most
        )
        facts.append(
            ModelFact(
                stage=stage,
                model=model,
                trials=int((evidence.models[:, stage] == model).sum()),
                expected=float(evidence.sign * posterior.scale.scores(mean[position])),
                behind=float(mean[best] - mean[position]) * span,
                behind_sd=float(sd) * span,
                companion=tuple(zip(point.models[0].tolist(), point.samples[0].tolist())),
                saturation=number,
                saturation_range=interval,
                gain=gain * span,
                gain_sd=gain_sd * span,
                most=most,
            )
        )
    violating = frozenset(_pairs(everything)) - frozenset(pairs)
    return Facts(
        tuple(facts),
        tuple(_paired(evidence)),
        violating,
        tuple(_efforts(planner, posterior, pool, dict(zip(pairs, best_with_model)), facts)),
    )


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
    choices = list(zip(point.models[0].tolist(), point.samples[0].tolist()))
    model, samples = choices[stage]
    others = feasible.cost(choices) - float(feasible.costs[stage][model][samples - 1])
    return max(1, feasible.max_samples(stage, model, others))


def _saturation(
    planner: NumericalPlanner,
    posterior: Posterior,
    feasibility: Feasibility | None,
    point: Points,
    stage: int,
    most: int,
) -> tuple[int, tuple[int, int], float, float]:
    """Return saturation, its range, gain and standard deviation of the gain of a stage."""
    grid: Ints = np.unique(np.geomspace(1, most, _GRID_SIZE).round().astype(np.int64))
    samples = np.repeat(point.samples, len(grid), axis=0)
    samples[:, stage] = grid
    along = planner.surrogate.points(np.repeat(point.models, len(grid), axis=0), samples)
    if feasibility is not None:
        kept = feasibility.likely(along, np.arange(len(along)))
        grid, along = grid[kept], along.take(kept)
    view = posterior.at(along)
    curve = view.mean()
    knee, peak = _knee(curve), int(np.argmax(curve))
    from_peak = view.differences_from(peak).sd()
    at_peak = np.flatnonzero(curve[peak] - curve <= Z90 * from_peak + _EPSILON)
    sd = view.differences_from(0).sd()[knee]
    interval = (int(grid[min(at_peak[0], knee)]), int(grid[max(at_peak[-1], knee)]))
    return int(grid[knee]), interval, float(curve[knee] - curve[0]), float(sd)


def _knee(curve: Floats) -> int:
    """Return the first position at which the curve is saturated."""
    top = float(curve.max())
    enough = top - _SATURATION_TOLERANCE * (top - float(curve[0]))
    return int(np.argmax(curve >= enough - _EPSILON))


def _paired(evidence: Evidence) -> list[PairedFact]:
    """Compare, in each stage, the best trial with the best trial of every other model."""
    found = []
    # Trials that confirm an allocation have other instances.
    blocks = evidence.block_of_rows()
    order = [r for r in np.argsort(-evidence.scores, kind="stable").tolist() if not blocks[r]]
    for stage in range(len(evidence.task.stages)):
        best: dict[int, int] = {}
        for row in order:
            best.setdefault(int(evidence.models[row, stage]), row)
        ranked = sorted(best.values(), key=lambda row: -evidence.scores[row])
        for row in ranked[1:]:
            pair = _pair(evidence, ranked[0], row, stage)
            if pair is not None:
                found.append(pair)
    return found


def _pair(evidence: Evidence, better: int, other: int, stage: int) -> PairedFact | None:
    """Compare two trials over shared instances; None if there are too few."""
    if not evidence.outcomes:
        return None
    ours, theirs = evidence.outcomes[better], evidence.outcomes[other]
    shared = [step for step in ours if step in theirs]
    if len(shared) < _MIN_SHARED:
        return None
    gaps = evidence.sign * np.array([ours[step] - theirs[step] for step in shared])
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < _MIN_SHARED:
        return None
    if gaps.mean() < 0:  # better on the instances that both saw
        better, other = other, better
    return PairedFact(
        stage=stage,
        numbers=(evidence.numbers[better], evidence.numbers[other]),
        models=(int(evidence.models[better, stage]), int(evidence.models[other, stage])),
        difference=abs(float(gaps.mean())),
        error=float(gaps.std(ddof=1) / np.sqrt(len(gaps))),
        instances=len(gaps),
    )
