"""Load balancing over several servers: choice of servers, backoff, and no lost calls."""

import asyncio
import copy
import itertools
import pickle
import threading
import time

import pytest
from pipeline_support import Clock, Replies, objective_of

from optuna_agenttts.llm import (
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    HuggingFaceChat,
    Message,
    Usage,
)
from optuna_agenttts_integrations import Pipeline, PipelineError, StageProgram
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.calls.replicas import ReplicatedChatModel
from optuna_agenttts_integrations.testing.serving import LoopbackServer

REQUEST = ChatRequest(model="m", messages=(Message("user", "hi"),), max_tokens=5, temperature=0.7)
GONE = ChatUnavailableError("gone", kind="ConnectError")


class Server:
    """Server that replies with the seed after a delay, or raises `error` if it is set."""

    def __init__(self, pause=0.0):
        self.pause, self.error, self.calls, self.most, self.now = pause, None, 0, 0, 0

    async def complete(self, request, *, seed):
        """Answer or fail."""
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.pause)
        finally:
            self.now -= 1
        if self.error is not None:
            raise self.error
        return Completion(f"seed {seed}", Usage(1, 1))


def ask(chat, count=1):
    """Make concurrent calls with seeds 1, 2, ...; return texts and errors."""

    async def work():
        calls = (chat.complete(REQUEST, seed=seed) for seed in range(1, count + 1))
        return await asyncio.gather(*calls, return_exceptions=True)

    return [getattr(reply, "text", reply) for reply in asyncio.run(work())]


def counts(servers):
    """Return the number of calls of each server."""
    return [server.calls for server in servers]


def test_load_is_spread_evenly():
    """Four servers get 16 of 64 concurrent calls each, and every seed has its reply."""
    servers = [Server(0.01) for _ in range(4)]
    assert ask(ReplicatedChatModel(servers), 64) == [f"seed {i}" for i in range(1, 65)]
    assert counts(servers) == [16] * 4
    assert [server.most for server in servers] == [16] * 4


def test_a_slow_server_gets_less():
    """Calls go to the server with the fewest in progress, which favors a fast one."""
    servers = [Server(0.2), Server(0.01)]
    chat = ReplicatedChatModel(servers)

    async def work():
        slots = asyncio.Semaphore(4)

        async def one(seed):
            async with slots:
                await chat.complete(REQUEST, seed=seed)

        await asyncio.gather(*(one(seed) for seed in range(1, 41)))

    asyncio.run(work())
    assert servers[1].calls > 3 * servers[0].calls


def test_a_dead_server_costs_no_call_and_is_avoided_for_a_while():
    """It is called once, then again after backoffs that double up to 30 seconds."""
    clock, servers = Clock(), [Server(), Server()]
    servers[0].error = GONE
    chat = ReplicatedChatModel(servers, clock=clock)
    asked = []
    for _ in range(200):
        before = servers[0].calls
        assert ask(chat) == ["seed 1"]
        if servers[0].calls > before:
            asked.append(clock.now)
        clock.now += 0.5
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert gaps == [1, 2, 4, 8, 16, 30, 30]
    assert servers[1].calls == 200


def test_concurrent_failures_count_once():
    """Calls in progress when a server fails do not lengthen its backoff."""
    clock, servers = Clock(), [Server(0.01), Server(0.01)]
    servers[0].error = GONE
    chat = ReplicatedChatModel(servers, clock=clock)
    assert ask(chat, 64) == [f"seed {i}" for i in range(1, 65)]
    assert counts(servers) == [32, 64]
    clock.now += 1.0
    ask(chat)
    assert servers[0].calls == 33


def test_a_server_that_comes_back_is_used_again():
    """After its backoff it gets its share, and its next failure has a short backoff again."""
    clock, servers = Clock(), [Server(0.001), Server(0.001)]
    chat = ReplicatedChatModel(servers, clock=clock)
    for error, pause in ((GONE, 1.0), (GONE, 2.0), (None, 0.0), (GONE, 1.0)):
        servers[0].error = error
        before = servers[0].calls
        ask(chat)
        assert servers[0].calls == before + 1
        clock.now += pause * 0.99
        if pause:
            ask(chat)
            assert servers[0].calls == before + 1
        clock.now += pause * 0.02
    servers[0].error = None
    before = counts(servers)
    ask(chat, 10)
    assert [now - was for now, was in zip(counts(servers), before)] == [5, 5]


def test_where_all_are_dead_the_error_is_raised():
    """A call tries each server once, and the error allows a retry."""
    servers = [Server() for _ in range(3)]
    for server in servers:
        server.error = GONE
    chat = ReplicatedChatModel(servers, clock=Clock())
    for repetition in (1, 2):
        (error,) = ask(chat)
        assert isinstance(error, ChatUnavailableError)
        assert counts(servers) == [repetition] * 3
    # While all servers are avoided, one that recovers is found.
    servers[2].error = None
    assert ask(chat) == ["seed 1"]


@pytest.mark.parametrize("error", [ChatRefusedError("too long"), ValueError("bug")])
def test_refusals_are_not_repeated_at_another_server(error):
    """A refusal or a bug is raised at once, and the server is not avoided."""
    servers = [Server(), Server()]
    servers[0].error = error
    chat = ReplicatedChatModel(servers, clock=Clock())
    assert ask(chat) == [error]
    assert counts(servers) == [1, 0]
    servers[0].error = None
    ask(chat)
    assert counts(servers) == [2, 0]


def test_cancelled_calls_are_not_in_progress():
    """Cancelled calls do not count for the choice of a server."""
    servers = [Server(0.05), Server(0.05)]
    chat = ReplicatedChatModel(servers, clock=Clock())

    async def work():
        tasks = [asyncio.ensure_future(chat.complete(REQUEST, seed=1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(chat.complete(REQUEST, seed=1) for _ in range(10)))

    asyncio.run(work())
    assert counts(servers) == [2 + 5, 1 + 5]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_start_afresh(clone):
    """Copies keep neither calls in progress nor backoffs."""
    chat = ReplicatedChatModel([Server(0.01), Server(0.01)])
    chat.replicas[0].error = GONE
    copies = []

    async def work():
        task = asyncio.ensure_future(chat.complete(REQUEST, seed=1))
        await asyncio.sleep(0.015)
        copies.append(clone(chat))
        await task

    asyncio.run(work())
    (twin,) = copies
    for server in twin.replicas:
        server.error, server.calls, server.now = None, 0, 0
    assert ask(twin, 10) == [f"seed {i}" for i in range(1, 11)]
    assert counts(twin.replicas) == [5, 5]


def test_replicas_over_http_are_closed_and_copied():
    """Copies open connections separately, and all are closed."""
    with LoopbackServer({"m": Replies(lambda *_: "fine")}) as server:
        chat = ReplicatedChatModel([HuggingFaceChat("m", base_url=server.url) for _ in range(2)])

        async def work():
            replies = []
            for one in (chat, copy.deepcopy(chat)):
                replies.append(await one.complete(REQUEST, seed=3))
                await one.aclose()
            return replies

        assert [reply.text for reply in asyncio.run(work())] == ["fine", "fine"]


def test_there_is_a_replica():
    """An empty sequence is refused."""
    with pytest.raises(PipelineError, match="`replicas` is empty"):
        ReplicatedChatModel([])


class BySeed:
    """Chat model that answers "yes" for some seeds, equally in every copy of the server."""

    async def complete(self, request, *, seed):
        """Answer."""
        await asyncio.sleep(0.01)
        return Completion("yes" if seed % 3 else "no", Usage(3, 1))


def test_a_server_that_stops_midway_costs_no_instance():
    """Scores with two servers, one of which stops for good, equal those with one server."""
    pipeline = Pipeline(
        stages=[
            StageProgram(name="s", prompt=lambda state: f"first {state.instance}", enough=None),
            StageProgram(
                name="t", prompt=lambda state: f"then {state.instance} {state['s']}", enough=None
            ),
        ],
        score=lambda state: (state["s"] == "yes") + 0.5 * (state["t"] == "yes"),
    )
    allocation = {"s": ("m", 3), "t": ("m", 4)}

    def evaluate(place):
        endpoint = connect_endpoints(["m"], place, concurrency=8, timeout=5)["m"]
        with objective_of(pipeline, {"m": endpoint}, range(60)) as objective:
            return objective.evaluate(allocation)

    with LoopbackServer({"m": BySeed()}) as alone:
        expected = evaluate(alone.url)
    with LoopbackServer({"m": BySeed()}) as lasting, LoopbackServer({"m": BySeed()}) as dying:

        def kill():
            while dying.served["/v1/chat/completions"] < 60:
                time.sleep(0.005)
            dying.stop()

        killer = threading.Thread(target=kill)
        killer.start()
        found = evaluate([dying.url, lasting.url])
        killer.join()
        served = [server.served["/v1/chat/completions"] for server in (dying, lasting)]
    assert found.failed == expected.failed == 0
    assert found.outcomes == expected.outcomes
    assert 60 <= served[0] < 200
    assert sum(served) >= 60 * 7


def test_a_server_that_others_replace_is_logged_once(caplog):
    """Not at every call."""
    up, down = Server(), Server()
    down.error = GONE
    clock = Clock()
    chat = ReplicatedChatModel([down, up], clock=clock)
    for _ in range(5):
        assert ask(chat) == ["seed 1"]
        clock.now += 100
    (record,) = caplog.records
    assert "A server is unavailable: gone" in record.getMessage()
