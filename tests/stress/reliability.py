"""What this package withstands, counted: run all parts, and write the table of the documentation.

    python tests/stress/reliability.py [--scale 1] [--only kills-sqlite ...] [--write]

`--scale 0.05` runs a twentieth of each part, in a few minutes; `--write` replaces the rows of the
parts that were run in the table of docs/reliability.md, each as soon as it is done. Each row names
its scale, revision and machine. Exits with 1 if a part found what must not happen.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import os
import platform
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- table of tests/stress/reliability.py -->", "<!-- end of the table -->"
# Each part runs in a process of its own: its memory is its own, and forks inherit no connection.
PARTS = {
    "kills-sqlite": ("kill -9, study and store in SQLite", 200),
    "kills-postgresql": ("kill -9, study and store in PostgreSQL", 200),
    "kills-grpc": ("kill -9, study over gRPC, store in SQLite", 100),
    "sigint": ("SIGINT, one worker after the other", 25),
    "sigterm": ("SIGTERM, one worker after the other", 25),
    "full-disk": ("files that may not grow further", 20),
    "workers-sqlite": ("many workers, SQLite", 16),
    "workers-postgresql": ("many workers, PostgreSQL", 16),
    "workers-grpc": ("many workers, gRPC", 16),
    "servers": ("bad servers, as models and as agents", 1),
    "replies": ("random replies", 10_000),
    "tasks": ("random tasks and studies", 1000),
    "long": ("one long process", 2000),
}


def run_part(name: str, scale: float) -> tuple[str, bool]:
    """Run a part in this process; return its text, and whether it found what must not happen."""
    for folder in (HERE, HERE.parent, HERE.parent / "core", HERE.parent / "llm"):
        sys.path.insert(0, str(folder))
    import killing

    count = max(1, round(PARTS[name][1] * scale))
    rng = random.Random(0)
    start, _, kind = name.partition("-")
    try:
        if start == "kills":
            return killing.kills(kind, max(4, count), rng)
        if start in ("sigint", "sigterm"):
            return killing.signals(getattr(signal, start.upper()), count, rng)
        if start == "workers":
            return killing.workers(kind, max(4, count), rng)
        if start == "full":
            return killing.full_disk(count, rng)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        import logging

        logging.disable(logging.CRITICAL)
        if start == "long":
            import lasting

            return lasting.long_search(max(40, count))
        import fuzzing

        if start == "servers":
            return fuzzing.servers(min(1.0, scale))
        return getattr(fuzzing, start)(count, rng)
    except killing.NotAvailable as error:
        return f"not run: {error}", False


def environment(scale: float) -> str:
    """Return what the parts are run at and on."""
    found = {
        name: subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout
        for name, command in {
            "revision": ["rev-parse", "--short", "HEAD"],
            "changes": ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"],
        }.items()
    }
    return (
        f"scale {scale:g}, revision {found['revision'].strip()}"
        f"{' with changes' if found['changes'] else ''}, {time.strftime('%Y-%m-%d')}, Python "
        f"{platform.python_version()}, Optuna {importlib.metadata.version('optuna')}, "
        f"{os.cpu_count()} processors"
    )


def row(name: str, text: str, failed: bool, run: str, seconds: float) -> str:
    """Return a result as a row of a Markdown table."""
    mark = "**" if failed else ""
    cell = " ".join(text.replace("|", "\\|").split())
    return f"| {PARTS[name][0]} | {mark}{cell}{mark} | {run} | {seconds / 60:.1f} |"


def table(rows: dict[str, str]) -> str:
    """Return rows, by their first cells, as a table in the order of the parts."""
    lines = ["| what | result | run | minutes |", "|---|---|---|---|"]
    lines += [rows[title] for title, _ in PARTS.values() if title in rows]
    return "\n".join(lines)


def write(rows: dict[str, str]) -> None:
    """Replace rows of the page's table, and leave the others as they are."""
    with PAGE.open("r+", encoding="utf-8") as file:
        # Two commands may run parts at the same time.
        fcntl.flock(file, fcntl.LOCK_EX)
        before, _, rest = file.read().partition(START)
        old, _, after = rest.partition(END)
        kept = {line.split(" | ")[0][2:]: line for line in old.split("\n") if line[:2] == "| "}
        made = f"{before}{START}\n\n{table({**kept, **rows})}\n\n{END}{after}"
        file.seek(0)
        file.truncate()
        file.write(made)


def main() -> int:
    """Run the parts, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        try:
            text, failed = run_part(options.part, options.scale)
        except Exception as error:
            traceback.print_exc()
            text, failed = f"broke off: {type(error).__name__}: {str(error)[:200]}", True
        print(f"{text}\n{int(failed)}", flush=True)
        return 0
    run, rows, problems = environment(options.scale), {}, 0
    for name in options.only:
        print(f"{PARTS[name][0]} ...", flush=True)
        started = time.monotonic()
        part = ["--part", name, "--scale", str(options.scale)]
        command = [sys.executable, "-W", "ignore", __file__, *part]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.split("\n")
        text, failed = (lines[-3], lines[-2] == "1") if len(lines) > 2 else ("crashed", True)
        print(f"    {text}", flush=True)
        problems += failed
        made = {PARTS[name][0]: row(name, text, failed, run, time.monotonic() - started)}
        rows.update(made)
        if options.write:
            write(made)
    print(table(rows))
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
