"""Workers that are killed, interrupted, out of disk, or many."""

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import time
from pathlib import Path

import pytest
from postgresql_support import postgresql
from storages_support import _serve
from stress_support import (
    Place,
    audit,
    create_study,
    end,
    finish,
    fork,
    in_fork,
    objective_of,
    read_audit,
    run_trials,
    shorten_leases,
    temporary_folder,
    wait_for_calls,
    warm_up,
)

from optuna_agenttts_integrations import CompletionStore, StoreError
from optuna_agenttts_integrations.playground import make_task

WORKERS = 4
KILLS_PER_EPOCH = 10


class NotAvailable(Exception):
    """A part cannot run on this machine."""


@contextlib.contextmanager
def place_of(kind):
    """Yield a place of a kind: sqlite, postgresql or grpc."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(temporary_folder()))
        place = Place(folder, f"sqlite:///{folder}/study.db", f"{folder}/store.db")
        if kind == "postgresql":
            try:
                url = stack.enter_context(postgresql())
            except pytest.skip.Exception as error:
                raise NotAvailable(str(error)) from None
            place = Place(folder, url, url)
        if kind == "grpc":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            context = multiprocessing.get_context("spawn")
            server = context.Process(target=_serve, args=(place.storage, port), daemon=True)
            server.start()
            stack.callback(server.terminate)
            place = Place(folder, place.storage, place.store, port)
        in_fork(place, create_study, place)
        warm_up()
        yield place


def kills(kind, count, rng):
    """Kill random workers of a search, and start others in their place."""
    shorten_leases()
    with place_of(kind) as place:
        running, killed = [], 0
        try:
            while killed < count:
                while len(running) < WORKERS:
                    running.append(fork(place, run_trials, place, killed // KILLS_PER_EPOCH))
                pid = rng.choice(wait_for_calls(place, running))
                # However slow the machine is, every second kill follows a finished trial.
                deadline = time.monotonic() + 60
                while 2 * len(place.lines("finished")) < killed and time.monotonic() < deadline:
                    time.sleep(0.05)
                time.sleep(rng.uniform(0.0, 1.2))
                running.remove(pid)
                if os.waitpid(pid, os.WNOHANG)[0]:
                    continue
                end(place, pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                killed += 1
        finally:
            for pid in running:
                end(place, pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        return _results(place, killed + len(running), "kills")


def signals(number, count, rng):
    """Interrupt or terminate one worker after the other."""
    shorten_leases()
    with place_of("sqlite") as place:
        slowest, hanging, again = 0.0, 0, 0
        for done in range(count):
            pid = fork(place, run_trials, place, done // 5)
            wait_for_calls(place, [pid])
            time.sleep(rng.uniform(0.0, 3.0))
            end(place, pid, number)
            started = time.monotonic()
            if finish(pid, 10, kill=False) is None:
                # Python ignores a KeyboardInterrupt in a callback of a weak reference.
                again += 1
                end(place, pid, number)
                hanging += finish(pid, 60) is None
            slowest = max(slowest, time.monotonic() - started)
        found, failed = _results(place, count, "signals")
        text = f"{found}; {again} signals sent again; the slowest ended after {slowest:.1f} s"
        return text, failed or bool(hanging)


def _results(place, events, name):
    """Continue the search, audit it, and return a text and whether something was lost."""
    errors = place.lines("errors")
    in_fork(place, run_trials, place, 10_000, 2)
    in_fork(place, audit, place)
    found = read_audit(place)
    complete, running = found.get("COMPLETE", 0), found.get("RUNNING", 0)
    text = (
        f"{events} {name}; {found['PAID']:,} completions paid, {found['LOST']} of those stored "
        f"lost, {found['TWICE']} paid twice, {found['AGAIN']} in flight paid again"
        f"{_age(found)}; {complete:,} trials complete, {found['NO_VALUE']} without a value, "
        f"{found.get('FAIL', 0)} failed, {running} left running; {found.get('DAMAGED', 0)} files "
        f"damaged; {len(errors)} errors of workers"
    )
    if errors:
        text += f" ({errors[0][:120]})"
    failed = any(found.get(key) for key in ("LOST", "TWICE", "NO_VALUE", "DAMAGED")) or errors
    # Workers that are ended before they complete trials would prove nothing.
    return text, bool(failed or complete < events / 3)


def _age(found):
    """Return how long before the end of their workers replies came that are paid again."""
    return f" (received at most {found['AGE']:.2f} s before)" if found["AGAIN"] else ""


def workers(kind, count, rng):
    """Run many workers on one study and one store."""
    with place_of(kind) as place:
        pids = [fork(place, run_trials, place, 0, 4) for _ in range(count)]
        codes = [finish(pid, 900) for pid in pids]
        in_fork(place, audit, place)
        found = read_audit(place)
        text = (
            f"{count} workers, {found.get('COMPLETE', 0)} of {4 * count} trials complete; "
            f"{found['PAID']:,} completions paid, {found['TWICE']} twice, {found['LOST']} lost"
        )
        failed = any(codes) or found["LOST"] or found.get("COMPLETE", 0) != 4 * count
        return text, bool(failed or found["TWICE"])


def full_disk(count, rng):
    """Let the store run out of disk space, and count what was received and is neither kept."""
    received = lost = refused = 0
    for _ in range(count):
        with place_of("sqlite") as place:
            limit = rng.randrange(50_000, 1_000_000)
            finish(fork(place, _until_full, place, limit), 120)
            refused += bool(place.lines("full"))
            in_fork(place, _reload, place)
            found = read_audit(place)
            received += found["PAID"]
            lost += found["PAID"] - found["HELD"]
    text = (
        f"{count} disks, {refused} with an error that names the remedy; {received:,} "
        f"completions received, {lost} neither in the store nor in the file of the error"
    )
    return text, bool(lost or refused < count)


def _until_full(place, limit):
    """Evaluate allocations until no file may grow; the study is in memory."""
    objective = objective_of(place)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    task = make_task()
    try:
        for samples in range(1, 1000):
            allocation = {
                stage.name: (stage.models[-1].name, min(samples, stage.max_samples))
                for stage in task.stages
            }
            objective.evaluate(allocation)
            objective = objective_of(place, samples)
    except StoreError as error:
        place.log("full", " ".join(str(error).split()))


def _reload(place):
    """Load what was kept in files, and log how many completions the store holds."""
    store = CompletionStore(place.store)
    for path in place.folder.glob("*.jsonl"):
        store.load(path)
    place.log("audit", f"HELD {len(store)}")
    store.close()
