"""Tables of computed evidence in the prompt: noise, effects, models, gains, next allocations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from optuna_agenttts.agent.facts import Forecast, ModelFact
from optuna_agenttts.agent.prompts.data import amount, block, quote, table
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.planner.evidence import Bools, Ints
from optuna_agenttts.task.stage import Stage

_ROUND = 6
"""Trials whose resolution is stated where it is not known how many are left: those of a round."""
_RANGES = ((1, 1), (2, 4), (5, 16), (17, 64), (65, None))
"""Ranges of samples whose mean scores are shown, by ratio. Chosen by hand."""
_FEW = 4
"""Rows of a table that has to be short; chosen by hand."""
_FRONT = 8
"""Points of a front that has to be short, its ends among them; chosen by hand."""


def noise_block(data: PromptData) -> str:
    """Return what the next trials can tell, in the units of the scores."""
    noise, figures = data.facts.noise, data.figures
    if noise is None or not data.shows("noise"):
        return ""
    left = data.left if data.left is not None and data.left > 1 else None
    trials = "the trials that are left" if left else f"{_ROUND} more trials"
    over = f", the mean over {noise.instances} instances," if noise.instances else ""
    lines = [f"A trial's value{over} has a standard error of {figures.value(noise.trial)}."]
    if noise.similar > 0:
        lines.append(
            "All trials run on the same instances, and similar allocations are lucky together: "
            f"the difference of two has an error of {figures.value(noise.difference)}, that of "
            f"similar ones {figures.value(noise.similar_difference)}."
        )
    one, every = (figures.value(noise.resolution(n)) for n in (2, left or _ROUND))
    alike = ""
    if noise.similar > 0:
        least = figures.value(noise.resolution(2, similar=True))
        alike = f" (similar ones closer than {least})"
    lines.append(
        f"Two allocations closer than {one}{alike} cannot be told apart by a trial of each, two "
        f"models closer than {every} not even by {trials}."
    )
    return block("noise", lines)


def effects_block(data: PromptData) -> str:
    """Return mean values and counts by model and, with Insight 2, by range of its samples."""
    evidence = data.evidence
    rows = evidence.block_of_rows() == 0
    if not rows.any() or not data.shows("effects"):
        return ""

    def mean(chosen: Bools) -> str:
        values = evidence.sign * evidence.scores[rows & chosen]
        return f"{data.figures.value(float(values.mean()))} ({len(values)})"

    def ranges(stage: Stage, samples: Ints, chosen: Bools) -> Iterator[str]:
        for low, high in _RANGES:
            last = high or stage.max_samples
            within = chosen & (samples >= low) & (samples <= last)
            if (rows & within).any():
                yield (
                    f"{low}: {mean(within)}" if low == high else f"{low} to {last}: {mean(within)}"
                )

    lines = []
    for index, stage in enumerate(data.task.stages):
        models, samples = evidence.models[:, index], evidence.samples[:, index]
        cells = [
            f"{data.model(index, model)} {mean(models == model)}"
            for model in np.unique(models[rows]).tolist()
        ]
        parts = [", ".join(cells)] * (len(stage.models) > 1)
        if 2 in data.insights and stage.max_samples > 1:
            # Means over all models mix them up: by model, where one has several ranges.
            by_model = {
                data.model(index, model): list(ranges(stage, samples, models == model))
                for model in np.unique(models[rows]).tolist()
            }
            several = {name: cells for name, cells in by_model.items() if len(cells) > 1}
            parts += [f"samples of {name} {', '.join(cells)}" for name, cells in several.items()]
            if not several:
                parts.append("samples " + ", ".join(ranges(stage, samples, rows)))
        if parts:
            lines.append(f"{quote(stage.name)} | " + " | ".join(parts))
    note = "Plain means of the values (number of trials), whatever the other stages had:"
    return block("effects", [note, *lines] if lines else [])


def models_block(data: PromptData) -> str:
    """Return the tables of the distance of each model and effort to the best."""
    return block("models", [*_models(data), *_efforts(data)] if data.shows("models") else [])


def _at_best_efforts(data: PromptData) -> list[ModelFact]:
    """Return the facts about models, each at its best thinking effort."""
    worse = {
        (fact.stage, model)
        for fact in data.facts.efforts
        for model, behind in zip(fact.models, fact.behind)
        if behind > 0
    }
    return [fact for fact in data.facts.models if (fact.stage, fact.model) not in worse]


def _models(data: PromptData) -> list[str]:
    """Return the table of models."""
    rows = [
        (
            quote(data.task.stages[fact.stage].name),
            data.model(fact.stage, fact.model),
            str(fact.trials),
            data.figures.value(fact.expected),
            data.figures.plus_minus(fact.behind, fact.behind_sd)
            if fact.behind > 0
            else "the best",
            data.line(fact.companion),
        )
        for fact in _at_best_efforts(data)
    ]
    head = ("stage", "model", "trials", "expected at its best", "behind the best", "its best")
    note = "What a statistical fit to all trials expects (± is one standard deviation):"
    violating = [
        f"{quote(data.task.stages[stage].name)} {data.model(stage, model)}"
        for stage, model in sorted(data.facts.violating)
    ]
    rest = f"Not listed, since they probably always violate a constraint: {', '.join(violating)}"
    return [note, *table(head, rows), *[rest] * bool(violating)] if rows else []


def _efforts(data: PromptData) -> list[str]:
    """Return the table of the distance of each thinking effort to the model's best."""
    rows = []
    for fact in data.facts.efforts:
        stage, cells = data.task.stages[fact.stage], []
        for model, expected, behind, sd in zip(
            fact.models, fact.expected, fact.behind, fact.behind_sd
        ):
            thinking = stage.models[model].thinking
            effort = "" if thinking is None else thinking.brief_label
            distance = f"{data.figures.plus_minus(behind, sd)} behind" if behind > 0 else "best"
            cells.append(f"{effort} {data.figures.value(expected)} ({distance})")
        rows.append((quote(stage.name), quote(fact.name), ", ".join(cells)))
    note = (
        "The same fit by thinking effort, each effort with what is best beside it within the "
        "budget; models above are at their best effort:"
    )
    head = ("stage", "model", "expected by effort (behind the model's best effort)")
    return [note, *table(head, rows)] if rows else []


def gains_block(data: PromptData) -> str:
    """Return the change of the value from one sample to more, for each model."""
    rows = []
    for fact in _at_best_efforts(data) if data.shows("gains") else ():
        cells = [
            f"{number}: {data.figures.plus_minus(gain, sd)}" for number, gain, sd in fact.gains
        ]
        if cells:
            stage = quote(data.task.stages[fact.stage].name)
            rows.append((stage, data.model(fact.stage, fact.model), ", ".join(cells)))
    note = (
        "What the fit expects of more samples than one beside the best rest, up to the most that "
        "fit (± is one standard deviation):"
    )
    head = ("stage", "model", "samples: gain")
    return block("gains", [note, *table(head, rows)] if rows else [])


def next_block(data: PromptData) -> tuple[str, ...]:
    """Return what the fit would try next, with all allocations or a few."""
    facts, shown = data.facts, data.shows("next")
    leaders = sorted(facts.leaders, key=lambda leader: -data.evidence.sign * leader.mean)
    rows, corners = (
        [_forecast_row(data, each) for each in (found if shown else ())]
        for found in (leaders, facts.corners)
    )
    note = (
        "What the fit would try next without you, to learn or to win, by expected value (± is one "
        "standard deviation):"
    )
    head = _forecast_head(data)
    more = "Untried so far, the rest of the budget on one stage:"
    versions = [
        [
            *([note, *table(head, rows[:n])] if rows else ()),
            *([more, *table(head, corners)] if corners else ()),
        ]
        for n in (len(rows), _FEW)
    ]
    return (*(block("next", lines) for lines in versions if lines), "")


def front_block(data: PromptData) -> tuple[str, ...]:
    """Return the front of searches for one or for a cheap good score, with all points or a few."""
    rows = [_forecast_row(data, point) for point in data.facts.front]
    places = np.linspace(0, max(0, len(rows) - 1), _FRONT).astype(int).tolist()
    few = [rows[place] for place in places] if rows else []
    note = (
        "The front: of the tried allocations, those of the best expected value at every cost, "
        "cheapest first (± is one standard deviation):"
    )
    shown = (rows, few) if len(rows) > _FRONT else (rows,) if rows else ()
    return (*(block("front", [note, *table(_forecast_head(data), each)]) for each in shown), "")


def _forecast_head(data: PromptData) -> tuple[str, ...]:
    """Return the head of a table of `_forecast_row`."""
    return ("allocation", "expected value", "cost", *["measured cost"] * data.measures_cost)


def _forecast_row(data: PromptData, forecast: Forecast) -> tuple[str, ...]:
    """Return an allocation with its expected value and its cost."""
    measured = [amount(forecast.measured)] if forecast.measured is not None else []
    return (
        data.line(forecast.choices),
        data.figures.plus_minus(forecast.mean, forecast.sd),
        amount(data.task.feasible.cost(forecast.choices)),
        *measured,
    )
