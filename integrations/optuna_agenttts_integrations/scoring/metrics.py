"""Scores of answers, retrieved ids, tool calls and programs.

Every F1 here is 2 |common| / (|predicted| + |gold|), the harmonic mean of precision and recall.
Nothing is averaged: each function scores one instance.
"""

from __future__ import annotations

import ast
import io
import re
import reprlib
import string
import tokenize
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_ROUGE_TOKEN = re.compile(r"[a-z0-9]+")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_QUOTES = "\"'`"
_MAX_DEPTH = 64

_REMINDER = re.compile(
    # Not within masks and names, such as XXX-XX-1234; a program may well be about to-dos.
    r"(?<!\w)(?<!\w[.-])(?:TODO|XXX|(?i:fixme))(?!\w|[.-]\w)"
    r"|^\W*(?i:todo|xxx)\s*(?:[:(]|-+\s|$)"
    r"|(?i:\byour\s+(?:code|logic|implementation)\s+(?:goes\s+)?here\b)"
    r"|(?i:\bimplement(?:ation)?\b.*\bhere\b)"
)
_DECLARING_DECORATORS = {"abstractmethod", "overload"}


def _f1(common: int, predicted: int, gold: int) -> float:
    """F1 of two collections by their sizes: 1 if both are empty, 0 if one is."""
    return 2 * common / (predicted + gold) if predicted + gold else 1.0


def _set_f1(predicted: set[Any], gold: set[Any]) -> float:
    return _f1(len(predicted & gold), len(predicted), len(gold))


def _refuse_text(name: str, value: object) -> None:
    """A text is a sequence of texts too, and would be taken apart."""
    if isinstance(value, str):
        raise ValueError(f"`{name}` is the text {reprlib.repr(value)}: give a list of them.")


def normalize_answer(text: str) -> str:
    """A text as the SQuAD v1.1 evaluation compares it (arXiv 1606.05250, section 6.1).

    Lower case; the 32 ASCII punctuation characters deleted, so that "U.S." is "us"; the words a,
    an and the removed; runs of white space made one blank. Other characters are kept as they are.
    """
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", text).split())


def _normalized(accepted: Sequence[str]) -> list[str]:
    _refuse_text("accepted", accepted)
    if len(accepted) == 0:
        raise ValueError("`accepted` is empty: give at least one accepted answer.")
    return [normalize_answer(text) for text in accepted]


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """Whether an answer equals an accepted one after `normalize_answer`: 1 or 0.

    Raises:
        ValueError: `accepted` is empty, or a text instead of a sequence of them.
    """
    return float(normalize_answer(answer) in _normalized(accepted))


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """The best F1 of an answer's words and those of an accepted answer, as SQuAD v1.1 has it.

    Words are those of `normalize_answer`, counted as often as they occur, in any order.

    Returns:
        0 to 1. Two texts without words make 1, one makes 0.

    Raises:
        ValueError: `accepted` is empty, or a text instead of a sequence of them.
    """
    words = Counter(normalize_answer(answer).split())
    rivals = [Counter(text.split()) for text in _normalized(accepted)]
    return max(_f1((words & other).total(), words.total(), other.total()) for other in rivals)


def contains_answer(answer: str, accepted: Sequence[str]) -> float:
    """Whether the words of an accepted answer occur in an answer, adjacent and in order: 1 or 0.

    A laxer variant of `exact_match`: report it under its own name. Words are whole and those of
    `normalize_answer`. An accepted answer without words counts only if the answer has none.

    Raises:
        ValueError: `accepted` is empty, or a text instead of a sequence of them.
    """
    # No two blanks meet in a normalized text, unless it is empty.
    text = f" {normalize_answer(answer)} "
    return float(any(f" {other} " in text for other in _normalized(accepted)))


def set_f1(predicted: Iterable[Hashable], gold: Iterable[Hashable]) -> float:
    """F1 of two sets, such as retrieved and relevant ids.

    Returns:
        0 to 1. Two empty sets make 1, one makes 0.

    Raises:
        ValueError: A text is given instead of a collection.
    """
    _refuse_text("predicted", predicted)
    _refuse_text("gold", gold)
    return _set_f1(set(predicted), set(gold))


def rouge_l(predicted: str, reference: str) -> float:
    """ROUGE-L, the F-measure with beta = 1 (Lin 2004, section 3).

    Tokens are runs of a-z and 0-9 in lower case, as in the rouge-score package without a stemmer;
    each text is one sequence, not split into sentences. Other scripts have no tokens.

    Returns:
        0 to 1; 0 if a text has no tokens.
    """
    ours, theirs = (_ROUGE_TOKEN.findall(text.lower()) for text in (predicted, reference))
    if not ours or not theirs:
        return 0.0
    return _f1(_common_subsequence(ours, theirs), len(ours), len(theirs))


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence (Hyyro 2004, bit-parallel LCS).

    Bit i of `row` is 0 where the length grows from `left[:i]` to `left[:i + 1]`.
    """
    places: dict[str, int] = {}
    for index, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << index
    full = row = (1 << len(left)) - 1
    for token in right:
        matched = row & places.get(token, 0)
        row = (row + matched | row - matched) & full
    return len(left) - row.bit_count()


def _name(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def node_f1(predicted: Iterable[str], gold: Iterable[str]) -> float:
    """F1 of two sets of tool names: the node F1 of one instance of TaskBench (arXiv 2311.18760).

    Names are compared with "_" as a blank, as TaskBench's own evaluation does, and regardless of
    case and of further white space. How often a tool is called makes no difference.

    Returns:
        0 to 1. Two empty sets make 1, one makes 0.

    Raises:
        ValueError: A text is given instead of a collection.
    """
    _refuse_text("predicted", predicted)
    _refuse_text("gold", gold)
    return _set_f1({_name(tool) for tool in predicted}, {_name(tool) for tool in gold})


def _canonical(value: Any, depth: int = 0) -> Hashable:
    """What stands for a JSON value in comparisons; numbers and booleans never meet."""
    if depth > _MAX_DEPTH:
        raise ValueError("its values are nested too deeply")
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        return "number", Decimal(int(value))
    if isinstance(value, float):
        number = Decimal(float.__repr__(value))
        # A NaN would differ from itself.
        return "number", number if number.is_finite() else str(number)
    if isinstance(value, str):
        return _canonical_text(value)
    if isinstance(value, Mapping):
        pairs = (_canonical(pair, depth + 1) for pair in value.items())
        return "mapping", frozenset(pairs)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return "list", tuple(_canonical(item, depth + 1) for item in value)
    raise ValueError(f"a {type(value).__name__} is no JSON value")


def _canonical_text(text: str) -> Hashable:
    text = text.strip()
    while len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        text = text[1:-1].strip()
    if _JSON_NUMBER.fullmatch(text):
        try:
            return "number", Decimal(text)
        except InvalidOperation:  # an exponent beyond 10**18
            pass
    return "text", " ".join(text.casefold().split())


def _arguments(arguments: Any) -> Iterator[tuple[str, Hashable]]:
    """Name and value of each argument of a call; one nameless None for a call without any."""
    if arguments is None:
        arguments = ()
    if isinstance(arguments, str) or not isinstance(arguments, (Mapping, Sequence)):
        raise ValueError("its arguments are neither a mapping nor a list")
    if not arguments:
        yield "", None
    elif isinstance(arguments, Mapping):
        for name, value in arguments.items():
            if not isinstance(name, str):
                raise ValueError(f"its argument's name {name!r} is no text")
            yield _name(name), _canonical(value)
    else:
        for item in arguments:
            if isinstance(item, Mapping) and "name" in item and "value" in item:
                if not isinstance(item["name"], str):
                    raise ValueError(f"its argument's name {item['name']!r} is no text")
                yield _name(item["name"]), _canonical(item["value"])
            else:
                yield "", _canonical(item)


def _triples(which: str, calls: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, Hashable]]:
    found: set[tuple[str, str, Hashable]] = set()
    for index, call in enumerate(calls):
        try:
            if not isinstance(call, Mapping):
                raise ValueError("it is no mapping")
            if not isinstance(call.get("tool"), str):
                raise ValueError("it has no text under 'tool'")
            tool = _name(call["tool"])
            found.update((tool, name, value) for name, value in _arguments(call.get("arguments")))
        except ValueError as error:
            raise ValueError(
                f"`{which}[{index}]` is {reprlib.repr(call)}, and {error}: give a call as "
                '{"tool": name, "arguments": mapping or list}.'
            ) from None
    return found


def argument_f1(
    predicted: Iterable[Mapping[str, Any]], gold: Iterable[Mapping[str, Any]]
) -> float:
    """F1 of two sets of (tool, argument's name, argument's value).

    After TaskBench's F1 of arguments and values (arXiv 2311.18760), with these differences: its
    evaluation compares values as they are printed, leaves out calls without arguments, and in
    the domains whose arguments have no names takes the type of each value for one.

    Names are compared as in `node_f1`. Of values, texts are compared regardless of case, white
    space around and between words, and quotes around them; numbers by value, where a text that
    is a number in JSON counts as one (2, 2.0 and "2" are equal, "007" is a text); true and false
    are no numbers; lists keep their order, mappings do not. A reference such as "<node-0>" is a
    text like any other: replace it by what it refers to if calls may come in another order.

    Args:
        predicted: Tool calls ``{"tool": name, "arguments": arguments}``, where arguments are a
            mapping, a list of ``{"name": ..., "value": ...}`` or a list of plain values, which
            have the empty name. A call without arguments has one, without name and value, so
            that choosing the tool counts.
        gold: The calls that are right.

    Returns:
        0 to 1. Two empty sets make 1, one makes 0.

    Raises:
        ValueError: A call is malformed; the message says which.
    """
    return _set_f1(_triples("predicted", predicted), _triples("gold", gold))


def argument_name_f1(
    predicted: Iterable[Mapping[str, Any]], gold: Iterable[Mapping[str, Any]]
) -> float:
    """F1 of two sets of (tool, argument's name); see `argument_f1`.

    Returns:
        0 to 1. Two empty sets make 1, one makes 0.

    Raises:
        ValueError: A call is malformed; the message says which.
    """
    ours, theirs = _triples("predicted", predicted), _triples("gold", gold)
    return _set_f1({triple[:2] for triple in ours}, {triple[:2] for triple in theirs})


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """The cosine of the angle between two vectors of the same length.

    Returns:
        -1 to 1; 0 if a vector is zero or has no entries.

    Raises:
        ValueError: The lengths differ, a vector is not flat or holds infinity or NaN.
    """
    units = []
    for name, vector in (("a", a), ("b", b)):
        entries = np.asarray(vector, dtype=float)
        if entries.ndim != 1 or not np.isfinite(entries).all():
            raise ValueError(f"`{name}` is {reprlib.repr(vector)}: give a list of finite numbers.")
        # Divided by the largest entry, so that no square overflows or vanishes.
        largest = np.abs(entries).max(initial=0.0)
        units.append(entries / largest if largest else entries)
    left, right = units
    if len(left) != len(right):
        raise ValueError(
            f"`a` has {len(left)} entries and `b` has {len(right)}: give vectors of one length."
        )
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return max(-1.0, min(1.0, float(left @ right) / norms)) if norms else 0.0


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
