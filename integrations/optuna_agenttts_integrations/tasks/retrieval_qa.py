"""Retrieval question answering: 2WikiMultiHopQA and HotpotQA.

Two stages, as in AgentTTS (section 5.1): choose the passages that help among about a hundred, then
answer from them. Prompts are our own.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.tasks.answering import conversation
from optuna_agenttts_integrations.tasks.benchmark import LLAMA, QWEN, Benchmark
from optuna_agenttts_integrations.tasks.candidates import candidate_pipeline, chosen
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

_logger = logging.getLogger(__name__)

_RETRIEVE = (
    "You choose passages that help to answer a question. Questions often need two facts or more, "
    "from different passages."
)
_ANSWER = "You answer a question from passages that were chosen for it."


@dataclass(frozen=True, slots=True)
class PassageQuestion:
    """A question with passages, some of which help to answer it.

    Args:
        id: Its name.
        question: The question, on one line.
        passages: The passages, one line each, in the order in which they are shown.
        gold: Numbers of the passages that help, from 1.
        answers: All accepted answers.
    """

    id: str
    question: str
    passages: tuple[str, ...]
    gold: tuple[int, ...]
    answers: tuple[str, ...]


def two_wiki(source: Source, **options: Any) -> Benchmark:
    """2WikiMultiHopQA (Ho et al., COLING 2020), ready to be searched on.

    Args:
        source: The paper's file (``question``, ``answers``, ``ctxs_candidate``, ``ctxs_gt``), or a
            data set of the Hub in HotpotQA's form, such as ``"hf:framolfese/2WikiMultihopQA"``.
        options: See `passage_benchmark`.

    Raises:
        DataError: The records are not of that form.
    """
    return passage_benchmark("2WikiMultiHopQA", source, **options)


def hotpot_qa(source: Source, **options: Any) -> Benchmark:
    """HotpotQA (Yang et al., EMNLP 2018), ready to be searched on.

    Args:
        source: The paper's file (``question``, ``answer``, ``ctxs_candidate``, ``ctxs_gt``), the
            data set's own JSON, or ``"hf:hotpotqa/hotpot_qa:distractor"`` with
            ``split="validation"``.
        options: See `passage_benchmark`.

    Raises:
        DataError: The records are not of that form.
    """
    return passage_benchmark("HotpotQA", source, **options)


def passage_benchmark(
    name: str,
    source: Source,
    *,
    search: int = 50,
    seed: int = 0,
    split: str = "validation",
    revision: str | None = None,
    candidates: int = 100,
    metric: str = "exact match",
    fusion: bool = True,
    threshold: float = 0.5,
    retrievers: Sequence[Model] = QWEN,
    answerers: Sequence[Model] = LLAMA,
    budget: float | None = None,
) -> Benchmark:
    """A benchmark of questions with passages.

    Records of a question's own few paragraphs, as HotpotQA has them, are filled up to `candidates`
    with paragraphs of other questions, as far as the source has any. Which, and in what order, is
    a function of question and source: another seed makes another split of the same questions.

    Args:
        name: The data set's name.
        source: Its records; see `read_records`.
        search: How many questions to search on; the others are held out.
        seed: Of the split.
        split: Split of a data set of the Hub.
        revision: Its revision, a tag or commit. Default: the newest.
        candidates: How many passages to fill up to.
        metric: What is maximized: ``"exact match"``, ``"token F1"`` or ``"answer contained"``.
        fusion: Whether answers are fused by the model, as in the paper, or voted on.
        threshold: Share of samples that must choose a passage.
        retrievers: Models of the retrieval stage.
        answerers: Models of the answering stage.
        budget: Of the task. Default: one sample of the largest model in each stage (928.67).

    Raises:
        DataError: The records are not of that form, or there is no such metric.
        ValueError: The threshold is out of range.
    """
    pipeline = candidate_pipeline(
        _candidates,
        ask_candidates=_ask_passages,
        ask_answer=_ask_answer,
        metric=metric,
        fusion=fusion,
        threshold=threshold,
    )
    records = read_records(source, split=split, revision=revision)
    questions = _questions(records, candidates)
    searched, held_out = split_instances(
        questions, search=search, seed=seed, content=lambda question: question.question
    )
    return Benchmark(
        task=Task(
            name=name,
            description="Choose the passages that help among about a hundred, then answer.",
            stages=[
                Stage(
                    "retrieval",
                    models=retrievers,
                    prompt_tokens=2048,
                    generation_tokens=128,
                    description="Choose passages; samples vote on each.",
                ),
                Stage(
                    "answer",
                    models=answerers,
                    prompt_tokens=256,
                    generation_tokens=64,
                    description="Answer from the chosen passages; samples are "
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


def _candidates(question: PassageQuestion) -> tuple[str, ...]:
    return question.passages


def _ask_passages(state: State) -> tuple[Message, ...]:
    question: PassageQuestion = state.instance
    return conversation(
        _RETRIEVE,
        f"Passages:\n{numbered(question.passages)}\n\nQuestion: {question.question}\n\n"
        "Which passages are needed to answer the question? Think briefly, then end with one line "
        "that lists their numbers and nothing else, such as\nAnswer: [4, 31]",
    )


def _ask_answer(state: State) -> tuple[Message, ...]:
    question: PassageQuestion = state.instance
    shown = chosen(state, question.passages)
    given = "\n".join(f"- {text}" for text in shown) or "(none was chosen)"
    return conversation(
        _ANSWER,
        f"Passages:\n{given}\n\nQuestion: {question.question}\n\n"
        "Think briefly, then end with one line that gives the answer in as few words as possible, "
        "such as\nAnswer: Paris",
    )


def _questions(records: Sequence[Record], candidates: int) -> list[PassageQuestion]:
    read = [_paragraphs(record, number) for number, record in enumerate(records)]
    if incomplete := sum(paragraphs.lost for paragraphs in read):
        _logger.warning(
            "In %d of %d records, `supporting_facts` names titles that `context` lacks. The other "
            "paragraphs that help count as all of them there.",
            incomplete,
            len(records),
        )
    pool = list(dict.fromkeys(text for paragraphs in read for text in paragraphs.shown))
    questions: list[PassageQuestion] = []
    named: dict[str, str] = {}
    for number, (record, paragraphs) in enumerate(zip(records, read)):
        question = on_one_line(field(record, number, "question", str))
        passages = paragraphs.shown
        if paragraphs.few and len(passages) < candidates:
            passages = _filled(passages, pool, candidates, random.Random(question))
        name = _name(record, number)
        if named.setdefault(name, question) != question:
            name = f"{name} (record {number})"
        questions.append(
            PassageQuestion(
                id=name,
                question=question,
                passages=passages,
                gold=tuple(sorted(passages.index(text) + 1 for text in paragraphs.gold)),
                answers=texts(record, number, ("answers", "answer")),
            )
        )
    return questions


def _name(record: Record, number: int) -> str:
    own = record.get("id", record.get("_id"))
    return str(number if own is None or own == "" else own)


def _filled(
    passages: Sequence[str], pool: Sequence[str], count: int, rng: random.Random
) -> tuple[str, ...]:
    """Passages, and others of a pool, up to a number and shuffled."""
    own = set(passages)
    drawn = rng.sample(pool, min(len(pool), count))
    filled = [*passages, *(text for text in drawn if text not in own)][:count]
    rng.shuffle(filled)
    return tuple(filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paragraphs:
    """A record's passages.

    Args:
        shown: The passages, none twice.
        gold: Those of them that help.
        few: Whether they are a question's own few, to be filled up.
        lost: Whether some that help are not there.
    """

    shown: tuple[str, ...]
    gold: tuple[str, ...]
    few: bool
    lost: bool


def _paragraphs(record: Record, number: int) -> _Paragraphs:
    if "ctxs_candidate" in record:
        shown, gold = (_passages(record, number, name) for name in ("ctxs_candidate", "ctxs_gt"))
        if lost := [text for text in gold if text not in shown]:
            raise DataError(
                f"Record {number}: `ctxs_gt` has {lost[0][:60]!r}, which `ctxs_candidate` lacks."
            )
        return _Paragraphs(shown=shown, gold=gold, few=False, lost=False)
    titled = _titled(record.get("context"), number)
    facts = record.get("supporting_facts")
    try:
        titles = set(facts["title"] if isinstance(facts, Mapping) else [f[0] for f in facts or ()])
    except (KeyError, TypeError, IndexError):
        raise DataError(f"Record {number}: `supporting_facts` names no titles.") from None
    gold = tuple(dict.fromkeys(text for title, text in titled if title in titles))
    if not gold:
        raise DataError(
            f"Record {number}: `supporting_facts` names {sorted(map(str, titles))!r}, none of "
            "which is the title of a text in `context`."
        )
    return _Paragraphs(
        shown=tuple(dict.fromkeys(text for _, text in titled)),
        gold=gold,
        few=True,
        lost=not titles <= {title for title, _ in titled},
    )


def _passages(record: Record, number: int, name: str) -> tuple[str, ...]:
    if isinstance(record.get(name), str):
        raise DataError(f"Record {number}: {name!r} is one text: give a list of passages.")
    return tuple(dict.fromkeys(map(on_one_line, texts(record, number, name))))


def _titled(context: Any, number: int) -> list[tuple[str, str]]:
    """Titles with texts: HotpotQA's own lists of pairs, or the Hub's object of lists."""
    try:
        pairs = (
            list(zip(context["title"], context["sentences"], strict=True))
            if isinstance(context, Mapping)
            else [(title, sentences) for title, sentences in context]
        )
        titled = [
            (title, on_one_line(sentences if isinstance(sentences, str) else " ".join(sentences)))
            for title, sentences in pairs
        ]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"Record {number}: `context` is not a list of (title, sentences), nor an object with "
            "`title` and `sentences`; nor has the record `ctxs_candidate`."
        ) from None
    return [(title, text) for title, text in titled if text and isinstance(title, str)]
