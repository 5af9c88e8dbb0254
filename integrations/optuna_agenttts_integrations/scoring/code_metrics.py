"""Score generated Python source without running it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable

_REMINDER = re.compile(
    # Not within masks and names, such as XXX-XX-1234; a program may well be about to-dos.
    r"(?<!\w)(?<!\w[.-])(?:TODO|XXX|(?i:fixme))(?!\w|[.-]\w)"
    r"|^\W*(?i:todo|xxx)\s*(?:[:(]|-+\s|$)"
    r"|(?i:\byour\s+(?:code|logic|implementation)\s+(?:goes\s+)?here\b)"
    r"|(?i:\bimplement(?:ation)?\b.*\bhere\b)"
)
_DECLARING_DECORATORS = {"abstractmethod", "overload"}


def _last_names(expressions: Iterable[ast.expr]) -> set[str]:
    """The last part of each dotted name, whether it is called, subscripted or neither."""
    names = set()
    for node in expressions:
        while isinstance(node, (ast.Call, ast.Subscript)):
            node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    return names


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return isinstance(statement.value.value, str) or statement.value.value is ...
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        return "NotImplementedError" in _last_names([statement.exc])
    return isinstance(statement, ast.Pass)


def _is_placeholder(node: ast.AST, declared: set[ast.stmt]) -> bool:
    if isinstance(node, ast.ClassDef):
        if node.bases or node.keywords:  # an error, a marker, a plain subclass
            return False
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if node in declared or _last_names(node.decorator_list) & _DECLARING_DECORATORS:
            return False
    elif not isinstance(node, ast.Module):
        return False
    return all(_does_nothing(statement) for statement in node.body)


def completeness(code: str) -> float:
    """Whether Python source is finished: 1 if it parses and holds no placeholder, else 0.

    Placeholders are functions and methods whose body is nothing but a docstring, ``pass``,
    ``...`` or ``raise NotImplementedError``; such classes, unless they inherit, as errors do;
    and comments with TODO, FIXME or XXX, or that say "your code here" or "implement ... here".
    A "todo" in lower case counts where it opens a comment and a colon, bracket or dash follows.
    Abstract methods, overloads and the methods of protocols are no placeholders, nor is ``pass``
    beside or below other statements, as in ``except KeyError: pass``. Source without any code
    is not finished.

    ChatDev (arXiv 2307.07924, section 4) calls software complete if no code in it is left as a
    placeholder. Its own script gives 0 as soon as one line has "pass" or "todo" in it, in any
    case and as part of any word other than passed, passes, passenger and password; hence a
    finished list of to-dos, ``bypass()`` and ``except KeyError: pass`` are incomplete there and
    complete here, while bodies of ``...`` and source that does not parse are the reverse.

    Args:
        code: The source of one module.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the source, about its escapes say
            tree = ast.parse(code)
            lines = io.StringIO(code, newline=None)  # line ends as the parser takes them
            tokens = list(tokenize.generate_tokens(lines.readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return 0.0
    if any(token.type == tokenize.COMMENT and _REMINDER.search(token.string) for token in tokens):
        return 0.0
    nodes = list(ast.walk(tree))
    declared = {
        method
        for node in nodes
        if isinstance(node, ast.ClassDef) and "Protocol" in _last_names(node.bases)
        for method in node.body
    }
    return float(not any(_is_placeholder(node, declared) for node in nodes))
