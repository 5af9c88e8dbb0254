"""Thinking efforts in requests: the fields in which servers read them, and their refusals.

No field is read by all servers, and most servers ignore the fields that they do not know. So an
effort is sent in all of them at first. Servers that refuse unknown fields (OpenAI, Groq, Cerebras,
Mistral) name them, and get `reasoning_effort` alone. That a server ignores all of them is seen in
its replies only; see `effort_checks`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from optuna_agenttts.support.efforts import BUDGET_RATIO, EXPECTED_TOKENS, Effort, is_off

FIELDS = (
    # OpenAI, vLLM, SGLang, llama.cpp, Ollama, Groq, Mistral, Gemini, xAI, DeepSeek, Hugging Face's
    # router: a word.
    "reasoning_effort",
    # vLLM, SGLang, llama.cpp: variables of the chat template.
    "chat_template_kwargs",
    # vLLM, TensorRT-LLM, Dynamo: a number of tokens.
    "thinking_token_budget",
    # llama.cpp: a number of tokens, by two names.
    "thinking_budget_tokens",
    "reasoning_budget_tokens",
    # SGLang with --enable-strict-thinking: an object with a number.
    "custom_params",
    # OpenRouter, Together, Ollama: an object with a word, a number or a switch.
    "reasoning",
    # Anthropic, DeepSeek, GLM, Kimi: an object with a switch and a number.
    "thinking",
    # DashScope, SiliconFlow: a switch and a number.
    "enable_thinking",
    "thinking_budget",
)
"""Fields of requests, that of most servers first."""
_WORDS = ("reasoning_effort", "chat_template_kwargs", "reasoning")
"""Fields that hold a word."""
_NUMBER_ONLY = "reasoning.max_tokens"
"""Form of `reasoning` that has a number of tokens without a word, which OpenRouter wants. Ollama
reads nothing but the word of it."""
_NUMBERS = ("custom_params", *(name for name in FIELDS if "budget" in name))
"""Fields that are a number of tokens, or hold one only."""
BUDGETS = MappingProxyType(
    {
        word: BUDGET_RATIO * tokens
        for word, tokens in EXPECTED_TOKENS.items()
        if tokens and word != "on"
    }
)
"""Numbers of tokens for servers that read no words, and the reverse."""
_USUAL = "medium"
"""Word for thinking as much as the model usually does."""
_OFF_WORDS = ("none", "off", "disabled", "disable")
_ON_WORDS = ("default", "enabled", "on", "auto", "dynamic")
"""Words of servers that only switch thinking (Groq's for Qwen3 are "none" and "default")."""
_KEPT = ("reasoning", "reasoning_effort")
"""The field that stays where a server takes only one of several (OpenRouter, Fireworks)."""

_UNKNOWN = re.compile(
    r"unrecogni[sz]ed|unknown (name|field|param|arg|prop)|unexpected|extraneous|extra_forbidden"
    r"|extra (inputs|fields)|cannot find field|propert(y|ies) .{0,80}unsupported"
    r"|not support param|additional propert",
    re.I,
)
"""Words of servers that refuse any field that they do not know."""
_NOT_BOTH = re.compile(
    r"only one of|\bboth\b|mutually exclusive|(together|along|combined|conjunction) with"
    r"|same time|simultaneous|conflict",
    re.I,
)
"""Words of servers that take only one of several fields."""
_UNSUPPORTED = re.compile(
    r"unsupported|(not|n't|cannot|no longer) (be )?(\w+ )?(support|permit|allow|accept|enabl"
    r"|implement|recogni|used|available|valid|configured|initialized)|deprecated|disabled"
    r"|is invalid|cannot find field|no .{0,20}support|needs the reasoning",
    re.I,
)
"""Words of servers that refuse a field of this model, or without a setting."""
_ABOUT_NUMBER = re.compile(
    r"too (large|small|long|high|low)|at (most|least)|less than|greater than|exceed|maximum"
    r"|between|out of range|must be (<|>|a positive)|positive integer",
    re.I,
)
"""Words of a refusal of a number, which is an error for the user."""
_MANDATORY = re.compile(
    r"mandatory|(cannot|can't|can not|not) be (disabled|turned off|switched off)", re.I
)
"""Words of servers of models that always think."""
_NO_BUDGET = re.compile(r"budget_tokens\W.{0,40}(required|missing)", re.I)
"""Words of servers that want a number beside the switch."""
_VALUES = re.compile(
    r"(?<!un)(supported|valid|allowed|accepted|available) (values|levels|options|efforts)"
    r"|(must|should|has to|needs to) be( one of)?\b|input should be|expected( one of)?|one of"
    r"|(?<!un)supports?( only)?:",
    re.I,
)
"""Words before the values that a server takes."""
_ABOUT_WORD = re.compile(
    r"unsupported.value|invalid.value|literal_error|enum\b|unknown variant|think value"
    r"|not support '|invalid (reasoning_?)?effort|level \S+ not|not a valid",
    re.I,
)
"""Words of a refusal of a value."""
_NAMED_EFFORT = re.compile(r"reasoning.?(effort|value)|\beffort\b|think value|\blevel\b", re.I)
"""Names of `reasoning_effort` in errors."""
_WORD = re.compile(r"[a-z_]+")


def thinking_fields(effort: Effort, parameters: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the fields of a request that ask for a thinking effort.

    Args:
        effort: The effort.
        parameters: Forms in which parameters are sent; see `negotiation`.
    """
    on, sent = not is_off(effort), sent_fields(parameters)
    alone = _NUMBER_ONLY in sent
    word = parameters.get(_own_name(effort), _word(effort))
    budget = _budget(effort)
    if not on and set(sent) - set(_NUMBERS):
        # Another field switches thinking off, and some servers refuse a number of 0.
        budget = None
    # DeepSeek, GLM and Kimi know no number, and read the word in another field.
    needs = isinstance(effort, int) or not {*_WORDS} & set(sent)
    number = {"budget_tokens": budget} if budget is not None and needs else {}
    template: dict[str, Any] = {"enable_thinking": on, "thinking": on}
    reasoning: dict[str, Any] = {"enabled": on}
    if on and isinstance(effort, int):
        template["thinking_budget"] = reasoning["max_tokens"] = effort
    elif on and effort != "on":
        template["reasoning_effort"] = effort
    if word is not None and effort != "on" and not ("max_tokens" in reasoning and alone):
        reasoning["effort"] = word
    values = {
        "reasoning_effort": word,
        "chat_template_kwargs": template,
        "thinking_token_budget": budget,
        "thinking_budget_tokens": budget,
        "reasoning_budget_tokens": budget,
        "custom_params": None if budget is None else {"thinking_budget": budget},
        "reasoning": reasoning,
        "thinking": {"type": "enabled", **number} if on else {"type": "disabled"},
        "enable_thinking": on,
        "thinking_budget": budget,
    }
    names = {name.partition(".")[0] for name in sent}
    return {name: value for name, value in values.items() if name in names and value is not None}


def with_extra(fields: Mapping[str, Any], extra: str | None) -> dict[str, Any]:
    """Return the fields of a request with further ones, which come first, also within objects."""
    found = dict(fields)
    for name, value in json.loads(extra or "{}").items():
        own = found.get(name)
        both = isinstance(own, Mapping) and isinstance(value, Mapping)
        found[name] = {**own, **value} if both and own is not None else value
    return found


def sent_fields(parameters: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the names of the fields in which efforts are sent."""
    form = parameters.get("thinking")
    return FIELDS if form is None else tuple(form.replace(",", " ").split())


def is_form(form: object) -> bool:
    """Return whether a form of the parameter `thinking` is names of fields."""
    names = form.replace(",", " ").split() if isinstance(form, str) else []
    return bool(names) and set(names) <= {*FIELDS, _NUMBER_ONLY}


def describe_thinking(name: str, form: str | None) -> str:
    """Return how an effort is sent, and what follows; see `negotiation.describe_change`."""
    if name != "thinking":
        return (
            "`reasoning_effort` is left out for it"
            if form is None
            else f"it is sent as `reasoning_effort` {form!r}"
        )
    sent = sent_fields({"thinking": form})
    left_out = [field for field in FIELDS if field not in sent]
    fewer, how = (left_out, "without") if len(left_out) < len(sent) else (sent, "as")
    text = f"it is sent {how} {' and '.join(f'`{field}`' for field in fewer)}"
    if sent == ("reasoning_effort",):
        text += ", so a number of tokens is sent as the nearest word"
    elif not {*_WORDS} & set(sent):
        text += ", so a word is sent as a number of tokens"
    return text


def refused_thinking(
    complaints: Sequence[str], effort: Effort, parameters: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Return the next form of an effort after an error; empty if it is an error for the user.

    Args:
        complaints: Texts of the error.
        effort: The effort of the request.
        parameters: Forms of parameters in which it was sent.
    """
    sent = sent_fields(parameters)
    fields = thinking_fields(effort, parameters)
    for complaint in complaints:
        named = [name for name in fields if _names(name, complaint)]
        if _MANDATORY.search(complaint):
            return {}
        if _NO_BUDGET.search(complaint) and "thinking" in named:
            # Anthropic's models take no word here: it becomes a number.
            return _without(sent, [name for name in sent if name != "thinking"])
        if _NOT_BOTH.search(complaint) and _NUMBER_ONLY in complaint and "reasoning" in sent:
            form = [_NUMBER_ONLY if name == "reasoning" else name for name in sent]
            return {"thinking": " ".join(form)}
        if _NOT_BOTH.search(complaint) and len(named) > 1:
            kept = next((name for name in _KEPT if name in named), named[0])
            return _without(sent, [name for name in named if name != kept])
        if _is_about_word(complaint) and "reasoning_effort" in fields:
            return _other_word(complaint, effort, parameters, fields)
        if named and _is_unsupported(complaint) and not _UNKNOWN.search(complaint):
            return _without(sent, named)
    unknown = [c for c in complaints if _UNKNOWN.search(c)]
    named = [name for name in fields if any(_names(name, complaint) for complaint in unknown)]
    if len(named) == 1 and named != ["reasoning_effort"]:
        # Servers that name the first unknown field only would refuse the others, one by one.
        named = [name for name in sent if name != "reasoning_effort"]
    return _without(sent, named) if named else {}


def _without(sent: Sequence[str], refused: Sequence[str]) -> dict[str, str | None]:
    """Return the form without some fields; empty if none is left."""
    left = [name for name in sent if name.partition(".")[0] not in refused]
    return {"thinking": " ".join(left)} if 0 < len(left) < len(sent) else {}


def _is_unsupported(complaint: str) -> bool:
    """Return whether a complaint refuses a field itself, rather than its number."""
    return bool(_UNSUPPORTED.search(complaint)) and not _ABOUT_NUMBER.search(complaint)


def _names(field: str, complaint: str) -> bool:
    """Return whether a complaint names a field, or a part of it ("thinking.budget_tokens")."""
    # Some servers write names without underscores.
    pattern = field.replace("_", "_?")
    return bool(re.search(rf"(?<![\w-]){pattern}(?![\w-])", complaint, re.I))


def _is_about_word(complaint: str) -> bool:
    """Return whether a complaint is about the value of `reasoning_effort`."""
    if _UNKNOWN.search(complaint) or not _NAMED_EFFORT.search(complaint):
        return False
    return bool(_ABOUT_WORD.search(complaint) or list(_listed(complaint)))


def _listed(complaint: str) -> Iterator[str]:
    """Yield the efforts that a complaint says the server takes."""
    known = {*BUDGETS, *_OFF_WORDS, *_ON_WORDS}
    if match := _VALUES.search(complaint):
        for word in _WORD.findall(complaint[match.end() :].lower()):
            if word in known:
                yield word


def _other_word(
    complaint: str,
    effort: Effort,
    parameters: Mapping[str, str | None],
    fields: Mapping[str, Any],
) -> dict[str, str | None]:
    """Return another word for an effort that is none of the user's words, or none."""
    name, refused = _own_name(effort), fields["reasoning_effort"]
    # Some servers repeat what was sent.
    listed = [word for word in _listed(complaint) if word != refused]
    if name in parameters or not (is_off(effort) or isinstance(effort, int) or effort == "on"):
        # A word of the user's: another one would make two choices the same.
        return {}
    if is_off(effort):
        words = [word for word in listed if word in _OFF_WORDS]
    else:
        words = sorted((w for w in listed if w in BUDGETS), key=lambda w: _distance(w, effort))
        words += [word for word in listed if word in _ON_WORDS]
    if words:
        return {name: words[0]}
    # Without a word, the other fields must do.
    return {name: None} if len(fields) > 1 else {}


def _distance(word: str, effort: Effort) -> float:
    """Return how far a word is from an effort, in logarithms of tokens."""
    budget = effort if isinstance(effort, int) else BUDGETS[_USUAL]
    return abs(math.log(BUDGETS[word] / max(1, budget)))


def _own_name(effort: Effort) -> str:
    """Return the name under which the word for an effort is remembered."""
    return f"thinking {effort}"


def _word(effort: Effort) -> str:
    """Return an effort as a word."""
    if is_off(effort):
        return "none"
    if isinstance(effort, int):
        return min(BUDGETS, key=lambda word: _distance(word, effort))
    return _USUAL if effort == "on" else effort


def _budget(effort: Effort) -> int | None:
    """Return an effort as a number of tokens; None if there is none for the word."""
    if is_off(effort):
        return 0
    return effort if isinstance(effort, int) else BUDGETS.get(effort)
