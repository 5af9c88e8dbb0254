"""Thoughts of simulated models: how long they are, and how many errors they avoid."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from optuna_agenttts.llm.untrusted import CHARACTERS_PER_TOKEN
from optuna_agenttts.support.efforts import EXPECTED_TOKENS, Effort, is_off
from optuna_agenttts_integrations.exceptions import PipelineError

_SENTENCE = "Let me check this step again. "


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedThinking:
    """Thoughts of a simulated model, if a request asks for some.

    A model that is right with probability p without thoughts is right with probability
    ``p + (1 - p) * gain * (1 - exp(-tokens / scale))`` after thoughts of some tokens. Lengths are
    log-normal, and end at the budget, if the effort is one. Thoughts that reach `max_tokens` leave
    no answer. Defaults are chosen by hand.

    Args:
        gain: Fraction of the errors that long thoughts avoid, 0 to 1, for all stages or by stage;
            stages that are left out gain nothing.
        scale: Tokens of thoughts after which 63 % of the gain is reached, above 0.
        tokens: Mean tokens of thoughts by effort; others as `efforts` expects them. Budgets end
            thoughts of effort ``"high"``, and unknown words are ``"medium"``.
        spread: Standard deviation of the logarithm of the length, 0 or more.

    Raises:
        PipelineError: A value is out of range.
    """

    gain: float | Mapping[str, float] = 0.5
    scale: float = 1000.0
    tokens: Mapping[str, float] = field(default_factory=dict)
    spread: float = 0.5

    def __post_init__(self) -> None:
        """Check the values."""
        gains = self.gain.values() if isinstance(self.gain, Mapping) else [self.gain]
        if not all(0 <= gain <= 1 for gain in gains):
            raise PipelineError(
                f"SimulatedThinking: `gain` must be from 0 to 1, got {self.gain!r}."
            )
        if not (self.scale > 0 and self.spread >= 0):
            raise PipelineError(
                "SimulatedThinking: `scale` must be above 0 and `spread` 0 or more, got "
                f"{self.scale!r} and {self.spread!r}."
            )
        tokens = {**EXPECTED_TOKENS, **self.tokens}
        if not all(0 <= length < math.inf for length in tokens.values()):
            raise PipelineError(
                f"SimulatedThinking: `tokens` must be 0 or more, got {dict(self.tokens)!r}."
            )
        object.__setattr__(self, "tokens", tokens)

    def length(self, effort: Effort, rng: random.Random) -> int:
        """Draw the number of tokens of the thoughts of one sample.

        Args:
            effort: The effort.
            rng: Source of randomness.
        """
        if is_off(effort):
            return 0
        word = "high" if isinstance(effort, int) else effort
        mean = self.tokens.get(word, self.tokens["medium"])
        if not mean:
            return 0
        centre = math.log(mean) - self.spread**2 / 2
        drawn = max(1, round(math.exp(rng.gauss(centre, self.spread))))
        return min(drawn, effort) if isinstance(effort, int) else drawn

    def improved(self, probability: float, stage: str, tokens: int) -> float:
        """Return the probability of being right after thoughts.

        Args:
            probability: The probability without thoughts.
            stage: Name of the stage.
            tokens: Tokens of the thoughts.
        """
        gain = self.gain.get(stage, 0.0) if isinstance(self.gain, Mapping) else self.gain
        return probability + (1 - probability) * gain * -math.expm1(-tokens / self.scale)


def thoughts_text(tokens: int) -> str:
    """Return thoughts of about some tokens."""
    length = round(CHARACTERS_PER_TOKEN * tokens)
    return (_SENTENCE * (length // len(_SENTENCE) + 1))[:length].strip()
