"""A forked process shares neither connections nor locks nor event loops with its parent."""

import asyncio
import multiprocessing
import threading

import optuna
import pytest
from forking_support import TIMEOUT, in_fork
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from pickling_support import (
    BENCHMARKS,
    benchmark_objective,
    playground_objective,
    sampler,
    score,
    search,
)

from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.support.forking import unlocked_cached_property
from optuna_agenttts_integrations import (
    CompletionStore,
    LoopbackServer,
    MultiStageObjective,
    StoreError,
    connect_endpoints,
)
from optuna_agenttts_integrations.calls.store import RequestKey, canonical_json
from optuna_agenttts_integrations.playground import (
    make_endpoints,
    make_pipeline,
    make_problems,
    make_task,
)

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
)


def key(number):
    return RequestKey("e", 0, canonical_json({"model": "m", "n": number}))


def put(store, *numbers):
    """Write one sample of each request, and return the number of samples in the store."""
    for number in numbers:
        store.put(key(number), {0: Completion("text", Usage(1, 1))})
    return len(store)


@pytest.mark.parametrize("name", ["playground", *BENCHMARKS])
def test_forked_objectives_give_the_same_scores(name, tmp_path):
    """Before and after the first use, in child and parent."""
    objective = (
        playground_objective(tmp_path / "store.db")
        if name == "playground"
        else benchmark_objective(name, store=CompletionStore(tmp_path / "store.db"))
    )
    if "sandbox" in name and objective.pipeline.stages[2].run.args[0]._sandbox.missing():
        pytest.skip("no sandbox on this machine")
    expected = in_fork(score, objective)
    assert score(objective) == expected
    # The loop is running while the process forks.
    allocation = {stage.name: (stage.models[0].name, 2) for stage in objective.task.stages}
    assert objective.evaluate(allocation).mean == expected
    assert in_fork(score, objective) == expected
    assert objective.evaluate(allocation).mean == expected
    objective.close()


def test_what_a_child_writes_survives_its_parents_store(tmp_path):
    """The parent closes its store, and with it SQLite's log, while the child writes.

    With an inherited connection, the child would hold no lock on the file: the parent would remove
    the log that the child is still writing to.
    """
    store = CompletionStore(tmp_path / "store.db")
    put(store, 0)
    context = multiprocessing.get_context("fork")
    opened, closed = context.Event(), context.Event()

    def write_later():
        put(store, 1)
        opened.set()
        closed.wait(TIMEOUT)
        return put(store, 2)

    def close():
        opened.wait(TIMEOUT)
        store.close()
        closed.set()

    assert in_fork(write_later, while_running=close) == 3
    reopened = CompletionStore(tmp_path / "store.db")
    assert len(reopened) == 3
    reopened.close()


def test_stores_stay_closed_or_in_memory_over_a_fork(tmp_path):
    store, memory = CompletionStore(tmp_path / "store.db"), CompletionStore()
    put(memory, 1)
    assert in_fork(put, memory, 2) == 2
    assert len(memory) == 1
    store.close()
    with pytest.raises(StoreError, match="closed"):
        in_fork(put, store, 1)
    with pytest.raises(StoreError, match="closed"):
        put(store, 1)


def test_children_do_not_wait_for_locks_of_their_parents_threads(tmp_path):
    """Many forks while other threads write to the same store."""
    store = CompletionStore(tmp_path / "store.db")
    stop, others = threading.Event(), []

    def write(first):
        number = first
        while not stop.is_set():
            put(store, number)
            # New objects are registered while the process forks.
            others.append(CompletionStore())
            number += 10

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for number in range(10):
            assert in_fork(put, store, 10 * number + 5) > 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(store.get(key(10 * number + 5).digest, 1) for number in range(10))
    store.close()


class Blocked:
    """Chat model that replies once its event is set."""

    def __init__(self):
        self.started, self.released = threading.Event(), threading.Event()

    async def complete(self, request, *, seed):
        self.started.set()
        while not self.released.is_set():
            await asyncio.sleep(0.01)
        return Completion('{"guidelines": ["g"], "candidates": []}', Usage(1, 1))


def served_elsewhere(places):
    """Return the playground's objective with other endpoints."""
    task = make_task()
    return MultiStageObjective(
        make_pipeline(),
        make_problems("search", 6),
        task=task,
        endpoints=connect_endpoints(task, places),
        progress=False,
    )


def test_a_child_does_not_wait_for_its_parents_calls():
    """The parent is running instances when it forks; the child runs the same ones."""
    chat = Blocked()
    objective = served_elsewhere(chat)
    scores = []
    thread = threading.Thread(target=lambda: scores.append(score(objective)))
    thread.start()
    assert chat.started.wait(TIMEOUT)

    def release_and_score():
        chat.released.set()
        return score(objective)

    found = in_fork(release_and_score)
    assert not scores
    chat.released.set()
    thread.join()
    assert scores == [found]


@pytest.mark.slow
def test_a_child_reads_the_round_that_its_parent_plans(tmp_path):
    """The parent forks while it plans a round; the child waits for the storage, as any worker."""
    chat = Blocked()
    objective = playground_objective()
    study = optuna.create_study(
        direction="maximize",
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
        sampler=sampler(chat, task=objective.task, llm_timeout=10 * TIMEOUT),
    )
    search(study, 4, objective)
    assert chat.started.wait(TIMEOUT)
    found = in_fork(search, study, 3, objective, while_running=chat.released.set)
    assert len(found) == 7
    assert len(search(study, 1, objective)) == 8


def test_a_child_opens_its_own_connections():
    """Parent and child call the same server at the same time."""
    with LoopbackServer({name: e.chat for name, e in make_endpoints().items()}) as server:
        objective = served_elsewhere(server.url)
        allocations = [
            {stage.name: (stage.models[0].name, count) for stage in objective.task.stages}
            for count in (2, 4)
        ]
        expected = objective.evaluate(allocations[0]).mean
        here = []
        there = in_fork(
            lambda: objective.evaluate(allocations[1]).mean,
            while_running=lambda: here.append(objective.evaluate(allocations[1]).mean),
        )
        assert here == [there]
        assert objective.evaluate(allocations[0]).mean == expected
        objective.close()


def test_a_child_does_not_wait_for_a_property_that_its_parent_computes():
    computing, done = threading.Event(), threading.Event()

    class Owner:
        count = 0

        def __init__(self, wait):
            self.wait = wait

        @unlocked_cached_property
        def value(self):
            self.count += 1
            computing.set()
            return self.wait()

    def value_here():
        owner = Owner(lambda: 5)
        return owner.value + owner.value, owner.count

    thread = threading.Thread(target=lambda: Owner(done.wait).value)
    thread.start()
    assert computing.wait(TIMEOUT)
    try:
        assert in_fork(value_here) == (10, 1)
    finally:
        done.set()
        thread.join()
