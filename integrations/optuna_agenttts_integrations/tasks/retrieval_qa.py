"""Retrieval question answering: 2WikiMultiHopQA and HotpotQA.

Two stages, as in AgentTTS (section 5.1): select the relevant passages among about a hundred, then
answer from them. The prompts are not the paper's.
"""

from __future__ import annotations

import logging
import random
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

_logger = logging.getLogger(__name__)

_RETRIEVE = (
    "You choose passages that help to answer a question. Questions often need two facts or more, "
    "from different passages."
)
_ANSWER = "You answer a question from passages that were chosen for it."


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


def two_wiki(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from 2WikiMultiHopQA (Ho et al., COLING 2020).

    Args:
        source: AgentTTS's file (``question``, ``answers``, ``ctxs_candidate``, ``ctxs_gt``), or a
            data set of the Hub in HotpotQA's form, such as ``"hf:framolfese/2WikiMultihopQA"``.
        options: See `passage_benchmark`.

    Raises:
        DataError: The records have another form.
    """
    return passage_benchmark("2WikiMultiHopQA", source, **options)


def hotpot_qa(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from HotpotQA (Yang et al., EMNLP 2018).

    Args:
        source: AgentTTS's file (``question``, ``answer``, ``ctxs_candidate``, ``ctxs_gt``), the
            data set's own JSON, or ``"hf:hotpotqa/hotpot_qa:distractor"`` with
            ``split="validation"``.
        options: See `passage_benchmark`.

    Raises:
        DataError: The records have another form.
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
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> Benchmark:
    """Create a benchmark from questions with passages.

    Questions with few paragraphs, as in HotpotQA, are padded to `candidates` with paragraphs of
    other questions, as far as available. The padding and the order are a function of question and
    source alone, so that another seed gives another split of the same questions.

    Args:
        name: The data set's name.
        source: The records; see `read_records`.
        search: Number of questions for the search; the others are held out.
        seed: Seed of the split.
        split: Split of a data set of the Hub.
        revision: Revision of a data set of the Hub, a tag or commit. Default: the newest.
        candidates: Number of passages to pad to.
        metric: The maximized metric: ``"exact match"``, ``"token F1"`` or ``"answer contained"``.
        fusion: Whether answers are fused by the model, as in the paper, or voted on.
        threshold: Fraction of the samples that must select a passage, in (0, 1].
        retrievers: Models of the retrieval stage.
        answerers: Models of the answering stage.
        budget: The task's budget. Default: one sample of the largest model per stage (928.67).
        max_tokens: Maximum length of replies, of all stages or by stage; see `with_sampling`.
        temperature: Sampling temperature, of all stages or by stage; see `with_sampling`.

    Raises:
        DataError: The records have another form, or the metric is unknown.
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
    records = read_records(source, split=split, revision=revision)
    questions = _questions(records, candidates)
    searched, held_out = split_instances(
        questions, search=search, seed=seed, content=lambda question: question.question
    )
    return Benchmark(
        task=Task(
            name=name,
            description="Choose the passages that help among about a hundred, then answer.",
            stages=candidate_stages(
                "passages",
                retrievers=retrievers,
                retrieval_tokens=(2048, 128),
                answerers=answerers,
                answer_tokens=(256, 64),
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


def _candidates(question: PassageQuestion) -> tuple[str, ...]:
    return question.passages


def _selection_prompt(state: State) -> tuple[Message, ...]:
    question: PassageQuestion = state.instance
    return prompt_messages(
        _RETRIEVE,
        f"Passages:\n{format_candidates(question.passages)}\n\nQuestion: {question.question}\n\n"
        "Which passages are needed to answer the question? Think briefly, then end with one line "
        "that lists their numbers and nothing else, such as\nAnswer: [4, 31]",
    )


def _answer_prompt(state: State) -> tuple[Message, ...]:
    question: PassageQuestion = state.instance
    shown = selected_candidates(state, question.passages)
    given = "\n".join(f"- {text}" for text in shown) or "(none was chosen)"
    return prompt_messages(
        _ANSWER,
        f"Passages:\n{given}\n\nQuestion: {question.question}\n\n"
        "Think briefly, then end with one line that gives the answer in as few words as possible, "
        "such as\nAnswer: Paris",
    )


def _questions(records: Sequence[Record], candidates: int) -> list[PassageQuestion]:
    """Read questions and pad those with few paragraphs."""
    read = [_paragraphs(record, number) for number, record in enumerate(records)]
    if incomplete := sum(paragraphs.incomplete for paragraphs in read):
        _logger.warning(
            "In %d of %d records, `supporting_facts` contains titles that are missing in "
            "`context`. In these records, only the other relevant paragraphs count as gold.",
            incomplete,
            len(records),
        )
    pool = list(dict.fromkeys(text for paragraphs in read for text in paragraphs.shown))
    questions: list[PassageQuestion] = []
    question_by_id: dict[str, str] = {}
    for number, (record, paragraphs) in enumerate(zip(records, read)):
        question = single_line(get_field(record, number, "question", str))
        passages = paragraphs.shown
        if paragraphs.few and len(passages) < candidates:
            passages = _padded(passages, pool, candidates, random.Random(question))
        identifier = _identifier(record, number)
        if question_by_id.setdefault(identifier, question) != question:
            identifier = f"{identifier} (record {number})"
        questions.append(
            PassageQuestion(
                id=identifier,
                question=question,
                passages=passages,
                gold=tuple(sorted(passages.index(text) + 1 for text in paragraphs.gold)),
                answers=get_texts(record, number, ("answers", "answer")),
            )
        )
    return questions


def _identifier(record: Record, number: int) -> str:
    own = record.get("id", record.get("_id"))
    return str(number if own is None or own == "" else own)


def _padded(
    passages: Sequence[str], pool: Sequence[str], count: int, rng: random.Random
) -> tuple[str, ...]:
    """Return passages, padded to a number with others of a pool, in random order."""
    own = set(passages)
    drawn = rng.sample(pool, min(len(pool), count))
    filled = [*passages, *(text for text in drawn if text not in own)][:count]
    rng.shuffle(filled)
    return tuple(filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paragraphs:
    """Passages of a record.

    Args:
        shown: The distinct passages.
        gold: The relevant ones among them.
        few: Whether they are the few paragraphs of a question, to be padded.
        incomplete: Whether relevant passages are missing.
    """

    shown: tuple[str, ...]
    gold: tuple[str, ...]
    few: bool
    incomplete: bool


def _paragraphs(record: Record, number: int) -> _Paragraphs:
    if "ctxs_candidate" in record:
        shown, gold = (_passages(record, number, name) for name in ("ctxs_candidate", "ctxs_gt"))
        if missing := [text for text in gold if text not in shown]:
            raise DataError(
                f"Record {number}: every passage of `ctxs_gt` must be in `ctxs_candidate`; "
                f"{missing[0][:60]!r} is not."
            )
        return _Paragraphs(shown=shown, gold=gold, few=False, incomplete=False)
    titled = _titled(record.get("context"), number)
    facts = record.get("supporting_facts")
    try:
        titles = set(facts["title"] if isinstance(facts, Mapping) else [f[0] for f in facts or ()])
    except (KeyError, TypeError, IndexError):
        raise DataError(
            f"Record {number}: `supporting_facts` must contain titles, got {reprlib.repr(facts)}."
        ) from None
    gold = tuple(dict.fromkeys(text for title, text in titled if title in titles))
    if not gold:
        raise DataError(
            f"Record {number}: `supporting_facts` contains {sorted(map(str, titles))!r}; none of "
            "these titles has a text in `context`."
        )
    return _Paragraphs(
        shown=tuple(dict.fromkeys(text for _, text in titled)),
        gold=gold,
        few=True,
        incomplete=not titles <= {title for title, _ in titled},
    )


def _passages(record: Record, number: int, name: str) -> tuple[str, ...]:
    if isinstance(record.get(name), str):
        raise DataError(f"Record {number}: {name!r} must be a list of passages, got one string.")
    return tuple(dict.fromkeys(map(single_line, get_texts(record, number, name))))


def _titled(context: Any, number: int) -> list[tuple[str, str]]:
    """Return (title, text) pairs from HotpotQA's list of pairs or the Hub's object of lists."""
    try:
        pairs = (
            list(zip(context["title"], context["sentences"], strict=True))
            if isinstance(context, Mapping)
            else [(title, sentences) for title, sentences in context]
        )
        titled = [
            (title, single_line(sentences if isinstance(sentences, str) else " ".join(sentences)))
            for title, sentences in pairs
        ]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"Record {number}: `context` must be a list of (title, sentences) or an object with "
            f"`title` and `sentences`, got {reprlib.repr(context)}. Correct it, or provide "
            "`ctxs_candidate` and `ctxs_gt`."
        ) from None
    return [(title, text) for title, text in titled if text and isinstance(title, str)]
