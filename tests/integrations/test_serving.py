"""Loopback server: requests, refusals, limits and faults."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time

import pytest
from pipeline_support import side_by_side

from optuna_agenttts.llm import (
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    HuggingFaceChat,
    Message,
    ScriptedChatModel,
    Usage,
)
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.testing.serving import (
    FAULTS,
    Faults,
    HttpServer,
    LoopbackServer,
    ServerLimits,
)

CHAT = "/v1/chat/completions"
BODY = {"model": "a", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 5}


class Recording:
    """Chat model that answers with its name and the seed, and records requests."""

    def __init__(self, name="a", usage=None):
        self.name, self.seen = name, []
        self.usage = Usage(7, 2) if usage is None else usage

    async def complete(self, request, *, seed):
        self.seen.append((request, seed))
        return Completion(f"{self.name} {seed}", self.usage)


class Raising:
    """Chat model that raises an error."""

    def __init__(self, error):
        self.error = error

    async def complete(self, request, *, seed):
        raise self.error


def call(server, path, body=None, method=None):
    """Make a request on a new connection; return status, headers and decoded body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method or ("GET" if body is None else "POST"), path, data)
        reply = connection.getresponse()
        content = reply.read()
        return reply.status, reply.headers, json.loads(content) if content else None
    finally:
        connection.close()


def always(kind):
    """Return faults of one kind for every request."""
    return Faults(rate=1, kinds=[kind])


@pytest.mark.parametrize("dialect", ["openai", "tgi"])
def test_requests_reach_the_chat_model_unchanged(dialect):
    """Request, seed, text, usage and finish reason survive both dialects."""
    asked = ChatRequest(
        model="a",
        messages=(Message("system", "be brief"), Message("user", "héllo\n\u2028")),
        max_tokens=9,
        temperature=0.5,
        stop=("\n", "END"),
        schema='{"type": "object"}',
    )
    chat = Recording()
    with LoopbackServer({"a": chat}, dialect=dialect) as server:
        client = HuggingFaceChat("a", base_url=server.url, timeout=10)
        loop = LoopThread(client.aclose)
        reply = loop.run(client.complete(asked, seed=77))
        loop.close()
    assert chat.seen == [(asked, 77)]
    assert reply == Completion("a 77", Usage(7, 2), "stop")


def test_models_are_selected_by_name():
    """In OpenAI's dialect a name selects its model, and other names are refused."""
    with LoopbackServer({name: Recording(name) for name in "ab"}) as server:
        for name in "ab":
            status, _, reply = call(server, CHAT, {**BODY, "model": name, "seed": 3})
            assert (status, reply["model"]) == (200, name)
            assert reply["choices"][0]["message"]["content"] == f"{name} 3"
        for wrong in ({"model": "c"}, {"model": None}, {"model": ["a"]}):
            assert call(server, CHAT, {**BODY, **wrong})[0] == 404
        assert [m["id"] for m in call(server, "/v1/models")[2]["data"]] == ["a", "b"]
        assert call(server, "/health")[::2] == (200, None)
        assert call(server, "/info")[0] == 404
        assert server.served == {CHAT: 5, "/v1/models": 1, "/health": 1, "/info": 1}


def test_generate_route_of_tgi():
    """TGI's own route takes a plain prompt, and is greedy by default."""
    chat = Recording()
    with LoopbackServer({"a": chat}, dialect="tgi") as server:
        parameters = {"max_new_tokens": 4, "seed": 5, "stop": ["x"], "details": True}
        reply = call(server, "/generate", {"inputs": "hi", "parameters": parameters})[2]
    assert (reply["generated_text"], reply["details"]["generated_tokens"]) == ("a 5", 2)
    asked = ChatRequest(
        model="a", messages=(Message("user", "hi"),), max_tokens=4, temperature=0.0, stop=("x",)
    )
    assert chat.seen == [(asked, 5)]


def test_errors_of_the_chat_model_have_their_statuses():
    """Unavailable: 503 with Retry-After; refused: 422; any other exception: 424."""
    cases = (
        (ChatUnavailableError("busy", retry_after=2.5), 503, "healthcheck"),
        (ChatRefusedError("too long"), 422, "validation"),
        (ChatError("no text"), 424, "generation"),
        (IndexError("the script has ended"), 424, "generation"),
    )
    for error, status, error_type in cases:
        with LoopbackServer({"a": Raising(error)}) as server:
            found, headers, body = call(server, CHAT, BODY)
        assert (found, body["error_type"]) == (status, error_type)
        assert str(error) in body["error"]
        assert headers["retry-after"] == ("2.5" if status == 503 else None)


def test_usage_is_counted_if_the_model_reports_none():
    """Words are counted unless a counter is given; a reported usage is passed on."""
    by_letter = ServerLimits(count=len)
    for usage, limits, expected in (
        (Usage(7, 2), ServerLimits(), (7, 2)),
        (Usage(0, 0), ServerLimits(), (3, 2)),
        (Usage(0, 0), by_letter, (13, 3)),
    ):
        with LoopbackServer({"a": Recording(usage=usage)}, limits=limits) as server:
            counted = call(server, CHAT, {**BODY, "seed": 1})[2]["usage"]
        assert (counted["prompt_tokens"], counted["completion_tokens"]) == expected
        assert counted["total_tokens"] == sum(expected)


@pytest.mark.parametrize("dialect", ["openai", "tgi"])
def test_limits_are_enforced_and_reported(dialect):
    """A request at a limit passes, and one beyond it is refused with 422."""
    limits = ServerLimits(max_input_tokens=6, max_total_tokens=10, max_stop_sequences=1)
    chat = Recording()
    with LoopbackServer({"a": chat}, dialect=dialect, limits=limits) as server:

        def status(words, tokens, **more):
            messages = [{"role": "user", "content": "w " * words}]
            body = {"model": "a", "messages": messages, "max_tokens": tokens, **more}
            return call(server, CHAT, body)[0]

        assert [status(6, 4), status(1, 9), status(6, None)] == [200] * 3
        assert [status(6, 5), status(1, 10), status(7, 1), status(7, None)] == [422] * 4
        assert [status(1, 1, stop=["x"]), status(1, 1, stop=["x", "y"])] == [200, 422]
        # A single string is a form of OpenAI's alone.
        assert status(1, 1, stop="x") == (200 if dialect == "openai" else 422)
        if dialect == "tgi":
            info = call(server, "/info")[2]
            assert (info["max_input_tokens"], info["max_total_tokens"]) == (6, 10)
            assert info["max_stop_sequences"] == 1
    assert chat.seen[2][0].max_tokens == 4


def test_too_many_concurrent_requests_are_answered_429():
    """Requests in progress complete, and later ones are accepted again."""
    limits = ServerLimits(max_concurrent_requests=2)
    found = []

    async def until_refused(seconds):
        while len(found) < 3:
            await asyncio.sleep(0.005)

    slow = ScriptedChatModel(lambda request: "ok", delay=1, sleep=until_refused)
    with LoopbackServer({"a": slow}, limits=limits) as server:
        threads = [
            threading.Thread(target=lambda: found.append(call(server, CHAT, BODY)[0]))
            for _ in range(5)
        ]
        side_by_side(threads)
        assert sorted(found) == [200, 200, 429, 429, 429]
        assert call(server, CHAT, BODY)[0] == 200


@pytest.mark.parametrize("kind", ["429", "429 with Retry-After", "500", "503"])
def test_faults_that_are_statuses(kind):
    """Status, error type and header follow the name; the model is not called."""
    chat = Recording()
    with LoopbackServer({"a": chat}, faults=always(kind)) as server:
        status, headers, body = call(server, CHAT, BODY)
        assert server.served == {CHAT: 1, f"fault: {kind}": 1}
    types = {429: "overloaded", 500: "incomplete_generation", 503: "healthcheck"}
    assert (status, body["error_type"]) == (int(kind[:3]), types[status])
    assert headers["retry-after"] == ("0" if "Retry" in kind else None)
    assert chat.seen == []


def test_hang_up_closes_without_a_reply():
    """The client receives no byte."""
    with (
        LoopbackServer({"a": Recording()}, faults=always("hang-up")) as server,
        pytest.raises(http.client.RemoteDisconnected),
    ):
        call(server, CHAT, BODY)


def test_slow_replies_are_late_and_correct():
    """The delay is at least 0.2 s."""
    with LoopbackServer({"a": Recording()}, faults=always("slow")) as server:
        start = time.monotonic()
        assert call(server, CHAT, BODY)[0] == 200
    assert time.monotonic() - start >= 0.2


def test_drip_arrives_in_pieces_and_is_complete():
    """The pieces take about 0.2 s, and the connection stays usable."""
    with LoopbackServer({"a": Recording()}, faults=always("drip")) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for _ in range(2):
            connection.request("POST", CHAT, json.dumps({**BODY, "seed": 1}))
            start = time.monotonic()
            reply = connection.getresponse()
            length, pieces = int(reply.headers["content-length"]), []
            while sum(map(len, pieces)) < length:
                pieces.append(reply.read1())
            assert time.monotonic() - start >= 0.15
            # A busy machine may deliver several at a time.
            assert len(pieces) >= 5
            text = json.loads(b"".join(pieces))["choices"][0]["message"]["content"]
            assert text == "a 1"
            assert reply.read() == b""
        connection.close()


def test_cut_breaks_in_the_middle_of_the_body():
    """The length header exceeds the body, and the model was called."""
    chat = Recording()
    with LoopbackServer({"a": chat}, faults=always("cut")) as server:
        with pytest.raises(http.client.IncompleteRead) as caught:
            call(server, CHAT, BODY)
        client = HuggingFaceChat("a", base_url=server.url, timeout=10)
        loop = LoopThread(client.aclose)
        request = ChatRequest(
            model="a", messages=(Message("user", "x"),), max_tokens=1, temperature=0.0
        )
        with pytest.raises(ChatUnavailableError):
            loop.run(client.complete(request, seed=1))
        loop.close()
    assert abs(len(caught.value.partial) - caught.value.expected) <= 1
    assert len(chat.seen) == 2


def test_faults_depend_on_the_seed_and_never_hit_get_requests():
    """Equal seeds give equal faults, and a rate of 0 gives none."""
    assert Faults().kinds == FAULTS
    assert {"drip", "cut"} < set(FAULTS)

    def statuses(faults):
        with LoopbackServer({"a": Recording()}, faults=faults) as server:
            found = [call(server, CHAT, BODY)[0] for _ in range(30)]
            assert all(call(server, "/health")[0] == 200 for _ in range(20))
        return found

    kinds = ["429", "500"]
    first = statuses(Faults(rate=0.5, kinds=kinds, seed=4))
    assert set(first) == {200, 429, 500}
    assert statuses(Faults(rate=0.5, kinds=kinds, seed=4)) == first
    assert statuses(Faults(rate=0)) == [200] * 30


def test_stop_breaks_connections_and_start_takes_the_same_port():
    """Requests in progress fail, new ones are refused until the server starts again."""
    waiting = ScriptedChatModel(lambda request: "ok", delay=30)
    with LoopbackServer({"a": waiting, "b": Recording("b")}) as server:
        port, lost = server.port, []

        def ask():
            try:
                lost.append(call(server, CHAT, BODY))
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not waiting.requests:
            time.sleep(0.01)
        idle = socket.create_connection(("127.0.0.1", port), timeout=5)
        for _ in range(3):
            server.stop()
            with pytest.raises(ConnectionRefusedError):
                call(server, "/health")
            server.start()
            assert server.port == port
            assert call(server, CHAT, {**BODY, "model": "b"})[0] == 200
        thread.join(timeout=5)
        assert isinstance(lost[0], Exception)
        with idle, contextlib.suppress(ConnectionResetError):
            assert idle.recv(1) == b""
        assert server.served[CHAT] == 4


def test_a_server_can_be_entered_again():
    """It has a new event loop and the same port."""
    server = LoopbackServer({"a": Recording()}, embed=lambda texts: [[1.0]] * len(texts))
    for _ in range(2):
        with server:
            assert call(server, CHAT, BODY)[0] == 200
            assert call(server, "/v1/embeddings", {"input": "x"})[0] == 200


@pytest.mark.parametrize("dialect", ["openai", "tgi"])
def test_served_as_is_the_reported_name(dialect):
    """Lists and replies have that name, and requests by both names are answered."""
    chat = Recording("a")
    with LoopbackServer({"a": chat}, dialect=dialect, served_as="b") as server:
        assert [m["id"] for m in call(server, "/v1/models")[2]["data"]] == ["b"]
        for name in "ab":
            reply = call(server, CHAT, {**BODY, "model": name, "seed": 1})[2]
            assert reply["model"] == "b"
            assert reply["choices"][0]["message"]["content"] == "a 1"
        assert call(server, CHAT, {**BODY, "model": "c"})[0] == (404, 200)[dialect == "tgi"]
        if dialect == "tgi":
            assert call(server, "/info")[2]["model_id"] == "b"
    assert {request.model for request, _ in chat.seen} == {"a"}


def test_embeddings_have_openais_form():
    """One vector for each text, in order, with usage; a text alone counts as a list of one."""
    calls = []

    def embed(texts):
        calls.append(list(texts))
        return [[len(text), 0.5] for text in texts]

    with LoopbackServer({}, embed=embed) as server:
        reply = call(server, "/v1/embeddings", {"model": "e", "input": ["ab c", "d"]})[2]
        assert reply == {
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [4.0, 0.5]},
                {"object": "embedding", "index": 1, "embedding": [1.0, 0.5]},
            ],
            "model": "e",
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }
        single = call(server, "/v1/embeddings", {"model": "e", "input": "d"})[2]
        assert single["data"][0]["embedding"] == [1.0, 0.5]
        for wrong in ([], "", [""], [1, 2], None, "w " * 32001):
            assert call(server, "/v1/embeddings", {"input": wrong})[0] == 422
        assert call(server, CHAT, BODY)[0] == 404
    assert calls == [["ab c", "d"], ["d"]]


def test_embeddings_need_a_function_that_keeps_its_word():
    """404 without one; 424 when it gives another number of vectors."""
    with LoopbackServer({"a": Recording()}) as server:
        assert call(server, "/v1/embeddings", {"input": "x"})[0] == 404
    with LoopbackServer({"a": Recording()}, embed=lambda texts: []) as server:
        assert call(server, "/v1/embeddings", {"input": "x"})[0] == 424


def exchange(server, sent):
    """Return everything that a server sends in reply to some bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received


def test_http_is_spoken_with_care():
    """Versions, connections, methods, lengths and sizes as RFC 9112 has them."""
    with LoopbackServer({"a": Recording()}) as server:
        get = b"GET /health?x=1 HTTP/1.%d\r\n%s\r\n"
        assert exchange(server, get % (0, b"")).startswith(b"HTTP/1.1 200 OK")
        close = b"Connection: close\r\n"
        twice = exchange(server, get % (1, b"") + get % (1, close))
        assert twice.count(b"HTTP/1.1 200 OK") == 2
        for sent, status in (
            (b"nonsense\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
            (b"PUT / HTTP/1.1\r\n" + close + b"\r\n", b"405"),
        ):
            assert exchange(server, sent).startswith(b"HTTP/1.1 " + status)
        content = json.dumps(BODY).encode()
        length = b"Content-Length: %d\r\nExpect: 100-continue\r\n" % len(content)
        said = exchange(
            server, b"POST %s HTTP/1.1\r\n" % CHAT.encode() + length + close + b"\r\n" + content
        )
        assert said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        head = exchange(server, b"HEAD /health HTTP/1.1\r\n" + close + b"\r\n")
        assert head.endswith(b"\r\n\r\n")
        long = {**BODY, "messages": [{"role": "user", "content": "x" * 20_000_000}]}
        assert call(server, CHAT, long)[0] == 413
        # Clients that disconnect during a request do not disturb the server.
        socket.create_connection(("127.0.0.1", server.port)).close()
        half = socket.create_connection(("127.0.0.1", server.port))
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
        half.close()
        assert call(server, "/health")[0] == 200


def test_a_connection_outlives_refusals():
    """Requests that are refused leave the next one on the same connection as it was."""
    with LoopbackServer({"a": Recording()}) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        statuses = []
        for path, body in ((CHAT, "{"), (CHAT, "[]"), ("/none", "{}"), (CHAT, json.dumps(BODY))):
            connection.request("POST", path, body)
            reply = connection.getresponse()
            reply.read()
            statuses.append((reply.status, reply.will_close))
        connection.close()
    assert statuses == [(422, False), (422, False), (404, False), (200, False)]


def test_many_connections_are_served_together():
    """Sixty-four callers of a model that takes a while wait about as long as one."""
    slow = ScriptedChatModel(lambda request: "ok", delay=0.3)
    with LoopbackServer({"a": slow}) as server:
        client = HuggingFaceChat("a", base_url=server.url, timeout=20, concurrency=64)
        request = ChatRequest(
            model="a", messages=(Message("user", "x"),), max_tokens=1, temperature=0.0
        )

        async def many():
            return await asyncio.gather(
                *(client.complete(request, seed=seed) for seed in range(1, 65))
            )

        loop = LoopThread(client.aclose)
        start = time.monotonic()
        assert {completion.text for completion in loop.run(many())} == {"ok"}
        # One after the other they would take 19 s.
        assert time.monotonic() - start < 15
        loop.close()


def test_a_subclass_writes_any_bytes_to_the_connection():
    """Requests arrive whole, header names in lower case; `serve` decides about the connection."""
    seen = []

    class Odd(HttpServer):
        async def serve(self, request, writer):
            seen.append(request)
            writer.write(b"HTTP/1.1 418 teapot\r\ncontent-length: 2\r\n\r\n[]")
            return len(seen) < 2

    with Odd() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for _ in range(2):
            connection.request("POST", "/x?y=1", b"body", {"X-Name": "value"})
            reply = connection.getresponse()
            assert (reply.status, reply.read()) == (418, b"[]")
        assert connection.sock.recv(1) == b""
        connection.close()
    assert [(r.method, r.path, r.headers["x-name"], r.content) for r in seen] == [
        ("POST", "/x", "value", b"body")
    ] * 2


def test_a_taken_port_is_reported():
    """As the system reports it; the server that has the port serves on."""
    with LoopbackServer({"a": Recording()}) as server:
        other = LoopbackServer({"a": Recording()}, port=server.port)
        with pytest.raises(OSError, match="address already in use"), other:
            pass
        other.__exit__()
        assert call(server, "/health")[0] == 200


def test_invalid_arguments_are_refused():
    """Before a port is taken."""
    chat = Recording()
    for wrong in (
        lambda: LoopbackServer({}),
        lambda: LoopbackServer({}, dialect="tgi", embed=lambda texts: []),
        lambda: LoopbackServer({"a": chat, "b": chat}, dialect="tgi"),
        lambda: LoopbackServer({"a": chat}, dialect="other"),
        lambda: LoopbackServer({"a": chat}, served_as=""),
        lambda: LoopbackServer({"a": chat, "b": chat}, served_as="c"),
        lambda: ServerLimits(max_input_tokens=10, max_total_tokens=10),
        lambda: ServerLimits(max_input_tokens=0),
        lambda: ServerLimits(max_concurrent_requests=0),
        lambda: ServerLimits(max_stop_sequences=-1),
        lambda: Faults(rate=-0.1),
        lambda: Faults(kinds=[]),
        lambda: Faults(kinds=["meteor"]),
    ):
        with pytest.raises(PipelineError):
            wrong()
