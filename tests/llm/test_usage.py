"""Tokens of calls: as servers count them, and as far as they are known of failed calls."""

import pytest
from llm_support import AdversarialServer, ask, body, chat_reply
from test_huggingface import run

from optuna_agenttts.llm import ChatError, Completion, HuggingFaceChat, Usage

PROMPT = "x" * 40
THOUGHTS = {"completion_tokens_details": {"reasoning_tokens": 300}}
XAI = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 317, **THOUGHTS}


def call(behaviour, timeout=5.0):
    """Return what a server's reply to a prompt of about 10 tokens becomes."""
    with AdversarialServer(behaviour) as server:
        try:
            return run(
                HuggingFaceChat("m", base_url=server.url, timeout=timeout),
                lambda chat: chat.complete(ask(PROMPT, max_tokens=64), seed=1),
            )
        except ChatError as error:
            return error


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 5}, (12, 5)),
        # xAI: thoughts are in the total alone.
        (
            {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 317, **THOUGHTS},
            (12, 305),
        ),
        ({"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 317}, (12, 305)),
        # OpenAI: thoughts are part of the completion.
        (
            {"prompt_tokens": 12, "completion_tokens": 305, "total_tokens": 317, **THOUGHTS},
            (12, 305),
        ),
        ({"prompt_tokens": 12, "completion_tokens": 5, **THOUGHTS}, (12, 305)),
        # Not counted: four characters per token, and at least the last token of the reply.
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (10, 2)),
        ({"total_tokens": 317}, (10, 307)),
        ({}, (10, 2)),
        (None, (10, 2)),
    ],
)
def test_thoughts_and_missing_counts(counts, expected):
    """Every generated token counts once, and a reply never counts zero."""
    completion = call(body(chat_reply("eight ch", usage=counts)))
    assert completion.usage == Usage(*expected)


@pytest.mark.parametrize(
    ("counts", "cached"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 8}}, 8),
        # DeepSeek.
        ({"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 4}, 8),
        ({"prompt_tokens_details": {"cached_tokens": 99}}, 12),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, 0),
        ({"prompt_tokens_details": {"cached_tokens": None}}, 0),
        ({"prompt_tokens_details": None}, 0),
        ({}, 0),
    ],
)
def test_cached_tokens_are_those_of_the_prompt(counts, cached):
    """None without a count."""
    counts = {"prompt_tokens": 12, "completion_tokens": 5, **counts}
    assert call(body(chat_reply("x", usage=counts))).usage.cached_tokens == cached


def test_empty_reply_has_a_token():
    """The one that ends it."""
    assert call(body(chat_reply("", usage=None))).usage.completion_tokens == 1


@pytest.mark.parametrize("content", ["", None])
def test_a_model_that_thinks_until_it_is_cut_off_gives_an_empty_reply(content):
    """Its tokens are counted, and the request is not repeated."""
    usage = {"prompt_tokens": 12, "completion_tokens": 64}
    choices = [{"message": {"content": content}, "finish_reason": "length"}]
    assert call(body(chat_reply("", usage=usage, choices=choices))) == Completion(
        "", Usage(12, 64), "length"
    )


def test_reply_without_text_has_its_tokens():
    """As the server counted them."""
    error = call(
        body(chat_reply("", choices=[{"message": {"content": None}}], usage={"prompt_tokens": 12}))
    )
    assert (error.usage, error.lost) == (Usage(12, 1), False)


@pytest.mark.parametrize(
    "behaviour", ["hang", "cut_mid_body", "reset_mid_body", "hang_up", "null_content"]
)
def test_lost_replies_have_the_tokens_of_the_prompt(behaviour):
    """What was generated is unknown."""
    behaviour = (
        body(chat_reply("", choices=[{"message": {"content": None}}], usage=None))
        if behaviour == "null_content"
        else behaviour
    )
    error = call(behaviour, timeout=0.5)
    assert (error.usage, error.lost) == (Usage(10, 0), True)


@pytest.mark.parametrize("behaviour", ["status_402", "status_503", "html", "empty_object"])
def test_refused_calls_have_no_tokens(behaviour):
    """No model ran."""
    error = call(behaviour)
    assert (error.usage, error.lost) == (None, False)


def test_unreachable_servers_have_no_tokens():
    """The prompt was not read."""
    with AdversarialServer("good") as server:
        url = server.url
    with pytest.raises(ChatError) as caught:
        run(HuggingFaceChat("m", base_url=url))
    assert (caught.value.usage, caught.value.lost) == (None, False)
