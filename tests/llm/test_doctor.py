"""Checks of a model's server before a search, against real servers on this machine."""

import asyncio
import itertools
import json
import socket
import time

import pytest
from doctor_support import (
    KEY,
    MIDDLE,
    OPENAI,
    SCHEMA,
    SMALL,
    WORDS,
    at,
    checked,
    constrained,
    counting,
    levels,
    listing,
    tgi,
)
from llm_support import (
    BEHAVIOURS,
    AdversarialServer,
    Sampling,
    ask,
    body,
    chat_reply,
    echo_auth_error,
    failing,
    good,
)

import optuna_agenttts.llm.huggingface
from optuna_agenttts.exceptions import AgentTTSError, CheckError
from optuna_agenttts.llm import (
    ChatRefusedError,
    ChatUnavailableError,
    Finding,
    HuggingFaceChat,
    Report,
    RetryingChatModel,
    ScriptedChatModel,
    examine,
)
from optuna_agenttts_integrations.playground import PlaygroundServer

# Servers that are well.


def test_a_playground_of_either_dialect_is_well():
    """Every check passes, and the longest prompt's length is the server's count."""
    longest = ask(WORDS, max_tokens=20)
    expected = {"reachable", "model", "one token", "whole prompt", "seeds", "size", "requests"}
    with PlaygroundServer([SMALL, MIDDLE]) as server:
        found = checked(at(server), model=MIDDLE, longest=longest)
    # This dialect does not report its context, so the whole request is tried.
    assert levels(found) == dict.fromkeys(expected | {"full length"}, "ok")
    assert "12 tokens" in found["one token"].message
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        found = checked(at(server), model=SMALL, longest=longest, concurrency=128)
        asked = sum(server.served.values())
    assert levels(found) == dict.fromkeys(expected | {"concurrency", "context"}, "ok")
    assert "32 of 128 tokens" in found["context"].message
    # Its page, one token, a longer prompt, one with unknown words, and three seeds.
    assert asked == 7


def test_a_server_that_does_all_that_is_asked_is_well_and_asked_eight_times():
    """TGI: its page, one token, a longer prompt, the schema in two formats, and three seeds."""
    with AdversarialServer(constrained, info=tgi()) as server:
        found = checked(
            at(server),
            longest=ask("x " * 300, max_tokens=20, schema=SCHEMA),
            stop_strings=4,
            schema=SCHEMA,
            concurrency=8,
        )
        asked = server.requests
    assert set(levels(found).values()) == {"ok"}
    assert {"stop strings", "structured output", "concurrency", "context"} <= set(found)
    assert [request.path for request in asked] == ["/info"] + ["/v1/chat/completions"] * 7
    assert asked[1].body["max_tokens"] == asked[2].body["max_tokens"] == 1
    assert asked[1].body["messages"][0]["content"] == "x " * 300
    assert asked[5].body == asked[7].body
    assert asked[6].body == {**asked[5].body, "seed": asked[5].body["seed"] + 1}
    assert asked[5].body["temperature"] == 0.9
    assert found["requests"].message.startswith("6 were sent, with ")
    assert server.most_at_once == 1


def test_without_a_longest_request_a_short_one_is_sent():
    """Key, route, model and system role are proven; there is no context to compare."""
    with AdversarialServer(Sampling(), info=tgi()) as server:
        found = checked(at(server), seeds=False)
        first, second = (request.body["messages"] for request in server.chats)
    assert set(levels(found).values()) == {"ok"}
    assert "context" not in found
    assert [message["content"] for message in first] == ["Reply with OK."]
    assert [message["role"] for message in second] == ["system", "user"]


def test_a_long_prompt_is_sent_twice_for_one_token():
    """Seeds are then tried with a short one."""
    with AdversarialServer(Sampling(), info=tgi()) as server:
        found = checked(at(server), longest=ask("word " * 2000))
        sent = [(r.body["messages"][0]["content"], r.body["max_tokens"]) for r in server.chats]
    assert found["seeds"].level == "ok"
    assert [tokens for text, tokens in sent if len(text) > 100] == [1, 1]
    assert len(sent[0][0]) == 10_000
    assert len(sent[1][0]) < 12_100


def test_models_in_process_are_called_and_no_more():
    """There is no server to ask; a retrying chat model is unwrapped."""
    chat = ScriptedChatModel(lambda request: f"fine {len(chat.requests)}")
    longest = ask("hello there", max_tokens=9)
    found = checked(chat, longest=longest, concurrency=500, stop_strings=9)
    assert set(found) == {"one token", "full length", "seeds", "size", "requests"}
    assert [request.max_tokens for request in chat.requests] == [1, 9, 32, 32, 32]
    failing_chat = ScriptedChatModel([ChatUnavailableError("busy", kind="HTTP 503")])
    found = checked(RetryingChatModel(failing_chat))
    assert levels(found) == {"one token": "error", "size": "ok"}
    assert len(failing_chat.requests) == 1


# Servers that are not there, or no servers of models.


def test_a_port_where_nobody_listens_is_an_error_with_a_remedy():
    """Nothing else is found out, and it does not take long."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        start = time.monotonic()
        found = checked(HuggingFaceChat(base_url=url, timeout=60), parameters=None)
    assert levels(found) == {"reachable": "error", "size": "warning"}
    assert url.removeprefix("http://") in found["reachable"].message
    assert "running" in found["reachable"].remedy
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("name", ["hang", "slow_drip", "endless_headers"])
def test_a_server_that_never_answers_is_given_up_in_time(name, monkeypatch):
    """Each page and the call wait for the timeout; no further request is sent."""
    monkeypatch.setattr(optuna_agenttts.llm.huggingface, "_PAGE_TIMEOUT", 0.3)
    with AdversarialServer(name, models=name, info=name) as server:
        start = time.monotonic()
        found = checked(at(server, timeout=0.3), parameters=None)
        assert time.monotonic() - start < 30
        assert len(server.requests) == 3
    assert levels(found) == {"reachable": "error", "size": "warning"}


def test_a_server_whose_calls_hang_is_reachable():
    """Only the call is at fault."""
    with AdversarialServer("hang", info=tgi()) as server:
        found = checked(at(server, timeout=0.3), schema=SCHEMA)
        assert len(server.chats) == 1
    assert found["reachable"].level == "ok"
    assert found["one token"].level == "error"
    assert "timeout" in found["one token"].remedy


def test_pages_that_fail_do_not_matter_where_calls_succeed():
    """A server may have no other page at all; that its models are unknown is a warning."""
    with AdversarialServer(Sampling(), info="reset", models="reset") as server:
        found = checked(at(server))
    assert found["reachable"].level == "ok"
    assert [check for check, level in levels(found).items() if level != "ok"] == ["model"]


def test_a_login_page_is_no_server_of_models():
    """HTML everywhere: the remedy is about the URL."""
    with AdversarialServer("html", models="html", info="html") as server:
        found = checked(at(server))
    assert found["reachable"].level == "ok"
    assert found["one token"].level == "error"
    assert "URL" in found["one token"].remedy


@pytest.mark.parametrize(
    "reply",
    [
        chat_reply("", choices=[{"message": {"content": "Par"}, "finish_reason": "abort"}]),
        {"error": "Model is loading", "error_type": "overloaded"},
    ],
)
def test_failures_with_status_200_have_a_remedy(reply):
    """The server's log says why it fails."""
    with AdversarialServer(body(reply), **OPENAI) as server:
        found = checked(at(server))
    assert found["one token"].level == "error"
    assert "log" in found["one token"].remedy


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "max_tokens"),
        (401, "key"),
        (402, "credits"),
        (403, "key"),
        (404, "model's name"),
        (413, "max_tokens"),
        (422, "max_tokens"),
        (503, "log"),
    ],
)
def test_a_refusal_is_quoted_with_what_to_do(status, remedy):
    """The server's own words, a remedy for each status, and no further calls."""
    with AdversarialServer(failing(status), **OPENAI) as server:
        found = checked(at(server), schema=SCHEMA)
        assert len(server.chats) == 1
    assert levels(found) == {
        "reachable": "ok",
        "model": "ok",
        "one token": "error",
        "size": "ok",
    }
    assert f"HTTP {status}" in found["one token"].message
    assert "failed on purpose" in found["one token"].message
    assert remedy in found["one token"].remedy


def test_a_busy_server_is_a_warning():
    """It will be less so."""
    with AdversarialServer("status_429") as server:
        assert checked(at(server))["one token"].level == "warning"


@pytest.mark.parametrize("name", sorted(set(BEHAVIOURS) - {"megabytes", "gzip_bomb"}))
def test_whatever_a_server_does_becomes_findings(name, monkeypatch):
    """No exception, no line break, no key, and an end, whichever page goes wrong."""
    monkeypatch.setattr(optuna_agenttts.llm.huggingface, "_PAGE_TIMEOUT", 0.2)
    with AdversarialServer(name, models=name, info=name) as server:
        found = checked(at(server, timeout=0.2, api_key=KEY), schema=SCHEMA, longest=ask())
        assert len(server.requests) <= 11
    text = str(Report(tuple(found.values())))
    assert KEY not in text
    assert all(len(line) <= 100 and line.isprintable() for line in text.split("\n"))


# Keys.


@pytest.mark.parametrize("key", [KEY, "quoted'key\"and\\more"])
def test_a_key_that_is_echoed_is_in_no_finding(key):
    """Neither from errors, nor from names of models, escaped or not."""
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    names = [
        f'{{"data": [{{"id": "{escaped}"}}]}}'.encode(),
        json.dumps({"data": [{"id": f"we saw {key}"}]}).encode(),
    ]
    for status, page in itertools.product((401, 422, 500, 200), names):
        with AdversarialServer(echo_auth_error(status), models=body(page), **OPENAI) as server:
            found = checked(at(server, api_key=key), model="m", schema=SCHEMA)
        text = " ".join(f"{finding.message} {finding.remedy}" for finding in found.values())
        assert "[hidden]" in text
        assert key not in text
        assert repr(key)[1:-1] not in text
    page = f'{{"model_id": "{escaped}"}}'.encode()
    with AdversarialServer(info=body(page)) as server:
        found = checked(at(server, api_key=key), model="m")
    assert found["model"].level == "error"
    assert "[hidden]" in found["model"].message


def test_a_key_that_cannot_be_had_is_an_error():
    """The function that returns the key fails, or the key is invalid in a header."""

    def broken():
        raise OSError(KEY)

    for api_key in (broken, KEY + "\n"):
        with AdversarialServer() as server:
            found = checked(at(server, api_key=api_key))
            assert not server.requests
        assert levels(found) == {"key": "error", "size": "ok"}
        assert KEY not in found["key"].message


# Models.


def test_tgi_that_serves_another_model_is_an_error_though_it_answers():
    """It would answer to any name, and the search would compare a model with itself."""
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        found = checked(at(server), model=MIDDLE, longest=ask(WORDS))
    assert found["one token"].level == "ok"
    assert found["model"].level == "error"
    assert SMALL in found["model"].message
    assert MIDDLE in found["model"].remedy


@pytest.mark.parametrize(
    ("served", "level"),
    [
        ("org/name", "ok"),
        ("/models/name", "ok"),
        ("/repository", "warning"),
        ("other/name", "error"),
        ("org/Name", "error"),
    ],
)
def test_tgi_may_serve_a_folder(served, level):
    """A folder of the model's name is taken for it; one of another name may hold it."""
    with AdversarialServer(info=tgi(model_id=served)) as server:
        assert checked(at(server), model="org/name")["model"].level == level


def test_a_model_that_a_server_does_not_know_is_an_error():
    """The finding lists the server's models; the call is refused."""
    with PlaygroundServer([SMALL, MIDDLE]) as server:
        found = checked(at(server), model="gpt-oss", longest=ask(WORDS))
    assert levels(found) == {
        "reachable": "ok",
        "model": "error",
        "one token": "error",
        "size": "ok",
    }
    assert SMALL in found["model"].message
    assert "HTTP 404" in found["one token"].message


def test_a_model_that_is_not_listed_and_answers_is_a_warning():
    """Some servers list a part of what they serve, others answer to any name."""
    many = listing(*({"id": f"m{i}"} for i in range(50)))
    with AdversarialServer(models=many, **OPENAI) as server:
        found = checked(at(server), model="m99")
    assert found["model"].level == "warning"
    assert "46 more" in found["model"].message


def test_a_provider_may_be_named_behind_the_model():
    """Hugging Face's router lists models without it."""
    with AdversarialServer(models=listing({"id": "org/name"}), **OPENAI) as server:
        assert checked(at(server), model="org/name:groq")["model"].level == "ok"


def test_without_a_name_whatever_is_served_is_meant():
    """The finding names the model that the server lists."""
    with AdversarialServer(**OPENAI) as server:
        found = checked(at(server), model="")
    assert found["model"] == Finding("it", "model", "ok", "serves 'served'")


# Limits.


def test_a_reply_that_does_not_fit_beside_the_prompt_is_an_error():
    """One token fits; the rest of the reply would not, by the server's own count."""
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        found = checked(at(server), model=SMALL, longest=ask(WORDS, max_tokens=120))
    assert found["one token"].level == "ok"
    assert found["context"].level == "error"
    assert "132 in total; the server accepts 128" in found["context"].message
    assert "to 116" in found["context"].remedy


def test_a_prompt_that_the_server_refuses_is_an_error_with_an_estimate():
    """Its length is then only known from its characters."""
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        found = checked(at(server), model=SMALL, longest=ask("a " * 200, max_tokens=9))
    assert found["one token"].level == "error"
    assert "HTTP 422" in found["one token"].message
    assert found["context"].level == "warning"
    assert "about 134 tokens; the server accepts 95" in found["context"].message


@pytest.mark.parametrize(("model", "length"), [("b", 32), ("a", 18)])
def test_a_listed_context_is_compared(model, length):
    """As vLLM lists it, for the model that is meant: a prompt of 11 and a reply of 20 tokens."""
    entries = [{"id": "a", "max_model_len": 18}, {"id": "b", "max_model_len": 32}]
    with AdversarialServer(models=listing(*entries), **OPENAI) as server:
        found = checked(at(server), model=model, longest=ask("x" * 99, max_tokens=20))
    assert found["context"].level == ("ok" if length > 31 else "error")
    expected = "31 of 32" if length > 31 else "31 in total; the server accepts 18"
    assert expected in found["context"].message


def test_a_count_that_may_be_our_guess_is_not_taken_for_the_servers():
    """A server that sends no usage: the context is a warning, from the characters."""
    with AdversarialServer(good(usage=None), info=tgi(max_total_tokens=50)) as server:
        found = checked(at(server), longest=ask("x" * 90, max_tokens=30), chars_per_token=3.0)
    assert "unknown length" in found["one token"].message
    assert found["context"].level == "warning"
    assert "about 30 tokens" in found["context"].message


def test_more_requests_at_once_than_tgi_takes_are_a_warning():
    """Both numbers are named."""
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        found = checked(at(server), model=SMALL, longest=ask(WORDS), concurrency=129)
    assert found["concurrency"].level == "warning"
    assert "129" in found["concurrency"].message
    assert "128" in found["concurrency"].message


@pytest.mark.parametrize(("limit", "stops"), [(4, 5), (None, 5), (2, 3)])
def test_more_stop_strings_than_tgi_takes_are_an_error(limit, stops):
    """Both the search's and the longest request's count; the default limit is 4."""
    with AdversarialServer(info=tgi(max_stop_sequences=limit)) as server:
        assert checked(at(server), stop_strings=stops)["stop strings"].level == "error"
        longest = ask(stop=tuple("abcdefg"[:stops]))
        assert checked(at(server), longest=longest)["stop strings"].level == "error"
        assert checked(at(server), stop_strings=stops - 1)["stop strings"].level == "ok"


@pytest.mark.parametrize("value", ["many", -1, True, 1.5, None, [], 10**30])
def test_invalid_numbers_are_ignored(value):
    """A server that reports invalid limits is treated like one that reports none."""
    page = tgi(**dict.fromkeys(("max_concurrent_requests", "max_total_tokens"), value))
    with AdversarialServer(info=page, models=listing(7, None, {"id": 7})) as server:
        found = checked(at(server), longest=ask(), concurrency=500)
    assert "concurrency" not in found
    assert found["context"].level == "ok"


# Schemas, seeds, sizes.


@pytest.mark.parametrize(
    ("reply", "reason", "level"),
    [
        ('{"x": 4}', "stop", "ok"),
        ('{"x": 4444', "length", "ok"),
        ('{"y": 4}', "stop", "warning"),
        ("[4]", "stop", "warning"),
        ("{", "stop", "warning"),
        ("  \n ", "length", "warning"),
        ("It is four.", "stop", "warning"),
        ("```json\n{}", "length", "warning"),
        ("[" * 100_000, "stop", "warning"),
    ],
)
def test_a_reply_is_held_to_the_schema(reply, reason, level):
    """JSON with the keys that must be there, or the beginning of it; else it was ignored."""
    choice = {"message": {"content": reply}, "finish_reason": reason}
    with AdversarialServer(good(choices=[choice]), **OPENAI) as server:
        found = checked(at(server), schema=SCHEMA, seeds=False)
        assert server.chats[-1].body["max_tokens"] == 64
    assert found["structured output"].level == level


def test_a_schema_that_breaks_the_server_is_an_error_and_one_that_is_refused_is_ignored():
    """Calls of the search would fail as this one; refused formats are dropped by the adapter."""

    def breaks(status):
        def behave(exchange):
            fails = exchange.request.body.get("response_format")
            return (failing(status) if fails else Sampling())(exchange)

        return behave

    for status, level, message in ((500, "error", "HTTP 500"), (422, "warning", "ignored")):
        with AdversarialServer(breaks(status), **OPENAI) as server:
            found = checked(at(server), schema=SCHEMA)
            assert len(server.requests) <= 10
        assert found["structured output"].level == level
        assert message in found["structured output"].message
        assert found["seeds"].level == "ok"


def test_parameters_that_a_server_refuses_are_named_with_what_follows():
    """Lost seeds are a warning; a parameter with another name is not."""

    def picky(exchange):
        for name in ("seed", "max_tokens"):
            if name in exchange.request.body:
                return body({"error": f"Unsupported parameter: {name}"}, 400)(exchange)
        return good()(exchange)

    async def examined(chat):
        try:
            return await examine(chat, subject="it", model="served")
        finally:
            await chat.aclose()

    with AdversarialServer(picky, **OPENAI) as server:
        found = asyncio.run(examined(at(server)))
    levels = {f.message: f.level for f in found if f.check == "parameters"}
    (seed,) = (message for message in levels if "`seed`" in message)
    assert levels.pop(seed) == "warning"
    assert "not reproducible" in seed
    ((renamed, level),) = levels.items()
    assert "max_completion_tokens" in renamed
    assert level == "ok"
    assert not [f for f in found if f.level == "error"]


def test_a_proxy_that_cannot_be_used_is_an_error_of_reachability(monkeypatch):
    """The key is not at fault."""
    monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
    monkeypatch.setenv("http_proxy", "nonsense://x")
    chat = HuggingFaceChat("m", base_url="http://server.invalid")
    (finding,) = asyncio.run(examine(chat, subject="it", model="m", parameters=1e9))[1:]
    assert (finding.check, finding.level) == ("reachable", "error")
    assert "prox" in finding.message


def test_a_seed_that_is_not_honoured_is_a_warning():
    """Two replies to the same request and seed differ."""
    with AdversarialServer(counting) as server:
        found = checked(at(server))
        first, _, second = server.chats[-3:]
    assert found["seeds"].level == "warning"
    assert "store" in found["seeds"].remedy
    assert first.body == second.body


def test_seeds_that_cannot_be_tried_are_a_warning():
    """A server that fails meanwhile, or that the short request is too much for."""
    with AdversarialServer(["good", "good", "status_503"]) as server:
        found = checked(at(server))
    assert found["seeds"].level == "warning"
    assert "HTTP 503" in found["seeds"].message


def test_a_model_that_thinks_before_it_answers_is_given_the_tokens_for_it():
    """A single token is no text then; the request is sent once more as the search will."""

    def thinks(exchange):
        long = exchange.request.body["max_tokens"] > 1
        message = {"content": "Yes." if long else None}
        exchange.reply(200, chat_reply("", choices=[{"message": message}]))

    with AdversarialServer(thinks) as server:
        found = checked(at(server), longest=ask(max_tokens=500), seeds=False)
        limits = [request.body["max_tokens"] for request in server.chats]
    # The longer prompt has the limit with which the first one was answered.
    assert limits in ([1, 500, 500], [1, 1, 500])
    assert found["one token"].level == "ok"


@pytest.mark.parametrize("reason", ["content_filter", "stop", "tool_calls"])
def test_whole_replies_without_a_text_are_a_warning(reason):
    """A search would score them as wrong."""

    def behave(exchange):
        if exchange.request.body["max_tokens"] == 1:
            return Sampling()(exchange)
        empty = {"message": {"content": ""}, "finish_reason": reason}
        return exchange.reply(200, chat_reply("", choices=[empty]))

    with AdversarialServer(behave, **OPENAI) as server:
        found = checked(at(server), longest=ask(max_tokens=50), seeds=False)
    assert found["full length"].level == "warning"
    assert f"gets no text (finish reason '{reason}')" in found["full length"].message
    assert "filters" in found["full length"].remedy


@pytest.mark.parametrize("limit", [500, 1])
def test_thoughts_that_take_all_tokens_are_a_warning(limit):
    """Also if the longest request has a single token, which is not sent twice."""

    def thinks(exchange):
        choice = {"message": {"content": None}, "finish_reason": "length"}
        exchange.reply(200, chat_reply("", choices=[choice]))

    with AdversarialServer(thinks) as server:
        found = checked(at(server), longest=ask(max_tokens=limit), seeds=False)
        assert [r.body["max_tokens"] for r in server.chats] == [1, 1, 500][: 3 if limit > 1 else 2]
    assert found["full length"].level == "warning"
    assert "thoughts and no answer" in found["full length"].message


@pytest.mark.parametrize("kind", ["HTTP 400", "HTTP 429"])
def test_a_reply_that_does_not_fit_after_the_prompt_is_found(kind):
    """Servers that refuse prompt and `max_tokens` together answer the prompt with one token."""

    def reply(request):
        return "fine" if request.max_tokens < 20 else ChatRefusedError("too long", kind=kind)

    found = checked(ScriptedChatModel(reply), longest=ask("hello", max_tokens=20))
    assert found["one token"].level == "ok"
    assert found["full length"].level == ("error" if kind == "HTTP 400" else "warning")
    assert "`max_tokens` 20" in found["full length"].message
    assert "too long" in found["full length"].message
    assert found["full length"].remedy
    assert (
        checked(ScriptedChatModel(reply), longest=ask("hello", max_tokens=19))["full length"].level
        == "ok"
    )


def test_without_a_size_there_are_no_flops():
    """A warning only: tasks check for themselves whether their cost needs it."""
    chat = ScriptedChatModel(lambda request: "fine")
    assert checked(chat, parameters=None)["size"].level == "warning"
    assert "7.62e+09" in checked(chat, parameters=7_615_616_512)["size"].message


def test_a_chat_model_that_raises_something_else_is_an_error():
    """It would end the search; its words may hold anything and are left out."""
    found = checked(ScriptedChatModel([KeyError(KEY)]))
    assert found["one token"].level == "error"
    assert "KeyError" in found["one token"].message
    assert KEY not in found["one token"].message
    found = checked(ScriptedChatModel([ChatRefusedError("no such model")]))
    assert found["one token"].message == "no such model"


@pytest.mark.parametrize(
    "wrong", [{"schema": "no JSON"}, {"schema": "[]"}, {"chars_per_token": 0}]
)
def test_invalid_arguments_are_refused(wrong):
    """Invalid arguments raise before any request is sent."""
    chat = ScriptedChatModel([])
    with pytest.raises(AgentTTSError, match=next(iter(wrong))):
        checked(chat, **wrong)
    assert not chat.requests


# Reports.


FINDINGS = (
    Finding("org/small", "reachable", "ok", "answers"),
    Finding("org/small", "model", "ok", "serves 'org/small'"),
    Finding(
        "org/a-model-with-a-name-that-is-long at 127.0.0.1:8080",
        "one token",
        "error",
        "HTTP 401: the key that was sent is not one of those that this server knows of",
        "Check that a key is set where this runs, is this server's, and may use the model; if it "
        "is, ask whoever runs the server.",
    ),
    Finding("org/small", "seeds", "warning", "one seed gives two replies", "Live with it."),
)

TABLE = """\
subject                       check      level  message
----------------------------  ---------  -----  ---------------------------------------------------
org/small                     reachable  ok     answers
                              model      ok     serves 'org/small'
org/a-model-with-a-name-that  one token  FAIL   HTTP 401: the key that was sent is not one of those
-is-long at 127.0.0.1:8080                      that this server knows of
    > Check that a key is set where this runs, is this server's, and may use the model; if it is,
      ask whoever runs the server.
org/small                     seeds      WARN   one seed gives two replies
    > Live with it.
"""


def test_a_report_is_a_table_of_a_hundred_columns():
    """Words for levels, subjects where they change, remedies on lines of their own."""
    text = str(Report(FINDINGS))
    assert text == TABLE.rstrip("\n")
    assert max(map(len, text.split("\n"))) <= 100
    assert str(Report()) == "Nothing was checked."


def test_reports_are_added_up():
    """Findings stay in order; one error is enough for the whole not to be well."""
    good_one, bad_one = Report(FINDINGS[:2]), Report(FINDINGS[2:])
    assert good_one + bad_one == Report.joined([good_one, bad_one]) == Report(FINDINGS)
    assert good_one.ok
    assert not (good_one + bad_one).ok
    assert bad_one.errors == FINDINGS[2:3]


def test_errors_are_raised_with_the_table_and_warnings_are_not():
    """The message is what a terminal shows."""
    Report(FINDINGS[:2] + FINDINGS[3:]).raise_for_errors()
    with pytest.raises(CheckError, match="1 check failed") as caught:
        Report(FINDINGS).raise_for_errors()
    assert str(Report(FINDINGS)) in str(caught.value)
