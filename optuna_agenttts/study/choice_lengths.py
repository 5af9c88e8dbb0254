"""Lengths of samples of choices that differ in them, such as the thinking efforts of a model.

A choice that trials have used has the length that they measured. Of the others, thoughts are
expected to be as many times longer or shorter than declared as those of the model's other efforts
are, or else those of the stage's other models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from optuna_agenttts.task.efforts import efforts_by_model
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.values import read_model

_LEAST_RATIO = 1 / 16
"""Least ratio of measured and expected thoughts that other efforts are expected to have: one that
did not think on easy questions says little about higher ones. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Report:
    """Lengths that a trial reports of a stage.

    Args:
        model: Value of the stage's model in the trial.
        prompt: Mean tokens of a prompt.
        sample: Mean tokens of a sample, thoughts included.
        thoughts: Mean tokens of the thoughts of a sample; 0 if unknown.
    """

    model: object
    prompt: float
    sample: float
    thoughts: float = 0.0


def has_own_lengths(stage: Stage) -> bool:
    """Return whether a model of a stage, such as one at an effort, has a length of its own."""
    return any(model.thinking or model.generation_tokens for model in stage.models)


def choice_lengths(stage: Stage, reports: Sequence[Report]) -> tuple[float, dict[str, float]]:
    """Return the lengths of a stage's samples, as measured or expected.

    Args:
        stage: The stage, with declared lengths.
        reports: What trials measured, in any order.

    Returns:
        Mean tokens of an answer, without thoughts, and of a sample by name of the model. Models
        without an effort that no trial has used are left out.
    """
    measured: dict[int, list[float]] = {}
    answers, others = [], []
    for report in reports:
        position = read_model(stage, report.model)
        if position is None or not report.sample > 0:
            continue
        measured.setdefault(position, []).append(report.sample)
        thinking = stage.models[position].thinking
        # Some servers do not count thoughts, and some models without an effort always think.
        if report.thoughts > 0 or (thinking is not None and not thinking.tokens):
            answers.append(max(0.0, report.sample - report.thoughts))
        elif thinking is None:
            others.append(report.sample)
    answer = median(answers or others or [stage.generation_tokens])
    samples = {position: median(found) for position, found in measured.items()}
    ratios = _ratios(stage, {i: max(0.0, length - answer) for i, length in samples.items()})
    for position, ratio in ratios.items():
        thinking = stage.models[position].thinking
        if position not in samples and thinking is not None:
            thoughts = ratio * thinking.tokens
            if isinstance(thinking.effort, int):
                thoughts = min(thoughts, thinking.effort)
            samples[position] = answer + thoughts
    return answer, {stage.models[position].name: length for position, length in samples.items()}


def _ratios(stage: Stage, thoughts: Mapping[int, float]) -> dict[int, float]:
    """Return the expected ratio of real and declared thoughts of each effort.

    Between measured efforts of a model, it is interpolated over the logarithm of the declared
    tokens.

    Args:
        stage: The stage.
        thoughts: Measured tokens of thoughts, by position of the model.
    """
    declared = [0.0 if m.thinking is None else m.thinking.tokens for m in stage.models]
    known = {
        position: np.log(max(tokens / declared[position], _LEAST_RATIO))
        for position, tokens in thoughts.items()
        if declared[position] > 0
    }
    others = float(np.mean(list(known.values()))) if known else 0.0
    ratios = {}
    for positions in efforts_by_model(stage.models).values():
        at = {p: np.log(max(1.0, declared[p])) for p in positions}
        fixed = [p for p in positions if p in known]
        for p in positions:
            logarithm = others
            if fixed:
                logarithm = np.interp(at[p], [at[f] for f in fixed], [known[f] for f in fixed])
            ratios[p] = float(np.exp(logarithm))
    return ratios
