"""Prompts, parsing, aggregation and metrics of stages that answer a question."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from optuna_agenttts.llm import Message
from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts.llm.untrusted import decode_json, json_in_reply
from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, normalized_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.scoring.metrics import (
    contains_answer,
    exact_match,
    normalize_answer,
    token_f1,
)

ANSWER_HEADER = re.compile(
    r"^(?:[^\w\n]|_)*(?:\d{1,2}[.)]\s)?"
    r"(?:(?:so\s|therefore,?\s|thus,?\s)?the\s(?:final\s|correct\s)?answers?\s(?:is|are)"
    r"|(?:final\s)?answers?|(?:\u6700\u7ec8)?\u7b54\u6848\u662f?)"
    r"(?:[^\w\n:\uff1a]|_)*(?:[:\uff1a]|$)",
    re.IGNORECASE | re.MULTILINE,
)
"""Start of an answer: "Answer:" or "The answer is:" at the start of a line, after optional
Markdown, quotes or a list marker, or a heading "Answer", also in Chinese. The colon is ASCII or
full-width."""
_SENTENCE = re.compile(
    r"\b(?:the\s(?:final\s|correct\s)?)?answer\sis\s+([^\n]+?)[.\u3002]?(?:[^\w\n\])}]|_)*$",
    re.IGNORECASE,
)
"""Answer at the end of a last line such as "Therefore, the answer is Paris."."""

_BOX = r"\\boxed\s?\{((?:[^{}\\\n]|\\.|\{[^{}\n]*\})*)\}"
_BOXES = re.compile(rf"{_BOX}(?:[\s$,;&]{{0,5}}(?:and)?[\s$]{{0,5}}{_BOX})*")
_TAG = re.compile(r"[<\[](/?)(?:final_)?answer[>\]]", re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")

_FENCE = re.compile(r"`{3,}\w*|~{3,}\w*")
_MARKDOWN = "*_` \t"
_MAX_LIST = 20_000
"""Characters of a list of answers that are read. Chosen by hand: some hundred names."""
_JSON_STRING = re.compile(r'("(?:[^"\\]|\\.)*")\s*(?:[,}]|$)')
_SEPARATOR = re.compile(r"[;|\uff1b\u3001]")
_ANSWER_KEY = re.compile(r"""["']((?:final[ _]?)?answers?)["']\s*:""", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*+\u2022]\s+|\d{1,3}[.)]\s+)")
_MAX_ANSWER = 200_000
"""Characters at the end of a reply that are searched. Chosen by hand, so that it takes less than
.1 s."""

METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact match": exact_match,
    "SQuAD F1": token_f1,
    "answer contained": contains_answer,
}
"""Scores of an answer against all accepted answers, 0 to 1; `scoring.metrics` normalizes both."""


def parse_answer(text: str, state: State) -> str | None:
    """Return the answer after the last ``Answer:`` of a reply; None if there is none.

    The answer can also stand on one of the following lines, be a value in JSON, or end the reply
    as "the answer is x". Markdown around it is stripped.
    """
    text = answer_text(text, _MAX_ANSWER)
    for head in reversed(list(ANSWER_HEADER.finditer(text))):
        if ("'" in head[0] or '"' in head[0]) and (found := _json_answers(text)):
            return found[0]
        for below, line in enumerate(text[head.end() :].splitlines()):
            answer = "" if _FENCE.fullmatch(line.strip()) else line.strip().strip(_MARKDOWN)
            answer = _BULLET.sub("", answer) if below else answer
            if answer.startswith("{") or '"' in head[0]:
                answer = _json_value(answer)
            if answer:
                sentence = _SENTENCE.match(answer)
                return sentence[1] if sentence else answer
    return next(iter(_json_answers(text)), None) or _last_sentence(text)


def parse_answers(text: str, state: State) -> str | None:
    """Return the answers of the last list of answers in a reply, one a line; None without a list.

    The list is the rest of the line after "Answer:", or the lines below it up to an empty one.
    """
    text = answer_text(text, _MAX_ANSWER)
    for head in reversed(list(ANSWER_HEADER.finditer(text))):
        rest = text[head.end() : head.end() + _MAX_LIST].lstrip("*_` \t\n").rstrip("` \t\n")
        rest = rest.removeprefix("json").strip()
        found = _json_answers(rest) if rest.startswith("{") else []
        found = found or split_answers(rest.split("\n\n")[0])
        if found:
            return "\n".join(found)
    whole = text.strip("` \t\n").removeprefix("json").strip()
    found = split_answers(whole) if whole.startswith("[") else _json_answers(text)
    return "\n".join(found or split_answers(_last_sentence(text) or "")) or None


def _last_sentence(text: str) -> str | None:
    """Return x of a last line "the answer is x"."""
    found = _SENTENCE.search(text.rstrip().rsplit("\n", 1)[-1])
    return found[1].strip(_MARKDOWN) if found else None


def _json_value(text: str) -> str:
    """Return the JSON value that a text begins with, as text; the text if there is none."""
    if quoted := _JSON_STRING.match(text):
        return str(decode_json(quoted[1]) or "").strip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return text
    return next(iter(_json_answers(text)), text) if isinstance(value, dict) else text[:end]


def _json_answers(text: str) -> list[str]:
    """Return the answers in a JSON object that does not begin with them."""
    for key in reversed(dict.fromkeys(_ANSWER_KEY.findall(text))):
        found = json_in_reply(text, key)
        if found is not None and key in found:
            values = found[key] if isinstance(found[key], list) else [found[key]]
            # Of an object, the first text is its name.
            values = [next(iter(v.values()), None) if isinstance(v, dict) else v for v in values]
            texts = [
                (value if isinstance(value, str) else json.dumps(value)).strip()
                for value in values
                if isinstance(value, (str, int, float))
            ]
            return [text for text in texts if text]
    return []


def split_answers(text: str) -> list[str]:
    """Return the answers that a text lists: as JSON, one a line, or separated by semicolons.

    Args:
        text: The text.
    """
    text = text.strip().strip(_MARKDOWN)
    values = decode_json(text.rstrip("}")) if text.startswith("[") else None
    if values is None and text.startswith("['"):
        values = json_in_reply(text, "answer", lists=True)  # as Python writes lists
    if isinstance(values, list):
        parts = [str(value) for value in values if isinstance(value, (str, int, float))]
    else:
        lines = text.splitlines()
        parts = _SEPARATOR.split(lines[0]) if len(lines) == 1 else lines
    parts = [_BULLET.sub("", part).strip().strip(_MARKDOWN + '"') for part in parts]
    return [part for part in parts if part and not _FENCE.fullmatch(part)]


def answer_text(text: str, length: int) -> str:
    """Return the end of a reply, without thoughts, with boxed and tagged x as lines "Answer: x".

    Args:
        text: The reply.
        length: Maximum length in characters.
    """
    text = _BOXES.sub(_box_line, split_thoughts(text)[0][-length:])
    return _TAG.sub(lambda tag: "\n" if tag[1] else "\nAnswer: ", text)


def _box_line(boxes: re.Match[str]) -> str:
    inner = ", ".join(box[1].strip() for box in re.finditer(_BOX, boxes[0]))
    text = _LATEX_TEXT.sub(r"\1", inner)
    return f"\nAnswer: {ANSWER_HEADER.sub('', text).strip()}\n"


def answer_aggregation(fusion: bool) -> Aggregation | LLMFusion:
    """Return the aggregation of answers: fusion by the model, or a vote on normalized answers."""
    vote = normalized_vote(normalize_answer)
    return LLMFusion(fallback=vote) if fusion else vote


def prompt_messages(system: str, user: str) -> tuple[Message, Message]:
    """Return a prompt of a system and a user message."""
    return Message("system", system), Message("user", user)
