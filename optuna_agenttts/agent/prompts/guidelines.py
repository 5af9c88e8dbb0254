"""Block of a prompt about the guidelines of earlier rounds."""

from __future__ import annotations

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.agent.prompts.prompt_data import PromptData


def guidelines_block(data: PromptData) -> str:
    """Return the guidelines of earlier rounds, one per line."""
    shown = data.earlier if data.guidelines else ()
    lines = (f"round {number}: {quote(line)}" for number, lines in shown for line in lines)
    return block("guidelines", lines)
