"""Samples, their seeds, their store, and failed calls."""

import asyncio
import multiprocessing
import random
import sqlite3
import threading

import pytest
from pipeline_support import side_by_side

from optuna_agenttts.llm import (
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    Usage,
)
from optuna_agenttts_integrations import (
    BatchingChatModel,
    CompletionStore,
    Endpoint,
    PipelineError,
    StoreError,
)
from optuna_agenttts_integrations.calls.completions import Completions, request_text, sample_seed
from optuna_agenttts_integrations.calls.store import RequestKey


def request(text="hello", **options):
    values = {"model": "m", "max_tokens": 5, "temperature": 0.7, **options}
    return ChatRequest(messages=(Message("user", text),), **values)


def request_key(text="hello"):
    return RequestKey("x", 0, request_text(request(text)))


def completion(text="hi"):
    return Completion(text, Usage(2, 1), "stop")


class Flaky:
    """Chat model that raises the given errors in order, then answers."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    async def complete(self, request, *, seed):
        """Answer or fail."""
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return completion(str(seed))


def draw(chat, count=1, store=None, waits=None, identity="x"):
    async def sleep(seconds):
        (waits if waits is not None else []).append(seconds)

    completions = Completions(
        store=store or CompletionStore(), seed=0, rng=random.Random(0), sleep=sleep
    )
    endpoint = Endpoint(chat=chat, identity=identity)
    return asyncio.run(completions.sample(request(), endpoint, count)), completions


def test_seeds_are_in_the_range_that_all_servers_accept():
    """Seeds are 1 to 2**31 - 1 and differ by request, index and base."""
    text = request_text(request())
    seeds = {sample_seed(text, index, base) for index in range(500) for base in range(4)}
    assert len(seeds) == 2000
    assert min(seeds) >= 1
    assert max(seeds) < 2**31
    assert sample_seed(text, 0, 0) != sample_seed(request_text(request(max_tokens=6)), 0, 0)


def test_seeds_do_not_depend_on_the_endpoint_but_the_store_does():
    """Two servers get equal seeds, and their completions are stored separately."""
    store = CompletionStore()
    first, _ = draw(Flaky(), 3, store, identity="a")
    second, _ = draw(Flaky(), 3, store, identity="b")
    assert first.completions == second.completions
    assert second.generated == 3


def test_temporary_failures_are_retried():
    """Calls to an overloaded server are repeated after increasing waits."""
    waits = []
    chat = Flaky(ChatUnavailableError("busy"), ChatUnavailableError("busy"))
    samples, completions = draw(chat, waits=waits)
    assert (samples.failed, chat.calls, len(waits)) == (0, 3, 2)
    assert 0 <= waits[0] <= 1
    assert not completions.failures


def test_refusals_are_not_retried():
    """A refused request is not repeated."""
    chat = Flaky(ChatRefusedError("no"))
    samples, completions = draw(chat)
    assert (samples.failed, chat.calls) == (1, 1)
    assert completions.failures == {"ChatRefusedError: no": 1}


def test_attempts_are_bounded():
    """A dead server does not block a trial forever."""
    chat = Flaky(*[ChatUnavailableError("dead")] * 50)
    samples, _ = draw(chat)
    assert samples.failed == 1
    assert chat.calls < 10


def test_completions_survive_the_store(tmp_path):
    """Text in any script, tokens and finish reason are read as they were written."""
    path = tmp_path / "store.db"
    store = CompletionStore(path)
    store.put(
        request_key(), {0: Completion("汉字 \n\x00é", Usage(3, 4), "length"), 7: completion()}
    )
    store.close()
    again = CompletionStore(path)
    assert again.get(request_key().digest, 5) == {
        0: Completion("汉字 \n\x00é", Usage(3, 4), "length")
    }
    assert len(again) == 2
    again.close()


def test_store_never_overwrites():
    """The first completion of a sample is kept."""
    store = CompletionStore()
    store.put(request_key(), {0: completion("first")})
    store.put(request_key(), {0: completion("second")})
    assert store.get(request_key().digest, 1)[0].text == "first"


def test_store_serves_threads():
    """Concurrent writes of threads are all stored."""
    store = CompletionStore()

    def write(number):
        for index in range(50):
            store.put(request_key(f"{number}"), {index: completion()})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    side_by_side(threads)
    assert len(store) == 400


def _write(path, number):
    store = CompletionStore(path)
    for index in range(100):
        store.put(request_key(f"{number}"), {index: completion()})
    store.close()


def test_store_serves_processes(tmp_path):
    """Concurrent writes of processes are all stored."""
    path = tmp_path / "store.db"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, number)) for number in range(2)]
    side_by_side(workers)
    store = CompletionStore(path)
    assert len(store) == 200
    store.close()


def test_other_files_are_refused(tmp_path):
    """The error names a file of another kind or version."""
    other = tmp_path / "notes.txt"
    other.write_text("not a database, but a text that is long enough to be read as one" * 20)
    with pytest.raises(StoreError, match=r"notes\.txt"):
        CompletionStore(other)
    newer = tmp_path / "newer.db"
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        CompletionStore(newer)


def test_a_closed_store_is_an_error():
    """Using a closed store raises an error with a remedy."""
    store = CompletionStore()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get("k", 1)


def test_concurrent_requests_form_one_batch():
    """Requests of one turn of the event loop are one call of the function."""
    sizes = []

    def generate(requests):
        sizes.append(len(requests))
        return [completion(str(seed)) for _, seed in requests]

    async def ask():
        chat = BatchingChatModel(generate)
        return await asyncio.gather(*(chat.complete(request(), seed=s) for s in range(9)))

    replies = asyncio.run(ask())
    assert [reply.text for reply in replies] == [str(seed) for seed in range(9)]
    assert sizes == [9]


def test_an_error_reaches_all_requests_of_its_batch():
    """An error of the function reaches every caller, and the next batch works."""
    attempts = []

    def generate(requests):
        attempts.append(requests)
        if len(attempts) == 1:
            raise ChatRefusedError("broken")
        return [completion() for _ in requests]

    async def ask():
        chat = BatchingChatModel(generate)
        first = await asyncio.gather(
            *(chat.complete(request(), seed=s) for s in range(3)), return_exceptions=True
        )
        return first, await chat.complete(request(), seed=4)

    first, second = asyncio.run(ask())
    assert all(isinstance(error, ChatRefusedError) for error in first)
    assert second == completion()


@pytest.mark.parametrize(
    "broken",
    [
        lambda requests: [completion() for _ in requests[1:]],
        lambda requests: [],
        lambda requests: [completion() for _ in (*requests, 0)],
        lambda requests: (completion() for _ in requests[1:]),
        lambda requests: None,
        lambda requests: 7,
        lambda requests: next(iter(())),
    ],
    ids=["one less", "none", "one more", "generator", "nothing", "number", "StopIteration"],
)
def test_a_batch_of_another_length_is_an_error_of_all_its_requests(broken):
    """No request waits forever, none gets the completion of another, and the next batch works."""
    attempts = []

    def generate(requests):
        attempts.append(requests)
        return broken(requests) if len(attempts) == 1 else iter([completion() for _ in requests])

    async def ask():
        chat = BatchingChatModel(generate)
        first = asyncio.gather(
            *(chat.complete(request(), seed=s) for s in range(3)), return_exceptions=True
        )
        return await asyncio.wait_for(first, 10), await chat.complete(request(), seed=4)

    errors, reply = asyncio.run(ask())
    assert len(errors) == 3
    for error in errors:
        assert isinstance(error, (PipelineError, RuntimeError))
        assert "`generate`" in str(error)
    assert reply == completion()


def test_batches_survive_their_event_loop():
    """After its event loop was closed, a model works on the next one."""
    release = threading.Event()

    def generate(requests):
        release.wait(5)
        return [completion(str(seed)) for _, seed in requests]

    chat = BatchingChatModel(generate)

    async def cut_off():
        task = asyncio.ensure_future(chat.complete(request(), seed=1))
        await asyncio.sleep(0.05)
        task.cancel()
        release.set()

    asyncio.run(cut_off())
    assert asyncio.run(chat.complete(request(), seed=2)).text == "2"


@pytest.mark.parametrize("returned", range(4))
def test_missing_completions_of_a_call_are_counted(returned):
    """Those that came are kept; the others count as failed, with their cause."""

    class Short:
        async def complete(self, request, *, seed):
            return completion(str(seed))

        async def complete_many(self, request, seeds):
            return [completion(str(seed)) for seed in seeds][:returned]

    samples, completions = draw(Short(), count=3)
    assert samples.failed == 3 - returned
    assert len(samples.completions) == len(completions._store) == returned
    causes = [f"Short: `complete_many` returned {returned} completions for 3 seeds"]
    assert list(completions.failures) == (causes if returned < 3 else [])
