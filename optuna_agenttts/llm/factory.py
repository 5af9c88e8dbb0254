"""From what a user names to a chat model."""

from __future__ import annotations

import os
from urllib.parse import urldefrag

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.huggingface import HuggingFaceChat
from optuna_agenttts.llm.port import ChatModel

VARIABLE = "OPTUNA_AGENTTTS_LLM"


def connect(llm: str | ChatModel | None) -> ChatModel | None:
    """The chat model that is meant.

    Args:
        llm: A model id of the Hub, called through Inference Providers; the URL of a TGI or
            OpenAI-compatible server, with the model after ``#`` where it serves several; a chat
            model; or None for what the environment variable ``OPTUNA_AGENTTTS_LLM`` names.

    Returns:
        The chat model, or None if none is named.

    Raises:
        AgentTTSError: The name makes no sense.
    """
    if llm is None:
        llm = os.environ.get(VARIABLE, "").strip() or None
        if llm is None:
            return None
    if not isinstance(llm, str):
        if isinstance(llm, type) or not isinstance(llm, ChatModel):
            raise AgentTTSError(
                f"`llm` is of type {type(llm).__name__}: give a model id of the Hub, the URL of a "
                "server, or a `ChatModel`."
            )
        return llm
    if llm.startswith(("http://", "https://")):
        url, model = urldefrag(llm)
        return HuggingFaceChat(model or None, base_url=url)
    if not llm or any(c.isspace() for c in llm) or "://" in llm:
        raise AgentTTSError(
            f"`llm` is {llm!r}: give a model id of the Hub such as 'Qwen/Qwen2.5-72B-Instruct', "
            "or the URL of a server such as 'http://127.0.0.1:8080'."
        )
    return HuggingFaceChat(llm)
