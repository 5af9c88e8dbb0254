"""Description of earlier studies in a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.study.experience import Experience

# Allocations and guidelines per study: a ranking and the conclusions in about 200 tokens.
_BEST = 4
_GUIDELINES = 4


def experience_block(data: PromptData) -> str:
    """Return the description of earlier studies."""
    return block("experience", data.experience)


def describe_experience(experience: Sequence[Experience]) -> tuple[str, ...]:
    """Describe the best parameters and the guidelines of earlier studies, in prompt lines."""
    lines = []
    for earlier in experience:
        metric = f", {quote(earlier.metric, 80)}" if earlier.metric else ""
        better = "higher" if earlier.maximize else "lower"
        lines.append(
            f"study {quote(earlier.name, 80)}{metric}: {len(earlier.values)} trials, "
            f"{better} is better; its best:"
        )
        sign = -1.0 if earlier.maximize else 1.0
        order = sorted(range(len(earlier.values)), key=lambda i: sign * earlier.values[i])
        lines += [f"- {_line(earlier.params[i])}: {earlier.values[i]:.4g}" for i in order[:_BEST]]
        lines += [f"- concluded: {quote(text)}" for text in earlier.guidelines[:_GUIDELINES]]
    return tuple(lines)


def _line(params: Mapping[str, Any]) -> str:
    """Format parameters on one line."""
    return ", ".join(f"{quote(name, 80)}: {quote(value, 80)}" for name, value in params.items())
