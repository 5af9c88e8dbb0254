"""Problems of the playground: retrieve the relevant lines, then evaluate what they define.

A problem has ten lines with titles. Each line defines a letter, some through other letters::

    1 bak    2 dol    3 fim   ...          (titles, shown to the first stage)
    q = 4    j = p * 1    p = 2   ...      (contents, shown to the second stage)

The first stage, retrieval, gets the ten titles and a concept and names the titles that belong to
the concept. Membership is a fixed random table of 10,000 bits that is not part of the prompt:
models must store it in their weights, so that quality grows with size, and votes cannot replace
it. The second stage, answering, gets the contents of the retrieved lines and a question such as
``j - 6``. It writes the steps, all modulo ten; the last number is the answer. The lines of the
concept are exactly those that the steps need.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["validation", "search", "test"]

# These sizes are chosen by hand; other ones need new weights.
LINES = 10
_ENDINGS = ("ak", "el", "im", "or", "un", "as", "ed", "ig", "ol", "ux")
TITLES = tuple(onset + ending for onset in "bdfghklmnp" for ending in _ENDINGS)
CONCEPTS = tuple(onset + ending for onset in "RSTVWZCJQX" for ending in _ENDINGS)
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
DIGITS = tuple("0123456789")
OPERATORS = ("+", "-", "*")
END = "."
"""The end token."""

BELONGS = np.random.default_rng(2508).random((len(CONCEPTS), len(TITLES))) < 0.25
"""True where a title belongs to a concept, shape (concepts, titles): the knowledge to learn.

The seed 2508 and the density 0.25 are chosen by hand; other values need new weights."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem with ten lines, a concept, a question and its solution.

    Args:
        id: The identifier, unique over all splits.
        titles: The titles of the ten lines.
        contents: The definitions of the ten lines.
        concept: The concept to retrieve by.
        relevant: Positions of the lines that belong to the concept, from 0.
        question: The question, such as ``"j - 6"``.
        steps: The correct steps, such as ``"2 * 1 = 2 ; 2 - 6 = 6 ."``.
        answer: The correct answer, a digit.
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
    """Draw a random problem."""
    while True:
        titles = rng.choice(len(TITLES), LINES, replace=False)
        belongs = BELONGS[:, titles]
        concepts = np.flatnonzero(np.isin(belongs.sum(axis=1), (2, 3)))
        if len(concepts):
            break
    concept = int(rng.choice(concepts))
    relevant = np.flatnonzero(belongs[concept])
    letters = [LETTERS[i] for i in rng.choice(len(LETTERS), LINES, replace=False)]
    contents, question, steps, answer = _write_lines(rng, relevant, letters)
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
    """Return the first problems of a split. Splits do not overlap.

    Args:
        split: ``"validation"`` (used to select the models' checkpoints), ``"search"`` or
            ``"test"``.
        count: Number of problems.
    """
    problems: dict[tuple[object, ...], Problem] = {}
    rng = np.random.default_rng([zlib.crc32(split.encode()), 1])
    while len(problems) < count:
        problem = draw_problem(rng, f"{split}-{len(problems)}")
        problems.setdefault((problem.titles, problem.concept, problem.contents), problem)
    return tuple(problems.values())


def retrieval_prompt(titles: Sequence[str], concept: str) -> str:
    """Return the first stage's prompt: numbered titles, then the concept."""
    lines = " ".join(f"{number} {title}" for number, title in zip(DIGITS, titles))
    return f"{lines} ? {concept}"


def parse_retrieval(reply: str, titles: Sequence[str]) -> tuple[int, ...] | None:
    """Return the positions of the lines whose titles a reply contains, ascending.

    Other words and repeated titles are ignored.

    Returns:
        Positions from 0; None if the reply contains no title of the problem.
    """
    named = {titles.index(word) for word in reply.split() if word in titles}
    return tuple(sorted(named)) or None


def answer_prompt(contents: Sequence[str], question: str) -> str:
    """Return the second stage's prompt: the contents of lines, then the question."""
    return " ".join([*(f"{content} ;" for content in contents), "?", question])


def parse_answer(reply: str) -> str | None:
    """Return the last word of a reply if it is a digit; None otherwise."""
    words = [word for word in reply.split() if word != END]
    return words[-1] if words and words[-1] in DIGITS else None


def _write_lines(
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
