"""Pre-flight checks of a model and its server.

A search sends a server thousands of requests. `examine` sends about seven and reports problems,
suspicious behavior and remedies.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.checks import (
    Failure,
    FindingCollector,
    Outcome,
    ServerFacts,
    check_call,
    check_context,
    check_full_length,
    check_limits,
    check_model,
    check_negotiated,
    check_reachable,
    check_schema,
    check_seeds,
    check_setup,
    check_size,
    count_chars,
)
from optuna_agenttts.llm.findings import Finding
from optuna_agenttts.llm.huggingface import HuggingFaceChat
from optuna_agenttts.llm.outages import REMEDIES
from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRequest,
    Completion,
    Message,
    without_retries,
)
from optuna_agenttts.llm.secrets import key_for
from optuna_agenttts.llm.untrusted import as_count, decode_json, one_line

_SEED = 20_117
"""Seed of all requests; arbitrary."""
_TGI_MAX_STOP = 4
"""TGI's default for ``max_stop_sequences`` (3.3.6)."""
_MAX_CHEAP_CHARS = 4000
"""Prompt length in characters up to which the longest prompt also tests seeds; chosen by hand."""
_REASONING_TOKENS = 64
"""Tokens allowed for a short request to a model that reasons before it answers; chosen by hand."""


async def examine(
    chat: ChatModel,
    *,
    subject: str,
    model: str,
    longest: ChatRequest | None = None,
    concurrency: int = 1,
    stop_strings: int = 0,
    schema: str | None = None,
    parameters: float | None = None,
    seeds: bool = True,
    chars_per_token: float = 3.0,
) -> tuple[Finding, ...]:
    """Check a model and its server.

    First, the longest request is sent with a limit of one token; if it fails, no further
    completion is requested. If the server does not report its limits, it is sent with its own
    `max_tokens`, too. About seven requests are sent in sequence, and one more for each refused
    parameter, each under the chat model's own timeout, without retries. Server errors become
    findings, none of which contains the API key. Seeds are tested with the longest request if it
    is short: a server may honor them when idle but not under load (as transformers serve 5.23).

    Args:
        chat: The chat model. If it has a URL, the server's own pages are read, too.
        subject: Name of the model or endpoint in findings.
        model: Name of the model on its server; empty for the chat model's default.
        longest: The longest request of the search. Default: a short one.
        concurrency: Number of concurrent requests during the search.
        stop_strings: Maximum number of stop strings per request.
        schema: JSON schema, as JSON text, that replies will have to follow.
        parameters: Number of the model's parameters, if known.
        seeds: Whether to test seeds, which takes two requests.
        chars_per_token: Minimum number of characters per token, for prompts that the server did
            not count.

    Returns:
        The findings, in the order of the checks.

    Raises:
        AgentTTSError: `schema` is not a JSON object, or `chars_per_token` is not positive.
    """
    keys = _required_keys(schema)
    if not chars_per_token > 0:
        raise AgentTTSError(f"`chars_per_token` must be positive, got {chars_per_token!r}.")
    target = without_retries(chat)
    findings = FindingCollector(one_line(subject))
    check_size(findings, parameters)
    server, expected = ServerFacts(), model
    if isinstance(target, HuggingFaceChat):
        try:
            findings.secret = key_for(target.base_url, target._api_key)
            expected = model or target.model or ""
            server = await _fetch_facts(target, expected)
        except ChatError as error:
            check_setup(findings, error)
            return tuple(findings.findings)

    outcome, sent = await _probe(target, longest, model)
    if isinstance(target, HuggingFaceChat) and target.base_url is not None:
        if not check_reachable(findings, urlsplit(target.base_url).netloc, server, outcome):
            return tuple(findings.findings)
        check_model(findings, server, expected, isinstance(outcome, Completion))
        stops = max(stop_strings, 0 if longest is None else len(longest.stop))
        check_limits(findings, server, concurrency, stops)
    check_call(findings, longest, outcome)
    if longest is not None:
        check_context(findings, server, longest, outcome, chars_per_token)
    if isinstance(outcome, Completion):
        if longest is not None and (server.max_total is None or outcome.ended_in_thoughts):
            await _try_full_length(findings, target, longest, sent, outcome)
        if schema is not None and isinstance(target, HuggingFaceChat):
            await _try_schema(findings, target, model, schema, keys)
        if seeds:
            request = _seed_request(longest, model)
            first = await _attempt(target, request)
            check_seeds(findings, first, await _attempt(target, request))
    if isinstance(target, HuggingFaceChat):
        check_negotiated(findings, target.negotiated(model))
    return tuple(findings.findings)


def _required_keys(schema: str | None) -> frozenset[str]:
    """Return the keys that a JSON schema requires."""
    values = decode_json(schema) if schema is not None else {}
    if not isinstance(values, dict):
        raise AgentTTSError(
            "`schema` must be a JSON schema as JSON text (a JSON object), got "
            f"{one_line(str(schema), 60)!r}."
        )
    keys = values.get("required")
    keys = keys if isinstance(keys, list) else []
    return frozenset(key for key in keys if isinstance(key, str))


async def _fetch_facts(chat: HuggingFaceChat, model: str) -> ServerFacts:
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
            max_concurrent=as_count(info.get("max_concurrent_requests")),
            max_stop=as_count(info.get("max_stop_sequences")) or _TGI_MAX_STOP,
        )
    status, entries = await chat.listing()
    listed = {name: entry for entry in entries if isinstance(name := entry.get("id"), str)}
    # An unlisted name may be any of several models, whose context lengths differ.
    entry = listed.get(model, next(iter(listed.values())) if len(listed) == 1 else {})
    return ServerFacts(
        answered=bool(status or info),
        names=tuple(listed),
        max_total=as_count(entry.get("max_model_len")),
    )


async def _probe(
    chat: ChatModel, longest: ChatRequest | None, model: str
) -> tuple[Outcome, ChatRequest]:
    """Send the longest request for one token; allow more if the model reasons first.

    Returns:
        The outcome, and the request that led to it.
    """
    probe = replace(longest or _short("Reply with OK."), model=model, max_tokens=1, schema=None)
    outcome = await _attempt(chat, probe)
    if isinstance(outcome, Failure) and outcome.kind == "no text in reply":
        max_tokens = _REASONING_TOKENS if longest is None else longest.max_tokens
        probe = replace(probe, max_tokens=max_tokens)
        outcome = await _attempt(chat, probe)
    return outcome, probe


async def _try_full_length(
    findings: FindingCollector,
    chat: ChatModel,
    longest: ChatRequest,
    sent: ChatRequest,
    outcome: Completion,
) -> None:
    full = replace(sent, max_tokens=longest.max_tokens)
    if full != sent:
        check_full_length(findings, longest, await _attempt(chat, full))
    elif outcome.ended_in_thoughts:
        check_full_length(findings, longest, outcome)


async def _try_schema(
    findings: FindingCollector, chat: ChatModel, model: str, schema: str, keys: frozenset[str]
) -> None:
    # 64 tokens are enough for a short JSON object; chosen by hand.
    question = replace(_short("What is two plus two?"), model=model, max_tokens=64)
    check_schema(findings, await _attempt(chat, replace(question, schema=schema)), keys)


def _seed_request(longest: ChatRequest | None, model: str) -> ChatRequest:
    """Build the request that tests seeds: the longest one if it is cheap."""
    cheap = longest is not None and count_chars(longest) <= _MAX_CHEAP_CHARS
    request = longest if longest is not None and cheap else _short("Write ten random words.")
    # Long and random enough that equal replies are no coincidence; chosen by hand.
    return replace(request, model=model, max_tokens=16, temperature=0.9, schema=None)


async def _attempt(chat: ChatModel, request: ChatRequest) -> Outcome:
    try:
        return await chat.complete(request, seed=_SEED)
    except ChatError as error:
        message = str(error).removeprefix(f"{getattr(chat, 'where', '')}: ")
        # The finding shows it in a line of its own.
        return Failure(error.kind, message.removesuffix(f". {REMEDIES.get(error.kind)}"))
    # A user's chat model may raise anything; other exceptions than `ChatError` end a search.
    except Exception as error:
        message = f"raised {type(error).__name__}, which is not a `ChatError`"
        return Failure("no ChatError", message)


def _short(text: str) -> ChatRequest:
    return ChatRequest(model="", messages=(Message("user", text),), max_tokens=1, temperature=0.0)
