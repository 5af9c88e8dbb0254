"""Individual checks of a model and its server; `examine` in `doctor.py` runs them in order."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from optuna_agenttts.llm.findings import Finding, Level
from optuna_agenttts.llm.negotiation import LOSSES, Parameters, describe_change
from optuna_agenttts.llm.outages import REMEDIES
from optuna_agenttts.llm.port import ChatError, ChatRequest, Completion
from optuna_agenttts.llm.probes import Failure, Outcome, count_chars
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.llm.server_facts import ServerFacts, is_path
from optuna_agenttts.llm.untrusted import decode_json
from optuna_agenttts.support.plain import listed, one_line

_MAX_MESSAGE_CHARS = 500
"""Maximum length of a finding's message, in characters; chosen by hand to fit a terminal."""
_MAX_LISTED_NAMES = 4
"""Maximum number of served models that a message lists; chosen by hand."""

_TOO_LONG = (
    "Shorten the prompt, lower `max_tokens`, or start the server with a longer context. If the "
    "server rejects a parameter, leave it out: `connect_endpoints(..., request_parameters={name: "
    "None})`. If it rejects the words of the prompt, pass others: `agenttts doctor --prompt`."
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
    "reply ended early": _BROKEN,
    "overloaded": _BROKEN,
    "timeout": "Raise the timeout, or find out why the server is slow: it may be loading a model.",
    "ValueError": "Log in with `hf auth login` or pass a key, and check the provider's name.",
    "no ChatError": "Raise `ChatUnavailableError` or `ChatRefusedError` instead.",
}
"""Remedy for each kind of failure, including those of huggingface_hub (``ValueError``)."""
EFFORT_FIELDS = (
    "Name fields that the server reads, for example "
    "`efforts(model, low={'reasoning_effort': 'low'})`, or leave the effort out."
)
_ABOUT_EFFORTS = re.compile(r"think|reason|effort|1210", re.I)
"""Words of refusals of efforts; the last one is the code of an unnamed parameter of GLM."""
_REDIRECTED = "Pass the URL that the server redirects to."
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


def remedy_for(failure: Failure, effort: str | int | None = None) -> str:
    """Return advice for a failed call, which may have had a thinking effort."""
    if effort is not None and failure.refused:
        # Long messages are cut before the name of the parameter.
        quoted = re.search(rf"""["'`]{re.escape(str(effort))}\\?["'`]""", failure.message)
        if quoted or _ABOUT_EFFORTS.search(failure.message):
            return EFFORT_FIELDS
    if failure.kind.startswith("HTTP 3"):
        return _REDIRECTED
    broken = failure.kind.startswith("HTTP ") or failure.kind.endswith("Error")
    return _REMEDIES.get(failure.kind, _BROKEN if broken else "")


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
    findings.add("reachable", "error", f"{netloc}: {outcome.message}", remedy_for(outcome))
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
    shown = [repr(redact(name, [findings.secret])) for name in server.names]
    names = listed(shown, _MAX_LISTED_NAMES)
    level: Level = "warning"
    if not names:
        message = "the server does not list the models that it serves"
        remedy = "Make sure that it serves the right model: some servers accept any name."
    elif not model or server.lists(model):
        findings.add("model", "ok", f"serves {model!r}" if model else f"serves {names}")
        return
    elif server.tgi and is_path(server.names[0]):
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


def check_call(
    findings: FindingCollector,
    longest: ChatRequest | None,
    outcome: Outcome,
    extra: str | None = None,
    effort: str | int | None = None,
) -> None:
    """Check the outcome of the one-token request.

    Args:
        findings: Receives the finding.
        longest: The longest request of the search; None if it is not known.
        outcome: The outcome.
        extra: Further fields of the request, as JSON text.
        effort: Thinking effort of the request.
    """
    if isinstance(outcome, Failure):
        level: Level = "warning" if outcome.kind == "HTTP 429" else "error"
        fields = [name for name in (decode_json(extra or "") or {}) if name in outcome.message]
        remedy = remedy_for(outcome, effort)
        if fields:
            named = ", ".join(map(repr, fields))
            remedy = f"Remove {named} from `Model(extra=...)`: the server does not accept it."
        findings.add("one token", level, outcome.message, remedy)
    elif longest is None:
        findings.add("one token", "ok", "a short request is answered")
    else:
        tokens = outcome.usage.prompt_tokens
        length = (
            f"{tokens} tokens"
            if "prompt_tokens" not in outcome.usage.estimated
            else "unknown length"
        )
        message = f"the longest request is answered; its prompt has {length}"
        findings.add("one token", "ok", message)


def check_context(
    findings: FindingCollector,
    server: ServerFacts,
    longest: ChatRequest,
    outcome: Outcome,
    chars_per_token: float,
    generated: int = 0,
) -> None:
    """Check that the longest prompt and its reply fit the server's context.

    Args:
        findings: Receives the finding, if the server reports its limits.
        server: The server's facts.
        longest: The longest request of the search.
        outcome: Outcome of sending it for one token.
        chars_per_token: Characters per token, where the server did not count the prompt.
        generated: Tokens of a reply to it, which exceed `max_tokens` where thoughts do not count.
    """
    if server.max_total is None and server.max_input is None:
        return
    counted = isinstance(outcome, Completion) and "prompt_tokens" not in outcome.usage.estimated
    if isinstance(outcome, Completion) and counted:
        prompt, about = outcome.usage.prompt_tokens, ""
    else:
        prompt, about = math.ceil(count_chars(longest) / chars_per_token), "about "
    reply = max(longest.max_tokens, generated)
    needed = prompt + reply
    level: Level = "error" if counted else "warning"
    remedy = "Shorten the prompt, or start the server with a longer context."
    effect = "so calls of a search would fail, or be cut without an error"
    if server.max_input is not None and prompt > server.max_input:
        message = f"the prompt has {about}{prompt} tokens; the server accepts {server.max_input}"
    elif server.max_total is not None and needed > server.max_total:
        beyond = ", thoughts beyond `max_tokens` included" if reply > longest.max_tokens else ""
        message = (
            f"the prompt has {about}{prompt} tokens and the reply up to {reply}{beyond}, "
            f"{needed} in total; the server accepts {server.max_total}"
        )
        if prompt < server.max_total and not beyond:
            remedy = f"Lower `max_tokens` to {server.max_total - prompt}. Otherwise: {remedy}"
    else:
        limit = server.max_total or server.max_input
        level, remedy, effect = "ok", "", "including the reply"
        message = f"{about}{needed} of {limit} tokens"
    message += f", {effect}"
    findings.add("context", level, message, remedy)


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
            remedy_for(outcome)
            if level == "error"
            else "Test manually whether schemas are followed."
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
