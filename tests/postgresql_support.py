"""Starts PostgreSQL for a test."""

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager

import pytest


@contextmanager
def postgresql(*, fsync=False):
    """Start a temporary PostgreSQL server on loopback; skip the test if none is installed."""
    found = shutil.which("initdb") or shutil.which(
        "initdb", path=os.pathsep.join(f"/usr/lib/postgresql/{v}/bin" for v in range(18, 12, -1))
    )
    # PostgreSQL refuses to run as root.
    root = os.getuid() == 0
    if found is None or (root and shutil.which("runuser") is None):
        pytest.skip("needs PostgreSQL")
    pytest.importorskip("psycopg")
    tools = os.path.dirname(found)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp()
    if root:
        shutil.chown(folder, "postgres", "postgres")
    as_user = ["runuser", "-u", "postgres", "--"] if root else []
    data = f"{folder}/data"
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync={'on' if fsync else 'off'}"
    quiet = {"check": True, "cwd": "/", "stdout": subprocess.DEVNULL}
    subprocess.run(
        [*as_user, f"{tools}/initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync"],
        **quiet,
    )
    control = [*as_user, f"{tools}/pg_ctl", "-D", data]
    subprocess.run([*control, "-w", "-l", f"{folder}/log", "-o", options, "start"], **quiet)
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_server():
    """Yield the URL of a database of a server that all tests share."""
    with postgresql() as url:
        yield url


_numbers = itertools.count()


def new_database(server):
    """Create a database on a server, and return its URL."""
    import psycopg

    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server.rpartition('/')[0]}/{name}"
