"""Thoughts in replies, and the answers after them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts.llm.thoughts import split_thoughts

TAGS = [
    ("<think>", "</think>"),
    ("<THINK>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think|>", "<|/think|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("[unused16]", "[unused17]"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel>", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<mm:think>", "</mm:think>"),
    ("<reasoning>", "</reasoning>"),
    ("<think id=1>", "</think >"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>json<|message|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"),
]
PLAIN = st.text(alphabet="ab c\n:.`-").map(str.strip)
CODE = "```python\nTAG = re.compile(r'<think>.*?</think>')\nEND = '</think>'\n```"


@pytest.mark.parametrize(("start", "end"), TAGS)
@given(thoughts=PLAIN.filter(lambda text: "```" not in text), answer=PLAIN)
def test_the_answer_is_what_follows_the_thoughts(start, end, thoughts, answer):
    """With or without an opening tag, and nothing follows thoughts that were cut off."""
    assert split_thoughts(f"{start}\n{thoughts}\n{end}\n\n{answer}") == (answer, thoughts)
    assert split_thoughts(f"{thoughts}\n{end}\n\n{answer}") == (answer, thoughts)
    assert split_thoughts(f"{start}\n{thoughts}") == ("", thoughts)
    if "```" not in answer:
        assert split_thoughts(f"{answer}\n\n{start}{thoughts}") == (answer, thoughts)


@given(PLAIN)
def test_a_reply_without_thoughts_is_unchanged(text):
    """Whitespace included."""
    assert split_thoughts(f" {text}\n") == (f" {text}\n", "")


def test_tags_in_code_are_code():
    """A program about thoughts is no thought, unless it is a draft in thoughts."""
    assert split_thoughts(CODE) == (CODE, "")
    assert split_thoughts(f"<think>draft\n{CODE}\n</think>\n{CODE}")[0].endswith(CODE)
    assert split_thoughts(f"draft\n```python\nx = 1\n</think>\n{CODE}")[0] == CODE


def test_a_tag_in_quotes_is_mentioned():
    """A closing tag between a quoted draft and a quoted answer is not."""
    text = "Set the tags to `<think>` and `</think>`."
    assert split_thoughts(text) == (text, "")
    assert split_thoughts(f"<think>{text}</think>Paris") == ("Paris", text)
    assert split_thoughts('"Rome"</think>"Paris"') == ('"Paris"', '"Rome"')


def test_thoughts_of_granite_begin_with_words():
    """Other models begin an answer like that, which then has no such end."""
    thoughts = "Here is my thought process: Rome? "
    assert split_thoughts(f"{thoughts}Here is my response: Paris") == ("Paris", "Rome?")
    assert split_thoughts(thoughts) == (thoughts, "")


def test_channels_without_their_special_tokens_are_channels():
    """Servers that remove special tokens leave the names of gpt-oss's channels."""
    assert split_thoughts("analysisRome?assistantfinalParis") == ("Paris", "Rome?")
    assert split_thoughts("analysis of Rome") == ("analysis of Rome", "")
    assert split_thoughts("<thinking about Rome> Paris") == ("<thinking about Rome> Paris", "")


def test_special_tokens_at_the_end_are_cut():
    """But not within a text, nor the end of struck-out text."""
    for token in ("<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<｜end▁of▁sentence｜>"):
        assert split_thoughts(f"Paris{token}\n{token}") == ("Paris", "")
        assert split_thoughts(f"a {token} b") == (f"a {token} b", "")
    assert split_thoughts("<s>Rome</s>") == ("<s>Rome</s>", "")


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 50_000,
        "</think>" * 50_000,
        "<think></think>x" * 50_000,
        "```\n<think>\n" * 50_000,
        "<|im_end|>\n" * 50_000,
        "</s>" * 100_000,
        "</s> " * 100_000,
        "<think>" * 40_000 + "</think>" * 40_000,
        "<think><b>" * 40_000,
        "Here is my thought process:" * 10_000,
        " " * 500_000,
        "<" * 500_000,
        "<think " * 80_000,
        "<|channel|>final " * 30_000,
        "analysis" * 60_000,
        "analysisassistant" * 30_000,
    ],
)
def test_time_is_linear_and_bounded(text):
    """Twice the text takes no more than three times as long, and 10 MB stay below .1 s."""
    half = min(processor_time(text[: len(text) // 2]) for _ in range(5))
    whole = min(processor_time(text) for _ in range(5))
    # Times below a few milliseconds are those of the clock and the caches.
    assert whole < 3 * max(half, 0.005)
    repeated = text * (10_000_000 // len(text))
    assert min(processor_time(repeated) for _ in range(5)) < 0.2


def processor_time(text):
    started = time.process_time()
    split_thoughts(text)
    return time.process_time() - started
