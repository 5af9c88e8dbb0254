"""Searches in forked workers whose calls are counted, for the stress program."""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import optuna

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import (
    CompletionStore,
    MultiStageObjective,
    Pipeline,
    StageProgram,
    connect_endpoints,
)
from optuna_agenttts_integrations.calls import leases
from optuna_agenttts_integrations.playground import make_task

INSTANCES = 5
SECONDS_PER_CALL = 0.01
STUDY = "stress"


def temporary_folder():
    """Return a temporary folder in memory if possible: a kill loses nothing that was written."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


@dataclass(frozen=True)
class Place:
    """Storage and store that workers share, and the folder of their logs."""

    folder: Path
    storage: str
    store: str
    grpc_port: int | None = None

    def open_storage(self):
        """Open the storage in this process."""
        if self.grpc_port is not None:
            storage = optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=self.grpc_port)
            storage.wait_server_ready(timeout=60)
            return storage
        if self.storage.startswith("sqlite"):
            options = {"connect_args": {"timeout": 120}}
            return optuna.storages.RDBStorage(self.storage, engine_kwargs=options)
        return optuna.storages.RDBStorage(self.storage)

    def log(self, name, line):
        """Append a line in one system call, which a kill leaves whole."""
        handle = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)

    def lines(self, name):
        """Return the lines of a log."""
        path = self.folder / name
        return path.read_text().split("\n")[:-1] if path.exists() else []


class LoggedChat:
    """Model that logs each reply, which is paid for from then on."""

    def __init__(self, place):
        self.place = place
        self.called = False

    async def complete(self, request, *, seed):
        if not self.called:
            self.called = True
            self.place.log("calling", os.getpid())
        await asyncio.sleep(random.uniform(0.5, 1.5) * SECONDS_PER_CALL)
        digest = hashlib.sha256(f"{request}{seed}".encode()).hexdigest()
        self.place.log("paid", f"{digest} {os.getpid()} {time.monotonic()}")
        return Completion(f"{seed % 3} {digest}", Usage(10, 10))


def objective_of(place, epoch=0):
    """Return the objective; another epoch has other requests, so that calls do not run out."""
    pipeline = Pipeline(
        stages=[
            StageProgram(name="retrieval", prompt=lambda q: f"{epoch} {q.instance}"),
            StageProgram(
                name="answer", prompt=lambda q: f"{epoch} {q['retrieval'][0]} {q.instance}"
            ),
        ],
        score=lambda q: float(q["answer"].startswith("1")),
    )
    task = make_task()
    store = CompletionStore(place.store)
    put = store.put

    def logged_put(key, completions, *arguments, **options):
        found = put(key, completions, *arguments, **options)
        for index, completion in completions.items():
            place.log("stored", f"{key.digest} {index} {completion.text[2:]} {os.getpid()}")
        return found

    store.put = logged_put
    return MultiStageObjective(
        pipeline,
        list(range(INSTANCES)),
        task=task,
        endpoints=connect_endpoints(task, LoggedChat(place)),
        store=store,
        progress=False,
        measure_after=None,
    )


def run_trials(place, epoch, n_trials=None):
    """Run trials of the shared study until killed, or a number of them."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    random.seed(os.getpid())
    sampler = AgentTTSSampler(make_task(), explain=False)
    study = optuna.load_study(study_name=STUDY, storage=place.open_storage(), sampler=sampler)

    def note(study, trial):
        place.log("finished", trial.number)

    study.optimize(objective_of(place, epoch), n_trials=n_trials, callbacks=[note])


def warm_up():
    """Import what a search imports, so that forked workers start at once."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with temporary_folder() as folder:
        place = Place(Path(folder), "sqlite://", ":memory:")
        sampler = AgentTTSSampler(make_task(), explain=False)
        storage = place.open_storage()
        study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
        objective = objective_of(place)
        study.optimize(objective, n_trials=12)
        objective.close()
        storage.engine.dispose()
    optuna.logging.set_verbosity(verbosity)


def shorten_leases():
    """Let workers wait seconds, not half a minute, for the samples of a worker that was killed.

    A loaded machine may stop a process for longer than a second, which ends shorter leases.
    """
    leases.LEASE_SECONDS, leases._RENEWAL_SECONDS = 5.0, 0.5


def end(place, pid, number):
    """Send a signal to a worker, and log when."""
    place.log("ended", f"{pid} {time.monotonic()}")
    os.kill(pid, number)


def fork(place, function, *arguments):
    """Run a function in a forked process; return its process ID. Errors are logged."""
    pid = os.fork()
    if pid:
        return pid
    try:
        # Signals of the parent's handlers are not those of a worker.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        function(*arguments)
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        # Optuna: KeyboardInterrupt during `tell` leaves a variable of a `finally` unset.
        if isinstance(error.__context__, KeyboardInterrupt):
            os._exit(130)
        place.log("errors", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        os._exit(1)


def wait_for_calls(place, pids, timeout=120):
    """Wait until some of the workers call models; return those."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        calling = set(place.lines("calling"))
        if found := [pid for pid in pids if str(pid) in calling]:
            return found
        time.sleep(0.01)
    raise RuntimeError(f"no worker calls a model: {place.lines('errors')[-1:]}")


def finish(pid, timeout, kill=True):
    """Wait for a process; return its exit code, or None if it is still running, and kill it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    if kill:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def in_fork(place, function, *arguments, timeout=600):
    """Run a function in a forked process, so that this process opens no connection."""
    code = finish(fork(place, function, *arguments), timeout)
    if code != 0:
        raise RuntimeError(f"exit code {code}: {place.lines('errors')[-1:]}")


def create_study(place):
    """Create the shared study."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    optuna.create_study(study_name=STUDY, storage=place.open_storage(), direction="maximize")
    # Tables of the store exist before workers race for them.
    CompletionStore(place.store).close()


def audit(place):
    """Log what the study and the store hold, for `read_audit`."""
    study = optuna.load_study(study_name=STUDY, storage=place.open_storage())
    states = [trial.state.name for trial in study.trials]
    for state in set(states):
        place.log("audit", f"{state} {states.count(state)}")
    unfinished = sum(t.state.name == "COMPLETE" and t.value is None for t in study.trials)
    place.log("audit", f"NO_VALUE {unfinished}")
    stored = set(place.lines("stored"))
    store = CompletionStore(place.store)
    indices: dict[str, set[int]] = {}
    for line in stored:
        digest, index, *_ = line.split()
        indices.setdefault(digest, set()).add(int(index))
    lost = 0
    for digest, wanted in indices.items():
        lost += len(wanted - set(store.get(digest, max(wanted) + 1)))
    place.log("audit", f"LOST {lost}")
    place.log("audit", f"HELD {len(store)}")
    store.close()
    if "://" not in place.store:
        with contextlib.closing(sqlite3.connect(place.store)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        place.log("audit", f"DAMAGED {int(found != 'ok')}")


def read_audit(place):
    """Return what `audit` logged, and the replies that were paid, and paid again.

    A reply may be paid again only if each earlier worker that received it was ended before its
    write of it had returned: AGAIN. All others are TWICE. AGE is the longest time from such a
    reply to the end of its worker, in seconds.
    """
    found = {name: int(count) for name, count in (x.split() for x in place.lines("audit"))}
    stored = {tuple(line.split()[2:]) for line in place.lines("stored")}
    ends = {int(pid): float(at) for pid, at in (x.split() for x in place.lines("ended"))}
    paid = defaultdict(list)
    for digest, pid, at in (line.split() for line in place.lines("paid")):
        paid[digest].append((float(at), int(pid)))
    again = twice = 0
    age = 0.0
    for digest, payments in paid.items():
        *earlier, (_, last) = sorted(payments)
        for at, pid in earlier:
            if pid in ends and pid != last and (digest, str(pid)) not in stored:
                again += 1
                age = max(age, ends[pid] - at)
            else:
                twice += 1
    total = sum(map(len, paid.values()))
    counts = {"PAID": total, "AGAIN": again, "TWICE": twice, "AGE": age}
    return {**found, **counts}
