"""Workers that want the same sample: one generates it, the others wait for it."""

import asyncio
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_support import make_task, side_by_side
from postgresql_support import new_database, postgresql_server  # noqa: F401

from optuna_agenttts.llm import (
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    RetryPolicy,
    Usage,
)
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    LLMFusion,
    MultiStageObjective,
    Pipeline,
    SpendLimitError,
    StageProgram,
    StoreError,
    connect_endpoints,
)
from optuna_agenttts_integrations.calls import leases, sharing
from optuna_agenttts_integrations.calls.completions import Completions, request_text
from optuna_agenttts_integrations.calls.embeddings import StoredEmbedder
from optuna_agenttts_integrations.calls.metering import Account, Ledger, Meter
from optuna_agenttts_integrations.calls.store import RequestKey

TIMEOUT = 300
"""Seconds until a test that waits for ever fails."""

KEY = RequestKey(
    "x",
    0,
    request_text(
        ChatRequest(model="m", messages=(Message("user", "hello"),), max_tokens=5, temperature=0.7)
    ),
)


def request(text="hello"):
    return ChatRequest(model="m", messages=(Message("user", text),), max_tokens=5, temperature=0.7)


def reply(text):
    return Completion(text, Usage(2, 1))


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request, tmp_path):
    """Yield what names a new store."""
    if request.param == "sqlite":
        return str(tmp_path / "store.db")
    return new_database(request.getfixturevalue("postgresql_server"))


@pytest.fixture
def quick(monkeypatch):
    """Let leases end after two seconds, and renew them ten times as often."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(leases, "_RENEWAL_SECONDS", 0.2)


OPENED = []


@pytest.fixture(autouse=True)
def close_stores():
    """Close the stores of a test."""
    yield
    while OPENED:
        OPENED.pop().close()


def opened(target, **options):
    """Return a store that is closed after the test."""
    OPENED.append(CompletionStore(target, **options))
    return OPENED[-1]


class RandomChat:
    """Chat model whose replies differ each time, and which counts its calls.

    Args:
        seconds: Time of a call.
        errors: Errors of the first calls.
    """

    def __init__(self, seconds=0.05, errors=()):
        self.seconds, self.errors = seconds, list(errors)
        self.seeds, self.calls = [], []
        self.started = threading.Event()

    async def complete(self, request, *, seed):
        """Reply at random, or fail."""
        self.seeds.append(seed)
        self.calls.append((request_text(request), seed))
        self.started.set()
        await self.wait()
        if self.errors:
            raise self.errors.pop(0)
        return reply(os.urandom(8).hex())

    async def wait(self):
        """Wait as long as a call takes."""
        await asyncio.sleep(self.seconds)


class RandomBatches(RandomChat):
    """The same, with all samples of a request in one call."""

    async def complete_many(self, request, seeds):
        """Reply at random to each seed."""
        return [await self.complete(request, seed=seed) for seed in seeds]


def held(chat):
    """Let calls of a chat model last until the event that is returned is set."""
    done = threading.Event()

    async def wait():
        while not done.is_set():
            await asyncio.sleep(0.01)

    chat.wait = wait
    return done


def worker(target, policy=None):
    """Return a source of samples with its own connection to a store."""
    policy = policy or RetryPolicy(attempts=1)
    return Completions(store=opened(target), seed=0, rng=random.Random(0), policy=policy)


def sample(completions, chat, count=1, text="hello", **options):
    """Return a coroutine that draws samples."""
    endpoint = Endpoint(chat=chat, identity="x", **options)
    return completions.sample(request(text), endpoint, count)


def drawn(*coroutines):
    """Run coroutines concurrently, each on its own event loop in a thread of its own."""
    results = [None] * len(coroutines)

    def run(position, coroutine):
        results[position] = asyncio.run(asyncio.wait_for(coroutine, TIMEOUT))

    side_by_side([threading.Thread(target=run, args=found) for found in enumerate(coroutines)])
    return results


def texts(samples):
    return [completion.text for completion in samples.completions]


@pytest.mark.parametrize("kind", [RandomChat, RandomBatches])
def test_workers_pay_once_and_score_with_the_same_replies(target, kind):
    """Each of them also wants samples that the others do not want."""
    chat = kind()
    counts = (3, 7, 5, 7)
    found = drawn(*(sample(worker(target), chat, count) for count in counts))
    assert [len(one.completions) for one in found] == list(counts)
    assert len(chat.seeds) == len(set(chat.seeds)) == 7
    assert sum(one.generated for one in found) == 7
    longest = max(map(texts, found), key=len)
    assert all(texts(one) == longest[: len(texts(one))] for one in found)


def test_objects_of_one_process_share_a_store():
    """Two sources of samples with the same store, in memory."""
    store, chat = CompletionStore(), RandomChat()
    sources = [Completions(store=store, seed=0, rng=random.Random(0)) for _ in range(2)]
    found = drawn(*(sample(source, chat, 5) for source in sources))
    assert texts(found[0]) == texts(found[1])
    assert len(chat.seeds) == 5


def test_a_sample_whose_call_fails_is_generated_by_a_waiting_worker(target):
    """It does not wait for the other samples of the worker that failed, and that one goes on."""
    failing = RandomChat(0.2, [ChatRefusedError("no")])
    working = RandomChat()

    async def second():
        while not failing.started.is_set():
            await asyncio.sleep(0.01)
        return await sample(worker(target), working)

    first, other = drawn(sample(worker(target), failing), second())
    assert first.failed == 1
    assert other.generated == 1
    assert texts(other)


def _hang(target, chat_started):
    chat = RandomChat(TIMEOUT)
    chat.started = chat_started
    asyncio.run(sample(worker(target), chat, 3))


def test_samples_of_a_killed_worker_are_generated_when_its_lease_ends(target, quick):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_hang, args=(target, started))
    process.start()
    assert started.wait(TIMEOUT)
    chat = RandomChat()
    source = worker(target)
    waiting = []
    thread = threading.Thread(
        target=lambda: waiting.extend(drawn(sample(source, chat, 3))), daemon=True
    )
    thread.start()
    time.sleep(2.5)
    # The worker is alive: its lease was renewed.
    assert not chat.seeds
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    thread.join(TIMEOUT)
    assert waiting[0].generated == len(chat.seeds) == 3


def test_leases_outlast_a_blocked_event_loop(target, quick):
    class Blocking(RandomChat):
        async def complete(self, request, *, seed):
            self.started.set()
            time.sleep(2.5)
            return await super().complete(request, seed=seed)

    blocking, chat = Blocking(), RandomChat()

    async def second():
        while not blocking.started.is_set():
            await asyncio.sleep(0.01)
        return await sample(worker(target), chat)

    first, other = drawn(sample(worker(target), blocking), second())
    assert texts(first) == texts(other)
    assert not chat.seeds


def test_the_last_renewal_has_no_leases_and_is_not_logged(target, caplog):
    """The thread finds out in it that it may end."""
    store = CompletionStore(target)
    assert not leases.Leases(store._database, time.time).renew()
    assert not caplog.records
    store.close()


def test_a_store_that_is_closed_before_the_last_renewal_is_not_logged(target, caplog):
    """The thread may find out long after a search has ended."""
    completions = worker(target)
    drawn(sample(completions, RandomChat(), count=2))
    completions._store.close()
    assert not completions._store.leases.renew()
    assert not caplog.records


def test_cancelled_workers_release_their_samples(target):
    """At once: leases last 30 seconds."""
    chat = RandomChat(TIMEOUT)
    start = time.monotonic()

    async def cancel():
        running = asyncio.ensure_future(sample(worker(target), chat, 3))
        while not chat.started.is_set():
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return await sample(worker(target), RandomChat(), 3)

    assert drawn(cancel())[0].generated == 3
    assert time.monotonic() - start < leases.LEASE_SECONDS / 2


def test_waiting_can_be_cancelled_and_holds_nothing(target):
    """A worker that waits holds no slot of its endpoint, and reserves nothing."""
    busy, chat = RandomChat(0.5), RandomChat()
    ledger = Ledger(limit=100.0)
    source = worker(target)
    meter = Meter(request(), lambda calls, *tokens: 100.0 * calls, Account(ledger))

    async def wait():
        endpoint = Endpoint(chat=chat, identity="x", concurrency=1)
        while not busy.started.is_set():
            await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(source.sample(request(), endpoint, 2, meter))
        await asyncio.sleep(0.1)
        assert (ledger.in_progress, ledger.held) == (0, 0.0)
        # The only slot is free for other requests.
        assert (await source.sample(request("other"), endpoint, 1)).generated == 1
        cancelled = asyncio.ensure_future(source.sample(request(), endpoint, 2, Meter(request())))
        await asyncio.sleep(0)
        cancelled.cancel()
        return await waiting

    first, other = drawn(sample(worker(target), busy, 2), wait())
    assert texts(first) == texts(other)
    assert (other.generated, other.spend, meter.spent) == (0, 0.0, 0.0)


def test_a_worker_without_money_leaves_its_samples_to_others(target):
    """The limit is refused while another worker waits for the same samples."""
    chat = RandomChat(0.2)

    async def poor():
        account = Account(Ledger(limit=1.5))
        meter = Meter(request(), lambda calls, *tokens: 1.0 * calls, account)
        endpoint = Endpoint(chat=chat, identity="x")
        with pytest.raises(SpendLimitError):
            await worker(target).sample(request(), endpoint, 3, meter)

    async def rich():
        while not chat.started.is_set():
            await asyncio.sleep(0.01)
        return await sample(worker(target), chat, 3)

    _, found = drawn(poor(), rich())
    assert len(texts(found)) == 3
    assert found.generated == 2
    assert len(chat.seeds) == len(set(chat.seeds)) == 3


def test_a_stuck_worker_is_not_waited_for(target, quick, monkeypatch):
    """Its thread renews no lease for longer than any call takes."""
    monkeypatch.setattr(leases, "_LONGEST_SECONDS", 1.0)
    stuck, chat = RandomChat(), RandomChat()
    done = held(stuck)

    async def second():
        while not stuck.started.is_set():
            await asyncio.sleep(0.01)
        found = await sample(worker(target), chat)
        done.set()
        return found

    async def first():
        await sample(worker(target), stuck)

    assert drawn(first(), second())[1].generated == 1


@pytest.mark.parametrize("kind", [RandomChat, RandomBatches])
def test_a_worker_that_stood_still_pays_again_only_for_calls_in_progress(target, quick, kind):
    """Its leases have ended: it asks for those of samples whose calls have not begun."""
    slow, chat, source = kind(), RandomChat(0.01), worker(target)
    done = held(slow)

    async def second():
        while not slow.started.is_set():
            await asyncio.sleep(0.01)
        store = opened(target)
        # As if the first worker had been suspended until its leases ended.
        store._database.write(lambda transaction: transaction.change("DELETE FROM leases"))
        found = await sample(worker(target), chat, 6)
        # The first worker finds out when it renews its leases.
        source._store.leases.renew()
        done.set()
        return found

    endpoints = {"concurrency": 2}
    first, other = drawn(sample(source, slow, 6, **endpoints), second())
    assert texts(first) == texts(other)
    in_progress = 6 if kind is RandomBatches else 2
    assert len(slow.seeds) == in_progress
    assert len(chat.seeds) == 6


def test_a_process_that_slept_leases_samples_again_before_their_calls(target, monkeypatch):
    """Also before the renewing thread has noticed."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.5)
    slow, chat = RandomChat(), RandomChat(0.01)
    done = held(slow)

    async def second():
        while not slow.started.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.7)
        found = await sample(worker(target), chat, 4)
        done.set()
        return found

    first, other = drawn(sample(worker(target), slow, 4, concurrency=1), second())
    assert texts(first) == texts(other)
    assert (len(slow.seeds), len(chat.seeds)) == (1, 4)


def test_a_failed_renewal_does_not_end_the_thread(target, quick, monkeypatch):
    """Whatever the error: the next renewal comes in time."""
    slow, chat = RandomChat(3.0), RandomChat()
    source = worker(target)
    database, errors = source._store._database, [MemoryError(), OSError()]
    write = database.write

    def failing(work, **options):
        if errors and options:
            raise errors.pop()
        return write(work, **options)

    monkeypatch.setattr(database, "write", failing)

    async def second():
        while not slow.started.is_set():
            await asyncio.sleep(0.01)
        return await sample(worker(target), chat)

    first, other = drawn(sample(source, slow), second())
    assert texts(first) == texts(other)
    assert not errors
    assert not chat.seeds


def test_a_claim_releases_only_its_own_samples(target):
    """Two objectives of one process have one owner of leases."""
    store = opened(target)

    async def claims():
        failed = sharing.Claim(store, KEY.digest, [0, 1])
        assert await failed.granted() == {0, 1}
        await failed.fail(0)
        other = sharing.Claim(store, KEY.digest, [0])
        assert await other.granted() == {0}
        await sharing.release(store, {KEY.digest: failed.end()})

    asyncio.run(claims())
    assert opened(target).leases.acquire(KEY.digest, [0, 1]) == {1}


def test_stores_that_cannot_be_written_are_an_error_before_a_call(tmp_path):
    """Nothing is paid for that could not be kept; what is stored can be read."""
    chat = RandomChat()
    source = worker(tmp_path / "store.db")
    stored = drawn(sample(source, chat))[0]
    source._store._database.connection.execute("PRAGMA query_only = ON")
    assert texts(drawn(sample(source, chat))[0]) == texts(stored)
    with pytest.raises(StoreError, match="written"):
        asyncio.run(sample(source, chat, 2))
    assert len(chat.seeds) == 1


def test_replays_do_not_wait(target):
    """A sample that another worker is generating is missing."""
    busy = RandomChat()
    done = held(busy)
    source = Completions(store=opened(target), seed=0, rng=random.Random(0), replay=True)

    async def replay():
        while not busy.started.is_set():
            await asyncio.sleep(0.01)
        with pytest.raises(StoreError, match="lacks 1 of 1"):
            await sample(source, busy)
        done.set()

    assert len(drawn(sample(worker(target), busy), replay())[0].completions) == 1


class RandomEmbedder:
    """Embedder whose vectors differ each time."""

    identity = "random"

    def __init__(self):
        self.texts = []

    async def embed(self, texts):
        """Return random vectors after a moment."""
        self.texts += texts
        await asyncio.sleep(0.1)
        return [[random.random()] for _ in texts]


def test_texts_are_embedded_once(target):
    """Workers with some of the texts in common, each on its own connection."""
    embedder = RandomEmbedder()
    wanted = ["abc", "bcd", "cde", "abc"]
    workers = [StoredEmbedder(embedder, opened(target)) for _ in wanted]
    found = drawn(*(one.embed(list(text)) for one, text in zip(workers, wanted)))
    assert sorted(embedder.texts) == list("abcde")
    vectors = {}
    for text, rows in zip(wanted, found):
        for letter, row in zip(text, rows):
            assert vectors.setdefault(letter, row) == row


def test_texts_whose_call_fails_are_embedded_by_a_waiting_worker(target):
    class Failing(RandomEmbedder):
        async def embed(self, texts):
            await super().embed(texts)
            raise ChatUnavailableError("down")

    failing, working = Failing(), RandomEmbedder()

    async def fails():
        store, policy = opened(target), RetryPolicy(attempts=1)
        with pytest.raises(ChatUnavailableError):
            await StoredEmbedder(failing, store, policy=policy).embed(["a"])

    async def waits():
        while not failing.texts:
            await asyncio.sleep(0.01)
        return await StoredEmbedder(working, opened(target)).embed(["a"])

    assert len(drawn(fails(), waits())[1]) == 1
    assert working.texts == ["a"]


def test_repairs_and_fusions_are_paid_for_once(target):
    """Requests that depend on replies are the same for workers that score with the same ones."""
    chat, task = RandomChat(0.02), make_task()

    def score(state):
        return int(state["find"], 16) % 2 + int(state["say"], 16) % 2

    def program(name, **options):
        return StageProgram(
            name=name,
            prompt=lambda state: f"{name} {state.instance['id']} {state.results}",
            # Half of the replies are malformed.
            parse=lambda text, state: text if int(text, 16) % 2 else None,
            repair=lambda state, text: f"repair {text}",
            required=False,
            **options,
        )

    stages = [program("find", aggregate=LLMFusion(fallback=max)), program("say", aggregate=max)]

    def objective():
        return MultiStageObjective(
            Pipeline(
                stages=stages,
                score=lambda state: (
                    score(state) if all(state[stage.name] for stage in stages) else 0.0
                ),
            ),
            [{"id": number} for number in range(5)],
            task=task,
            endpoints=connect_endpoints(task, chat),
            store=opened(target),
            progress=False,
        )

    results = []

    def evaluate():
        with objective() as one:
            allocation = {"find": ("small", 4), "say": ("small", 3)}
            results.append(one.evaluate(allocation).outcomes)

    side_by_side([threading.Thread(target=evaluate) for _ in range(3)])
    assert results[0] == results[1] == results[2]
    assert len(chat.calls) == len(set(chat.calls)) == len(opened(target)) > 5 * 7


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "look", "put", "release", "renew", "time", "end"]),
        st.integers(0, 2),
        st.sets(st.integers(0, 3), min_size=1),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_a_sample_has_one_living_owner_and_none_once_it_is_stored(tmp_path_factory, operations):
    """Any order of claims, failures, writes, renewals and passing time, by three workers."""
    path = tmp_path_factory.mktemp("leases") / "store.db"
    now = [0.0]
    stores = [opened(path, clock=lambda: now[0]) for _ in range(3)]
    for store in stores:
        # No thread renews them at other times.
        store.leases._renewing = True
    stored = set()
    owners = {}
    for operation, number, samples in operations:
        mine = stores[number].leases
        held = {index for index, (owner, _) in owners.items() if owner == number}
        living = {index for index, (_, ends) in owners.items() if ends > now[0]}
        if operation in ("claim", "look"):
            free = mine.hold(KEY.digest, samples)
            granted = mine.acquire(KEY.digest, free, operation == "look")
            mine.settle(KEY.digest, set(free) - granted)
            assert granted == set(free) - stored - (living - held)
            owners.update(dict.fromkeys(granted, (number, now[0] + leases.LEASE_SECONDS)))
        elif operation == "put":
            stores[number].put(KEY, {index: reply(f"{number}") for index in samples & held})
            mine.settle(KEY.digest, samples & held)
            stored |= samples & held
        elif operation == "release":
            mine.release({KEY.digest: samples})
            owners = {i: found for i, found in owners.items() if i not in samples & held}
        elif operation == "renew":
            mine.renew()
            for index in held - stored:
                owners[index] = (number, now[0] + leases.LEASE_SECONDS)
            owners = {i: found for i, found in owners.items() if found[1] > now[0]}
        else:
            now[0] += 12.0


def test_clocks_that_are_set_back_end_leases(tmp_path):
    """Other workers would wait until the clock is where it was."""
    now = [10_000.0]
    first, second = (opened(tmp_path / "store.db", clock=lambda: now[0]) for _ in range(2))
    assert first.leases.acquire("k", [0]) == {0}
    assert second.leases.acquire("k", [0]) == set()
    now[0] = 1_000.0
    assert second.leases.acquire("k", [0], look=True) == {0}


def test_a_long_wait_is_logged_once_a_minute(tmp_path, caplog):
    """With what happens to the samples of a killed worker."""
    caplog.set_level("INFO")
    first, second = (opened(tmp_path / "store.db") for _ in range(2))
    assert first.leases.acquire(KEY.digest, [0, 1]) == {0, 1}
    waits = []

    async def sleep(seconds):
        waits.append(seconds)
        if sum(waits) > 20:
            first.put(KEY, {0: reply("a"), 1: reply("b")})

    source = Completions(store=second, seed=0, rng=random.Random(0), sleep=sleep)
    assert texts(asyncio.run(sample(source, RandomChat(), 2))) == ["a", "b"]
    (line,) = [record.getMessage() for record in caplog.records if "Waiting" in record.message]
    assert "Waiting for 2 samples" in line
    assert "30 s" in line


def test_waits_grow_and_differ():
    """From a twentieth of a second to one second, each at least half of its bound."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    async def poll():
        polls = sharing.Polls(random.Random(0), sleep)
        for _ in range(50):
            await polls.wait()

    asyncio.run(poll())
    assert 0.02 <= waits[0] <= 0.05
    assert max(waits) <= 1.0
    assert min(waits[20:]) >= 0.5
    assert len(set(waits)) == 50


def test_forked_processes_hold_no_leases(tmp_path):
    """A child has its own name, and what its parent holds is not released by it."""
    store = opened(tmp_path / "store.db")
    assert store.leases.hold("k", [0]) == [0]
    assert store.leases.acquire("k", [0]) == {0}
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child():
        store.leases.release({"k": [0]})
        free = store.leases.hold("k", [0, 1])
        there.send((free, store.leases.acquire("k", free)))

    process = context.Process(target=child)
    process.start()
    assert here.poll(TIMEOUT)
    assert here.recv() == ([0, 1], {1})
    process.join()
    assert store.leases.hold("k", [0]) == []
