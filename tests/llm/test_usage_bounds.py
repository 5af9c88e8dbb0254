"""Token counts that cannot be true are named once, and bounded instead of billed."""

import logging
import math

import numpy as np
import pytest
from llm_support import ask, chat_reply

from optuna_agenttts.llm import Usage
from optuna_agenttts.llm.replies import completion_from_json
from optuna_agenttts.llm.usage_bounds import bounded_usage

REQUEST = ask("hello", max_tokens=16)


def used(counts, text="word"):
    return completion_from_json(chat_reply(text, usage=counts), REQUEST, "m at server").usage


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
@pytest.mark.parametrize(
    "count", [10**9, 10**9 - 1, 5_000_000, 10**30, -3, math.nan, math.inf, "many", True, 2.5, [7]]
)
def test_odd_counts_of_a_server_are_named_once(name, count, caplog):
    """With the endpoint; the tokens that are counted instead fit the texts."""
    caplog.set_level(logging.WARNING)
    counts = {"prompt_tokens": 5, "completion_tokens": 2, name: count}
    usage = used(counts)
    assert 0 < usage.prompt_tokens <= 5 + 32
    assert 0 < usage.completion_tokens <= 16
    assert used(counts) == usage
    (record,) = caplog.records
    assert "m at server" in record.getMessage()
    assert f"`{name}`" in record.getMessage()


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": 5, "completion_tokens": 2},
        {"prompt_tokens": "5", "completion_tokens": 2.0},
        {"prompt_tokens": None, "completion_tokens": 0},
        {"prompt_tokens": 3000, "completion_tokens": 40_000},
        {"prompt_tokens": 5, "completion_tokens": 9, "reasoning_tokens": 9000},
    ],
)
def test_counts_that_can_be_true_are_not_named(counts, caplog):
    """A server may add to the prompt, and withhold thoughts."""
    caplog.set_level(logging.WARNING)
    used(counts)
    assert not caplog.records


@pytest.mark.parametrize("count", [10**9, -1, math.nan, "many", True, None, 0.5])
def test_odd_counts_of_a_users_model_are_bounded(count, caplog):
    caplog.set_level(logging.WARNING)
    found = bounded_usage(Usage(count, count, count, count), REQUEST, "word", "Own:m")
    assert (found.prompt_tokens, found.completion_tokens) == (5 + 32, 16)
    assert (found.thought_tokens, found.cached_tokens) == (0, 0)
    assert "Own:m" in caplog.text


def test_integers_of_numpy_are_counts(caplog):
    found = bounded_usage(Usage(np.int64(3), np.float64(4)), REQUEST, "word", "Own:m")
    assert found == Usage(3, 4)
    assert type(found.prompt_tokens) is int
    assert not caplog.records
