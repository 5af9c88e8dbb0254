"""The completion store: versions, transport, pruning, disks that are full, and replay."""

import gc
import json
import logging
import multiprocessing
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import optuna
import pytest
from pipeline_support import Clock, allocation, calls, make_objective, side_by_side
from store_support import contents, request_key, said

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import CompletionStore, StoreError
from optuna_agenttts_integrations.calls.store import Holding, RequestKey

FORK = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="limits are set in a fork"
)


def size(path):
    """Return the size of a store and its log in bytes."""
    return sum(f.stat().st_size for f in Path(path).parent.glob(f"{Path(path).name}*"))


@pytest.fixture
def filled(target):
    """Yield a store of two models at two endpoints: a request each day, three samples of each."""
    clock = Clock()
    store = CompletionStore(target, clock=clock)
    for day, (model, endpoint) in enumerate([("a", "x"), ("b", "x"), ("b", "y")]):
        clock.now = day * 86_400.0
        store.put(request_key(day, model, endpoint), {i: said(f"{day} {i}") for i in range(3)})
    yield store
    store.close()


# Versions.


def first_version(path, values):
    """Write a store of version 1."""
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TABLE completions (key TEXT NOT NULL, sample INTEGER NOT NULL, value TEXT NOT "
        "NULL, PRIMARY KEY (key, sample)) WITHOUT ROWID"
    )
    connection.executemany("INSERT INTO completions VALUES (?, ?, ?)", values)
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()


def test_a_store_of_version_1_serves_on_and_is_upgraded(tmp_path):
    """Its completions are found, and new requests are stored with their contents."""
    path = tmp_path / "old.db"
    key = request_key(1).digest
    first_version(path, [(key, 0, '["old", 3, 4, "stop"]'), ("other", 0, '["?", 1, 1, "stop"]')])
    store = CompletionStore(path)
    assert store.get(request_key(1).digest, 5) == {0: Completion("old", Usage(3, 4))}
    assert store.holdings() == [Holding("", "", 2, 2, 4, 5, 0)]
    store.put(request_key(1), {1: said()})
    assert [(h.endpoint, h.model, h.samples) for h in store.holdings()] == [
        ("", "", 1),
        ("e", "m", 2),
    ]
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()
    again = CompletionStore(path)
    assert len(again) == 3
    again.close()


@pytest.mark.parametrize("reason", ["abort", "ABORT", "error", "cancelled"])
def test_replies_that_a_failing_server_cut_off_are_removed_on_opening(tmp_path, reason, caplog):
    """From files of any version, whatever wrote to them since, and they are not stored again."""
    path = tmp_path / "old.db"
    rows = [
        ("a", i, json.dumps(["Answer: Par", 3, 4, why])) for i, why in enumerate((reason, "stop"))
    ]
    first_version(path, rows)
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            store = CompletionStore(path)
        assert set(store.get("a", 5)) == {1}
        assert len(store) == 1
        assert caplog.text.count("Deleted 1 replies") == 1
        store.check()
        store.put(request_key(), {0: Completion("Par", Usage(1, 1), reason)})
        assert len(store) == 1
        store.close()
        caplog.clear()
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO completions VALUES (?, ?, ?)", rows[0])
        connection.commit()
        connection.close()


def test_thoughts_are_stored_apart_and_exported(tmp_path):
    """Those of earlier versions are separated when they are read."""
    path = tmp_path / "old.db"
    first_version(path, [("a", 0, json.dumps(["<think>hm</think>Paris", 3, 4, "stop"]))])
    store = CompletionStore(path)
    assert store.get("a", 1)[0] == Completion("Paris", Usage(3, 4), "stop", "hm")
    thought = Completion("Paris", Usage(3, 40, 30), "stop", "hm")
    store.put(request_key(), {0: thought, 1: said()})
    assert store.export(tmp_path / "lines") == 1
    other = CompletionStore()
    other.load(tmp_path / "lines")
    for each in (store, other):
        found = each.get(request_key().digest, 2)
        assert found == {0: thought, 1: said()}
        assert [found[i].thought_tokens for i in (0, 1)] == [30, 0]
    store.close()


def test_keys_are_those_of_version_1():
    """A change of keys would silently invalidate every store."""
    assert RequestKey("hf", 7, '{"model":"m"}').digest == (
        "5fc58bbc17d9ae9f3341d471474bd95e07e9e818809d9e5deb2606c0a175ffd3"
    )


def test_completions_of_version_1_can_be_pruned(tmp_path):
    """They match an empty endpoint and no filter, but no age, which is unknown."""
    path = tmp_path / "old.db"
    first_version(path, [("one", 0, '["?", 1, 1, "stop"]')])
    store = CompletionStore(path)
    store.put(request_key(), {0: said()})
    assert store.prune(older_than=1e12) == 0
    assert store.prune(endpoint="e", older_than=0) == 1
    assert store.prune(endpoint="") == 1
    store.close()
    first_version(tmp_path / "two.db", [("one", 0, '["?", 1, 1, "stop"]')])
    store = CompletionStore(tmp_path / "two.db")
    assert store.prune() == 1
    store.close()


def test_a_later_version_is_refused_and_unchanged(tmp_path):
    """The error names both versions, and the file stays the same."""
    path = tmp_path / "newer.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (x)")
    connection.execute("PRAGMA user_version=99")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"version 99.*version 3"):
        CompletionStore(path)
    assert path.read_bytes() == before


def test_another_database_is_refused_and_unchanged(tmp_path):
    """A study's storage could be given by mistake."""
    path = tmp_path / "study.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    optuna.create_study(storage=storage)
    storage.engine.dispose()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another application"):
        CompletionStore(path)
    assert path.read_bytes() == before


def _open_and_put(path, barrier, number, failures):
    barrier.wait()
    try:
        store = CompletionStore(path)
        store.put(request_key(number), {0: said()})
        store.close()
    except BaseException as error:
        failures.put(repr(error))


@FORK
@pytest.mark.parametrize("old", [False, True])
def test_processes_may_open_a_file_concurrently(tmp_path, old):
    """The first one creates or upgrades the tables, and none fails."""
    path = tmp_path / "store.db"
    if old:
        first_version(path, [("one", 0, '["?", 1, 1, "stop"]')])
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_open_and_put, args=(path, barrier, number, failures))
        for number in range(4)
    ]
    side_by_side(workers)
    assert failures.empty()
    store = CompletionStore(path)
    assert len(store) == 4 + old
    store.close()


def test_opening_waits_for_readers(tmp_path):
    """Enabling WAL, which SQLite refuses while others read, is retried."""
    path = tmp_path / "old.db"
    first_version(path, [("one", 0, '["?", 1, 1, "stop"]')])
    reader = sqlite3.connect(path, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM completions").fetchall()
    timer = threading.Timer(0.3, reader.rollback)
    timer.start()
    store = CompletionStore(path)
    timer.join()
    reader.close()
    assert store._database.rows("PRAGMA journal_mode") == [("wal",)]
    assert len(store) == 1
    store.close()


# Values.


@pytest.mark.parametrize("text", ["", "\ud83d", "a\udc00b", "\x00\r\n\u2028", "汉字 é", '"]'])
def test_any_text_survives(target, tmp_path, text):
    """Replies and requests, on disk and in exports, also with unpaired surrogates."""
    store = CompletionStore(target)
    store.put(request_key(text), {0: said(text)})
    store.export(tmp_path / "all.jsonl")
    other = CompletionStore()
    other.load(tmp_path / "all.jsonl")
    for kept in (store, other):
        assert kept.get(request_key(text).digest, 1) == {0: said(text)}
        assert [held.generated_tokens for held in kept.holdings()] == [1]
        kept.close()


def test_numpy_token_counts_are_stored():
    """In-process models may return numpy integers."""
    store = CompletionStore()
    store.put(request_key(), {0: said(prompt=np.int64(3), generated=np.int32(4))})
    assert store.get(request_key().digest, 1)[0].usage == Usage(3, 4)
    store.close()


def test_requests_without_completions_are_not_stored():
    """They would be counted and exported."""
    store = CompletionStore()
    store.put(request_key(), {})
    assert store._database.rows("SELECT * FROM requests") == []
    store.close()


def test_holdings_count(filled):
    """Requests, samples, tokens and the first time by endpoint and model."""
    filled.put(request_key(0, "a", "x"), {7: said(prompt=100, generated=50)})
    filled.put(request_key(9, "a", "x"), {0: said()})
    assert filled.holdings() == [
        Holding("x", "a", 2, 5, 108, 54, 0.0),
        Holding("x", "b", 1, 3, 6, 3, 86_400.0),
        Holding("y", "b", 1, 3, 6, 3, 2 * 86_400.0),
    ]
    assert len(filled) == 11


def test_only_samples_below_the_count_are_returned(filled):
    """A count of n selects the samples 0 to n - 1."""
    key = request_key(0, "a", "x").digest
    assert [sorted(filled.get(key, count)) for count in (0, 1, 3, 9)] == [
        [],
        [0],
        [0, 1, 2],
        [0, 1, 2],
    ]
    assert filled.get("unknown", 9) == {}


def test_check_leaves_no_rows(filled):
    """The write of a check is undone."""
    before = contents(filled)
    filled.check()
    assert contents(filled) == before


# Exports.


def test_an_export_makes_an_equal_store(filled, new_target, tmp_path):
    """Completions, requests and times are the same, and so is its own export."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert filled.export(one) == 3
    other = CompletionStore(new_target(), clock=Clock(1e9))
    assert other.load(one) == 3
    assert contents(other) == contents(filled)
    assert other.holdings() == filled.holdings()
    other.export(two)
    assert two.read_bytes() == one.read_bytes()
    assert other.load(one) == 3
    assert contents(other) == contents(filled)
    other.close()


def test_loading_keeps_stored_samples(filled, tmp_path):
    """Stored samples are not overwritten; missing ones are added."""
    filled.export(tmp_path / "all.jsonl")
    other = CompletionStore()
    other.put(request_key(0, "a", "x"), {0: said("mine")})
    other.load(tmp_path / "all.jsonl")
    found = other.get(request_key(0, "a", "x").digest, 3)
    assert [found[i].text for i in range(3)] == ["mine", "0 1", "0 2"]
    other.close()


def test_an_export_without_times_is_loaded_as_of_now(filled, tmp_path):
    """The time of a line is optional."""
    path = tmp_path / "all.jsonl"
    filled.export(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "at": None}) + "\n" for line in lines))
    other = CompletionStore(clock=Clock(5.0))
    other.load(path)
    assert {held.oldest for held in other.holdings()} == {5.0}
    other.close()


SAMPLE = ["hi", 1, 1, "stop"]
LINE = {"endpoint": "e", "seed": 0, "request": {"model": "m"}, "samples": {"0": SAMPLE}}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b'{"a":' * 100_000,
        *(
            json.dumps({**LINE, **changes}).encode()
            for changes in (
                {"seed": "x"},
                {"request": 3},
                {"samples": []},
                {"samples": {"x": SAMPLE}},
                {"samples": {"-1": SAMPLE}},
                {"samples": {"0": "hi!!"}},
                {"samples": {"0": ["hi", 1, 1]}},
                {"samples": {"0": [3, 1, 1, "stop"]}},
                {"samples": {"0": ["hi", -1, 1, "stop"]}},
                {"samples": {"0": ["hi", 1, 1.5, "stop"]}},
                {"samples": {"0": ["hi", 1, True, "stop"]}},
                {"at": "yesterday"},
                {"at": float("inf")},
                {"at": float("nan")},
                {"seed": 2**63},
                {"endpoint": "\ud800"},
                {"request": {"model": "\ud800"}},
                {"endpoint": "a\0b"},
                {"samples": {str(2**31): SAMPLE}},
                {"samples": {"0": ["hi", 10**30, 1, "stop"]}},
            )
        ),
        json.dumps({key: LINE[key] for key in LINE if key != "seed"}).encode(),
    ],
)
def test_a_broken_line_names_its_number(tmp_path, line):
    """The lines before it are loaded."""
    path = tmp_path / "broken.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b"\n" + line + b"\n")
    store = CompletionStore()
    # What earlier tests left must not be collected, and warned of, in the deepest recursion.
    gc.collect()
    with pytest.raises(StoreError, match=r"broken\.jsonl': line 2 is not a line of an export"):
        store.load(path)
    assert len(store) == 1
    store.close()


def test_unusable_files_are_named(filled, tmp_path):
    """A missing export, one that cannot be written, and the store itself."""
    before = contents(filled)
    with pytest.raises(StoreError, match=r"nothing\.jsonl.*cannot be read"):
        filled.load(tmp_path / "nothing.jsonl")
    with pytest.raises(StoreError, match="cannot be written"):
        filled.export(tmp_path)
    if Path(filled.path).exists():
        with pytest.raises(StoreError, match="the store itself"):
            filled.export(filled.path)
    assert contents(filled) == before


# Pruning.


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, []),
        ({"model": "a"}, [1, 2]),
        ({"model": "b"}, [0]),
        ({"endpoint": "x"}, [2]),
        ({"model": "b", "endpoint": "x"}, [0, 2]),
        ({"model": "a", "endpoint": "y"}, [0, 1, 2]),
        ({"older_than": 86_400.0}, [2]),
        ({"older_than": 2 * 86_400.0}, [1, 2]),
        ({"older_than": 3 * 86_400.0}, [0, 1, 2]),
        ({"older_than": 0.0, "model": "b"}, [0]),
        ({"keep": 3}, [0, 1, 2]),
    ],
)
def test_pruning_deletes_what_matches(filled, options, left):
    """Model, endpoint and age must all match; other completions are kept."""
    # The clock stands at the last request, two days after the first.
    assert filled.prune(**options) == 9 - 3 * len(left)
    completions, requests = contents(filled)
    keys = {
        request_key(day, model, endpoint).digest: day
        for day, (model, endpoint) in enumerate([("a", "x"), ("b", "x"), ("b", "y")])
    }
    assert sorted(keys[row[0]] for row in requests) == left
    assert sorted(keys[row[0]] for row in completions) == sorted(left * 3)


def test_pruning_can_keep_some_samples(filled):
    """The first ones of each matching request, by index."""
    assert filled.prune(model="b", keep=1) == 4
    assert filled.get(request_key(1, "b", "x").digest, 9) == {0: said("1 0")}
    assert len(filled.get(request_key(0, "a", "x").digest, 9)) == 3
    assert filled.prune(keep=1) == 2
    assert len(filled) == 3


def test_pruning_shrinks_the_file(tmp_path):
    """File and log shrink immediately, not when the store is closed."""
    path = tmp_path / "store.db"
    store = CompletionStore(path)
    for number in range(200):
        store.put(request_key(number, "ab"[number % 2]), {0: said("x" * 10_000)})
    full = size(path)
    assert store.prune(model="a") == 100
    assert path.stat().st_size < 1.4e6
    assert size(path) < 0.5 * full
    assert len(store) == 100
    store.close()


def test_pruning_frees_space_even_if_the_file_cannot_shrink(tmp_path, caplog):
    """If VACUUM fails, completions are deleted, and a warning explains the size."""
    path = tmp_path / "store.db"
    store = CompletionStore(path)
    for number in range(100):
        store.put(request_key(number), {0: said("x" * 10_000)})
    blocker = sqlite3.connect(path)
    blocker.execute("PRAGMA journal_mode").fetchone()
    store._database.connection.execute("PRAGMA busy_timeout=10")
    # Writers wait for it, readers do not; it begins after the rows are gone.
    store._database.connection.set_trace_callback(
        lambda sql: blocker.execute("BEGIN IMMEDIATE") if sql == "VACUUM" else None
    )
    with caplog.at_level(logging.WARNING):
        assert store.prune() == 100
    assert "could not be shrunk" in caplog.text
    blocker.close()
    store._database.connection.set_trace_callback(None)
    before = path.stat().st_size
    for number in range(50):
        store.put(request_key(number), {0: said("x" * 10_000)})
    assert path.stat().st_size == before
    store.close()


def _put_many(target, number):
    store = CompletionStore(target)
    for index in range(60):
        store.put(request_key(index, f"m{number}"), {0: said("x" * 500)})
    store.close()


@pytest.mark.slow
def test_others_write_while_one_prunes(target):
    """Two processes write while a third model is pruned; no other completion is lost."""
    store = CompletionStore(target)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put_many, args=(target, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    forgotten, rounds = 0, 0
    while any(worker.is_alive() for worker in workers):
        store.put(request_key(rounds, "scrap"), {i: said() for i in range(5)})
        forgotten += store.prune(model="scrap")
        rounds += 1
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert forgotten == 5 * rounds
    assert [(h.model, h.requests, h.samples) for h in store.holdings()] == [
        ("m0", 60, 60),
        ("m1", 60, 60),
    ]
    store.close()


def test_threads_put_get_and_prune(target):
    """Eight threads use one store concurrently; none fails, and no completion is lost."""
    store = CompletionStore(target)
    errors = []

    def work(number):
        try:
            for index in range(40):
                store.put(request_key(index, f"m{number}"), {0: said(f"{number}")})
                store.put(request_key(index, "scrap"), {number: said()})
                assert store.get(request_key(index, f"m{number}").digest, 1)[0].text == f"{number}"
                if index % 20 == 0:
                    store.prune(model="scrap")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    side_by_side(threads)
    assert not errors
    store.prune(model="scrap")
    assert len(store) == 320
    store.close()


@pytest.mark.slow
def test_memory_stays_flat(target):
    """Memory does not grow with the number of requests that are stored and read."""
    store = CompletionStore(target)

    def work(start, count):
        for number in range(start, start + count):
            request = request_key(number)
            store.put(request, {0: said("x" * 200)})
            assert store.get(request.digest, 1)

    work(0, 100)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    work(100, 20_000 if isinstance(target, Path) else 2_000)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000
    assert peak - before < 300_000
    store.close()


# Files that cannot be written.


def _fill_up(path, results):
    """Write until files may not grow, then until they may again; runs in a child process."""
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = CompletionStore(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, unlimited[1]))
    written, message = 0, ""
    try:
        for number in range(1000):
            store.put(request_key(number), {0: said("x" * 5000)})
            written += 1
    except StoreError as error:
        message = str(error)
    with pytest.raises(StoreError):
        store.check()
    kept = all(store.get(request_key(number).digest, 1) for number in range(written))
    digest = request_key(written).digest
    half = store._database.rows("SELECT * FROM completions WHERE key = ?", (digest,))
    received = store.get(digest, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    store.check()
    for number in range(written, written + 100):
        store.put(request_key(number), {0: said("x" * 5000)})
    results.put((written, message, kept, half, received, len(store)))
    store.close()


@FORK
def test_a_full_disk_keeps_stored_completions(tmp_path):
    """Writing fails with a remedy, keeps what is stored, and works again with free space.

    A limit on the size of files simulates the full disk.
    """
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    worker = context.Process(target=_fill_up, args=(tmp_path / "store.db", results))
    worker.start()
    written, message, kept, half, received, total = results.get(timeout=300)
    worker.join()
    assert 10 < written < 100
    assert "cannot be written" in message
    assert "free disk space" in message
    assert kept
    assert half == []
    assert received == {0: said("x" * 5000)}
    assert total == written + 100
    store = CompletionStore(tmp_path / "store.db")
    assert len(store) == total
    store.close()


def _search(objective, trials, storage=None):
    study = optuna.create_study(
        direction="maximize",
        sampler=AgentTTSSampler(objective.task, seed=0),
        storage=storage,
        study_name="s",
        load_if_exists=True,
    )
    study.optimize(objective, n_trials=trials)
    return study


def _search_on_a_full_disk(path, results):
    store = CompletionStore(path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    objective, chats = make_objective(store=store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, unlimited[1]))
    storage = optuna.storages.InMemoryStorage()
    try:
        _search(objective, 20, storage)
        message = ""
    except StoreError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    lost = calls(chats) - len(store)
    study = _search(objective, 3, storage)
    again = calls(chats) - sum(len(set(chat.calls)) for chat in chats.values())
    objective.close()
    store.close()
    results.put((message, [trial.state.name for trial in study.trials], lost, again))


@FORK
def test_a_search_resumes_after_a_full_disk(tmp_path):
    """The trial with the full disk fails; later ones reuse the completions stored before."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    path = tmp_path / "store.db"
    worker = context.Process(target=_search_on_a_full_disk, args=(path, results))
    worker.start()
    message, states, lost, again = results.get(timeout=300)
    worker.join()
    assert "cannot be written" in message
    assert states.count("FAIL") == 1
    assert states[-3:] == ["COMPLETE"] * 3
    # Generated twice is at most what was under way when the disk was full.
    assert 0 <= again <= lost


READ_ONLY = """
import os, sys
from optuna_agenttts_integrations import CompletionStore, StoreError
from optuna_agenttts_integrations.calls.store import RequestKey
from optuna_agenttts.llm import Completion, Usage
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
key = RequestKey("e", 0, '{"model":"m","n":0}')
try:
    store = CompletionStore(sys.argv[1])
except StoreError as error:
    print("opening:", error)
    raise SystemExit
print("samples:", len(store.get(key.digest, 1)))
for attempt in (store.check, lambda: store.put(key, {1: Completion("x", Usage(1, 1))})):
    try:
        attempt()
    except StoreError as error:
        print("writing:", error)
store.close()
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions are those of POSIX")
@pytest.mark.parametrize("folder_mode", [0o777, 0o555])
def test_a_file_that_cannot_be_written_is_named(folder_mode):
    """Opening it fails; or it can be read, and writing fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.db")
        store = CompletionStore(path)
        store.put(request_key(), {0: said()})
        store.close()
        path.chmod(0o444)
        Path(folder).chmod(folder_mode)
        before = path.read_bytes()
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=300,
        )
        Path(folder).chmod(0o755)
        assert path.read_bytes() == before
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    lines = done.stdout.splitlines()
    if lines[0].startswith("opening:"):
        assert "give the path of a writable" in lines[0]
    else:
        assert lines[0] == "samples: 1"
        assert len([line for line in lines if "cannot be written" in line]) == 2


@pytest.mark.parametrize("name", [".", "missing/store.db"])
def test_an_invalid_path_is_named(tmp_path, name):
    """A folder, or a file in a missing folder."""
    path = tmp_path / name
    with pytest.raises(StoreError, match="cannot be opened as a completion store") as caught:
        CompletionStore(path)
    assert str(path) in str(caught.value)


# Replay.


class Raises:
    """Chat model that must not be called."""

    async def complete(self, request, *, seed):
        """Fail."""
        raise AssertionError("asked")


MUTE = {"small": Raises(), "large": Raises()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the store of a finished search, with the search's values and parameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = tmp_path_factory.mktemp("finished") / "store.db"
    objective, _ = make_objective(store=CompletionStore(path))
    with objective:
        study = _search(objective, 8)
        objective.store.close()
    return path, [(trial.value, trial.params) for trial in study.trials]


@pytest.mark.parametrize("replay", [True, False])
def test_a_finished_search_runs_again_without_a_request(finished, replay):
    """With equal sampler and seed, the store alone gives equal trials and values."""
    path, trials = finished
    objective, _ = make_objective(store=CompletionStore(path), chats=MUTE, replay=replay)
    with objective:
        study = _search(objective, 8)
        objective.store.close()
    assert [(trial.value, trial.params) for trial in study.trials] == trials
    assert {trial.user_attrs["spend"] for trial in study.trials} == {0}
    assert {trial.user_attrs["reused"] for trial in study.trials} == {1}


def test_a_search_runs_again_from_an_export(finished, tmp_path):
    """An export of one machine can be replayed on another."""
    path, trials = finished
    with_all = CompletionStore(path)
    with_all.export(tmp_path / "all.jsonl")
    with_all.close()
    store = CompletionStore()
    store.load(tmp_path / "all.jsonl")
    objective, _ = make_objective(store=store, chats=MUTE, replay=True)
    with objective:
        study = _search(objective, 8)
        assert [(trial.value, trial.params) for trial in study.trials] == trials
    store.close()


def test_a_replay_names_missing_samples(finished):
    """Other instances, seeds or endpoints lead to requests that are not stored."""
    path, _ = finished
    for options in ({"count": 21}, {"seed": 1}):
        objective, _ = make_objective(
            store=CompletionStore(path), chats=MUTE, replay=True, **options
        )
        with objective, pytest.raises(StoreError, match="instances, seed and endpoints") as caught:
            objective.evaluate(allocation())
        assert str(path) in str(caught.value)
        objective.store.close()
