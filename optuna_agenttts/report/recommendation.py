"""Recommend an allocation, with an interval and cheaper ties.

The best trial of a noisy study is the luckiest one. The recommendation is the tried allocation
with the highest posterior mean, which weighs each score with those of similar allocations, and
with the outcomes of fresh instances if there are trials that confirm allocations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.report.bounds import SURE, cheapest_reaching, checked_bound
from optuna_agenttts.report.budgets import frontier_of
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.fragments import ScoreRow, allocation_cell, cost_title, scores_table
from optuna_agenttts.report.frames import to_frame
from optuna_agenttts.report.points import Frontier
from optuna_agenttts.report.saved import Saved
from optuna_agenttts.report.text import (
    NO_INTERVAL,
    allocation_table,
    metric_text,
    numbers_text,
    score_text,
)
from optuna_agenttts.report.ties import MARGIN, Contender, Tie, Undecided, compare
from optuna_agenttts.study.drawn import ExpectedCosts
from optuna_agenttts.study.equal import count_known
from optuna_agenttts.support import html
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.support.plain import amount_text, one_line
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.equivalence import known_text
from optuna_agenttts.task.task import Task

if TYPE_CHECKING:
    from pandas import DataFrame

_SHOWN = 3
"""Ties, and undecided allocations, in the printed text; the fields have all. Chosen by hand."""
_TIE, _UNDECIDED = "as good for less", "undecided"


@dataclass(frozen=True, slots=True)
class Recommendation(Saved):
    """Recommended allocation.

    Args:
        params: The allocation as Optuna parameters, ready for `Study.enqueue_trial`.
        allocation: The allocation, by stage.
        value: Expected value, in units of the metric and within its range: the posterior mean,
            corrected for selection optimism (the winner's curse) and shrinkage.
        interval: Central 90 % interval of the value on instances like those of the search, within
            the metric's range. None if no trial reported outcomes of single instances whose mean
            is its score, and no `score_sd` was given: scores alone do not tell how far they are
            from the truth.
        cost: Cost for one instance, in units of the task's cost model.
        unit: Unit of the cost.
        ties: Cheaper tried allocations that lose less than `margin`, cheapest first. Empty if no
            trial reported outcomes; few allocations can be told to be as good on 50 instances.
        undecided: Cheaper tried allocations that may be as good, but are not shown to lose less
            than `margin`; those that can lose least first.
        margin: The margin, in units of the metric; 0 if none was given, all scores are equal and
            the range of the metric is unknown.
        trials: Number of trials used.
        failed: Numbers of failed trials, whose allocations may be worth another try.
        unreadable: Numbers of trials that are left out because their parameters do not fit the
            task.
        outliers: Numbers and values of trials that are left out because their value is far from
            all others, or outside of the metric's range.
        bound: The score that was asked for, `at_least` or `at_most`; None if none was.
        probability: Probability that the score is at least as good as `bound`.
        known: Number of allocations within the budget that the search does not try, because their
            outcomes must equal those of a tried one; at most 100,000 are counted.
        metric: Name of the value, such as "exact match"; empty if the task has none.
        maximize: Whether higher values are better.
        expected_cost: Expected cost for one instance if votes stop before all samples are drawn,
            by what trials drew; None if all drew all. `cost` counts all samples.
        frontier: The allocation for every budget, if the study has two objectives, a score and
            then a cost; the recommendation is its last point.
    """

    params: dict[str, Any]
    allocation: Allocation
    value: float
    interval: tuple[float, float] | None
    cost: float
    unit: str
    ties: tuple[Tie, ...]
    undecided: tuple[Undecided, ...]
    margin: float
    trials: int
    failed: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()
    outliers: tuple[tuple[int, float], ...] = ()
    bound: float | None = None
    probability: float | None = None
    known: int = 0
    metric: str = ""
    maximize: bool = True
    expected_cost: float | None = None
    frontier: Frontier | None = None

    @property
    def cheapest(self) -> Allocation:
        """Cheapest tied allocation, or the recommended one without ties."""
        return self.ties[0].allocation if self.ties else self.allocation

    def to_dataframe(self) -> DataFrame:
        """Return the allocation, ties and undecided ones as a pandas DataFrame, one row each.

        The columns are ``kind`` (``"recommended"``, ``"tie"`` or ``"undecided"``), ``value``, the
        ends of its interval (``low`` and ``high``), ``cost``, ``loss``, the number of ``shared``
        instances, the ``instances`` that would show an undecided one to be a tie, and the
        parameters.

        Raises:
            AgentTTSError: pandas is not installed.
        """
        low, high = self.interval or (None, None)
        facts = {"kind": "recommended", "value": self.value, "low": low, "high": high}
        rows: list[dict[str, Any]] = [{**facts, "cost": self.cost, "loss": 0.0, **self.params}]
        for other in (*self.ties, *self.undecided):
            settings = (part for setting in other.allocation.values() for part in setting)
            rows.append(
                {
                    "kind": "undecided" if isinstance(other, Undecided) else "tie",
                    **{name: getattr(other, name) for name in ("value", "cost", "loss", "shared")},
                    "instances": getattr(other, "instances", None),
                    **dict(zip(self.params, settings)),
                }
            )
        columns = ("kind", "value", "low", "high", "cost", "loss", "shared", "instances")
        return to_frame("to_dataframe", rows, columns)

    def __str__(self) -> str:
        """Describe the recommendation, ties and undecided allocations, or the frontier."""
        if self.frontier is not None:
            return "\n".join([str(self.frontier), *self.savings, *self._left_out()])
        interval = "not known"
        if self.interval is not None:
            interval = " to ".join(map(self._score, self.interval))
        rows = [
            ((kind, self._score(one.value), loss or interval, f"{one.cost:.4g}"), one.allocation)
            for kind, one, loss in self._rows()
        ]
        unit = one_line(self.unit) or "units of the task's cost"
        scale = f"{metric_text(self.metric, self.maximize)}, cost in {unit} per instance"
        table = allocation_table(("", "score", "90 % interval", "cost"), rows)
        return "\n".join([scale, *table, *self.savings, *self.remarks(), *self.warnings])

    def _repr_html_(self) -> str:
        """Show the recommendation, ties and undecided allocations, or the frontier."""
        if self.frontier is not None:
            remarks = [*self.savings, *self._left_out()]
            return html.join([self.frontier._repr_html_(), html.bullets(remarks)])
        rows: list[ScoreRow] = [
            (
                (kind, allocation_cell(one.allocation)),
                one.value,
                self.interval if one is self else None,
                (amount_text(one.cost), html.line(loss)),
            )
            for kind, one, loss in self._rows()
        ]
        head = ("", "allocation"), (cost_title(self.unit), "loss")
        table = scores_table(
            rows,
            *head,
            score=self.metric or "score",
            margin=self.margin,
            marked=self.value,
        )
        return html.join([table, html.bullets([*self.savings, *self.remarks(), *self.warnings])])

    def _rows(self) -> list[tuple[str, Recommendation | Tie | Undecided, str]]:
        """Return the shown allocations, each with its kind and what it may lose."""
        return [("recommended", self, ""), *self.cheaper()]

    def cheaper(self, most: int = _SHOWN) -> list[tuple[str, Tie | Undecided, str]]:
        """Return the first ties and undecided ones, each with its kind and its loss.

        Args:
            most: Maximum number of each kind.
        """
        rows: list[tuple[str, Tie | Undecided, str]] = []
        for tie in self.ties[:most]:
            rows += [(_TIE, tie, f"loses < {self._score(max(tie.loss, 0))}")]
        for other in self.undecided[:most]:
            rows += [(_UNDECIDED, other, f"may lose {self._score(max(other.loss, 0))}")]
        return rows

    def remarks(self, most: int = _SHOWN) -> list[str]:
        """Return what a table of recommendations does not show, as sentences.

        Args:
            most: Number of allocations of each kind in the table.
        """
        lines = []
        if self.bound is not None and self.probability is not None:
            lines.append(
                f"It is the cheapest tried one that reaches {self.bound:.4g} with a "
                f"probability of at least {SURE:.0%}: {self.probability:.1%}."
            )
        if self.ties or self.undecided:
            lines.append(
                "Losses are 95 % bounds. A cheaper allocation is as good if it loses less than "
                f"{self._score(self.margin)}."
            )
        for others, what in ((self.ties, _TIE), (self.undecided, _UNDECIDED)):
            if (more := len(others) - most) > 0:
                lines.append(f"{more} more {'is' if more == 1 else 'are'} {what}.")
        if self.undecided:
            other = self.undecided[0]
            lines.append(
                f"If the first undecided one is as good, about {other.instances} instances would "
                f"show it ({other.shared} so far)."
            )
        if self.known:
            count = known_text(self.known)
            lines.append(f"Allocations not tried, since they are equal to tried ones: {count}.")
        return lines

    @property
    def savings(self) -> tuple[str, ...]:
        """What votes that stop early save, as a sentence.

        None if costs are printed alike, or if the frontier is over another cost.
        """
        other = self.frontier is not None and self.frontier.unit != self.unit
        if self.expected_cost is None or other:
            return ()
        expected, cost = amount_text(self.expected_cost), amount_text(self.cost)
        if expected == cost:
            return ()
        return (
            "Votes stop early: the recommended allocation is expected to cost "
            f"{expected} instead of {cost}.",
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Facts that are not known, and trials that are left out, one sentence each."""
        lines = [f"{NO_INTERVAL.capitalize()}."] if self.interval is None else []
        return (*lines, *self._left_out())

    def _left_out(self) -> list[str]:
        """Return which trials are left out, one sentence for each reason."""
        lines = []
        numbers = [number for number, _ in self.outliers]
        for trials, what in (
            (self.failed, "failed"),
            (self.unreadable, "left out, since parameters do not fit the task"),
            (numbers, "left out, since their values are outliers"),
        ):
            if trials:
                lines.append(f"Trials {what}: {numbers_text(trials)}.")
        return lines

    def _score(self, score: float) -> str:
        """Format a score, so that differences of the margin are seen."""
        return score_text(score, self.margin)


def recommend(
    study: Study,
    task: Task | None = None,
    *,
    margin: float | None = None,
    score_sd: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Recommendation:
    """Recommend an allocation from the trials of a study with any sampler.

    Without `at_least` or `at_most`, it is the tried allocation of the best expected score; with
    one of them, the cheapest tried allocation whose score is so good with a probability of 90 %,
    by the distribution that the interval is of. Such a recommendation has no ties. In a study of
    two objectives, a score and then a cost, the recommendation has the whole frontier, too.

    Args:
        study: A study of a score, or of a score and then a cost.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.
        margin: Loss, in units of the metric, below which a cheaper allocation is named a tie,
            above 0. Default: a twentieth of the metric's range, or of the spread of the observed
            scores if the range is unknown.
        score_sd: Standard deviation of a score around the truth, in units of the metric, above
            0, for studies whose trials report no outcomes of single instances. Default: unknown,
            and no interval.
        at_least: Score to reach, in units of the metric, if the study maximizes.
        at_most: Score to reach, in units of the metric, if the study minimizes.

    Returns:
        The recommendation.

    Raises:
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No trial is complete, none meets the constraints of the study, or no
            tried allocation reaches the score with a probability of 90 %.
        TaskError: `margin` or `score_sd` is out of range, or `at_least` or `at_most` is invalid,
            or the other one of them is meant.
    """
    for name, given in (("margin", margin), ("score_sd", score_sd)):
        if given is not None and not (is_finite(given) and given > 0):
            raise TaskError(f"recommend: `{name}` must be finite and above 0, got {given!r}.")
    recognized = task is None and Task.registered(study) is None
    found = Candidates(study, task, "recommend")
    recommended = recommendation_of(
        found, margin=margin, score_sd=score_sd, at_least=at_least, at_most=at_most
    )
    if not found.evidence.frontier or recommended.bound is not None:
        return recommended
    front = frontier_of(found, score_sd=score_sd, recognized=recognized)
    return replace(recommended, frontier=front)


def recommendation_of(
    found: Candidates,
    *,
    margin: float | None = None,
    score_sd: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Recommendation:
    """Recommend one of some candidates; see `recommend` for the other arguments."""
    task, values = found.task, found.values(found.points, found.mean)
    bound = checked_bound(found, at_least, at_most)
    probability = None
    if bound is None:
        best = found.best(np.arange(len(found.keys)))
    else:
        best, probability = cheapest_reaching(found, values, bound, score_sd)
    margin = margin or MARGIN * found.scale.extent
    ties, undecided = _ties(found, values, best, margin) if bound is None else ((), ())
    allocation, own = task.allocation(found.keys[best]), np.array([best])
    expected = ExpectedCosts(task, found.trials)
    return Recommendation(
        params=task.params(allocation),
        allocation=allocation,
        value=float(values[best]),
        interval=found.intervals(found.points.take(own), values[own], score_sd)[0],
        cost=float(found.costs[best]),
        unit=task.cost_model.unit,
        ties=ties,
        undecided=undecided,
        margin=margin,
        trials=len(found.evidence.scores),
        failed=tuple(t.number for t in found.trials if t.state == TrialState.FAIL),
        unreadable=found.unreadable,
        outliers=found.evidence.outliers,
        bound=bound,
        probability=probability,
        known=count_known(found.evidence),
        metric=task.metric,
        maximize=found.evidence.sign > 0,
        expected_cost=expected.of(found.keys[best]) if expected.known else None,
    )


def _ties(
    found: Candidates, values: Floats, best: int, margin: float
) -> tuple[tuple[Tie, ...], tuple[Undecided, ...]]:
    """Return the ties of the best candidate, and the undecided ones."""
    gains = found.exact.at(found.points).differences_from(best)
    lows, highs = (quantile * found.scale.span for quantile in gains.bounds())
    return compare(
        [
            Contender(
                allocation=found.task.allocation(key),
                value=float(values[i]),
                cost=float(found.costs[i]),
                bounds=(float(lows[i]), float(highs[i])),
                outcomes=found.outcomes.get(key, {}),
            )
            for i, key in enumerate(found.keys)
        ],
        best,
        margin,
        found.scale.extent,
        found.fresh,
    )
