"""Knowledge-graph question answering: ComplexWebQuestions and WebQSP.

Two stages, as in AgentTTS (section 5.1): choose the triples that lead to the answer among about a
hundred, then answer from them. Prompts are our own.
"""

from __future__ import annotations

import random
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.tasks.answering import conversation
from optuna_agenttts_integrations.tasks.benchmark import LLAMA, QWEN, Benchmark
from optuna_agenttts_integrations.tasks.candidates import candidate_pipeline, chosen
from optuna_agenttts_integrations.tasks.graphs import Triple, paths_and_nearest
from optuna_agenttts_integrations.tasks.records import (
    Record,
    Source,
    field,
    on_one_line,
    read_records,
    split_instances,
    texts,
)
from optuna_agenttts_integrations.tasks.selection import numbered

_RETRIEVE = (
    "You choose facts of a knowledge graph that lead from a question to its answer. Each fact is "
    "written (head, relation, tail); codes such as m.0x1y stand for things that have no name."
)
_ANSWER = "You answer a question from facts of a knowledge graph that were chosen for it."
_IDS = ("ID", "QuestionId", "id")


@dataclass(frozen=True, slots=True)
class TripleQuestion:
    """A question with triples of a knowledge graph, some of which lead to its answer.

    Args:
        id: Its name.
        question: The question.
        triples: The triples as texts ``"(head, relation, tail)"``, in the order in which they are
            shown.
        gold: Numbers of the triples that lead to the answer, from 1; there may be none.
        answers: All accepted answers.
    """

    id: str
    question: str
    triples: tuple[str, ...]
    gold: tuple[int, ...]
    answers: tuple[str, ...]


def cwq(source: Source, **options: Any) -> Benchmark:
    """ComplexWebQuestions (Talmor and Berant, NAACL 2018), ready to be searched on.

    Args:
        source: The paper's file (``ID``, ``question``, ``answer``, ``crucial_triples``,
            ``gt_triples``, ``2hop_triples``), or ``"hf:rmanluo/RoG-cwq"``.
        options: See `triple_benchmark`.

    Raises:
        DataError: The records are not of that form.
    """
    return triple_benchmark("CWQ", source, **options)


def web_qsp(source: Source, **options: Any) -> Benchmark:
    """WebQSP (Yih et al., ACL 2016), ready to be searched on.

    Args:
        source: The paper's file (``QuestionId``, ``RawQuestion``, ``answer`` or ``Parses``, and
            triples as in `cwq`), or ``"hf:rmanluo/RoG-webqsp"``.
        options: See `triple_benchmark`; ``answer_prompt_tokens`` is 128 here, and the default
            budget 474.

    Raises:
        DataError: The records are not of that form.
    """
    return triple_benchmark("WebQSP", source, **{"answer_prompt_tokens": 128, **options})


def triple_benchmark(
    name: str,
    source: Source,
    *,
    search: int = 50,
    seed: int = 0,
    split: str = "test",
    revision: str | None = None,
    candidates: int = 100,
    metric: str = "exact match",
    fusion: bool = True,
    threshold: float = 0.5,
    retrievers: Sequence[Model] = (QWEN[0], QWEN[2]),
    answerers: Sequence[Model] = (LLAMA[1], LLAMA[2]),
    answer_prompt_tokens: float = 256,
    budget: float | None = None,
) -> Benchmark:
    """A benchmark of questions with triples of a knowledge graph.

    In the paper's files, gold triples are ``crucial_triples``, and the others are the first of
    ``2hop_triples`` that are not in ``gt_triples``.

    Files of the Hub (``question``, ``answer``, ``q_entity``, ``a_entity``, ``graph``) name no gold
    triples. There they are all triples on the shortest undirected paths, of 4 hops at most,
    between any question entity and any answer entity: weak supervision, as RoG trains on it
    (arXiv 2310.01061), since such a path may reach the answer by chance. The others are those
    nearest to the question entities, breadth first.

    Args:
        name: The data set's name.
        source: Its records; see `read_records`.
        search: How many questions to search on; the others are held out.
        seed: Of the split and of the order of triples, which depends on the question's id besides.
        split: Split of a data set of the Hub.
        revision: Its revision, a tag or commit. Default: the newest.
        candidates: The most triples to show beside the gold ones, 1 or more.
        metric: What is maximized: ``"exact match"``, ``"token F1"`` or ``"answer contained"``.
        fusion: Whether answers are fused by the model, as in the paper, or voted on.
        threshold: Share of samples that must choose a triple.
        retrievers: Models of the retrieval stage.
        answerers: Models of the answering stage.
        answer_prompt_tokens: Declared prompt length of the answering stage.
        budget: Of the task. Default: one sample of the largest model in each stage (520.67).

    Raises:
        DataError: The records are not of that form, or an argument makes no sense.
    """
    pipeline = candidate_pipeline(
        _candidates,
        ask_candidates=_ask_triples,
        ask_answer=_ask_answer,
        metric=metric,
        fusion=fusion,
        threshold=threshold,
    )
    if candidates < 1:
        raise DataError(f"`candidates` is {candidates!r}: give 1 or more.")
    records = read_records(source, split=split, revision=revision)
    questions = [_question(record, n, candidates, seed) for n, record in enumerate(records)]
    searched, held_out = split_instances(
        questions, search=search, seed=seed, content=lambda question: question.question
    )
    return Benchmark(
        task=Task(
            name=name,
            description="Choose the triples of a knowledge graph that lead to the answer among "
            "about a hundred, then answer.",
            stages=[
                Stage(
                    "retrieval",
                    models=retrievers,
                    prompt_tokens=1024,
                    generation_tokens=64,
                    description="Choose triples; samples vote on each.",
                ),
                Stage(
                    "answer",
                    models=answerers,
                    prompt_tokens=answer_prompt_tokens,
                    generation_tokens=64,
                    description="Answer from the chosen triples; samples are "
                    + ("fused by the model." if fusion else "voted on."),
                ),
            ],
            budget=budget,
            metric=metric,
        ),
        pipeline=pipeline,
        search=searched,
        held_out=held_out,
    )


def _candidates(question: TripleQuestion) -> tuple[str, ...]:
    return question.triples


def _ask_triples(state: State) -> tuple[Message, ...]:
    question: TripleQuestion = state.instance
    return conversation(
        _RETRIEVE,
        f"Facts:\n{numbered(question.triples) or '(there are none)'}\n\n"
        f"Question: {question.question}\n\n"
        "Which facts are needed to answer the question? Think briefly, then end with one line "
        "that lists their numbers and nothing else, such as\nAnswer: [2, 7, 19]\n"
        "or, if none of them helps,\nAnswer: none",
    )


def _ask_answer(state: State) -> tuple[Message, ...]:
    question: TripleQuestion = state.instance
    given = "\n".join(chosen(state, question.triples)) or "(none was chosen)"
    return conversation(
        _ANSWER,
        f"Facts, written (head, relation, tail):\n{given}\n\nQuestion: {question.question}\n\n"
        "Think briefly; where the facts do not suffice, use what you know. Then end with one line "
        "that gives the answer as the facts name it and nothing else. If there are several, give "
        "one of them, such as\nAnswer: Lake Victoria",
    )


def _question(record: Record, number: int, candidates: int, seed: int) -> TripleQuestion:
    name = next((str(record[key]) for key in _IDS if record.get(key) is not None), str(number))
    if "graph" in record and "2hop_triples" not in record:
        gold, others = _from_graph(record, number)
    else:
        gold, others = _from_lists(record, number)
    helpful = {_shown(triple) for triple in gold}
    rest = dict.fromkeys(text for text in map(_shown, others) if text not in helpful)
    shown = [*dict.fromkeys(map(_shown, gold)), *list(rest)[:candidates]]
    random.Random(f"{seed}:{name}").shuffle(shown)
    return TripleQuestion(
        id=name,
        question=field(record, number, ("question", "RawQuestion"), str).strip(),
        triples=tuple(shown),
        gold=tuple(place for place, text in enumerate(shown, 1) if text in helpful),
        answers=_answers(record, number),
    )


def _shown(triple: Triple) -> str:
    return f"({', '.join(triple)})"


def _from_lists(record: Record, number: int) -> tuple[list[Triple], list[Triple]]:
    """Gold triples and others, as the paper's files list them."""
    gold = _triples(record, number, "crucial_triples")
    related = set(_triples(record, number, "gt_triples"))
    others = _triples(record, number, "2hop_triples")
    return gold, [triple for triple in others if triple not in related]


def _from_graph(record: Record, number: int) -> tuple[list[Triple], list[Triple]]:
    """Gold triples and others, nearest first, of a question's part of the graph."""
    triples = _triples(record, number, "graph")
    asked, answers = (_entities(record, number, name) for name in ("q_entity", "a_entity"))
    return paths_and_nearest(triples, asked, answers)


def _triples(record: Record, number: int, name: str) -> list[Triple]:
    if name not in record:
        raise DataError(
            f"Record {number} has no `{name}`; it has the fields "
            f"{', '.join(sorted(map(str, record)))}: give records with `crucial_triples`, "
            "`gt_triples` and `2hop_triples`, or with `graph`, `q_entity` and `a_entity`."
        )
    values = record[name]
    if not isinstance(values, (list, tuple)):
        raise DataError(
            f"Record {number}: `{name}` is {reprlib.repr(values)}: give a list of triples "
            "[head, relation, tail]."
        )
    for index, value in enumerate(values):
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 3
            or not all(isinstance(part, str) for part in value)
        ):
            raise DataError(
                f"Record {number}: `{name}[{index}]` is {reprlib.repr(value)}: give three texts, "
                "[head, relation, tail]."
            )
    return [cast(Triple, tuple(map(on_one_line, value))) for value in values]


def _entities(record: Record, number: int, name: str) -> list[str]:
    values = record.get(name)
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise DataError(
            f"Record {number}: `{name}` is {reprlib.repr(values)}: give a list of entities as "
            "`graph` names them; it may be empty."
        )
    return [on_one_line(value) for value in values]


def _answers(record: Record, number: int) -> tuple[str, ...]:
    found, name = record.get("answer"), "answer"
    if not found and "Parses" in record:
        found, name = _parsed_answers(record, number), "Parses"
    try:
        return texts({name: found}, number, name)
    except DataError:
        raise DataError(
            f"Record {number}: the answers in `{name}` are {reprlib.repr(found)}: give a text or "
            "a list of texts that are not empty, or leave the record out."
        ) from None


def _parsed_answers(record: Record, number: int) -> list[Any]:
    """WebQSP's own form: the answers of all parses, an entity's by its name."""
    try:
        return [
            answer.get("EntityName") or answer["AnswerArgument"]
            for parse in record["Parses"]
            for answer in parse["Answers"]
        ]
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"Record {number}: `Parses` is {reprlib.repr(record['Parses'])}: give a list of "
            "objects with `Answers`, each a list of objects with `EntityName` or "
            "`AnswerArgument`; or `answer` with the answers themselves."
        ) from None
