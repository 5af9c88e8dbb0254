"""Recognize a task from parameter names, for studies without a registered task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.task.cost import TableCost
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.sizes import size_in_name
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.values import read_number

Recognise = bool | tuple[str, str] | Mapping[str, tuple[str, str]]
"""Argument `recognise` of the sampler: see `AgentTTSSampler`."""

_MOST_SAMPLES = 1000
"""Upper bound on the samples of a recognized stage. Chosen by hand: larger ranges are taken to be
no numbers of samples."""
_RECENT = 50
"""Trials whose ranges are joined, so that a range that varies between trials does not make another
task. Chosen by hand."""
_NAME = re.compile(r"(?P<stage>.+?)(?P<join>\.|/|__|:)model")
"""``retrieval.model``, ``stages.retrieval.model``, ``retrieval/model``, ``retrieval__model``."""
_FAMILIES = re.compile(
    r"\b(gpt|chatgpt|claude|gemini|gemma|llama|qwen|qwq|mistral|mixtral|ministral|magistral|phi|"
    r"deepseek|command|grok|nova|glm|kimi|yi|falcon|olmo|granite|nemotron|minimax|ernie|hunyuan|"
    r"smollm|jamba|dbrx|o[134])(?![a-z])",
    re.IGNORECASE,
)
"""Families of language models, for names without a size or an organization."""


def check_recognise(recognise: object) -> Recognise:
    """Check the argument `recognise` of a sampler.

    Raises:
        TaskError: It is neither a bool, nor two names, nor a mapping of stages to two names.
    """
    pairs = [recognise] if isinstance(recognise, tuple) else []
    if isinstance(recognise, Mapping):
        pairs = list(recognise.values())
    if isinstance(recognise, bool) or (
        pairs and all(isinstance(p, (tuple, list)) and len(p) == 2 for p in pairs)
    ):
        return recognise  # type: ignore[return-value]
    raise TaskError(
        f"AgentTTSSampler: `recognise` must be True, False, the names of two parameters such as "
        f"('{{stage}}.model', '{{stage}}.samples'), or a dict of such pairs by stage, got "
        f"{recognise!r}."
    )


def recognise_task(trials: Sequence[FrozenTrial], recognise: Recognise = True) -> Task | None:
    """Recognize stages in the completed or pruned trial with the most, of the latest trials.

    If stages are conditional, not all trials have all of them. Of equal ones, the latest counts.

    By default a stage is a categorical parameter ``<stage>.model`` whose choices are names of
    language models, with a parameter ``<stage>.samples`` of whole numbers. Sizes are read from the
    models' names ("Qwen2.5-7B"). Token lengths and a budget are unknown, so the suggested ranges
    are the only bounds, and costs are relative: billions of parameters times samples, or samples
    alone if the size of a model is unknown.

    Args:
        trials: Trials of a study, in order of number.
        recognise: See `AgentTTSSampler`.

    Returns:
        The task, or None if no trial has a stage.
    """
    if recognise is False:
        return None
    recent: list[FrozenTrial] = []
    stages: list[Stage] = []
    seen: set[str] = set()
    for trial in reversed(trials):
        # A running or failed trial may not have suggested all of its stages.
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        recent.append(trial)
        names = trial.distributions.keys()
        # Trials without other parameters have no other stages.
        if not stages or not names <= seen:
            found = _stages([trial], recognise)
            stages, seen = (found, {*names}) if len(found) > len(stages) else (stages, seen)
        if len(recent) == _RECENT:
            break
    if not stages:
        return None
    needed = {name for s in stages for name in (s.model_parameter, s.samples_parameter)}
    alike = [trial for trial in recent if needed <= trial.distributions.keys()]
    return _task(_stages(alike, recognise))


def why_unrecognised(trial: FrozenTrial, recognise: Recognise) -> tuple[str, bool]:
    """Return why no stage is recognized in a trial's parameters.

    Returns:
        The reason, empty if a stage is recognized; and whether stages are evidently meant.
    """
    if _stages([trial], recognise):
        return "", False
    names = trial.distributions
    if recognise is not True:
        return (
            f"none has the names that `recognise={recognise!r}` gives, with fitting values",
            True,
        )
    models = [
        name
        for name, distribution in names.items()
        if isinstance(distribution, CategoricalDistribution)
        and any(map(_is_language_model, distribution.choices))
    ]
    if not models:
        return "none has language models as choices", False
    named = [match for match in map(_NAME.fullmatch, models) if match]
    if not named:
        return f"{models[0]!r} has language models as choices, but another name", True
    samples = f"{named[0]['stage']}{named[0]['join']}samples"
    what = "whole numbers from 1 on" if samples in names else "a parameter"
    return f"{samples!r}, which belongs to {named[0].string!r}, is not {what}", True


def _stages(trials: Sequence[FrozenTrial], recognise: Recognise) -> list[Stage]:
    """Return the stages of the first trial, with the most samples that any of them allows."""
    distributions = trials[0].distributions
    stages = []
    for name, model, samples in _pairs(distributions, recognise):
        models = distributions[model]
        most = [_most_samples(t.distributions[samples]) for t in trials if samples in t.params]
        if (
            not isinstance(models, CategoricalDistribution)
            or not all(isinstance(choice, str) and choice for choice in models.choices)
            or (recognise is True and not any(map(_is_language_model, models.choices)))
            or max(most, default=0) < 1
        ):
            continue
        names = [str(choice) for choice in models.choices]
        stages.append(
            Stage(
                name,
                models=[Model(choice, parameters=size_in_name(choice)) for choice in names],
                # Unknown, and unused: costs come from a table.
                prompt_tokens=1,
                generation_tokens=1,
                max_samples=min(max(most), _MOST_SAMPLES),
                model_parameter=model,
                samples_parameter=samples,
            )
        )
    return stages


def _pairs(
    distributions: Mapping[str, BaseDistribution], recognise: Recognise
) -> list[tuple[str, str, str]]:
    """List (stage, parameter of its model, parameter of its samples) that a trial has."""
    if isinstance(recognise, Mapping):
        found = [(stage, model, samples) for stage, (model, samples) in recognise.items()]
    elif isinstance(recognise, tuple):
        model, samples = recognise
        pattern = re.escape(model).replace(r"\{stage\}", "(?P<stage>.+)")
        matches = [m for m in (re.fullmatch(pattern, name) for name in distributions) if m]
        stages = [m.groupdict().get("stage", "pipeline") for m in matches]
        found = [
            (stage, m.string, samples.replace("{stage}", stage))
            for stage, m in zip(stages, matches)
        ]
    else:
        matches = [m for m in map(_NAME.fullmatch, distributions) if m]
        found = [(m["stage"], m.string, f"{m['stage']}{m['join']}samples") for m in matches]
    found = [f for f in found if f[1] in distributions and f[2] in distributions]
    # The shortest names that distinguish the stages: "retrieval" for "stages.retrieval".
    last = [re.split(r"\.|/|__|:", stage)[-1] for stage, _, _ in found]
    unique = len(set(last)) == len(last)
    return [
        (short if unique else stage.replace(".", "/"), model, samples)
        for short, (stage, model, samples) in zip(last, found)
    ]


def _most_samples(distribution: BaseDistribution) -> int:
    """Return the largest number of samples that a distribution contains; 0 if it has none."""
    if isinstance(distribution, IntDistribution):
        return distribution.high
    if isinstance(distribution, FloatDistribution) and distribution.step == int(
        distribution.step or 0
    ):
        return int(distribution.high)
    if isinstance(distribution, CategoricalDistribution):
        numbers = [read_number(choice) for choice in distribution.choices]
        return 0 if None in numbers else max(number or 0 for number in numbers)
    return 0


def _is_language_model(name: object) -> bool:
    """Return whether a name contains a size, an organization of the Hub, or a known family."""
    return isinstance(name, str) and (
        size_in_name(name) is not None or "/" in name or _FAMILIES.search(name) is not None
    )


def _task(stages: Sequence[Stage]) -> Task:
    known = all(model.parameters for stage in stages for model in stage.models)
    table = {
        stage.name: {
            model.name: tuple(
                (
                    (model.parameters / 1e9 if model.parameters and known else 1.0)
                    * np.arange(1, stage.max_samples + 1)
                ).tolist()
            )
            for model in stage.models
        }
        for stage in stages
    }
    most = sum(max(row[-1] for row in rows.values()) for rows in table.values())
    return Task(
        name="recognised from parameter names",
        stages=stages,
        budget=most,
        cost=TableCost(
            table=table,
            unit_name="billion parameters x samples (relative)" if known else "samples (relative)",
        ),
    )
