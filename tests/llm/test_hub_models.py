"""Models on the Hub, through Inference Providers that are redirected to this machine."""

import asyncio
import json
import time

import huggingface_hub.constants
import pytest
from huggingface_hub.inference import _providers as providers
from huggingface_hub.inference._providers import _common
from llm_support import BEHAVIOURS, AdversarialServer, ask, body, chat_reply
from recorded_thinking import groq_gpt_oss

from optuna_agenttts.llm import (
    ChatError,
    ChatRefusedError,
    ChatUnavailableError,
    HuggingFaceChat,
)
from optuna_agenttts.llm.thinking import FIELDS, thinking_fields

TOKEN = "hf_TheTokenOfTheUser123456"
KEY = "a-key.of-my_own/server+77"
SCHEMA = json.dumps({"type": "object", "properties": {"x": {"type": "number"}}})
MAPPING = {"groq": {"status": "live", "providerId": "mapped", "task": "conversational"}}


class HubServer(AdversarialServer):
    """The Hub, its router and a provider on one server."""

    def __init__(self):
        super().__init__()
        self.lookup = body({"id": "o/m", "inferenceProviderMapping": MAPPING})

    def _choose(self, path):
        return self.lookup if path.startswith("/api/models/") else super()._choose(path)

    def behave(self, behaviour):
        self._script = [BEHAVIOURS[behaviour] if isinstance(behaviour, str) else behaviour]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Redirect hosts, and nothing else, of huggingface_hub to this machine."""
    for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    groq = providers.PROVIDERS["groq"]["conversational"]
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "INFERENCE_PROXY_TEMPLATE", server.url + "/{provider}")
        monkeypatch.setattr(providers.CONVERSATIONAL_AUTO_ROUTER, "base_url", server.url)
        monkeypatch.setattr(groq, "base_url", f"{server.url}/direct")
        _common._fetch_inference_provider_mapping.cache_clear()
        yield server
        _common._fetch_inference_provider_mapping.cache_clear()


def call(chat, **options):
    async def work():
        try:
            return await chat.complete(ask(**options), seed=5)
        finally:
            await chat.aclose()

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (TOKEN, "/groq/openai/v1/chat/completions"),
        (KEY, "/direct/openai/v1/chat/completions"),
    ],
)
def test_a_provider_gets_the_request_its_name_of_the_model_and_the_bill(hub, key, path):
    """A key of Hugging Face goes to its router, a key of the provider to the provider."""
    chat = HuggingFaceChat("o/m", provider="groq", bill_to="org", api_key=key)
    assert call(chat, max_tokens=9, temperature=0.1, stop=("x",)).text == "hi there"
    call(chat)
    first, second = hub.chats
    assert [r.path for r in hub.requests].count("/api/models/o/m") == 1
    assert first.path == second.path == path
    assert first.headers["authorization"] == f"Bearer {key}"
    assert first.headers["x-hf-bill-to"] == "org"
    assert first.body == {
        "model": "mapped",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9,
        "temperature": 0.1,
        "seed": 5,
        "stop": ["x"],
        "stream": False,
    }


def test_the_token_of_the_user_goes_to_the_router_and_a_foreign_key_nowhere(hub, monkeypatch):
    """Without a provider, the router chooses; it takes keys of Hugging Face only."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    call(HuggingFaceChat("o/m"))
    (request,) = hub.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    with pytest.raises(ChatRefusedError) as caught:
        call(HuggingFaceChat("o/m", api_key=KEY))
    assert caught.value.kind == "ValueError"
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ChatRefusedError, match="api_key"):
        call(HuggingFaceChat("o/m", provider="groq"))
    assert [r.path for r in hub.chats] == ["/v1/chat/completions"]


def test_a_model_of_the_hub_looks_up_nothing(hub):
    """The pages of a server do not exist for the Hub."""

    async def look(chat):
        return await chat.served_models(), await chat.healthy(), await chat.info()

    assert asyncio.run(look(HuggingFaceChat("o/m"))) == (("o/m",), True, {})
    assert not hub.requests


@pytest.mark.parametrize(
    "behaviour",
    sorted(
        {name for name in BEHAVIOURS if name.startswith(("status_", "null_", "empty_", "echo"))}
        | {"good", "html", "hang_up", "reset", "reset_mid_body", "gzip_bomb", "no_http"}
        | {"megabytes", "parts_content", "huge_usage", "redirect", "error_in_200"}
    ),
)
def test_replies_through_the_hub_are_those_of_a_url(hub, behaviour):
    """One reply means the same on both paths, keys redacted."""
    hub.behave(behaviour)

    def outcome(chat):
        try:
            return call(chat)
        except ChatError as error:
            message = str(error).replace(chat.where, "").replace(KEY, "").replace("/openai", "")
            return type(error), error.kind, error.retry_after is None, error.usage, message

    by_hub = outcome(HuggingFaceChat("o/m", provider="groq", api_key=KEY))
    by_url = outcome(HuggingFaceChat("mapped", base_url=f"{hub.url}/direct", api_key=KEY))
    assert by_hub == by_url
    assert KEY not in repr(by_hub)


def test_formats_refused_by_a_provider_are_remembered(hub):
    """Negotiation is the same on both paths."""
    hub.behave(
        lambda exchange: BEHAVIOURS[
            "status_422"
            if exchange.request.body.get("response_format", {}).get("type") == "json_schema"
            else "good"
        ](exchange)
    )
    chat = HuggingFaceChat("o/m", provider="groq", api_key=TOKEN)
    call(chat, schema=SCHEMA)
    call(chat, schema=SCHEMA)
    kinds = [request.body["response_format"]["type"] for request in hub.chats]
    assert kinds == ["json_schema", "json_object", "json_object"]


def test_a_hub_that_hangs_is_cut_off(hub):
    """The timeout covers the whole call."""
    hub.behave("hang")
    started = time.monotonic()
    with pytest.raises(ChatUnavailableError) as caught:
        call(HuggingFaceChat("o/m", api_key=TOKEN, timeout=0.2))
    assert time.monotonic() - started < 30
    assert caught.value.kind == "timeout"


def test_offline_mode_sends_nothing(hub, monkeypatch):
    """`HF_HUB_OFFLINE` is named, and obeyed."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ChatRefusedError, match="HF_HUB_OFFLINE") as caught:
        call(HuggingFaceChat("o/m", api_key=TOKEN))
    assert caught.value.kind == "offline"
    assert not hub.requests


@pytest.mark.parametrize(
    ("mapping", "kind"), [({}, "ValueError"), ({"together": MAPPING["groq"]}, "ValueError")]
)
def test_a_provider_without_the_model_is_refused(hub, mapping, kind):
    """The message is that of huggingface_hub."""
    hub.lookup = body({"id": "o/m", "inferenceProviderMapping": mapping})
    with pytest.raises(ChatRefusedError) as caught:
        call(HuggingFaceChat("o/m", provider="groq", api_key=TOKEN))
    assert caught.value.kind == kind
    assert not hub.chats


def test_a_hub_that_fails_is_asked_again_at_the_next_call(hub):
    """A failed lookup is unavailable, not final."""
    lookup, hub.lookup = hub.lookup, BEHAVIOURS["status_503"]
    chat = HuggingFaceChat("o/m", provider="groq", api_key=TOKEN)
    with pytest.raises(ChatUnavailableError) as caught:
        call(chat)
    assert caught.value.kind == "HTTP 503"
    hub.lookup = lookup
    assert call(chat).text == "hi there"


def test_lookups_do_not_stop_the_event_loop(hub):
    """While the Hub is asked about a model, other calls go on."""
    answer = hub.lookup

    async def slow(exchange):
        await asyncio.sleep(0.6)
        answer(exchange)

    hub.lookup = slow
    gaps = []

    async def watch():
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - started)

    async def work():
        chat = HuggingFaceChat("o/m", provider="groq", api_key=TOKEN)
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(chat.complete(ask(), seed=seed) for seed in range(1, 9)))
        watching.cancel()
        await chat.aclose()

    asyncio.run(work())
    assert len(hub.chats) == 8
    assert max(gaps) < 0.4


def test_connections_are_used_again(hub):
    """Calls one after another share a connection, as those to a URL do."""
    peers = []

    def behave(exchange):
        peers.append(exchange._writer.get_extra_info("peername"))
        return BEHAVIOURS["good"](exchange)

    async def work():
        chat = HuggingFaceChat("o/m", provider="groq", api_key=TOKEN)
        for seed in range(1, 6):
            await chat.complete(ask(), seed=seed)
        await chat.aclose()

    hub.behave(behave)
    asyncio.run(work())
    assert len(peers) == 5
    assert len(set(peers)) == 1


def test_extra_fields_reach_a_provider_in_each_form_of_a_request(hub):
    """Negotiation changes other fields only."""
    hub._script = [body({"error": "json_schema is not supported"}, 400), BEHAVIOURS["good"]]
    chat = HuggingFaceChat("o/m", provider="groq", api_key=TOKEN)
    extra = {"reasoning_effort": "low"}
    call(chat, schema=SCHEMA, extra=json.dumps(extra))
    assert len(hub.chats) == 2
    assert all(sent.body["reasoning_effort"] == "low" for sent in hub.chats)


def test_efforts_reach_a_provider_in_the_fields_that_it_reads(hub):
    """As at a URL: a provider that refuses unknown fields gets one of them."""

    def behave(exchange):
        if refusal := groq_gpt_oss(exchange.request.body):
            exchange.reply(*refusal)
        else:
            exchange.reply(200, chat_reply("hi there"))

    hub.behave(behave)
    chat = HuggingFaceChat("o/m", provider="groq", api_key=TOKEN)
    assert call(chat, thinking="low").text == "hi there"
    assert set(FIELDS) & set(hub.chats[0].body) == set(thinking_fields("low", {}))
    assert set(FIELDS) & set(hub.chats[-1].body) == {"reasoning_effort"}
    assert chat.negotiated() == {"thinking": "reasoning_effort"}


def test_a_lookup_that_breaks_off_costs_no_prompt(hub):
    """No completion was requested, so none is billed."""
    hub.lookup = BEHAVIOURS["reset"]
    with pytest.raises(ChatUnavailableError) as caught:
        call(HuggingFaceChat("o/m", provider="groq", api_key=TOKEN))
    assert not caught.value.lost
    assert caught.value.usage is None
