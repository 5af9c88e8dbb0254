"""The doctor tells which thinking efforts a server takes, and which it ignores."""

import asyncio
import random

import pytest
from llm_support import AdversarialServer, chat_reply
from recorded_thinking import SERVERS

from optuna_agenttts.llm import HuggingFaceChat
from optuna_agenttts.llm.doctor import examine
from optuna_agenttts.llm.effort_checks import EffortCase, examine_efforts
from optuna_agenttts.llm.thinking import BUDGETS, FIELDS


def thinker(rule=None, length=None, counted=True):
    """Return a server that refuses by a rule and thinks by a function, and its calls."""
    calls = []

    def behave(exchange):
        body = exchange.request.body
        calls.append(body)
        if rule is not None and (refusal := rule(body)):
            exchange.reply(*refusal)
            return
        tokens = min(length(body), body["max_tokens"])
        details = {"completion_tokens_details": {"reasoning_tokens": tokens}} if counted else {}
        usage = {"prompt_tokens": 9, "completion_tokens": tokens + 2, "total_tokens": tokens + 11}
        exchange.reply(200, chat_reply("42", usage={**usage, **details}))

    return AdversarialServer(behave), calls


def examined(server, *efforts, fields=None):
    """Return the findings about efforts by the effort, as (level, message)."""
    fields = fields or {}
    cases = [
        EffortCase(
            subject=f"m at {effort}",
            effort=effort,
            thinking=None if effort in fields else effort,
            extra=fields.get(effort),
        )
        for effort in efforts
    ]
    with server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=5)

        async def run():
            try:
                return await examine_efforts(chat, model="m", cases=cases)
            finally:
                await chat.aclose()

        findings = asyncio.run(run())
    assert {finding.check for finding in findings} == {"thinking"}
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    found = {}
    for finding in findings:
        found.setdefault(finding.subject.removeprefix("m at "), []).append(
            (finding.level, finding.message)
        )
    return found


def by_word(body):
    """Think as long as `reasoning_effort` says."""
    return {"none": 0, **BUDGETS}.get(body.get("reasoning_effort"), 500) // 10


def test_efforts_that_the_server_reads_are_fine():
    server, calls = thinker(SERVERS["gpt 5 1"], by_word)
    found = examined(server, "off", "low", "high")
    assert [level for each in found.values() for level, _ in each] == ["ok"] * 3
    assert found["high"][0][1] == "1638 tokens of thoughts on a question at effort 'high'"
    # One more for the fields that were refused, and one for those of numbers of tokens.
    assert len(calls) == 5
    assert set(FIELDS) & set(calls[-1]) == {"reasoning_effort"}


def test_a_word_that_is_refused_is_an_error_with_the_words_of_the_server():
    server, _ = thinker(SERVERS["gpt 5 1"], by_word)
    found = examined(server, "minimal", "low", "high")
    ((level, message),) = found["minimal"]
    assert level == "error"
    assert "a question at effort 'minimal' fails: HTTP 400" in message
    assert "'none', 'low', 'medium', and 'high'" in message
    assert found["low"][0][0] == found["high"][0][0] == "ok"


@pytest.mark.parametrize("effort", ["minimal", None])
def test_the_first_request_names_the_effort_that_is_refused(effort):
    """Its remedy is not that of long prompts."""
    refusals = {"minimal": SERVERS["gpt 5 1"], None: lambda body: (400, {"error": "too long"})}
    server, _ = thinker(refusals[effort], by_word)
    with server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=5)

        async def run():
            try:
                return await examine(chat, subject="m", model="m", thinking=effort)
            finally:
                await chat.aclose()

        (found,) = [each for each in asyncio.run(run()) if each.check == "one token"]
    assert found.level == "error"
    assert ("leave the effort out" in found.remedy) == (effort is not None)
    assert ("Shorten the prompt" in found.remedy) == (effort is None)


def test_efforts_that_are_ignored_are_found_by_a_second_question():
    lengths = iter([700, 900, 850, 900, 700])
    server, calls = thinker(None, lambda body: next(lengths))
    found = examined(server, "off", "low", "high")
    assert found["off"] == [
        (
            "warning",
            "700 tokens of thoughts on a question at effort 'off': the model always thinks, or "
            "the server ignores that this is switched off",
        )
    ]
    assert found["low"][0][0] == "ok"
    level, message = found["high"][1]
    assert level == "warning"
    assert "1800 tokens of thoughts on two questions at effort 'low', and 1550 at" in message
    assert "may compare equal choices" in message
    assert len(calls) == 5
    assert calls[3]["messages"] != calls[0]["messages"]


def test_one_question_on_which_more_effort_thinks_less_is_no_warning():
    lengths = iter([900, 850, 300, 1500])
    server, _ = thinker(None, lambda body: next(lengths))
    found = examined(server, "low", "high")
    assert [level for each in found.values() for level, _ in each] == ["ok", "ok"]


def test_thoughts_that_fill_the_room_are_not_compared():
    server, _ = thinker(None, lambda body: 10**6)
    found = examined(server, "low", "high")
    assert found["high"][1][0] == "ok"
    assert "not compared" in found["high"][1][1]


def test_budgets_that_are_ignored_are_found():
    server, _ = thinker(None, lambda body: 1800)
    found = examined(server, 0, 100, 4096)
    assert found["0"][0][0] == "warning"
    assert "the server ignores the budget" in found["100"][0][1]
    assert found["4096"][0][0] == "ok"


def test_models_that_never_think_are_found():
    server, _ = thinker(None, lambda body: 0)
    found = examined(server, "off", "low", "high")
    assert found["off"][0][0] == found["low"][0][0] == "ok"
    assert "no thoughts at any effort" in found["high"][1][1]


@pytest.mark.parametrize(
    ("server", "efforts", "errors"),
    [
        ("groq qwen3", ("off", "on"), []),
        ("groq qwen3", ("off", "low"), ["low"]),
        ("groq gpt oss", ("off", "low", "high"), ["off"]),
        ("openrouter r1", ("off", "high"), ["off"]),
        ("gpt 4o", ("low", "high"), ["low", "high"]),
        ("glm 5 3", ("off", "high"), ["off"]),
        ("dashscope", ("off", 1024, 40_000), ["40000"]),
        ("anthropic", (0, 1024, 8192), []),
    ],
)
def test_efforts_that_servers_refuse_are_errors(server, efforts, errors):
    served, _ = thinker(SERVERS[server], lambda body: random.Random(str(body)).randint(1, 400))
    found = examined(served, *efforts)
    assert [effort for effort in found if found[effort][0][0] == "error"] == errors


def test_servers_that_want_more_tokens_than_the_budget_get_them():
    def rule(body):
        budget = body.get("thinking", {}).get("budget_tokens", 0)
        if body["max_tokens"] > budget:
            return None
        text = "`max_tokens` must be greater than `thinking.budget_tokens`"
        return 400, {"type": "error", "error": {"message": text}}

    server, _ = thinker(rule, lambda body: body.get("thinking", {}).get("budget_tokens", 0) // 2)
    found = examined(server, "off", 1024, 16384)
    assert [level for each in found.values() for level, _ in each] == ["ok"] * 3
    assert found["16384"][0][1].startswith("8192 tokens")


def test_fields_of_the_user_are_sent_as_they_are():
    fields = {"off": '{"effort": 0}', "high": '{"effort": 9}'}
    server, calls = thinker(None, lambda body: body["effort"] * 10)
    found = examined(server, "off", "high", fields=fields)
    assert [level for each in found.values() for level, _ in each] == ["ok", "ok"]
    assert not any(set(FIELDS) & set(body) for body in calls)
