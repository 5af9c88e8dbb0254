"""Numerical planner: Bayesian optimization with the knowledge gradient, without a language model.

Each proposal is the allocation of the largest knowledge gradient (`acquisition.py`), which trades
off exploration, exploitation and repeated measurements. While models are untried, it is chosen
among the allocations that use the most of them (`opening.py`). Pending trials are imputed with
their posterior means (kriging believer; Ginsbourger, Le Riche & Carraro 2010). The planner is a
function of the evidence: between calls it keeps only caches.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from optuna_agenttts.planner.acquisition import expected_improvement, knowledge_gradient
from optuna_agenttts.planner.evidence import (
    Candidate,
    Choices,
    Constraint,
    EarlierTrials,
    Evidence,
    Floats,
    Ints,
)
from optuna_agenttts.planner.kernels import Points, Surrogate
from optuna_agenttts.planner.opening import untried_models, with_most_untried
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.planner.posterior import Posterior, View
from optuna_agenttts.task.task import Task

_POOL_SIZE = 3000
"""Allocations in the pool, about. Chosen by hand."""
_MAX_ENTRIES = 60_000
"""Allocations times observations for which one ask computes the full posterior: some
milliseconds. Chosen by hand."""
_MIN_SHORTLIST = 200
"""Allocations for which one ask always computes the full posterior. Chosen by hand."""
_GRADIENTS = 200
"""Allocations of largest expected improvement for which one ask computes the knowledge gradient,
which takes longer. Chosen by hand."""
_REPEATED = 8
"""Observed allocations, best posterior means first, that may be measured again. Chosen by hand."""
_CACHED_KERNELS = 256
"""Observed allocations whose kernels with the pool are cached: some 12 MB."""
_EARLIER_WEIGHT = 0.25
"""Weight of a trial of an earlier study in trials of this one: rankings of allocations on other
data are similar, not equal. Chosen by hand."""
_MIN_IMPROVEMENT = 1e-12
"""Avoids a division by zero where no allocation has an expected improvement, in rates."""
_SEED = 0
"""Fixed, so that workers that read the same trials make the same proposal."""


class KernelCache:
    """Cache of the residual kernels of the pool with observed allocations.

    Args:
        surrogate: The surrogate.
        pool: The pool.
    """

    def __init__(self, surrogate: Surrogate, pool: Points) -> None:
        """See the class."""
        self._surrogate, self._pool = surrogate, pool
        self._cache: dict[Choices, list[Floats]] = {}

    def of(self, observed: Points) -> list[Floats]:
        """Return the kernels, shape (pool, observed), for each of `LENGTH_SCALES`."""
        keys = _keys(observed.models, observed.samples)
        missing = [i for i, key in enumerate(keys) if key not in self._cache]
        if missing:
            if len(self._cache) > _CACHED_KERNELS:
                self._cache, missing = {}, list(range(len(keys)))
            kernels = self._surrogate.residual_kernels(
                self._pool, observed.take(np.array(missing))
            )
            for column, i in enumerate(missing):
                self._cache[keys[i]] = [kernel[:, column].copy() for kernel in kernels]
        columns = [self._cache[key] for key in keys]
        return [np.stack(parts).T for parts in zip(*columns)]


class NumericalPlanner:
    """Planner that proposes the allocation with the largest knowledge gradient.

    Args:
        task: The task.
        insights: The paper's insights to include in the prior; see `draw_curves`. Without
            Insight 1 the opening is a single trial.
        experience: Trials of earlier studies of similar tasks.
    """

    def __init__(
        self,
        task: Task,
        *,
        insights: Collection[int] = (1, 2, 3),
        experience: EarlierTrials | None = None,
    ) -> None:
        """See the class."""
        self.task, self.insights = task, tuple(insights)
        self._experience = experience
        rng = np.random.default_rng(_SEED)
        self.surrogate = Surrogate(task, rng, insights=self.insights)
        self._pool = self.surrogate.points(*build_pool(task.feasible, rng, _POOL_SIZE))
        self._keys = _keys(self._pool.models, self._pool.samples)
        self._kernels = KernelCache(self.surrogate, self._pool)

    @property
    def pool(self) -> Points:
        """Allocations that are compared at each ask."""
        return self._pool

    def with_experience(self, evidence: Evidence) -> Evidence:
        """Return evidence extended by the trials of earlier studies.

        The scores of each earlier study are shifted by the median difference between this study's
        scores and their prediction from the earlier study alone.
        """
        earlier = self._experience
        if earlier is None:
            return evidence
        scores = earlier.scores.copy()
        for study in np.unique(earlier.studies) if len(evidence.scores) else ():
            rows = earlier.studies == study
            alone = replace(
                evidence,
                models=earlier.models[rows],
                samples=earlier.samples[rows],
                scores=scores[rows],
                shares=np.ones(int(rows.sum())),
                pending=(),
                outcomes=(),
            )
            posterior = Posterior(self.surrogate, alone)
            points = self.surrogate.points(evidence.models, evidence.samples)
            expected = posterior.scale.scores(posterior.at(points).mean())
            scores[rows] += float(np.median(evidence.scores - expected))
        return _with_rows(evidence, earlier.models, earlier.samples, scores, share=_EARLIER_WEIGHT)

    def _untried(self, evidence: Evidence) -> set[tuple[int, int]]:
        """Return the (stage, model) pairs that the opening has yet to try."""
        if 1 not in self.insights:
            return set()
        tried = set(evidence.visited)
        if self._experience is not None:
            tried.update(_keys(self._experience.models, self._experience.samples))
        return untried_models(self.task.feasible, tried)

    def in_opening(self, evidence: Evidence) -> bool:
        """Return whether the next trial belongs to the opening."""
        if not evidence.visited:
            return True
        return len(with_most_untried(self._pool.models, self._untried(evidence))) > 0

    def compare(self, evidence: Evidence, choices: Sequence[Choices]) -> tuple[Candidate, Floats]:
        """Propose the next allocation after the opening and evaluate alternatives.

        Args:
            evidence: The evidence.
            choices: The alternatives.

        Returns:
            The allocation with the largest knowledge gradient; and the expected improvement of
            each alternative as a share of the largest one in the pool, shape (alternatives,). All
            ones before the first score.
        """
        proposal, worth, _ = self._maximize(evidence, Constraint(), choices)
        return proposal, worth

    def propose_with_improvement(self, evidence: Evidence) -> tuple[Candidate, float]:
        """Propose the next allocation after the opening and return what is left to gain.

        Args:
            evidence: The evidence.

        Returns:
            The allocation; and the largest expected improvement over the incumbent, in units of
            the scores, infinite before the first score.
        """
        proposal, _, improvement = self._maximize(evidence, Constraint())
        return proposal, improvement

    def propose(self, evidence: Evidence, constraint: Constraint) -> Candidate:
        """Propose the next allocation.

        The proposal is deterministic: workers that read the same trials propose the same
        allocation. Workers that ask at the same time avoid each other, because each skips as many
        proposals as there are concurrent trials with lower numbers.

        Args:
            evidence: The evidence.
            constraint: Choices of the trial that are already fixed.
        """
        candidate = self._propose(evidence, constraint)
        for _ in range(evidence.concurrent):
            evidence = replace(
                evidence,
                pending=(*evidence.pending, candidate.choices),
                visited=evidence.visited | {candidate.choices},
            )
            candidate = self._propose(evidence, constraint)
        return candidate

    def _propose(self, evidence: Evidence, constraint: Constraint) -> Candidate:
        """Propose the next allocation, regardless of concurrent trials."""
        if not constraint and not evidence.visited:
            if self._experience is not None:
                posterior = Posterior(self.surrogate, self.with_experience(evidence))
                best = int(np.argmax(posterior.at(self._pool).mean()))
                return Candidate(_choices(self._pool, best), "opening", "best by earlier studies")
            best = int(np.argmax(self.surrogate.prior_mean(self._pool)))
            return Candidate(_choices(self._pool, best), "opening", "best guess before any trial")
        untried = set() if constraint else self._untried(evidence)
        among = with_most_untried(self._pool.models, untried)
        if len(among):
            chosen = self._maximize(evidence, constraint, among=among)[0]
            names = [
                f"{self.task.stages[s].models[m].name} in {self.task.stages[s].name}"
                for s, m in sorted(untried)
                if chosen.choices[s][0] == m
            ]
            reason = f"first look at {', '.join(names)}; {chosen.reason}"
            return replace(chosen, origin="opening", reason=reason)
        return self._maximize(evidence, constraint)[0]

    def _maximize(
        self,
        evidence: Evidence,
        constraint: Constraint,
        alternatives: Sequence[Choices] = (),
        among: Ints | None = None,
    ) -> tuple[Candidate, Floats, float]:
        """Maximize the knowledge gradient.

        Args:
            evidence: The evidence.
            constraint: Choices of the trial that are already fixed.
            alternatives: See `compare`.
            among: Positions in the pool to choose from. Default: all that have not been tried,
                and observed ones if repeating them is informative.

        Returns:
            The proposal; see `compare` and `propose_with_improvement` for the rest.
        """
        points = self._constrained_pool(constraint) if constraint else self._pool
        keys = _keys(points.models, points.samples) if constraint else self._keys
        repeat = among is None and not constraint and _has_differing_repeats(evidence)
        if among is None:
            untried = np.array([key not in evidence.visited for key in keys])
            # If all have been tried, the only option left is to repeat one.
            among = np.flatnonzero(untried) if untried.any() else np.arange(len(keys))
        evidence = self.with_experience(evidence)
        if len(evidence.scores) == 0:
            best = among[int(np.argmax(self.surrogate.prior_mean(points)[among]))]
            guess = Candidate(keys[best], "numerical", "best guess before any score")
            return guess, np.ones(len(alternatives)), float("inf")
        posterior = Posterior(self.surrogate, _impute_pending(evidence, self.surrogate))
        residuals = None if constraint else self._kernels.of(posterior.observed)
        view = _shortlist(posterior.at(points, residuals), among, len(evidence.scores))
        improvement = expected_improvement(view)
        view = view.take(np.argsort(-improvement, kind="stable")[:_GRADIENTS])
        if repeat:
            view = view.joined(_best_observed(posterior, evidence.pending))
        gradient = knowledge_gradient(view)
        best = int(np.argmax(gradient))
        mean, sd = view.take(np.array([best])).mean_and_sd()
        scale = posterior.scale
        reason = (
            f"expected {evidence.sign * scale.scores(mean)[0]:.3g} ± {sd[0] * scale.span:.2g}; "
            f"expected to improve the recommendation by {gradient[best] * scale.span:.2g}"
        )
        proposal = Candidate(_choices(view.points, best), "numerical", reason)
        worth = np.zeros(0)
        if alternatives:
            # Expected improvement rather than knowledge gradient: an alternative should be tried
            # because it may be good, not because a bad result would be informative.
            worth = expected_improvement(posterior.at(self.surrogate.points_of(alternatives)))
        largest = float(improvement.max())
        return proposal, worth / max(largest, _MIN_IMPROVEMENT), largest * scale.span

    def _constrained_pool(self, constraint: Constraint) -> Points:
        """Return the feasible allocations of the pool after setting the fixed choices.

        If none is feasible, return the fixed choices with one sample of the cheapest model in
        all other stages: the user's choice takes precedence over the budget.
        """
        feasible = self.task.feasible
        models, samples = self._pool.models.copy(), self._pool.samples.copy()
        for stage, model in constraint.models.items():
            models[:, stage] = model
        for stage, number in constraint.samples.items():
            samples[:, stage] = number
        fits = feasible.costs_of(models, samples) <= feasible.limit
        both = np.unique(np.stack([models[fits], samples[fits]], axis=-1), axis=0)
        if len(both) == 0:
            fixed = feasible.complete({})
            for stage, model in constraint.models.items():
                fixed[stage] = (model, fixed[stage][1])
            for stage, number in constraint.samples.items():
                fixed[stage] = (fixed[stage][0], number)
            both = np.array([fixed], dtype=np.int64)
        return self.surrogate.points(both[..., 0], both[..., 1])


def _shortlist(view: View, positions: Ints, observations: int) -> View:
    """Return a shortlist that bounds the work of an ask.

    Half of it are the allocations of largest posterior mean, half are evenly spread over the
    ranks of the others.
    """
    size = max(_MIN_SHORTLIST, _MAX_ENTRIES // max(1, observations))
    if len(positions) <= size:
        return view.take(positions)
    order = np.argsort(-view.mean()[positions], kind="stable")
    best, others = order[: size // 2], order[size // 2 :]
    spread = others[np.linspace(0, len(others) - 1, size - size // 2).astype(np.int64)]
    return view.take(positions[np.concatenate([best, spread])])


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
    )


def _has_differing_repeats(evidence: Evidence) -> bool:
    """Return whether an allocation was tried twice with different scores.

    Objectives that reuse samples, as `MultiStageObjective` does, return the same score for the
    same allocation. Repeating one is informative only if the study shows that scores are random.
    """
    whole = evidence.shares >= 1
    known: dict[Choices, float] = {}
    for key, score in zip(
        _keys(evidence.models[whole], evidence.samples[whole]), evidence.scores[whole].tolist()
    ):
        if known.setdefault(key, score) != score:
            return True
    return False


def _best_observed(posterior: Posterior, pending: Collection[Choices]) -> Points:
    """Return the best observed allocations except pending ones."""
    order = np.argsort(-posterior.observed_view.mean(), kind="stable")[:_REPEATED]
    top = posterior.observed.take(order)
    keys = _keys(top.models, top.samples)
    keep = [i for i, key in enumerate(keys) if key not in pending]
    return top.take(np.array(keep, dtype=np.int64))


def _keys(models: Ints, samples: Ints) -> list[Choices]:
    """Convert arrays of shape (allocations, stages) to choices."""
    return [tuple(zip(m, s)) for m, s in zip(models.tolist(), samples.tolist(), strict=True)]


def _choices(points: Points, position: int) -> Choices:
    """Return the allocation at a position as choices."""
    return _keys(points.models[[position]], points.samples[[position]])[0]
