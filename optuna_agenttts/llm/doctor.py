"""Pre-flight checks of a model and its server.

A search sends a server thousands of requests. `examine` sends about seven and reports problems,
suspicious behavior and remedies.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.checks import (
    FindingCollector,
    check_call,
    check_context,
    check_limits,
    check_model,
    check_negotiated,
    check_reachable,
    check_schema,
    check_setup,
    check_size,
)
from optuna_agenttts.llm.findings import Finding
from optuna_agenttts.llm.huggingface import HuggingFaceChat
from optuna_agenttts.llm.negotiation import adapt_messages
from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRequest,
    Completion,
    without_retries,
)
from optuna_agenttts.llm.probes import (
    SEED,
    TEMPERATURE,
    Failure,
    Outcome,
    Prober,
    count_chars,
    lengthened,
    random_request,
    short_request,
)
from optuna_agenttts.llm.reply_checks import (
    check_growth,
    check_seeds,
    check_system,
    check_texts,
    check_thoughts,
    grows,
    is_other_model,
    report_identical,
    report_other_model,
    written,
)
from optuna_agenttts.llm.secrets import key_for
from optuna_agenttts.llm.server_facts import ServerFacts, fetch_facts, with_loaded_context
from optuna_agenttts.llm.untrusted import decode_json
from optuna_agenttts.support.plain import one_line

_MAX_CHEAP_CHARS = 4000
"""Prompt length in characters up to which the longest prompt also tests seeds; chosen by hand."""
_THINKING_TOKENS = 1024
"""Tokens allowed for a short question to a model that thinks before it answers; chosen by hand."""
_SAMPLE_TOKENS, _THOUGHT_SAMPLE_TOKENS = 32, 256
"""Tokens of replies whose difference is tested, and of thoughts, which begin alike. Chosen by
hand."""
_SCHEMA_TOKENS = 64
"""Tokens that are enough for a short JSON object; chosen by hand."""


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
    extra: str | None = None,
    thinking: str | int | None = None,
    prompt_only: bool = False,
) -> tuple[Finding, ...]:
    """Check a model and its server.

    The longest request is sent with a limit of one token; if it fails, no further completion is
    requested. It is sent with more words, to see whether its count grows, and with its own
    `max_tokens` if the server reports no limits or only thinks. Short prompts test the schema (one
    request) and seeds (three). These are five to seven requests in sequence, one more for each
    refused parameter, and up to four more where something seems wrong, all without retries. No
    finding contains the API key.

    Args:
        chat: The chat model. If it has a URL, the server's own pages are read, too.
        subject: Name of the model or endpoint in findings.
        model: Name of the model on its server; empty for the chat model's default.
        longest: The longest request of the search. Default: a short one.
        concurrency: Number of concurrent requests during the search.
        stop_strings: Maximum number of stop strings per request.
        schema: JSON schema, as JSON text, that replies will have to follow.
        parameters: Number of the model's parameters, if known.
        seeds: Whether to test seeds, which takes three requests.
        chars_per_token: Minimum characters per token, for prompts that the server did not count.
        extra: Further fields of each request, as JSON text. Default: those of `longest`.
        thinking: Thinking effort of each request. Default: that of `longest`.
        prompt_only: Whether `max_tokens` of `longest` is not that of the search.

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
            server = await fetch_facts(target, expected := model or target.model or "")
        except ChatError as error:
            check_setup(findings, error)
            return tuple(findings.findings)

    prober = _prober(target, model, longest, extra, thinking)
    outcome, sent = await _probe(prober, longest)
    if isinstance(target, HuggingFaceChat) and target.base_url is not None:
        if not check_reachable(findings, urlsplit(target.base_url).netloc, server, outcome):
            return tuple(findings.findings)
        server = await with_loaded_context(target, server, expected)
        stops = max(stop_strings, 0 if longest is None else len(longest.stop))
        check_limits(findings, server, concurrency, stops)
    _check_name(findings, target, server, expected, outcome)
    check_call(findings, longest, outcome, prober.extra, prober.thinking)
    await _try_without_system(findings, prober, sent, outcome)
    generated = await _try_lengths(findings, prober, server, longest, sent, outcome, prompt_only)
    if longest is not None:
        check_context(findings, server, longest, outcome, chars_per_token, generated)
    if isinstance(outcome, Completion):
        await _try_samples(findings, prober, longest, schema=schema, keys=keys, seeds=seeds)
        check_texts(findings, prober.completions)
    _report_requests(findings, prober)
    return tuple(findings.findings)


def _prober(
    chat: ChatModel,
    model: str,
    longest: ChatRequest | None,
    extra: str | None,
    thinking: str | int | None,
) -> Prober:
    """Return what sends the requests, with the fields given or those of the longest one."""
    if longest is not None:
        extra = extra or longest.extra
        thinking = longest.thinking if thinking is None else thinking
    return Prober(chat=chat, model=model, extra=extra, thinking=thinking)


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


async def _probe(prober: Prober, longest: ChatRequest | None) -> tuple[Outcome, ChatRequest]:
    """Send the longest request for one token; allow more if there is no text otherwise.

    Returns:
        The outcome, and the request that led to it.
    """
    probe = replace(longest or short_request("Reply with OK."), max_tokens=1, schema=None)
    outcome = await prober.send(probe)
    if isinstance(outcome, Failure) and outcome.needs_tokens:
        max_tokens = _THINKING_TOKENS if longest is None else longest.max_tokens
        probe = replace(probe, max_tokens=max_tokens)
        outcome = await prober.send(probe)
    return outcome, probe


async def _try_without_system(
    findings: FindingCollector, prober: Prober, sent: ChatRequest, outcome: Outcome
) -> None:
    """Check whether a request failed because of its system messages."""
    merged = adapt_messages(sent.messages, {"system": None})
    if isinstance(outcome, Failure) and outcome.may_be_template and merged != sent.messages:
        found = await prober.send(replace(sent, messages=merged))
        if isinstance(found, Completion):
            check_system(findings, outcome, needed=True)


async def _try_growth(
    findings: FindingCollector,
    prober: Prober,
    longest: ChatRequest | None,
    sent: ChatRequest,
    outcome: Completion,
) -> None:
    """Check that longer prompts have larger counts, in system messages if there are some.

    A short request gets a system message, so that its template is tested.
    """
    needed = any(message.role == "system" for message in sent.messages)
    system = needed or longest is None
    longer = lengthened(sent, system=system)
    grown = await prober.send(longer)
    suspect = grown.may_be_template if isinstance(grown, Failure) else not grows(outcome, grown)
    if system and suspect:
        in_system, longer = grown, lengthened(sent, system=False)
        grown = await prober.send(longer)
        if grows(outcome, grown):
            check_system(findings, in_system, needed=needed)
            prober.system = isinstance(in_system, Completion)
    check_growth(findings, (sent, outcome), (longer, grown), longest=longest is not None)


async def _try_lengths(
    findings: FindingCollector,
    prober: Prober,
    server: ServerFacts,
    longest: ChatRequest | None,
    sent: ChatRequest,
    outcome: Outcome,
    prompt_only: bool,
) -> int:
    """Check a longer prompt, and the longest reply if it may fail or have no room for an answer.

    Returns:
        Number of tokens of the longest reply; 0 if it was not requested.
    """
    if isinstance(outcome, Failure):
        return 0
    # Chat models in process may estimate tokens, too, but do not cut prompts.
    counted = longest is not None and not outcome.usage.estimated
    if counted or isinstance(prober.chat, HuggingFaceChat):
        await _try_growth(findings, prober, longest, sent, outcome)
    known = longest is not None and not prompt_only
    max_tokens = longest.max_tokens if longest is not None and known else _THINKING_TOKENS
    if not outcome.ended_in_thoughts and (server.enforced or not known or max_tokens == 1):
        return 0
    full = replace(sent, max_tokens=max_tokens)
    found = outcome if full == sent else await prober.send(full)
    check_thoughts(findings, full, found, longest=known)
    return found.usage.completion_tokens if isinstance(found, Completion) else 0


async def _try_samples(
    findings: FindingCollector,
    prober: Prober,
    longest: ChatRequest | None,
    *,
    schema: str | None,
    keys: frozenset[str],
    seeds: bool,
) -> None:
    """Check schemas and seeds."""
    if schema is not None and isinstance(prober.chat, HuggingFaceChat):
        question = short_request("What is two plus two?", _SCHEMA_TOKENS)
        check_schema(findings, await prober.send(replace(question, schema=schema)), keys)
    if seeds:
        await _try_seeds(findings, prober, longest)


async def _try_seeds(
    findings: FindingCollector, prober: Prober, longest: ChatRequest | None
) -> None:
    """Check that one seed gives one reply, and different seeds give different ones."""
    tokens = _THOUGHT_SAMPLE_TOKENS if prober.thinks else _SAMPLE_TOKENS
    request = random_request(0, tokens, system=prober.system)
    first = await prober.send(request)
    if isinstance(first, Failure) and first.may_be_template and prober.system:
        failure, request = first, random_request(0, tokens, system=False)
        first = await prober.send(request)
        if isinstance(first, Completion):
            prober.system = False
            check_system(findings, failure, needed=False)
    own = True
    # Calls of models in this process cost nothing.
    cheap = longest is not None and (
        not isinstance(prober.chat, HuggingFaceChat) or count_chars(longest) <= _MAX_CHEAP_CHARS
    )
    if isinstance(first, Failure) and first.refused and longest is not None and cheap:
        # Models of a few words, and simulated ones, know their own prompts only.
        own = False
        request = replace(longest, max_tokens=tokens, temperature=TEMPERATURE, schema=None)
        first = await prober.send(request)
    if prober.thinks and tokens < _THOUGHT_SAMPLE_TOKENS:
        request = replace(request, max_tokens=_THOUGHT_SAMPLE_TOKENS)
        first = await prober.send(request)
    if isinstance(first, Failure) or not written(first):
        check_seeds(findings, first, first)
        return
    other = await prober.send(request, seed=SEED + 1)
    if own and await _are_identical(prober, request, first, other):
        report_identical(findings, written(first))
    elif "seed" not in _left_out(prober):
        check_seeds(findings, first, await prober.send(request))


def _left_out(prober: Prober) -> set[str]:
    """Return the parameters that are not sent, which `check_negotiated` reports."""
    chat = prober.chat
    forms = chat.negotiated(prober.model) if isinstance(chat, HuggingFaceChat) else {}
    return {name for name, form in forms.items() if form is None}


async def _are_identical(
    prober: Prober, request: ChatRequest, first: Outcome, other: Outcome
) -> bool:
    """Return whether replies of two seeds are equal, for two prompts."""
    if not _is_same(first, other):
        return False
    second = random_request(1, request.max_tokens, system=prober.system)
    return _is_same(await prober.send(second), await prober.send(second, seed=SEED + 1))


def _is_same(first: Outcome, other: Outcome) -> bool:
    if isinstance(first, Failure) or isinstance(other, Failure):
        return False
    return written(first) == written(other)


def _check_name(
    findings: FindingCollector,
    chat: ChatModel,
    server: ServerFacts,
    model: str,
    outcome: Outcome,
) -> None:
    """Check the model's name in the server's list and in a reply."""
    url = chat.base_url if isinstance(chat, HuggingFaceChat) else None
    name = outcome.model if isinstance(outcome, Completion) else ""
    # TGI lists what it serves, and deployments at Azure have names of their users.
    known = server.tgi or "azure" in (url or "")
    if not known and is_other_model(model, name, listed=server.lists(model)):
        report_other_model(findings, model, name)
    elif url is not None:
        check_model(findings, server, model, isinstance(outcome, Completion))


def _report_requests(findings: FindingCollector, prober: Prober) -> None:
    """Report what the checks took, and which parameters were refused."""
    if isinstance(prober.chat, HuggingFaceChat):
        check_negotiated(findings, prober.chat.negotiated(prober.model))
    if not prober.completions:
        return
    usages = [completion.usage for completion in prober.completions]
    prompt = sum(usage.prompt_tokens for usage in usages)
    generated = sum(usage.completion_tokens for usage in usages)
    findings.add(
        "requests",
        "ok",
        f"{prober.calls} were sent, with {prompt} prompt and {generated} generated tokens",
    )
