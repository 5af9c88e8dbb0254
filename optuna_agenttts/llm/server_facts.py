"""Facts that a server reports about itself and its models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from optuna_agenttts.llm.huggingface import HuggingFaceChat
from optuna_agenttts.llm.untrusted import as_count, as_mapping

_TGI_MAX_STOP = 4
"""TGI's default for ``max_stop_sequences`` (3.3.6)."""
_CONTEXT_FIELDS = (
    *("max_model_len", "loaded_context_length", "context_length", "context_window"),
    "max_context_length",
)
"""Fields of ``/v1/models`` with a model's context (vLLM and SGLang, LM Studio, OpenRouter and
Together, Groq, Mistral)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Facts that a server reports about itself; None if not reported.

    Args:
        answered: Whether any of the server's pages replied.
        tgi: Whether the server is TGI.
        names: Names of the models it serves.
        max_input: Maximum prompt length, in tokens.
        max_total: Maximum length of prompt and reply together, in tokens.
        max_concurrent: Maximum number of concurrent requests.
        max_stop: Maximum number of stop strings per request.
        enforced: Whether the server refuses more than `max_total`, which may otherwise be the
            model's own limit, or one at which it cuts.
        owner: Owner of the model in the server's list, which may identify the server.
    """

    answered: bool = False
    tgi: bool = False
    names: tuple[str, ...] = ()
    max_input: int | None = None
    max_total: int | None = None
    max_concurrent: int | None = None
    max_stop: int | None = None
    enforced: bool = False
    owner: str = ""

    def lists(self, model: str) -> bool:
        """Return whether a model is among those that the server serves."""
        return any(_is_same_model(name, model, paths=self.tgi) for name in self.names)


def _is_same_model(listed: str, model: str, *, paths: bool) -> bool:
    """Return whether a listed name denotes a model, ignoring a ``:provider`` suffix or folder."""
    if listed in (model, model.rpartition(":")[0]):
        return True
    folder = listed.rstrip("/").split("/")[-1]
    return paths and is_path(listed) and folder == model.split("/")[-1]


def is_path(name: str) -> bool:
    """Return whether the name of a model is that of a folder."""
    return name.startswith(("/", "."))


async def fetch_facts(chat: HuggingFaceChat, model: str) -> ServerFacts:
    """Read the server's ``/info`` and, unless it is TGI, ``/v1/models``."""
    info = await chat.info()
    name = info.get("model_id")
    if isinstance(name, str):
        return ServerFacts(
            answered=True,
            tgi=True,
            names=(name,),
            max_input=as_count(info.get("max_input_tokens")),
            max_total=as_count(info.get("max_total_tokens")),
            enforced=as_count(info.get("max_total_tokens")) is not None,
            max_concurrent=as_count(info.get("max_concurrent_requests")),
            max_stop=as_count(info.get("max_stop_sequences")) or _TGI_MAX_STOP,
        )
    status, entries = await chat.listing()
    listed = {name: entry for entry in entries if isinstance(name := entry.get("id"), str)}
    # An unlisted name may be any of several models, whose context lengths differ.
    entry = listed.get(model, next(iter(listed.values())) if len(listed) == 1 else {})
    contexts = (as_count(entry.get(name)) for name in _CONTEXT_FIELDS)
    return ServerFacts(
        answered=bool(status or info),
        names=tuple(listed),
        max_total=next(filter(None, contexts), None),
        enforced=as_count(entry.get("max_model_len")) is not None,
        owner=str(entry.get("owned_by")),
    )


async def with_loaded_context(
    chat: HuggingFaceChat, server: ServerFacts, model: str
) -> ServerFacts:
    """Add the context of the loaded model, which is known after the first request.

    The list of models of llama.cpp and Ollama does not have it, and their own pages do.
    """
    context: Any = None
    if server.owner == "llamacpp":
        values = as_mapping((await chat._page("/props"))[1])
        context = as_mapping(values.get("default_generation_settings")).get("n_ctx")
    elif server.owner == "library":
        models = as_mapping((await chat._page("/api/ps"))[1]).get("models")
        for each in map(as_mapping, models if isinstance(models, list) else []):
            if each.get("name") in (model, f"{model}:latest"):
                context = each.get("context_length")
    loaded = as_count(context)
    if loaded is None:
        return server
    return replace(server, max_total=min(loaded, server.max_total or loaded))
