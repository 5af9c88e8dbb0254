"""Choices of a stage that are one model at several thinking efforts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.task.stage import Stage

_SHORT = 100
"""Tokens of thoughts below which their length hardly matters: lengths are ln(1 + tokens / _SHORT).
Chosen by hand, below the expected tokens of the least effort of `EXPECTED_TOKENS`."""


@dataclass(frozen=True, slots=True)
class Kinship:
    """Choices of a stage that are one model, and the length of the thoughts of each.

    Args:
        bases: For each choice, the number of its model, which all efforts of the model share,
            shape (choices,). The numbers are 0, 1, ..., in order of first appearance.
        thoughts: For each choice, the length of its thoughts, ln(1 + tokens / 100), shape
            (choices,); 0 for a model without an effort.
    """

    bases: Ints
    thoughts: Floats

    @classmethod
    def of(cls, stage: Stage) -> Kinship:
        """Return the kinship of a stage's choices."""
        numbers: dict[str, int] = {}
        bases = [numbers.setdefault(model.served_name, len(numbers)) for model in stage.models]
        tokens = [0 if m.thinking is None else m.thinking.tokens for m in stage.models]
        return cls(np.array(bases), np.log1p(np.array(tokens, dtype=np.float64) / _SHORT))

    @property
    def count(self) -> int:
        """Number of different models."""
        return int(self.bases.max()) + 1

    @property
    def thinks(self) -> bool:
        """True if any choice thinks."""
        return bool(self.thoughts.any())
