"""Bubblewrap commands that run a program in a sandbox."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import SandboxError

_NOBODY = 65534  # user and group ID of "nobody" on Linux, which owns no files
_MIB = 2**20  # bytes

_TIMEOUT = 30
"""Timeout for starting an interpreter or the sandbox, in seconds. Chosen by hand: either takes
about 0.1 s, more on a loaded machine."""

_MAX_DESCRIPTORS = 64
"""File descriptors per process. Chosen by hand: files that exist only as descriptors use memory,
each up to RLIMIT_FSIZE."""

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
"""First process in the sandbox: set resource limits, start the program, reap all processes.

Limits are set here because bubblewrap's setup would exceed them. The byte written to the
descriptor `started` distinguishes a program that failed from a sandbox that did not start.

When process 1 ends, the kernel kills all others, and bubblewrap waits for it. Bubblewrap's own
process 1 would leave a zombie per run in a container whose init does not reap. The program itself
does not run in isolated mode (-I), because it imports modules from its own folder.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of a program.

    Args:
        seconds: Wall-clock time, including the start of the sandbox (about 0.1 s).
        memory_mb: Address space of each process, in MiB; `processes` of them may use that many
            times as much.
        file_mb: Size of each file, in MiB.
        disk_mb: Size of each of the writable folders `/work`, `/tmp` and `/dev/shm`, in MiB. They
            are in memory.
        processes: Concurrent processes and threads, including the program's first. Before Linux
            5.14, all processes of the user count.
        output_bytes: Bytes kept of stdout and of stderr each; further output is discarded.

    Raises:
        ValueError: A limit is not positive.
    """

    # Chosen by hand, ample for small programs of the standard library.
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
                raise ValueError(f"`{field.name}` must be positive, got {value!r}.")


@dataclass(frozen=True, slots=True)
class Host:
    """Paths on this machine.

    Args:
        bwrap: The bubblewrap executable.
        python: The interpreter.
        prefix: Installation folder of the interpreter.
    """

    bwrap: str
    python: str
    prefix: str


def find_host(bwrap: str, python: str) -> Host:
    """Locate the base interpreter of an interpreter, which may be in a virtual environment.

    Args:
        bwrap: Path of the bubblewrap executable.
        python: Path of the interpreter.

    Returns:
        Paths for the sandbox.

    Raises:
        ValueError: The home folder is inside the interpreter's folder and would be visible.
        OSError: The interpreter does not exist.
        subprocess.SubprocessError: The interpreter does not run.
    """
    script = "import sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2], sep='\\n')"
    probe = subprocess.run(
        [python, "-I", "-S", "-c", script],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    )
    prefix, version = probe.stdout.splitlines()
    if Path(os.path.expanduser("~")).is_relative_to(prefix) or prefix == "/":
        raise ValueError(
            f"the home folder is inside the interpreter's folder {prefix} and would be visible"
        )
    return Host(bwrap=bwrap, python=f"{prefix}/bin/python{version}", prefix=prefix)


def try_host(host: Host, limits: Limits) -> None:
    """Check that a sandbox starts, by running an empty program.

    Raises:
        ValueError: The sandbox does not start.
        subprocess.TimeoutExpired: The sandbox takes too long.
    """
    with prepare_run(host, limits, {"main.py": ""}, "main.py", "") as (command, options, started):
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, **options
        )
        if done.returncode or not os.fstat(started).st_size:
            raise ValueError(done.stderr.strip() or f"exit code {done.returncode}")


@contextmanager
def prepare_run(
    host: Host, limits: Limits, files: Mapping[str, str], main: str, stdin: str
) -> Iterator[tuple[list[str], dict[str, Any], int]]:
    """Prepare a run.

    Files are passed as in-memory descriptors, so that there is nothing on disk to clean up.

    Args:
        host: Paths on this machine.
        limits: Resource limits.
        files: Contents by relative path.
        main: File to run.
        stdin: Text that the program can read.

    Yields:
        The command, its options for `subprocess`, and a file descriptor that is empty until the
        program starts.

    Raises:
        SandboxError: There is not enough memory, or there are too many open files.
    """
    with ExitStack() as stack:

        def in_memory(text: str) -> int:
            descriptor = os.memfd_create("sandbox")
            stack.callback(os.close, descriptor)
            with open(descriptor, "wb", closefd=False) as file:
                # Models may write unpaired surrogates: let the program fail on them, not the
                # sandbox.
                file.write(text.encode(errors="surrogatepass"))
            os.lseek(descriptor, 0, os.SEEK_SET)
            return descriptor

        try:
            descriptors = {in_memory(content): name for name, content in files.items()}
            started, stdin_descriptor = in_memory(""), in_memory(stdin)
        except OSError as error:
            raise SandboxError(
                f"The program's files cannot be copied to memory: {error}."
            ) from error
        arguments = [host.bwrap, *_bwrap_arguments(host, limits)]
        for descriptor, name in descriptors.items():
            arguments += ["--file", str(descriptor), f"/work/{name}"]
        arguments += ["--", host.python, "-I", "-S", "-c", _LAUNCHER]
        arguments += [str(started), f"/work/{main}", *_rlimits(limits)]
        options: dict[str, Any] = {
            "stdin": stdin_descriptor,
            "pass_fds": (*descriptors, started),
            "cwd": "/",
            # The whole environment: variables of this process may hold keys.
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


def _bwrap_arguments(host: Host, limits: Limits) -> list[str]:
    # --unshare-all alone continues if there are no user namespaces. --disable-userns: in a nested
    # one, a program could mount more memory.
    arguments = ["--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1"]
    arguments += ["--die-with-parent", "--new-session", "--hostname", "sandbox"]
    arguments += ["--uid", "1000", "--gid", "1000", "--ro-bind", "/usr", "/usr"]
    # Container images often keep projects there: hide them.
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
    # Otherwise the settings of the sandbox's namespaces would be writable.
    arguments += ["--ro-bind", "/proc/sys", "/proc/sys"]
    return [*arguments, *size, "/tmp", *size, "/work", "--chdir", "/work", "--remount-ro", "/"]


def _rlimits(limits: Limits) -> list[str]:
    values = {
        "RLIMIT_AS": limits.memory_mb * _MIB,
        "RLIMIT_FSIZE": limits.file_mb * _MIB,
        "RLIMIT_NPROC": limits.processes + 1,  # and the launcher
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": _MAX_DESCRIPTORS,
    }
    return [f"{name}={value}" for name, value in values.items()]
