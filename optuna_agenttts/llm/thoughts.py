"""Thoughts of models: the text that a reasoning model writes before its answer."""

from __future__ import annotations

import re
from itertools import islice

_NAME = (
    r"(?i:(?:seed:|mm:|longcat_)?(?:think(?:ing)?|thoughts?|reasoning|reflection)"
    r"(?: (?:\w{1,20}=[^<>]{0,60})?)?>)"
)
_CHANNEL = r"(?:\|start\|>assistant<)?\|channel\|>"
_MESSAGE = r"[^<]{0,80}(?:<\|constrain\|>[^<]{0,20})?<\|message\|>"
# A set of first characters, with no flags on the rest of the pattern, is searched for quickly.
_STARTS = "<[◁`~"
_TAG = re.compile(
    rf"[{re.escape(_STARTS)}](?:(?P<open>{_NAME}|THINK\]|think▷|\|START_THINKING\|>"
    rf"|\|think\|>|\|inner_prefix\|>|unused16\]|unused94>(?:thought\n)?|\|channel>(?:thought\n)?"
    rf"|\|begin_of_thought\|>|{_CHANNEL}(?:analysis|commentary){_MESSAGE})"
    rf"|(?P<close>/(?:{_NAME}|THINK\]|think▷)|\|END_THINKING\|>"
    rf"|\|/think\|>|\|inner_suffix\|>|unused17\]|unused95>|channel\|>"
    rf"|\|end_of_thought\|>|\|begin_of_solution\|>|\|START_(?:RESPONSE|TEXT)\|>"
    rf"|{_CHANNEL}final{_MESSAGE})"
    r"|(?P<fence>(?<=`)``|(?<=~)~~))"
)
"""Tags around thoughts of Qwen, DeepSeek and others, Mistral, Kimi, Cohere, Solar, Apertus, Pangu,
MedGemma, Gemma 4, OpenThinker and gpt-oss, and the fences of code blocks."""

_WORDS = {
    "analysis": ("assistantfinal",),
    **dict.fromkeys(
        ("Here's my thought process:", "Here is my thought process:"),
        ("Here's my response:", "Here is my response:"),
    ),
}
"""Words that begin thoughts, and those that end them: of gpt-oss at a server that removes special
tokens, of Granite."""

_SPECIAL_TOKEN = re.compile(
    r"(?:<\|(?:(?:\w{1,12}_)?end(?:_?of_?\w{1,10}|_response|_text)?|return|eo[smt](?:_id)?"
    r"|end_of_turn_token|user|observation)\|>|</s>|<eos>|<end_of_turn>|<turn\|>|\[\|endofturn\|\]"
    r"|<(?:seed:)?eos>|<eos_token>|<EOT>|<｜end▁of▁sentence｜>)\Z",
    re.IGNORECASE,
)
"""Tokens that end a reply of Qwen, Llama, Phi, GLM, Mistral, Gemma, EXAONE, Seed, DeepSeek and
others."""
_LONGEST_TOKEN = 24
"""Characters of the longest special token, rounded up."""

# Chosen by hand, so that a reply of 10 MB takes less than .1 s: each part takes up to .03 s.
_MAX_STARTS = 100_000
"""Characters that may begin a tag; of a text with more, as many characters are searched for tags.
Programs of a million characters have fewer."""
_MAX_TAGS = 20_000
"""Tags that are read, and special tokens that are removed from the end: a model that repeats one
up to `max_tokens` writes fewer."""


def split_thoughts(text: str) -> tuple[str, str]:
    """Separate the answer in a reply from the thoughts, in linear and bounded time.

    Thoughts without an opening tag begin with the reply, as some chat templates put that tag into
    the prompt. Thoughts without a closing tag were cut off: no answer follows them. Tags in a code
    block of the answer are code, and an opening tag in quotes is only mentioned.

    Returns:
        The answer without special tokens at its end, and the thoughts. Without either, the reply
        is returned unchanged.
    """
    text = _with_tags_for_words(text)
    answer: list[str] = []
    thoughts: list[str] = []
    start, inside, in_code, code_has_tag, mentioned = 0, False, False, False, False
    many = len(text) > _MAX_STARTS and sum(map(text.count, _STARTS)) > _MAX_STARTS
    end = _MAX_STARTS if many else len(text)
    for tag in islice(_TAG.finditer(text, 0, end), _MAX_TAGS):
        kind = tag.lastgroup
        if kind == "fence":
            if not text[max(0, tag.start() - 4) : tag.start()].rpartition("\n")[2].strip(" "):
                in_code, code_has_tag = not inside and not in_code, False
            continue
        quote = text[tag.start() - 1 : tag.start()]
        if quote in ("`", "'", '"') and text[tag.end() : tag.end() + 1] == quote:
            # A closing tag in quotes may be one, between a quoted draft and a quoted answer.
            mentioned, was = kind == "open", mentioned
            if mentioned or was:
                continue
        if in_code:
            # The closing tag of thoughts that were cut off in a code block begins its line.
            begins_line = tag.start() == 0 or text[tag.start() - 1] == "\n"
            if kind == "open" or code_has_tag or not begins_line:
                code_has_tag = code_has_tag or kind == "open"
                continue
        piece = text[start : tag.start()]
        if kind == "open":
            (thoughts if inside else answer).append(piece)
        else:
            thoughts += [piece] if inside else [*answer, piece]
            if not inside:
                answer = []
        start, inside, in_code = tag.end(), kind == "open", False
    if start == 0:
        return _without_special_tokens(text), ""
    (thoughts if inside else answer).append(text[start:])
    return _without_special_tokens("".join(answer).strip()), "".join(thoughts).strip()


def _with_tags_for_words(text: str) -> str:
    """Replace words around thoughts at the beginning of a text by tags."""
    stripped = text.lstrip()
    for begin, ends in _WORDS.items():
        if stripped.startswith(begin):
            found = [(at, end) for end in ends if (at := stripped.find(end, len(begin))) >= 0]
            if found:
                at, end = min(found)
                return f"<think>{stripped[len(begin) : at]}</think>{stripped[at + len(end) :]}"
    return text


def _without_special_tokens(text: str) -> str:
    """Remove the special tokens that a server left at the end of a text."""
    end, last = len(text), len(text.rstrip())
    # Of struck-out text in HTML; found once, so that many tokens take linear time.
    struck_out: bool | None = None
    for _ in range(_MAX_TAGS):
        found = _SPECIAL_TOKEN.search(text, max(0, last - _LONGEST_TOKEN), last)
        if found is None:
            break
        if found[0] == "</s>":
            struck_out = "<s>" in text if struck_out is None else struck_out
            if struck_out:
                break
        last = found.start()
        while last and text[last - 1].isspace():
            last -= 1
        end = last
    return text[:end]
