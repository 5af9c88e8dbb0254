"""Calls to real servers on this machine, good and bad."""

import asyncio
import copy
import gc
import json
import logging
import os
import pickle
import time
import warnings

import huggingface_hub.constants
import pytest
from llm_support import (
    ANSWERING,
    BEHAVIOURS,
    REFUSING,
    AdversarialServer,
    ask,
    body,
    chat_reply,
    endless,
    failing,
    good,
    redirect,
)

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm import (
    ChatError,
    ChatRefusedError,
    ChatUnavailableError,
    Completion,
    HuggingFaceChat,
    RetryingChatModel,
    RetryPolicy,
    Usage,
)
from optuna_agenttts.llm.huggingface import chat_url
from optuna_agenttts.llm.loop import LoopThread, gather
from optuna_agenttts.llm.secrets import is_hugging_face, key_for, redact

TOKEN = "hf_TheTokenOfTheUser123456"
KEY = "a-key.of-my_own/server+77"
SCHEMA = json.dumps({"type": "object", "properties": {"x": {"type": "number"}}})


def run(chat, use=None, **options):
    """Do something with a chat model in an event loop of its own; by default one call."""

    async def work():
        try:
            return await (use(chat) if use else chat.complete(ask(**options), seed=5))
        finally:
            await chat.aclose()

    return asyncio.run(work())


@pytest.fixture
def token(monkeypatch):
    """Log the user in to Hugging Face, as far as huggingface_hub can tell."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert huggingface_hub.get_token() == TOKEN


@pytest.fixture(autouse=True)
def _no_login(monkeypatch, tmp_path):
    """Nothing of the machine that runs the tests is read."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))


# What is asked, and what is made of a good reply.


def test_a_good_reply_is_read_and_the_request_holds_what_was_asked():
    """Text, tokens and finish reason are returned; the body holds the request, without nulls."""
    with AdversarialServer(good("Grüße\n汉字")) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        completion = run(chat, text="ask\x00 é", max_tokens=9, temperature=0.3, stop=("a", "b"))
        (request,) = server.requests
    assert completion == Completion("Grüße\n汉字", Usage(11, 7), "stop")
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["content-type"] == "application/json"
    assert request.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "ask\x00 é"}],
        "max_tokens": 9,
        "temperature": 0.3,
        "stop": ["a", "b"],
        "seed": 5,
        "stream": False,
    }


def test_what_was_not_asked_is_not_sent():
    """Without stop strings and schema neither is mentioned: servers refuse nulls."""
    with AdversarialServer() as server:
        run(HuggingFaceChat("m", base_url=server.url))
        sent = server.requests[0].body
    assert set(sent) == {"model", "messages", "max_tokens", "temperature", "seed", "stream"}
    assert None not in sent.values()


def test_the_model_of_a_request_goes_before_that_of_the_adapter():
    """One adapter can reach several models of a server."""
    with AdversarialServer() as server:
        run(HuggingFaceChat("m", base_url=server.url), model="other")
        assert server.requests[0].body["model"] == "other"


def test_the_reason_to_finish_is_what_the_server_says():
    """A truncated reply differs from a complete one in `finish_reason`."""
    choice = {"message": {"content": "x"}, "finish_reason": "length"}
    with AdversarialServer(good("x", choices=[choice])) as server:
        assert run(HuggingFaceChat("m", base_url=server.url)).finish_reason == "length"
    with AdversarialServer(good("x", choices=[{**choice, "finish_reason": None}])) as server:
        assert run(HuggingFaceChat("m", base_url=server.url)).finish_reason == "stop"


@pytest.mark.parametrize("behaviour", ["nan", "huge_usage", "odd_usage"])
def test_senseless_numbers_of_tokens_become_sensible_ones(behaviour):
    """Whatever a server counts, usage is two whole numbers that costs can be computed from."""
    with AdversarialServer(behaviour) as server:
        usage = run(HuggingFaceChat("m", base_url=server.url), text="x" * 400).usage
    assert type(usage.prompt_tokens) is type(usage.completion_tokens) is int
    assert usage.prompt_tokens == 100
    assert 0 <= usage.completion_tokens < 100


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1", "http://h:1/v1/chat/completions"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
        ("http://h:1/deep/v1", "http://h:1/deep/v1/chat/completions"),
        ("http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions"),
        ("http://h:1/x?version=2", "http://h:1/x/v1/chat/completions?version=2"),
    ],
)
def test_any_usual_form_of_a_url_leads_to_chat_completions(base_url, expected):
    """Users copy URLs with and without the version and the path."""
    assert chat_url(base_url) == expected


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/chat/completions"])
def test_any_usual_form_of_a_url_leads_to_the_other_pages_too(path):
    """Models, health and facts are found beside chat completions."""
    with AdversarialServer() as server:
        chat = HuggingFaceChat(base_url=server.url + path)

        async def look(chat):
            return await chat.served_models(), await chat.healthy(), await chat.info()

        models, healthy, info = run(chat, look)
        assert [r.path for r in server.requests] == ["/v1/models", "/health", "/info"]
    assert (models, healthy) == (("served",), True)
    assert info["max_input_tokens"] == 4095


# What bad servers do.

KINDS = {
    "html": "no JSON",
    "garbage": "no JSON",
    "deep_nesting": "no JSON",
    "empty_object": "no text in reply",
    "null_content": "no text in reply",
    "megabytes": "reply too long",
    "gzip_bomb": "reply too long",
    "hang": "timeout",
    "slow_drip": "timeout",
    "endless_continue": "timeout",
    "status_402": "HTTP 402",
    "status_429_date": "HTTP 429",
    "status_503": "HTTP 503",
    "redirect": "HTTP 307",
}


@pytest.mark.parametrize("behaviour", sorted(set(BEHAVIOURS) - ANSWERING))
def test_every_bad_behaviour_is_a_named_error_in_time(behaviour):
    """Whatever a server does, the error is one that callers expect, and it comes in time."""
    right = ChatRefusedError if behaviour in REFUSING else ChatUnavailableError
    with AdversarialServer(behaviour) as server:
        # Long where the reply comes at once, as the machine may be busy.
        timeout = 0.3 if KINDS.get(behaviour) == "timeout" else 60.0
        chat = HuggingFaceChat("m", base_url=server.url, timeout=timeout)
        started = time.monotonic()
        with pytest.raises(ChatError) as caught:
            run(chat)
        assert time.monotonic() - started < 30
        assert len(server.requests) == 1
    assert type(caught.value) is right
    assert caught.value.kind == KINDS.get(behaviour, caught.value.kind)
    assert caught.value.kind not in ("", "error")
    # The message is for a log: one printable line, of bearable length.
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None
    wanted = {"status_429_now": 0.0, "status_503": 2.0}
    if behaviour == "status_429_date":
        assert 50 < caught.value.retry_after <= 60
    else:
        assert caught.value.retry_after == wanted.get(behaviour)


@pytest.mark.parametrize("behaviour", sorted(ANSWERING))
def test_every_other_behaviour_is_answered(behaviour):
    """The behaviours that the test above leaves out do give completions."""
    with AdversarialServer(behaviour) as server:
        assert run(HuggingFaceChat("m", base_url=server.url)).text


def test_a_server_that_is_not_there_is_unavailable():
    """A closed port is an unavailable server, not a refusal."""
    with AdversarialServer() as server:
        url = server.url
    with pytest.raises(ChatUnavailableError) as caught:
        run(HuggingFaceChat("m", base_url=url, timeout=2))
    assert caught.value.kind == "ConnectError"


def test_a_long_reply_is_not_read_to_its_end():
    """No server can fill our memory: reading stops at the bound."""
    with AdversarialServer(endless(b" " * 2**16, limit=400_000_000)) as server:
        chat = HuggingFaceChat("m", base_url=server.url, max_reply_bytes=10_000)
        with pytest.raises(ChatUnavailableError, match="longer than 10000 bytes") as caught:
            run(chat)
        # What was in the buffers of both sides was sent, but no more.
        assert server.sent < 50_000_000
    assert caught.value.kind == "reply too long"


def test_the_bound_of_a_reply_is_on_bytes_as_they_are():
    """A reply that just fits is read, one byte more is refused."""
    size = len(json.dumps(chat_reply("hi there")).encode())
    with AdversarialServer() as server:
        assert run(HuggingFaceChat("m", base_url=server.url, max_reply_bytes=size)).text
        with pytest.raises(ChatUnavailableError, match="longer"):
            run(HuggingFaceChat("m", base_url=server.url, max_reply_bytes=size - 1))


def test_a_server_that_recovers_is_used_again():
    """Broken connections are not kept: the next call makes another one."""
    with AdversarialServer(
        ["reset_mid_body", "hang_up", "no_http", "slow_drip", "good"]
    ) as server:

        async def insist(chat):
            for _ in range(4):
                with pytest.raises(ChatUnavailableError):
                    await chat.complete(ask(), seed=1)
            return await chat.complete(ask(), seed=1)

        assert run(HuggingFaceChat("m", base_url=server.url, timeout=0.5), insist).text


# Keys.


async def _use_everything(chat):
    """Call every method of an adapter; return the outcome of the completion."""
    try:
        ended = await chat.complete(ask(schema=SCHEMA), seed=1)
    except ChatError as error:
        ended = error
    for look in (chat.served_models, chat.info, chat.healthy):
        try:
            await look()
        except ChatError as error:
            ended = error
    return ended


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("path", ["", "/v1", "/huggingface.co/v1"])
def test_the_token_of_the_user_never_goes_to_another_server(path):
    """Being logged in to Hugging Face gives nothing away to a server that is not theirs."""
    with AdversarialServer("echo_auth") as server:
        completion = run(HuggingFaceChat(base_url=server.url + path), _use_everything)
        assert len(server.requests) >= 4
        assert not [r for r in server.requests if "authorization" in r.headers]
        assert TOKEN not in str([(r.headers, r.body) for r in server.requests])
    assert isinstance(completion, (Completion, ChatError))


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("key", [None, KEY])
def test_redirects_carry_no_key_away(status, key):
    """A server cannot have a request, let alone a key, sent to another one."""
    away = redirect(status)
    with AdversarialServer(away, models=away, info=away, health=away) as server:
        run(HuggingFaceChat("m", base_url=server.url, api_key=key), _use_everything)
        assert not server.elsewhere.requests
        expected = None if key is None else f"Bearer {key}"
        assert {r.headers.get("authorization") for r in server.requests} == {expected}


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("whose", ["adapter", "request"])
def test_a_url_as_model_does_not_lead_the_token_away(whose):
    """A URL in the place of a model's id is refused, or called without the user's token."""
    with AdversarialServer() as server:
        own, asked = (server.url, "") if whose == "adapter" else ("org/model", server.url)
        try:
            run(HuggingFaceChat(own, timeout=2), model=asked)
        except AgentTTSError:
            assert not server.requests
        assert not [r for r in server.requests if "authorization" in r.headers]


@pytest.mark.usefixtures("token")
def test_a_given_key_goes_to_its_server_only():
    """A key for one server is sent there, on every page, and to no other."""
    with AdversarialServer() as mine, AdversarialServer() as other:
        run(HuggingFaceChat(base_url=mine.url, api_key=KEY), _use_everything)
        run(HuggingFaceChat(base_url=other.url), _use_everything)
        assert {r.headers.get("authorization") for r in mine.requests} == {f"Bearer {KEY}"}
        assert {r.headers.get("authorization") for r in other.requests} == {None}
        assert len(mine.requests) == len(other.requests) >= 4


def test_a_function_is_asked_for_the_key_at_each_call():
    """Keys that expire can be renewed."""
    keys = iter(["key-one", "key-two"])
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url, api_key=lambda: next(keys))
        run(chat)
        run(chat)
        sent = [r.headers["authorization"] for r in server.requests]
    assert sent == ["Bearer key-one", "Bearer key-two"]


@pytest.mark.usefixtures("token")
def test_an_empty_key_means_none():
    """Nobody is authorized with nothing, and the user's token does not step in."""
    with AdversarialServer() as server:
        run(HuggingFaceChat("m", base_url=server.url, api_key=""))
        assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    "key", ["schlüssel-lang", "密钥密钥密钥", "two\r\nx-evil: 1", "end-of-line\n"]
)
def test_a_key_that_cannot_be_a_header_is_a_named_error(key):
    """A key with a line break or letters that HTTP forbids is neither sent nor shown."""
    with AdversarialServer() as server:
        with pytest.raises(ChatError) as caught:
            run(HuggingFaceChat("m", base_url=server.url, api_key=key))
        assert not [r for r in server.requests if "x-evil" in r.headers]
    assert key.strip()[:3] not in str(caught.value)


def test_netrc_is_not_read(monkeypatch, tmp_path):
    """Passwords that the user stores for other programs are not sent."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with AdversarialServer() as server:
        run(HuggingFaceChat("m", base_url=server.url))
        assert "authorization" not in server.requests[0].headers


@pytest.mark.usefixtures("token")
def test_offline_mode_of_the_hub_leaves_own_servers_alone(monkeypatch):
    """HF_HUB_OFFLINE is about the Hub: a server on this machine is still called."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with AdversarialServer() as server:
        assert run(HuggingFaceChat("m", base_url=server.url)).text == "hi there"


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co",
        "https://HuggingFace.co/",
        "https://huggingface.co:443/v1",
        "https://router.huggingface.co",
        "https://router.huggingface.co/groq/openai/v1",
        "https://api-inference.huggingface.co/models/x",
        "https://x.endpoints.huggingface.cloud",
        "https://x.us-east-1.aws.endpoints.huggingface.cloud/v1",
    ],
)
def test_servers_of_hugging_face_are_known(url):
    """The user's token may go to these."""
    assert is_hugging_face(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "huggingface.co",
        "//huggingface.co",
        "http://huggingface.co",
        "http://router.huggingface.co",
        "ftp://huggingface.co",
        "https://huggingface.co.evil.com",
        "https://evilhuggingface.co",
        "https://evil.com/huggingface.co",
        "https://evil.com?x=.huggingface.co",
        "https://evil.com#.huggingface.co",
        "https://huggingface.co@evil.com",
        "https://huggingface.co:443@evil.com",
        "https://huggingface.cloud",
        "https://endpoints.huggingface.cloud.evil.com",
        "https://evilendpoints.huggingface.cloud",
        "https://x.hf.space",
        "https://hf.co.evil.com",
        "http://127.0.0.1",
        "http://localhost:8080",
        "https://127.0.0.1",
    ],
)
def test_other_servers_are_not_taken_for_hugging_face(url):
    """The user's token may not go to these."""
    assert not is_hugging_face(url)


@pytest.mark.usefixtures("token")
def test_the_token_of_the_user_goes_to_hugging_face_unless_another_key_is_given():
    """Their servers, found by URL or not, get the user's token; others get what was given."""
    for url in (None, "https://router.huggingface.co/v1", "https://x.endpoints.huggingface.cloud"):
        assert key_for(url, None) == TOKEN
        assert key_for(url, KEY) == key_for(url, lambda: KEY) == KEY
    assert key_for("https://h", None) is None
    assert key_for("https://h", KEY) == KEY


def _visible(chat):
    """Everything in which a chat model may be seen."""
    return "\n".join([repr(chat), str(chat), f"{chat.where}", repr(pickle.dumps(chat))])


@pytest.mark.parametrize("schema", [None, SCHEMA])
@pytest.mark.parametrize(
    "behaviour",
    [
        "echo_auth",
        "echo_auth_400",
        "echo_auth_401",
        "echo_auth_503",
        "echo_auth_in_html",
        "hang_up",
    ],
)
def test_keys_stay_out_of_everything_that_is_kept(behaviour, schema, caplog):
    """No text that may be logged, stored or sent on holds the key, even if a server echoes it."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "optuna_agenttts")
    with AdversarialServer(behaviour) as server:
        chat = HuggingFaceChat("m", base_url=server.url, api_key=KEY)
        try:
            kept = repr(run(chat, schema=schema))
        except ChatError as error:
            kept = "\n".join([str(error), repr(error), repr(pickle.dumps(error.args))])
            kept += repr(error.__cause__)
        assert server.chats[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in kept + caplog.text + _visible(chat)
    if behaviour.startswith("echo"):
        assert "[hidden]" in kept


@pytest.mark.parametrize("status", [200, 400, 503])
def test_keys_stay_out_of_messages_that_are_cut(status):
    """A key that a server echoes where a message is shortened does not stay there in part."""
    pads = iter(range(0, 240, 6))

    def echo(exchange):
        seen = exchange.request.headers["authorization"].removeprefix("Bearer ")
        exchange.reply(status, "x" * next(pads) + f" {seen} is your key")

    async def call(chat):
        said = []
        for _ in range(40):
            with pytest.raises(ChatError) as caught:
                await chat.complete(ask(), seed=1)
            said.append(str(caught.value))
        return said

    with AdversarialServer(echo) as server:
        said = run(HuggingFaceChat("m", base_url=server.url, api_key=KEY), call)
    assert any("[hidden]" in text for text in said)
    assert [text for text in said if KEY[:6] in text] == []


def test_keys_stay_out_of_a_reason_to_finish():
    """A server cannot have the key stored in another field than the text."""

    def echo(exchange):
        seen = exchange.request.headers["authorization"]
        choice = {"message": {"content": "x"}, "finish_reason": seen}
        exchange.reply(200, chat_reply("x", choices=[choice]))

    with AdversarialServer(echo) as server:
        completion = run(HuggingFaceChat("m", base_url=server.url, api_key=KEY))
    assert KEY not in repr(completion)


def test_keys_stay_out_of_the_name_of_a_served_model():
    """A server cannot have the key shown as the name of its model."""

    def echo(exchange):
        seen = exchange.request.headers["authorization"]
        exchange.reply(200, {"data": [{"id": f"model-{seen}"}]})

    with AdversarialServer(models=echo) as server:
        chat = HuggingFaceChat(base_url=server.url, api_key=KEY)
        run(chat)
    assert KEY not in _visible(chat)


@pytest.mark.parametrize(
    "text",
    [f"x {KEY} y", f"x {TOKEN} y", "Bearer abc", "sk-abcdefghijklmnop", "gsk_abcdefghijklmnop"],
)
def test_what_looks_like_a_key_is_hidden(text):
    """Known keys, and those that can be guessed at, are taken out of a text."""
    shown = redact(text, [KEY, None, ""])
    assert "[hidden]" in shown
    assert not any(secret in shown for secret in (KEY, TOKEN, "abc"))


def test_ordinary_text_is_not_hidden():
    """Taking keys out leaves the rest of a message as it was."""
    text = "m at 127.0.0.1:8080: HTTP 503: the API is over-loaded; ask the bearer of the news"
    assert redact(text, [KEY]).startswith("m at 127.0.0.1:8080: HTTP 503: the API is over-loaded")
    names = (
        "hf-mistral-7b-instruct-v2, api_gateway_model_3b, hf_transformers_utils, sk_learning_rate"
    )
    assert redact(names, [KEY]) == names


# Copies.


def _key_of_environment():
    return os.environ["LLM_TEST_KEY"]


def test_a_key_does_not_travel_with_a_pickle():
    """An unpickled adapter raises an error about its missing key."""
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url, api_key=KEY)
        copied = pickle.loads(pickle.dumps(chat))
        with pytest.raises(ChatRefusedError, match="not pickled") as caught:
            run(copied)
        assert not server.requests
        twice = pickle.loads(pickle.dumps(copied))
        with pytest.raises(ChatRefusedError, match="not pickled"):
            run(twice)
        run(chat)
    assert caught.value.kind == "key not pickled"


def test_a_function_for_a_key_travels_with_a_pickle(monkeypatch):
    """A module's function finds the key again on the other side."""
    monkeypatch.setenv("LLM_TEST_KEY", KEY)
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url, api_key=_key_of_environment)
        pickled = pickle.dumps(chat)
        run(pickle.loads(pickled))
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY.encode() not in pickled


def test_an_adapter_without_key_travels_with_a_pickle():
    """Where there is no key, none is missed; options travel, connections do not."""
    with AdversarialServer("hang") as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=0.2)

        async def call_and_pickle(chat):
            with pytest.raises(ChatUnavailableError):
                await chat.complete(ask(), seed=1)
            return pickle.loads(pickle.dumps(chat))

        copied = run(chat, call_and_pickle)
        assert repr(copied) == repr(chat)
        with pytest.raises(ChatUnavailableError, match=r"0\.2 s"):
            run(copied)


def test_a_copy_in_the_process_keeps_the_key():
    """Optuna copies what it is given: copies call as the original does."""
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url, api_key=KEY)

        async def copy_in_use(chat):
            await chat.complete(ask(), seed=1)
            return copy.deepcopy({"chat": chat})["chat"]

        run(run(chat, copy_in_use))
        assert [r.headers["authorization"] for r in server.requests] == [f"Bearer {KEY}"] * 2


# Constraints.


def _format_type(request):
    return request.body.get("response_format", {}).get("type")


def _knows(*formats, status=422):
    """Answer requests with one of these formats; refuse others."""

    def behave(exchange):
        known = _format_type(exchange.request) in formats
        return (good("{}") if known else failing(status))(exchange)

    return behave


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    ("known", "first", "second"),
    [
        ("json_schema", ["json_schema"], ["json_schema"]),
        ("json_object", ["json_schema", "json_object"], ["json_object"]),
        (None, ["json_schema", "json_object", None], [None]),
    ],
)
def test_a_schema_is_sent_in_a_format_that_the_server_knows(known, first, second, status):
    """Formats are tried until one is not refused, and the next call starts with that one."""
    with AdversarialServer(_knows(known, status=status)) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        assert run(chat, schema=SCHEMA).text == "{}"
        assert [_format_type(r) for r in server.requests] == first
        run(chat, schema=SCHEMA)
        assert [_format_type(r) for r in server.requests] == first + second


def test_a_schema_arrives_where_servers_look_for_it():
    """OpenAI's format holds the schema under a name, the other under both names in use."""
    with AdversarialServer(_knows("json_object")) as server:
        run(HuggingFaceChat("m", base_url=server.url), schema=SCHEMA)
        first, second = (r.body["response_format"] for r in server.requests)
    assert first["json_schema"]["schema"] == json.loads(SCHEMA)
    assert first["json_schema"]["name"]
    assert second["value"] == second["schema"] == json.loads(SCHEMA)


def test_a_refusal_without_constraint_is_a_refusal():
    """Where even the plain request is refused, it is the request that is at fault."""
    with AdversarialServer("status_422") as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        with pytest.raises(ChatRefusedError) as caught:
            run(chat, schema=SCHEMA)
        assert [_format_type(r) for r in server.requests] == ["json_schema", "json_object", None]
        # Nothing was learned about formats.
        with pytest.raises(ChatRefusedError):
            run(chat, schema=SCHEMA)
        assert _format_type(server.requests[3]) == "json_schema"
    assert caught.value.kind == "HTTP 422"


@pytest.mark.parametrize("behaviour", ["status_401", "status_429", "status_500", "html"])
def test_other_failures_do_not_change_the_format(behaviour):
    """An overloaded server, or a wrong key, says nothing about constraints."""
    with AdversarialServer([behaviour, "good"]) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        with pytest.raises(ChatError):
            run(chat, schema=SCHEMA)
        run(chat, schema=SCHEMA)
        assert [_format_type(r) for r in server.requests] == ["json_schema", "json_schema"]


def test_status_500_about_response_format_is_a_refusal():
    """llama-cpp-python fails with 500 at a format that it does not know, and names it."""
    over_format = body({"error": "1 validation error: body.response_format.type"}, 500)
    with AdversarialServer([over_format, "good"]) as server:
        run(HuggingFaceChat("m", base_url=server.url), schema=SCHEMA)
        assert [_format_type(r) for r in server.requests] == ["json_schema", "json_object"]


def test_requests_without_schema_do_not_change_the_format():
    """Plain calls in between change nothing for the constrained ones."""
    with AdversarialServer(_knows("json_object", None)) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        for schema in (None, SCHEMA, None, SCHEMA):
            run(chat, schema=schema)
        formats = [_format_type(r) for r in server.requests]
    assert formats == [None, "json_schema", "json_object", None, "json_object"]


def test_all_formats_share_one_timeout():
    """A slow server does not get the timeout anew for each format."""

    async def slow(exchange):
        await asyncio.sleep(0.3)
        failing(422)(exchange)

    # Three formats, each with a timeout of its own, would end with the last refusal.
    no_reply = pytest.raises(ChatUnavailableError, match="no reply within")
    with AdversarialServer(slow) as server, no_reply:
        run(HuggingFaceChat("m", base_url=server.url, timeout=0.5), schema=SCHEMA)


# Models that a server serves.


def test_a_server_is_asked_once_which_model_it_serves():
    """Without a model the server's own is used, and remembered."""
    with AdversarialServer() as server:
        chat = HuggingFaceChat(base_url=server.url)
        run(chat)
        run(chat)
        assert [r.body["model"] for r in server.chats] == ["served", "served"]
        assert len(server.requests) == 3
    assert "served" in repr(chat)


def test_a_named_model_is_not_looked_up():
    """No request is sent to look up a given model name."""
    with AdversarialServer() as server:
        run(HuggingFaceChat("m", base_url=server.url))
        run(HuggingFaceChat(base_url=server.url), model="m")
        assert {r.path for r in server.requests} == {"/v1/chat/completions"}


def test_tgi_says_which_model_it_serves_on_another_page():
    """Where there is no list of models, /info is read."""
    with AdversarialServer(models="status_404") as server:
        assert run(HuggingFaceChat(base_url=server.url), lambda c: c.served_models()) == (
            "served",
        )


def test_models_are_listed_in_the_order_of_the_server():
    """All that has a name is listed; what has none is passed over."""
    data = [{"id": "b"}, {"id": "a"}, {"id": None}, {"id": ""}, {"id": 7}, "c", None, {}]
    with AdversarialServer(models=body({"data": data})) as server:
        chat = HuggingFaceChat(base_url=server.url)
        assert run(chat, lambda c: c.served_models()) == ("b", "a")


SILENT = [
    "status_404",
    "status_503",
    "html",
    "empty_object",
    "json_null",
    "deep_nesting",
    "hang_up",
]


@pytest.mark.parametrize("behaviour", [*SILENT, "null_choices", "redirect", "no_utf8"])
def test_a_server_that_names_no_model_is_called_with_a_name_that_tgi_takes(behaviour):
    """Whatever the pages hold, the call itself is made; the list is a named error."""
    with AdversarialServer(models=behaviour, info=behaviour, health=behaviour) as server:
        chat = HuggingFaceChat(base_url=server.url)
        assert run(chat).text == "hi there"
        assert server.chats[0].body["model"] == "tgi"
        again = HuggingFaceChat(base_url=server.url)
        with pytest.raises(ChatUnavailableError) as caught:
            run(again, lambda c: c.served_models())
        assert isinstance(run(again, lambda c: c.info()), dict)
        assert isinstance(run(again, lambda c: c.healthy()), bool)
    assert caught.value.kind == "no model listed"


def test_health_is_what_the_server_says():
    """A server is healthy only if its health page returns 200."""
    for behaviour, expected in [("good", True), ("status_503", False), ("hang_up", False)]:
        with AdversarialServer(health=behaviour) as server:
            chat = HuggingFaceChat("m", base_url=server.url)
            assert run(chat, lambda c: c.healthy()) is expected
    assert run(HuggingFaceChat("m", base_url=server.url), lambda c: c.healthy()) is False


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass `model`"),
        ({"base_url": "ftp://h/x"}, "base_url"),
        ({"base_url": "h:8080"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "http://h h:80"}, "base_url"),
        ({"base_url": "http://h:80 80"}, "base_url"),
        ({"base_url": " http://h"}, "base_url"),
        ({"base_url": "http://h\n"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"base_url": "http://h:port"}, "base_url"),
        ({"base_url": "http://h:99999"}, "base_url"),
        ({"base_url": f"http://me:{TOKEN}@h:80"}, "user name or password"),
        ({"base_url": f"https://{TOKEN}@h:80"}, "user name or password"),
        ({"base_url": "http://h", "provider": "groq"}, "provider"),
        ({"base_url": "http://h", "bill_to": "org"}, "bill_to"),
        ({"model": "m", "timeout": 0}, "timeout"),
        ({"model": "m", "timeout": -1.0}, "timeout"),
        ({"model": "m", "timeout": float("nan")}, "timeout"),
        ({"model": "m", "concurrency": 0}, "concurrency"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    """The error names the argument and shows no key."""
    with pytest.raises(AgentTTSError, match=message) as caught:
        HuggingFaceChat(**arguments)
    assert TOKEN not in str(caught.value)


# Many calls, and event loops.


def test_no_more_calls_than_allowed_are_under_way():
    """The number of concurrent requests to the server is bounded."""
    with AdversarialServer(good(delay=0.02)) as server:

        async def many(chat):
            await asyncio.gather(*(chat.complete(ask(), seed=s) for s in range(1, 41)))

        run(HuggingFaceChat("m", base_url=server.url, concurrency=4), many)
        assert server.most_at_once == 4
        assert sorted(r.body["seed"] for r in server.requests) == list(range(1, 41))


def test_waiting_for_a_turn_is_outside_the_timeout():
    """Many calls through a narrow door take longer than the timeout, and none of them fails."""
    with AdversarialServer(good(delay=0.05)) as server:

        async def many(chat):
            started = time.monotonic()
            replies = await asyncio.gather(
                *(chat.complete(ask(), seed=s) for s in range(1, 201)), return_exceptions=True
            )
            return replies, time.monotonic() - started

        chat = HuggingFaceChat("m", base_url=server.url, concurrency=8, timeout=0.9)
        replies, took = run(chat, many)
        assert server.most_at_once <= 8
    assert took > 0.9
    assert [r for r in replies if not isinstance(r, Completion)] == []


def test_calls_that_fail_or_are_cancelled_give_their_turn_back():
    """After many failures and cancellations as many calls as ever can be under way."""
    with AdversarialServer(["hang"] * 2 + ["reset"] * 4 + [good(delay=0.02)]) as server:

        async def many(chat):
            tasks = [asyncio.ensure_future(chat.complete(ask(), seed=1)) for _ in range(4)]
            while len(server.requests) < 2:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _ in range(4):
                with pytest.raises(ChatUnavailableError):
                    await chat.complete(ask(), seed=1)
            calls = (chat.complete(ask(), seed=1) for _ in range(8))
            return await asyncio.wait_for(asyncio.gather(*calls), 5)

        chat = HuggingFaceChat("m", base_url=server.url, concurrency=2, timeout=2)
        assert len(run(chat, many)) == 8


def test_calls_that_wait_when_connections_are_closed_make_new_ones():
    """Closing the connections fails waiting calls with a `ChatError` at most."""
    with AdversarialServer(good(delay=0.1)) as server:

        async def close_meanwhile(chat):
            calls = [asyncio.ensure_future(chat.complete(ask(), seed=s)) for s in range(1, 5)]
            while not server.requests:
                await asyncio.sleep(0.01)
            await chat.aclose()
            return await asyncio.gather(*calls, return_exceptions=True)

        chat = HuggingFaceChat("m", base_url=server.url, concurrency=1)
        replies = run(chat, close_meanwhile)
    assert [r for r in replies if not isinstance(r, (Completion, ChatError))] == []


def _no_warnings_in(work):
    """Run something; whatever it leaves open is an error."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        result = work()
        gc.collect()
    assert [str(w.message) for w in caught if issubclass(w.category, ResourceWarning)] == []
    return result


def test_one_adapter_serves_several_event_loops():
    """Connections belong to a loop; the next loop gets its own, and nothing stays open."""
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        texts = _no_warnings_in(lambda: [run(chat).text for _ in range(3)])
    assert texts == ["hi there"] * 3


def test_connections_are_used_again_within_a_loop():
    """Closing drops the connections of this loop; a call after it makes new ones."""
    with AdversarialServer() as server:

        async def calls(chat):
            for _ in range(3):
                await chat.complete(ask(), seed=1)
            await chat.aclose()
            await chat.aclose()
            return await chat.complete(ask(), seed=1)

        assert _no_warnings_in(lambda: run(HuggingFaceChat("m", base_url=server.url), calls)).text


def test_one_adapter_serves_a_thread_with_a_loop():
    """Synchronous callers reach servers through a loop in another thread."""
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url)

        def work():
            loop = LoopThread()
            futures = [loop.submit(chat.complete(ask(), seed=s)) for s in range(1, 10)]
            replies = [future.result(5) for future in futures]
            loop.run(chat.aclose())
            loop.close()
            again = loop.run(chat.complete(ask(), seed=1))
            loop.run(chat.aclose())
            loop.close()
            return [*replies, again]

        assert len(_no_warnings_in(work)) == 10


def test_a_coroutine_that_exits_does_not_stop_the_loop():
    """The caller gets the exception instead of waiting forever, and other coroutines go on."""
    loop = LoopThread()

    async def leave():
        await asyncio.sleep(0)
        raise SystemExit(3)

    async def nested():
        await gather([leave(), asyncio.sleep(60)])

    other = loop.submit(asyncio.sleep(0.1, "done"))
    for coroutine in (leave(), nested()):
        with pytest.raises(SystemExit):
            loop.submit(coroutine).result(5)
    assert other.result(5) == "done"
    assert loop.run(asyncio.sleep(0, "again")) == "again"
    loop.close()


def test_a_stopped_thread_does_not_wait_for_a_hanging_server():
    """Closing the loop cuts off what is under way."""
    with AdversarialServer("hang") as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=60)
        loop = LoopThread()
        future = loop.submit(chat.complete(ask(), seed=1))
        deadline = time.monotonic() + 5
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        started = time.monotonic()
        loop.close()
        assert time.monotonic() - started < 2
        assert future.cancelled()


def test_retries_get_through_a_server_that_fails_at_first():
    """With patience, a server that is overloaded, then slow, then broken, is served by."""
    script = ["status_429_now", "hang", "html", "reset", good("at last")]
    with AdversarialServer(script) as server:
        inner = HuggingFaceChat("m", base_url=server.url, timeout=0.8)
        chat = RetryingChatModel(inner, policy=RetryPolicy(attempts=5, base=0.001))

        async def call(_):
            return await chat.complete(ask(), seed=3)

        # Four consecutive failures open the circuit by default.
        with pytest.raises(ChatUnavailableError, match="circuit open"):
            run(inner, call)
        assert dict(chat.failures) == {
            "HTTP 429": 1,
            "timeout": 1,
            "no JSON": 1,
            "ReadError": 1,
            "circuit open": 1,
        }
        assert run(inner).text == "at last"
