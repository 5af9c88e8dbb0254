"""Knowledge-graph question answering: ComplexWebQuestions and WebQSP.

Two stages, as in AgentTTS (section 5.1): select the triples that lead to the answer among about a
hundred, then answer from them. The prompts are not the paper's.
"""

from __future__ import annotations

import random
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from optuna_agenttts import Model, Task
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.tasks.answering import prompt_messages
from optuna_agenttts_integrations.tasks.benchmark import (
    LLAMA,
    QWEN,
    Benchmark,
    MaxTokens,
    Temperature,
)
from optuna_agenttts_integrations.tasks.candidates import (
    candidate_pipeline,
    candidate_stages,
    selected_candidates,
)
from optuna_agenttts_integrations.tasks.graphs import Triple, paths_and_nearest
from optuna_agenttts_integrations.tasks.records import (
    Record,
    Source,
    get_field,
    get_texts,
    read_records,
    single_line,
    split_instances,
)
from optuna_agenttts_integrations.tasks.selection import format_candidates

_RETRIEVE = (
    "You choose facts of a knowledge graph that lead from a question to its answer. Each fact is "
    "written (head, relation, tail); codes such as m.0x1y stand for things that have no name."
)
_ANSWER = "You answer a question from facts of a knowledge graph that were chosen for it."
_DESCRIPTION = (
    "Choose the triples of a knowledge graph that lead to the answer among about a hundred, then "
    "answer."
)
_IDS = ("ID", "QuestionId", "id")


@dataclass(frozen=True, slots=True)
class TripleQuestion:
    """A question with triples of a knowledge graph.

    Args:
        id: The identifier.
        question: The question.
        triples: The triples as ``"(head, relation, tail)"``, in the order of the prompt.
        gold: Numbers of the triples that lead to the answer, from 1; can be empty.
        answers: All accepted answers.
    """

    id: str
    question: str
    triples: tuple[str, ...]
    gold: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()


def cwq(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from ComplexWebQuestions (Talmor and Berant, NAACL 2018).

    Args:
        source: AgentTTS's file (``ID``, ``question``, ``answer``, ``crucial_triples``,
            ``gt_triples``, ``2hop_triples``), or ``"hf:rmanluo/RoG-cwq"``.
        options: See `triple_benchmark`.

    Raises:
        DataError: The records have another form.
    """
    return triple_benchmark("CWQ", source, **options)


def web_qsp(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from WebQSP (Yih et al., ACL 2016).

    Args:
        source: AgentTTS's file (``QuestionId``, ``RawQuestion``, ``answer`` or ``Parses``, and
            triples as in `cwq`), or ``"hf:rmanluo/RoG-webqsp"``.
        options: See `triple_benchmark`. ``answer_prompt_tokens`` is 128 by default, which gives a
            budget of 474.

    Raises:
        DataError: The records have another form.
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
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> Benchmark:
    """Create a benchmark from questions with triples of a knowledge graph.

    In AgentTTS's files, gold triples are ``crucial_triples``, and the others are the first of
    ``2hop_triples`` that are not in ``gt_triples``. Data sets of the Hub have no gold triples:
    those on shortest undirected paths of at most 4 hops from ``q_entity`` to ``a_entity`` count as
    gold (weak supervision, as in RoG, arXiv 2310.01061), and the others are the nearest.

    Args:
        name: The data set's name.
        source: The records; see `read_records`.
        search: Number of questions for the search; the others are held out.
        seed: Seed of the split and, together with a question's id, of the order of its triples.
        split: Split of a data set of the Hub.
        revision: Revision of a data set of the Hub, a tag or commit. Default: the newest.
        candidates: Maximum number of triples in addition to the gold ones, at least 1.
        metric: The maximized metric: ``"exact match"``, ``"token F1"`` or ``"answer contained"``.
        fusion: Whether answers are fused by the model, as in the paper, or voted on.
        threshold: Fraction of the samples that must select a triple, in (0, 1].
        retrievers: Models of the retrieval stage.
        answerers: Models of the answering stage.
        answer_prompt_tokens: Declared prompt length of the answering stage, in tokens.
        budget: The task's budget. Default: one sample of the largest model per stage (520.67).
        max_tokens: Maximum length of replies, of all stages or by stage; see `with_sampling`.
        temperature: Sampling temperature, of all stages or by stage; see `with_sampling`.

    Raises:
        DataError: The records have another form, or an argument is out of range.
        ValueError: The threshold is out of range.
    """
    pipeline = candidate_pipeline(
        _candidates,
        selection_prompt=_selection_prompt,
        answer_prompt=_answer_prompt,
        metric=metric,
        fusion=fusion,
        threshold=threshold,
        max_tokens=max_tokens,
        temperature=temperature,
    )
    questions = _questions(source, split, revision, candidates, seed)
    searched, held_out = split_instances(questions, search=search, seed=seed, content=_content)
    return Benchmark(
        task=Task(
            name=name,
            description=_DESCRIPTION,
            stages=candidate_stages(
                "triples",
                retrievers=retrievers,
                retrieval_tokens=(1024, 64),
                answerers=answerers,
                answer_tokens=(answer_prompt_tokens, 64),
                fusion=fusion,
            ),
            budget=budget,
            metric=metric,
            metric_range=(0, 1),
        ),
        pipeline=pipeline,
        search=searched,
        held_out=held_out,
    )


def _questions(
    source: Source, split: str, revision: str | None, candidates: int, seed: int
) -> list[TripleQuestion]:
    if candidates < 1:
        raise DataError(f"`candidates` must be at least 1, got {candidates!r}.")
    records = read_records(source, split=split, revision=revision)
    return [_question(record, n, candidates, seed) for n, record in enumerate(records)]


def _content(question: TripleQuestion) -> str:
    return question.question


def _candidates(question: TripleQuestion) -> tuple[str, ...]:
    return question.triples


def _selection_prompt(state: State) -> tuple[Message, ...]:
    question: TripleQuestion = state.instance
    return prompt_messages(
        _RETRIEVE,
        f"Facts:\n{format_candidates(question.triples) or '(there are none)'}\n\n"
        f"Question: {question.question}\n\n"
        "Which facts are needed to answer the question? Think briefly, then end with one line "
        "that lists their numbers and nothing else, such as\nAnswer: [2, 7, 19]\n"
        "or, if none of them helps,\nAnswer: none",
    )


def _answer_prompt(state: State) -> tuple[Message, ...]:
    question: TripleQuestion = state.instance
    given = "\n".join(selected_candidates(state, question.triples)) or "(none was chosen)"
    return prompt_messages(
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
    relevant = {_format_triple(triple) for triple in gold}
    rest = dict.fromkeys(text for text in map(_format_triple, others) if text not in relevant)
    shown = [*dict.fromkeys(map(_format_triple, gold)), *list(rest)[:candidates]]
    random.Random(f"{seed}:{name}").shuffle(shown)
    return TripleQuestion(
        id=name,
        question=get_field(record, number, ("question", "RawQuestion"), str).strip(),
        triples=tuple(shown),
        gold=tuple(position for position, text in enumerate(shown, 1) if text in relevant),
        answers=_answers(record, number),
    )


def _format_triple(triple: Triple) -> str:
    return f"({', '.join(triple)})"


def _from_lists(record: Record, number: int) -> tuple[list[Triple], list[Triple]]:
    """Return gold triples and others of a record of AgentTTS's files."""
    gold = _triples(record, number, "crucial_triples")
    related = set(_triples(record, number, "gt_triples"))
    others = _triples(record, number, "2hop_triples")
    return gold, [triple for triple in others if triple not in related]


def _from_graph(record: Record, number: int) -> tuple[list[Triple], list[Triple]]:
    """Return gold triples and others, nearest first, of a record with a subgraph."""
    triples = _triples(record, number, "graph")
    starts, ends = (_entities(record, number, name) for name in ("q_entity", "a_entity"))
    return paths_and_nearest(triples, starts, ends)


def _triples(record: Record, number: int, name: str) -> list[Triple]:
    if name not in record:
        raise DataError(
            f"Record {number} has no field `{name}`, only {', '.join(sorted(map(str, record)))}. "
            "Provide records with `crucial_triples`, `gt_triples` and `2hop_triples`, or with "
            "`graph`, `q_entity` and `a_entity`."
        )
    values = record[name]
    if not isinstance(values, (list, tuple)):
        raise DataError(
            f"Record {number}: `{name}` must be a list of triples [head, relation, tail], got "
            f"{reprlib.repr(values)}."
        )
    for index, value in enumerate(values):
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 3
            or not all(isinstance(part, str) for part in value)
        ):
            raise DataError(
                f"Record {number}: `{name}[{index}]` must be three strings, [head, relation, "
                f"tail], got {reprlib.repr(value)}."
            )
    return [cast(Triple, tuple(map(single_line, value))) for value in values]


def _entities(record: Record, number: int, name: str) -> list[str]:
    values = record.get(name)
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise DataError(
            f"Record {number}: `{name}` must be a list of entities of `graph`, possibly empty, "
            f"got {reprlib.repr(values)}."
        )
    return [single_line(value) for value in values]


def _answers(record: Record, number: int) -> tuple[str, ...]:
    found, name = record.get("answer"), "answer"
    if not found and "Parses" in record:
        found, name = _parsed_answers(record, number), "Parses"
    try:
        return get_texts({name: found}, number, name)
    except DataError:
        raise DataError(
            f"Record {number}: the answers in `{name}` must be a non-empty string or a list of "
            f"such, got {reprlib.repr(found)}. Correct or remove the record."
        ) from None


def _parsed_answers(record: Record, number: int) -> list[Any]:
    """Return the answers of all parses in WebQSP's form, entities by their names."""
    try:
        return [
            answer.get("EntityName") or answer["AnswerArgument"]
            for parse in record["Parses"]
            for answer in parse["Answers"]
        ]
    except (KeyError, TypeError, AttributeError):
        raise DataError(
            f"Record {number}: `Parses` must be a list of objects with `Answers`, each a list of "
            "objects with `EntityName` or `AnswerArgument`, got "
            f"{reprlib.repr(record['Parses'])}. Correct it, or provide the answers in `answer`."
        ) from None
