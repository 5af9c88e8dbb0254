"""The playground's problems: pick the lines that matter, then do the sum that they spell out.

A problem shows ten titled lines. Each line defines a letter, some through other letters::

    1 bak    2 dol    3 fim   ...          (titles, which the first stage sees)
    q = 4    j = p * 1    p = 2   ...      (contents, which the second stage sees)

The first stage, retrieval, is given the ten titles and a concept and names the titles that belong
to the concept. Which titles belong to which concept is a fixed random table of 10,000 bits that
stands nowhere in the prompt: a model must hold it in its weights, so that quality grows with
size and cannot be voted into being. The second stage, answering, is given the contents of the
chosen lines and a question such as ``j - 6``; it writes the steps, all modulo ten, and its last
number is the answer. The lines that belong to the concept are exactly those that the steps need.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["validation", "search", "test"]

LINES = 10
_ENDINGS = ("ak", "el", "im", "or", "un", "as", "ed", "ig", "ol", "ux")
TITLES = tuple(onset + ending for onset in "bdfghklmnp" for ending in _ENDINGS)
CONCEPTS = tuple(onset + ending for onset in "RSTVWZCJQX" for ending in _ENDINGS)
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
DIGITS = tuple("0123456789")
OPERATORS = ("+", "-", "*")
END = "."
"""Ends a reply."""

BELONGS = np.random.default_rng(2508).random((len(CONCEPTS), len(TITLES))) < 0.25
"""Whether a title belongs to a concept, shape (concepts, titles): the knowledge."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Args:
        id: Its name, unique over all splits.
        titles: The titles of its ten lines.
        contents: What its ten lines define.
        concept: What to retrieve by.
        relevant: Positions of the lines that belong to the concept.
        question: What is asked, such as ``"j - 6"``.
        steps: The right steps, such as ``"2 * 1 = 2 ; 2 - 6 = 6 ."``.
        answer: The right answer, a digit.
    """

    id: str
    titles: tuple[str, ...]
    contents: tuple[str, ...]
    concept: str
    relevant: tuple[int, ...]
    question: str
    steps: str
    answer: str


def draw_problem(rng: np.random.Generator, name: str = "") -> Problem:
    """Draw a problem at random."""
    while True:
        titles = rng.choice(len(TITLES), LINES, replace=False)
        belongs = BELONGS[:, titles]
        concepts = np.flatnonzero(np.isin(belongs.sum(axis=1), (2, 3)))
        if len(concepts):
            break
    concept = int(rng.choice(concepts))
    relevant = np.flatnonzero(belongs[concept])
    letters = [LETTERS[i] for i in rng.choice(len(LETTERS), LINES, replace=False)]
    contents, question, steps, answer = _sum(rng, relevant, letters)
    return Problem(
        id=name,
        titles=tuple(TITLES[i] for i in titles),
        contents=contents,
        concept=CONCEPTS[concept],
        relevant=tuple(relevant.tolist()),
        question=question,
        steps=steps,
        answer=answer,
    )


def make_problems(split: Split, count: int) -> tuple[Problem, ...]:
    """The first `count` problems of a split; splits never overlap.

    Args:
        split: ``"validation"`` chose the checkpoints of the models, ``"search"`` is for tuning,
            ``"test"`` for reporting.
        count: How many.
    """
    problems: dict[tuple[object, ...], Problem] = {}
    rng = np.random.default_rng([zlib.crc32(split.encode()), 1])
    while len(problems) < count:
        problem = draw_problem(rng, f"{split}-{len(problems)}")
        problems.setdefault((problem.titles, problem.concept, problem.contents), problem)
    return tuple(problems.values())


def retrieval_prompt(titles: Sequence[str], concept: str) -> str:
    """The first stage's prompt: numbered titles, then the concept."""
    lines = " ".join(f"{number} {title}" for number, title in zip(DIGITS, titles))
    return f"{lines} ? {concept}"


def parse_retrieval(reply: str, titles: Sequence[str]) -> tuple[int, ...] | None:
    """The positions of the lines whose titles a reply names, in order.

    Titles that are not in the problem, and those named before, are left out.

    Returns:
        Positions, or None for a reply that names no title of the problem.
    """
    named = {titles.index(word) for word in reply.split() if word in titles}
    return tuple(sorted(named)) or None


def answer_prompt(contents: Sequence[str], question: str) -> str:
    """The second stage's prompt: what the chosen lines define, then the question."""
    return " ".join([*(f"{content} ;" for content in contents), "?", question])


def parse_answer(reply: str) -> str | None:
    """The last number of the steps in a reply, or None if it ends in anything else."""
    words = [word for word in reply.split() if word != END]
    return words[-1] if words and words[-1] in DIGITS else None


def _sum(
    rng: np.random.Generator,
    relevant: np.ndarray[tuple[int], np.dtype[np.int64]],
    letters: list[str],
) -> tuple[tuple[str, ...], str, str, str]:
    """Write the contents of the lines, the question, its steps and its answer."""
    contents = [""] * LINES
    value, before = int(rng.integers(10)), ""
    steps = []
    for order, line in enumerate(rng.permutation(relevant).tolist()):
        if order == 0:
            contents[line] = f"{letters[line]} = {value}"
        else:
            operator, digit = _operation(rng)
            contents[line] = f"{letters[line]} = {before} {operator} {digit}"
            result = _apply(value, operator, digit)
            steps.append(f"{value} {operator} {digit} = {result}")
            value = result
        before = letters[line]
    operator, digit = _operation(rng)
    result = _apply(value, operator, digit)
    steps.append(f"{value} {operator} {digit} = {result}")
    for line in range(LINES):
        if contents[line]:
            continue
        if rng.random() < 0.5:
            contents[line] = f"{letters[line]} = {rng.integers(10)}"
        else:
            other = letters[int(rng.choice([i for i in range(LINES) if i != line]))]
            distraction, number = _operation(rng)
            contents[line] = f"{letters[line]} = {other} {distraction} {number}"
    question = f"{before} {operator} {digit}"
    return tuple(contents), question, " ; ".join(steps) + f" {END}", str(result)


def _operation(rng: np.random.Generator) -> tuple[str, int]:
    return OPERATORS[int(rng.integers(len(OPERATORS)))], int(rng.integers(1, 10))


def _apply(value: int, operator: str, digit: int) -> int:
    return {"+": value + digit, "-": value - digit, "*": value * digit}[operator] % 10
