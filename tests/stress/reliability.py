"""What this package withstands, counted: run all parts, and write the table of the documentation.

    python tests/stress/reliability.py [--scale 1] [--only kills-sqlite ...] [--write]

`--scale 0.05` runs a twentieth of each part, in a few minutes; `--write` replaces the table in
docs/reliability.md. Exits with 1 if a part found what must not happen.
"""

from __future__ import annotations

import argparse
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


def table(rows: list[tuple[str, str, bool, float]], scale: float) -> str:
    """Return the results as a Markdown table, with what they were measured on."""
    version = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        START,
        "",
        f"Made by `python tests/stress/reliability.py --scale {scale:g} --write` of revision "
        f"{version}, Python {platform.python_version()}, Optuna "
        f"{importlib.metadata.version('optuna')}, {os.cpu_count()} processors, "
        f"{time.strftime('%Y-%m-%d')}.",
        "",
        "| what | result | minutes |",
        "|---|---|---|",
    ]
    for name, text, failed, seconds in rows:
        mark = "**" if failed else ""
        cell = " ".join(text.replace("|", "\\|").split())
        lines.append(f"| {PARTS[name][0]} | {mark}{cell}{mark} | {seconds / 60:.1f} |")
    return "\n".join([*lines, "", END])


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
    rows = []
    for name in options.only:
        print(f"{PARTS[name][0]} ...", flush=True)
        started = time.monotonic()
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--part",
            name,
            "--scale",
            str(options.scale),
        ]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.split("\n")
        text, failed = (lines[-3], lines[-2] == "1") if len(lines) > 2 else ("crashed", True)
        rows.append((name, text, failed, time.monotonic() - started))
        print(f"    {text}", flush=True)
    made = table(rows, options.scale)
    print(made)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(START)[0], page.split(END)[1]
        PAGE.write_text(before + made + after, encoding="utf-8")
    return int(any(failed for _, _, failed, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
