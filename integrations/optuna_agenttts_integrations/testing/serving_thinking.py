"""Thinking efforts of the loopback server: fields that it reads, as three kinds of servers do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.llm.thinking import FIELDS
from optuna_agenttts.llm.untrusted import as_mapping
from optuna_agenttts.support.efforts import Effort
from optuna_agenttts_integrations.testing.serving_http import RefusedError

ThinkingDialect = Literal["openai", "vllm", "provider"]
"""Fields in which a server reads thinking efforts: see `LoopbackServer`."""

_WORDS = ("none", "minimal", "low", "medium", "high")
"""Words that the dialect ``"openai"`` takes."""


def effort_of(values: Mapping[str, Any], dialect: ThinkingDialect) -> Effort | None:
    """Return the thinking effort that a request asks for; None if it has no field of the dialect.

    Args:
        values: Body of the request.
        dialect: Fields that are read.

    Raises:
        RefusedError: The request has a field or a value that such servers refuse.
    """
    word = values.get("reasoning_effort")
    if dialect == "openai":
        if unknown := [name for name in FIELDS if name in values and name != "reasoning_effort"]:
            message = f"Unrecognized request argument supplied: {unknown[0]}"
            raise RefusedError(400, message, "validation")
        if word not in (None, *_WORDS):
            message = (
                f"Unsupported value: 'reasoning_effort' does not support {word!r} with this "
                f"model. Supported values are: {', '.join(map(repr, _WORDS))}."
            )
            raise RefusedError(400, message, "validation")
        return _effort(word, None)
    if dialect == "vllm":
        template, budget = values.get("chat_template_kwargs"), values.get("thinking_token_budget")
        if not as_mapping(template).get("enable_thinking", word != "none"):
            return "off"
        # The template of Qwen3 knows no words.
        return _effort(budget, None if template is None and word is None else "on")
    reasoning, thinking = values.get("reasoning"), as_mapping(values.get("thinking"))
    if reasoning is not None and word is not None:
        message = 'Only one of "reasoning" and "reasoning_effort" may be provided'
        raise RefusedError(400, message, "validation")
    default = "on" if reasoning is not None or thinking else None
    reasoning = as_mapping(reasoning)
    if reasoning.get("enabled") is False or thinking.get("type") == "disabled":
        return "off"
    given = (reasoning.get("max_tokens"), reasoning.get("effort"), thinking.get("budget_tokens"))
    return _effort(next((value for value in (*given, word) if value is not None), None), default)


def _effort(value: Any, default: str | None) -> Effort | None:
    """Return a value as an effort."""
    if value in (None, "none"):
        return default if value is None else "off"
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return value
    raise RefusedError(400, f"invalid thinking effort {value!r}", "validation")


def with_thoughts(
    body: dict[str, Any], completion: Completion, usage: Usage, dialect: ThinkingDialect
) -> dict[str, Any]:
    """Return the body of a reply with the thoughts, or their number, as such servers send them.

    Args:
        body: Body of the reply.
        completion: The completion.
        usage: Tokens of prompt and completion.
        dialect: Kind of server.
    """
    if not completion.thoughts:
        return body
    if dialect != "openai":
        field = "reasoning_content" if dialect == "vllm" else "reasoning"
        body["choices"][0]["message"][field] = completion.thoughts
    if dialect != "vllm":
        details = {"reasoning_tokens": usage.thought_tokens}
        body["usage"]["completion_tokens_details"] = details
    return body
