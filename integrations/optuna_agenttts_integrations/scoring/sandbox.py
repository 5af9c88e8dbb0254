"""Sandbox for Python programs written by a model: isolated, without network, with limits.

Bubblewrap (https://github.com/containers/bubblewrap) builds the sandbox from the kernel's
namespaces. A program sees the interpreter, `/usr` and its own files; its changes are in memory and
discarded afterwards. Without bubblewrap, no program is run.

This protects against careless programs. They share the kernel, and kernel memory that they use is
not limited: for malicious programs, use a virtual machine.
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

from optuna_agenttts.support.forking import on_fork
from optuna_agenttts_integrations.exceptions import SandboxError
from optuna_agenttts_integrations.scoring.bubblewrap import (
    Host,
    Limits,
    find_host,
    prepare_run,
    try_host,
)

__all__ = ["Limits", "ProgramResult", "Sandbox"]

_logger = logging.getLogger(__name__)

_CHUNK = 65_536  # bytes per read: the capacity of a pipe on Linux

_KILL_TIMEOUT = 10
"""Timeout for killed processes to end, in seconds. Chosen by hand: milliseconds are usual."""

_REMEDY = (
    "The sandbox needs Linux, bubblewrap 0.8 or newer, and unprivileged user namespaces. Enable "
    "them in the kernel (user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns) and in a container's security profile"
)


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """Result of a program. Its output is untrusted.

    Args:
        exit_code: Exit code, 0 to 255; 128 + n if signal n ended the program, None if it timed
            out.
        stdout: Beginning of its output (see `Limits.output_bytes`), with invalid UTF-8 replaced.
        stderr: Beginning of its error output, limited and decoded like `stdout`.
        timed_out: Whether it was killed at the time limit.
        seconds: Wall-clock time, including the start of the sandbox.
    """

    exit_code: int | None
    stdout: str
    stderr: str
    timed_out: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """True if the program exited with code 0."""
        return self.exit_code == 0


class Sandbox:
    """Bubblewrap sandbox for Python programs; picklable, and usable from several event loops.

    If this process is root, programs run as user 65534 (nobody): otherwise root's kernel settings
    (`/proc/sys`) would be writable, and the number of processes would not be limited.

    Args:
        limits: Resource limits of a program. Default: `Limits()`.
        python: Interpreter. Default: the running one, or, with a warning, `/usr/bin/python3` if
            that does not start in the sandbox (for example in root's home folder, which user 65534
            cannot read). For a virtual environment its base interpreter is used, without the
            installed packages.
        clock: Monotonic clock, in seconds.
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
        self._host: Host | str | None = None
        self._reset()

    def _reset(self) -> None:
        self._guard = threading.Lock()
        on_fork(self, Sandbox._reset)

    def __reduce__(self) -> tuple[Any, ...]:
        # Paths are not copied: another machine may unpickle it.
        create = partial(type(self), limits=self._limits, python=self._python, clock=self._clock)
        return create, ()

    def missing(self) -> str | None:
        """Explain why programs cannot be run on this machine.

        The first call runs an empty program, and its result is kept.

        Returns:
            The reason and the remedy, or None if programs can be run.
        """
        host = self._probed()
        return host if isinstance(host, str) else None

    async def run(
        self, files: Mapping[str, str], *, main: str = "main.py", stdin: str = ""
    ) -> ProgramResult:
        """Run a program and wait for it.

        All its processes are killed at the time limit, or when this coroutine is cancelled.

        Args:
            files: Contents by relative path, with `/` between folders. They are written to the
                working directory, and modules in the folder of `main` can be imported.
            main: File to run.
            stdin: Text that the program can read.

        Returns:
            Exit code and output.

        Raises:
            SandboxError: Programs cannot be run on this machine (see `missing`), a file name is
                not relative, `main` is not among the files, or the sandbox could not be set up.
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
                raise SandboxError(f"Starting the sandbox failed: {error}.") from error
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
                    await asyncio.wait({work}, timeout=_KILL_TIMEOUT)
                    work.cancel()
            output, errors = (bytes(data).decode(errors="replace") for data in (stdout, stderr))
            # The exit code of bubblewrap is not that of a program that never started.
            if not os.fstat(started).st_size:
                late = f"it was not ready within {self._limits.seconds:g} s; raise `seconds`"
                reason = late if timed_out else errors.strip()
                raise SandboxError(f"The sandbox could not be set up: {reason}.")
        return ProgramResult(
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
                "`bwrap` is not on PATH: install bubblewrap, for example with "
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
                    "Sandboxed programs use %s, because the running interpreter does not start in "
                    "the sandbox (%s). Pass `python` to choose one and silence this warning.",
                    host.python,
                    reasons[0],
                )
            return host
        return f"bubblewrap does not work on this machine ({'; '.join(reasons)}). {_REMEDY}."


def _check_names(files: Mapping[str, str], main: str) -> None:
    for name in files:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise SandboxError(f"File names must be relative paths without `..`, got {name!r}.")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise SandboxError(f"File name {name!r} is not valid Unicode: {error}.") from error
    if main not in files:
        raise SandboxError(f"`main` must be one of the files {sorted(files)}, got {main!r}.")


async def _read(stream: asyncio.StreamReader | None, into: bytearray, most: int) -> None:
    """Read a stream to its end, so that the writer never blocks, and keep the beginning."""
    while stream is not None and (data := await stream.read(_CHUNK)):
        into += data[: most - len(into)]


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill process 1 of the sandbox, whose end makes the kernel kill all others.

    If it does not exist yet, kill bubblewrap; a child just started dies with its parent.
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
