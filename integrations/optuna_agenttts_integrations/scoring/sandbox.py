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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from optuna_agenttts_integrations.exceptions import SandboxError
from optuna_agenttts_integrations.scoring.bubblewrap import (
    Host,
    Limits,
    find_host,
    prepare_run,
    try_host,
)

__all__ = ["Finished", "Limits", "Sandbox"]

_logger = logging.getLogger(__name__)

_REMEDY = (
    "The sandbox needs Linux, bubblewrap 0.8 or newer, and user namespaces for ordinary users: "
    "a kernel setting (user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns), and in a container one of its security profile"
)


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
        self._host: Host | str | None = None

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
        with prepare_run(host, self._limits, files, main, stdin) as (command, options, started):
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

    def _probed(self) -> Host | str:
        with self._guard:
            if self._host is None:
                self._host = self._probe()
            return self._host

    def _probe(self) -> Host | str:
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
                host = find_host(os.path.abspath(bwrap), python or "")
                try_host(host, self._limits)
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
