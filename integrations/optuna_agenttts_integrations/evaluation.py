"""One run of a pipeline over instances, added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstanceResult:
    """What became of one instance.

    Args:
        outcome: Its score.
        failed: Whether a stage could get no sample at all.
        malformed: Replies that could not be read.
        samples: Samples that were asked for.
        generated: Samples that were generated rather than reused.
        prompt_tokens: Tokens of the prompts of those.
        generated_tokens: Tokens that were generated.
        naive_tokens: Tokens that would have been generated without reuse.
        spend: The cost of what was generated, in units of the task's cost model: each stage's
            cost, times the share of its samples that was not reused.
    """

    outcome: float
    failed: bool
    malformed: int
    samples: int
    generated: int
    prompt_tokens: int
    generated_tokens: int
    naive_tokens: int
    spend: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an allocation scored on some instances.

    Args:
        results: For each instance's id, what became of it, in order of evaluation.
        seconds: How long it took.
    """

    results: Mapping[str, InstanceResult]
    seconds: float

    @property
    def outcomes(self) -> dict[str, float]:
        """For each instance's id, its score."""
        return {name: result.outcome for name, result in self.results.items()}

    @property
    def mean(self) -> float:
        """The mean outcome."""
        return sum(r.outcome for r in self.results.values()) / len(self.results)

    @property
    def failed(self) -> int:
        """How many instances failed."""
        return sum(r.failed for r in self.results.values())

    @property
    def malformed(self) -> int:
        """How many replies could not be read."""
        return sum(r.malformed for r in self.results.values())

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompts of what was generated."""
        return sum(r.prompt_tokens for r in self.results.values())

    @property
    def generated_tokens(self) -> int:
        """Tokens that were generated."""
        return sum(r.generated_tokens for r in self.results.values())

    @property
    def naive_tokens(self) -> int:
        """Tokens that would have been generated without reuse."""
        return sum(r.naive_tokens for r in self.results.values())

    @property
    def reused(self) -> float:
        """The share of samples that were reused, 0 to 1."""
        samples = sum(r.samples for r in self.results.values())
        return 1 - sum(r.generated for r in self.results.values()) / max(1, samples)

    @property
    def spend(self) -> float:
        """The cost of what was generated, in units of the task's cost model."""
        return sum(r.spend for r in self.results.values())
