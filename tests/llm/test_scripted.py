"""Tests of the chat model with scripted replies."""

import asyncio

import pytest
from llm_support import ask

from optuna_agenttts.llm import (
    ChatModel,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    ScriptedChatModel,
    Usage,
)


def say(chat, *requests):
    """Ask one after the other; returns the completions."""

    async def work():
        return [await chat.complete(request, seed=1) for request in requests]

    return asyncio.run(work())


def test_replies_come_in_order():
    """Replies are returned in order, for any requests."""
    chat = ScriptedChatModel(["one", "two", "three"])
    assert isinstance(chat, ChatModel)
    assert [c.text for c in say(chat, ask("a"), ask("a"), ask("b"))] == ["one", "two", "three"]


def test_a_script_is_anything_that_can_be_gone_through():
    """A generator is a script, too; and what happens to a list later does not matter."""
    assert say(ScriptedChatModel(str(i) for i in range(2)), ask(), ask())[1].text == "1"
    script = ["one"]
    chat = ScriptedChatModel(script)
    script.clear()
    assert say(chat, ask())[0].text == "one"


def test_exceptions_in_a_script_are_raised_in_their_turn():
    """A script can fail and go on."""
    error = ChatUnavailableError("busy")
    chat = ScriptedChatModel(["one", error, "three"])
    assert say(chat, ask())[0].text == "one"
    with pytest.raises(ChatUnavailableError) as caught:
        say(chat, ask())
    assert caught.value is error
    assert say(chat, ask())[0].text == "three"


def test_a_function_answers_each_request():
    """A function receives the request, and returns or raises any scripted reply."""

    def answer(request):
        text = request.messages[-1].content
        return {"fail": ValueError("told to"), "whole": Completion("w", Usage(1, 2))}.get(
            text, text.upper()
        )

    chat = ScriptedChatModel(answer)
    assert [c.text for c in say(chat, ask("a"), ask("whole"), ask("b"))] == ["A", "w", "B"]
    with pytest.raises(ValueError, match="told to"):
        say(chat, ask("fail"))


def test_the_end_of_a_script_is_an_error_that_says_so():
    """The error at the end of the script contains the number of requests."""
    chat = ScriptedChatModel(["one"])
    say(chat, ask())
    with pytest.raises(IndexError, match="has 1 replies, got request 2"):
        say(chat, ask())
    with pytest.raises(IndexError, match="has 0 replies, got request 1"):
        say(ScriptedChatModel([]), ask())


def test_requests_are_recorded():
    """Requests are recorded, including failed ones."""
    chat = ScriptedChatModel(["one", ValueError("x")])
    say(chat, ask("a"))
    with pytest.raises(ValueError, match="x"):
        say(chat, ask("b", schema="{}"))
    assert chat.requests == [ask("a"), ask("b", schema="{}")]


def test_tokens_are_counted_at_four_characters_each():
    """Costs can be reckoned with: longer texts count more; a whole completion counts itself."""
    messages = (Message("system", "x" * 40), Message("user", "y" * 60))
    request = ChatRequest(model="m", messages=messages, max_tokens=5, temperature=0)
    given = Completion("w", Usage(1, 2), "length")
    guessed, whole = say(ScriptedChatModel(["z" * 20, given]), request, request)
    assert guessed == Completion("z" * 20, Usage(25, 5), "stop")
    assert whole is given


def test_replies_of_calls_at_once_keep_their_order():
    """The first to ask gets the first reply, though all wait."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        await asyncio.sleep(0)

    chat = ScriptedChatModel([str(i) for i in range(5)], delay=3, sleep=sleep)

    async def work():
        return await asyncio.gather(*(chat.complete(ask(), seed=1) for _ in range(5)))

    assert [c.text for c in asyncio.run(work())] == list("01234")
    assert waits == [3] * 5
