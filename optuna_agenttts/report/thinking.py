"""Scores by thinking effort, for each stage and model that has several efforts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optuna_agenttts import storage
from optuna_agenttts.report.saturation import (
    SaturationCurve,
    SaturationTrial,
    saturated,
    saturation_of,
)
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.efforts import efforts_by_model
from optuna_agenttts.task.stage import has_efforts


@dataclass(frozen=True, slots=True)
class EffortPoint:
    """Thinking effort in the curve of a stage's model.

    Args:
        choice: Name of the choice, such as "Qwen/Qwen3-8B, low thinking".
        effort: The effort, such as "off", "low" or "1024 tokens".
        tokens: Mean length of a sample, thoughts included, measured or expected.
        samples: Its number of samples: as recommended at the recommended effort, else the best
            number within the budget; 0 if not even one sample is allowed.
        value: Expected value with these samples, or with one if none is allowed, in units of the
            metric.
        interval: Central 90 % interval; see `Recommendation.interval`.
        cost: Cost of the whole allocation for one instance, in units of the task's cost model.
        value_alike: Expected value with as many samples as recommended, over the budget or not.
        cost_alike: Cost of that allocation.
        ended: Share of all replies of the search that ended inside their thoughts; None if trials
            did not report them.
        recommended: Whether the recommended allocation has this choice.
        trials: Complete trials of the search with this choice in this stage.
    """

    choice: str
    effort: str
    tokens: float
    samples: int
    value: float
    interval: tuple[float, float] | None
    cost: float
    value_alike: float
    cost_alike: float
    ended: float | None
    recommended: bool
    trials: tuple[SaturationTrial, ...]


@dataclass(frozen=True, slots=True)
class ThinkingCurve:
    """Expected score of one model of one stage by thinking effort.

    Other stages are as recommended, and each effort has the samples that are best beside it
    within the budget: more thoughts for a sample leave less for further samples.

    Args:
        stage: Name of the stage.
        model: Name of the model, without an effort.
        recommended: Whether the recommended allocation has this model.
        points: The efforts that the study can suggest, from the least to the most, two or more.
        saturates_at: Position of the least effort beyond which more thinking within the budget is
            expected to gain at most the margin. None if no effort fits the budget.
        saturates_between: Central 90 % interval of `saturates_at`; None if that is.
        gain: What more thinking is expected to gain, in units of the metric; 0 or more.
        loss: What the most thinking within the budget is expected to lose, compared with
            `saturates_at`, if it is more than the margin; else 0.
    """

    stage: str
    model: str
    recommended: bool
    points: tuple[EffortPoint, ...]
    saturates_at: int | None
    saturates_between: tuple[int, int] | None
    gain: float
    loss: float

    @property
    def chosen(self) -> EffortPoint:
        """The recommended effort; of other models, the one at which thinking saturates."""
        recommended = (point for point in self.points if point.recommended)
        return next(recommended, self.points[self.saturates_at or 0])

    @property
    def finding(self) -> str:
        """Text on where the curve saturates, without names."""
        within = [i for i, point in enumerate(self.points) if point.samples]
        if self.saturates_at is None or self.saturates_between is None:
            return "no effort fits the budget"
        most = self.points[within[-1]].effort
        if len(within) == 1:
            return f"no other effort than {most} fits the budget"
        low, high = (self.points[i].effort for i in self.saturates_between)
        interval = f"90 % interval {low} to {high}"
        if self.saturates_at == within[-1]:
            return f"still gains at {most}, the most within the budget ({interval})"
        least = self.points[self.saturates_at].effort
        loss = f"; {most} loses {self.loss:.2g}" if self.loss else ""
        if least == "off":
            return f"gains little by thinking up to {most} ({interval}){loss}"
        return f"saturates at {least}, of efforts up to {most} ({interval}){loss}"


@dataclass(frozen=True, slots=True)
class ThinkingCurves:
    """Scores by thinking effort.

    Args:
        curves: The curves, in order of stage and model; none if no model has several efforts.
        margin: Gain that counts as none, in units of the metric.
    """

    curves: tuple[ThinkingCurve, ...]
    margin: float


def thinking_of(view: StudyView) -> ThinkingCurves:
    """Return the scores by thinking effort of all models that have several.

    Raises:
        NoTaskError: The study has other objectives than a score, or a score and then a cost.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    saturation = view.get(saturation_of)
    if not has_efforts(view.task.stages):
        return ThinkingCurves((), saturation.margin)
    ended = view.get(ended_of)
    by_choice = {(curve.stage, curve.model): curve for curve in saturation.curves}
    curves = []
    for position, stage in enumerate(view.task.stages):
        for name, models in efforts_by_model(stage.models).items():
            kept = [m for m in models if (stage.name, stage.models[m].name) in by_choice]
            if len(kept) > 1:
                own = {m: by_choice[stage.name, stage.models[m].name] for m in kept}
                curves.append(_curve(view, position, name, own, saturation.margin, ended))
    return ThinkingCurves(tuple(curves), saturation.margin)


def _curve(
    view: StudyView,
    stage: int,
    name: str,
    by_model: Mapping[int, SaturationCurve],
    margin: float,
    ended: Mapping[tuple[str, str], tuple[int, int]],
) -> ThinkingCurve:
    """Return the curve of a model.

    Args:
        view: The study.
        stage: Position of the stage.
        name: Name of the model.
        by_model: Saturation of samples by position of the choice, from the least effort.
        margin: Gain that counts as none.
        ended: See `ended_of`.
    """
    found, best, settings = view.candidates, view.best, view.task.stages[stage]
    sign = found.evidence.sign
    points = []
    for model, curve in by_model.items():
        samples = best[stage][1] if curve.recommended else _best_samples(curve, sign)
        at = curve.samples.index(samples) if samples else 0
        alike = curve.samples.index(best[stage][1])
        choice = settings.models[model]
        bad, all_replies = ended.get((settings.name, choice.name), (0, 0))
        points.append(
            EffortPoint(
                choice=choice.name,
                effort=choice.thinking.brief_label if choice.thinking is not None else "",
                tokens=settings.sample_tokens(choice),
                samples=samples,
                value=curve.values[at],
                interval=curve.intervals[at],
                cost=curve.costs[at],
                value_alike=curve.values[alike],
                cost_alike=curve.costs[alike],
                ended=bad / all_replies if all_replies else None,
                recommended=curve.recommended,
                trials=curve.trials,
            )
        )
    within = [i for i, point in enumerate(points) if point.samples]
    saturates_at = between = None
    gain = loss = 0.0
    if within:
        choices = np.repeat(np.array([best], dtype=np.int64), len(within), axis=0)
        positions = list(by_model)
        choices[:, stage] = [(positions[i], points[i].samples) for i in within]
        values = np.array([points[i].value for i in within])
        compared = found.points_of(choices[..., 0], choices[..., 1])
        at, (low, high), gain = saturated(found, compared, values, margin)
        saturates_at, between = within[at], (within[low], within[high])
        fall = sign * float(values[at] - values[-1])
        loss = fall if fall > margin else 0.0
    return ThinkingCurve(
        stage=settings.name,
        model=name,
        recommended=any(curve.recommended for curve in by_model.values()),
        points=tuple(points),
        saturates_at=saturates_at,
        saturates_between=between,
        gain=gain,
        loss=loss,
    )


def _best_samples(curve: SaturationCurve, sign: float) -> int:
    """Return the number of samples within the budget with the best value; 0 if there is none."""
    pairs = zip(curve.samples, curve.values)
    within = [(sign * value, n) for n, value in pairs if n <= curve.affordable]
    return max(within, key=lambda pair: pair[0], default=(0.0, 0))[1]


def without_other_efforts(
    curves: Iterable[SaturationCurve], thinking: ThinkingCurves | None
) -> list[SaturationCurve]:
    """Return saturation curves of samples, of each model only that of its chosen effort.

    Args:
        curves: The curves.
        thinking: Scores by thinking effort; None if no model has efforts.
    """
    hidden = {
        (curve.stage, point.choice)
        for curve in (thinking.curves if thinking is not None else ())
        for point in curve.points
        if point is not curve.chosen
    }
    return [curve for curve in curves if (curve.stage, curve.model) not in hidden]


def ended_of(view: StudyView) -> dict[tuple[str, str], tuple[int, int]]:
    """Return how many replies ended inside their thoughts, and how many there were.

    Returns:
        Both numbers over all trials, by stage and choice, as far as trials report them.
    """
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for trial in view.trials:
        reported: Any = storage.read_trial_fact(trial, storage.ENDED)
        choices = view.task.read(trial.params)
        if not isinstance(reported, dict) or choices is None:
            continue
        for stage, (model, _) in zip(view.task.stages, choices):
            pair = reported.get(stage.name)
            if isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair):
                count = counts[stage.name, stage.models[model].name]
                count[0] += pair[0]
                count[1] += pair[1]
    return {key: (ended, replies) for key, (ended, replies) in counts.items()}
