"""Runs the blocks of a page in order, with Sybil: one namespace and one folder for each page.

* ``python`` runs in the page's namespace.
* ``bash`` runs as one script, which must succeed.
* ``console``: each line after ``$`` runs, and must print the lines below it, if there are any.
* ``text`` must be what the block above it printed; ``...`` is any text.
* Blocks of other languages are written to the file that ``<!-- file: NAME -->`` above them names,
  and so is every block with such a name.
* ``{...}`` is a directive of Sphinx, and blocks without a language are drawings: both are left.

``<!-- skip: next "REASON" -->`` above a block marks one that cannot run here.
``<!-- skip: next if(missing("ray"), reason="needs Ray") -->`` marks one unless Ray is installed.

A server of all models is at the address `SERVER`: blocks get its real port instead.
"""

import contextlib
import difflib
import doctest
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import traceback
import unittest
from collections import Counter
from functools import partial
from pathlib import Path

from sybil import Region, Sybil
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

from optuna_agenttts.llm import Completion, Usage

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    if "_build" not in page.parts
]
SERVER = "http://127.0.0.1:8080"
SECONDS = 600.0
"""Longest time of a block in another process, seconds."""


def missing(*distributions):
    """Return whether any of the distributions is not installed."""
    try:
        return not all(map(importlib.metadata.version, distributions))
    except importlib.metadata.PackageNotFoundError:
        return True


class Stranger:
    """Chat model that knows nothing and answers every prompt."""

    async def complete(self, request, *, seed):
        """Return a short reply, which differs between seeds."""
        return Completion(f"[{1 + seed % 3}]", Usage(0, 0))


class Page:
    """A page whose blocks run in a folder.

    Args:
        path: The page.
        folder: Working directory of its blocks; must be the current one.
        server: Address that takes the place of `SERVER`.

    Attributes:
        counts: Numbers of blocks by what became of them: ``"executed"``, ``"compared"``
            (output), ``"written"`` (files) and ``"marked"``.
        reasons: Reasons of marked blocks.
        names: Namespace of its blocks.
    """

    def __init__(self, path, folder=None, server=SERVER):
        self.path, self.folder, self.server = path, folder, server
        self.counts, self.reasons = Counter(), []
        self._output = self._file = None
        self._skips = SkipParser()
        self._document = Sybil(parsers=[self._skips, self._files, self._blocks]).parse(path)
        self.names = self._document.namespace
        self.names.update(__name__="__main__", missing=missing)

    def run(self, *, dry=False):
        """Run all blocks in order.

        Args:
            dry: Whether to count blocks only, in place of running them.

        Raises:
            AssertionError: A block failed, or its output is not the one shown.
        """
        self._dry = dry
        for example in self._document:
            is_skip = example.region.evaluator is self._skips.skipper
            if is_skip and not example.parsed[1] and example.parsed[0] != "end":
                raise AssertionError(f"{self._where(example)}: a mark needs its reason")
            try:
                example.evaluate()
            except unittest.SkipTest as reason:
                self._output = None
                if example.region.lexemes["language"] != "text":
                    self.counts["marked"] += 1
                    self.reasons.append(f"{self._where(example)}: {reason}")
            except Exception as error:
                lines = traceback.format_exception(error)
                raise AssertionError(f"{self._where(example)}:\n{''.join(lines[-12:])}") from None

    def _where(self, example):
        return f"{self.path.relative_to(ROOT)}:{example.line}"

    def _files(self, document):
        for lexed in DirectiveInHTMLCommentLexer("file")(document):
            yield Region(lexed.start, lexed.end, lexed.lexemes["arguments"], self._name_file)

    def _blocks(self, document):
        known = {
            "python": self._run_python,
            "bash": self._run_bash,
            "console": self._run_console,
            "text": self._compare_text,
        }
        for region in FencedCodeBlockLexer(r"[^{\s][^\n]*")(document):
            region.parsed = region.lexemes["source"]
            region.evaluator = partial(
                self._run_block, known.get(region.lexemes["language"], self._write_file)
            )
            yield region

    def _run_block(self, run, example):
        (self._write_file if self._file else run)(example)

    def _source(self, example):
        """Return the source of a block, with the server's real address."""
        return example.parsed.replace(SERVER, self.server)

    def _name_file(self, example):
        self._file = example.parsed

    def _write_file(self, example):
        assert self._file, "name the file of this block by <!-- file: NAME --> above it"
        self.counts["written"] += 1
        if not self._dry:
            file = Path(self.folder, self._file)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self._source(example), encoding="utf-8")
        self._file = None

    def _run_python(self, example):
        source = "\n" * example.line + self._source(example)
        code = compile(source, str(self.path), "exec", dont_inherit=True)
        self.counts["executed"] += 1
        self._output = ""
        if not self._dry:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, example.namespace)
            self._output = printed.getvalue()

    def _run_bash(self, example):
        self.counts["executed"] += 1
        self._output = "" if self._dry else self._shell(self._source(example))

    def _run_console(self, example):
        self.counts["executed"] += 1
        self._output = ""
        if self._dry:
            return
        outputs = []
        for command, shown in re.findall(
            r"^\$ (.*)\n?((?:(?!\$ ).*\n?)*)", self._source(example), re.MULTILINE
        ):
            outputs.append(self._shell(command))
            if shown.strip():
                self._compare(shown, outputs[-1])
        self._output = "".join(outputs)

    def _compare_text(self, example):
        if self._output is None:  # of a block that is marked
            return
        self.counts["compared"] += 1
        if not self._dry:
            self._compare(self._source(example), self._output)

    def _compare(self, shown, printed):
        shown, printed = (
            "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())
            for text in (shown, printed)
        )
        if not doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS):
            lines = difflib.unified_diff(
                shown.splitlines(), printed.splitlines(), "shown", "printed", lineterm=""
            )
            raise AssertionError("\n".join(lines))

    def _shell(self, script):
        """Run a script as a person would who has the package installed; return its output."""
        folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": os.pathsep.join(folders),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout
