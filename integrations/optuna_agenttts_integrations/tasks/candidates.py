"""Two stages that families share: choose among numbered candidates, then answer from those chosen.

Instances have a `question`, `gold` (numbers of the candidates that help, from 1) and `answers`
(all accepted ones).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.stages import (
    Pipeline,
    Prompt,
    Score,
    StageProgram,
    State,
)
from optuna_agenttts_integrations.scoring.metrics import set_f1
from optuna_agenttts_integrations.tasks.answering import METRICS, join_answers, parse_answer
from optuna_agenttts_integrations.tasks.selection import (
    Selection,
    parse_selection,
    selection_vote,
)

Candidates = Callable[[Any], Sequence[str]]
"""From an instance to its candidates, in the order in which they are shown."""


def candidate_pipeline(
    candidates: Candidates,
    *,
    ask_candidates: Callable[[State], Prompt],
    ask_answer: Callable[[State], Prompt],
    metric: str,
    fusion: bool,
    threshold: float,
) -> Pipeline:
    """A pipeline of the stages ``retrieval`` and ``answer``.

    Args:
        candidates: What there is to choose from.
        ask_candidates: The prompt to choose; see `numbered`.
        ask_answer: The prompt to answer; see `chosen`.
        metric: The score, one of `METRICS`; the others are reported beside it.
        fusion: Whether answers are fused by the model, or voted on.
        threshold: Share of samples that must choose a candidate.

    Raises:
        DataError: There is no such metric.
        ValueError: The threshold is out of range.
    """
    if metric not in METRICS:
        raise DataError(f"`metric` is {metric!r}: there are {', '.join(METRICS)}.")
    scores = {name: _answer_score(name) for name in METRICS}
    return Pipeline(
        stages=[
            StageProgram(
                name="retrieval",
                prompt=ask_candidates,
                parse=lambda text, state: parse_selection(text, len(candidates(state.instance))),
                aggregate=selection_vote(threshold),
                max_tokens=512,
                temperature=0.9,
            ),
            StageProgram(
                name="answer",
                prompt=ask_answer,
                parse=parse_answer,
                aggregate=join_answers(fusion),
                max_tokens=512,
                temperature=0.7,
            ),
        ],
        score=scores[metric],
        metrics={
            **scores,
            "retrieval F1": lambda state: set_f1(_selection(state).ids, state.instance.gold),
            "ids out of range": lambda state: float(_selection(state).out_of_range),
            "ids repeated": lambda state: float(_selection(state).repeated),
        },
    )


def chosen(state: State, candidates: Sequence[str]) -> list[str]:
    """The candidates that the first stage chose."""
    return [candidates[number - 1] for number in _selection(state).ids]


def _selection(state: State) -> Selection:
    return state["retrieval"] or Selection(())


def _answer_score(metric: str) -> Score:
    """The score of the answer that the pipeline ends with; 0 where there is none."""
    compare = METRICS[metric]

    def score(state: State) -> float:
        answer = state["answer"]
        return 0.0 if answer is None else compare(answer, state.instance.answers)

    return score
