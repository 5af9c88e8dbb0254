"""Programs that models write: parsed from replies, shown in prompts, run in a sandbox."""

from __future__ import annotations

import asyncio
import io
import os
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from weakref import WeakKeyDictionary

from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts_integrations.scoring import code_metrics
from optuna_agenttts_integrations.scoring.chatdev_metrics import chatdev_executability
from optuna_agenttts_integrations.scoring.sandbox import Sandbox

MAIN_FILE = "main.py"
UNCHANGED = "NO CHANGES"

# Limits chosen by hand: a reply of 4096 tokens has about 16,000 characters.
_MAX_FILES = 20
_MAX_CHARACTERS = 200_000
_MAX_ERROR_CHARACTERS = 2000
_FILE = re.compile(r"(?:\d{1,2}[.)]\s{1,9}[*`]{0,3})?FILE\s?(?:NAME)?:", re.IGNORECASE)
_PYTHON = ("python", "py", "python3")
_COMMANDS = ("bash", "sh", "shell", "console", "text", "plaintext", "txt", "output")
# At most four folders; no part starts with a dot.
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}/){0,4}[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SUFFIXES = (".py", ".txt", ".md", ".json")
# A fence as in CommonMark: one with an info string opens a block but never closes one.
_FENCE = re.compile(r" {0,3}(`{3,})([^`]*)")
_TICKS = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


@dataclass(frozen=True, slots=True)
class Program:
    """Program of one or more files.

    Args:
        files: Pairs of name and source; see `from_files`.
    """

    files: tuple[tuple[str, str], ...]

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Program:
        """Create a program from sources by file name: ``main.py`` first, the others sorted."""
        return cls(tuple(sorted(files.items(), key=lambda file: (file[0] != MAIN_FILE, file[0]))))

    @property
    def python(self) -> dict[str, str]:
        """Sources of the Python files by name."""
        return {name: source for name, source in self.files if name.endswith(".py")}


def parse_program(text: str, *, allow_unnamed: bool = False) -> Program | None:
    """Parse a program: for each file, a line ``FILE: name`` and a fenced code block.

    Names may also stand alone on the line before the block, as in ChatDev, after the language of
    the block, or in a first line such as ``# main.py``. Of blocks with the same name, the last
    counts. Prose between files is ignored, and so are blocks of shell commands and output without
    a name. Names are relative paths of letters, digits and ``_.-/`` that end in .py, .txt, .md or
    .json; one of them is ``main.py``.

    Args:
        text: The reply.
        allow_unnamed: Whether a single Python block without a name is ``main.py``. In a revision
            it may be a part of a file.

    Returns:
        The program; None if the reply is malformed: another block without a name, one without an
        end, an invalid name, a file that is also a folder, no ``main.py``, more than 20 files or
        200,000 characters, or text that cannot be encoded as UTF-8.
    """
    text = split_thoughts(text)[0]
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    files: dict[str, str] = {}
    unnamed: list[str] = []
    line = 0
    while line < len(lines):
        name, start = _named(lines, line)
        fence = _FENCE.fullmatch(lines[start]) if start < len(lines) else None
        if name is None and fence is None:
            line += 1
            continue
        end = _end_of_block(lines, start)
        if end is None:
            return None
        source = lines[start + 1 : end]
        line = end + 1
        language = fence[2].strip() if fence else ""
        if name is None:
            name = _name_in_block(language, source)
        if name is None and language.lower() in _PYTHON:
            unnamed.append("\n".join(source))
        elif name is None and language.lower() not in _COMMANDS:
            return None
        elif name is not None:
            if not _is_valid_name(name) or (len(files) == _MAX_FILES and name not in files):
                return None
            files[name] = "\n".join(source).rstrip() + "\n"
    if unnamed:
        if not allow_unnamed or files or len(unnamed) > 1:
            return None
        files[MAIN_FILE] = unnamed[0].rstrip() + "\n"
    folders = {name[:i] for name in files for i in range(len(name)) if name[i] == "/"}
    if MAIN_FILE not in files or not files[MAIN_FILE].strip() or folders & set(files):
        return None
    if sum(map(len, files.values())) > _MAX_CHARACTERS or not _is_unicode(files):
        return None
    return Program.from_files(files)


def _named(lines: list[str], line: int) -> tuple[str | None, int]:
    """Return the name of a file on a line, and the line where its block starts.

    The name is None, and the line the given one, if the line is not the name of a file.
    """
    text = lines[line].strip().lstrip("#*>-` \t")
    label = _FILE.match(text)
    name = (text[label.end() :] if label else text).strip().strip("`*:").strip()
    if not label and not _is_valid_name(name):
        return None, line
    start = line + 1
    while start < len(lines) and not lines[start].strip():
        start += 1
    if not label and (start == len(lines) or not _FENCE.fullmatch(lines[start])):
        return None, line
    return name, start


def _name_in_block(language: str, source: list[str]) -> str | None:
    """Return the name after the language of a block, or in its first line.

    A first line that is no comment is removed from the source.
    """
    name = re.split(r"[\s:=]", language)[-1].strip("\"'{}")
    if _is_valid_name(name):
        return name
    first = source[0].strip() if source else ""
    label = _FILE.match(first.lstrip("# "))
    name = first.lstrip("# ")[label.end() if label else 0 :].strip()
    if not _is_valid_name(name) or not (label or first.startswith("#")):
        return None
    if not first.startswith("#"):
        del source[0]
    return name


def is_unchanged_reply(text: str) -> bool:
    """Return whether a reply keeps the program: a line ``NO CHANGES`` and no files."""
    lines = [line.strip().strip("*`.").strip() for line in split_thoughts(text)[0].splitlines()]
    unchanged = any(line.upper() == UNCHANGED for line in lines)
    return unchanged and not any(_FILE.match(line.lstrip("#*\t ")) for line in lines)


def _end_of_block(lines: list[str], start: int) -> int | None:
    """Return the last line of the fenced block that starts on a line; None if there is none."""
    opening = _FENCE.fullmatch(lines[start]) if start < len(lines) else None
    if opening is None:
        return None
    for end in range(start + 1, len(lines)):
        closing = _FENCE.fullmatch(lines[end])
        if closing and len(closing[1]) >= len(opening[1]) and not closing[2].strip():
            return end
    return None


def _is_valid_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name.endswith(_SUFFIXES)


def _is_unicode(files: Mapping[str, str]) -> bool:
    """Return whether the sources can be encoded as UTF-8, which unpaired surrogates cannot."""
    try:
        "".join(files.values()).encode()
    except UnicodeEncodeError:
        return False
    return True


def code_block(text: str, language: str = "") -> str:
    """Return a text as a code block whose fence is longer than any fence in the text."""
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in _TICKS.findall(text))])
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def format_program(program: Program) -> str:
    """Return a program in the form that `parse_program` parses."""
    return "\n\n".join(
        f"FILE: {name}\n{code_block(source, 'python' if name.endswith('.py') else '')}"
        for name, source in program.files
    )


def completeness(program: Program) -> float:
    """Return 1 if every Python file of a program is complete, else 0.

    See `code_metrics.completeness`. An ``__init__.py`` may be empty.
    """
    return min(
        1.0
        if name.split("/")[-1] == "__init__.py" and not source.strip()
        else code_metrics.completeness(source)
        for name, source in program.python.items()
    )


def program_code(program: Program) -> str:
    """Return a program's Python sources without comments and docstrings."""
    return "\n\n".join(filter(None, map(strip_comments, program.python.values())))


def strip_comments(source: str) -> str:
    """Remove comments, string statements (docstrings) and blank lines from Python source.

    Source that cannot be tokenized, or has more than 16,000 tokens, is returned unchanged.
    """
    lines = list(io.StringIO(source))
    tokens = code_metrics.python_tokens(lines)
    if tokens is None:
        return source.strip()
    cuts = []
    strings: list[tokenize.TokenInfo] | None = []
    for token in tokens:
        if token.type == tokenize.COMMENT:
            cuts.append((token.start, token.end))
        elif _is_plain_string(token) and strings is not None:
            strings.append(token)
        elif token.type == tokenize.NEWLINE:
            # The statement consists of strings only.
            cuts += [(string.start, string.end) for string in strings or ()]
            strings = []
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            strings = None
    starts = [0, *accumulate(map(len, lines))]
    kept, end = [], 0
    for (first, left), (last, right) in sorted(cuts):
        kept.append(source[end : starts[first - 1] + left])
        end = starts[last - 1] + right
    lines = "".join([*kept, source[end:]]).split("\n")
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _is_plain_string(token: tokenize.TokenInfo) -> bool:
    # Before Python 3.12, an f-string, which is never a docstring, is a STRING token, too.
    prefix = re.split("['\"]", token.string, maxsplit=1)[0]
    return token.type == tokenize.STRING and "f" not in prefix.lower()


@dataclass(frozen=True, slots=True)
class Run:
    """Result of running a program.

    Args:
        exit_code: The exit code; None if the program was still running at the time limit.
        errors: The end of its stderr, at most 2000 characters. Memory addresses, which differ
            between runs, are masked.
        traceback: Whether its whole stderr has a traceback, which is what ChatDev looks for.
    """

    exit_code: int | None
    errors: str
    traceback: bool = False

    @property
    def succeeded(self) -> bool:
        """True if the program exited with 0 or was still running, as games and servers do."""
        return self.exit_code in (0, None)


class Runner(Resetting):
    """Runner of programs in a sandbox, with a cache of results.

    Args:
        sandbox: The sandbox.
        parallel: Maximum number of concurrent programs. Default: the number of processors, so
            that programs do not slow each other down into the time limit.
        cache_size: Number of results to keep; 1024 is chosen by hand.
    """

    _unpickled = ("_slots",)

    def __init__(
        self, sandbox: Sandbox, *, parallel: int | None = None, cache_size: int = 1024
    ) -> None:
        self._sandbox, self._cache_size = sandbox, cache_size
        self._results: dict[Program, Run] = {}
        self._parallel = parallel or os.cpu_count() or 1
        self._reset()

    def _reset(self) -> None:
        # Event loops of this process.
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    async def run(self, program: Program) -> Run:
        """Run a program without arguments and input, or return its cached result.

        Raises:
            SandboxError: The sandbox could not run the program.
        """
        loop = asyncio.get_running_loop()
        async with self._slots.setdefault(loop, asyncio.Semaphore(self._parallel)):
            result = self._results.get(program)
            if result is None:
                finished = await self._sandbox.run(dict(program.files), main=MAIN_FILE)
                errors = _ADDRESS.sub("0x...", finished.stderr)[-_MAX_ERROR_CHARACTERS:].strip()
                traceback = not chatdev_executability(finished.stderr)
                result = self._results[program] = Run(finished.exit_code, errors, traceback)
                while len(self._results) > self._cache_size:
                    del self._results[next(iter(self._results))]
        return result
