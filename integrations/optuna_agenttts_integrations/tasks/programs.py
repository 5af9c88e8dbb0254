"""Programs that models write: read from replies, shown in prompts, run apart."""

from __future__ import annotations

import asyncio
import io
import os
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from optuna_agenttts_integrations.scoring import metrics
from optuna_agenttts_integrations.scoring.sandbox import Sandbox

MAIN = "main.py"
UNCHANGED = "NO CHANGES"

_MOST_FILES = 20
_MOST_CHARACTERS = 200_000
_FILE = re.compile(r"[#*\s]*FILE:(.+)", re.IGNORECASE)
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}/){0,4}[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SUFFIXES = (".py", ".txt", ".md", ".json")
# A fence as CommonMark has it: what follows the marks opens one, and never closes one.
_FENCE = re.compile(r" {0,3}(`{3,})([^`]*)")
_TICKS = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_MOST_ERRORS = 2000


@dataclass(frozen=True, slots=True)
class Program:
    """A program.

    Args:
        files: Pairs of name and source; see `of`.
    """

    files: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, files: Mapping[str, str]) -> Program:
        """A program of files by name, ``main.py`` first and the others in order of their names."""
        return cls(tuple(sorted(files.items(), key=lambda file: (file[0] != MAIN, file[0]))))

    @property
    def python(self) -> dict[str, str]:
        """The sources of its Python files by name."""
        return {name: source for name, source in self.files if name.endswith(".py")}


def parse_program(text: str) -> Program | None:
    """Read a reply that is a program: for each file, a line ``FILE: name`` and a fenced block.

    Lines of prose between files are ignored. Names are relative, of letters, digits and ``_.-/``,
    and end in .py, .txt, .md or .json; ``main.py`` is among them.

    Returns:
        The program, or None where anything is amiss: a block without a name or without an end, a
        file that is named twice or lies in another one, more than 20 files or 200,000 characters.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    files: dict[str, str] = {}
    at = 0
    while at < len(lines):
        named = _FILE.fullmatch(lines[at])
        if named is None:
            if _FENCE.fullmatch(lines[at]):
                return None
            at += 1
            continue
        name = named[1].strip().strip("`*").strip()
        at += 1
        while at < len(lines) and not lines[at].strip():
            at += 1
        end = _end_of_block(lines, at)
        if end is None or name in files or not _acceptable(name) or len(files) == _MOST_FILES:
            return None
        files[name] = "\n".join(lines[at + 1 : end]).rstrip() + "\n"
        at = end + 1
    folders = {name[:at] for name in files for at in range(len(name)) if name[at] == "/"}
    if MAIN not in files or not files[MAIN].strip() or folders & set(files):
        return None
    if sum(map(len, files.values())) > _MOST_CHARACTERS or not _is_unicode(files):
        return None
    return Program.of(files)


def says_unchanged(text: str) -> bool:
    """Whether a reply leaves the program as it is: a line ``NO CHANGES``, and no files."""
    lines = [line.strip().strip("*`.").strip() for line in text.splitlines()]
    said = any(line.upper() == UNCHANGED for line in lines)
    return said and not any(_FILE.fullmatch(line) for line in lines)


def _end_of_block(lines: list[str], at: int) -> int | None:
    """Where the fenced block that opens on a line closes."""
    opening = _FENCE.fullmatch(lines[at]) if at < len(lines) else None
    if opening is None:
        return None
    for end in range(at + 1, len(lines)):
        closing = _FENCE.fullmatch(lines[end])
        if closing and len(closing[1]) >= len(opening[1]) and not closing[2].strip():
            return end
    return None


def _acceptable(name: str) -> bool:
    # No part begins with a dot, so none is "..".
    return _NAME.fullmatch(name) is not None and name.endswith(_SUFFIXES)


def _is_unicode(files: Mapping[str, str]) -> bool:
    """Whether the sources can be written as UTF-8: half a surrogate pair in JSON cannot."""
    try:
        "".join(files.values()).encode()
    except UnicodeEncodeError:
        return False
    return True


def fenced(text: str, kind: str = "") -> str:
    """A text in a block whose fence is longer than any in it."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in _TICKS.findall(text))])
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"


def program_text(program: Program) -> str:
    """A program as `parse_program` reads it."""
    return "\n\n".join(
        f"FILE: {name}\n{fenced(source, 'python' if name.endswith('.py') else '')}"
        for name, source in program.files
    )


def completeness(program: Program) -> float:
    """Whether a program is finished: 1 if every Python file of it is, else 0.

    See `metrics.completeness`. An ``__init__.py`` may be empty.
    """
    return min(
        1.0
        if name.split("/")[-1] == "__init__.py" and not source.strip()
        else metrics.completeness(source)
        for name, source in program.python.items()
    )


def code_text(program: Program) -> str:
    """A program's Python sources without comments and docstrings, one after another."""
    return "\n\n".join(filter(None, map(bare_code, program.python.values())))


def bare_code(source: str) -> str:
    """Python source without comments, docstrings, other idle strings and blank lines.

    Source that cannot be split into tokens is left as it is.
    """
    lines = list(io.StringIO(source))
    try:
        tokens = list(tokenize.generate_tokens(iter(lines).__next__))
    except (SyntaxError, tokenize.TokenError):
        return source.strip()
    cuts = []
    strings: list[tokenize.TokenInfo] | None = []
    for token in tokens:
        if token.type == tokenize.COMMENT:
            cuts.append((token.start, token.end))
        elif _is_plain_string(token) and strings is not None:
            strings.append(token)
        elif token.type == tokenize.NEWLINE:
            # A statement of strings alone.
            cuts += [(string.start, string.end) for string in strings or ()]
            strings = []
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            strings = None
    for (first, left), (last, right) in sorted(cuts, reverse=True):
        kept = lines[first - 1][:left] + lines[last - 1][right:]
        lines[first - 1 : last] = [kept]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _is_plain_string(token: tokenize.TokenInfo) -> bool:
    # Before Python 3.12 an f-string, which is no docstring, is such a token too.
    prefix = re.split("['\"]", token.string, maxsplit=1)[0]
    return token.type == tokenize.STRING and "f" not in prefix.lower()


@dataclass(frozen=True, slots=True)
class Run:
    """How a program ended.

    Args:
        exit_code: What it exited with; None if it was still running at the time limit.
        errors: The end of what it wrote to stderr, at most 2000 characters. Addresses in memory,
            which differ from run to run, are left out.
    """

    exit_code: int | None
    errors: str

    @property
    def well(self) -> bool:
        """Whether it ended well or was still running, as games and servers are."""
        return self.exit_code in (0, None)


class Runner:
    """Runs programs in a sandbox, each once as long as it is remembered.

    Args:
        sandbox: The sandbox.
        parallel: The most programs at once. Default: one for each processor, because their time
            is limited.
        remembered: How many results are kept.
    """

    def __init__(
        self, sandbox: Sandbox, *, parallel: int | None = None, remembered: int = 1024
    ) -> None:
        """See the class."""
        self._sandbox, self._remembered = sandbox, remembered
        self._parallel = parallel or os.cpu_count() or 1
        self._known: dict[Program, Run] = {}
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    async def run(self, program: Program) -> Run:
        """Run a program without arguments and input.

        Raises:
            SandboxError: It could not be run.
        """
        slots = self._slots.setdefault(
            asyncio.get_running_loop(), asyncio.Semaphore(self._parallel)
        )
        async with slots:
            known = self._known.get(program)
            if known is None:
                done = await self._sandbox.run(dict(program.files), main=MAIN)
                errors = _ADDRESS.sub("0x...", done.stderr)[-_MOST_ERRORS:].strip()
                known = self._known[program] = Run(done.exit_code, errors)
                while len(self._known) > self._remembered:
                    del self._known[next(iter(self._known))]
        return known
