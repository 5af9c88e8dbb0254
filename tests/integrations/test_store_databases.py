"""What a completion store guarantees, on SQLite and on PostgreSQL."""

import asyncio
import logging
import multiprocessing
import os
import pickle
import random
import re
import shlex
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from forking_support import in_fork
from pipeline_support import allocation, calls, make_objective, side_by_side
from postgresql_support import new_database
from store_support import contents, request_key, said

from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import CompletionStore, StoreError
from optuna_agenttts_integrations.calls import store_postgresql
from optuna_agenttts_integrations.cli import main

FORK = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
)


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path, monkeypatch):
    """Keep files of completions that cannot be written out of the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(target):
    """Yield a new store of each kind of database."""
    made = CompletionStore(target)
    yield made
    made.close()


def change(store, sql, *values):
    """Change rows behind the store's back."""
    store._database.write(lambda transaction: transaction.change(sql, values))


def is_file(target):
    """Return whether a target is an SQLite file."""
    return isinstance(target, Path)


def disconnect(target):
    """End all connections to a PostgreSQL database."""
    import psycopg

    server, _, name = target.replace("+psycopg", "").rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )


def allow_writes(store, target, allowed):
    """Make a database read-only for a store, or writable again."""
    if is_file(target):
        store._database.connection.execute(f"PRAGMA query_only={not allowed}")
        return
    import psycopg

    server, _, name = target.replace("+psycopg", "").rpartition("/")
    value = "off" if allowed else "on"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
    disconnect(target)


# The first reply counts.


def test_put_returns_what_is_stored(store):
    """The first reply to a sample stays, and later writers receive it."""
    first, later = said("first"), said("later")
    assert store.put(request_key(), {0: first, 2: first}) == {0: first, 2: first}
    assert store.put(request_key(), {0: later}) == {0: first}
    assert store.put(request_key(), {0: later, 1: later, 3: later}) == {
        0: first,
        1: later,
        3: later,
    }
    assert store.get(request_key().digest, 9) == {0: first, 1: later, 2: first, 3: later}
    assert store.put(request_key(), {}) == {}
    assert store.put(request_key(9), {0: Completion("cut", Usage(1, 1), "abort")}) == {}


def _put_own(target, number, barrier, results):
    barrier.wait(300)
    store = CompletionStore(target)
    # Some overlap, in another order in each process.
    indices = random.Random(number).sample(range(20), 15)
    held = {}
    for part in range(0, 15, 5):
        values = {index: said(f"{number}") for index in indices[part : part + 5]}
        held.update(store.put(request_key(), values))
    results.put(held)
    store.close()


@FORK
def test_processes_that_write_the_same_samples_agree(new_target):
    """They open a new store at the same time, and each receives the reply that is kept."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    place = new_target()
    workers = [
        context.Process(target=_put_own, args=(place, number, barrier, results))
        for number in range(8)
    ]
    for worker in workers:
        worker.start()
    received = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    store = CompletionStore(place)
    stored = store.get(request_key().digest, 20)
    for held in received:
        assert held == {index: stored[index] for index in held}
    store.close()


# Rows that cannot be read.

BAD = ["", "{", "null", "[]", '["a", 1]', '["a", "b", 1, "stop"]', '["a", -1, 1, "stop"]', "[" * 9]


@pytest.mark.parametrize("bad", BAD)
def test_a_row_that_cannot_be_read_is_named_and_generated_again(store, bad, caplog, tmp_path):
    """The other samples of the request are kept, and totals and exports leave it out."""
    key = request_key().digest
    store.put(request_key(), {0: said("a"), 1: said("b"), 2: said("c")})
    change(store, "UPDATE completions SET value = ? WHERE sample = 1", bad)
    assert store.export(tmp_path / "lines") == 1
    assert "Sample 1 of request" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert store.get(key, 9) == {0: said("a"), 2: said("c")}
    assert f"Sample 1 of request {key} in the store {store.path!r} cannot be read" in caplog.text
    assert store._database.rows("SELECT key, sample, value FROM quarantine") == [(key, 1, bad)]
    assert store.quarantined() == 1
    assert [held.samples for held in store.holdings()] == [2]
    assert store.put(request_key(), {1: said("again")}) == {1: said("again")}
    assert sorted(store.get(key, 9)) == [0, 1, 2]
    change(store, "UPDATE completions SET value = ? WHERE sample = 1", bad)
    assert sum(held.samples for held in store.holdings()) in (2, 3)


def test_bytes_that_are_no_text_do_not_hide_other_rows(tmp_path):
    """A damaged file of SQLite may hold a text that is not UTF-8."""
    store = CompletionStore(tmp_path / "store.db")
    store.put(request_key(), {0: said("a"), 1: said("b")})
    change(store, "UPDATE completions SET value = CAST(X'5B22FF' AS TEXT) WHERE sample = 0")
    assert store.get(request_key().digest, 2) == {1: said("b")}
    assert store.quarantined() == 1
    store.close()


def test_a_search_pays_again_only_for_the_row_that_cannot_be_read(target):
    """All others are reused."""
    objective, chats = make_objective(store=CompletionStore(target))
    with objective:
        before = objective.evaluate(allocation()).mean
        paid = calls(chats)
        change(
            objective.store,
            "UPDATE completions SET value = '!' WHERE key = (SELECT min(key) FROM completions) "
            "AND sample = 0",
        )
        assert objective.evaluate(allocation()).mean == before
        assert calls(chats) == paid + 1
        assert objective.store.quarantined() == 1
        objective.store.close()


# Stores that vanish.


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_vanishes_is_an_error(tmp_path, how):
    """SQLite itself would write on to the deleted file, and lose it at the end."""
    path = tmp_path / "store.db"
    store, other = CompletionStore(path), CompletionStore(tmp_path / "other.db")
    store.put(request_key(), {0: said()})
    if how == "deleted":
        path.unlink()
    else:
        (tmp_path / "other.db").rename(path)
    uses = [
        lambda: store.get(request_key().digest, 1),
        lambda: store.put(request_key(1), {0: said()}),
        lambda: len(store),
        lambda: in_fork(store.get, request_key().digest, 1),
    ]
    for use in uses:
        with pytest.raises(StoreError, match=f"was {how}.*while it was in use"):
            use()
    assert path.exists() == (how == "replaced")
    store.close()
    other.close()


@pytest.mark.parametrize("size", [0, 5_000])
def test_a_truncated_file_is_an_error(tmp_path, size):
    """SQLite itself would go on with the pages that it has read, and write after them."""
    store = CompletionStore(tmp_path / "store.db")
    for number in range(100):
        store.put(request_key(number), {0: said()})
    store._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert len(store) == 100
    os.truncate(tmp_path / "store.db", size)
    for _ in range(2):
        with pytest.raises(StoreError, match="was truncated while it was in use"):
            store.get(request_key().digest, 1)
    store.close()


def test_a_file_that_others_prune_is_intact(tmp_path):
    """It becomes smaller, too."""
    first, second = (CompletionStore(tmp_path / "store.db") for _ in range(2))
    for number in range(200):
        first.put(request_key(number), {0: said("x" * 1000)})
    first._database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert len(second) == 200
    size = (tmp_path / "store.db").stat().st_size
    assert first.prune() == 200
    assert (tmp_path / "store.db").stat().st_size < size
    assert len(second) == 0
    second.put(request_key(), {0: said()})
    assert len(first) == 1
    first.close()
    second.close()


def test_names_of_one_file(tmp_path, monkeypatch):
    """Symbolic links and relative paths are the same store; hard links are refused."""
    path = tmp_path / "store.db"
    store = CompletionStore(path)
    (tmp_path / "link.db").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for name in ("link.db", "store.db", "sqlite:///store.db"):
        other = CompletionStore(name)
        other.put(request_key(name), {0: said()})
        assert store.get(request_key(name).digest, 1)
        other.close()
    os.link(path, tmp_path / "hard.db")
    with pytest.raises(StoreError, match=r"has several names.*give a copy"):
        CompletionStore(tmp_path / "hard.db")
    store.close()


def test_tables_that_vanish_are_an_error(postgresql_server):
    """Dropped, and made again by another process."""
    place = new_database(postgresql_server)
    store = CompletionStore(place)
    store.put(request_key(), {0: said()})
    for table in ("completions", "requests", "leases", "quarantine"):
        change(store, f"DROP TABLE {table}")
    for use in (lambda: store.get("a", 1), lambda: store.put(request_key(1), {0: said()})):
        with pytest.raises(StoreError, match="has lost its tables while it was in use"):
            use()
    change(store, "DROP TABLE agenttts_store")
    other = CompletionStore(place)
    with pytest.raises(StoreError, match="was replaced by another one while it was in use"):
        store.get(request_key().digest, 1)
    assert other.get(request_key().digest, 1) == {}
    store.close()
    other.close()


# Connections.


def test_a_lock_that_is_never_released_is_an_error(postgresql_server, monkeypatch):
    """As that of a transaction which someone has left open."""
    import psycopg

    monkeypatch.setattr(store_postgresql, "PATIENCE", 0.5)
    place = new_database(postgresql_server)
    store = CompletionStore(place)
    with psycopg.connect(place.replace("+psycopg", "")) as connection:
        connection.execute("LOCK TABLE agenttts_completions")
        with pytest.raises(StoreError, match=r"cannot be read.*lock timeout"):
            store._database._repeated(lambda t: t.rows("SELECT 1 FROM completions"), "read", 0.4)
    assert store.get(request_key().digest, 1) == {}
    store.close()


def test_lost_connections_are_opened_again(postgresql_server):
    """As after a restart of the server; neither reads nor writes fail."""
    place = new_database(postgresql_server)
    store = CompletionStore(place)
    for number in range(3):
        store.put(request_key(number), {0: said()})
        disconnect(place)
        assert store.get(request_key(number).digest, 1) == {0: said()}
        disconnect(place)
    assert len(store) == 3
    store.close()


def test_a_server_that_is_away_is_waited_for(postgresql_server):
    """A call that begins while connections are refused returns when they are accepted."""
    import psycopg

    place = new_database(postgresql_server)
    server = place.replace("+psycopg", "").rpartition("/")[0]

    def allow(allowed):
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"ALTER ROLE worker {'LOGIN' if allowed else 'NOLOGIN'}")

    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE ROLE worker LOGIN SUPERUSER")
    store = CompletionStore(place.replace("postgres@", "worker@"))
    store.put(request_key(), {0: said()})
    allow(False)
    disconnect(place)
    timer = threading.Timer(0.5, allow, (True,))
    timer.start()
    try:
        found = store.get(request_key().digest, 1)
    finally:
        timer.join()
    assert found == {0: said()}
    store.close()


def test_a_program_need_not_close_its_store(postgresql_server):
    """Nothing is printed at the end of the interpreter, when modules are gone."""
    program = (
        "from optuna_agenttts_integrations import CompletionStore\n"
        f"store = CompletionStore({new_database(postgresql_server)!r})\n"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""


@FORK
def test_a_fork_uses_its_own_connections(store):
    """Parent and child read and write at the same time, on either side of the fork."""
    store.put(request_key(), {0: said("parent")})

    def child():
        for number in range(1, 30):
            store.put(request_key(number), {0: said("child")})
        return store.get(request_key().digest, 1)[0].text

    def parent():
        for number in range(30, 60):
            store.put(request_key(number), {0: said("parent")})

    assert in_fork(child, while_running=parent) == "parent"
    assert len(store) == 59 + 1


@FORK
def test_forks_while_threads_write(store):
    """No child waits for a lock or a connection of its parent's threads."""
    stop = threading.Event()

    def write(first):
        number = first
        while not stop.is_set():
            store.put(request_key(number), {0: said()})
            number += 10

    threads = [threading.Thread(target=write, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):
            key = request_key(f"child {number}")
            assert in_fork(store.put, key, {0: said()}) == {0: said()}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(store.get(request_key(f"child {number}").digest, 1) for number in range(8))


def test_an_unpickled_store_opens_its_own_connection(store):
    """It sees what the first one writes; on PostgreSQL it knows the same tables."""
    other = pickle.loads(pickle.dumps(store))
    store.put(request_key(), {0: said()})
    assert other.get(request_key().digest, 1) == {0: said()}
    assert other.path == store.path
    other.close()


def test_coroutines_use_a_store_through_run(store):
    """Many at once; a write that has begun ends although its caller is cancelled."""

    async def write(number):
        await store.run(store.put, request_key(number), {0: said()})

    async def work():
        tasks = [asyncio.create_task(write(number)) for number in range(40)]
        await asyncio.sleep(0)
        for task in tasks[20:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(work())
    assert len(store) == 40


# Completions that cannot be written.


def test_completions_that_cannot_be_written_are_kept(store, target, new_target, tmp_path):
    """In the process, which writes them later, and in a file that another process can load."""
    store.put(request_key(), {0: said("stored")})
    allow_writes(store, target, False)
    for number in (1, 2):
        with pytest.raises(StoreError, match="cannot be written") as caught:
            store.put(request_key(number), {0: said(f"kept {number}"), 1: said()})
        assert f"{2 * number} completions that were received" in str(caught.value)
    file = Path(re.search(r"in '([^']*\.jsonl)'", str(caught.value)).group(1))
    assert file.stat().st_mode & 0o077 == 0
    # The command of the message is one of a shell, also where names have spaces.
    command = shlex.split(re.search(r"by `(.*)`", str(caught.value)).group(1))
    assert command == ["agenttts", "store", "load", str(file), "--path", store.path]
    for number in (1, 2):
        assert store.get(request_key(number).digest, 1) == {0: said(f"kept {number}")}
    other = CompletionStore(new_target())
    assert other.load(file) == 2
    assert other.get(request_key(2).digest, 2) == {0: said("kept 2"), 1: said()}
    assert len(store) == 1
    allow_writes(store, target, True)
    assert store.put(request_key(1), {0: said("later")}) == {0: said("kept 1")}
    assert len(store) == 5
    assert not file.exists()
    other.close()


def test_the_file_of_a_child_is_not_that_of_its_parent(tmp_path):
    """Both keep what they received, until each of them has written it."""
    path = tmp_path / "store.db"
    store = CompletionStore(path)

    def fail(number):
        store._database.rows("SELECT 1")
        store._database.connection.execute("PRAGMA query_only=1")
        with pytest.raises(StoreError):
            store.put(request_key(number), {0: said()})

    def child():
        fail(1)
        store._database.connection.execute("PRAGMA query_only=0")
        store.put(request_key(2), {0: said()})
        return len(store)

    fail(0)
    files = list(tmp_path.glob("*.jsonl"))
    assert in_fork(child) == 3
    assert list(tmp_path.glob("*.jsonl")) == files
    store._database.rows("SELECT 1")
    store.put(request_key(3), {0: said()})
    assert (len(store), list(tmp_path.glob("*.jsonl"))) == (4, [])
    store.close()


def test_without_space_for_a_file_completions_stay_in_the_process(tmp_path, monkeypatch):
    """The error says so."""
    store = CompletionStore(tmp_path / "store.db")
    store._database.connection.execute("PRAGMA query_only=1")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="kept in this process only"):
            store.put(request_key(), {0: said()})
    assert list(tmp_path.glob("*.jsonl")) == []
    store._database.connection.execute("PRAGMA query_only=0")
    store.put(request_key(1), {0: said()})
    assert len(store) == 2
    store.close()


def test_a_store_in_memory_writes_no_file(tmp_path):
    """It ends with the process, and so does what was received after it was closed."""
    store = CompletionStore()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.put(request_key(), {0: said()})
    assert list(tmp_path.iterdir()) == []


# Versions and names.


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_read_only_file_of_any_version_can_be_read(tmp_path, monkeypatch, version):
    """And is not changed; writing fails before anything is paid for."""
    path = tmp_path / "old.db"
    store = CompletionStore(path)
    store.put(request_key(), {0: said()})
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        for table in ("leases", "quarantine", "requests")[: 4 - version if version < 3 else 0]:
            connection.execute(f"DROP TABLE {table}")
        connection.execute(f"PRAGMA user_version={version}")
    before = path.read_bytes()
    # Permissions do not bind root.
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = CompletionStore(path)
    assert store.get(request_key().digest, 1) == {0: said()}
    assert [held.samples for held in store.holdings()] == [1]
    assert store.quarantined() == 0
    for write in (
        store.check,
        lambda: store.put(request_key(1), {0: said()}),
        lambda: store.leases.acquire(request_key().digest, [1]),
    ):
        with pytest.raises(StoreError, match="its file is read-only"):
            write()
    store.close()
    assert path.read_bytes() == before


def test_a_store_of_version_2_is_upgraded(tmp_path):
    """Its completions are found, and the tables of version 3 are added."""
    path = tmp_path / "old.db"
    store = CompletionStore(path)
    store.put(request_key(), {0: said()})
    store.close()
    connection = sqlite3.connect(path)
    for table in ("leases", "quarantine"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("PRAGMA user_version=2")
    connection.close()
    store = CompletionStore(path)
    assert store.get(request_key().digest, 1) == {0: said()}
    assert store._database.rows("SELECT * FROM leases") == []
    assert store.quarantined() == 0
    store.close()


def test_a_later_version_in_postgresql_is_refused(postgresql_server):
    place = new_database(postgresql_server)
    store = CompletionStore(place)
    change(store, "UPDATE agenttts_store SET version = 99")
    store.close()
    with pytest.raises(StoreError, match=r"version 99.*version 3"):
        CompletionStore(place)


def test_a_database_may_hold_study_and_store(postgresql_server):
    """Tables of the store have names of their own."""
    place = new_database(postgresql_server)
    objective, _ = make_objective(store=CompletionStore(place))
    with objective:
        study = optuna.create_study(storage=place, direction="maximize")
        study.enqueue_trial(objective.task.params(allocation()))
        study.optimize(objective, n_trials=1)
        assert len(objective.store) > 0
        objective.store.close()
    study._storage._backend.engine.dispose()


def test_urls_of_sqlite_are_paths(tmp_path):
    store = CompletionStore(f"sqlite:///{tmp_path}/store.db")
    store.put(request_key(), {0: said()})
    store.close()
    same = CompletionStore(tmp_path / "store.db")
    assert len(same) == 1
    same.close()


def test_passwords_are_neither_shown_nor_pickled(postgresql_server):
    place = new_database(postgresql_server)
    secret = "hidden-word"
    url = place.replace("postgres@", f"postgres:{secret}@")
    store = CompletionStore(f"{url}?sslpassword={secret}")
    assert secret.encode() not in pickle.dumps(store)
    other = pickle.loads(pickle.dumps(store))
    change(store, "DROP TABLE completions")
    with pytest.raises(StoreError) as caught:
        len(store)
    assert secret not in store.path + other.path + str(caught.value)
    assert "postgres:***@" in store.path or "postgres@" in other.path
    store.close()
    other.close()


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://u:hidden-word@127.0.0.1:1/x",
        "postgresql+psycopg://u:hidden-word@127.0.0.1:1/x?sslpassword=hidden-word",
        "postgres://u:a@hidden-word@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=u&password=hidden-word",
        "mysql://u:hidden-word@127.0.0.1/x",
        "postgresql://u:hidden-word@127.0.0.1:port/x",
    ],
)
def test_an_unusable_url_is_named_without_its_password(given):
    with pytest.raises(StoreError, match="`target`") as caught:
        CompletionStore(given)
    assert "hidden" not in str(caught.value)


def test_the_command_line_takes_urls(postgresql_server, tmp_path, capsys):
    """Stores move between files and databases, and looking at one does not create it."""
    file = tmp_path / "store.db"
    first = CompletionStore(file)
    first.put(request_key(), {0: said(), 1: said()})
    url, lines = new_database(postgresql_server), str(tmp_path / "lines")
    for action in (["show"], ["prune", "--all"], ["export", lines]):
        assert main(["store", *action, "--path", url]) == 1
        assert "does not exist" in capsys.readouterr().err
    assert main(["store", "export", lines, "--path", str(file)]) == 0
    assert main(["store", "load", lines, "--path", url]) == 0
    second = CompletionStore(url)
    assert contents(second) == contents(first)
    capsys.readouterr()
    change(second, "UPDATE completions SET value = '!' WHERE sample = 1")
    assert main(["store", "show", "--path", url]) == 0
    assert "1 rows could not be read" in capsys.readouterr().out
    assert main(["store", "prune", "--keep", "1", "--path", url]) == 0
    assert "0 completions deleted, 1 left" in capsys.readouterr().out
    first.close()
    second.close()


def test_threads_of_one_store_do_not_wait_for_each_others_network(postgresql_server):
    """More threads than connections: each gets its turn."""
    store = CompletionStore(new_database(postgresql_server))
    threads = [
        threading.Thread(target=lambda n=n: store.put(request_key(n), {0: said()}))
        for n in range(20)
    ]
    side_by_side(threads)
    assert len(store) == 20
    store.close()
