"""Construction of a chat model from its name or URL."""

from __future__ import annotations

import os
from urllib.parse import urldefrag

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.port import ChatModel

_VARIABLE = "OPTUNA_AGENTTTS_LLM"


def connect(llm: str | ChatModel | None) -> ChatModel | None:
    """Return the chat model for a name, URL or object.

    Args:
        llm: A model id on the Hugging Face Hub, called through Inference Providers; the URL of a
            TGI or OpenAI-compatible server, followed by ``#model`` if it serves several; a chat
            model; or None to use the environment variable ``OPTUNA_AGENTTTS_LLM``.

    Returns:
        The chat model, or None if none is specified.

    Raises:
        AgentTTSError: `llm` is not a model id, a URL or a chat model.
    """
    if llm is None:
        llm = os.environ.get(_VARIABLE, "").strip() or None
        if llm is None:
            return None
    if not isinstance(llm, str):
        if isinstance(llm, type) or not isinstance(llm, ChatModel):
            raise AgentTTSError(
                "`llm` must be a model id on the Hub, the URL of a server or a `ChatModel`, got "
                f"an object of type {type(llm).__name__}."
            )
        return llm
    # Importing it takes a third of a second: skip it for samplers without a language model.
    from optuna_agenttts.llm.huggingface import HuggingFaceChat

    if llm.startswith(("http://", "https://")):
        url, model = urldefrag(llm)
        return HuggingFaceChat(model or None, base_url=url)
    if not llm or any(c.isspace() for c in llm) or "://" in llm:
        raise AgentTTSError(
            "`llm` must be a model id on the Hub such as 'Qwen/Qwen2.5-72B-Instruct' or the URL "
            f"of a server such as 'http://127.0.0.1:8080', got {llm!r}."
        )
    return HuggingFaceChat(llm)
