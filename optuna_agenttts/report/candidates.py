"""Tried allocations to recommend from, with their posterior, values and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoEvidenceError, NoTaskError
from optuna_agenttts.planner.costs import Costs
from optuna_agenttts.planner.evidence import Bools, Choices, Evidence, Floats, Ints, choices_of
from optuna_agenttts.planner.feasibility import Feasibility, known_feasibility
from optuna_agenttts.planner.kernels import Points, surrogate_of
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.report.bias import estimate_bias
from optuna_agenttts.report.intervals import bounded_interval, probability_above
from optuna_agenttts.report.ties import cheapest_alike, complete_outcomes
from optuna_agenttts.study.archive import Archive, log_unreadable
from optuna_agenttts.study.constraints import constraints_of, violations
from optuna_agenttts.study.equal import cheapest_form, with_cheapest
from optuna_agenttts.study.objectives import why_not_planned
from optuna_agenttts.study.tasks import require_task
from optuna_agenttts.task.direction import metric_names_of, warn_of_direction
from optuna_agenttts.task.task import Task

_INFLATION = 1.25
"""Standard deviation of the winner's value relative to that of the posterior, which does not know
of the error of the bias. Chosen by the coverage on development landscapes, near 90 %."""
_LIKELY = 0.5
"""Least probability that an allocation of a curve or map meets the constraints. Chosen by hand."""


class CompletedTrial(NamedTuple):
    """Complete trial of a search.

    Args:
        number: Number of the trial.
        choices: Its allocation.
        form: The cheapest allocation with the same outcomes.
        value: Its value, in units of the metric.
    """

    number: int
    choices: Choices
    form: Choices
    value: float


class Candidates:
    """Tried allocations to recommend from.

    They are those that meet the constraints of the study and, as far as there are such, are within
    the budget and were not only tried by trials that were stopped early.

    Args:
        study: A study of a score, or of a score and then a cost.
        task: The task. Default: the one registered on the study, or one recognized.
        caller: Name of the calling function, for messages.
        trials: Trials of the study, in order of number. Default: those of its storage.

    Raises:
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """

    def __init__(
        self,
        study: Study,
        task: Task | None,
        caller: str,
        trials: Sequence[FrozenTrial] | None = None,
    ) -> None:
        """See the class."""
        self.trials, self.evidence, self.unreadable = _read(study, task, caller, trials)
        self.task, self.scale = self.evidence.task, self.evidence.scale
        self.surrogate, _ = surrogate_of(self.task)
        self.keys = _tried_choices(study, self.trials, self.evidence)
        self.points = self.surrogate.points_of(self.keys)
        self.costs = self.task.feasible.costs_of(self.points.models, self.points.samples)
        names = metric_names_of(study) if self.evidence.frontier else ()
        self._second = names[1] if names else "units of the second objective"
        self.posterior = Posterior(self.surrogate, self.evidence)
        self.mean = self.posterior.at(self.points).mean()
        # The noise as it is; see `LIKELIHOOD_POWER`.
        self.exact = Posterior(self.surrogate, self.evidence, power=1.0)
        self.outcomes = complete_outcomes(self.evidence)
        blocks = self.evidence.block_of_rows()
        keys = self.evidence.choices
        self._confirmed = {key for key, block in zip(keys, blocks.tolist()) if block}
        rows = zip(self.evidence.outcomes, blocks.tolist())
        self.fresh = frozenset(step for outcomes, block in rows if block for step in outcomes)
        """Steps of the instances that confirmed allocations."""
        self._search = self.evidence.take(np.flatnonzero(blocks == 0))

    def best(self, among: Ints) -> int:
        """Return the position of the best of some candidates.

        It has the largest posterior mean, or the same outcomes as that one at the lowest cost.

        Args:
            among: Positions of the candidates.
        """
        keys = [self.keys[position] for position in among.tolist()]
        winner = int(np.argmax(self.mean[among]))
        return int(among[cheapest_alike(keys, self.costs[among], self.outcomes, winner)])

    @property
    def unit(self) -> str:
        """Unit of `front_costs`."""
        return self.task.cost_model.unit if self._measured is None else self._second

    @property
    def measures_cost(self) -> bool:
        """Whether trials have measured another cost than the task's."""
        return self._measured is not None

    def front_costs(self, points: Points) -> Floats:
        """Return the costs that a frontier is over: the task's, or predictions of measured ones.

        Args:
            points: The allocations.
        """
        if self._measured is None:
            return self.task.feasible.costs_of(points.models, points.samples)
        assert self._measured.unit is not None
        return self._measured.unit * self._measured(points)

    @cached_property
    def _measured(self) -> Costs | None:
        if not self.evidence.frontier:
            return None
        costs = Costs(self.evidence)
        return None if costs.unit is None else costs

    def points_of(self, models: Ints, samples: Ints) -> Points:
        """Return allocations in terms of the cheapest ones with the same outcomes.

        Args:
            models: Positions of models, shape (allocations, stages).
            samples: Numbers of samples, likewise.
        """
        points, places = self.distinct_points(models, samples)
        return points.take(places)

    def distinct_points(self, models: Ints, samples: Ints) -> tuple[Points, Ints]:
        """Return those of `points_of` once each, and the place of each allocation among them."""
        forms = list(map(self._form, choices_of(models, samples)))
        distinct = {choices: place for place, choices in enumerate(dict.fromkeys(forms))}
        points = self.surrogate.points_of(list(distinct))
        return points, np.array([distinct[choices] for choices in forms], dtype=np.int64)

    def allowed(self, points: Points, costs: Floats) -> Bools:
        """Return which allocations are within the budget and likely to meet the constraints.

        Args:
            points: The allocations.
            costs: Their costs, shape (allocations,).
        """
        within: Bools = costs <= self.task.feasible.limit
        if self._feasibility is not None:
            within = within & (self._feasibility.log_probability(points) >= np.log(_LIKELY))
        return within

    @cached_property
    def completed(self) -> list[CompletedTrial]:
        """Complete trials of the search, without those that confirm allocations."""
        evidence, found = self.evidence, []
        forms = evidence.choices
        stopped = zip(evidence.stopped, evidence.block_of_rows().tolist())
        scores = (evidence.sign * evidence.scores).tolist()
        for number, form, value, left_out in zip(evidence.numbers, forms, scores, stopped):
            if not any(left_out):
                known = self.task.choices_from_params(self.trials[number].params)
                own = tuple(known.get(stage, setting) for stage, setting in enumerate(form))
                found.append(CompletedTrial(number, own, form, value))
        return found

    @cached_property
    def _form(self) -> Callable[[Choices], Choices]:
        return cheapest_form(self.evidence)

    @cached_property
    def _feasibility(self) -> Feasibility | None:
        return Feasibility(self.evidence, self.surrogate) if self.evidence.constraints else None

    @cached_property
    def _bias(self) -> float:
        """Bias of the search's winner, in rates."""
        return estimate_bias(self.surrogate, self._search, self.points)

    def values(self, points: Points, means: Floats) -> Floats:
        """Return expected values of allocations, in units of the metric.

        They are corrected by the bias of the search's winner, as far as they inherit it. None is
        beyond all observed scores.

        Args:
            points: The allocations.
            means: Their posterior means, in rates.
        """
        rates = np.clip(means + self._bias * self._inherited(points), *self.scale.limits)
        return self.evidence.sign * self.scale.scores(rates)

    def _inherited(self, points: Points) -> Floats:
        """Return the share of the bias of the search that means have, shape (allocations,).

        Fresh instances chose no allocation to be confirmed, so their outcomes have no bias. The
        mean weighs the search with the variance that is left of the one before (precisions add
        up); without confirmations it is the search's.
        """
        if not self._confirmed or not len(self._search.scores):
            return np.full(len(points), float(not self._confirmed))
        before = Posterior(self.surrogate, self._search).at(points).moments()
        return (self.posterior.at(points).moments().sd() / before.sd()) ** 2

    def intervals(
        self, points: Points, values: Floats, score_sd: float | None
    ) -> list[tuple[float, float] | None]:
        """Return the central 90 % intervals of allocations' values.

        Args:
            points: The allocations.
            values: Their values, shape (allocations,).
            score_sd: Standard deviation of a score, if it is known; see `recommend`.

        Returns:
            For each allocation its interval, or None if the error of its value is unknown.
        """
        scale, sign = self.scale, self.evidence.sign
        ends = sorted((sign * scale.low, sign * (scale.low + scale.span)))
        # No mean is beyond all outcomes of hundreds that were observed.
        seen = [outcome for outcomes in self.evidence.outcomes for outcome in outcomes.values()]
        found: list[tuple[float, float] | None] = []
        for value, (sd, size) in zip(values.tolist(), self._errors(points, score_sd)):
            if not sd:
                found.append(None)
            elif scale.bounded:
                found.append(bounded_interval(value, sd, *ends, size=size))
            else:
                low, high = bounded_interval(value, sd, None, None)
                if seen:
                    low, high = max(low, min(*seen, value)), min(high, max(*seen, value))
                found.append((low, high))
        return found

    def probabilities(
        self, values: Floats, bound: float, score_sd: float | None
    ) -> list[float | None]:
        """Return the probability that each candidate's score is at least as good as a bound.

        Args:
            values: Values of the candidates, shape (candidates,).
            bound: The bound, in units of the metric.
            score_sd: See `intervals`.

        Returns:
            The probabilities by the distribution of the intervals; None where there is none.
        """
        # Higher is better.
        scale, sign = self.scale, self.evidence.sign
        ends = (scale.low, scale.low + scale.span) if scale.bounded else (None, None)
        return [
            probability_above(sign * bound, sign * value, sd, *ends, size=size) if sd else None
            for value, (sd, size) in zip(values.tolist(), self._errors(self.points, score_sd))
        ]

    def _errors(
        self, points: Points, score_sd: float | None
    ) -> list[tuple[float | None, int | None]]:
        """Return the standard deviations of values' errors, and the instances they rest on."""
        size = self.exact.noise.instances or None
        sds = self.scale.span * np.sqrt(self._variances(points))
        found: list[tuple[float | None, int | None]] = []
        for key, sd in zip(points.choices, sds.tolist()):
            own = list(self.outcomes.get(key, {}).values())
            if key in self._confirmed:
                # Of many fresh instances, the variance is known well.
                found.append((sd, None))
            elif size is not None:
                # No outcomes bound the error of an allocation that no trial completed.
                found.append((sd, size if own else None))
            elif not self.scale.informative and len(own) > 1:
                # Equal scores of an unknown range have no rates, but outcomes that may differ.
                found.append((float(np.std(own, ddof=1)) / len(own) ** 0.5, None))
            else:
                found.append((score_sd, None))
        return found

    def _variances(self, points: Points) -> Floats:
        """Return the variances of the errors of values, in rates squared, shape (allocations,).

        The bias is that of the winner. It counts as an error of allocations whose rates correlate
        little with the winner's.
        """
        winner = self.points.take(np.array([self.best(np.arange(len(self.keys)))]))
        view = self.exact.at(points).joined(winner)
        sds, gaps = view.moments().sd(), view.differences_from(len(points)).sd()
        products = sds * sds[-1]
        correlations = np.clip(0.5 * (sds**2 + sds[-1] ** 2 - gaps**2) / products, 0.0, 1.0)[:-1]
        bias = self._bias * self._inherited(points)
        variances: Floats = (_INFLATION * sds[:-1]) ** 2 + bias**2 * (1 - correlations**2)
        return variances


def _tried_choices(
    study: Study, trials: Sequence[FrozenTrial], evidence: Evidence
) -> list[Choices]:
    """Return the allocations to recommend from, in order of trial; see `Candidates`.

    Raises:
        NoEvidenceError: No trial meets the constraints.
    """
    keys = evidence.choices
    found = list(dict.fromkeys(keys))
    if known := known_feasibility(evidence):
        # An allocation whose feasibility differs between its trials violates a constraint.
        found = [key for key in found if known.get(key, False)]
        if not found:
            raise NoEvidenceError(_nothing_feasible(study, trials))
    whole = {key for key, stopped in zip(keys, evidence.stopped) if not stopped}
    for preferred in (evidence.task.feasible.fits, whole.__contains__):
        found = [key for key in found if preferred(key)] or found
    return found


def _read(
    study: Study, task: Task | None, caller: str, trials: Sequence[FrozenTrial] | None
) -> tuple[Sequence[FrozenTrial], Evidence, tuple[int, ...]]:
    """Read a study's trials as evidence; see `Candidates` for arguments and errors."""
    trials = storage.read_trials(study) if trials is None else trials
    task = require_task(study, task)
    if reason := why_not_planned(study, task, trials):
        raise NoTaskError(
            f"Study {study.study_name!r}: {reason}, and `{caller}` needs a score, or a score and "
            "then a cost to minimize: use `Study.best_trials` for the Pareto front."
        )
    warn_of_direction(study, task.metric)
    archive = Archive.of(study, task)
    evidence = with_cheapest(archive.read(trials))
    log_unreadable(study, archive, trials)
    if all(evidence.stopped):
        text = f"Study {study.study_name!r} has no completed trial of task {task.name!r}"
        if evidence.outliers:
            number, value = evidence.outliers[0]
            where = "an outlier"
            if task.metric_range is not None:
                where = "outside of its `metric_range`, {:g} to {:g}".format(*task.metric_range)
            text += f" with a usable value: {value:g}, of trial {number}, is {where}"
        if failed := sum(trial.state == TrialState.FAIL for trial in trials):
            raise NoEvidenceError(f"{text}, and {failed} failed: the log has their errors.")
        raise NoEvidenceError(f"{text}. Run some trials first.")
    return trials, evidence, tuple(archive.unreadable)


def _nothing_feasible(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Describe the trial that violates its constraints least."""
    violated = {trial.number: violations(constraints_of(trial)) for trial in trials}
    keys = sorted({key for values in violated.values() for key in values})
    text = f"No trial of study {study.study_name!r} meets all constraints"
    if keys:
        number = min(
            (number for number, values in violated.items() if values),
            key=lambda number: sum(violated[number].values()),
        )
        excess = ", ".join(f"{key!r} by {value:.4g}" for key, value in violated[number].items())
        text += (
            f" ({', '.join(map(repr, keys))}). Trial {number} is the closest and exceeds {excess}"
        )
    return f"{text}. Run more trials, or relax the constraints."
