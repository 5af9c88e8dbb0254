"""Individual checks of a model and its server; `examine` in `doctor.py` runs them in order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optuna_agenttts.llm.findings import Finding, Level
from optuna_agenttts.llm.negotiation import LOSSES, Parameters, describe_change
from optuna_agenttts.llm.outages import NO_QUOTA, REMEDIES
from optuna_agenttts.llm.port import ChatError, ChatRequest, Completion, prompt_usage
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.llm.untrusted import decode_json, one_line

_MAX_MESSAGE_CHARS = 500
"""Maximum length of a finding's message, in characters; chosen by hand to fit a terminal."""
_MAX_LISTED_NAMES = 4
"""Maximum number of served models that a message lists; chosen by hand."""

_TOO_LONG = (
    "Shorten the prompt, lower `max_tokens`, or start the server with a longer context. If the "
    "server rejects a specific parameter, leave it out: `request_parameters={name: None}`."
)
_BROKEN = "Check the server's log, or wait until the model is loaded, then run the check again."
_NO_API = "Pass the root of the API as the URL: a login page or a proxy may be answering instead."
_REMEDIES: Mapping[str, str] = {
    **REMEDIES,
    "HTTP 400": _TOO_LONG,
    "HTTP 404": "Check the model's name on this server, and that the URL is the server's root.",
    "HTTP 413": _TOO_LONG,
    "HTTP 422": _TOO_LONG,
    "HTTP 429": "Run the check again when the server is less busy, or lower the concurrency.",
    "no JSON": _NO_API,
    "no text in reply": (
        "If the model reasons before it answers, raise `max_tokens` or disable reasoning. "
        "Otherwise check that the URL serves a chat model."
    ),
    "timeout": "Raise the timeout, or find out why the server is slow: it may be loading a model.",
    "ValueError": "Log in with `hf auth login` or pass a key, and check the provider's name.",
    "no ChatError": "Raise `ChatUnavailableError` or `ChatRefusedError` instead.",
}
"""Remedy for each kind of failure, including those of huggingface_hub (``ValueError``)."""
_REDIRECTED = "Pass the URL that the server redirects to."
_REPLY_KINDS = {NO_QUOTA, "no JSON", "no text in reply", "reply too long"}
"""Kinds of failure, besides HTTP statuses, that prove that a server replied."""
_INCONCLUSIVE = {"HTTP 400", "HTTP 413", "HTTP 422", "HTTP 429", "no text in reply"}
"""Kinds of failure that do not show whether schemas work: the adapter drops refused formats."""


class FindingCollector:
    """Findings about one subject, with the API key redacted.

    Args:
        subject: Name of the model or endpoint.
    """

    def __init__(self, subject: str) -> None:
        self.subject, self.findings = subject, list[Finding]()
        self.secret: str | None = None

    def add(self, check: str, level: Level, message: str, remedy: str = "") -> None:
        """Append a finding; see `Finding` for the arguments."""
        message = one_line(redact(message, [self.secret]), _MAX_MESSAGE_CHARS)
        self.findings.append(Finding(self.subject, check, level, message, remedy))


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
    """

    answered: bool = False
    tgi: bool = False
    names: tuple[str, ...] = ()
    max_input: int | None = None
    max_total: int | None = None
    max_concurrent: int | None = None
    max_stop: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Failed call: the error's kind and message."""

    kind: str
    message: str

    @property
    def answered(self) -> bool:
        """True if a server replied at all."""
        return self.kind.startswith("HTTP ") or self.kind in _REPLY_KINDS

    @property
    def remedy(self) -> str:
        """Advice for the user."""
        if self.kind.startswith("HTTP 3"):
            return _REDIRECTED
        broken = self.kind.startswith("HTTP ") or self.kind.endswith("Error")
        return _REMEDIES.get(self.kind, _BROKEN if broken else "")


Outcome = Completion | Failure


def count_chars(request: ChatRequest) -> int:
    """Return the number of characters in a request's messages."""
    return sum(len(message.content) for message in request.messages)


def check_size(findings: FindingCollector, parameters: float | None) -> None:
    """Check that the model's number of parameters is known."""
    if parameters is not None:
        findings.add("size", "ok", f"{parameters:.3g} parameters")
    else:
        message = "the number of parameters is unknown, so FLOPs cannot be computed"
        findings.add(
            "size", "warning", message, "Set `parameters`, or use a cost model without it."
        )


def check_reachable(
    findings: FindingCollector, netloc: str, server: ServerFacts, outcome: Outcome
) -> bool:
    """Check that anything replies at the server's address, and return the result."""
    if server.answered or isinstance(outcome, Completion) or outcome.answered:
        name = "TGI" if server.tgi else "a server"
        findings.add("reachable", "ok", f"{name} answers at {netloc}")
        return True
    findings.add("reachable", "error", f"{netloc}: {outcome.message}", outcome.remedy)
    return False


def check_model(
    findings: FindingCollector, server: ServerFacts, model: str, answered: bool
) -> None:
    """Check that the server serves the model.

    Args:
        findings: Receives the finding.
        server: The server's facts.
        model: Name of the model; empty to accept any.
        answered: Whether the server completed a request for that name.
    """
    # Redact before `repr`, which escapes characters of a key.
    shown = [repr(redact(name, [findings.secret])) for name in server.names[:_MAX_LISTED_NAMES]]
    names, more = ", ".join(shown), len(server.names) - _MAX_LISTED_NAMES
    names += f" and {more} more" if more > 0 else ""
    level: Level = "warning"
    if not names:
        message = "the server does not list the models that it serves"
        remedy = "Make sure that it serves the right model: some servers accept any name."
    elif not model or any(_is_same_model(n, model, paths=server.tgi) for n in server.names):
        findings.add("model", "ok", f"serves {model!r}" if model else f"serves {names}")
        return
    elif server.tgi and _is_path(server.names[0]):
        message = f"TGI serves the folder {names} and accepts any model name"
        remedy = f"Make sure that the folder holds {model!r}."
    elif server.tgi:
        level, message = "error", f"TGI serves {names}, not {model!r}, and accepts any model name"
        remedy = f"Pass the URL of a server of {model!r}, or name the model that is served."
    else:
        level = "warning" if answered else "error"
        suffix = "; requests for it succeed nevertheless" if answered else ""
        message = f"{model!r} is not listed; the server lists {names}{suffix}"
        remedy = "Name a listed model: some servers reply with a different model than requested."
    findings.add("model", level, message, remedy)


def _is_same_model(listed: str, model: str, *, paths: bool) -> bool:
    """Return whether a listed name denotes a model, ignoring a ``:provider`` suffix or folder."""
    if listed in (model, model.rpartition(":")[0]):
        return True
    folder = listed.rstrip("/").split("/")[-1]
    return paths and _is_path(listed) and folder == model.split("/")[-1]


def _is_path(name: str) -> bool:
    return name.startswith(("/", "."))


def check_limits(
    findings: FindingCollector, server: ServerFacts, concurrency: int, stops: int
) -> None:
    """Check concurrency and number of stop strings against TGI's limits."""
    if (limit := server.max_concurrent) is not None:
        message, remedy = f"{concurrency} requests at once; TGI accepts {limit}", ""
        if concurrency > limit:
            message += " and refuses the rest"
            remedy = f"Lower the concurrency to {limit}, or raise --max-concurrent-requests."
        findings.add("concurrency", "warning" if remedy else "ok", message, remedy)
    if (limit := server.max_stop) is not None and stops:
        message, remedy = f"{stops} per request; TGI accepts {limit}", ""
        if stops > limit:
            message += " and refuses requests with more"
            remedy = f"Use at most {limit}, or raise --max-stop-sequences."
        findings.add("stop strings", "error" if remedy else "ok", message, remedy)


def check_call(findings: FindingCollector, longest: ChatRequest | None, outcome: Outcome) -> None:
    """Check the outcome of the one-token request."""
    if isinstance(outcome, Failure):
        level: Level = "warning" if outcome.kind == "HTTP 429" else "error"
        findings.add("one token", level, outcome.message, outcome.remedy)
    elif longest is None:
        findings.add("one token", "ok", "a short request is answered")
    else:
        tokens = outcome.usage.prompt_tokens
        length = f"{tokens} tokens" if _is_counted(longest, outcome) else "unknown length"
        message = f"the longest request is answered; its prompt has {length}"
        findings.add("one token", "ok", message)


def _is_counted(request: ChatRequest, completion: Completion) -> bool:
    """Return whether the server counted the prompt, rather than 4 characters per token."""
    return completion.usage.prompt_tokens != prompt_usage(request).prompt_tokens


def check_context(
    findings: FindingCollector,
    server: ServerFacts,
    longest: ChatRequest,
    outcome: Outcome,
    chars_per_token: float,
) -> None:
    """Check that the longest prompt and its reply fit the server's context.

    Args:
        findings: Receives the finding, if the server reports its limits.
        server: The server's facts.
        longest: The longest request of the search.
        outcome: Outcome of sending it for one token.
        chars_per_token: Characters per token, where the server did not count the prompt.
    """
    if server.max_total is None and server.max_input is None:
        return
    counted = isinstance(outcome, Completion) and _is_counted(longest, outcome)
    if isinstance(outcome, Completion) and counted:
        prompt, about = outcome.usage.prompt_tokens, ""
    else:
        prompt, about = math.ceil(count_chars(longest) / chars_per_token), "about "
    needed = prompt + longest.max_tokens
    level: Level = "error" if counted else "warning"
    remedy = "Shorten the prompt, or start the server with a longer context."
    if server.max_input is not None and prompt > server.max_input:
        message = f"the prompt has {about}{prompt} tokens; the server accepts {server.max_input}"
    elif server.max_total is not None and needed > server.max_total:
        message = (
            f"the prompt has {about}{prompt} tokens and the reply up to {longest.max_tokens}, "
            f"{needed} in total; the server accepts {server.max_total}"
        )
        if prompt < server.max_total:
            remedy = f"Lower `max_tokens` to {server.max_total - prompt}. Otherwise: {remedy}"
    else:
        limit = server.max_total or server.max_input
        level, remedy = "ok", ""
        message = f"{about}{needed} of {limit} tokens, including the reply"
    findings.add("context", level, message, remedy)


def check_full_length(findings: FindingCollector, longest: ChatRequest, outcome: Outcome) -> None:
    """Check the outcome of the longest request with its own `max_tokens`."""
    message = f"the longest request with `max_tokens` {longest.max_tokens}"
    if isinstance(outcome, Failure):
        level: Level = "warning" if outcome.kind == "HTTP 429" else "error"
        message += f", which was answered with 1, fails: {outcome.message}"
        findings.add("full length", level, message, outcome.remedy)
    elif outcome.ended_in_thoughts:
        message += f" is answered with thoughts only (finish reason {outcome.finish_reason!r})"
        remedy = "Raise `max_tokens`, or lower thinking, for example by `Model(extra=...)`."
        findings.add("full length", "warning", message, remedy)
    else:
        tokens = outcome.usage.completion_tokens
        findings.add("full length", "ok", f"{message} is answered with {tokens} tokens")


def check_schema(findings: FindingCollector, outcome: Outcome, keys: frozenset[str]) -> None:
    """Check that a reply follows the requested schema.

    Args:
        findings: Receives the finding.
        outcome: Outcome of a request with the schema.
        keys: Keys that the schema requires.
    """
    check = "structured output"
    if isinstance(outcome, Failure):
        level: Level = "warning" if outcome.kind in _INCONCLUSIVE else "error"
        remedy = (
            outcome.remedy if level == "error" else "Test manually whether schemas are followed."
        )
        findings.add(check, level, f"not tested: {outcome.message}", remedy)
        return
    values = decode_json(outcome.text)
    truncated = outcome.finish_reason == "length" and outcome.text.lstrip().startswith("{")
    truncated &= values is None and len(outcome.text.strip()) > 1
    follows = truncated or (isinstance(values, dict) and keys <= set(values))
    if follows:
        state = "starts as JSON and is truncated" if truncated else "follows the schema"
        findings.add(check, "ok", f"a reply {state}")
    else:
        findings.add(
            check,
            "warning",
            f"the schema is ignored: a reply starts with {one_line(outcome.text, 40)!r}",
            "Describe the format in the prompt and expect malformed replies, or use a server "
            "with constrained generation: TGI, vLLM, SGLang or llama.cpp.",
        )


def check_setup(findings: FindingCollector, error: ChatError) -> None:
    """Report an error before any request: of the key, or of proxies or certificates."""
    if "key" in error.kind:
        findings.add("key", "error", str(error), "Pass a valid key, or none.")
    else:
        findings.add("reachable", "error", str(error))


def check_negotiated(findings: FindingCollector, parameters: Parameters) -> None:
    """Report the parameters that are renamed or left out."""
    for name, form in parameters.items():
        lost = form is None and name in LOSSES
        findings.add(
            "parameters",
            "warning" if lost else "ok",
            f"`{name}` differs at this server: {describe_change(name, form)}",
            "Use a server that accepts it if your search depends on it." if lost else "",
        )


def check_seeds(findings: FindingCollector, first: Outcome, second: Outcome) -> None:
    """Check that two requests with the same seed gave the same reply."""
    if isinstance(first, Failure):
        message, remedy = f"not tested: {first.message}", ""
    elif isinstance(second, Failure):
        message, remedy = f"not tested: {second.message}", ""
    elif first.text == second.text:
        findings.add("seeds", "ok", "the same seed gives the same reply twice")
        return
    else:
        message = "the same seed gives two different replies"
        remedy = "Samples will differ between runs; the store still reuses the ones it holds."
    findings.add("seeds", "warning", message, remedy)
