"""Questions with passages, read from all forms of HotpotQA and 2WikiMultiHopQA."""

from __future__ import annotations

import logging
import random
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks.records import (
    LeftOut,
    Record,
    Source,
    get_field,
    get_texts,
    is_cut,
    nested,
    question_key,
    read_each,
    read_records,
    single_line,
)

_logger = logging.getLogger(__name__)

Aliases = Mapping[str, Sequence[str]]
"""Other names of entities, by their IDs in Wikidata."""


@dataclass(frozen=True, slots=True)
class PassageQuestion:
    """A question with passages.

    Args:
        id: The identifier.
        question: The question, on one line.
        passages: The passages, one line each, in the order of the prompt.
        gold: Numbers of the relevant passages, from 1.
        answers: All accepted answers.
    """

    id: str
    question: str
    passages: tuple[str, ...]
    gold: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def overlap_key(self) -> str:
        """Key that identifies the question in another form of the data."""
        return question_key(self.question)


def read_questions(
    records: Sequence[Any],
    *,
    source: Source,
    candidates: int,
    titles: bool,
    aliases: Source | None,
    skip_unusable: bool,
) -> tuple[list[PassageQuestion], LeftOut]:
    """Read questions from records of any form, and pad those with few paragraphs.

    Args:
        records: The records, also unreadable ones; see `read_records`.
        source: Where they are from, for messages.
        candidates: Number of passages to pad to.
        titles: Whether paragraphs begin with the titles of their articles.
        aliases: Other names of answers, in the form of 2Wiki's ``id_aliases.json``.
        skip_unusable: Whether to leave out unusable records instead of raising.

    Returns:
        The questions, and the numbers of records that were left out by reason.

    Raises:
        DataError: Records cannot be used, or `aliases` has another form or fits no record.
    """
    names = None if aliases is None else _read_aliases(aliases)
    if names is not None and not any(_names(record, names) for record in records):
        raise DataError(
            "`aliases` must have a `Q_id` that is the `answer_id` of a record, got none: use the "
            "data set with `answer_id` of December 2020, or omit `aliases`."
        )
    used, left_out = read_each(
        records,
        partial(_read, titles=titles, aliases=names or {}),
        source=source,
        skip_unusable=skip_unusable,
        expected="HotpotQA's hotpot_dev_distractor_v1.json, 2WikiMultiHopQA's dev.json, one of "
        "their data sets of the Hub, or AgentTTS's files",
    )
    if incomplete := sum(record.passages.incomplete for record in used):
        _logger.warning(
            "In %d of %d records, `supporting_facts` contains titles that are missing in "
            "`context`. In these records, only the other relevant paragraphs count as gold.",
            incomplete,
            len(used),
        )
    pool = list(dict.fromkeys(text for record in used for text in record.passages.shown))
    questions: list[PassageQuestion] = []
    question_by_id: dict[str, str] = {}
    for record in used:
        passages = record.passages.shown
        if record.passages.few and len(passages) < candidates:
            passages = _padded(passages, pool, candidates, random.Random(record.question))
        identifier = record.id
        if question_by_id.setdefault(identifier, record.question) != record.question:
            identifier = f"{identifier} (record {record.number})"
        questions.append(
            PassageQuestion(
                id=identifier,
                question=record.question,
                passages=passages,
                gold=tuple(sorted(passages.index(text) + 1 for text in record.passages.gold)),
                answers=record.answers,
            )
        )
    return questions, left_out


def _padded(
    passages: Sequence[str], pool: Sequence[str], count: int, rng: random.Random
) -> tuple[str, ...]:
    """Return passages, padded to a number with others of a pool, in random order."""
    own = set(passages)
    drawn = rng.sample(pool, min(len(pool), count))
    filled = [*passages, *(text for text in drawn if text not in own)][:count]
    rng.shuffle(filled)
    return tuple(filled)


def _read_aliases(source: Source) -> Aliases:
    """Return names by ID; the evaluation script of 2Wiki accepts aliases and demonyms."""

    def read(record: Record, number: int) -> tuple[str, list[str]]:
        lists = [nested(record.get(name, [])) for name in ("aliases", "demonyms")]
        if not all(isinstance(names, list) for names in lists):
            raise DataError(
                f"Record {number}: `aliases` and `demonyms` must be lists of names, got "
                f"{reprlib.repr(lists)}."
            )
        return get_field(record, number, "Q_id", str), [*lists[0], *lists[1]]

    named, _ = read_each(
        read_records(source, keep_unreadable=True), read, source=source, skip_unusable=False
    )
    return dict(named)


def _names(record: Any, aliases: Aliases) -> Sequence[str]:
    """Return the other names of a record's answer."""
    identifier = record.get("answer_id") if isinstance(record, Mapping) else None
    return aliases.get(identifier, ()) if isinstance(identifier, str) else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passages:
    """Passages of a record.

    Args:
        shown: The distinct passages.
        gold: The relevant ones among them.
        few: Whether they are the few paragraphs of a question, to be padded.
        incomplete: Whether relevant passages are missing.
    """

    shown: tuple[str, ...]
    gold: tuple[str, ...]
    few: bool = False
    incomplete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A record as it was read, before padding."""

    passages: _Passages
    number: int
    id: str
    question: str
    answers: tuple[str, ...]


def _read(record: Record, number: int, *, titles: bool, aliases: Aliases) -> _Read:
    own = next(
        (record[name] for name in ("id", "_id") if record.get(name) not in (None, "")), number
    )
    # The names of a text in a table are a list, and an answer such as "[1]" is none.
    answers = dict(record)
    if "answers" in record:
        answers["answers"] = nested(record["answers"])
        if is_cut(answers["answers"]):
            raise DataError(
                f"Record {number}: `answers` is a list that is cut off, got "
                f"{reprlib.repr(record['answers'])}."
            )
    read = _Read(
        passages=(
            _listed(record, number)
            if "ctxs_candidate" in record
            else _paragraphs(record, number, titles)
        ),
        number=number,
        id=str(own),
        question=single_line(get_field(record, number, "question", str)),
        answers=_distinct(
            *get_texts(answers, number, ("answers", "answer")), *_names(record, aliases)
        ),
    )
    try:
        "".join((read.id, read.question, *read.answers, *read.passages.shown)).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"Record {number}: a string has an unpaired surrogate and cannot be encoded as UTF-8 "
            f"({error.reason})."
        ) from error
    return read


def _distinct(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _listed(record: Record, number: int) -> _Passages:
    """Return the passages of a record in AgentTTS's form."""
    shown, gold = (_texts(record, number, name) for name in ("ctxs_candidate", "ctxs_gt"))
    if missing := [text for text in gold if text not in shown]:
        raise DataError(
            f"Record {number}: every passage of `ctxs_gt` must be in `ctxs_candidate`; "
            f"{missing[0][:60]!r} is not."
        )
    return _Passages(shown=shown, gold=gold)


def _texts(record: Record, number: int, name: str) -> tuple[str, ...]:
    values = nested(record.get(name))
    if isinstance(values, str):
        raise DataError(f"Record {number}: {name!r} must be a list of passages, got one string.")
    return _distinct(*map(single_line, get_texts({**record, name: values}, number, name)))


def _paragraphs(record: Record, number: int, titles: bool) -> _Passages:
    """Return the passages of a record in HotpotQA's form."""
    if "context" not in record:
        raise DataError(
            f"Record {number} has neither `context` nor `ctxs_candidate`, only "
            f"{', '.join(sorted(map(str, record)))}."
        )
    titled = _titled(nested(record.get("context")), number)
    facts = nested(record.get("supporting_facts"))
    try:
        relevant = set(
            facts["title"]
            if isinstance(facts, Mapping)
            else [_first(fact) for fact in facts or ()]
        )
    except (KeyError, TypeError, IndexError, AttributeError):
        raise DataError(
            f"Record {number}: `supporting_facts` must contain titles, got {reprlib.repr(facts)}."
        ) from None
    texts = [
        (title, f"{single_line(title)}: {text}" if titles and title.strip() else text)
        for title, text in titled
    ]
    gold = _distinct(*(text for title, text in texts if title in relevant))
    if not gold:
        raise DataError(
            f"Record {number}: a title of `supporting_facts` must have a text in `context`, got "
            f"{sorted(map(str, relevant))!r}."
        )
    return _Passages(
        shown=_distinct(*(text for _, text in texts)),
        gold=gold,
        few=True,
        incomplete=not relevant <= {title for title, _ in texts},
    )


def _first(fact: Any) -> Any:
    """Return the title of a pair, or of an object."""
    return fact["title"] if isinstance(fact, Mapping) else fact[0]


def _titled(context: Any, number: int) -> list[tuple[str, str]]:
    """Return (title, text) pairs.

    HotpotQA has a list of pairs, the Hub an object of lists, and some tables a list of objects.
    """
    try:
        if isinstance(context, Mapping):
            pairs = list(zip(context["title"], context["sentences"], strict=True))
        elif context and all(isinstance(entry, Mapping) for entry in context):
            pairs = [(entry["title"], entry["sentences"]) for entry in context]
        else:
            pairs = [(title, sentences) for title, sentences in context]
        titled = [
            (title, single_line(sentences if isinstance(sentences, str) else " ".join(sentences)))
            for title, sentences in pairs
        ]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"Record {number}: `context` must be a list of titles and sentences, or an object "
            f"with `title` and `sentences`, got {reprlib.repr(context)}. Correct it, or provide "
            "`ctxs_candidate` and `ctxs_gt`."
        ) from None
    return [(title, text) for title, text in titled if text and isinstance(title, str)]
