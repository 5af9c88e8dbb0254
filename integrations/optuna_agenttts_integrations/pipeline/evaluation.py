"""Results of a pipeline on instances: totals, intervals and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from optuna_agenttts.report.fragments import scores_table
from optuna_agenttts.report.frames import to_frame
from optuna_agenttts.report.text import share_text, spend_text
from optuna_agenttts.support import html
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.statistics import (
    mean_interval,
    outcome_range,
    paired_test,
)

if TYPE_CHECKING:
    from pandas import DataFrame

KEPT = 1000
"""Characters kept of a stage's first reply and of its result. Chosen by hand: transcripts show
less."""
_SHOWN = 100
"""Instances in the view of an evaluation. Chosen by hand."""
_RESULT = ("outcome", "failed", "unreadable")
_USAGE = ("samples", "drawn", "malformed", "generated_tokens", "spend")
"""Columns of a DataFrame, of an instance and of each of its stages."""


@dataclass(frozen=True, slots=True)
class StageUsage:
    """Usage of one stage for one instance.

    Args:
        samples: Number of samples in the allocation; 0 if the stage was skipped.
        calls: Number of successful calls, including fusion and repair.
        generated: Number of these calls that were generated rather than reused.
        malformed: Number of replies that could not be parsed.
        prompt_tokens: Prompt tokens of generated calls.
        generated_tokens: Tokens generated.
        thought_tokens: Tokens of the thoughts in all replies, reused ones included.
        ended_in_thoughts: Number of replies that have thoughts and no text.
        naive_tokens: Tokens that would have been generated without reuse.
        prompt_length: Length of the stage's prompt, in tokens.
        sample_length: Mean length of a sample, in tokens, including reused ones.
        spend: Cost of generated calls, in units of the task's cost model.
        failed: Number of calls that failed despite retries.
        saved: Cost that reused samples would have had.
        thought_length: Mean length of the thoughts of a sample, in tokens, as `sample_length`.
        cut: Number of replies that ended at `max_tokens`.
        refused: Number of replies that the model or its server refused to write.
        changed: Whether the first half of the samples has another result than all of them; None
            if there is one sample, or the aggregation is not a vote or union of this package.
        reply: The first reply, shortened to 1,000 characters.
        drawn: Number of the `samples` that were drawn; fewer if fewer were enough.
    """

    samples: int = 0
    calls: int = 0
    generated: int = 0
    malformed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    thought_tokens: int = 0
    ended_in_thoughts: int = 0
    naive_tokens: int = 0
    prompt_length: int = 0
    sample_length: float = 0.0
    spend: float = 0.0
    failed: int = 0
    saved: float = 0.0
    thought_length: float = 0.0
    cut: int = 0
    refused: int = 0
    changed: bool | None = field(default=None, compare=False)
    reply: str = field(default="", compare=False, repr=False)
    drawn: int = 0


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """Result of one instance.

    Args:
        outcome: Score of the instance; 0 if it failed.
        failed: Whether a stage got no sample, or a step failed.
        stages: Usage of each stage that ran, by name.
        metrics: The pipeline's metrics, by name.
        unreadable: Whether it failed because no reply of a required stage could be parsed. This
            is due to the model, not to the server, and does not count towards `max_failed`.
        checks: For each stage with a `StageCheck`, the share of it that was passed, 0 to 1, if it
            is known.
        outputs: Results of the stages that ran, as texts shortened to 1,000 characters; empty if
            the instance failed.
    """

    outcome: float
    failed: bool
    stages: Mapping[str, StageUsage] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    unreadable: bool = False
    checks: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def total(self, name: str) -> float:
        """Return the sum of a field of `StageUsage` over the stages.

        Args:
            name: Name of the field, such as ``"spend"``.
        """
        return float(sum(getattr(usage, name) for usage in self.stages.values()))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired comparison of two allocations on the same instances.

    Args:
        difference: Mean outcome minus that of the baseline.
        interval: 95 % interval: the differences that the test does not reject, and those that it
            rejects only because few instances differ. It contains zero if and only if the p-value
            is at least .05, and lies within the range of the metric, if that is known.
        p_value: Two-sided p-value of a paired permutation test (Fisher 1935), exact for up to 14
            instances whose outcomes differ, else from 10,000 random permutations.
        instances: Number of instances.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    instances: int

    def __str__(self) -> str:
        """Format the comparison as text."""
        low, high = self.interval
        return (
            f"{self.difference:+.3f} ({low:+.3f} to {high:+.3f}) against the baseline on "
            f"{self.instances} instances, p = {self.p_value:.2g}"
        )

    def _repr_html_(self) -> str:
        """Show the difference and its interval in a notebook."""
        text, scale = str(self), html.limits((0.0, *self.interval))
        drawing = html.interval(self.difference, self.interval, scale, label=text, marked=0.0)
        return html.paragraph(text, " ", drawing)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of an allocation on instances.

    Args:
        results: Result of each instance, by ID, in order of evaluation.
        seconds: Duration of the run, in seconds.
        comparison: Comparison with the baseline, if there is one.
        metric_range: Smallest and largest possible outcome, if known; see `Task`. If every
            outcome is 0 or 1, it need not be given.
        metric: Name of the score; empty if it has none.
        unit: Unit of the spend.
        paid: Metered spend of all calls, failed and repeated ones included; None if only that of
            the calls that `results` used is known.
    """

    results: Mapping[str, InstanceResult]
    seconds: float
    comparison: Comparison | None = None
    metric_range: tuple[float, float] | None = None
    paid: float | None = None
    metric: str = ""
    unit: str = ""

    def __str__(self) -> str:
        """Format the mean, its interval, failures and the comparison as text."""
        low, high = self.interval
        text = f"{self.mean:.3f} ({low:.3f} to {high:.3f}) on {len(self.results)} instances"
        if self.failed:
            text += f", {self.failed} of them failed"
        return f"{text}; {self.comparison}" if self.comparison is not None else text

    def _repr_html_(self) -> str:
        """Show the mean, its interval, usage and the outcomes in a notebook."""
        if not self.results:
            return html.paragraph("No instance was finished.")
        usage = {
            **{name: f"{value:.4g}" for name, value in self.metrics.items()},
            "spend": spend_text(self.spend, self.unit),
            "tokens generated": f"{self.generated_tokens:,}",
            "calls reused": share_text(self.reused),
            "malformed replies": self.malformed,
            "took": f"{self.seconds:,.1f} s",
        }
        row = (), self.mean, self.interval, (str(len(self.results)), str(self.failed))
        title, after = self.metric or "score", ("instances", "failed")
        mean = scores_table([row], (), after, level=95, score=title)
        parts: list[object] = [mean, html.facts(usage)]
        if self.comparison is not None:
            parts.append(self.comparison._repr_html_())
        rows = [
            (name, f"{result.outcome:.3g}", "failed" if result.failed else "")
            for name, result in islice(self.results.items(), _SHOWN)
        ]
        outcomes = html.table(("instance", "outcome", ""), rows, numbers=(1,))
        title = f"Outcomes of {len(rows)} of {len(self.results)} instances"
        return html.join([*parts, html.details(title, outcomes)])

    def to_dataframe(self) -> DataFrame:
        """Return the results as a pandas DataFrame, one row for each instance.

        The columns are ``instance``, ``outcome``, ``failed``, ``unreadable``, the pipeline's
        metrics, and for each stage its numbers of ``samples``, of those ``drawn``, of
        ``malformed`` replies and ``generated_tokens``, and its ``spend``, such as
        ``answer.spend``.

        Raises:
            AgentTTSError: pandas is not installed.
        """
        rows = (
            {
                "instance": name,
                **{field: getattr(result, field) for field in _RESULT},
                **result.metrics,
                **{
                    f"{stage}.{field}": getattr(usage, field)
                    for stage, usage in result.stages.items()
                    for field in _USAGE
                },
            }
            for name, result in self.results.items()
        )
        return to_frame("to_dataframe", rows, ("instance", *_RESULT))

    @property
    def outcomes(self) -> dict[str, float]:
        """Score of each instance, by ID."""
        return {name: result.outcome for name, result in self.results.items()}

    @property
    def mean(self) -> float:
        """Mean outcome."""
        return sum(r.outcome for r in self.results.values()) / len(self.results)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean over the population of instances.

        It lies within the range of the metric, if that is known: Wilson's interval if every
        outcome is 0 or 1, else that of the same test with the variance of the outcomes. Without a
        range it is normal.
        """
        values = list(self.outcomes.values())
        return mean_interval(np.array(values), outcome_range(values, self.metric_range))

    @property
    def metrics(self) -> dict[str, float]:
        """Mean of each of the pipeline's metrics; a failed instance counts as 0."""
        names = {name: None for result in self.results.values() for name in result.metrics}
        return {
            name: sum(r.metrics.get(name, 0.0) for r in self.results.values()) / len(self.results)
            for name in names
        }

    @property
    def failed(self) -> int:
        """Number of failed instances."""
        return sum(r.failed for r in self.results.values())

    @property
    def malformed(self) -> int:
        """Number of replies that could not be parsed."""
        return int(self._total("malformed"))

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of generated calls."""
        return int(self._total("prompt_tokens"))

    @property
    def generated_tokens(self) -> int:
        """Tokens generated."""
        return int(self._total("generated_tokens"))

    @property
    def thought_tokens(self) -> int:
        """Tokens of the thoughts in all replies, reused ones included."""
        return int(self._total("thought_tokens"))

    @property
    def naive_tokens(self) -> int:
        """Tokens that would have been generated without reuse."""
        return int(self._total("naive_tokens"))

    @property
    def reused(self) -> float:
        """Fraction of calls that were reused, from 0 to 1."""
        return 1 - self._total("generated") / max(1.0, self._total("calls"))

    @property
    def spend(self) -> float:
        """Cost of all calls that were made, in units of the task's cost model."""
        return self._total("spend") if self.paid is None else self.paid

    @property
    def stage_spends(self) -> dict[str, tuple[float, float]]:
        """For each stage that ran its spend, and what reused samples saved there."""
        return {
            name: (math.fsum(u.spend for u in usages), math.fsum(u.saved for u in usages))
            for name, usages in self._usages().items()
        }

    @property
    def drawn(self) -> dict[str, tuple[float, float]]:
        """For each stage that ran, its mean number of samples drawn, and of those allowed."""
        return {
            name: (fmean(u.drawn for u in usages), fmean(u.samples for u in usages))
            for name, usages in self._usages().items()
        }

    @property
    def drawn_text(self) -> str:
        """Mean numbers of samples of the stages that drew fewer than allowed, as text."""
        return ", ".join(
            f"{name} {drawn:.3g} of {most:.3g} samples"
            for name, (drawn, most) in self.drawn.items()
            if drawn < most
        )

    def _usages(self) -> dict[str, list[StageUsage]]:
        """Return the usage of each stage for the instances that it ran for."""
        found: dict[str, list[StageUsage]] = {}
        for result in self.results.values():
            for name, usage in result.stages.items():
                found.setdefault(name, []).append(usage)
        return found

    def _total(self, name: str) -> float:
        return sum(result.total(name) for result in self.results.values())

    def against(self, baseline: Evaluation) -> Comparison:
        """Compare with the evaluation of another allocation on the same instances.

        Args:
            baseline: The other evaluation.

        Returns:
            Difference of the means, its interval and its p-value.

        Raises:
            PipelineError: The instances differ.
        """
        if set(self.results) != set(baseline.results):
            raise PipelineError(
                "`baseline` must have the same instances, but it has "
                f"{len(set(baseline.results) - set(self.results))} others and lacks "
                f"{len(set(self.results) - set(baseline.results))}: evaluate both on one set."
            )
        ours, theirs = self.outcomes, baseline.outcomes
        gaps = np.array([ours[name] - theirs[name] for name in sorted(ours)])
        limits = outcome_range([*ours.values(), *theirs.values()], self.metric_range)
        p_value, interval = paired_test(gaps, limits)
        return Comparison(float(gaps.mean()), interval, p_value, len(gaps))
