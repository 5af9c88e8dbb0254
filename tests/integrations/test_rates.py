"""Limits of requests and tokens a minute."""

import asyncio
import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_support import Clock

from optuna_agenttts.llm import ChatRequest, ChatUnavailableError, Completion, Message, Usage
from optuna_agenttts_integrations import PipelineError
from optuna_agenttts_integrations.calls.completions import Completions
from optuna_agenttts_integrations.calls.endpoints import Endpoint, connect_endpoints
from optuna_agenttts_integrations.calls.rates import RateLimit
from optuna_agenttts_integrations.calls.store import CompletionStore

REQUEST = ChatRequest(model="m", messages=(Message("user", "hi"),), max_tokens=50, temperature=0.7)
LONGEST = len("hi") + 32 + 50
"""Tokens that a call of `REQUEST` reserves."""


class Sleeping(Clock):
    """Clock that sleeping moves."""

    async def sleep(self, seconds):
        """Let time pass."""
        self.now += seconds
        await asyncio.sleep(0)


def windows(starts):
    """Yield, for each start, those within the 60 seconds that end with it."""
    return [[start for start in starts if end - 60 < start <= end] for end in starts]


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(0, 30)), min_size=1, max_size=12),
    st.integers(1, 8),
    st.integers(1, 1000),
)
@settings(max_examples=40)
def test_no_minute_has_more_requests_or_tokens_than_allowed(calls, requests, tokens):
    """Any 60 seconds are within both limits, except for requests that are too long themselves."""
    clock = Sleeping()
    limit = RateLimit("m", requests=requests, tokens=tokens, clock=clock, sleep=clock.sleep)

    async def work():
        found = []
        for size, pause in calls:
            clock.now += pause
            found.append(await limit.reserve(size))
        return found

    found = asyncio.run(work())
    assert [call.tokens for call in found] == [size for size, _ in calls]
    assert [call.start for call in found] == sorted(call.start for call in found)
    for last in found:
        inside = [call for call in found if last.start - 60 < call.start <= last.start]
        assert len(inside) <= requests
        assert sum(call.tokens for call in inside) <= tokens or len(inside) == 1


def test_requests_start_as_soon_as_the_limit_allows():
    """Without other limits, the n-th block of requests starts n minutes after the first."""
    clock = Sleeping()
    limit = RateLimit("m", requests=5, clock=clock, sleep=clock.sleep)

    async def work():
        return [(await limit.reserve(1)).start for _ in range(15)]

    first, *_ = starts = asyncio.run(work())
    expected = [0.0] * 5 + [60.0] * 5 + [120.0] * 5
    assert [start - first for start in starts] == pytest.approx(expected, abs=0.1)


class Server:
    """Server that notes the start of each call, and answers after a second of the clock."""

    def __init__(self, clock, outcomes=()):
        self.clock, self.starts, self.outcomes = clock, [], list(outcomes)

    async def complete(self, request, *, seed):
        """Answer, or raise the next outcome."""
        self.starts.append(self.clock.now)
        await self.clock.sleep(0.01)
        if self.outcomes:
            raise self.outcomes.pop(0)
        return Completion("text", Usage(10, 10))


def sample(count, *, outcomes=(), models=("m",), **limits):
    """Draw samples of each model through limited endpoints; returns servers and failures."""
    clock = Sleeping()
    servers = [Server(clock, outcomes) for _ in models]
    options = {"rng": random.Random(0), "sleep": clock.sleep, "clock": clock, "seed": 0}
    completions = Completions(store=CompletionStore(), **options)

    async def work():
        calls = (
            completions.sample(REQUEST, Endpoint(chat=s, identity=name, **limits), count)
            for name, s in zip(models, servers)
        )
        return await asyncio.gather(*calls)

    found = asyncio.run(work())
    assert all(len(samples.completions) == count for samples in found)
    return servers


def test_calls_through_an_endpoint_keep_its_limit_repeated_ones_included():
    """Failed calls count, as providers count them."""
    busy = [ChatUnavailableError("busy", kind="HTTP 429")] * 5
    (server,) = sample(20, outcomes=busy, requests_per_minute=6)
    assert len(server.starts) == 25
    assert max(map(len, windows(server.starts))) == 6
    assert server.starts[-1] - server.starts[0] == pytest.approx(240, abs=20)


def test_tokens_are_reserved_and_unused_ones_returned():
    """While calls are in progress they hold the most that they can take, then what they took."""
    (server,) = sample(40, tokens_per_minute=2 * LONGEST)
    assert max(map(len, windows(server.starts))) <= 2 * LONGEST // 20
    # Without the return of unused tokens, two calls a minute would take 19 minutes.
    assert server.starts[-1] - server.starts[0] < 10 * 60


def test_endpoints_have_limits_of_their_own_and_none_by_default():
    """Two models at one server each get their limit."""
    for server in sample(10, models=("a", "b"), requests_per_minute=5):
        assert 60 <= server.starts[-1] - server.starts[0] < 70
    (server,) = sample(100)
    assert server.starts[-1] - server.starts[0] < 10


def test_waits_for_a_limit_are_logged(caplog, monkeypatch):
    """The line says for whom, why and how long."""
    monkeypatch.setattr("optuna_agenttts.llm.waiting._logged", {})
    with caplog.at_level(logging.INFO, "optuna_agenttts"):
        sample(4, requests_per_minute=3, tokens_per_minute=10_000)
    (line,) = [r.getMessage() for r in caplog.records if r.name.endswith("llm.waiting")]
    assert "m: the limit of 3 requests and 10,000 tokens a minute is reached." in line
    assert "Next call in 60 s" in line


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_limits_are_passed_on_and_checked(name):
    """They are those of each endpoint, and at least 1."""
    (endpoint,) = connect_endpoints(["m"], "http://h", **{name: 7}).values()
    assert getattr(endpoint, name) == 7
    for wrong in (0, -1, float("nan")):
        with pytest.raises(PipelineError, match=f"`{name}` must be at least 1"):
            connect_endpoints(["m"], "http://h", **{name: wrong})
