"""Knowledge-graph question answering: ComplexWebQuestions and WebQSP.

Two stages, as in AgentTTS (section 5.1): choose the triples that lead to the answer among about a
hundred, then answer from them. Prompts are our own.
"""

from __future__ import annotations

import math
import random
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.metrics import set_f1
from optuna_agenttts_integrations.pipeline import Pipeline, StageProgram, State
from optuna_agenttts_integrations.tasks.answering import (
    METRICS,
    conversation,
    join_answers,
    parse_answer,
)
from optuna_agenttts_integrations.tasks.benchmark import LLAMA, QWEN, Benchmark
from optuna_agenttts_integrations.tasks.records import (
    Record,
    Source,
    field,
    read_records,
    split_instances,
    texts,
)
from optuna_agenttts_integrations.tasks.retrieval_qa import answer_score
from optuna_agenttts_integrations.tasks.selection import (
    Selection,
    numbered,
    parse_selection,
    selection_vote,
    simulated_selection,
)

Triple = tuple[str, str, str]

_RETRIEVE = (
    "You choose facts of a knowledge graph that lead from a question to its answer. Each fact is "
    "written (head, relation, tail); codes such as m.0x1y stand for things that have no name."
)
_ANSWER = "You answer a question from facts of a knowledge graph that were chosen for it."
_IDS = ("ID", "QuestionId", "id")
_HOPS = 4
"""The longest path from question to answer whose triples count as gold, in triples."""


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
    if metric not in METRICS:
        raise DataError(f"`metric` is {metric!r}: there are {', '.join(METRICS)}.")
    if candidates < 1:
        raise DataError(f"`candidates` is {candidates!r}: give 1 or more.")
    records = read_records(source, split=split)
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
        pipeline=Pipeline(
            stages=[
                StageProgram(
                    name="retrieval",
                    prompt=_ask_triples,
                    parse=lambda text, state: parse_selection(text, len(state.instance.triples)),
                    aggregate=selection_vote(threshold),
                    max_tokens=512,
                    temperature=0.9,
                ),
                StageProgram(
                    name="answer",
                    prompt=_ask_answer,
                    parse=parse_answer,
                    aggregate=join_answers(fusion),
                    max_tokens=512,
                    temperature=0.7,
                ),
            ],
            score=answer_score(metric),
            metrics={
                **{other: answer_score(other) for other in METRICS},
                "retrieval F1": lambda state: set_f1(
                    _chosen(state).ids, cast(TripleQuestion, state.instance).gold
                ),
                "ids out of range": lambda state: float(_chosen(state).out_of_range),
                "ids repeated": lambda state: float(_chosen(state).repeated),
            },
        ),
        search=searched,
        held_out=held_out,
        marks={"retrieval": _RETRIEVE, "answer": _ANSWER},
        subject=lambda instance: f"Question: {instance.question}",
        simulate=_simulate,
    )


def _chosen(state: State) -> Selection:
    return state["retrieval"] or Selection(())


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
    shown = [question.triples[number - 1] for number in _chosen(state).ids]
    given = "\n".join(shown) or "(none was chosen)"
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
    links: dict[str, list[Triple]] = {}
    for triple in triples:
        for entity in {triple[0], triple[2]}:
            links.setdefault(entity, []).append(triple)
    away = _distances(links, asked)
    nearest = sorted(
        triples, key=lambda triple: min(away.get(end, math.inf) for end in (triple[0], triple[2]))
    )
    gold = {triple for entity in asked for triple in _on_shortest_paths(links, entity, answers)}
    return [triple for triple in triples if triple in gold], nearest


def _distances(links: Mapping[str, Sequence[Triple]], starts: Iterable[str]) -> dict[str, int]:
    """Hops to each entity from the nearest of some others."""
    away = dict.fromkeys((entity for entity in starts if entity in links), 0)
    reached = list(away)
    for entity in reached:
        for head, _, tail in links[entity]:
            for other in (head, tail):
                if other not in away:
                    away[other] = away[entity] + 1
                    reached.append(other)
    return away


def _on_shortest_paths(
    links: Mapping[str, Sequence[Triple]], start: str, ends: Iterable[str]
) -> set[Triple]:
    """All triples on all shortest paths from one entity to each of some others."""
    away = _distances(links, [start])
    levels: list[set[str]] = [set() for _ in range(_HOPS + 1)]
    for entity in ends:
        if away.get(entity, math.inf) <= _HOPS:
            levels[away[entity]].add(entity)
    found: set[Triple] = set()
    for hops in range(_HOPS, 0, -1):
        for entity in levels[hops]:
            for triple in links[entity]:
                other = triple[0] if triple[2] == entity else triple[2]
                if away[other] == hops - 1:
                    found.add(triple)
                    levels[hops - 1].add(other)
    return found


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
    return [cast(Triple, tuple(map(_tidy, value))) for value in values]


def _entities(record: Record, number: int, name: str) -> list[str]:
    values = record.get(name)
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise DataError(
            f"Record {number}: `{name}` is {reprlib.repr(values)}: give a list of entities as "
            "`graph` names them; it may be empty."
        )
    return [_tidy(value) for value in values]


def _tidy(text: str) -> str:
    """A name on one line: a few have line ends or runs of blanks in them."""
    return " ".join(text.split())


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


def _simulate(
    stage: str, instance: TripleQuestion, prompt: str, right: bool, rng: random.Random
) -> str:
    if stage == "retrieval":
        return simulated_selection(instance.gold, len(instance.triples), right, rng)
    # Nobody answers from triples that he does not see.
    if right and all(instance.triples[number - 1] in prompt for number in instance.gold):
        return f"Answer: {instance.answers[0]}"
    return f"Answer: nobody knows {rng.randint(1, 4)}"
