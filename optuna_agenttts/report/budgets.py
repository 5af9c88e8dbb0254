"""Find the frontier of a study: for every budget, the allocation to use.

Among the allocations within a budget, the one of the largest posterior mean is chosen, and its
value is corrected by the bias that `recommend` corrects. Below the cost of the recommended
allocation, allocations that no trial ran are compared, too, since a search tries few cheap ones.
"docs/benchmarks.md" has what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna.study import Study

from optuna_agenttts.exceptions import MissingFactError, TaskError
from optuna_agenttts.planner.evidence import Choices, Floats, Ints, choices_of
from optuna_agenttts.planner.feasibility import Feasibility, known_feasibility
from optuna_agenttts.planner.kernels import SEED, Points
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.points import ROUNDING, Frontier, FrontierPoint
from optuna_agenttts.report.ties import MARGIN, MIN_SHARED, Paired
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.cost import CostModel, FlopsCost, LatencyCost, PriceCost
from optuna_agenttts.task.cost_model import cost_row
from optuna_agenttts.task.feasible import FeasibleSet
from optuna_agenttts.task.ranges import Ranges
from optuna_agenttts.task.task import Task

_COSTS = (FlopsCost(), PriceCost(), LatencyCost())
_POOLS, _POOL_SIZE = 8, 500
"""Budgets for which untried allocations are drawn if they are too many to compare all, and how
many for each. Chosen by hand: together as many as the planner compares at an ask."""
_LEAST_GAIN = 0.01
"""Least gain, in rates, for which an untried allocation becomes a point: thousands of untried ones
differ by less. Chosen by hand."""
_LIKELY = 0.9
"""Least probability that an untried allocation meets the constraints. Chosen by hand."""


def frontier(
    study: Study,
    task: Task | None = None,
    *,
    costs: Sequence[CostModel] | None = None,
    tried_only: bool = False,
    score_sd: float | None = None,
) -> Frontier:
    """Return the allocation to use for every budget up to the searched one.

    Args:
        study: A study of a score, or of a score and then a cost, of any sampler.
        task: Task that it tunes; see `recommend`.
        costs: Cost models to report beside the cost that the frontier is over: the task's own, or
            what trials of two objectives measured in its place. Default:
            FLOPs, price and latency; those whose facts (sizes, prices, speeds) the models do not
            state are left out, and `Frontier.missing` has the reason.
        tried_only: Whether to leave out allocations that no trial ran. They are only compared
            below the cost of the recommended allocation.
        score_sd: Standard deviation of a score; see `recommend`.

    Returns:
        The frontier.

    Raises:
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
        MissingFactError: A model does not state a fact that one of the given `costs` needs.
        TaskError: `costs` or `score_sd` is invalid.
    """
    if score_sd is not None and not (is_finite(score_sd) and score_sd > 0):
        raise TaskError(f"frontier: `score_sd` must be finite and above 0, got {score_sd!r}.")
    recognized = task is None and Task.registered(study) is None
    found = Candidates(study, task, "frontier")
    return frontier_of(
        found, costs=costs, tried_only=tried_only, score_sd=score_sd, recognized=recognized
    )


def frontier_of(
    found: Candidates,
    *,
    costs: Sequence[CostModel] | None = None,
    tried_only: bool = False,
    score_sd: float | None = None,
    recognized: bool = False,
) -> Frontier:
    """Return the frontier of some candidates; see `frontier` for the other arguments.

    Args:
        found: The candidates.
        costs: See `frontier`.
        tried_only: See `frontier`.
        score_sd: See `frontier`.
        recognized: Whether the task was recognized by names of parameters, so that it has no
            token lengths.
    """
    best = found.best(np.arange(len(found.keys)))
    options = _options(found, best, tried_only)
    records = _records(found, options, best)
    points, own = options.points.take(np.array(records)), options.costs[records]
    allocations = [found.task.allocation(options.keys[i]) for i in records]
    values = found.values(points, options.means[records])
    # Those of confirmed allocations are corrected less, and must not fall below cheaper ones'.
    sign = found.evidence.sign
    values = sign * np.minimum.accumulate(sign * values[::-1])[::-1]
    intervals = found.intervals(points, values, score_sd)
    others, missing = _other_costs(found, costs, allocations, recognized=recognized)
    scale = found.scale
    lows = found.exact.at(points).differences_from(len(records) - 1).bounds()[0] * scale.span
    seen = _instances(found)
    winner = found.outcomes.get(found.keys[best], {})
    built = []
    for position, (i, allocation) in enumerate(zip(records, allocations)):
        key = options.keys[i]
        paired = Paired.of(found.outcomes.get(key, {}), winner, scale.extent)
        loss = -min(float(lows[position]), paired.lower) if paired.shared else -lows[position]
        built.append(
            FrontierPoint(
                params=found.task.params(allocation),
                allocation=allocation,
                value=float(values[position]),
                interval=intervals[position],
                cost=float(own[position]),
                costs=others[position],
                tried=key in seen,
                instances=seen.get(key, 0),
                loss=0.0 if i == best else float(min(loss, scale.extent)),
                shared=paired.shared,
                unit=found.unit,
            )
        )
    return Frontier(
        points=tuple(built),
        unit=found.unit,
        budget=float(own[-1]) if found.measures_cost else found.task.budget,
        missing=missing,
        maximize=sign > 0,
        margin=MARGIN * scale.extent,
        least=max(MIN_SHARED, len(winner.keys() - found.fresh)),
    )


@dataclass(frozen=True, slots=True)
class _Options:
    """Allocations to choose from: the candidates first, then others.

    Args:
        keys: The allocations.
        points: The same, with their prior moments.
        costs: Their costs, shape (allocations,).
        means: Their posterior means, in rates.
    """

    keys: Sequence[Choices]
    points: Points
    costs: Floats
    means: Floats


def _options(found: Candidates, best: int, tried_only: bool) -> _Options:
    """Return the candidates, and other allocations that cost less than the best one.

    The others are those that only stopped trials tried and, unless `tried_only`, untried ones.
    """
    evidence, known = found.evidence, known_feasibility(found.evidence)
    own = found.front_costs(found.points)
    # Allocations that are dear by the task may have been measured to be cheap.
    limit = found.task.feasible.limit if found.measures_cost else float(own[best])
    keys = dict.fromkeys(found.keys)
    observed = dict.fromkeys(evidence.choices)
    stopped = [key for key in observed if known.get(key, True) and key not in keys]
    others = found.surrogate.points_of(stopped)
    if not tried_only and limit > found.task.feasible.cheapest_cost:
        others = others.joined(_untried(found, limit))
    costs = found.front_costs(others)
    others, costs = others.take(np.flatnonzero(costs < own[best])), costs[costs < own[best]]
    return _Options(
        keys=[*keys, *others.choices],
        points=found.points.joined(others),
        costs=np.concatenate([own, costs]),
        means=np.concatenate([found.mean, found.posterior.at(others).mean()]),
    )


def _untried(found: Candidates, limit: float) -> Points:
    """Return allocations within a limit of the cost that no finished trial tried."""
    task, evidence = found.task, found.evidence
    # Tried ones may be over the budget, which may have been larger.
    limit = min(limit, task.feasible.limit)
    budgets = [limit]
    if task.feasible.arrays(_POOLS * _POOL_SIZE) is None:
        low = max(task.feasible.cheapest_cost, limit / 1000)
        budgets = np.geomspace(min(low, limit), limit, _POOLS).tolist()
    drawn = [_pool(task, evidence.ranges, budget, len(budgets)) for budget in budgets]
    models, samples = (np.concatenate(arrays) for arrays in zip(*drawn))
    fresh = {
        key: position
        for position, key in enumerate(choices_of(models, samples))
        if key not in evidence.failed and (key not in evidence.tried or key in evidence.pending)
    }
    rows = np.array(list(fresh.values()), dtype=np.int64)
    points = found.surrogate.points(models[rows], samples[rows])
    if evidence.constraints and len(points):
        log = Feasibility(evidence, found.surrogate).log_probability(points)
        points = points.take(np.flatnonzero(log >= np.log(_LIKELY)))
    return points


def _pool(task: Task, ranges: Ranges | None, budget: float, parts: int) -> tuple[Ints, Ints]:
    """Return the pool of a planner whose budget is another one."""
    table = FeasibleSet(task.feasible.costs, budget)
    table = table if ranges is None else ranges.table(table)
    if not table.fits(table.complete({})):
        none = np.zeros((0, len(task.stages)), dtype=np.int64)
        return none, none
    size = _POOLS * _POOL_SIZE // parts
    models, samples = build_pool(table, np.random.default_rng(SEED), size)
    return (models, samples) if ranges is None else ranges.decode(models, samples)


def _records(found: Candidates, options: _Options, best: int) -> list[int]:
    """Return the positions of the options that are best at their cost, cheapest first."""
    costs, means = options.costs, options.means
    tried = np.arange(len(found.keys))
    records: list[int] = []

    def add(position: int) -> None:
        # Sums of costs that are equal differ by rounding errors.
        while records and costs[records[-1]] * (1 + ROUNDING) >= costs[position]:
            records.pop()
        records.append(position)

    top = -np.inf
    for position in np.argsort(costs, kind="stable").tolist():
        mean = means[position]
        if costs[position] >= costs[best]:
            break
        if position < len(tried):
            if mean > top:
                add(found.best(tried[costs[: len(tried)] <= costs[position]]))
                top = mean
        elif top + _LEAST_GAIN < mean < means[best]:
            add(position)
            top = mean
    add(best)
    return records


def _instances(found: Candidates) -> dict[Choices, int]:
    """Return the number of instances that each tried allocation saw."""
    steps: dict[Choices, set[int]] = {key: set() for key in found.keys}
    keys = found.evidence.choices
    for key, outcomes in zip(keys, found.evidence.outcomes):
        steps.setdefault(key, set()).update(outcomes)
    return {key: len(seen) for key, seen in steps.items()}


def _other_costs(
    candidates: Candidates,
    costs: Sequence[CostModel] | None,
    allocations: Sequence[Allocation],
    *,
    recognized: bool,
) -> tuple[list[dict[str, float]], tuple[str, ...]]:
    """Return the costs of allocations by unit, and why cost models are left out.

    Raises:
        MissingFactError: A fact is missing, and the costs were given.
    """
    task = candidates.task
    found: list[dict[str, float]] = [{} for _ in allocations]
    missing: list[str] = []
    if candidates.measures_cost:
        name = task.cost_model.unit or "task"
        found = [{name: task.cost(allocation)} for allocation in allocations]
    if not isinstance(costs, Sequence | None):
        raise TaskError(f"frontier: `costs` must be a list of cost models, got {costs!r}.")
    for cost in _COSTS if costs is None else costs:
        if isinstance(cost, type) or not isinstance(cost, CostModel):
            raise TaskError(f"frontier: `costs` must hold cost models, got {cost!r}.")
        if cost == task.cost_model or (costs is None and cost.unit == task.cost_model.unit):
            continue
        name, number = cost.unit or type(cost).__name__, 2
        while name in {task.cost_model.unit, *found[0]}:
            name, number = f"{cost.unit} ({number})", number + 1
        try:
            if recognized:
                raise MissingFactError(
                    f"{type(cost).__name__} needs the token lengths of the stages, which were "
                    "recognized by the names of their parameters: pass `task=`."
                )
            for row, allocation in zip(found, allocations):
                row[name] = _cost_of(task, cost, allocation)
        except MissingFactError as error:
            if costs is not None:
                raise
            # Costs that trials measure are in the unit of the study, so others are not missed.
            if not candidates.measures_cost:
                missing.append(f"no cost in {name}: {error}")
            found = [{unit: row[unit] for unit in row if unit != name} for row in found]
    return found, tuple(missing)


def _cost_of(task: Task, cost: CostModel, allocation: Allocation) -> float:
    """Return the cost of an allocation by a cost model."""
    total = 0.0
    for stage in task.stages:
        name, samples = allocation[stage.name]
        model = next(model for model in stage.models if model.name == name)
        total += float(cost_row("frontier", cost, stage, model)[samples - 1])
    return total
