"""The numerical planner: no LLM, one proposal at a time.

It tries what is expected to improve the recommendation most (`acquisition.py`): exploring,
exploiting, and measuring a contender again are weighed alike. While models are untried, it
chooses among the allocations that show most of them (`initial.py`).
Trials that are running count as if they had scored what is expected of them. It is a function of
the evidence: it keeps nothing between calls but caches.
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
    Evidence,
    Floats,
    Ints,
    Recalled,
)
from optuna_agenttts.planner.kernels import Points, Surrogate
from optuna_agenttts.planner.opening import showing, untried_models
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.planner.posterior import Posterior, View
from optuna_agenttts.task.task import Task

_POOL = 3000
_WORK = 60_000
"""Allocations times observations that one ask may weigh in full: some milliseconds."""
_WEIGHED = 200
"""Of these, how many by expected improvement have their knowledge gradient worked out."""
_CONTENDERS = 8
_REMEMBERED = 256
"""Allocations whose kernels with the pool are kept: some 12 MB."""
_EARLIER = 0.25
"""What a trial of an earlier study counts, in trials of this one: another data set's ranking of
allocations is alike, not the same."""


class PoolKernels:
    """Residual kernels of the pool with observed allocations, each worked out once.

    Args:
        surrogate: The surrogate.
        pool: The pool.
    """

    def __init__(self, surrogate: Surrogate, pool: Points) -> None:
        """See the class."""
        self._surrogate, self._pool = surrogate, pool
        self._known: dict[Choices, list[Floats]] = {}

    def of(self, observed: Points) -> list[Floats]:
        """Kernels of shape (pool, observed), for each of `LENGTHS`."""
        keys = _keys(observed.models, observed.samples)
        missing = [i for i, key in enumerate(keys) if key not in self._known]
        if missing:
            if len(self._known) > _REMEMBERED:
                self._known, missing = {}, list(range(len(keys)))
            kernels = self._surrogate.smooth(self._pool, observed.take(np.array(missing)))
            for column, i in enumerate(missing):
                self._known[keys[i]] = [kernel[:, column].copy() for kernel in kernels]
        columns = [self._known[key] for key in keys]
        return [np.stack(parts).T for parts in zip(*columns)]


class NumericalPlanner:
    """Proposes allocations by what trying them is expected to add to the recommendation.

    Args:
        task: The task.
        insights: Which of the paper's insights to believe in. Without Insight 1 the opening is
            the prior's best guess alone.
        experience: Trials of earlier studies of similar tasks.
    """

    def __init__(
        self,
        task: Task,
        *,
        insights: Collection[int] = (1, 2, 3),
        experience: Recalled | None = None,
    ) -> None:
        """See the class."""
        self.task, self.insights = task, tuple(insights)
        self._experience = experience
        # A fixed seed: workers that see the same trials must propose the same (`propose`).
        rng = np.random.default_rng(0)
        self.surrogate = Surrogate(task, rng, insights=self.insights)
        self._pool = self.surrogate.points(*build_pool(task.feasible, rng, _POOL))
        self._keys = _keys(self._pool.models, self._pool.samples)
        self._kernels = PoolKernels(self.surrogate, self._pool)

    @property
    def pool(self) -> Points:
        """The allocations that are weighed against each other."""
        return self._pool

    def informed(self, evidence: Evidence) -> Evidence:
        """Evidence with earlier studies' trials beside it, each shifted to this study's level."""
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
        return _with_rows(evidence, earlier.models, earlier.samples, scores, share=_EARLIER)

    def _untried(self, evidence: Evidence) -> set[tuple[int, int]]:
        """What the opening has to show: (stage, model) pairs that no study has tried yet."""
        if 1 not in self.insights:
            return set()
        tried = set(evidence.visited)
        if self._experience is not None:
            tried.update(_keys(self._experience.models, self._experience.samples))
        return untried_models(self.task.feasible, tried)

    def opens(self, evidence: Evidence) -> bool:
        """Whether the opening still has something to show."""
        if not evidence.visited:
            return True
        return len(showing(self._pool.models, self._untried(evidence))) > 0

    def weigh(self, evidence: Evidence, choices: Sequence[Choices]) -> tuple[Candidate, Floats]:
        """The next allocation after the opening, and the worth of others beside it.

        Args:
            evidence: What is known.
            choices: The others.

        Returns:
            The allocation of largest knowledge gradient; and of each of the others, its expected
            improvement as a share of the largest. Ones before the first score.
        """
        proposal, worth, _ = self._improve(evidence, Constraint(), choices)
        return proposal, worth

    def outlook(self, evidence: Evidence) -> tuple[Candidate, float]:
        """The next allocation after the opening, and what is left to gain.

        Returns:
            The allocation; and the largest expected improvement over the best posterior mean so
            far, in units of the scores (infinite before any).
        """
        proposal, _, gain = self._improve(evidence, Constraint())
        return proposal, gain

    def propose(self, evidence: Evidence, constraint: Constraint) -> Candidate:
        """Propose the next allocation.

        Planners are deterministic: workers that see the same trials propose the same, and of
        those that ask at the same moment each passes over as many proposals as there are
        unannounced trials before it.

        Args:
            evidence: What is known.
            constraint: What the trial has settled already.
        """
        candidate = self._propose(evidence, constraint)
        for _ in range(evidence.unannounced):
            evidence = replace(
                evidence,
                pending=(*evidence.pending, candidate.choices),
                visited=evidence.visited | {candidate.choices},
            )
            candidate = self._propose(evidence, constraint)
        return candidate

    def _propose(self, evidence: Evidence, constraint: Constraint) -> Candidate:
        if not constraint and not evidence.visited:
            if self._experience is not None:
                posterior = Posterior(self.surrogate, self.informed(evidence))
                best = int(np.argmax(posterior.at(self._pool).mean()))
                return Candidate(_choices(self._pool, best), "opening", "best by earlier studies")
            best = int(np.argmax(self.surrogate.prior_mean(self._pool)))
            return Candidate(_choices(self._pool, best), "opening", "best guess before any trial")
        untried = set() if constraint else self._untried(evidence)
        among = showing(self._pool.models, untried)
        if len(among):
            chosen = self._improve(evidence, constraint, among=among)[0]
            names = [
                f"{self.task.stages[s].models[m].name} in {self.task.stages[s].name}"
                for s, m in sorted(untried)
                if chosen.choices[s][0] == m
            ]
            reason = f"first look at {', '.join(names)}; {chosen.reason}"
            return replace(chosen, origin="opening", reason=reason)
        return self._improve(evidence, constraint)[0]

    def _improve(
        self,
        evidence: Evidence,
        constraint: Constraint,
        others: Sequence[Choices] = (),
        among: Ints | None = None,
    ) -> tuple[Candidate, Floats, float]:
        """See `weigh` and `outlook`; the allocation is one of the pool's at `among`, if given."""
        points = self._constrained(constraint) if constraint else self._pool
        keys = _keys(points.models, points.samples) if constraint else self._keys
        again = among is None and not constraint and _repeats_tell(evidence)
        if among is None:
            fresh = np.array([key not in evidence.visited for key in keys])
            # Where everything has been tried, measuring once more is all that is left to learn.
            among = np.flatnonzero(fresh) if fresh.any() else np.arange(len(keys))
        evidence = self.informed(evidence)
        if len(evidence.scores) == 0:
            best = among[int(np.argmax(self.surrogate.prior_mean(points)[among]))]
            guess = Candidate(keys[best], "numerical", "best guess before any score")
            return guess, np.ones(len(others)), float("inf")
        posterior = Posterior(self.surrogate, _believing(evidence, self.surrogate))
        smooth = None if constraint else self._kernels.of(posterior.observed)
        view = _shortlist(posterior.at(points, smooth), among, len(evidence.scores))
        left = expected_improvement(view)
        view = view.take(np.argsort(-left, kind="stable")[:_WEIGHED])
        if again:
            view = view.joined(_contenders(posterior, evidence.pending))
        gains = knowledge_gradient(view)
        best = int(np.argmax(gains))
        mean, sd = view.take(np.array([best])).mean_and_sd()
        scale = posterior.scale
        reason = (
            f"expected {evidence.sign * scale.scores(mean)[0]:.3g} ± {sd[0] * scale.span:.2g}; "
            f"expected to improve the recommendation by {gains[best] * scale.span:.2g}"
        )
        proposal = Candidate(_choices(view.points, best), "numerical", reason)
        worth = np.zeros(0)
        if others:
            # Not the knowledge gradient: that a bad allocation would teach something too is no
            # reason to try it because somebody believes in it.
            worth = expected_improvement(posterior.at(self.surrogate.points_of(others)))
        most = float(left.max())
        return proposal, worth / max(most, 1e-12), most * scale.span

    def _constrained(self, constraint: Constraint) -> Points:
        """The pool, with what is settled put in place and what then does not fit left out.

        Where nothing fits, what is settled beside the cheapest rest: the user's own choice.
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
            settled = feasible.complete({})
            for stage, model in constraint.models.items():
                settled[stage] = (model, settled[stage][1])
            for stage, number in constraint.samples.items():
                settled[stage] = (settled[stage][0], number)
            both = np.array([settled], dtype=np.int64)
        return self.surrogate.points(both[..., 0], both[..., 1])


def _shortlist(view: View, positions: Ints, observations: int) -> View:
    """Bound the work of an ask: the best by mean, and as many others evenly spread."""
    size = max(200, _WORK // max(1, observations))
    if len(positions) <= size:
        return view.take(positions)
    order = np.argsort(-view.mean()[positions], kind="stable")
    best, others = order[: size // 2], order[size // 2 :]
    spread = others[np.linspace(0, len(others) - 1, size - size // 2).astype(np.int64)]
    return view.take(positions[np.concatenate([best, spread])])


def _believing(evidence: Evidence, surrogate: Surrogate) -> Evidence:
    """Count pending trials as if they had scored what is expected of them."""
    if not evidence.pending:
        return evidence
    pending = surrogate.points_of(evidence.pending)
    posterior = Posterior(surrogate, replace(evidence, pending=()))
    expected = posterior.scale.scores(posterior.at(pending).mean())
    believed = _with_rows(evidence, pending.models, pending.samples, expected, share=1.0)
    return replace(believed, pending=())


def _with_rows(
    evidence: Evidence, models: Ints, samples: Ints, scores: Floats, *, share: float
) -> Evidence:
    """Evidence with more observations, each of which counts for a share of a trial."""
    return replace(
        evidence,
        models=np.concatenate([evidence.models, models]),
        samples=np.concatenate([evidence.samples, samples]),
        scores=np.concatenate([evidence.scores, scores]),
        shares=np.concatenate([evidence.shares, np.full(len(scores), share)]),
    )


def _repeats_tell(evidence: Evidence) -> bool:
    """Whether measuring an allocation again tells anything: whether a repeat scored differently.

    Where samples are reused, as `MultiStageObjective` does, the same allocation has the same
    score; so nothing is tried twice before the study shows that scores are drawn anew.
    """
    whole = evidence.shares >= 1
    known: dict[Choices, float] = {}
    for key, score in zip(
        _keys(evidence.models[whole], evidence.samples[whole]), evidence.scores[whole].tolist()
    ):
        if known.setdefault(key, score) != score:
            return True
    return False


def _contenders(posterior: Posterior, pending: Collection[Choices]) -> Points:
    """The best of the observed allocations, less those that are being measured."""
    order = np.argsort(-posterior.seen.mean(), kind="stable")[:_CONTENDERS]
    top = posterior.observed.take(order)
    keys = _keys(top.models, top.samples)
    keep = [i for i, key in enumerate(keys) if key not in pending]
    return top.take(np.array(keep, dtype=np.int64))


def _keys(models: Ints, samples: Ints) -> list[Choices]:
    return [tuple(zip(m, s)) for m, s in zip(models.tolist(), samples.tolist(), strict=True)]


def _choices(points: Points, position: int) -> Choices:
    return _keys(points.models[[position]], points.samples[[position]])[0]
