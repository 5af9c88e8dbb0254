"""Sandboxed programs are isolated, limited, and leave nothing behind."""

import asyncio
import os
import pickle
import socket
import sys
import textwrap
import time
import uuid
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from optuna_agenttts_integrations.exceptions import SandboxError
from optuna_agenttts_integrations.scoring.sandbox import Limits, ProgramResult, Sandbox

PROBED = Sandbox()
MISSING = PROBED.missing()

pytestmark = pytest.mark.skipif(MISSING is not None, reason=f"no sandbox here: {MISSING}")


def run(program, *, files=None, stdin="", main="main.py", **limits):
    box = Sandbox(limits=Limits(**{"seconds": 20.0, **limits})) if limits else PROBED
    files = {main: textwrap.dedent(program), **(files or {})}
    return asyncio.run(box.run(files, main=main, stdin=stdin))


def alive(token):
    """List processes on this machine with a token in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.fixture
def token():
    return f"p{uuid.uuid4().hex}.py"


def test_output_of_a_program_is_returned():
    """The result has the output and the duration."""
    done = run("print('hello, w\\u00f6rld')")
    assert done == ProgramResult(0, "hello, w\u00f6rld\n", "", False, done.seconds)
    assert done.ok
    assert 0 < done.seconds < 5


def test_a_failure_has_exit_code_and_traceback():
    """An uncaught exception gives exit code 1 and a traceback with the program's line."""
    done = run("import json\nraise KeyError('nothing')")
    assert (done.exit_code, done.ok, done.timed_out) == (1, False, False)
    assert 'File "/work/main.py", line 2' in done.stderr
    assert "KeyError: 'nothing'" in done.stderr


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("raise SystemExit(7)", 7),
        ("import os; os.abort()", 134),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.kill(1, 9); os.kill(1, 15)", 0),
        ("def f(:", 1),
    ],
)
def test_exit_codes_are_those_of_the_program(program, code):
    """Signal n gives 128 + n; the sandbox's first process cannot be killed."""
    assert run(program).exit_code == code


def test_files_import_each_other():
    """Modules and packages are next to the program, data in the working directory."""
    files = {
        "app/main.py": "import helper, pkg.deep as p\nprint(helper.X, p.Y, open('d/a b').read())",
        "app/helper.py": "X = 1",
        "app/pkg/__init__.py": "",
        "app/pkg/deep.py": "from helper import X\nY = X + 1",
        "d/a b": "data",
    }
    done = asyncio.run(PROBED.run(files, main="app/main.py"))
    assert (done.stdout, done.stderr) == ("1 2 data\n", "")


def test_stdin_is_read_to_its_end():
    """A program reads its whole input and then the end of file."""
    done = run(
        "import sys; print(len(sys.stdin.read()), repr(sys.stdin.read()))", stdin="x" * 10**6
    )
    assert done.stdout == "1000000 ''\n"
    assert run("input()").stderr.endswith("EOFError: EOF when reading a line\n")


def test_there_is_no_network():
    """Neither a server on this machine nor the internet is reachable."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        server.accept()[0].close()
        done = run(
            f"""
            import socket
            for address in (("127.0.0.1", {port}), ("192.0.2.1", 80)):
                try:
                    socket.create_connection(address, timeout=1)
                    print("connected")
                except OSError as error:
                    print("failed")
            print([name for _, name in socket.if_nameindex()])
            """
        )
        with pytest.raises(TimeoutError):
            server.accept()
    assert done.stdout == "failed\nfailed\n['lo']\n"


def test_environment_is_not_passed_on(monkeypatch):
    """Keys in the environment are in no visible process's environment."""
    monkeypatch.setenv("A_SECRET_KEY", "hunter2hunter2")
    done = run(
        """
        import os, pathlib
        print(*os.environ)
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            print(b"hunter2" in path.read_bytes())
        """
    )
    names, *found = done.stdout.splitlines()
    allowed = {"HOME", "LANG", "LC_CTYPE", "PATH", "PWD", "PYTHONDONTWRITEBYTECODE"}
    assert set(names.split()) <= allowed
    assert found == ["False", "False"]


def test_other_files_are_not_visible(tmp_path):
    """The home folder, this project and temporary folders do not exist."""
    (tmp_path / "secret").write_text("secret")
    home = Path.home()
    places = list(home.iterdir()) if home.is_dir() and home != Path("/") else []
    # An interpreter may be installed there.
    places = [place for place in places if not Path(sys.base_prefix).is_relative_to(place)]
    places += [tmp_path, tmp_path / "secret", __file__, "/etc/passwd", "/var", "/run"]
    places = [str(place) for place in places]
    done = run(f"import os\nprint([place for place in {places} if os.path.lexists(place)])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_nothing_outside_can_be_changed():
    """Only the program's folders are writable; the kernel's settings are not."""
    done = run(
        """
        import os
        places = ["/", "/usr", "/usr/bin", "/usr/src", "/bin", "/lib", "/etc", "/dev"]
        for place in places:
            try:
                open(os.path.join(place, "new"), "w").close()
                print("written", place)
            except OSError:
                pass
        for place, _, names in os.walk("/proc/sys"):
            for name in names:
                try:
                    os.close(os.open(os.path.join(place, name), os.O_WRONLY))
                    print("open", place, name)
                except OSError:
                    pass
        for place in ("/work", "/tmp", "/dev/shm"):
            open(os.path.join(place, "new"), "w").close()
        print(os.getcwd(), os.uname().nodename, len(os.listdir("/proc/self/fd")))
        """
    )
    # Three standard streams, and the folder that is being listed.
    assert (done.stdout, done.stderr) == ("/work sandbox 4\n", "")


def test_namespaces_cannot_be_nested():
    """A program cannot gain rights over mounts through a new user namespace."""
    done = run(
        """
        import ctypes
        print(ctypes.CDLL(None).unshare(0x10000000))
        print([line for line in open("/proc/self/status") if line.startswith("CapEff")])
        """
    )
    assert done.stdout == "-1\n['CapEff:\\t0000000000000000\\n']\n"


def test_endless_programs_are_killed_with_their_children(token):
    """At the time limit the process tree is killed; earlier output is returned."""
    program = """
        import subprocess, sys
        if len(sys.argv) == 1:
            subprocess.Popen([sys.executable, __file__, "x"], start_new_session=True)
            print("started", flush=True)
        while True:
            pass
        """
    started = time.monotonic()
    done = run(program, main=token, seconds=1.0)
    assert time.monotonic() - started < 60
    assert (done.exit_code, done.timed_out, done.ok) == (None, True, False)
    assert done.stdout == "started\n"
    assert done.seconds >= 1
    assert alive(token) == []


def test_background_processes_end_with_the_program(token):
    """A background process without open streams is killed before the run returns."""
    program = """
        import subprocess, sys, time
        if len(sys.argv) == 1:
            quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
            subprocess.Popen([sys.executable, __file__, "x"], start_new_session=True, **quiet)
        else:
            time.sleep(60)
        """
    done = run(program, main=token)
    assert done.ok
    assert alive(token) == []


def test_processes_are_limited(token):
    """With a limit of 6 processes, a program starts 5 more and no thread."""
    program = """
        import os, threading, time
        children = 0
        try:
            while children < 50:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                children += 1
        except OSError:
            print(children)
        try:
            threading.Thread(target=print).start()
        except RuntimeError as error:
            print(error)
        """
    done = run(program, main=token, processes=6)
    assert done.stdout == "5\ncan't start new thread\n"
    assert alive(token) == []
    assert run("print(1)", processes=1).stdout == "1\n"


def test_memory_is_limited():
    """Beyond the limit, a program gets a MemoryError."""
    program = "print(len(bytearray(100 << 20)))\nbytearray(400 << 20)"
    done = run(program, memory_mb=256)
    assert done.stdout == f"{100 << 20}\n"
    assert done.exit_code == 1
    assert done.stderr.endswith("MemoryError\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_truncated_and_the_program_continues(stream):
    """Only the beginning is kept, and a full pipe never blocks the writer."""
    program = f"""
        import sys
        for _ in range(300):
            sys.{stream}.write("ab" * 50_000)
        open("done", "w")
        """
    done = run(program, output_bytes=1001)
    assert done.exit_code == 0
    assert getattr(done, stream) == "ab" * 500 + "a"


def test_output_need_not_be_text():
    """Invalid UTF-8 is replaced, also at the end of truncated output."""
    program = "import sys; sys.stdout.buffer.write(b'a\\xff' + '\\u20ac'.encode())"
    assert run(program).stdout == "a\ufffd\u20ac"
    assert run(program, output_bytes=4).stdout == "a\ufffd\ufffd"


def test_files_and_folders_are_limited():
    """Both the size of a file and the size of a folder have limits."""
    program = """
        for place, name in [("/work", "a"), ("/work", "b"), ("/work", "c"), ("/tmp", "d")]:
            try:
                with open(f"{place}/{name}", "wb", buffering=0) as file:
                    for _ in range(5):
                        file.write(bytes(1 << 20))
            except OSError as error:
                print(error.strerror)
        """
    done = run(program, file_mb=2, disk_mb=5)
    large = "File too large"
    assert done.stdout.splitlines() == [large, large, "No space left on device", large]


@pytest.mark.parametrize(
    "name", ["", ".", "/main.py", "../main.py", "a/../../b", "a\0b", "/", "a\ud800"]
)
def test_file_names_stay_inside(name):
    """Absolute, empty and invalid names, and those with `..`, are rejected."""
    with pytest.raises(SandboxError, match="File name"):
        asyncio.run(PROBED.run({"main.py": "", name: ""}))


def test_a_failed_setup_is_not_a_failure_of_the_program():
    """A program without main file, or one that exceeds the limits, is an error."""
    with pytest.raises(SandboxError, match=r"'other\.py'"):
        asyncio.run(PROBED.run({"main.py": ""}, main="other.py"))
    with pytest.raises(SandboxError, match="set up"):
        run("", files={"main.py/below": ""})
    with pytest.raises(SandboxError, match="set up"):
        run("", files={"big": "x" * (2 << 20)}, disk_mb=1)
    with pytest.raises(SandboxError, match="raise `seconds`"):
        run("", seconds=1e-6)


def test_programs_may_contain_lone_surrogates():
    """The program fails, not the sandbox."""
    done = run("print('\ud800')")
    assert done.exit_code == 1
    assert "SyntaxError" in done.stderr


def test_cancelling_kills(token):
    """A cancelled run leaves no processes."""

    async def cancel():
        task = asyncio.ensure_future(PROBED.run({token: "while True: pass"}, main=token))
        while len(alive(token)) < 3:  # bubblewrap, its first process, the program
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return alive(token)

    assert asyncio.run(asyncio.wait_for(cancel(), 20)) == []


def test_no_descriptors_are_left_open():
    """This includes failed runs."""
    run("print(1)")
    before = len(os.listdir("/proc/self/fd"))
    run("print(1)", seconds=5)
    with pytest.raises(SandboxError):
        run("", files={"main.py/below": ""})
    assert len(os.listdir("/proc/self/fd")) == before


def test_concurrent_runs_are_isolated():
    """Ten runs do not see each other, in a sandbox that has not been probed before."""

    async def many():
        box = Sandbox(limits=Limits(seconds=30))
        program = "import os, time; open('/tmp/x', 'x'); time.sleep(0.2); print({}, os.listdir())"
        return await asyncio.gather(
            *(box.run({"main.py": program.format(index)}) for index in range(10))
        )

    assert [done.stdout for done in asyncio.run(many())] == [
        f"{index} ['main.py']\n" for index in range(10)
    ]


def test_without_bubblewrap_nothing_is_run(monkeypatch, tmp_path):
    """The error names the package to install, and the program is not run."""
    trace = tmp_path / "trace"
    monkeypatch.setenv("PATH", str(tmp_path))
    box = Sandbox()
    assert "install bubblewrap" in box.missing()
    with pytest.raises(SandboxError, match="apt install bubblewrap"):
        asyncio.run(box.run({"main.py": f"open({str(trace)!r}, 'w')"}))
    assert not trace.exists()


def test_a_broken_bubblewrap_is_an_error(monkeypatch, tmp_path):
    """The reason has bubblewrap's message, and the program is not run without it."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: no namespaces' >&2\nexit 1\n")
    broken.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    box = Sandbox(python="/usr/bin/python3" if Path("/usr/bin/python3").exists() else None)
    assert "user namespaces" in box.missing()
    with pytest.raises(SandboxError, match="does not work on this machine"):
        asyncio.run(box.run({"main.py": ""}))


def test_a_missing_interpreter_is_an_error():
    """The reason has the given path."""
    assert "/nowhere/python" in Sandbox(python="/nowhere/python").missing()


def test_sandboxes_can_be_sent_to_other_processes():
    """A pickled copy has the same limits and works."""
    copy = pickle.loads(pickle.dumps(Sandbox(limits=Limits(seconds=9, output_bytes=2))))
    assert asyncio.run(copy.run({"main.py": "print(12345)"})).stdout == "12"


@pytest.mark.parametrize("name", Limits.__dataclass_fields__)
def test_limits_are_positive_and_immutable(name):
    """The error names the limit."""
    for value in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: value})
    with pytest.raises(FrozenInstanceError):
        setattr(Limits(), name, 1)
