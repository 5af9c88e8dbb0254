"""The meaning of replies of servers: one recorded reply for each server and situation."""

import json
import random

import pytest
from llm_support import AdversarialServer, ask, body
from recorded_replies import (
    COMPLETIONS,
    ENDED,
    ENDS,
    ERRORS,
    OPENAI,
    SPECIAL,
    TRIES,
    WAITS,
    Meaning,
    chunk,
    events,
)
from test_hub_models import KEY, hub  # noqa: F401
from test_huggingface import run

from optuna_agenttts import HuggingFaceChat
from optuna_agenttts.llm import ChatError, ChatUnavailableError, Completion
from optuna_agenttts.llm.replies import parse_completion
from optuna_agenttts_integrations.calls.completions import DEFAULT_RETRY_POLICY

MAX_TOKENS = 64


def encoded(values):
    """Return a body as bytes."""
    return values if isinstance(values, bytes) else json.dumps(values).encode()


def read(values):
    """Return what a body with status 200 becomes."""
    return parse_completion(encoded(values), ask("x" * 40, max_tokens=MAX_TOKENS), "m at s")


def meaning(found):
    """Return the meaning of a completion."""
    return Meaning(
        found.text,
        found.finish_reason,
        found.thoughts,
        found.usage.completion_tokens,
        found.thought_tokens,
        found.usage.prompt_tokens,
        found.usage.cached_tokens,
    )


def outcome(chat):
    """Return the completion of a call, or its error."""
    try:
        return run(chat, lambda c: c.complete(ask("x" * 40, max_tokens=MAX_TOKENS), seed=1))
    except ChatError as error:
        return error


def total_wait(error):
    """Return how long pipelines wait for a server with an error, in seconds."""
    waited, attempt, rng = 0.0, 1, random.Random(0)
    while (wait := DEFAULT_RETRY_POLICY.wait(error, attempt, rng, waited)) is not None:
        waited, attempt = waited + wait, attempt + 1
    return waited


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completions(name):
    """The text, why it ended, and its tokens, thoughts included."""
    values, expected = COMPLETIONS[name]
    assert meaning(read(values)) == expected


@pytest.mark.parametrize("name", [*SPECIAL, *ERRORS, *ENDED])
def test_replies_mean_the_same_from_a_url_and_from_the_hub(hub, name):  # noqa: F811
    """One table for both paths, over real connections."""
    status, values, expected = {**ERRORS, **ENDED}.get(name) or (200, *SPECIAL[name])
    page = values if isinstance(values, str) else encoded(values)
    hub.behave(body(page, status))
    by_url = outcome(HuggingFaceChat("m", base_url=f"{hub.url}/direct", api_key=KEY))
    by_hub = outcome(HuggingFaceChat("o/m", provider="groq", api_key=KEY))
    if isinstance(expected, Meaning):
        assert meaning(by_url) == expected
        assert by_hub == by_url
        return
    assert (type(by_hub), by_hub.kind) == (type(by_url), by_url.kind)
    assert by_url.kind == expected.kind
    assert expected.words in str(by_url)
    assert expected.words in str(by_hub)
    waits = total_wait(by_url)
    assert {ENDS: waits == 0, TRIES: 0 < waits < 120, WAITS: waits >= 600}[expected.then]


def test_tokens_of_failed_replies_are_known():
    """As far as the server counted them; else the reply counts as lost."""
    for usage, expected in (((), (64, False)), (None, (None, True))):
        with pytest.raises(ChatUnavailableError) as caught:
            read(OPENAI.reply("Par", "abort", usage=usage))
        error = caught.value
        assert (error.usage and error.usage.completion_tokens, error.lost) == expected


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"])
def test_events_end_at_line_breaks_only(separator):
    """Texts may have what Python takes for a line break."""
    text = f"a{separator}b"
    raw = json.dumps(chunk("stop", content=text), ensure_ascii=False)
    assert read(events(raw, "[DONE]")).text == text


PROGRAM = "FILE: main.py\n```python\n# ollama\napi_request_handler = sk_learning_rate = 1\n```"


@pytest.mark.parametrize("key", [None, "a", "none", "EMPTY", "ollama", "sk-no-key-required"])
def test_data_is_not_rewritten(key):
    """Replies that have a placeholder of a key in them, or look like one, arrive as written."""
    text = f"{PROGRAM}\n{key} Bearer of news, hf-internal-testing-model"
    with AdversarialServer(body(OPENAI.reply(text, str(key)))) as server:
        found = run(HuggingFaceChat("m", base_url=server.url, api_key=key))
    assert (found.text, found.finish_reason) == (text, str(key))


def test_a_completion_of_any_source_has_its_thoughts_apart():
    """Also those in process, and from stores of earlier versions."""
    found = Completion("<think>a</think>b", read(OPENAI.reply()).usage, "MAX_TOKENS", "before")
    assert (found.text, found.thoughts, found.finish_reason) == ("b", "before\na", "length")
