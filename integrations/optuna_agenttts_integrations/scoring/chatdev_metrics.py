"""ChatDev's own metrics of programs, as its script computes them.

The source is the script of ChatDev (arXiv 2307.07924, section 4), which AgentTTS's authors use:
``code_chatdev/chatdev/eval_quality.py`` of the repository FairyFali/AgentTTS_Code. It works on
lines of text: a program about passports is incomplete, and one that does not parse can be
complete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NO_PLACEHOLDERS = ("password", "passenger", "passed", "passes")
_PLACEHOLDERS = ("pass", "todo")
_QUOTED = tuple(re.compile(f"{quotes}(.*?){quotes}", re.DOTALL) for quotes in ("'''", '"""'))


def chatdev_code(files: Mapping[str, str]) -> str:
    """Return the text of a program that the script measures.

    Args:
        files: Sources of the Python files by name.

    Returns:
        For each file its name without folders and a block of its lines that are not blank.
    """
    blocks = {}  # the last file of a name counts
    for name, source in files.items():
        lines = (line for line in source.split("\n") if line.strip())
        blocks[name.split("/")[-1]] = "\n".join(lines)
    code = "".join(f"{name}\n```Python\n{source}\n```\n\n" for name, source in blocks.items())
    return code.strip() or "# None"


def chatdev_completeness(files: Mapping[str, str]) -> float:
    """Return 0 if a line of a program has "pass" or "todo", else 1.

    Case does not matter, nor whether it is part of a word. Lines with password, passenger, passed
    or passes do not count. The lines include names of files.

    Args:
        files: Sources of the Python files by name.
    """
    lines = [line.lower() for line in chatdev_code(files).split("\n")]
    return float(
        not any(
            any(word in line for word in _PLACEHOLDERS)
            and not any(word in line for word in _NO_PLACEHOLDERS)
            for line in lines
        )
    )


def chatdev_executability(stderr: str) -> float:
    """Return 0 if a program has written a traceback, else 1.

    The script runs ``main.py`` for three seconds, and ignores its exit code.

    Args:
        stderr: What the program has written to stderr.
    """
    return float("traceback" not in stderr.lower())


def chatdev_code_text(files: Mapping[str, str]) -> str:
    """Return the text of a program whose embedding is compared with that of the description.

    Lines that begin with ``#`` are removed from `chatdev_code`, and then each text between triple
    quotes wherever it occurs. The quotes stay, except three and three single ones at an end of a
    line.

    Args:
        files: Sources of the Python files by name.
    """
    code = chatdev_code(files)
    for quoted in _QUOTED:
        code = "\n".join(line for line in code.split("\n") if not line.strip().startswith("#"))
        for text in [match[1] for match in quoted.finditer(code)]:
            code = code.replace(text, "")
        code = code.replace("''''''\n", "")
    return code or "#"
