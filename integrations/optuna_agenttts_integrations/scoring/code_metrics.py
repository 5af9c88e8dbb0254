"""Metrics of Python source that do not run it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterable
from itertools import islice

_REMINDER = re.compile(
    # Does not match inside of masks and names (XXX-XX-1234), or in programs about to-do lists.
    r"(?<!\w)(?<!\w[.-])(?:TODO|XXX|(?i:fixme))(?!\w|[.-]\w)"
    r"|^\W*(?i:todo|xxx)\s*(?:[:(]|-+\s|$)"
    r"|(?i:\byour\s+(?:code|logic|implementation)\s+(?:goes\s+)?here\b)"
    # The first word only, so that many of them take linear time.
    r"|^(?i:(?:(?!\bimplement(?:ation)?\b).)*\bimplement(?:ation)?\b.*\bhere\b)"
)
_MAX_TOKENS = 16_000
"""Tokens of source that is read, about 1500 lines. Chosen by hand, so that it takes less than
.1 s; a reply of 4096 tokens has about 400 lines."""
_DECLARING_DECORATORS = {"abstractmethod", "overload"}


def python_tokens(lines: Iterable[str]) -> list[tokenize.TokenInfo] | None:
    """Return the tokens of Python source; None if it has too many, or cannot be tokenized."""
    try:
        tokens = list(islice(tokenize.generate_tokens(iter(lines).__next__), _MAX_TOKENS + 1))
    except (SyntaxError, tokenize.TokenError):
        return None
    return tokens if len(tokens) <= _MAX_TOKENS else None


def _last_names(expressions: Iterable[ast.expr]) -> set[str]:
    """Collect the last part of each dotted name, called, subscripted or plain."""
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
    """Return whether a statement is a docstring, `...`, `pass` or raises NotImplementedError."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return isinstance(statement.value.value, str) or statement.value.value is ...
    if isinstance(statement, ast.Raise) and statement.exc is not None:
        return "NotImplementedError" in _last_names([statement.exc])
    return isinstance(statement, ast.Pass)


def _is_placeholder(node: ast.AST, declared: set[ast.stmt]) -> bool:
    """Return whether a node is an empty function, class or module; protocol methods are not."""
    if isinstance(node, ast.ClassDef):
        if node.bases or node.keywords:  # exceptions and other subclasses need no body
            return False
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if node in declared or _last_names(node.decorator_list) & _DECLARING_DECORATORS:
            return False
    elif not isinstance(node, ast.Module):
        return False
    return all(_does_nothing(statement) for statement in node.body)


def completeness(code: str) -> float:
    """Return 1 if Python source parses and has no placeholder, else 0.

    Placeholders are:

    * functions whose body is only a docstring, ``pass``, ``...`` or ``raise
      NotImplementedError``, except abstract methods, overloads and methods of protocols;
    * classes and modules with such a body, except subclasses, for example of exceptions;
    * comments with TODO, FIXME or XXX, or with "your code here" or "implement ... here". A
      lower-case "todo" counts at the beginning of a comment, before a colon, bracket or dash.

    ``pass`` next to other statements, as in ``except KeyError: pass``, is not one.

    ChatDev (arXiv 2307.07924, section 4) calls software complete if it has no placeholder code.
    Its script returns 0 if any line contains "pass" or "todo", in any case and in any word except
    passed, passes, passenger and password. It therefore rejects to-do apps, ``bypass()`` and
    ``except KeyError: pass``, and accepts bodies of ``...`` and source that does not parse.

    Args:
        code: Source of one module. Source of more than 16,000 tokens is not complete.

    Returns:
        1 or 0.
    """
    tokens = python_tokens(io.StringIO(code, newline=None))  # the parser's line ends
    if tokens is None:
        return 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the source
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
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
