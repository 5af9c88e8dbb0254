"""One run of a pipeline over instances, added up, and two of them compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from optuna_agenttts_integrations.exceptions import PipelineError

_LEVEL = 0.95
_RESAMPLES = 10_000
_BLOCK = 2_000_000
"""So many numbers are drawn at once."""
_EXACT = 14
"""Up to so many differing instances all 2**n sign patterns are walked through."""


@dataclass(frozen=True, slots=True)
class StageUsage:
    """What a stage took for one instance.

    Args:
        samples: Samples that were asked for; 0 where the stage was skipped.
        calls: Those, and calls for fusion and repair.
        generated: How many calls were generated rather than reused.
        malformed: Replies that could not be read.
        prompt_tokens: Tokens of the prompts of what was generated.
        generated_tokens: Tokens that were generated.
        naive_tokens: Tokens that would have been generated without reuse.
        prompt_length: Length of the stage's prompt, in tokens.
        sample_length: Mean length of a sample, in tokens, reused ones included.
        spend: The cost of what was generated, in units of the task's cost model.
    """

    samples: int = 0
    calls: int = 0
    generated: int = 0
    malformed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    naive_tokens: int = 0
    prompt_length: int = 0
    sample_length: float = 0.0
    spend: float = 0.0


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """What became of one instance.

    Args:
        outcome: Its score.
        failed: Whether a stage could get no sample at all, or a step failed.
        stages: For each stage that ran, what it took.
        metrics: The pipeline's further metrics, by name.
        unreadable: Whether it failed because no reply of a required stage could be read: the
            model's fault, which its score should show, not the server's.
    """

    outcome: float
    failed: bool
    stages: Mapping[str, StageUsage] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    unreadable: bool = False

    def total(self, name: str) -> float:
        """The sum of a field of `StageUsage` over the stages."""
        return float(sum(getattr(usage, name) for usage in self.stages.values()))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two allocations on the same instances.

    Args:
        difference: Mean outcome less the baseline's.
        interval: Bootstrap interval of 95 % for it.
        p_value: How often a difference at least as large, in either direction, would come about
            if it were chance which of the two allocations each outcome belongs to: a paired
            permutation test (Fisher 1935), exact for few instances, else from 10,000 draws.
        instances: How many instances both were scored on.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float
    instances: int

    def __str__(self) -> str:
        """A sentence for people."""
        low, high = self.interval
        return (
            f"{self.difference:+.3f} ({low:+.3f} to {high:+.3f}) against the baseline on "
            f"{self.instances} instances, p = {self.p_value:.2g}"
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an allocation scored on some instances.

    Args:
        results: For each instance's id, what became of it, in order of evaluation.
        seconds: How long it took.
        comparison: With the baseline, if there is one.
    """

    results: Mapping[str, InstanceResult]
    seconds: float
    comparison: Comparison | None = None

    def __str__(self) -> str:
        """A sentence or two for people."""
        low, high = self.interval
        text = f"{self.mean:.3f} ({low:.3f} to {high:.3f}) on {len(self.results)} instances"
        if self.failed:
            text += f", {self.failed} of them failed"
        return f"{text}; {self.comparison}" if self.comparison is not None else text

    @property
    def outcomes(self) -> dict[str, float]:
        """For each instance's id, its score."""
        return {name: result.outcome for name, result in self.results.items()}

    @property
    def mean(self) -> float:
        """The mean outcome."""
        return sum(r.outcome for r in self.results.values()) / len(self.results)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean over instances like these.

        Wilson's where every outcome is 0 or 1, else bootstrap percentiles with a fixed seed.
        """
        values = np.array(list(self.outcomes.values()))
        if np.isin(values, (0.0, 1.0)).all():
            return _wilson(float(values.mean()), len(values))
        return _bootstrap(values)

    @property
    def metrics(self) -> dict[str, float]:
        """Means of the pipeline's further metrics; a failed instance counts as 0."""
        names = {name: None for result in self.results.values() for name in result.metrics}
        return {
            name: sum(r.metrics.get(name, 0.0) for r in self.results.values()) / len(self.results)
            for name in names
        }

    @property
    def failed(self) -> int:
        """How many instances failed."""
        return sum(r.failed for r in self.results.values())

    @property
    def malformed(self) -> int:
        """How many replies could not be read."""
        return int(self._total("malformed"))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts of what was generated."""
        return int(self._total("prompt_tokens"))

    @property
    def generated_tokens(self) -> int:
        """Tokens that were generated."""
        return int(self._total("generated_tokens"))

    @property
    def naive_tokens(self) -> int:
        """Tokens that would have been generated without reuse."""
        return int(self._total("naive_tokens"))

    @property
    def reused(self) -> float:
        """The share of calls that were reused, 0 to 1."""
        return 1 - self._total("generated") / max(1.0, self._total("calls"))

    @property
    def spend(self) -> float:
        """The cost of what was generated, in units of the task's cost model."""
        return self._total("spend")

    def _total(self, name: str) -> float:
        return sum(result.total(name) for result in self.results.values())

    def against(self, baseline: Evaluation) -> Comparison:
        """Compare with another allocation on the same instances.

        Raises:
            PipelineError: The instances are not the same.
        """
        if set(self.results) != set(baseline.results):
            raise PipelineError(
                "`baseline` was scored on other instances: evaluate both on the same ones."
            )
        ours, theirs = self.outcomes, baseline.outcomes
        gaps = np.array([ours[name] - theirs[name] for name in sorted(ours)])
        return Comparison(float(gaps.mean()), _bootstrap(gaps), _sign_flips(gaps), len(gaps))


def _wilson(mean: float, count: int) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + _LEVEL) / 2)
    middle = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    half *= z / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = np.concatenate(
        [rng.choice(values, (rows, len(values))).mean(axis=1) for rows in _blocks(len(values))]
    )
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def _sign_flips(gaps: np.ndarray) -> float:
    differing = gaps[gaps != 0]
    if not len(differing):
        return 1.0
    # Sums that are equal but for rounding are as large.
    seen = abs(differing.sum()) - 1e-12 * np.abs(differing).sum()
    if len(differing) <= _EXACT:
        patterns = np.arange(2 ** len(differing))[:, None] >> np.arange(len(differing)) & 1
        sums = np.abs((2 * patterns - 1) @ differing)
        return float((sums >= seen).mean())
    rng = np.random.default_rng(0)
    larger = 0
    for rows in _blocks(len(differing)):
        signs = rng.integers(0, 2, (rows, len(differing)), dtype=np.int8) * 2 - 1
        larger += int((np.abs(signs @ differing) >= seen).sum())
    # The outcomes as they are count as one of the draws (Davison & Hinkley 1997, section 4.2).
    return (larger + 1) / (_RESAMPLES + 1)


def _blocks(width: int) -> list[int]:
    """How many resamples to draw at a time, so that memory does not grow with the instances."""
    rows = max(1, min(_RESAMPLES, _BLOCK // width))
    return [min(rows, _RESAMPLES - done) for done in range(0, _RESAMPLES, rows)]
