"""Block of a prompt about earlier guidelines."""

from __future__ import annotations

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.agent.prompts.prompt_data import PromptData


def guidelines_block(data: PromptData) -> tuple[str, ...]:
    """Return the latest guidelines, one per line: all, half of them, or none."""
    shown = data.earlier if data.guidelines else ()
    lines = [f"round {number}: {quote(line)}" for number, lines in shown for line in lines]
    return block("guidelines", lines), block("guidelines", lines[: len(lines) // 2]), ""
