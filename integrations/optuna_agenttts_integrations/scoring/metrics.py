"""Scores of answers, retrieved ids, tool calls and programs.

Every F1 here is 2 |common| / (|predicted| + |gold|), the harmonic mean of precision and recall.
Nothing is averaged: each function scores one instance.
"""

from __future__ import annotations

import re
import reprlib
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_ROUGE_TOKEN = re.compile(r"[a-z0-9]+")


def _f1(common: int, predicted: int, gold: int) -> float:
    """F1 of two collections by their sizes: 1 if both are empty, 0 if one is."""
    return 2 * common / (predicted + gold) if predicted + gold else 1.0


def _set_f1(predicted: set[Any], gold: set[Any]) -> float:
    return _f1(len(predicted & gold), len(predicted), len(gold))


def require_collection(name: str, value: object) -> None:
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
    require_collection("accepted", accepted)
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
    require_collection("predicted", predicted)
    require_collection("gold", gold)
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
