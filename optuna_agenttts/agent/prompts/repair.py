"""The prompt that sends a reply back with what was wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.llm.port import Message

_SHOWN = 12
_REPLY = 4000


def render_repair(
    asked: Sequence[Message], reply: str, problems: Sequence[str], *, missing: int
) -> tuple[Message, ...]:
    """The conversation so far, the reply, and what to mend.

    Args:
        asked: What was asked.
        reply: What came back.
        problems: What was wrong with it.
        missing: How many candidates are still wanted.
    """
    lines = [quote(problem) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more")
    text = (
        f"Some of this cannot be used:\n{block('problems', lines)}\n\n"
        f"Propose {missing} other candidate{'s' if missing != 1 else ''}. Answer with one JSON "
        "object in the same form and nothing else."
    )
    return (*asked[:2], Message("assistant", reply[:_REPLY]), Message("user", text))
