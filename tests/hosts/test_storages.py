"""Searches on the storages that several machines can share, by two workers of one study."""

import multiprocessing
import socket
from contextlib import contextmanager

import optuna
import pytest
from hosts_support import compare, make_sampler, objective, params_of, serve_storage
from optuna.storages import GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from postgresql_support import postgresql


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
    server = spawn.Process(target=serve_storage, args=(f"sqlite:///{folder}/grpc.db", port))
    server.start()
    proxy = GrpcStorageProxy(host="127.0.0.1", port=port)
    try:
        proxy.wait_server_ready(timeout=60)
        yield proxy
    finally:
        proxy.close()
        server.terminate()
        server.join()


@contextmanager
def open_postgresql(folder):
    """Open a temporary PostgreSQL server."""
    with postgresql() as url:
        storage = RDBStorage(url)
        yield storage
        storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("opened", [open_journal, open_grpc, open_postgresql])
def test_storage(opened, tmp_path):
    """The three searches compare as stated, half by one worker and half by another."""
    with opened(tmp_path) as storage:

        def search(name, n_trials):
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
            for _ in range(2):
                worker = optuna.load_study(
                    study_name=name, storage=storage, sampler=make_sampler(name)
                )
                worker.optimize(objective, n_trials=n_trials // 2)
            return params_of(study)

        compare(search)
