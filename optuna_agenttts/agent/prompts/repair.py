"""Prompt that asks to repair a reply, given its problems."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.llm.port import Message

# Chosen by hand.
_MAX_PROBLEMS = 12
"""Maximum number of problems to list."""
_MAX_REPLY = 4000
"""Maximum number of characters of the reply to repeat."""


def render_repair(
    prompt: Sequence[Message], reply: str, problems: Sequence[str], *, missing: int
) -> tuple[Message, ...]:
    """Render the conversation with the reply, its problems, and the request to repair it.

    Args:
        prompt: The original prompt, a system and a user message.
        reply: The reply to it.
        problems: Descriptions of the problems.
        missing: Number of candidates that are still needed.
    """
    lines = [quote(problem) for problem in problems[:_MAX_PROBLEMS]]
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"and {len(problems) - _MAX_PROBLEMS} more")
    text = (
        f"Some of this cannot be used:\n{block('problems', lines)}\n\n"
        f"Propose {missing} other candidate{'s' if missing != 1 else ''}. Answer with one JSON "
        "object in the same form and nothing else."
    )
    return (*prompt[:2], Message("assistant", reply[:_MAX_REPLY]), Message("user", text))
