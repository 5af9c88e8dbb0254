"""Runs Python programs that a model wrote: apart, without network, within limits.

bubblewrap (https://github.com/containers/bubblewrap) builds the sandbox from the kernel's
namespaces. What a program can see is the interpreter, `/usr` and its own files; what it can change
is in memory and gone afterwards. Where that cannot be had, nothing is run.

This keeps careless programs from doing harm. It shares the kernel with them, and memory that a
program takes from the kernel rather than for itself is not counted: for programs of somebody who
wants to break out, take a virtual machine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from optuna_agenttts_integrations.exceptions import SandboxError

_logger = logging.getLogger(__name__)

_NOBODY = 65534
_MIB = 2**20

_LAUNCHER = """
import os, resource, sys
started, main, *limits = sys.argv[1:]
started = int(started)
os.closerange(3, started)
os.closerange(started + 1, 65536)
os.set_inheritable(started, False)
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
for limit in limits:
    name, value = limit.split("=")
    resource.setrlimit(getattr(resource, name), (int(value), int(value)))
command = [sys.executable, "-E", "-s", "-B", main]
child = os.posix_spawn(sys.executable, command, os.environ)
os.write(started, b"1")
os.close(started)
pid = status = 0
while pid != child:
    pid, status = os.wait()
code = os.waitstatus_to_exitcode(status)
os._exit(code if code >= 0 else 128 - code)
"""
"""The first process inside. Limits are set here, after bubblewrap has done what they would forbid.

As process 1 it takes all others with it when it ends, and bubblewrap waits for that. With
bubblewrap's own process 1 each run would leave a zombie in a container whose init reaps none. The
isolated mode (-I) is not for the program: it has to find the modules in its own folder.
"""

_REMEDY = (
    "The sandbox needs Linux, bubblewrap 0.8 or newer, and user namespaces for ordinary users: "
    "a kernel setting (user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns), and in a container one of its security profile"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may take.

    Args:
        seconds: Wall-clock time, the sandbox's own start (about 0.1 s) included.
        memory_mb: Address space of each process, in MiB; all of them together may take
            `processes` times as much.
        file_mb: Size of each file, in MiB.
        disk_mb: Size of each of the three folders that can be written to (`/work`, `/tmp` and
            `/dev/shm`), in MiB. They are in memory.
        processes: Processes and threads at a time, the first one of the program included. Before
            Linux 5.14 all processes of the user count.
        output_bytes: What is kept of stdout, and of stderr; the rest is read and thrown away.

    Raises:
        ValueError: A limit is not above 0.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 8
    disk_mb: int = 32
    processes: int = 16
    output_bytes: int = 100_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"`{field.name}` is {value!r}: give a number above 0.")


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended. Its output is data: never trust it, bytes that are no UTF-8 replaced.

    Args:
        exit_code: What it exited with, 0 to 255; 128 + n if signal n ended it. None if it ran out
            of time.
        stdout: The first bytes it wrote there, as text; see `Limits.output_bytes`.
        stderr: Likewise.
        timed_out: Whether it was stopped for its time.
        seconds: Wall-clock time it took, the sandbox's own start included.
    """

    exit_code: int | None
    stdout: str
    stderr: str
    timed_out: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it ended by itself and well."""
        return self.exit_code == 0


@dataclass(frozen=True, slots=True)
class _Host:
    """What was found on this machine: bubblewrap, an interpreter, and its folder."""

    bwrap: str
    python: str
    prefix: str


class Sandbox:
    """Runs Python programs inside bubblewrap. Can be pickled, and used from several loops.

    A process of root runs them as user 65534: bubblewrap alone would leave root's settings of the
    kernel (`/proc/sys`) in reach, and the kernel does not limit how many processes root has.

    Args:
        limits: What a program may take.
        python: The interpreter. By default the running one, or `/usr/bin/python3` where that does
            not start in the sandbox, as in root's home, which user 65534 cannot read; a warning
            tells so. Of a virtual environment, the interpreter it was made from is taken, without
            what is installed in it.
        clock: Seconds, as from `time.monotonic`.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        python: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class."""
        self._limits = limits or Limits()
        self._python = None if python is None else os.fspath(python)
        self._clock = clock
        self._guard = threading.Lock()
        self._host: _Host | str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # What this machine has says nothing about the one that unpickles it.
        again = partial(type(self), limits=self._limits, python=self._python, clock=self._clock)
        return again, ()

    def missing(self) -> str | None:
        """Why programs cannot be run here, and what helps; None if they can.

        The first call runs an empty program to find out, the others know.
        """
        host = self._probed()
        return host if isinstance(host, str) else None

    async def run(
        self, files: Mapping[str, str], *, main: str = "main.py", stdin: str = ""
    ) -> Finished:
        """Run a program and wait for its end.

        When the time is over, or this coroutine is cancelled, all its processes are killed.

        Args:
            files: Contents by name; names are relative paths, with `/` between folders. They lie
                in the working directory, and the folder of `main` can be imported from.
            main: Which of them to run.
            stdin: What the program can read.

        Raises:
            SandboxError: Nothing can be run here (see `missing`), or a file's name is not
                relative, or `main` is not among the files, or the sandbox could not be set up.
        """
        _check_names(files, main)
        host = await asyncio.to_thread(self._probed)
        if isinstance(host, str):
            raise SandboxError(host)
        started_at = self._clock()
        with _prepared(host, self._limits, files, main, stdin) as (command, options, started):
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
                )
            except OSError as error:
                raise SandboxError(f"The sandbox cannot be started: {error}.") from error
            stdout, stderr = bytearray(), bytearray()
            work = asyncio.gather(
                _read(process.stdout, stdout, self._limits.output_bytes),
                _read(process.stderr, stderr, self._limits.output_bytes),
                process.wait(),
            )
            timed_out = True
            try:
                await asyncio.wait({work}, timeout=self._limits.seconds)
                timed_out = not work.done()
            finally:
                if not work.done():
                    _kill(process)
                    await asyncio.wait({work}, timeout=10)
                    work.cancel()
            output, errors = (bytes(data).decode(errors="replace") for data in (stdout, stderr))
            # Whatever bubblewrap exits with, it is not the verdict on a program that never ran.
            if not os.fstat(started).st_size:
                late = f"it was not ready within {self._limits.seconds:g} s, raise `seconds`"
                reason = late if timed_out else errors.strip()
                raise SandboxError(f"The sandbox cannot be set up: {reason}.")
        return Finished(
            exit_code=None if timed_out else process.returncode,
            stdout=output,
            stderr=errors,
            timed_out=timed_out,
            seconds=self._clock() - started_at,
        )

    def _probed(self) -> _Host | str:
        with self._guard:
            if self._host is None:
                self._host = self._probe()
            return self._host

    def _probe(self) -> _Host | str:
        if sys.platform != "linux":
            return f"This is {sys.platform}. {_REMEDY}."
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            return (
                "There is no `bwrap` on PATH: install bubblewrap, for example with "
                "`apt install bubblewrap` or `dnf install bubblewrap`."
            )
        default = self._python is None
        reasons: list[str] = []
        for python in (sys.executable, "/usr/bin/python3") if default else (self._python,):
            try:
                host = _find(os.path.abspath(bwrap), python or "")
                _try_out(host, self._limits)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                reasons.append(f"{python}: {error}")
                continue
            if reasons:
                _logger.warning(
                    "Programs in the sandbox run with %s, as the running interpreter does not "
                    "start there (%s). Name one with `python` to silence this.",
                    host.python,
                    reasons[0],
                )
            return host
        return f"bubblewrap does not work here ({'; '.join(reasons)}). {_REMEDY}."


def _check_names(files: Mapping[str, str], main: str) -> None:
    for name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise SandboxError(
                f"The file name {name!r} leaves the program's folder, or is none: give relative "
                "names without `..`."
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise SandboxError(f"The file name {name!r} is not valid Unicode: {error}.") from error
    if main not in files:
        raise SandboxError(f"`main` is {main!r}, which is not among the files {sorted(files)}.")


def _find(bwrap: str, python: str) -> _Host:
    """Find the interpreter behind an interpreter, that of a virtual environment perhaps."""
    script = "import sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2], sep='\\n')"
    asked = subprocess.run(
        [python, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    prefix, version = asked.stdout.splitlines()
    if Path(os.path.expanduser("~")).is_relative_to(prefix) or prefix == "/":
        raise ValueError(f"the home folder lies in that of the interpreter, {prefix}")
    return _Host(bwrap=bwrap, python=f"{prefix}/bin/python{version}", prefix=prefix)


def _try_out(host: _Host, limits: Limits) -> None:
    with _prepared(host, limits, {"main.py": ""}, "main.py", "") as (command, options, started):
        tried = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=30, **options
        )
        if tried.returncode or not os.fstat(started).st_size:
            raise ValueError(tried.stderr.strip() or f"exit code {tried.returncode}")


@contextmanager
def _prepared(
    host: _Host, limits: Limits, files: Mapping[str, str], main: str, stdin: str
) -> Iterator[tuple[list[str], dict[str, Any], int]]:
    """A run's command, its options for `subprocess`, and a file that is empty until it starts.

    Files are handed over as descriptors of memory: there is nothing on disk to clean up.
    """
    with ExitStack() as stack:

        def hold(text: str) -> int:
            descriptor = os.memfd_create("sandbox")
            stack.callback(os.close, descriptor)
            with open(descriptor, "wb", closefd=False) as file:
                # A lone surrogate is what a model may write, and for the program to fail on.
                file.write(text.encode(errors="surrogatepass"))
            os.lseek(descriptor, 0, os.SEEK_SET)
            return descriptor

        try:
            held = {hold(content): name for name, content in files.items()}
            started, stdin_held = hold(""), hold(stdin)
        except OSError as error:
            raise SandboxError(f"The program cannot be handed over: {error}.") from error
        arguments = [host.bwrap, *_bwrap_arguments(host, limits)]
        for descriptor, name in held.items():
            arguments += ["--file", str(descriptor), f"/work/{name}"]
        arguments += ["--", host.python, "-I", "-S", "-c", _LAUNCHER]
        arguments += [str(started), f"/work/{main}", *_rlimits(limits)]
        options: dict[str, Any] = {
            "stdin": stdin_held,
            "pass_fds": (*held, started),
            "cwd": "/",
            # All that there is to see for bubblewrap, too.
            "env": {
                "PATH": f"{host.prefix}/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "HOME": "/work",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        }
        if os.geteuid() == 0:
            options |= {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        yield arguments, options, started


def _bwrap_arguments(host: _Host, limits: Limits) -> list[str]:
    # --unshare-all alone goes on without a user namespace. In one of its own, a program could
    # mount more memory.
    arguments = ["--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1"]
    arguments += ["--die-with-parent", "--new-session", "--hostname", "sandbox"]
    arguments += ["--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr"]
    # Where images of containers put projects.
    if os.path.isdir("/usr/src"):
        arguments += ["--tmpfs", "/usr/src", "--remount-ro", "/usr/src"]
    for folder in ("/bin", "/lib", "/lib64"):
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        else:
            arguments += ["--ro-bind-try", folder, folder]
    arguments += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    if not Path(host.prefix).is_relative_to("/usr"):
        arguments += ["--ro-bind", host.prefix, host.prefix]
    size = ["--size", str(limits.disk_mb * _MIB), "--tmpfs"]
    arguments += ["--dev", "/dev", *size, "/dev/shm", "--remount-ro", "/dev", "--proc", "/proc"]
    # The settings of the sandbox's own namespaces could be written to otherwise.
    arguments += ["--ro-bind", "/proc/sys", "/proc/sys"]
    return [*arguments, *size, "/tmp", *size, "/work", "--chdir", "/work", "--remount-ro", "/"]


def _rlimits(limits: Limits) -> list[str]:
    values = {
        "RLIMIT_AS": limits.memory_mb * _MIB,
        "RLIMIT_FSIZE": limits.file_mb * _MIB,
        "RLIMIT_NPROC": limits.processes + 1,  # with the launcher
        "RLIMIT_CORE": 0,
        # Files that exist only as descriptors take memory too, each up to RLIMIT_FSIZE.
        "RLIMIT_NOFILE": 64,
    }
    return [f"{name}={value}" for name, value in values.items()]


async def _read(stream: asyncio.StreamReader | None, into: bytearray, most: int) -> None:
    """Read to the end, so that the writer is never stuck, and keep the beginning."""
    while stream is not None and (data := await stream.read(65536)):
        into += data[: most - len(into)]


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the sandbox's process 1, and the kernel kills the rest; bubblewrap reaps it and ends.

    Before there is one, bubblewrap itself; if it has just been born, it dies with its parent.
    """
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    except OSError:
        children = []
    if not children and process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
