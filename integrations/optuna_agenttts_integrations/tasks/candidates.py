"""Two stages shared by families: select numbered candidates, then answer from the selected ones.

Instances have a `question`, `gold` (numbers of the relevant candidates, from 1) and `answers` (all
accepted answers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from optuna_agenttts import Model, Stage
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.stages import (
    Pipeline,
    Prompt,
    StageCheck,
    StageProgram,
    State,
)
from optuna_agenttts_integrations.scoring.metrics import set_f1
from optuna_agenttts_integrations.tasks.answering import METRICS, answer_aggregation, parse_answer
from optuna_agenttts_integrations.tasks.benchmark import (
    MaxTokens,
    Temperature,
    with_sampling,
)
from optuna_agenttts_integrations.tasks.selection import (
    Selection,
    parse_selection,
    selection_vote,
)

Candidates = Callable[[Any], Sequence[str]]
"""Function from an instance to its candidates, in the order of the prompt."""
AnswerMetrics = Mapping[str, Callable[[str, Sequence[str]], float]]
"""Scores of an answer against all accepted answers, 0 to 1, by name."""


def candidate_stages(
    noun: str,
    *,
    retrievers: Sequence[Model],
    retrieval_tokens: tuple[float, float],
    answerers: Sequence[Model],
    answer_tokens: tuple[float, float],
    fusion: bool,
) -> list[Stage]:
    """Return the task's stages ``retrieval`` and ``answer``.

    Args:
        noun: Plural noun for the candidates, used in descriptions.
        retrievers: Models of the retrieval stage.
        retrieval_tokens: Lengths of its prompt and of a sample, in tokens.
        answerers: Models of the answering stage.
        answer_tokens: Lengths of its prompt and of a sample, in tokens.
        fusion: Whether answers are fused by the model rather than voted on.
    """
    return [
        Stage(
            "retrieval",
            models=retrievers,
            prompt_tokens=retrieval_tokens[0],
            generation_tokens=retrieval_tokens[1],
            description=f"Choose {noun}; samples vote on each.",
        ),
        Stage(
            "answer",
            models=answerers,
            prompt_tokens=answer_tokens[0],
            generation_tokens=answer_tokens[1],
            description=f"Answer from the chosen {noun}; samples are "
            + ("fused by the model." if fusion else "voted on."),
        ),
    ]


def candidate_pipeline(
    candidates: Candidates,
    *,
    selection_prompt: Callable[[State], Prompt],
    answer_prompt: Callable[[State], Prompt],
    metrics: AnswerMetrics = METRICS,
    metric: str,
    fusion: bool,
    threshold: float,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> Pipeline:
    """Create a pipeline of the stages ``retrieval`` and ``answer``.

    Args:
        candidates: Returns the candidates of an instance.
        selection_prompt: Writes the prompt of the first stage; see `format_candidates`.
        answer_prompt: Writes the prompt of the second stage; see `selected_candidates`.
        metrics: The metrics of answers; all are reported.
        metric: The one that is the score.
        fusion: Whether answers are fused by the model rather than voted on.
        threshold: Fraction of the samples that must select a candidate, in (0, 1].
        max_tokens: Maximum length of replies; see `with_sampling`.
        temperature: Sampling temperatures; see `with_sampling`.

    Raises:
        DataError: The metric is unknown.
        ValueError: The threshold is out of range.
    """
    if metric not in metrics:
        raise DataError(f"`metric` must be one of {', '.join(metrics)}; got {metric!r}.")
    scores = {name: partial(_answer_score, measure) for name, measure in metrics.items()}
    return Pipeline(
        # Temperatures and maximum lengths are chosen by hand, with room for some reasoning.
        stages=with_sampling(
            [
                StageProgram(
                    name="retrieval",
                    prompt=selection_prompt,
                    parse=partial(_parse_selection, candidates),
                    aggregate=selection_vote(threshold),
                    max_tokens=512,
                    temperature=0.9,
                    check=StageCheck("every relevant candidate is chosen", _has_relevant),
                ),
                StageProgram(
                    name="answer",
                    prompt=answer_prompt,
                    parse=parse_answer,
                    aggregate=answer_aggregation(fusion),
                    max_tokens=512,
                    temperature=0.7,
                ),
            ],
            max_tokens,
            temperature,
        ),
        score=scores[metric],
        metrics={
            **scores,
            "retrieval F1": _retrieval_f1,
            "ids out of range": partial(_count, "out_of_range"),
            "ids repeated": partial(_count, "repeated"),
            "replies read in part": partial(_count, "partial"),
        },
    )


def selected_candidates(state: State, candidates: Sequence[str]) -> list[str]:
    """Return the candidates that the first stage selected."""
    return [candidates[number - 1] for number in _selection(state).ids]


def _selection(state: State) -> Selection:
    return state["retrieval"] or Selection(())


def _parse_selection(candidates: Candidates, text: str, state: State) -> Selection | None:
    return parse_selection(text, len(candidates(state.instance)))


def _answer_score(measure: Callable[[str, Sequence[str]], float], state: State) -> float:
    """Return a score of the final answer; 0 if there is none.

    Raises:
        DataError: The instance has no accepted answers, as one made for a prediction.
    """
    instance, answer = state.instance, state["answer"]
    if not instance.answers:
        raise DataError(f"Instance {instance.id!r} has no `answers` to score against: add them.")
    return 0.0 if answer is None else measure(answer, instance.answers)


def _retrieval_f1(state: State) -> float:
    return set_f1(_selection(state).ids, state.instance.gold)


def _has_relevant(state: State) -> float | None:
    """Return 1 if all relevant candidates are selected, else 0; None if none is known.

    Not their share: a question that needs two facts cannot be answered from one.
    """
    gold = set(state.instance.gold)
    return float(gold <= set(_selection(state).ids)) if gold else None


def _count(field: str, state: State) -> float:
    """Return a count of the selection."""
    return float(getattr(_selection(state), field))
