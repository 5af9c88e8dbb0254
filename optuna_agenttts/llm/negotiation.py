"""Parameters that a server refuses, and the names under which it reads them.

Servers differ in what they accept: OpenAI's reasoning models refuse ``max_tokens`` and any
temperature but their own, Mistral's API refuses ``seed``, chat templates of Gemma refuse system
messages, and each server reads its own `response_format`. `refused_parameters` finds out which
parameter an error is about; the call is then repeated without it, or with its next form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, cast

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.port import ChatRequest, Message
from optuna_agenttts.llm.thinking import (
    FIELDS,
    describe_thinking,
    is_form,
    refused_thinking,
    thinking_fields,
)
from optuna_agenttts.llm.untrusted import decode_json

Parameters = Mapping[str, str | None]
"""Forms in which parameters are sent: another name, or None for leaving a parameter out."""

FORMS: Mapping[str, tuple[str | None, ...]] = MappingProxyType(
    {
        "max_tokens": ("max_tokens", "max_completion_tokens"),
        "temperature": ("temperature", None),
        "seed": ("seed", None),
        "stop": ("stop", None),
        "system": ("system", None),
        # Read by OpenAI, vLLM, SGLang and llama.cpp's own server; by TGI (``value``) and
        # llama-cpp-python (``schema``), each of which ignores the other's key.
        "response_format": ("json_schema", "json_object", None),
        # Some models of DashScope and of gateways reply by server-sent events only.
        "stream": ("false", "true"),
    }
)
"""Forms of each parameter, in the order to try them.

``system`` is the role of system messages; without it, they begin the first user message.
"""
_EFFECTS: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "the server's own temperature applies",
        "seed": "samples are not reproducible",
        "stop": "replies are cut after they are generated",
        "system": "system messages begin the first user message",
        "response_format": "replies are not constrained to the schema",
    }
)
"""Consequences of leaving a parameter out."""
LOSSES = ("temperature", "seed")
"""Parameters without which samples are not those that were requested."""

_REFUSALS = {400, 403, 404, 415, 422, 500, 501}
"""HTTP statuses with which servers refuse parameters. Some report the server's own failure, so the
text must name a parameter."""
_UNNAMED_REFUSALS = {400, 415, 422, 501}
"""HTTP statuses with which servers refuse a `response_format` without naming it."""
_MAX_TEXT = 20_000
"""Characters of an error that are searched; chosen by hand, far above the length of any."""

_NAMES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "system": re.compile(r"\bsystem\b|\brole\b|developer instruction|\broles\b", re.I),
        "response_format": re.compile(
            r"response_?format|json_?(schema|object|mode)|json (schema|mode)|grammar|structured"
            r"|guided|\bschema\b|the requested parameters(?!:)",
            re.I,
        ),
    }
)
"""Names in error messages of what has several."""
_UNSUPPORTED = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown|unexpected|extraneous|extra_forbidden|deprecated"
    r"|forbidden|prohibited|disabled|disallow|is invalid|no .{0,20}support|\binstead\b"
    r"|cannot find field|missing field|no such|fixed at|(can|may) only be"
    r"|invalid (parameter|argument|field|for|with)|must be (set to )?1\b|no endpoints found"
    r"|(\bnot|n't|\bcannot|no longer) (be )?(a )?(\w+ )?(support|permit|allow|accept|enabl"
    r"|implement|recogni|used|available|valid|set\b|specif|chang|overrid|modif|appl|handle)"
    r"|only \S+( \S+){0,4} (is|are) (support|allow|permit|accept)|does not .{0,20}support",
    re.I,
)
"""Words of a refusal of a parameter itself."""
_ABOUT_FORM = re.compile(r"fail|invalid|error|must|not |unable|require", re.I)
"""Words of a refusal of a `response_format`, whose errors often come from the library behind."""
_ABOUT_ROLES = re.compile(
    r"roles must alternate|only user and assistant|invalid role|start with an? user"
    r"|(should|must) be .{0,20}\buser\b",
    re.I,
)
"""Errors of chat templates that system messages cause."""
_ABOUT_STREAM = re.compile(
    r"(only|must|please) \S*( \S+){0,3}? ?stream|stream\W*(parameter )?(must|should|has to)"
    r"|non-stream|stream\W{0,4}false|streaming (is )?(required|only)",
    re.I,
)
"""Words of a server that replies by server-sent events only."""
_ABOUT_VALUE = re.compile(
    r"too (large|long|high|many|big)|at (most|least)|less than|greater than|exceed|maximum"
    r"|between|out of range|must be (<|>|in |positive)|or (less|lower|below)|context length",
    re.I,
)
"""Words of a refusal of a number, which leaving it out would hide."""
_ECHOES = {"input", "body", "request", "ctx", "url", "doc_url"}
"""Keys of errors whose values repeat the request."""


def check_parameters(owner: str, parameters: Parameters) -> None:
    """Check the argument `request_parameters` of a class.

    Raises:
        AgentTTSError: A parameter is unknown, or its form is.
    """
    for name, form in parameters.items():
        if name == "thinking":
            if not is_form(form):
                raise AgentTTSError(
                    f"{owner}: `request_parameters` has {form!r} for 'thinking': give the names "
                    f"of fields, separated by spaces, of {', '.join(FIELDS)}."
                )
            continue
        if name not in FORMS:
            raise AgentTTSError(
                f"{owner}: `request_parameters` has {name!r}: give any of {', '.join(FORMS)}, "
                "thinking."
            )
        if form is not None and not (isinstance(form, str) and form):
            raise AgentTTSError(
                f"{owner}: `request_parameters` has {form!r} for {name!r}: give another name, or "
                "None to leave it out."
            )
        if name in ("response_format", "stream") and form not in FORMS[name]:
            raise AgentTTSError(
                f"{owner}: `request_parameters` has {form!r} for {name!r}: give any of "
                f"{FORMS[name]}."
            )


def describe_change(name: str, form: str | None) -> str:
    """Return how a parameter is sent, and what follows."""
    if name.startswith("thinking"):
        return describe_thinking(name, form)
    if form is None:
        return f"it is left out, and {_EFFECTS.get(name, 'the limit of the server applies')}"
    return f"it is sent as `{form}`"


def request_fields(request: ChatRequest, seed: int, parameters: Parameters) -> dict[str, Any]:
    """Return the fields of a request, other than its model and messages."""
    values: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": seed,
    }
    if request.stop:
        values["stop"] = list(request.stop)
    fields = {
        form: value
        for name, value in values.items()
        if (form := parameters.get(name, name)) is not None
    }
    fields["stream"] = parameters.get("stream") == "true"
    if fields["stream"]:
        fields["stream_options"] = {"include_usage": True}
    form = parameters.get("response_format", "json_schema")
    if request.schema is not None and form is not None:
        schema = json.loads(request.schema)
        named = {"json_schema": {"name": "reply", "schema": schema}}
        keys = named if form == "json_schema" else {"value": schema, "schema": schema}
        fields["response_format"] = {"type": form, **keys}
    if request.thinking is not None:
        fields |= thinking_fields(request.thinking, parameters)
    return fields


def adapt_messages(messages: tuple[Message, ...], parameters: Parameters) -> tuple[Message, ...]:
    """Return the messages of a conversation as the server reads system messages."""
    role = parameters.get("system", "system")
    system = [message for message in messages if message.role == "system"]
    if role == "system" or not system:
        return messages
    if role is not None:
        named = cast(Literal["system"], role)
        return tuple(Message(named, m.content) if m.role == "system" else m for m in messages)
    rest = [message for message in messages if message.role != "system"]
    texts = [message.content for message in system]
    if rest and rest[0].role == "user":
        texts.append(rest.pop(0).content)
    return (Message("user", "\n\n".join(texts)), *rest)


def cut_at_stop(text: str, request: ChatRequest, parameters: Parameters) -> str:
    """Return a reply up to the first stop string, if the server does not stop there."""
    if parameters.get("stop", "stop") is None:
        for stop in request.stop:
            text = text.partition(stop)[0]
    return text


def refused_parameters(
    status: int, text: str, request: ChatRequest, parameters: Parameters
) -> dict[str, str | None]:
    """Return the next form of each parameter that an error refuses.

    Args:
        status: HTTP status; 200 for an error in the body of a reply.
        text: Body of the reply.
        request: The request.
        parameters: Forms of parameters in which it was sent.
    """
    if status not in _REFUSALS | {200}:
        return {}
    sent = _sent_forms(request, parameters)
    changes: dict[str, str | None] = {}
    complaints = list(_complaints(text[:_MAX_TEXT]))
    for complaint in complaints:
        for name, form in sent.items():
            if name not in changes and _is_refused(name, form, complaint):
                forms = FORMS[name]
                following = forms[forms.index(form) + 1 :] if form in forms else ()
                changes |= {name: following[0]} if following else {}
    if not changes and request.thinking is not None:
        changes = refused_thinking(complaints, request.thinking, parameters)
    if not changes and status in _UNNAMED_REFUSALS and "response_format" in sent:
        forms = FORMS["response_format"]
        changes["response_format"] = forms[forms.index(sent["response_format"]) + 1]
    return changes


def _sent_forms(request: ChatRequest, parameters: Parameters) -> dict[str, str]:
    """Return the forms of the parameters that a request was sent with."""
    absent = {
        "stop": not request.stop,
        "system": all(message.role != "system" for message in request.messages),
        "response_format": request.schema is None,
    }
    forms = {name: parameters.get(name, first[0]) for name, first in FORMS.items()}
    return {n: form for n, form in forms.items() if form is not None and not absent.get(n)}


def _is_refused(name: str, form: str, complaint: str) -> bool:
    """Return whether a complaint refuses a parameter."""
    if name == "system" and _ABOUT_ROLES.search(complaint):
        return True
    if name == "stream":
        return bool(_ABOUT_STREAM.search(complaint))
    # Some servers write names without underscores.
    pattern = re.escape(form).replace("_", "_?")
    named = _NAMES.get(name) or re.compile(rf"(?<![\w-]){pattern}(?![\w-])", re.I)
    if not named.search(complaint):
        return False
    if name == "response_format" and _ABOUT_FORM.search(complaint):
        return True
    if _ABOUT_VALUE.search(complaint):
        # No argument sets the value of a seed.
        return name == "seed"
    return bool(_UNSUPPORTED.search(complaint))


def _complaints(text: str) -> Iterator[str]:
    """Yield the texts of each object of an error, without repetitions of the request."""
    values = decode_json(text)
    if values is None:
        yield text
        return
    pending: list[Any] = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            texts = []
            for key, item in value.items():
                if key in _ECHOES:
                    continue
                if key == "loc" and isinstance(item, list):
                    texts.append(" ".join(map(str, item)))
                elif isinstance(item, str) and not item.lstrip().startswith(("{", "[")):
                    texts.append(item)
                else:
                    pending.append(item)
            yield " ".join(texts)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str):
            yield from _complaints(value) if value.lstrip()[:1] in ("{", "[") else [value]
