"""Endpoints: places, names at servers, identities, limits of concurrency."""

import asyncio
import pickle

import pytest
from pipeline_support import Replies, Slow, objective_of

from optuna_agenttts import AgentTTSError, Model, Stage, Task
from optuna_agenttts.llm import (
    ChatRequest,
    HuggingFaceChat,
    Message,
    RetryingChatModel,
)
from optuna_agenttts_integrations import Endpoint, Pipeline, PipelineError, StageProgram
from optuna_agenttts_integrations.calls.endpoints import RenamedChatModel, connect_endpoints
from optuna_agenttts_integrations.calls.replicas import ReplicatedChatModel
from optuna_agenttts_integrations.testing.serving import LoopbackServer

URL = "http://127.0.0.1:8080"
OTHER = "http://127.0.0.1:8081"


def one(place, **options):
    """Return the endpoint of model ``m`` at a place."""
    return connect_endpoints(["m"], place, **options)["m"]


class Recording(LoopbackServer):
    """Server that records request bodies and the maximum number of requests in progress."""

    def __init__(self, chats, **options):
        super().__init__(chats, **options)
        self.bodies, self.now, self.most = [], 0, 0

    async def _chat(self, values):
        self.bodies.append(values)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super()._chat(values)
        finally:
            self.now -= 1


# Places.


def test_inference_providers():
    """By default Hugging Face selects the provider; the place may name one."""
    for place, provider in (("hf", None), ("hf:groq", "groq"), ("hf:", None)):
        endpoint = one(place, bill_to="us", timeout=7)
        chat = endpoint.chat
        assert isinstance(chat, HuggingFaceChat)
        assert (chat.model, chat._provider, chat.base_url) == ("m", provider, None)
        assert (chat._bill_to, chat._timeout) == ("us", 7)
        assert endpoint.concurrency == 8
    identities = [one(place).identity for place in ("hf", "hf:groq", "hf:")]
    assert identities == ["m at hf", "m at hf:groq", "m at hf"]
    first, second, other = (one(place).concurrency_group for place in ("hf", "hf:", "hf:groq"))
    assert first == second != other
    assert connect_endpoints("m")["m"].identity == "m at hf"


def test_a_url():
    """A URL without ``#`` requests the model by the name in the task."""
    endpoint = one(URL, api_key="secret-key", timeout=3)
    assert isinstance(endpoint.chat, HuggingFaceChat)
    assert (endpoint.chat.model, endpoint.chat.base_url) == ("m", URL)
    assert endpoint.concurrency == 64
    assert "secret-key" not in f"{endpoint}"
    assert isinstance(one(f"{URL}#m").chat, HuggingFaceChat)
    assert one(f"{URL}#m").identity == endpoint.identity


def test_several_urls_share_the_load():
    """URLs are replicas, each with the full concurrency; duplicates count once."""
    endpoint = one([URL, OTHER, URL], concurrency=5)
    assert isinstance(endpoint.chat, ReplicatedChatModel)
    assert [chat.base_url for chat in endpoint.chat.replicas] == [URL, OTHER]
    assert endpoint.concurrency == 10
    assert one((OTHER, URL)).identity == endpoint.identity
    assert isinstance(one([URL]).chat, HuggingFaceChat)
    assert one([URL]).identity == one(URL).identity


def test_chat_models_and_endpoints_are_used_unchanged():
    """Chat models and endpoints need no server; a mapping names a place for each model."""
    chat, ready = Replies(str), Endpoint(chat=Replies(str), identity="mine")
    found = connect_endpoints(
        ["a", "b", "c", "a"], {"a": chat, "b": ready, "c": [URL, OTHER], "d": None}
    )
    assert list(found) == ["a", "b", "c"]
    assert found["a"].chat is chat
    assert found["a"].concurrency == 32
    assert found["b"] is ready
    assert one(chat, concurrency=3).concurrency == 3


def test_a_task_names_its_models():
    """Each is connected once, also if several stages use it."""
    models = [Model(name, parameters=1e9) for name in ("a", "b")]
    stages = [
        Stage(name, models=models, prompt_tokens=5, generation_tokens=5) for name in ("s", "t")
    ]
    found = connect_endpoints(Task(name="t", stages=stages, budget=1e9), URL)
    assert list(found) == ["a", "b"]
    assert found["a"].concurrency_group == found["b"].concurrency_group
    assert found["a"].identity != found["b"].identity


def test_a_model_without_a_place_is_named():
    """The error names all of them."""
    with pytest.raises(PipelineError, match="`places` lacks a, c: give a place"):
        connect_endpoints(["c", "b", "a"], {"b": URL})


@pytest.mark.parametrize("place", [None, 7, [], (), [URL, 5], {"m": None}, b"http", Replies])
def test_invalid_places_are_refused(place):
    """The error names the model and the valid kinds of places."""
    with pytest.raises(PipelineError, match=r"for 'm': give 'hf', the URL of a server"):
        connect_endpoints(["m"], place if isinstance(place, dict) else {"m": place})


@pytest.mark.parametrize(
    "place",
    [
        "localhost:8080",
        "HF",
        "ftp://host",
        "http://",
        "http://host:99999999",
        "http://host:port",
        "http://user:pass-word-9@host",
        [URL, "hf"],
    ],
)
def test_invalid_urls_are_refused(place):
    """The error comes before any request, and shows no password."""
    with pytest.raises(AgentTTSError, match="`base_url`") as caught:
        one(place)
    assert "pass-word-9" not in str(caught.value)


@pytest.mark.parametrize("place", ["hf", URL, [URL, OTHER], Replies(str)])
def test_a_concurrency_of_zero_is_refused(place):
    """Zero does not select the default."""
    with pytest.raises(PipelineError, match="`concurrency` must be at least 1, got 0"):
        one(place, concurrency=0)


# Identities.


def test_identities_distinguish_servers_and_hold_no_secrets():
    """Host, port and path are part of it; user name, password and query are not."""
    places = [
        URL,
        OTHER,
        "http://127.0.0.2:8080",
        "http://host",
        "https://host",
        "http://host:8080/gateway/one",
        "http://host:8080/gateway/two",
        [URL, OTHER],
        f"{URL}#x",
        f"{URL}#y",
        [f"{URL}#x", OTHER],
        [URL, f"{OTHER}#x"],
        "hf",
        "hf:groq",
    ]
    identities = [one(place).identity for place in places]
    assert len(set(identities)) == len(places)
    assert one(URL).identity != connect_endpoints(["n"], URL)["n"].identity
    hidden = one("http://host:8080/v1?key=hidden-word&x=1#m")
    assert hidden.identity == "m at host:8080"
    assert "hidden-word" not in f"{hidden.identity} {hidden.server} {hidden.concurrency_group}"


@pytest.mark.parametrize(
    "url",
    [
        "http://host:80",
        "http://host/",
        "http://HOST/v1",
        "http://host/v1/",
        "http://host/v1/chat/completions",
    ],
)
def test_one_server_has_one_identity(url):
    """All spellings of a URL have one identity and share one limit of concurrency."""
    assert one(url).identity == one("http://host").identity
    assert one(url).concurrency_group == one("http://host").concurrency_group


def test_chat_models_have_the_identity_of_their_url():
    """A `HuggingFaceChat` has the same identity as its URL."""

    def at(url):
        return HuggingFaceChat("m", base_url=url)

    assert one(at(URL)).identity == one(URL).identity != one(at(OTHER)).identity
    assert one(at(URL)).concurrency_group == one(URL).concurrency_group
    assert one(RetryingChatModel(at(URL))).identity == one(URL).identity
    assert one(RenamedChatModel(at(URL), "x")).identity == one(f"{URL}#x").identity
    assert one(ReplicatedChatModel([at(URL), at(OTHER)])).identity == one([URL, OTHER]).identity
    assert one(HuggingFaceChat("m", provider="groq")).identity == one("hf:groq").identity
    mixed = ReplicatedChatModel([at(URL), Replies(str)])
    assert one(mixed).identity == "ReplicatedChatModel:m"
    assert one(Replies(str)).identity == "Replies:m"


# On the wire.


def ask(endpoint):
    """Request a completion by the model's name in the task."""
    request = ChatRequest(
        model="m", messages=(Message("user", "hi"),), max_tokens=5, temperature=0.7
    )

    async def work():
        reply = await endpoint.chat.complete(request, seed=5)
        await endpoint.chat.aclose()
        return reply.text

    return asyncio.run(work())


def test_requests_use_the_name_at_the_server():
    """The name after ``#`` is sent, also by replicas and after pickling."""
    chat = Replies(lambda *_: "fine")
    with (
        Recording({"org/there-v2": chat}) as server,
        Recording({"m": Replies(lambda *_: "fine too")}) as plain,
    ):
        renamed = one(f"{server.url}#org/there-v2")
        assert ask(renamed) == "fine"
        assert ask(pickle.loads(pickle.dumps(renamed))) == "fine"
        both = one([f"{server.url}#org/there-v2", plain.url])
        assert ask(both) == "fine"
        server.stop()
        assert ask(both) == "fine too"
    assert [body["model"] for body in server.bodies] == ["org/there-v2"] * 3
    assert {body["seed"] for body in server.bodies + plain.bodies} == {5}
    assert [body["model"] for body in plain.bodies] == ["m"]


@pytest.mark.slow
def test_models_of_one_server_share_its_concurrency():
    """Three models with a concurrency of 4 never have more than 4 requests in progress."""
    names = ("a", "b", "c")
    stages = [
        StageProgram(name=name, prompt=lambda state, n=name: f"{n} {state.instance}")
        for name in names
    ]
    pipeline = Pipeline(stages=stages, score=lambda state: 1.0)
    allocation = {name: (name, 5) for name in names}
    with Recording({name: Slow(lambda *_: "fine") for name in names}) as server:
        for concurrency in (4, 9):
            server.most = 0
            found = connect_endpoints(names, server.url, concurrency=concurrency)
            with objective_of(pipeline, found, range(20)) as objective:
                evaluation = objective.evaluate(allocation)
            assert evaluation.failed == 0
            assert server.most == concurrency


def test_in_process_endpoints_share_no_concurrency():
    """Chat models in process do not wait for each other."""
    chat = Slow(lambda *_: "fine")
    stages = [
        StageProgram(name=name, prompt=lambda state, n=name: f"{n} {state.instance}")
        for name in ("s", "t")
    ]
    pipeline = Pipeline(stages=stages, score=lambda state: 1.0)
    found = connect_endpoints(["a", "b"], dict.fromkeys("ab", chat), concurrency=3)
    # Some instances are in the second stage while others are in the first.
    with objective_of(pipeline, found, range(24)) as objective:
        objective.evaluate({"s": ("a", 2), "t": ("b", 2)})
    assert 3 < chat.most <= 6


def test_omitted_parameters_and_headers_reach_the_chat_models():
    """Samples without a temperature have keys of their own; seeds and names do not matter."""
    url = "http://127.0.0.1:8080"

    def identity(place, **forms):
        endpoints = connect_endpoints(["m"], place, request_parameters=forms, headers={"a": "b"})
        assert endpoints["m"].chat.request_parameters == forms
        return endpoints["m"].identity

    for place in (url, "hf:groq"):
        plain = identity(place)
        assert identity(place, seed=None, max_tokens="max_completion_tokens") == plain
        assert identity(place, temperature=None) == f"{plain} without temperature"
    renamed = connect_endpoints(["m"], f"{url}#x", request_parameters={"stop": None})["m"]
    assert renamed.identity == "m at 127.0.0.1:8080#x without stop"


def test_limits_and_waiting_apply_beside_parameters_of_requests():
    """No argument of a place displaces another one."""
    places = {"a": "http://127.0.0.1:8080", "b": "hf:groq"}
    found = connect_endpoints(
        ["a", "b"],
        places,
        starting=True,
        requests_per_minute=7,
        tokens_per_minute=900,
        request_parameters={"seed": None},
    )
    for endpoint in found.values():
        assert (endpoint.requests_per_minute, endpoint.tokens_per_minute) == (7, 900)
        assert endpoint.chat.request_parameters == {"seed": None}
    assert [found[name].chat._starting for name in places] == [True, False]
    assert connect_endpoints(["a"], found["a"])["a"] is found["a"]
