"""Metrics of answers, sets, texts and vectors, for one instance each.

Every F1 is 2 |common| / (|predicted| + |gold|), the harmonic mean of precision and recall.
"""

from __future__ import annotations

import re
import reprlib
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_CLOSED = frozenset({"yes", "no", "noanswer"})
"""Answers of HotpotQA that are right or wrong as a whole, after `normalize_answer`."""
_ROUGE_TOKEN = re.compile(r"[a-z0-9]+")
_MAX_ROUGE_TOKENS = 10_000
"""Tokens of a text that ROUGE-L compares. Chosen by hand: a few times those of a long summary; the
time grows with their square, to less than .1 s."""


def _f1(common: int, predicted: int, gold: int) -> float:
    """Compute F1 from sizes: 1 if both collections are empty, 0 if one is."""
    return 2 * common / (predicted + gold) if predicted + gold else 1.0


def _set_f1(predicted: set[Any], gold: set[Any]) -> float:
    return _f1(len(predicted & gold), len(predicted), len(gold))


def require_collection(name: str, value: object) -> None:
    """Raise if a single string is passed as a collection, because it would be split into letters.

    Args:
        name: Name of the argument.
        value: The argument.

    Raises:
        ValueError: The value is a string.
    """
    if isinstance(value, str):
        raise ValueError(
            f"`{name}` must be a collection, got the string {reprlib.repr(value)}: pass it in a "
            "list."
        )


def normalize_answer(text: str) -> str:
    """Normalize a text as the SQuAD v1.1 evaluation does (arXiv 1606.05250, section 6.1).

    Converts to lower case, deletes the 32 ASCII punctuation characters ("U.S." becomes "us"),
    removes the words a, an and the, and collapses whitespace. Other characters are kept.

    Args:
        text: The text.
    """
    text = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", text).split())


def _normalized(accepted: Sequence[str]) -> list[str]:
    require_collection("accepted", accepted)
    if len(accepted) == 0:
        raise ValueError("`accepted` must have at least one answer.")
    return [normalize_answer(text) for text in accepted]


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1 if an answer equals an accepted one after `normalize_answer`, else 0.

    Args:
        answer: The answer.
        accepted: The accepted answers, at least one.

    Returns:
        1 or 0.

    Raises:
        ValueError: `accepted` is empty or a string.
    """
    return float(normalize_answer(answer) in _normalized(accepted))


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """Compute the token F1 of SQuAD with the best matching accepted answer.

    Source: SQuAD v1.1 (arXiv 1606.05250, section 6.1) and its script. Words are those of
    `normalize_answer`, as multisets. Texts without words are compared as by the script of SQuAD
    2.0; that of v1.1 gives 0 where both have none.

    Args:
        answer: The answer.
        accepted: The accepted answers, at least one.

    Returns:
        0 to 1: 1 if neither text has words, 0 if only one has words.

    Raises:
        ValueError: `accepted` is empty or a string.
    """
    words = Counter(normalize_answer(answer).split())
    golds = [Counter(text.split()) for text in _normalized(accepted)]
    return max(_f1((words & gold).total(), words.total(), gold.total()) for gold in golds)


def hotpot_f1(answer: str, accepted: Sequence[str]) -> float:
    """Compute the answer F1 of HotpotQA and 2WikiMultiHopQA with the best accepted answer.

    Source: `hotpot_evaluate_v1.py` of hotpotqa/hotpot (arXiv 1809.09600, section 5.1), and
    `2wikimultihop_evaluate_v1.1.py` of Alab-NII/2wikimultihop, which takes the best over an
    answer's aliases. It is SQuAD's token F1, except that the answers yes, no and noanswer score
    only if they are equal, and that two texts without words score 0.

    Args:
        answer: The answer.
        accepted: The accepted answers, at least one.

    Returns:
        0 to 1.

    Raises:
        ValueError: `accepted` is empty or a string.
    """
    text = normalize_answer(answer)
    words = Counter(text.split())
    scores = [0.0]
    for gold in _normalized(accepted):
        if text == gold or not _CLOSED & {text, gold}:
            common = words & Counter(gold.split())
            scores.append(_f1(common.total(), words.total(), len(gold.split())) if common else 0.0)
    return max(scores)


def contains_answer(answer: str, accepted: Sequence[str]) -> float:
    """Return 1 if an answer contains the words of an accepted one, adjacent and in order.

    This is more lenient than `exact_match`: report it under its own name. Words are those of
    `normalize_answer`, compared as a whole. An accepted answer without words matches only an
    answer without words.

    Args:
        answer: The answer.
        accepted: The accepted answers, at least one.

    Returns:
        1 or 0.

    Raises:
        ValueError: `accepted` is empty or a string.
    """
    # Two adjacent blanks occur only if the normalized text is empty.
    text = f" {normalize_answer(answer)} "
    return float(any(f" {other} " in text for other in _normalized(accepted)))


def set_f1(predicted: Iterable[Hashable], gold: Iterable[Hashable]) -> float:
    """Compute the F1 of two sets, for example of retrieved and relevant IDs.

    Args:
        predicted: The elements found.
        gold: The right elements.

    Returns:
        0 to 1: 1 if both sets are empty, 0 if only one is.

    Raises:
        ValueError: An argument is a string.
    """
    require_collection("predicted", predicted)
    require_collection("gold", gold)
    return _set_f1(set(predicted), set(gold))


def rouge_l(predicted: str, reference: str) -> float:
    """Compute the ROUGE-L F-measure with beta = 1 (Lin 2004, section 3).

    Tokens are runs of a-z and 0-9 in lower case, as in the rouge-score package without a stemmer,
    so that other scripts have no tokens. Each text is one sequence, not split into sentences, of
    which the first 10,000 tokens are compared.

    Args:
        predicted: The text.
        reference: The text to compare it with.

    Returns:
        0 to 1; 0 if a text has no tokens.
    """
    left, right = (
        [token[0] for token in islice(_ROUGE_TOKEN.finditer(text.lower()), _MAX_ROUGE_TOKENS)]
        for text in (predicted, reference)
    )
    if not left or not right:
        return 0.0
    return _f1(_common_subsequence(left, right), len(left), len(right))


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Compute the length of the longest common subsequence (Hyyro 2004, bit-parallel LCS).

    Bit i of `row` is 0 if the length for `left[:i + 1]` exceeds that for `left[:i]`.
    """
    if len(left) > len(right):
        # Masks have as many bits as the left text has tokens.
        left, right = right, left
    masks: dict[str, int] = {}
    for index, token in enumerate(left):
        masks[token] = masks.get(token, 0) | 1 << index
    full = row = (1 << len(left)) - 1
    for token in filter(masks.__contains__, right):
        matched = row & masks[token]
        row = (row + matched | row - matched) & full
    return len(left) - row.bit_count()


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Compute the cosine similarity of two vectors.

    Args:
        a: Vector of shape ``(n,)``.
        b: Vector of shape ``(n,)``.

    Returns:
        -1 to 1; 0 if a vector is zero or empty.

    Raises:
        ValueError: The lengths differ, or a vector is not one-dimensional or not finite.
    """
    units = []
    for name, vector in (("a", a), ("b", b)):
        entries = np.asarray(vector, dtype=float)
        if entries.ndim != 1 or not np.isfinite(entries).all():
            raise ValueError(
                f"`{name}` must be a list of finite numbers, got {reprlib.repr(vector)}."
            )
        # Dividing by the largest entry keeps squares from overflowing or underflowing.
        largest = np.abs(entries).max(initial=0.0)
        units.append(entries / largest if largest else entries)
    left, right = units
    if len(left) != len(right):
        raise ValueError(
            f"`a` and `b` must have the same length, got {len(left)} and {len(right)}."
        )
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return max(-1.0, min(1.0, float(left @ right) / norms)) if norms else 0.0
