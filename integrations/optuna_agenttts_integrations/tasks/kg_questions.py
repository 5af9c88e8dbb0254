"""Questions about a knowledge graph, read from records of CWQ and WebQSP in all their forms."""

from __future__ import annotations

import random
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.scoring.answer_sets import AnswerSet
from optuna_agenttts_integrations.tasks.files import DeferredRecord
from optuna_agenttts_integrations.tasks.graphs import Triple, paths_and_nearest
from optuna_agenttts_integrations.tasks.records import (
    Record,
    get_field,
    get_texts,
    is_cut,
    nested,
    question_key,
    single_line,
)

GRAPH = "graph"
"""Column of the graph in RoG's data sets."""
_IDS = ("ID", "QuestionId", "id")
_LISTS = ("crucial_triples", "gt_triples", "2hop_triples")
_OTHERS = "2hop_triples"

Graphs = Mapping[str, tuple[Record, int]]
"""Records with triples and their positions, by the ids of questions."""


@dataclass(frozen=True)
class TripleQuestion:
    """A question with triples of a knowledge graph.

    Args:
        id: The identifier.
        question: The question.
        triples: The triples as ``"(head, relation, tail)"``, in the order of the prompt.
        gold: Numbers of the triples that lead to the answer, from 1; can be empty.
        answers: All accepted answers.
        answer_sets: The complete answers, one for each interpretation of the question, each with
            the names of its entities. Default: one, of which each accepted answer is an entity.
    """

    id: str
    question: str
    triples: tuple[str, ...]
    # No defaults in the class: `__getattr__` must see that a value is not there yet.
    gold: tuple[int, ...] = field(default_factory=tuple)
    answers: tuple[str, ...] = field(default_factory=tuple)
    answer_sets: tuple[tuple[tuple[str, ...], ...], ...] = field(default_factory=tuple)

    @classmethod
    def deferred(
        cls, read: Callable[[], tuple[tuple[str, ...], tuple[int, ...]]], **values: Any
    ) -> TripleQuestion:
        """Create a question whose triples are read when they are used.

        Args:
            read: Function that returns `triples` and `gold`.
            values: The other fields.
        """
        question = object.__new__(cls)
        question.__dict__.update(values, _read=read)
        return question

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            values = self.__dict__
            read = values.get("_read") if name in ("triples", "gold") else None
            if read is not None:
                values["triples"], values["gold"] = read()
                # Only now, as other threads may be here, too. The graph need not be kept.
                values["_read"] = None
            if name not in values:
                raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
            return values[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, item.name) for item in fields(self))

    @property
    def overlap_key(self) -> str:
        """The text by which the same question is recognized in other data."""
        return question_key(self.question)

    @property
    def gold_sets(self) -> tuple[AnswerSet, ...]:
        """The complete answers, at least one if there are accepted answers."""
        return self.answer_sets or (tuple((answer,) for answer in self.answers),)


def graphs_by_id(records: Iterable[Any]) -> Graphs:
    """Index records with triples by the ids of their questions."""
    return {
        _name(record, number): (record, number)
        for number, record in enumerate(records)
        if isinstance(record, Mapping)
    }


def read_question(
    record: Record, number: int, *, candidates: int, seed: int, graphs: Graphs | None
) -> TripleQuestion:
    """Read a question from a record; its triples are selected when they are used.

    Args:
        record: The record.
        number: The record's position, for error messages.
        candidates: Maximum number of triples in addition to the gold ones.
        seed: Seed of the order of the triples, together with the question's id.
        graphs: Records with the triples, for records without.

    Raises:
        DataError: The record cannot be used.
    """
    name = _name(record, number)
    source, position = record, number
    if not _has_triples(record) and graphs is not None:
        if name not in graphs:
            raise DataError(
                f"Record {number}: `graphs` must have a record for each question, got none for "
                f"{name!r}."
            )
        source, position = graphs[name]
    _check_triples(source, position)
    answers, answer_sets = _answers(record, number)
    if answer_sets == (tuple((answer,) for answer in answers),):
        answer_sets = ()
    return TripleQuestion.deferred(
        partial(_shown, source, position, f"{seed}:{name}", candidates),
        id=name,
        question=get_field(record, number, ("question", "RawQuestion"), str).strip(),
        answers=answers,
        answer_sets=answer_sets,
    )


def _name(record: Record, number: int) -> str:
    return next((str(record[key]) for key in _IDS if record.get(key) is not None), str(number))


def _has_triples(record: Record) -> bool:
    return GRAPH in record or all(name in record for name in _LISTS)


def _has_graph(record: Record) -> bool:
    return GRAPH in record and _OTHERS not in record


def _check_triples(record: Record, number: int) -> None:
    """Raise if the triples cannot be used; large columns and texts are checked when used."""
    for name in (GRAPH,) if _has_graph(record) else _LISTS:
        late = isinstance(record, DeferredRecord) and name in record.deferred
        if not late and not isinstance(record.get(name), str):
            _triples(record, number, name)
        elif not late:
            text = record[name].strip()
            if not text.startswith("[") or not text.endswith(("]", ")")):
                raise _not_triples(number, name, text)
    if _has_graph(record):
        _entities(record, number, "q_entity")
        _entities(record, number, "a_entity")


def _shown(
    record: Record, number: int, key: str, candidates: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the triples of a prompt, and the numbers of the gold ones."""
    gold: Sequence[Triple]
    others: Iterable[Triple]
    if _has_graph(record):
        starts, ends = (_entities(record, number, name) for name in ("q_entity", "a_entity"))
        gold, others = paths_and_nearest(_triples(record, number, GRAPH), starts, ends)
    else:
        gold, related, near = (_triples(record, number, name) for name in _LISTS)
        excluded = set(map(tuple, related))
        others = (triple for triple in near if tuple(triple) not in excluded)
    relevant = dict.fromkeys(map(_format_triple, gold))
    shown = [*relevant, *_first(others, candidates, relevant)]
    random.Random(key).shuffle(shown)
    numbers = (position for position, text in enumerate(shown, 1) if text in relevant)
    return tuple(shown), tuple(numbers)


def _first(triples: Iterable[Triple], count: int, relevant: Mapping[str, None]) -> Iterator[str]:
    """Yield the first different triples that are not gold."""
    seen = set(relevant)
    for text in map(_format_triple, triples):
        if text not in seen:
            seen.add(text)
            yield text
            count -= 1
            if count == 0:
                return


def _format_triple(triple: Triple) -> str:
    return single_line(f"({', '.join(map(str.strip, triple))})")


def _triples(record: Record, number: int, name: str) -> Sequence[Triple]:
    if name not in record:
        raise DataError(
            f"Record {number} has no field `{name}`, only {', '.join(sorted(map(str, record)))}. "
            "Provide records with `crucial_triples`, `gt_triples` and `2hop_triples`, or with "
            "`graph`, `q_entity` and `a_entity`, or name a data set that has them: "
            "graphs='hf:rmanluo/RoG-cwq' or 'hf:rmanluo/RoG-webqsp'."
        )
    values = nested(record[name])
    if not isinstance(values, (list, tuple)):
        raise _not_triples(number, name, values)
    if _are_triples(values):
        return values
    triples = [nested(value) for value in values]
    for index, value in enumerate(triples):
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 3
            or not all(isinstance(part, str) for part in value)
        ):
            raise DataError(
                f"Record {number}: `{name}[{index}]` must be three strings, [head, relation, "
                f"tail], got {reprlib.repr(value)}."
            )
    return triples


def _are_triples(values: Sequence[Any]) -> bool:
    """Return whether all values are lists of three strings, for 4,000 of them in 1 ms."""
    return (
        set(map(type, values)) <= {list, tuple}
        and set(map(len, values)) <= {3}
        and set(map(type, chain.from_iterable(values))) <= {str}
    )


def _not_triples(number: int, name: str, value: Any) -> DataError:
    return DataError(
        f"Record {number}: `{name}` must be a list of triples [head, relation, tail], got "
        f"{reprlib.repr(value)}."
    )


def _entities(record: Record, number: int, name: str) -> list[str]:
    values = nested(record.get(name))
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise DataError(
            f"Record {number}: `{name}` must be a list of entities of `graph`, possibly empty, "
            f"got {reprlib.repr(values)}."
        )
    return list(values)


def _answers(
    record: Record, number: int
) -> tuple[tuple[str, ...], tuple[tuple[tuple[str, ...], ...], ...]]:
    """Return all accepted answers, and the complete ones where the record names entities."""
    found = name = None
    for name in ("answers", "answer"):
        found = nested(record.get(name))
        if is_cut(found):
            raise DataError(
                f"Record {number}: the answers in `{name}` are a list that is cut off, got "
                f"{reprlib.repr(found)}. Correct or remove the record."
            )
        if found:
            break
    if found and (entities := _entities_with_aliases(found)):
        return tuple(dict.fromkeys(chain.from_iterable(entities))), (entities,)
    try:
        parses = _parses(record, number) if record.get("Parses") is not None else ()
    except DataError:
        if not found:
            raise
        parses = ()
    if not found and "Parses" in record:
        found, name = list(dict.fromkeys(text for (text,) in chain(*parses))), "Parses"
    try:
        return get_texts({str(name): found}, number, str(name)), parses
    except DataError:
        raise DataError(
            f"Record {number}: the answers in `{name}` must be a non-empty string or a list of "
            f"such, got {reprlib.repr(found)}. Correct or remove the record."
        ) from None


def _entities_with_aliases(found: Any) -> tuple[tuple[str, ...], ...]:
    """Return the names of each entity in CWQ's form, or in its columns; empty for other forms."""
    if isinstance(found, Mapping) and isinstance(found.get("answer"), (list, tuple)):
        # `datasets` reads a list of objects as an object of lists.
        found = [dict(zip(found, values)) for values in zip(*found.values())]
    if not isinstance(found, (list, tuple)) or not all(isinstance(f, Mapping) for f in found):
        return ()
    entities = []
    for entity in found:
        names = [entity.get("answer") or entity.get("answer_id"), *(entity.get("aliases") or ())]
        kept = [single_line(text) for text in names if isinstance(text, str) and text.strip()]
        if kept:
            entities.append(tuple(dict.fromkeys(kept)))
    return tuple(entities)


def _parses(record: Record, number: int) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return the answers of each parse in WebQSP's form that has any, entities by their names."""
    try:
        parses = [
            [
                (single_line(str(answer.get("EntityName") or answer["AnswerArgument"])),)
                for answer in parse["Answers"]
            ]
            for parse in nested(record["Parses"])
        ]
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"Record {number}: `Parses` must be a list of objects with `Answers`, each a list of "
            "objects with `EntityName` or `AnswerArgument`, got "
            f"{reprlib.repr(record['Parses'])}. Correct it, or provide the answers in `answer`."
        ) from None
    # Entities that share a name stay apart: WebQSP's script counts each.
    return tuple(dict.fromkeys(tuple(answers) for answers in parses if answers))
