"""Thoughts of models: the text that a reasoning model writes before its answer."""

from __future__ import annotations

import re

_NAME = (
    r"(?i:(?:seed:|mm:|longcat_)?(?:think(?:ing)?|thoughts?|reasoning|reflection)"
    r"(?: (?:\w{1,20}=[^<>]{0,60})?)?>)"
)
_CHANNEL = r"(?:\|start\|>assistant<)?\|channel\|>"
_MESSAGE = r"[^<]{0,80}(?:<\|constrain\|>[^<]{0,20})?<\|message\|>"
# A set of first characters, with no flags on the rest of the pattern, is searched for quickly.
_TAG = re.compile(
    rf"[<\[◁`~](?:(?P<open>{_NAME}|THINK\]|think▷|\|START_THINKING\|>"
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

_MY = r"Here(?:'s| is) my"
_WORDS = re.compile(
    rf"\A\s*(?:analysis(.*?)assistantfinal|{_MY} thought process:(.*?){_MY} response:)",
    re.DOTALL,
)
"""Thoughts between words: of gpt-oss at a server that removes its special tokens, of Granite."""

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


def split_thoughts(text: str) -> tuple[str, str]:
    """Separate the answer in a reply from the thoughts, in linear time.

    Thoughts without an opening tag begin with the reply, as some chat templates put that tag into
    the prompt. Thoughts without a closing tag were cut off: no answer follows them. Tags in a code
    block of the answer are code, and an opening tag in quotes is only mentioned.

    Args:
        text: The reply.

    Returns:
        The answer without special tokens at its end, and the thoughts. Without either, the reply
        is returned unchanged.
    """
    text = _WORDS.sub(r"<think>\1\2</think>", text)
    answer: list[str] = []
    thoughts: list[str] = []
    start, inside, in_code, code_has_tag, mentioned = 0, False, False, False, False
    for tag in _TAG.finditer(text):
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


def _without_special_tokens(text: str) -> str:
    """Remove the special tokens that a server left at the end of a text."""
    end, last = len(text), len(text.rstrip())
    while found := _SPECIAL_TOKEN.search(text, max(0, last - _LONGEST_TOKEN), last):
        if found[0] == "</s>" and "<s>" in text:
            # Struck-out text in HTML.
            break
        last = found.start()
        while last and text[last - 1].isspace():
            last -= 1
        end = last
    return text[:end]
