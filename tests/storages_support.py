"""Storages that several machines can share, for tests."""

import multiprocessing
import socket
from contextlib import contextmanager

import pytest
from optuna.storages import (
    GrpcStorageProxy,
    InMemoryStorage,
    JournalStorage,
    RDBStorage,
    run_grpc_proxy_server,
)
from optuna.storages.journal import JournalFileBackend
from postgresql_support import postgresql


@contextmanager
def open_memory(folder):
    """Open a storage in memory."""
    yield InMemoryStorage()


@contextmanager
def open_sqlite(folder):
    """Open an SQLite file."""
    storage = RDBStorage(f"sqlite:///{folder}/study.db")
    yield storage
    storage.engine.dispose()


@contextmanager
def open_journal(folder):
    """Open a journal file."""
    yield JournalStorage(JournalFileBackend(f"{folder}/journal.log"))


@contextmanager
def open_grpc(folder):
    """Open an SQLite file through a gRPC server in another process."""
    pytest.importorskip("grpc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    server = spawn.Process(target=_serve, args=(f"sqlite:///{folder}/grpc.db", port))
    server.start()
    proxy = GrpcStorageProxy(host="127.0.0.1", port=port)
    try:
        proxy.wait_server_ready(timeout=60)
        yield proxy
    finally:
        proxy.close()
        server.terminate()
        server.join()


def _serve(url, port):
    """Serve a database over gRPC until terminated."""
    run_grpc_proxy_server(RDBStorage(url), host="127.0.0.1", port=port)


@contextmanager
def open_postgresql(folder):
    """Open a temporary PostgreSQL server."""
    with postgresql() as url:
        storage = RDBStorage(url)
        yield storage
        storage.engine.dispose()


EVERY_STORAGE = [
    open_memory,
    open_sqlite,
    open_journal,
    pytest.param(open_grpc, marks=pytest.mark.slow),
    pytest.param(open_postgresql, marks=pytest.mark.slow),
]
"""Parameters of a test on every storage."""
