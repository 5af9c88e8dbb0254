"""Knowledge-graph question answering: ComplexWebQuestions and WebQSP.

Two stages, as in AgentTTS (section 5.1): select the triples that lead to the answer among about a
hundred, then answer from them. The prompts are not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.aggregation import normalized_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import Pipeline, StageProgram, State
from optuna_agenttts_integrations.scoring.answer_sets import (
    answer_set_f1,
    gog_match,
    hits_at_1,
    rog_f1,
    rog_hit,
    tog_match,
)
from optuna_agenttts_integrations.scoring.metrics import normalize_answer
from optuna_agenttts_integrations.tasks.answering import (
    METRICS,
    parse_answers,
    prompt_messages,
    split_answers,
)
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
from optuna_agenttts_integrations.tasks.kg_questions import (
    GRAPH,
    Graphs,
    graphs_by_id,
    read_question,
)
from optuna_agenttts_integrations.tasks.kg_questions import TripleQuestion as TripleQuestion
from optuna_agenttts_integrations.tasks.records import (
    LeftOut,
    Source,
    read_each,
    read_records,
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
_ONE_ANSWER = (
    "gives the answer as the facts name it and nothing else. If there are several, give one of "
    "them, such as\nAnswer: Lake Victoria"
)
_ALL_ANSWERS = (
    "lists all answers as the facts name them, separated by semicolons, and nothing else, such as"
    "\nAnswer: Lake Victoria; Lake Tana"
)

_SET_METRICS: dict[str, Callable[[list[str], TripleQuestion], float]] = {
    "answer-set F1": lambda answers, question: answer_set_f1(answers, question.gold_sets),
    # The script's value may exceed 1, the task's range.
    "RoG F1": lambda answers, question: min(1.0, rog_f1(answers, question.answers)),
    "RoG hit": lambda answers, question: rog_hit(answers, question.answers),
    "Hits@1": lambda answers, question: hits_at_1(answers, question.answers),
    "ToG match": lambda answers, question: tog_match(" ".join(answers), question.answers),
    "GoG match": lambda answers, question: gog_match(answers, question.answers),
}
"""Metrics of the list of answers that a reply gives; see `scoring.answer_sets`."""
_ASK_FOR_ALL = ("answer-set F1", "RoG F1")
"""Metrics for which models are asked for all answers."""


def cwq(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from ComplexWebQuestions (Talmor and Berant, NAACL 2018).

    Args:
        source: AgentTTS's file (``ID``, ``question``, ``answer``, ``crucial_triples``,
            ``gt_triples``, ``2hop_triples``), ``"hf:rmanluo/RoG-cwq"``, or the original file
            (``answers`` with ``aliases``) with ``graphs="hf:rmanluo/RoG-cwq"``.
        options: See `triple_benchmark`.

    Raises:
        DataError: The records have another form.
    """
    return triple_benchmark("CWQ", source, **options)


def web_qsp(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from WebQSP (Yih et al., ACL 2016).

    Args:
        source: AgentTTS's file (``QuestionId``, ``RawQuestion``, ``answer`` or ``Parses``, and
            triples as in `cwq`), ``"hf:rmanluo/RoG-webqsp"``, or the original file with
            ``graphs="hf:rmanluo/RoG-webqsp"``. 11 of the 1,639 original test questions have no
            answer: ``skip_unusable=True`` leaves them out.
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
    graphs: Source | None = None,
    search: int = 50,
    seed: int = 0,
    split: str = "test",
    revision: str | None = None,
    skip_unusable: bool = False,
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
        graphs: Records with the triples, for a `source` without: they are found by the questions'
            ids. `split` applies to them, too, and `revision` if `source` is not of the Hub.
        search: Number of questions for the search; the others are held out.
        seed: Seed of the split and, together with a question's id, of the order of its triples.
        split: Split of a data set of the Hub.
        revision: Revision of a data set of the Hub, a tag or commit. Default: the newest.
        skip_unusable: Whether to leave out records that cannot be used, with a warning, instead of
            raising; `Benchmark.left_out` has their number by reason.
        candidates: Maximum number of triples in addition to the gold ones, at least 1.
        metric: The maximized metric: ``"exact match"`` (AgentTTS's as far as can be told),
            ``"SQuAD F1"``, ``"answer contained"``, ``"answer-set F1"``, ``"RoG F1"``,
            ``"RoG hit"``, ``"Hits@1"``, ``"ToG match"`` or ``"GoG match"``. For both F1 of sets,
            models are asked for all answers, otherwise for one.
        fusion: Whether answers are fused by the model, as in the paper, or voted on.
        threshold: Fraction of the samples that must select a triple, in (0, 1].
        retrievers: Models of the retrieval stage.
        answerers: Models of the answering stage.
        answer_prompt_tokens: Declared prompt length of the answering stage, in tokens.
        budget: The task's budget. Default: one sample of the largest model per stage (520.67).
        max_tokens: Maximum length of replies, of all stages or by stage; see `with_sampling`.
        temperature: Sampling temperature, of all stages or by stage; see `with_sampling`.

    Raises:
        DataError: Records have another form, or an argument is out of range. The triples of Hub
            data sets and Parquet files are checked when they are used.
        ValueError: The threshold is out of range.
    """
    if candidates < 1:
        raise DataError(f"`candidates` must be at least 1, got {candidates!r}.")
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    pipeline = _pipeline(metric, fusion=fusion, threshold=threshold, **sampling)
    read = partial(read_question, candidates=candidates, seed=seed)
    hub = {"split": split, "revision": revision}
    questions, left_out = _questions(source, graphs, read, skip_unusable, hub)
    searched, held_out = split_instances(questions, search=search, seed=seed, content=_content)
    return Benchmark(
        task=Task(
            name=name,
            description=_DESCRIPTION,
            stages=_stages(retrievers, answerers, answer_prompt_tokens, fusion),
            budget=budget,
            metric=metric,
            metric_range=(0, 1),
        ),
        pipeline=pipeline,
        search=searched,
        held_out=held_out,
        left_out=left_out,
    )


def _stages(
    retrievers: Sequence[Model],
    answerers: Sequence[Model],
    answer_prompt_tokens: float,
    fusion: bool,
) -> list[Stage]:
    return candidate_stages(
        "triples",
        retrievers=retrievers,
        retrieval_tokens=(1024, 64),
        answerers=answerers,
        answer_tokens=(answer_prompt_tokens, 64),
        fusion=fusion,
    )


def _questions(
    source: Source,
    graphs: Source | None,
    read_one: Callable[..., TripleQuestion],
    skip_unusable: bool,
    hub: dict[str, Any],
) -> tuple[list[TripleQuestion], LeftOut]:
    read = partial(read_records, keep_unreadable=True, deferred=(GRAPH,))
    records = read(source, **hub)
    found: Graphs | None = None
    if graphs is not None:
        if isinstance(source, str) and source.startswith("hf:"):
            hub = {**hub, "revision": None}
        found = graphs_by_id(read(graphs, **hub))
    return read_each(
        records, partial(read_one, graphs=found), source=source, skip_unusable=skip_unusable
    )


def _pipeline(metric: str, *, fusion: bool, **options: Any) -> Pipeline:
    """Create the pipeline; its metrics are those of one answer and those of sets."""
    if metric not in (*METRICS, *_SET_METRICS):
        names = ", ".join((*METRICS, *_SET_METRICS))
        raise DataError(f"`metric` must be one of {names}; got {metric!r}.")
    pipeline = candidate_pipeline(
        _candidates,
        selection_prompt=_selection_prompt,
        answer_prompt=partial(_answer_prompt, _ONE_ANSWER),
        metric="exact match" if metric in _SET_METRICS else metric,
        fusion=fusion,
        **options,
    )
    sets: dict[str, Callable[[State], float]] = {
        name: partial(_set_score, name) for name in _SET_METRICS
    }
    pipeline = replace(
        pipeline,
        score=sets.get(metric, pipeline.score),
        metrics={**pipeline.metrics, **sets},
    )
    if metric not in _ASK_FOR_ALL:
        return pipeline
    vote = normalized_vote(_ballot)
    *others, last = pipeline.stages
    assert isinstance(last, StageProgram)
    answer = replace(
        last,
        prompt=partial(_answer_prompt, _ALL_ANSWERS),
        parse=parse_answers,
        aggregate=LLMFusion(fallback=vote) if fusion else vote,
    )
    return replace(pipeline, stages=(*others, answer))


def _ballot(answers: str) -> tuple[str, ...]:
    return tuple(sorted(set(map(normalize_answer, split_answers(answers)))))


def _set_score(metric: str, state: State) -> float:
    """Return a score of the answers that the final reply lists; 0 if there is none.

    Raises:
        DataError: The instance has no accepted answers, as one made for a prediction.
    """
    question: TripleQuestion = state.instance
    if not question.answers:
        raise DataError(f"Instance {question.id!r} has no `answers` to score against: add them.")
    answers = state["answer"]
    return 0.0 if answers is None else _SET_METRICS[metric](split_answers(answers), question)


def _content(question: TripleQuestion) -> str:
    return question.overlap_key


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


def _answer_prompt(wanted: str, state: State) -> tuple[Message, ...]:
    question: TripleQuestion = state.instance
    given = "\n".join(selected_candidates(state, question.triples)) or "(none was chosen)"
    return prompt_messages(
        _ANSWER,
        f"Facts, written (head, relation, tail):\n{given}\n\nQuestion: {question.question}\n\n"
        "Think briefly; where the facts do not suffice, use what you know. Then end with one line "
        f"that {wanted}",
    )
