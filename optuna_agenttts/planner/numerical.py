"""Numerical planner: Bayesian optimization with the knowledge gradient, without a language model.

Each proposal is the allocation of the largest knowledge gradient (`acquisition.py`), which trades
off exploration, exploitation and repeated measurements. While models are untried, it is chosen
among the allocations that use the most of them (`opening.py`). In studies with constraints, the
gradient is multiplied by the probability that they are met (`feasibility.py`), and in studies with
an agent by its odds (`odds.py`). Pending trials are
imputed with their posterior means (kriging believer; Ginsbourger, Le Riche & Carraro 2010). The
planner is a function of the evidence: between calls it keeps only caches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from optuna_agenttts.planner.acquisition import Acquisition, BestScore
from optuna_agenttts.planner.evidence import (
    Candidate,
    Choices,
    Constraint,
    EarlierTrials,
    Evidence,
    Floats,
    Ints,
    choices_of,
)
from optuna_agenttts.planner.feasibility import Feasibility
from optuna_agenttts.planner.forecasts import leading
from optuna_agenttts.planner.frontier_improvement import acquisition_of
from optuna_agenttts.planner.kernels import Points, Surrogate, surrogate_of
from optuna_agenttts.planner.odds import fitted_odds, weighing
from optuna_agenttts.planner.opening import (
    Opening,
    left_of_unit_budgets,
    untried_models,
    with_most_untried,
)
from optuna_agenttts.planner.pools import Pool, Pools
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.planner.scale import Scale
from optuna_agenttts.planner.shortlist import best_observed, shortlist
from optuna_agenttts.task.ranges import Ranges
from optuna_agenttts.task.task import Task

_EARLIER_WEIGHT = 0.25
"""Weight of a trial of an earlier study in trials of this one: rankings of allocations on other
data are similar, not equal. Chosen by hand."""
_EQUAL_SCORES = 8
"""Number of equal scores, of a metric of unknown range, after which no gain is expected. Chosen by
hand."""
_MIN_IMPROVEMENT = 1e-12
"""Avoids a division by zero where no allocation has a knowledge gradient, in rates."""


class Comparison(NamedTuple):
    """Proposal of an allocation, and what others are worth.

    Args:
        proposal: The allocation with the largest knowledge gradient.
        worth: Knowledge gradient of each alternative as a share of the largest one, shape
            (alternatives,). All ones before the first score.
        expected: Expected score of each alternative; NaN before the first score.
        improvement: Largest expected improvement over the incumbent, in units of the scores;
            infinite before the first score of a feasible allocation.
        leaders: Allocations with the largest knowledge gradients, if they are asked for; empty
            before the first score.
    """

    proposal: Candidate
    worth: Floats
    expected: Floats
    improvement: float
    leaders: tuple[Choices, ...] = ()


class NumericalPlanner:
    """Planner that proposes the allocation with the largest knowledge gradient.

    Args:
        task: The task.
        insights: The paper's insights to include in the prior; see `draw_curves`. Without
            Insight 1 the opening is a single trial.
        experience: Trials of earlier studies of similar tasks.
        opening: The opening; see `opening.py`.
        floor: Score to reach at the lowest cost, in the study's own sign. Default: the best score
            is searched for.
    """

    def __init__(
        self,
        task: Task,
        *,
        insights: Collection[int] = (1, 2, 3),
        experience: EarlierTrials | None = None,
        opening: Opening = "joint",
        floor: float | None = None,
    ) -> None:
        """See the class."""
        self.floor = floor
        self.task, self.insights = task, tuple(insights)
        self._experience, self._opening = experience, opening
        self.surrogate, rng = surrogate_of(task, self.insights)
        self._pools = Pools(self.surrogate, task, rng)

    def pool(self, evidence: Evidence) -> Pool:
        """Return the allocations that are compared at each ask, within the study's ranges."""
        return self._pools.of(evidence.ranges)

    def with_experience(self, evidence: Evidence) -> Evidence:
        """Return evidence extended by the trials of earlier studies.

        The rates of each earlier study, on its own scale, are shifted by the median difference
        between this study's rates and their prediction from the earlier study alone.
        """
        earlier = self._experience
        if earlier is None:
            return evidence
        known, none = evidence.scale.bounded, np.zeros(0, dtype=np.int64)
        if not evidence.scale.informative:
            # Scores that are all equal have no scale that the earlier ones could be mapped to.
            evidence = replace(evidence.take(none), scale=Scale.of(earlier.scores))
        scores = earlier.scores.copy()
        for study in np.unique(earlier.studies) if len(evidence.scores) else ():
            rows = earlier.studies == study
            scale = evidence.scale if known else Scale.of(scores[rows])
            alone = replace(evidence.take(none), scale=scale)
            parts = earlier.models[rows], earlier.samples[rows], scores[rows]
            alone = _with_rows(alone, *parts, share=1.0)
            posterior = Posterior(self.surrogate, alone)
            points = self.surrogate.points(evidence.models, evidence.samples)
            gaps = evidence.scale.rates(evidence.scores) - posterior.at(points).mean()
            rates = alone.scale.rates(alone.scores) + float(np.median(gaps))
            scores[rows] = evidence.scale.scores(rates)
        return _with_rows(evidence, earlier.models, earlier.samples, scores, share=_EARLIER_WEIGHT)

    def _untried(self, evidence: Evidence) -> set[tuple[int, int]]:
        """Return the (stage, model) pairs that the opening has yet to try."""
        if 1 not in self.insights:
            return set()
        ranges = evidence.ranges
        untried = untried_models(self.task, self._tried(evidence))
        if ranges is not None:
            untried = {(s, m) for s, m in untried if m in ranges.models[s]}
        return untried

    def _tried(self, evidence: Evidence) -> set[Choices]:
        """Return the allocations of trials, those of earlier studies included."""
        tried = set(evidence.tried)
        if self._experience is not None:
            tried.update(choices_of(self._experience.models, self._experience.samples))
        return tried

    def _unit_budgets(
        self, evidence: Evidence, ranges: Ranges | None
    ) -> list[tuple[int, Choices]]:
        """Return what is left of the paper's opening; see `left_of_unit_budgets`."""
        if self._opening != "paper" or 1 not in self.insights:
            return []
        left = left_of_unit_budgets(self.task, self._tried(evidence))
        return [found for found in left if ranges is None or ranges.allow(found[1])]

    def in_opening(self, evidence: Evidence) -> bool:
        """Return whether the next trial belongs to the opening."""
        if not evidence.tried or self._unit_budgets(evidence, evidence.ranges):
            return True
        models = self.pool(evidence).points.models
        return len(with_most_untried(models, self._untried(evidence))) > 0

    def compare(
        self,
        evidence: Evidence,
        choices: Sequence[Choices] = (),
        constraint: Constraint | None = None,
        *,
        leaders: bool = False,
    ) -> Comparison:
        """Propose the next allocation after the opening and evaluate alternatives.

        Args:
            evidence: The evidence.
            choices: The alternatives.
            constraint: Allocations that the trial can take.
            leaders: Whether to return the leaders, too.
        """
        constraint = constraint or Constraint()
        pool, rows = self._pools.rows(evidence, constraint)
        repeated = None
        if not constraint.fixed and has_differing_repeats(evidence):
            repeated = constraint.ranges or evidence.ranges or Ranges.all_of(self.task.feasible)
        return self._maximize(evidence, pool, rows, choices, repeated, leaders=leaders)

    def propose(self, evidence: Evidence, constraint: Constraint | None = None) -> Candidate:
        """Propose the next allocation.

        The proposal is deterministic: workers that read the same trials propose the same
        allocation. Workers that ask at the same time avoid each other, because each skips as many
        proposals as there are concurrent trials with lower numbers.

        Args:
            evidence: The evidence.
            constraint: Allocations that the trial can still take.
        """
        constraint = constraint or Constraint()
        candidate = self._propose(evidence, constraint)
        for _ in range(evidence.concurrent):
            evidence = replace(
                evidence,
                pending=(*evidence.pending, candidate.choices),
                visited=evidence.visited | {candidate.choices},
                tried=evidence.tried | {candidate.choices},
            )
            candidate = self._propose(evidence, constraint)
        return candidate

    def _propose(self, evidence: Evidence, constraint: Constraint) -> Candidate:
        """Propose the next allocation, regardless of concurrent trials."""
        if not constraint.fixed:
            for stage, choices in self._unit_budgets(
                evidence, constraint.ranges or evidence.ranges
            ):
                name = self.task.stages[stage].name
                model = self.task.stages[stage].models[choices[stage][0]].name
                reason = f"{model} at the unit budget of {name}, single samples elsewhere"
                return Candidate(choices, "opening", reason)
        if not constraint.fixed and not evidence.tried:
            pool, rows = self._pools.rows(evidence, constraint)
            points = pool.points.take(rows)
            if self._experience is not None:
                posterior = Posterior(self.surrogate, self.with_experience(evidence))
                best = int(np.argmax(posterior.at(points).mean()))
                return Candidate(_choices(points, best), "opening", "best by earlier studies")
            best = int(np.argmax(self.surrogate.prior_mean(points)))
            return Candidate(_choices(points, best), "opening", "best guess before any trial")
        untried = set() if constraint.fixed else self._untried(evidence)
        if untried:
            pool, rows = self._pools.rows(evidence, constraint)
            rows = rows[with_most_untried(pool.points.models[rows], untried)]
        if untried and len(rows):
            chosen = self._maximize(evidence, pool, rows).proposal
            names = [
                f"{self.task.stages[s].models[m].name} in {self.task.stages[s].name}"
                for s, m in sorted(untried)
                if chosen.choices[s][0] == m
            ]
            reason = f"first look at {', '.join(names)}; {chosen.reason}"
            return replace(chosen, origin="opening", reason=reason)
        return self.compare(evidence, (), constraint).proposal

    def _maximize(
        self,
        evidence: Evidence,
        pool: Pool,
        rows: Ints,
        alternatives: Sequence[Choices] = (),
        repeated: Ranges | None = None,
        *,
        leaders: bool = False,
    ) -> Comparison:
        """Maximize the knowledge gradient.

        Args:
            evidence: The evidence.
            pool: The pool.
            rows: Positions in the pool to choose from.
            alternatives: See `compare`.
            repeated: Observed allocations within these ranges may be measured again; None for
                none.
            leaders: See `compare`.
        """
        feasibility = Feasibility(evidence, self.surrogate) if evidence.constraints else None
        if feasibility is not None:
            rows = feasibility.likely(pool.points, rows)
        evidence = self.with_experience(evidence)
        if len(evidence.scores) == 0 or not evidence.scale.informative:
            best = rows[int(np.argmax(self.surrogate.prior_mean(pool.points)[rows]))]
            reason = "best guess before two different scores"
            guess = Candidate(pool.keys[best], "numerical", reason)
            left = 0.0 if len(evidence.scores) >= _EQUAL_SCORES else float("inf")
            ones = np.ones(len(alternatives))
            return Comparison(guess, ones, np.nan * ones, left)
        imputed = _impute_pending(evidence, self.surrogate)
        eligible = None if feasibility is None else feasibility.eligible(imputed)
        posterior = Posterior(self.surrogate, imputed, eligible=eligible)
        kernels = pool.kernels(posterior.observed)
        search = acquisition_of(posterior, imputed, pool.points, self.floor)
        view = shortlist(posterior.at(pool.points, kernels), rows, search)
        improvement = search.expected(view)
        if feasibility is not None:
            improvement = feasibility.weigh(improvement, view.points)
        weigh = _weighing(evidence, posterior, pool, search)
        ranked = np.argsort(-improvement * weigh(view.points), kind="stable")
        view = view.take(ranked[: search.compared])
        if repeated is not None:
            view = view.joined(best_observed(posterior, evidence, repeated, search))
        gradient = search.gradient(view)
        values = gradient * weigh(view.points)
        best = feasibility.best(values, view.points) if feasibility else int(np.argmax(values))
        moments = view.take(np.array([best])).moments()
        mean, sd = moments.mean(), moments.sd()
        scale = posterior.scale
        reason = (
            f"expected {evidence.sign * scale.scores(mean)[0]:.3g} ± {sd[0] * scale.span:.2g}; "
            f"{search.gain_text(float(gradient[best]), scale.span)}"
        )
        proposal = Candidate(_choices(view.points, best), "numerical", reason)
        worth = expected = np.zeros(0)
        if alternatives:
            others = posterior.at(self.surrogate.points_of(alternatives))
            worth = search.gradient(others)
            worth = feasibility.weigh(worth, others.points) if feasibility else worth
            expected = scale.scores(others.mean())
        weighed = feasibility.weigh(gradient, view.points) if feasibility else gradient
        worth = worth / max(float(weighed.max()), _MIN_IMPROVEMENT)
        first = leading(view.points, weighed) if leaders else ()
        largest = float(improvement.max())
        found = feasibility is None or feasibility.found
        improves = largest * scale.span if found else float("inf")
        return Comparison(proposal, worth, expected, improves, first)


def _weighing(
    evidence: Evidence, posterior: Posterior, pool: Pool, search: Acquisition
) -> Callable[[Points], Floats]:
    """Return a function from allocations to the weights that the agent's odds give them."""
    # Odds are about the best score within the whole budget.
    if not evidence.odds or not isinstance(search, BestScore):
        return lambda points: np.ones(len(points))
    fitted = fitted_odds(posterior, pool.points, evidence.task)
    return weighing(evidence.odds, fitted, len(evidence.scores))


def _impute_pending(evidence: Evidence, surrogate: Surrogate) -> Evidence:
    """Turn pending trials into observations of their posterior means (kriging believer)."""
    if not evidence.pending:
        return evidence
    pending = surrogate.points_of(evidence.pending)
    posterior = Posterior(surrogate, replace(evidence, pending=()))
    fantasies = posterior.scale.scores(posterior.at(pending).mean())
    imputed = _with_rows(evidence, pending.models, pending.samples, fantasies, share=1.0)
    return replace(imputed, pending=())


def _with_rows(
    evidence: Evidence, models: Ints, samples: Ints, scores: Floats, *, share: float
) -> Evidence:
    """Return evidence with more observations, each weighted as a share of a full trial."""
    return replace(
        evidence,
        models=np.concatenate([evidence.models, models]),
        samples=np.concatenate([evidence.samples, samples]),
        scores=np.concatenate([evidence.scores, scores]),
        shares=np.concatenate([evidence.shares, np.full(len(scores), share)]),
        measured=(*evidence.measured, *[np.nan] * len(scores)),
    )


def has_differing_repeats(evidence: Evidence) -> bool:
    """Return whether an allocation was tried twice with different scores.

    Objectives that reuse samples, as `MultiStageObjective` does, return the same score for the
    same allocation. Repeating one is informative only if the study shows that scores are random.
    """
    whole = (evidence.shares >= 1) & (evidence.block_of_rows() == 0)
    keys = choices_of(evidence.models[whole], evidence.samples[whole])
    return len(set(zip(keys, evidence.scores[whole].tolist()))) > len(set(keys))


def _choices(points: Points, position: int) -> Choices:
    """Return the allocation at a position as choices."""
    return choices_of(points.models[[position]], points.samples[[position]])[0]
