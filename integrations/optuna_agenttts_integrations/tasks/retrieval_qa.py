"""Retrieval question answering: 2WikiMultiHopQA and HotpotQA.

Two stages, as in AgentTTS (section 5.1): select the relevant passages among about a hundred, then
answer from them. The prompts are not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna_agenttts import Model, Task
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.pipeline.stages import Pipeline, State
from optuna_agenttts_integrations.scoring.metrics import (
    contains_answer,
    exact_match,
    hotpot_f1,
    token_f1,
)
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
from optuna_agenttts_integrations.tasks.passages import PassageQuestion, read_questions
from optuna_agenttts_integrations.tasks.records import Source, read_records, split_instances
from optuna_agenttts_integrations.tasks.selection import format_candidates

METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact match": exact_match,
    "HotpotQA F1": hotpot_f1,
    "SQuAD F1": token_f1,
    "answer contained": contains_answer,
}
"""Scores of an answer against all accepted answers, 0 to 1. The first is the paper's."""

_RETRIEVE = (
    "You choose passages that help to answer a question. Questions often need two facts or more, "
    "from different passages."
)
_ANSWER = "You answer a question from passages that were chosen for it."


def two_wiki(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from 2WikiMultiHopQA (Ho et al., COLING 2020).

    Args:
        source: The data set's own JSON (``_id``, ``question``, ``answer``, ``context``,
            ``supporting_facts``), AgentTTS's file (``question``, ``answers``,
            ``ctxs_candidate``, ``ctxs_gt``), or a data set of the Hub with
            ``split="validation"``: the authors' own ``"hf:xanhho/2WikiMultihopQA"``, whose
            columns are JSON, or ``"hf:framolfese/2WikiMultihopQA"``.
        options: See `passage_benchmark`. ``aliases`` is the data set's ``id_aliases.json``.

    Raises:
        DataError: The records have another form.
    """
    return passage_benchmark("2WikiMultiHopQA", source, **options)


def hotpot_qa(source: Source, **options: Any) -> Benchmark:
    """Create a benchmark from HotpotQA (Yang et al., EMNLP 2018).

    Args:
        source: AgentTTS's file (``question``, ``answer``, ``ctxs_candidate``, ``ctxs_gt``), the
            data set's own JSON (distractor setting), or ``"hf:hotpotqa/hotpot_qa:distractor"``
            with ``split="validation"``.
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
    titles: bool = True,
    aliases: Source | None = None,
    skip_unusable: bool = False,
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
    other questions, as far as available, by question and source, so that another seed gives
    another split of the same prompts. Of questions with the same words, the first is kept.

    Args:
        name: The data set's name.
        source: The records; see `read_records`.
        search: Number of questions for the search; the others are held out.
        seed: Seed of the split.
        split: Split of a data set of the Hub.
        revision: Revision of a data set of the Hub, a tag or commit. Default: the newest.
        candidates: Number of passages to pad to.
        titles: Whether paragraphs with a title begin with it, which often names their subject.
            AgentTTS's files have no titles: False is their form of the same paragraphs.
        aliases: Other names of answers, all accepted: 2Wiki's ``id_aliases.json``.
        skip_unusable: Whether to leave out invalid records instead of raising.
        metric: The maximized metric, a key of `METRICS`. Default: the EM of AgentTTS, Table 1.
        fusion: Whether answers are fused by the model, as in the paper, or voted on.
        threshold: Fraction of the samples that must select a passage, in (0, 1].
        retrievers: Models of the retrieval stage.
        answerers: Models of the answering stage.
        budget: The task's budget. Default: one sample of the largest model per stage (928.67).
        max_tokens: Maximum length of replies, of all stages or by stage; see `with_sampling`.
        temperature: Sampling temperature, of all stages or by stage; see `with_sampling`.

    Raises:
        DataError: Records or aliases have another form, or the metric is unknown.
        ValueError: The threshold is out of range.
    """
    pipeline = _pipeline(metric, fusion, threshold, max_tokens, temperature)
    questions, left_out = read_questions(
        read_records(source, split=split, revision=revision, keep_unreadable=True),
        source=source,
        candidates=candidates,
        titles=titles,
        aliases=aliases,
        skip_unusable=skip_unusable,
    )
    searched, held_out = split_instances(
        questions, search=search, seed=seed, content=lambda question: question.overlap_key
    )
    task = _task(name, retrievers, answerers, fusion, budget, metric)
    return Benchmark(
        task=task, pipeline=pipeline, search=searched, held_out=held_out, left_out=left_out
    )


def _pipeline(
    metric: str, fusion: bool, threshold: float, max_tokens: MaxTokens, temperature: Temperature
) -> Pipeline:
    return candidate_pipeline(
        _candidates,
        selection_prompt=_selection_prompt,
        answer_prompt=_answer_prompt,
        metrics=METRICS,
        metric=metric,
        fusion=fusion,
        threshold=threshold,
        max_tokens=max_tokens,
        temperature=temperature,
    )


def _task(
    name: str,
    retrievers: Sequence[Model],
    answerers: Sequence[Model],
    fusion: bool,
    budget: float | None,
    metric: str,
) -> Task:
    return Task(
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
