"""Retries, the circuit breaker and their waits."""

import asyncio
import random
import socket
import time
from collections import Counter
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_support import AdversarialServer, ask

from optuna_agenttts.llm import (
    ChatError,
    ChatRefusedError,
    ChatUnavailableError,
    CircuitBreaker,
    CircuitOpenError,
    Completion,
    HuggingFaceChat,
    RetryingChatModel,
    RetryPolicy,
    ScriptedChatModel,
    Usage,
    waiting,
)
from optuna_agenttts.llm.error_replies import http_error, retry_after
from optuna_agenttts.llm.outages import note_answer
from optuna_agenttts.llm.retry import with_retries
from optuna_agenttts_integrations.testing.serving import LoopbackServer

BUSY = ChatUnavailableError("busy", kind="HTTP 503")
NO = ChatRefusedError("no", kind="HTTP 401")


class Clock:
    """Time that passes only by waiting."""

    def __init__(self):
        self.now, self.waits = 1000.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        """Let time pass."""
        self.waits.append(seconds)
        self.now += seconds


# How long to wait.


@pytest.mark.parametrize("attempt", [1, 2, 3, 4, 5, 6, 7])
def test_waits_are_drawn_from_zero_to_a_bound_that_doubles(attempt):
    """Waits have full jitter: all of the range is used, so that callers spread out."""
    policy = RetryPolicy(attempts=10, base=0.5, longest=10)
    bound = min(10, 0.5 * 2 ** (attempt - 1))
    waits = [policy.wait(BUSY, attempt, random.Random(seed)) for seed in range(500)]
    assert all(0 <= wait <= bound for wait in waits)
    assert min(waits) < 0.1 * bound
    assert max(waits) > 0.9 * bound
    assert sum(waits) / 500 == pytest.approx(bound / 2, rel=0.15)


@pytest.mark.parametrize(
    "error",
    [NO, ChatError("?"), ValueError("?"), asyncio.CancelledError(), KeyboardInterrupt()],
)
def test_only_what_may_pass_is_waited_for(error):
    """A refusal, a bug and Ctrl-C are not repeated."""
    assert RetryPolicy().wait(error, 1, random.Random(0)) is None


def test_attempts_run_out():
    """The last of the attempts is not followed by a wait."""
    policy = RetryPolicy(attempts=3)
    waits = [policy.wait(BUSY, attempt, random.Random(0)) is None for attempt in (1, 2, 3, 4)]
    assert waits == [False, False, True, True]
    assert RetryPolicy(attempts=1).wait(BUSY, 1, random.Random(0)) is None


@pytest.mark.parametrize(("asked", "expected"), [(0.0, 0.0), (7.5, 7.5), (30.0, 30.0), (31, None)])
def test_what_a_server_asks_for_is_honoured(asked, expected):
    """A server's own wait goes before ours; one that is too long is not worth waiting for."""
    error = ChatUnavailableError("busy", retry_after=asked)
    policy = RetryPolicy(base=1, longest=30)
    assert policy.wait(error, 1, random.Random(0)) == expected
    assert policy.wait(error, policy.attempts, random.Random(0)) is None


def test_the_same_randomness_gives_the_same_waits():
    """Waits can be repeated."""
    policy = RetryPolicy()
    assert policy.wait(BUSY, 3, random.Random(5)) == policy.wait(BUSY, 3, random.Random(5))


# Repeating.


def repeat(outcomes, policy=None, failures=None):
    """Call what gives the outcomes in turn; returns what came of it, the calls and the waits."""
    clock, calls, left = Clock(), [], list(outcomes)

    async def call():
        calls.append(clock.now)
        outcome = left.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def work():
        policy_ = policy or RetryPolicy()
        options = {"policy": policy_, "rng": random.Random(0), "sleep": clock.sleep}
        try:
            return await with_retries(call, failures=failures, **options)
        except Exception as error:
            return error

    return asyncio.run(work()), len(calls), clock.waits


@pytest.fixture
def logged(monkeypatch, caplog):
    """Lines about waits, on a clock that the test moves."""
    monkeypatch.setattr("optuna_agenttts.llm.waiting.time", SimpleNamespace(monotonic=Clock()))

    def lines():
        records = [r for r in caplog.records if r.name == "optuna_agenttts.llm.waiting"]
        caplog.clear()
        return [record.getMessage() for record in records]

    return lines


@pytest.mark.parametrize("patience", [0, 100])
def test_long_waits_are_logged_once_a_minute_for_each_server(logged, monkeypatch, patience):
    """Short ones are ordinary and not logged."""
    policy = RetryPolicy(attempts=20, base=4, longest=4, patience=patience)

    def wait_for(*servers):
        for server in servers:
            down = ChatUnavailableError(f"{server}: HTTP 503", kind="HTTP 503")
            repeat([down, "text"], RetryPolicy(base=0.1, patience=patience))
            assert logged() == []
            repeat([down] * 10 + ["text"], policy)
            yield [line.partition(". ")[0] for line in logged()]

    first, second = ([f"Waiting for a server: m at {name}: HTTP 503"] for name in "ab")
    assert list(wait_for("m at a", "m at a", "other at a", "m at b")) == [first, [], [], second]
    waiting.time.monotonic.now += 59
    assert list(wait_for("m at a")) == [[]]
    waiting.time.monotonic.now += 1
    assert list(wait_for("m at a", "m at b")) == [first, second]


def test_one_long_wait_is_logged_once_a_minute(logged, monkeypatch):
    """A line says for whom, why and how long, as long as nothing else is heard of the server."""
    monkeypatch.setattr("optuna_agenttts.llm.waiting._INTERVAL", 0.05)

    async def work():
        with waiting.waiting("m at slow.test: no reply yet", unless_answered=True):
            for _ in range(6):
                await asyncio.sleep(0.05)
                waiting.time.monotonic.now += 0.05
        found = logged()
        note_answer("other at slow.test")
        with waiting.waiting("m at slow.test: no reply yet", unless_answered=True):
            await asyncio.sleep(0.12)
        return found, logged()

    monkeypatch.setattr("optuna_agenttts.llm.outages.time", waiting.time)
    found, after = asyncio.run(work())
    assert 2 <= len(found) <= 6
    assert all(line.endswith("s: m at slow.test: no reply yet.") for line in found)
    assert after == []


def test_a_call_that_succeeds_is_made_once():
    """Success, even an empty one, is not repeated."""
    for outcome in ("text", "", None, 0, False):
        failures = Counter()
        assert repeat([outcome], failures=failures) == (outcome, 1, [])
        assert not failures


def test_failures_are_waited_out_and_counted_by_kind():
    """Each failure counts once, and each wait comes between two calls."""
    failures = Counter()
    slow = ChatUnavailableError("slow", kind="timeout", retry_after=3)
    outcome, calls, waits = repeat([BUSY, slow, BUSY, "text"], failures=failures)
    assert (outcome, calls, len(waits)) == ("text", 4, 3)
    assert 0 <= waits[0] <= 1
    assert waits[1] == 3
    assert 0 <= waits[2] <= 4
    assert failures == {"HTTP 503": 2, "timeout": 1}


def test_the_last_error_is_raised():
    """The last exception is raised unchanged, not wrapped."""
    last = ChatUnavailableError("last")
    failures = Counter()
    outcome, calls, waits = repeat([BUSY, BUSY, BUSY, last, "late"], failures=failures)
    assert outcome is last
    assert (calls, len(waits)) == (4, 3)
    assert failures.total() == 4


@pytest.mark.parametrize("error", [NO, ValueError("bug"), ChatError("?")])
def test_what_will_not_pass_is_raised_at_once(error):
    """A refusal or a bug costs one call, also after failures that might have passed."""
    assert repeat([error, "late"]) == (error, 1, [])
    assert repeat([BUSY, error, "late"])[:2] == (error, 2)


def test_only_failed_calls_are_counted():
    """A bug in the program is no failure of the server."""
    failures = Counter()
    repeat([BUSY, ValueError("bug")], failures=failures)
    assert failures == {"HTTP 503": 1}


def test_repeating_can_be_cancelled():
    """A caller that gives up while waiting is obeyed, and nothing is called any more."""
    calls = []

    async def call():
        calls.append(1)
        raise BUSY

    async def work():
        policy = RetryPolicy(attempts=100, base=1000, longest=1000)
        task = asyncio.ensure_future(with_retries(call, policy=policy, rng=random.Random(0)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert len(calls) == 1


# The circuit breaker.


def refusal(breaker):
    """Seconds for which a breaker rejects calls; None if it does not."""
    try:
        breaker.check()
    except ChatUnavailableError as error:
        return error.retry_after if error.kind == "circuit open" else None
    return None


def broken(clock, **options):
    """Return a breaker with a newly opened circuit."""
    breaker = CircuitBreaker(threshold=3, pause=10, longest=35, clock=clock, **options)
    for _ in range(3):
        assert refusal(breaker) is None
        breaker.record(BUSY)
    return breaker


def test_consecutive_failures_open_the_circuit():
    """After `threshold` failures calls are rejected until the pause is over."""
    clock = Clock()
    breaker = broken(clock)
    assert refusal(breaker) == 10
    clock.now += 9.5
    assert refusal(breaker) == 0.5
    clock.now += 0.5
    assert refusal(breaker) is None


def test_failures_between_successes_do_not_add_up():
    """Only failures in a row count."""
    breaker = CircuitBreaker(threshold=2, clock=Clock())
    for _ in range(10):
        breaker.record(BUSY)
        breaker.record(None)
        assert refusal(breaker) is None


def test_a_refusal_for_good_counts_at_once():
    """A wrong key is not tried on a hundred requests."""
    breaker = CircuitBreaker(threshold=4, pause=10, clock=Clock())
    breaker.record(NO)
    assert refusal(breaker) == 10


def test_pauses_double_up_to_a_bound():
    """A server that stays down gets one call after each pause, and pauses double."""
    clock = Clock()
    breaker = broken(clock)
    pauses = [refusal(breaker)]
    for _ in range(4):
        clock.now += pauses[-1]
        assert refusal(breaker) is None
        breaker.record(BUSY)
        pauses.append(refusal(breaker))
    assert pauses == [10, 20, 35, 35, 35]


def test_a_success_closes_the_breaker():
    """A server that is back is trusted as before."""
    clock = Clock()
    breaker = broken(clock)
    clock.now += 10
    breaker.record(BUSY)
    clock.now += 20
    breaker.record(None)
    for _ in range(2):
        breaker.record(BUSY)
        assert refusal(breaker) is None
    breaker.record(BUSY)
    assert refusal(breaker) == 10


def test_calls_that_fail_together_lengthen_the_pause_once():
    """Many calls that were under way when a server went down are one breakdown, not many."""
    breaker = CircuitBreaker(threshold=4, pause=10, longest=600, clock=Clock())
    for _ in range(32):
        breaker.record(BUSY)
    assert refusal(breaker) == 10


# Both together.


def retrying(chat, clock, **options):
    """Build a retrying chat model that waits on a fake clock."""
    return RetryingChatModel(
        chat,
        breaker=CircuitBreaker(clock=clock),
        rng=random.Random(0),
        sleep=clock.sleep,
        **options,
    )


def complete(chat):
    """Call once; returns the completion or the error."""

    async def work():
        try:
            return await chat.complete(ask(), seed=1)
        except ChatError as error:
            return error

    return asyncio.run(work())


def test_patience_gets_a_completion_from_a_flaky_model():
    """What may pass is tried again with the same request and seed, and counted."""
    seen = []

    class Flaky:
        async def complete(self, request, *, seed):
            seen.append((request, seed))
            if len(seen) < 3:
                raise BUSY
            return Completion("text", Usage(1, 1))

    chat = retrying(Flaky(), Clock())
    assert complete(chat).text == "text"
    assert seen == [(ask(), 1)] * 3
    assert (chat.calls, chat.failures) == (3, {"HTTP 503": 2})


def test_a_refusal_is_neither_repeated_nor_asked_for_again():
    """A wrong key costs one call, however many completions are wanted."""
    inner = ScriptedChatModel(lambda request: NO)
    chat = retrying(inner, Clock())
    assert complete(chat) is NO
    for _ in range(20):
        complete(chat)
    assert chat.calls == len(inner.requests) <= 2
    assert chat.failures["HTTP 401"] == chat.calls


def test_a_dead_server_is_asked_a_bounded_number_of_times():
    """A search of a thousand steps on a dead server makes few calls and waits little."""
    inner, clock = ScriptedChatModel(lambda request: BUSY), Clock()
    chat = retrying(inner, clock)
    for _ in range(1000):
        assert isinstance(complete(chat), ChatUnavailableError)
        clock.now += 1
    hours = (clock.now - 1000) / 3600
    assert chat.calls == len(inner.requests)
    # Four to notice, then one after each of the pauses: 30 s, 60 s, ... at most 600 s.
    assert chat.calls <= 4 + 5 + 6 * hours
    assert sum(clock.waits) < 200


def test_a_server_that_comes_back_is_used_again():
    """After a breakdown no more than a pause is lost."""
    down = [True]
    inner, clock = ScriptedChatModel(lambda request: BUSY if down[0] else "text"), Clock()
    chat = retrying(inner, clock)
    for _ in range(10):
        complete(chat)
        clock.now += 1
    down[0] = False
    clock.now += 600
    replies = [complete(chat) for _ in range(20)]
    assert [r for r in replies if not isinstance(r, Completion)] == []


def test_a_bug_does_not_count_against_the_server():
    """What is no chat error passes through, and the breaker does not hear of it."""
    chat = retrying(ScriptedChatModel(lambda request: ValueError("bug")), Clock())
    for _ in range(10):
        with pytest.raises(ValueError, match="bug"):
            complete(chat)
    assert chat.calls == 10
    assert not chat.failures


def test_one_completion_is_within_one_timeout():
    """All attempts and waits together end in time, with a named error."""

    async def slow(seconds):
        await asyncio.sleep(60)

    for inner, sleep in [
        (ScriptedChatModel(lambda request: "late", delay=60), asyncio.sleep),
        (ScriptedChatModel(lambda request: BUSY), slow),
    ]:
        chat = RetryingChatModel(inner, sleep=sleep, timeout=0.1)
        started = time.monotonic()
        error = complete(chat)
        assert time.monotonic() - started < 30
        assert type(error) is ChatUnavailableError
        assert error.kind == "timeout"
        assert "0.1 s" in str(error)
        assert chat.failures["timeout"] == 1


def test_timeouts_open_the_breaker():
    """A server that hangs opens the circuit like one that fails."""
    inner = ScriptedChatModel(lambda request: "late", delay=10)
    chat = RetryingChatModel(inner, timeout=0.02)
    for _ in range(10):
        assert isinstance(complete(chat), ChatUnavailableError)
    assert chat.calls == 4


def test_a_real_server_receives_few_requests():
    """The bound holds for requests that arrive at a real server."""
    with AdversarialServer("status_503") as server:
        inner, clock = HuggingFaceChat("m", base_url=server.url), Clock()
        chat = retrying(inner, clock)

        async def work():
            for _ in range(50):
                with pytest.raises(ChatUnavailableError):
                    await chat.complete(ask(), seed=1)
                clock.now += 1
            await inner.aclose()

        asyncio.run(work())
        assert len(server.requests) == chat.calls <= 8


# What servers ask for.

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("1.5", 1.5),
        ("-3", 0),
        ("-inf", 0),
        ("Wed, 01 Jul 2026 12:01:30 GMT", 90),
        ("Wed, 01 Jul 2026 14:01:30 +0200", 90),
        ("Wed, 01 Jul 2026 12:01:30", 90),
        ("Wed, 01 Jul 2026 11:00:00 GMT", 0),
        ("Wed, 01 Jul 2026 12:01:30 -0000", 90),
        ("", None),
        ("  ", None),
        ("soon", None),
        ("in 7 seconds", None),
        ("inf", None),
        ("1e999", None),
        ("nan", None),
        ("Wed, 99 Jul 2026 12:01:30 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 99999999999999999999 Jan 2026 00:00:00 GMT", None),
        ("Wed, 01 Jul 2026 12:01:30 +99999999999999999999", None),
    ],
)
def test_the_wait_that_a_header_asks_for_is_read(value, expected):
    """Seconds and dates are parsed, past dates give 0, and other values None."""
    assert retry_after({"Retry-After": value}, NOW) == expected
    assert retry_after({"x": "y", "retry-after": value}, NOW) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After-Ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0.5s"}, 360.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "1h"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1782907290000"}, 90),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1782907290"}, 90),
        (
            {
                **{"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"},
                **{"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m5s"},
            },
            65,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "7", "retry-after": "3"}, 3),
    ],
)
def test_headers_of_providers_are_waits(headers, expected):
    """Milliseconds, and the limits that are used up, of which the last to be reset counts."""
    assert retry_after(headers, NOW) == (expected and pytest.approx(expected))


def test_no_header_asks_for_nothing():
    """Without the header, the result is None."""
    assert retry_after({}, NOW) is None
    assert retry_after({"x-retry-after": "7"}, NOW) is None


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(max_size=40),
        st.floats().map(str),
        st.integers().map(str),
        st.builds(
            "{}, {} {} {} {}:{}:{} {}".format,
            st.sampled_from(["Mon", "x", ""]),
            st.integers(),
            st.sampled_from(["Jan", "feb", "x"]),
            st.integers(),
            st.integers(),
            st.integers(),
            st.integers(),
            st.one_of(st.sampled_from(["GMT", "EST", ""]), st.integers().map(str)),
        ),
    )
)
def test_whatever_a_header_holds_is_a_wait_or_nothing(value):
    """No server can make reading its header fail, or ask for what is no number of seconds."""
    wait = retry_after({"retry-after": value})
    assert wait is None or 0 <= wait < float("inf")


@pytest.mark.parametrize("status", [408, 409, 424, 425, 429, 500, 502, 503, 504, 529, 599])
def test_statuses_that_may_pass(status):
    """Overload and breakdowns are worth another call."""
    error = http_error(status, {"retry-after": "2"}, "text", "m at h")
    assert type(error) is ChatUnavailableError
    assert (error.kind, error.retry_after) == (f"HTTP {status}", 2)


@pytest.mark.parametrize(
    "status", [204, 301, 307, 400, 401, 402, 403, 404, 405, 410, 413, 422, 451]
)
def test_statuses_that_will_not_pass(status):
    """What is wrong with the request stays wrong."""
    error = http_error(status, {"retry-after": "2"}, "text", "m at h")
    assert type(error) is ChatRefusedError
    assert error.kind == f"HTTP {status}"


def test_messages_of_servers_are_shortened_to_a_line():
    """Pages of HTML and control characters do not get into logs."""
    error = http_error(500, {}, "<p>\x1b[31m\r\nbroken\u202e</p>\n" + "x" * 10_000, "m at h")
    assert str(error).startswith("m at h: HTTP 500: <p>")
    assert str(error).isprintable()
    assert len(str(error)) < 300
    assert str(http_error(500, {}, " \n ", "m at h")) == "m at h: HTTP 500"


# Patience.

OVERLOADED = ["HTTP 429", "HTTP 502", "HTTP 503", "HTTP 504", "ConnectError", "ConnectTimeout"]
BROKEN = ["HTTP 500", "HTTP 520", "HTTP 524", "HTTP 529", "ReadError", "RemoteProtocolError"]
BROKEN += ["WriteError", "no JSON"]
UNAVAILABLE = OVERLOADED + BROKEN


def unavailable(kind="HTTP 503", retry_after=None):
    """Build the failure of an unavailable server."""
    return ChatUnavailableError("unavailable", kind=kind, retry_after=retry_after)


@pytest.mark.parametrize("kind", UNAVAILABLE)
def test_an_unavailable_server_is_waited_for(kind):
    """Beyond the attempts calls go on until the waits add up to the patience, and no longer."""
    policy = RetryPolicy(attempts=3, base=1, longest=15, patience=600)
    outcome, calls, waits = repeat([unavailable(kind)] * 1000, policy)
    assert outcome.kind == kind
    assert sum(waits) == pytest.approx(600)
    assert max(waits) <= 15
    assert calls == len(waits) + 1
    assert 600 / 15 <= calls < 4 * 600 / 15
    assert repeat([unavailable(kind)] * 30 + ["back"], policy)[0] == "back"


@pytest.mark.parametrize("kind", ["timeout", "HTTP 424", "no text in reply", "error"])
def test_other_failures_stop_at_the_attempts(kind):
    """What may be the request's own fault is not repeated for minutes."""
    policy = RetryPolicy(attempts=3, patience=600)
    outcome, calls, waits = repeat([ChatUnavailableError("?", kind=kind)] * 9, policy)
    assert (calls, len(waits)) == (3, 2)
    # Nor after the server was unavailable for longer.
    outcome, calls, _ = repeat(
        [unavailable()] * 8 + [ChatUnavailableError("?", kind=kind), "late"], policy
    )
    assert outcome.kind == kind
    assert calls == 9


@pytest.mark.parametrize("kind", UNAVAILABLE)
def test_a_request_that_fails_while_others_succeed_is_not_waited_for_if_it_may_be_at_fault(kind):
    """A prompt that breaks the server is tried as often as the policy allows, not for minutes."""
    succeeded, calls = [], []

    async def call():
        calls.append(1)
        succeeded.append(1)
        raise unavailable(kind)

    async def sleep(seconds):
        assert seconds >= 0

    policy = RetryPolicy(attempts=3, base=1, longest=15, patience=600)
    options = {"policy": policy, "rng": random.Random(0), "sleep": sleep}
    with pytest.raises(ChatUnavailableError):
        asyncio.run(with_retries(call, successes=lambda: len(succeeded), **options))
    # The first failure comes before the others' success.
    assert (len(calls) == 4) == (kind in BROKEN)


@pytest.mark.parametrize("kind", ["no quota", "unknown host", "ConnectError", "ProxyError"])
def test_what_time_does_not_mend_is_not_waited_for(kind):
    """No patience and no breaker repeats it, and the breaker opens at once."""
    error = ChatUnavailableError("?", kind=kind, permanent=True)
    assert repeat([error, "late"], RetryPolicy(patience=600)) == (error, 1, [])
    breaker = CircuitBreaker(clock=Clock())
    breaker.record(error)
    with pytest.raises(CircuitOpenError) as caught:
        breaker.check()
    assert RetryPolicy(patience=600).wait(caught.value, 1, random.Random(0)) is None


@pytest.mark.parametrize("seconds", [3, 40, 200, 450, 599])
def test_a_server_behind_a_breaker_that_comes_back_within_the_patience_loses_no_call(seconds):
    """The pause of the breaker is waited for, also where it ends after the patience."""
    clock = Clock()

    class Down:
        async def complete(self, request, *, seed):
            if clock.now < 1000 + seconds:
                raise unavailable()
            return Completion("text", Usage(1, 1))

    chat = retrying(Down(), clock)
    policy = RetryPolicy(attempts=8, base=0.5, longest=15, patience=600)
    options = {"policy": policy, "rng": random.Random(0), "sleep": clock.sleep}
    found = asyncio.run(with_retries(lambda: chat.complete(ask(), seed=1), **options))
    assert found.text == "text"
    assert clock.now - 1000 < 600 + 600


@pytest.mark.parametrize("retry_after", [None, 0.0, 7.5, 30.0, 31.0])
@pytest.mark.parametrize(
    "error", [*(unavailable(kind) for kind in UNAVAILABLE), NO, ChatUnavailableError("?")]
)
def test_without_patience_nothing_changes(error, retry_after):
    """The waits equal those of a policy without patience, for any waited time."""
    error.retry_after = retry_after
    policy = RetryPolicy(attempts=4, base=2, longest=30)
    for attempt in range(1, 8):
        expected = None
        if error is not NO and attempt < 4:
            bound = min(30, 2 * 2 ** (attempt - 1))
            expected = random.Random(attempt).uniform(0, bound)
            if retry_after is not None:
                expected = retry_after if retry_after <= 30 else None
        for waited in (0.0, 1e9):
            assert policy.wait(error, attempt, random.Random(attempt), waited) == expected
    error.retry_after = None


def test_a_server_may_ask_for_more_than_the_longest_wait():
    """Its wish is granted within the patience that is left, exactly, and else not."""
    policy = RetryPolicy(attempts=2, base=1, longest=10, patience=100)
    for attempt in (1, 2, 50):
        assert policy.wait(unavailable(retry_after=80), attempt, random.Random(0), 20) == 80
        assert policy.wait(unavailable(retry_after=80.1), attempt, random.Random(0), 20) is None
    slow = ChatUnavailableError("slow", kind="timeout", retry_after=80)
    assert policy.wait(slow, 1, random.Random(0)) is None
    assert repeat([unavailable(retry_after=45)] * 9, policy)[1:] == (3, [45, 45])
    waits = repeat([unavailable(retry_after=4)] * 90, policy)[2]
    assert all(wait >= 4 for wait in waits)
    assert 100 <= sum(waits) <= 104


def test_a_server_that_asks_for_no_wait_is_not_hammered():
    """A wait of zero uses up the patience as well, by the policy's own waits."""
    policy = RetryPolicy(attempts=3, base=1, longest=15, patience=100)
    _, calls, waits = repeat([unavailable("HTTP 429", 0.0)] * 10_000, policy)
    assert waits[:2] == [0, 0]
    assert sum(waits) == pytest.approx(100)
    assert calls < 100


def test_a_policy_without_waits_has_no_patience():
    """Patience is counted in waits: where there are none it would never end."""
    policy = RetryPolicy(attempts=3, base=0, patience=100)
    assert repeat([unavailable()] * 100, policy)[1:] == (3, [0, 0])


def test_thousands_of_attempts_do_not_overflow():
    """The bound of waits stops doubling where it no longer matters."""
    policy = RetryPolicy(attempts=10**6, base=1e-3, longest=0.01, patience=50)
    for attempt in (1000, 5000, 10**5):
        assert 0 <= policy.wait(unavailable(), attempt, random.Random(0), 1) <= 0.01
    assert repeat([unavailable()] * 3000 + ["back"], policy)[:2] == ("back", 3001)


@given(
    st.lists(st.sampled_from([None, 0.0, 0.3, 5.0, 40.0]), min_size=1, max_size=5),
    st.floats(0, 50),
    st.floats(0.1, 20),
    st.floats(1e-3, 5),
)
@settings(max_examples=60)
def test_patience_ends(asked, patience, longest, base):
    """Whatever a server asks for, waits end at the patience, give or take one."""
    policy = RetryPolicy(attempts=2, base=base, longest=longest, patience=patience)
    errors = [unavailable(retry_after=seconds) for seconds in asked]
    rng, waited = random.Random(0), 0.0
    for attempt in range(1, 20_000):
        wait = policy.wait(errors[attempt % len(errors)], attempt, rng, waited)
        if wait is None:
            break
        waited += wait
    else:
        pytest.fail("no end")
    assert waited <= patience + 2 * longest


@pytest.mark.slow
def test_a_server_that_is_down_for_seconds_loses_no_call():
    """Nobody listens at first, then a real server does: each call is answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = LoopbackServer({"m": ScriptedChatModel(lambda request: "fine")}, port=port)
    chat = HuggingFaceChat("m", base_url=f"http://127.0.0.1:{port}", timeout=5, starting=True)
    failures = Counter()

    async def work():
        policy = RetryPolicy(attempts=2, base=0.1, longest=0.5, patience=30)
        calls = (
            with_retries(
                lambda seed=seed: chat.complete(ask(model="m"), seed=seed),
                policy=policy,
                rng=random.Random(seed),
                failures=failures,
            )
            for seed in range(1, 21)
        )
        late = asyncio.get_running_loop().run_in_executor(
            None, lambda: time.sleep(2) or server.start()
        )
        replies = await asyncio.gather(*calls)
        await late
        await chat.aclose()
        return replies

    try:
        replies = asyncio.run(work())
    finally:
        server.__exit__()
    assert [reply.text for reply in replies] == ["fine"] * 20
    assert set(failures) == {"ConnectError"}
    assert failures["ConnectError"] > 2 * 20
