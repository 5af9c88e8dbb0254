"""What would make a search fail at a model's server, found before any money is spent.

A search asks a server thousands of times. `examine` asks it about six times, and says in a table
what is wrong, what is suspicious, and what to do about it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.findings import Finding, Level
from optuna_agenttts.llm.huggingface import HuggingFaceChat
from optuna_agenttts.llm.port import ChatError, ChatModel, ChatRequest, Completion, Message
from optuna_agenttts.llm.retry import PatientChat
from optuna_agenttts.llm.secrets import key_for, one_line, redact

_SEED = 20_117
_TGI_MAX_STOP = 4
"""TGI's default for ``max_stop_sequences`` (3.3.6)."""
_SHORT_PROMPT = 4000
"""Characters up to which the longest prompt is cheap enough to be sent twice more."""

_TOO_LONG = (
    "Shorten the prompt or lower `max_tokens`, or start the server with a longer context; if the "
    "server names a parameter, leave that out."
)
_KEY = "Check that a key is set where this runs, is this server's, and may use the model."
_BROKEN = "Look at the server's log, or wait until the model is loaded, and check again."
_NO_API = "Give the root of the API as the URL: a login page or a proxy may be answering instead."
_REMEDIES: Mapping[str, str] = {
    "HTTP 400": _TOO_LONG,
    "HTTP 401": _KEY,
    "HTTP 402": "Buy credits, or have an organization pay that has some (`bill_to`).",
    "HTTP 403": _KEY,
    "HTTP 404": "Check the model's name as the server knows it, and that the URL is its root.",
    "HTTP 413": _TOO_LONG,
    "HTTP 422": _TOO_LONG,
    "HTTP 429": "Check again when the server is less busy, or lower the concurrency.",
    "no JSON": _NO_API,
    "no text in reply": (
        "If the model thinks before it answers, raise `max_tokens` or switch its thinking off; "
        "else check that the URL is a chat model's."
    ),
    "timeout": "Raise the timeout, or find out why the server is slow: it may be loading a model.",
    "ConnectError": "Is the server running, and reached from here? Check host and port.",
    "ValueError": "Log in with `hf auth login` or give a key, and check the provider's name.",
    "no ChatError": "Raise `ChatUnavailableError` or `ChatRefusedError` instead.",
}
"""By kind of failure; those of huggingface_hub (``ValueError``) included."""
_REDIRECTED = "Give the URL that the server points to."
_ANSWERS = {"no JSON", "no text in reply", "reply too long"}
"""Kinds of failures, besides HTTP statuses, of servers that are there."""
_UNDECIDED = {"HTTP 400", "HTTP 413", "HTTP 422", "HTTP 429", "no text in reply"}
"""Kinds of failures that say nothing of a constraint: the adapter drops one that is refused."""


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

    The longest request is sent for a single token. Where that fails nothing more is asked. A
    server is asked about six times, one request after another, each under the chat model's own
    timeout; one that refuses every form of constraint is asked eight times. A `PatientChat` is
    looked behind, so that nothing is asked again. What the server does wrong becomes a finding,
    never an exception, and no finding holds the key.

    Seeds are tried with the longest request where that is short, else with a short one, and one
    at a time: a server may honour them when it is idle and not under load (transformers serve
    5.23 does so).

    Args:
        chat: The chat model. Of those behind a URL the server's own pages are read too.
        subject: Name of the model or endpoint in findings.
        model: The model's name, as the server calls it; empty for the chat model's own.
        longest: The longest request of the search. Default: a short one.
        concurrency: How many requests will be under way at once.
        stop_strings: The most stop strings of a request.
        schema: A JSON schema, as JSON text, that replies will have to follow.
        parameters: Number of the model's parameters, if known.
        seeds: Whether to try if seeds are honoured, which takes two requests.
        chars_per_token: Characters that a token has at least, for prompts that the server did
            not count.

    Raises:
        AgentTTSError: `schema` is no JSON object, or `chars_per_token` not above 0.
    """
    keys = _required_keys(schema)
    if not chars_per_token > 0:
        raise AgentTTSError(
            f"examine: `chars_per_token` is {chars_per_token!r}: give a number above 0, such as 3."
        )
    asked = chat._chat if isinstance(chat, PatientChat) else chat
    notes = _Notes(one_line(subject))
    _note_size(notes, parameters)
    server, wanted = _Server(), model
    if isinstance(asked, HuggingFaceChat):
        try:
            notes.secret = key_for(asked.base_url, asked._api_key)
            wanted = model or asked.model or ""
            server = await _ask_server(asked, wanted)
        except ChatError as error:
            notes.add("key", "error", str(error), "Give a key that can be sent, or none.")
            return tuple(notes.findings)

    probe = replace(longest or _short("Reply with OK."), model=model, max_tokens=1, schema=None)
    outcome = await _attempt(asked, probe)
    if isinstance(outcome, _Failure) and outcome.kind == "no text in reply":
        # A model that thinks first has no text after one token.
        more = 64 if longest is None else longest.max_tokens
        outcome = await _attempt(asked, replace(probe, max_tokens=more))

    if isinstance(asked, HuggingFaceChat) and asked.base_url is not None:
        if not _note_reachable(notes, urlsplit(asked.base_url).netloc, server, outcome):
            return tuple(notes.findings)
        _note_model(notes, server, wanted, isinstance(outcome, Completion))
        stops = max(stop_strings, 0 if longest is None else len(longest.stop))
        _note_limits(notes, server, concurrency, stops)
    _note_call(notes, longest, outcome)
    if longest is not None:
        _note_context(notes, server, longest, outcome, chars_per_token)
    if isinstance(outcome, Completion):
        if schema is not None and isinstance(asked, HuggingFaceChat):
            question = replace(_short("What is two plus two?"), model=model, max_tokens=64)
            _note_schema(notes, await _attempt(asked, replace(question, schema=schema)), keys)
        if seeds:
            cheap = longest is not None and _characters(longest) <= _SHORT_PROMPT
            asks = longest if longest is not None and cheap else _short("Write ten random words.")
            asks = replace(asks, model=model, max_tokens=16, temperature=0.9, schema=None)
            _note_seeds(notes, await _attempt(asked, asks), await _attempt(asked, asks))
    return tuple(notes.findings)


class _Notes:
    """Findings about one subject, kept free of the key."""

    def __init__(self, subject: str) -> None:
        self.subject, self.findings = subject, list[Finding]()
        self.secret: str | None = None

    def add(self, check: str, level: Level, says: str, remedy: str = "") -> None:
        says = one_line(redact(says, [self.secret]), 500)
        self.findings.append(Finding(self.subject, check, level, says, remedy))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """What a server says of itself; None for what it does not say."""

    answered: bool = False
    tgi: bool = False
    names: tuple[str, ...] = ()
    max_input: int | None = None
    max_total: int | None = None
    """Tokens of prompt and reply together."""
    max_concurrent: int | None = None
    max_stop: int | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a call gave no completion."""

    kind: str
    says: str

    @property
    def answered(self) -> bool:
        """Whether a server was there at all."""
        return self.kind.startswith("HTTP ") or self.kind in _ANSWERS

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.kind.startswith("HTTP 3"):
            return _REDIRECTED
        broken = self.kind.startswith("HTTP ") or self.kind.endswith("Error")
        return _REMEDIES.get(self.kind, _BROKEN if broken else "")


_Outcome = Completion | _Failure


async def _ask_server(chat: HuggingFaceChat, model: str) -> _Server:
    info = await chat.info()
    name = info.get("model_id")
    if isinstance(name, str):
        return _Server(
            answered=True,
            tgi=True,
            names=(name,),
            max_input=_whole(info.get("max_input_tokens")),
            max_total=_whole(info.get("max_total_tokens")),
            max_concurrent=_whole(info.get("max_concurrent_requests")),
            max_stop=_whole(info.get("max_stop_sequences")) or _TGI_MAX_STOP,
        )
    status, entries = await chat.listing()
    listed = {name: entry for entry in entries if isinstance(name := entry.get("id"), str)}
    # Several models have several lengths: a name that is not listed may mean any of them.
    meant = listed.get(model, next(iter(listed.values())) if len(listed) == 1 else {})
    return _Server(
        answered=bool(status or info),
        names=tuple(listed),
        max_total=_whole(meant.get("max_model_len")),
    )


async def _attempt(chat: ChatModel, request: ChatRequest) -> _Outcome:
    try:
        return await chat.complete(request, seed=_SEED)
    except ChatError as error:
        return _Failure(error.kind, str(error).removeprefix(f"{getattr(chat, 'where', '')}: "))
    # Anybody's chat model: what it raises besides `ChatError` would end the search.
    except Exception as error:
        return _Failure("no ChatError", f"raised {type(error).__name__}, which is no `ChatError`")


def _short(text: str) -> ChatRequest:
    return ChatRequest(model="", messages=(Message("user", text),), max_tokens=1, temperature=0.0)


def _characters(request: ChatRequest) -> int:
    return sum(len(message.content) for message in request.messages)


def _whole(value: Any) -> int | None:
    """A number above 0 that a server sent, if it is one."""
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**12
    return value if sound else None


def _required_keys(schema: str | None) -> frozenset[str]:
    try:
        values = json.loads(schema) if schema is not None else {}
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise AgentTTSError(
            f"examine: `schema` is {one_line(str(schema), 60)!r}: give a JSON schema as JSON text."
        )
    keys = values.get("required")
    return (
        frozenset(k for k in keys if isinstance(k, str)) if isinstance(keys, list) else frozenset()
    )


def _note_size(notes: _Notes, parameters: float | None) -> None:
    if parameters is not None:
        notes.add("size", "ok", f"{parameters:.3g} parameters")
    else:
        says = "the number of parameters is not known: FLOPs cannot be computed"
        notes.add("size", "warning", says, "State it, or choose a cost that needs none.")


def _note_reachable(notes: _Notes, place: str, server: _Server, outcome: _Outcome) -> bool:
    if server.answered or isinstance(outcome, Completion) or outcome.answered:
        notes.add("reachable", "ok", f"{'TGI' if server.tgi else 'a server'} answers at {place}")
        return True
    notes.add("reachable", "error", f"{place}: {outcome.says}", outcome.remedy)
    return False


def _note_model(notes: _Notes, server: _Server, model: str, answered: bool) -> None:
    # Before quotes: they change a key.
    names = ", ".join(repr(redact(name, [notes.secret])) for name in server.names[:4])
    names += f" and {len(server.names) - 4} more" if len(server.names) > 4 else ""
    level: Level = "warning"
    if not names:
        says = "the server does not say which models it serves"
        remedy = "Make sure that it serves the right one: some answer to any name."
    elif not model or any(_same(name, model, paths=server.tgi) for name in server.names):
        notes.add("model", "ok", f"serves {model!r}" if model else f"serves {names}")
        return
    elif server.tgi and _is_path(server.names[0]):
        says = f"TGI serves the folder {names}, and answers to any name"
        remedy = f"Make sure that {model!r} is in that folder."
    elif server.tgi:
        level, says = "error", f"TGI serves {names}, not {model!r}, and answers to any name"
        remedy = f"Give the URL of a server of {model!r}, or name the model that is served."
    else:
        level = "warning" if answered else "error"
        yet = "; a call is answered all the same" if answered else ""
        says = f"{model!r} is not listed; these are: {names}{yet}"
        remedy = "Name a model that is listed: some servers answer with another than asked for."
    notes.add("model", level, says, remedy)


def _same(listed: str, model: str, *, paths: bool) -> bool:
    """Whether a server's name is that of a model; ``:provider`` or a folder may be around it."""
    if listed in (model, model.rpartition(":")[0]):
        return True
    folder = listed.rstrip("/").split("/")[-1]
    return paths and _is_path(listed) and folder == model.split("/")[-1]


def _is_path(name: str) -> bool:
    return name.startswith(("/", "."))


def _note_limits(notes: _Notes, server: _Server, concurrency: int, stops: int) -> None:
    if (most := server.max_concurrent) is not None:
        says, remedy = f"{concurrency} requests at once, of {most} that TGI takes", ""
        if concurrency > most:
            says += "; it refuses the rest"
            remedy = f"Lower the concurrency to {most}, or raise --max-concurrent-requests."
        notes.add("concurrency", "warning" if remedy else "ok", says, remedy)
    if (most := server.max_stop) is not None and stops:
        says, remedy = f"{stops}, of {most} that TGI takes", ""
        if stops > most:
            says += "; it refuses requests with more"
            remedy = f"Use {most} or fewer, or raise --max-stop-sequences."
        notes.add("stop strings", "error" if remedy else "ok", says, remedy)


def _note_call(notes: _Notes, longest: ChatRequest | None, outcome: _Outcome) -> None:
    if isinstance(outcome, _Failure):
        level: Level = "warning" if outcome.kind == "HTTP 429" else "error"
        notes.add("one token", level, outcome.says, outcome.remedy)
    elif longest is None:
        notes.add("one token", "ok", "a short request is answered")
    else:
        tokens = outcome.usage.prompt_tokens
        counted = f"{tokens} tokens" if _is_counted(longest, outcome) else "unknown length"
        notes.add("one token", "ok", f"the longest request is answered: a prompt of {counted}")


def _is_counted(request: ChatRequest, completion: Completion) -> bool:
    """Whether a prompt's length is the server's, not our guess of four characters a token."""
    return completion.usage.prompt_tokens != _characters(request) // 4


def _note_context(
    notes: _Notes,
    server: _Server,
    longest: ChatRequest,
    outcome: _Outcome,
    chars_per_token: float,
) -> None:
    if server.max_total is None and server.max_input is None:
        return
    counted = isinstance(outcome, Completion) and _is_counted(longest, outcome)
    if isinstance(outcome, Completion) and counted:
        prompt, about = outcome.usage.prompt_tokens, ""
    else:
        prompt, about = math.ceil(_characters(longest) / chars_per_token), "about "
    needed = prompt + longest.max_tokens
    level: Level = "error" if counted else "warning"
    if server.max_input is not None and prompt > server.max_input:
        says = (
            f"the prompt has {about}{prompt} tokens, of {server.max_input} that the server takes"
        )
        remedy = "Shorten the prompt, or start the server with a longer context."
    elif server.max_total is not None and needed > server.max_total:
        says = (
            f"the prompt has {about}{prompt} tokens, the reply up to {longest.max_tokens}: "
            f"{needed} of {server.max_total} that the server takes"
        )
        remedy = "Shorten the prompt, or start the server with a longer context."
        if prompt < server.max_total:
            remedy = f"Lower `max_tokens` to {server.max_total - prompt}. Else: {remedy}"
    else:
        most = server.max_total or server.max_input
        level, remedy = "ok", ""
        says = f"{about}{needed} of {most} tokens, the reply included"
    notes.add("context", level, says, remedy)


def _note_schema(notes: _Notes, outcome: _Outcome, keys: frozenset[str]) -> None:
    check = "structured output"
    if isinstance(outcome, _Failure):
        level: Level = "warning" if outcome.kind in _UNDECIDED else "error"
        remedy = (
            outcome.remedy if level == "error" else "Try by hand whether schemas are followed."
        )
        notes.add(check, level, f"could not be tried: {outcome.says}", remedy)
        return
    try:
        values = json.loads(outcome.text)
    except (ValueError, RecursionError):
        cut = outcome.finish_reason == "length" and outcome.text.lstrip().startswith("{")
        follows = cut and len(outcome.text.strip()) > 1
    else:
        cut, follows = False, isinstance(values, dict) and keys <= set(values)
    if follows:
        says = "begins as JSON, and is cut off" if cut else "follows the schema"
        notes.add(check, "ok", f"a reply {says}")
    else:
        notes.add(
            check,
            "warning",
            f"the schema is ignored: a reply begins with {one_line(outcome.text, 40)!r}",
            "Describe the form in the prompt and expect malformed replies, or use a server that "
            "constrains generation: TGI, vLLM, SGLang and llama.cpp do.",
        )


def _note_seeds(notes: _Notes, first: _Outcome, second: _Outcome) -> None:
    if isinstance(first, _Failure):
        says, remedy = f"could not be tried: {first.says}", ""
    elif isinstance(second, _Failure):
        says, remedy = f"could not be tried: {second.says}", ""
    elif first.text == second.text:
        notes.add("seeds", "ok", "one seed gives one reply, twice")
        return
    else:
        says = "one seed gives two replies"
        remedy = "Samples will differ from run to run; the store still reuses those that it holds."
    notes.add("seeds", "warning", says, remedy)
