"""Build the bubblewrap command that runs a program in a sandbox."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import SandboxError

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
class Host:
    """What was found on this machine: bubblewrap, an interpreter, and its folder."""

    bwrap: str
    python: str
    prefix: str


def find_host(bwrap: str, python: str) -> Host:
    """Find the interpreter behind an interpreter, that of a virtual environment perhaps."""
    script = "import sys; print(sys.base_prefix, '%d.%d' % sys.version_info[:2], sep='\\n')"
    asked = subprocess.run(
        [python, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    prefix, version = asked.stdout.splitlines()
    if Path(os.path.expanduser("~")).is_relative_to(prefix) or prefix == "/":
        raise ValueError(f"the home folder lies in that of the interpreter, {prefix}")
    return Host(bwrap=bwrap, python=f"{prefix}/bin/python{version}", prefix=prefix)


def try_host(host: Host, limits: Limits) -> None:
    """Run an empty program; raise ValueError if it fails."""
    with prepare_run(host, limits, {"main.py": ""}, "main.py", "") as (command, options, started):
        tried = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=30, **options
        )
        if tried.returncode or not os.fstat(started).st_size:
            raise ValueError(tried.stderr.strip() or f"exit code {tried.returncode}")


@contextmanager
def prepare_run(
    host: Host, limits: Limits, files: Mapping[str, str], main: str, stdin: str
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


def _bwrap_arguments(host: Host, limits: Limits) -> list[str]:
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
