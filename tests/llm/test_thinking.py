"""Thinking efforts are sent in the fields that a server reads; what it refuses is found out."""

import asyncio
import json
import logging
import pickle
from dataclasses import replace

import pytest
from llm_support import AdversarialServer, ask, chat_reply
from recorded_thinking import OUTCOMES, SERVERS

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm import ChatError, HuggingFaceChat
from optuna_agenttts.llm.thinking import BUDGETS, FIELDS, thinking_fields, with_extra
from optuna_agenttts.support.efforts import EXPECTED_TOKENS
from optuna_agenttts.task.thinking import expected_tokens


def served(rule):
    """Return a behaviour that refuses requests by a rule, and answers the others."""

    def behave(exchange):
        if refusal := rule(exchange.request.body):
            exchange.reply(*refusal)
        else:
            exchange.reply(200, chat_reply("hi"))

    return behave


def complete(server, request, **options):
    chat = HuggingFaceChat("m", base_url=server.url, timeout=5, **options)

    async def run():
        try:
            await chat.complete(request, seed=5)
        finally:
            await chat.aclose()

    asyncio.run(run())
    return chat


@pytest.mark.parametrize(("name", "effort"), OUTCOMES, ids=lambda value: str(value))
def test_effort_is_sent_in_the_fields_that_the_server_reads(name, effort):
    expected = OUTCOMES[name, effort]
    request = ask(thinking=effort, max_tokens=20000, temperature=1.0)
    with AdversarialServer(served(SERVERS[name])) as server:
        if expected is None:
            with pytest.raises(ChatError, match=r"HTTP 4\d\d"):
                complete(server, request)
            return
        chat = complete(server, request)
        bodies = [request.body for request in server.requests if request.method == "POST"]
    word, fields = expected
    possible = thinking_fields(effort, {})
    assert bodies[-1].get("reasoning_effort") == word
    assert {n for n in FIELDS if n in bodies[-1]} == {n for n in fields if n in possible}
    # Once for each refusal, and none of the next requests is refused.
    assert len(bodies) <= 4
    assert len(chat.negotiated()) <= 3


def test_requests_without_an_effort_have_none_of_the_fields():
    with AdversarialServer(served(SERVERS["gpt 4o"])) as server:
        complete(server, ask())
        assert not set(FIELDS) & set(server.requests[-1].body)


def test_what_a_server_takes_is_remembered_and_logged_once(caplog):
    caplog.set_level(logging.INFO, logger="optuna_agenttts")
    with AdversarialServer(served(SERVERS["gpt 5 1"])) as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=5)

        async def run():
            for effort in ("low", "high", 900, 900):
                await chat.complete(ask(thinking=effort), seed=5)
            await chat.aclose()

        asyncio.run(run())
        assert len(server.chats) == 5
    assert chat.negotiated() == {"thinking": "reasoning_effort"}
    told = [record.message for record in caplog.records if "refuses" in record.message]
    assert len(told) == 1
    assert "a number of tokens is sent as the nearest word" in told[0]
    assert "reasoning_effort" in told[0]


def test_given_fields_are_not_changed():
    form = {"thinking": "thinking, reasoning_effort"}
    with AdversarialServer(served(SERVERS["lenient"])) as server:
        complete(server, ask(thinking=2048), request_parameters=form)
        body = server.requests[-1].body
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert body["reasoning_effort"] == "low"
    assert set(FIELDS) & set(body) == {"thinking", "reasoning_effort"}
    with (
        AdversarialServer(served(SERVERS["gpt 5 1"])) as server,
        pytest.raises(ChatError, match="Unrecognized request argument supplied: thinking"),
    ):
        complete(server, ask(thinking=2048), request_parameters=form)


@pytest.mark.parametrize("form", [None, "", "effort", "reasoning_effort effort", 3])
def test_unknown_fields_are_refused_where_they_are_given(form):
    with pytest.raises(AgentTTSError, match=r"'thinking': give the names of fields.*reasoning"):
        HuggingFaceChat("m", request_parameters={"thinking": form})


def test_further_fields_come_first_also_within_objects():
    extra = {"chat_template_kwargs": {"documents": [], "thinking": False}, "reasoning_effort": "x"}
    fields = with_extra({"model": "m", **thinking_fields("low", {})}, json.dumps(extra))
    assert fields["reasoning_effort"] == "x"
    assert fields["chat_template_kwargs"] == {
        **{"enable_thinking": True, "thinking": False, "reasoning_effort": "low"},
        "documents": [],
    }


@pytest.mark.parametrize("effort", ["off", "none", 0])
def test_no_thinking_is_asked_for_in_words_where_there_are_any(effort):
    fields = thinking_fields(effort, {})
    assert fields["reasoning_effort"] == "none"
    assert fields["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert fields["reasoning"] == {"enabled": False, "effort": "none"}
    assert fields["thinking"] == {"type": "disabled"}
    assert fields["enable_thinking"] is False
    assert not any("budget" in name for name in fields)
    only = {"thinking": "thinking_token_budget"}
    assert thinking_fields(effort, only) == {"thinking_token_budget": 0}


@pytest.mark.parametrize("word", BUDGETS)
def test_words_and_numbers_that_stand_for_each_other_have_the_same_expected_length(word):
    assert expected_tokens(BUDGETS[word], 0) == EXPECTED_TOKENS[word]
    assert thinking_fields(BUDGETS[word], {})["reasoning_effort"] in (word, "xhigh")
    assert thinking_fields(word, {})["thinking_token_budget"] == BUDGETS[word]


def test_a_number_of_tokens_is_a_word_too_unless_the_server_takes_one_of_them():
    # Ollama reads the word in the object, also if there is another beside it.
    assert thinking_fields(1024, {})["reasoning"] == {
        **{"enabled": True, "effort": "low"},
        "max_tokens": 1024,
    }
    with AdversarialServer(served(SERVERS["openrouter"])) as server:
        chat = complete(server, ask(thinking=1024))
        assert server.chats[-1].body["reasoning"] == {"enabled": True, "max_tokens": 1024}
    assert "reasoning.max_tokens" in chat.negotiated()["thinking"].split()
    assert thinking_fields("low", chat.negotiated())["reasoning"]["effort"] == "low"


def test_thoughts_that_were_switched_off_are_logged_once(caplog):
    counts = {"completion_tokens_details": {"reasoning_tokens": 60}}
    usage = {"prompt_tokens": 5, "completion_tokens": 64, "total_tokens": 69, **counts}
    thinks = chat_reply("hi", usage=usage)
    with AdversarialServer(lambda exchange: exchange.reply(200, thinks)) as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=5)

        async def run():
            for effort in ("high", "off", "off"):
                await chat.complete(ask(thinking=effort), seed=5)
            await chat.aclose()

        asyncio.run(run())
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(told) == 1
    assert "60 tokens" in told[0].message
    assert "although requests ask for no thoughts" in told[0].message


def test_errors_about_other_parameters_leave_efforts_as_they_are():
    text = "`temperature` is not supported when thinking is enabled"

    def rule(body):
        return (400, {"error": {"message": text}}) if "temperature" in body else None

    with AdversarialServer(served(rule)) as server:
        chat = complete(server, ask(thinking="low"))
    assert chat.negotiated() == {"temperature": None}


def test_fields_are_kept_when_a_chat_model_is_pickled():
    with AdversarialServer(served(SERVERS["groq qwen3"])) as server:
        chat = complete(server, replace(ask(), thinking="on"))
        assert pickle.loads(pickle.dumps(chat)).negotiated() == chat.negotiated()


@pytest.mark.parametrize("effort", ["off", "on", "low", "max", 0, 1, 1024, 10**6])
@pytest.mark.parametrize("text", ["{names}: not supported", "only one of {names}", "{names}: no"])
def test_negotiation_ends(effort, text):
    """Also at a server that refuses all it gets, in any of the words."""

    def refuse(exchange):
        names = [name for name in FIELDS if name in exchange.request.body]
        names += ["reasoning.max_tokens", "effort must be one of low, high, none, default"]
        message = text.format(names=", ".join(names))
        exchange.reply(400, {"error": {"message": message}})

    with AdversarialServer(refuse) as server:
        with pytest.raises(ChatError, match="HTTP 400"):
            complete(server, ask(thinking=effort))
        assert len(server.chats) <= len(FIELDS) + 4
