"""Sections of a summary: the questions of people who have not seen a study, and their answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from optuna_agenttts.report.document import (
    Block,
    Bullets,
    Interval,
    Line,
    Paragraph,
    Part,
    Section,
    Strong,
    Table,
    with_code,
)
from optuna_agenttts.report.expenditure import Expenditure
from optuna_agenttts.report.importances import Importance
from optuna_agenttts.report.outcomes import InstanceOutcomes, OutcomeTable
from optuna_agenttts.report.points import Frontier, measured_cost
from optuna_agenttts.report.recommendation import Recommendation
from optuna_agenttts.report.saturation import Saturation, SaturationCurve
from optuna_agenttts.report.text import (
    count_text,
    direction_text,
    interval_text,
    metric_of,
    models_of,
    score_text,
    share_text,
    spend_text,
)
from optuna_agenttts.report.thinking import (
    EffortPoint,
    ThinkingCurve,
    ThinkingCurves,
    without_other_efforts,
)
from optuna_agenttts.study.spending import Spend
from optuna_agenttts.support.plain import amount_text, one_line, shortened
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.stage import has_efforts
from optuna_agenttts.task.task import Task

LISTED = 10
"""Rows of a table. Chosen by hand, so that a summary is read within a minute."""
_NAME = 60
"""Characters of a name. Chosen by hand, so that a table is as wide as a page."""
_TEXT, _PROSE = 300, 3000
"""Characters of a description, and of sentences and guidelines. Chosen by hand."""
_FEW = 5
"""Allocations as good for less, and instances that tell allocations apart. Chosen by hand."""


def _name(text: str, length: int = _NAME) -> str:
    return shortened(one_line(text, _PROSE), length)


def _settings(allocation: Allocation) -> list[str]:
    return [f"{chosen.samples} x {_name(chosen.model)}" for chosen in allocation.values()]


def first_rows(
    head: Sequence[str], rows: Sequence[tuple[Line, ...]], most: int = LISTED, together: int = 0
) -> list[Block]:
    """Return a table of the first rows, and how many there are more."""
    blocks: list[Block] = [Table(tuple(head), tuple(rows[:most]), together)] if rows else []
    if len(rows) > most:
        text = f"And {len(rows) - most} more: `summarize(study)` has all of them."
        blocks.append(Paragraph(with_code(text)))
    return blocks


def tuned_section(task: Task, maximize: bool | None, trials: str, pruned: str) -> Section:
    """Return what was tuned, under which budget, and by how many trials."""
    effort = ", at which thinking effort" if has_efforts(task.stages) else ""
    question: list[Part] = [f"Which model{effort}, and how many samples of it, should "]
    for left, stage in zip(range(len(task.stages), 0, -1), task.stages):
        question += [Strong(_name(stage.name)), {1: " ", 2: " and "}.get(left, ", ")]
    question += ["of the task ", Strong(_name(task.name)), " get?"]
    count = task.count_allocations()
    number = f"{count:,}" if isinstance(count, int) else f"about {count:.2g}"
    budget = Strong(spend_text(task.budget, task.cost_model.unit))
    items: list[Line] = [
        ("Metric: ", Strong(metric_of(task)), f" ({direction_text(maximize)})"),
        ("Budget: ", budget, f" per instance, for {number} allocation{'s' * (count != 1)}"),
        f"Trials: {trials}",
    ]
    if pruned:
        items.append(f"Pruned, with the mean of what each saw: {one_line(pruned, _TEXT)}")
    rows = []
    for stage in task.stages:
        length = _NAME * (1 + has_efforts([stage]))
        models = ", ".join(_name(each, length) for each in models_of(stage))
        models = shortened(models, 4 * length)
        rows.append((_name(stage.name), models, f"1 to {stage.max_samples}"))
    blocks: list[Block] = [Paragraph(tuple(question))]
    blocks += [Paragraph(one_line(task.description, _TEXT))] * bool(task.description)
    blocks += [Table(("stage", "models", "samples"), tuple(rows)), Bullets(tuple(items))]
    return Section("What was tuned", tuple(blocks))


def use_section(
    task: Task, found: Recommendation | None, without: str, luckiest: tuple[int, float] | None
) -> Section:
    """Return the recommended allocation, its score and its cost."""
    if found is None:
        return Section("Nothing to recommend", (Paragraph(with_code(without)),))
    rows = [
        (_name(stage), Strong(_name(chosen.model)), Strong(str(chosen.samples)))
        for stage, chosen in found.allocation.items()
    ]
    value = Strong(score_text(found.value, found.margin))
    text: list[Part] = [f"Expected {metric_of(task)}: ", value]
    if found.interval is not None:
        ends = Strong(interval_text(found.interval, found.margin))
        text += [" (90 % interval ", ends, ", on instances like those of the search)"]
    cost, share = spend_text(found.cost, found.unit), share_text(found.cost / (task.budget or 1))
    measured = measured_cost(found.frontier, found.cost, found.unit)
    own: list[Part] = [Strong(measured), " per instance; the task's cost is "] if measured else []
    text += [". Cost: ", *own, Strong(cost), f" per instance, {share} of the budget."]
    text += [f" {saving}" for saving in found.savings if found.frontier is None]
    table = Table(("stage", "model", "samples"), tuple(rows))
    blocks: list[Block] = [table, Paragraph(tuple(text))]
    if found.interval is None:
        unknown = "How sure that is, is not known: `report_outcomes(trial, outcomes)` in the "
        blocks.append(Paragraph(with_code(f"{unknown}objective gives an interval.")))
    if luckiest is not None:
        number, score = luckiest
        best, expected = score_text(score, found.margin), score_text(found.value, found.margin)
        if best != expected and (score > found.value) == found.maximize:
            luck = f"The best score, {best} of trial {number}, is partly luck: the expected score "
            blocks.append(Paragraph(f"{luck}weighs it with those of similar allocations."))
    return Section("What to use", tuple(blocks))


def frontier_section(task: Task, found: Frontier, remarks: Sequence[str]) -> Section:
    """Return the allocations to use for budgets, in studies of two objectives."""
    rows = [
        (
            amount_text(point.cost),
            score_text(point.value, found.margin),
            interval_text(point.interval, found.margin),
            "yes" if point.tried else "no",
            *_settings(point.allocation),
        )
        for point in found.shown
    ]
    stages = [_name(stage.name) for stage in task.stages]
    head = ("from a cost of", metric_of(task), "90 % interval", "tried", *stages)
    about = f"The best expected {metric_of(task)} at every cost ({_cost_of(found.unit)}):"
    blocks = [Paragraph(about), *first_rows(head, rows, len(rows), together=len(stages))]
    if remarks:
        blocks.append(Bullets(tuple(remarks)))
    return Section("What to use for a budget", tuple(blocks))


def _cost_of(unit: str) -> str:
    return f"in {_name(unit) or 'units of the cost'} per instance"


def less_section(task: Task, found: Recommendation) -> Section:
    """Return the cheaper allocations that are as good, or may be."""
    margin = score_text(found.margin, found.margin)
    costs = f"(costs {_cost_of(found.unit)})"
    if found.ties and found.undecided:
        text = f"Those that lose less than {margin} are as good, the others may be {costs}:"
    elif found.ties:
        text = f"Shown to lose less than {margin}, cheapest first {costs}:"
    elif found.undecided:
        text = f"No cheaper allocation is shown to lose less than {margin} yet. These may {costs}:"
    elif found.interval is None:
        text = "Not known: this takes outcomes of single instances."
    else:
        text = f"No tried cheaper allocation can lose less than {margin}."
    rows = [
        (
            loss,
            score_text(other.value, found.margin),
            amount_text(other.cost),
            share_text(other.cost / found.cost) if found.cost else "-",
            *_settings(other.allocation),
        )
        for _, other, loss in found.cheaper(_FEW)
    ]
    head = ("loss", metric_of(task), "cost", "of recommended", *map(_name, found.allocation))
    blocks = [Paragraph(text), *first_rows(head, rows, together=len(found.allocation))]
    if remarks := [*_less_thinking(task, found), *found.remarks(_FEW)]:
        blocks.append(Bullets(tuple(remarks)))
    return Section("As good for less", tuple(blocks))


def _less_thinking(task: Task, found: Recommendation) -> list[str]:
    """Return the first tie that thinks less than recommended in some stages, as a sentence."""
    models = [{model.name: model.thinking for model in stage.models} for stage in task.stages]
    for tie in found.ties:
        pairs = zip(task.stages, models, found.allocation.values(), tie.allocation.values())
        less = [
            f"{_name(stage.name)} at {theirs.brief_label} in place of {ours.brief_label}"
            for stage, known, (own, _), (other, _) in pairs
            if (ours := known[own]) is not None and (theirs := known[other]) is not None
            if theirs.model == ours.model and theirs.tokens < ours.tokens
        ]
        if less:
            loss = score_text(max(tie.loss, 0), found.margin)
            return [f"Less thinking is as good: {', '.join(less)} loses < {loss}."]
    return []


def matters_section(task: Task, importances: Sequence[Importance]) -> Section:
    """Return which settings matter, the most important one first."""
    rows = []
    for each in sorted(importances, key=lambda each: -each.share):
        ends = " to ".join(map(share_text, each.interval))
        drawn = Interval(ends, each.share, each.interval, (0.0, 1.0))
        setting = f"{each.setting} of {_name(each.stage)}"
        rows.append((setting, Strong(share_text(each.share)), drawn, f"{each.loss:.2g}"))
    head = ("setting", "share", "90 % interval", "loss if chosen at random")
    about = (
        f"Shares of the variation of expected {metric_of(task)} among all allocations within the "
        "budget, by the posterior."
    )
    if any(each.share >= 0.01 and not each.loss for each in importances):
        about += (
            " A loss of 0 means that nothing else fits into the budget beside the rest of the "
            "recommended allocation, or that what fits is expected to be no worse."
        )
    return Section("What matters", (*first_rows(head, rows), Paragraph(about)))


def samples_section(
    task: Task,
    saturation: Saturation,
    marked: float | None,
    thinking: ThinkingCurves | None = None,
) -> Section:
    """Return the models of each stage, their expected scores, and where samples saturate.

    Args:
        task: The task.
        saturation: Saturation of samples.
        marked: Value that is marked in drawings.
        thinking: Saturation of thinking: each model has one row then, of its chosen effort.
    """
    margin, order = saturation.margin, [stage.name for stage in task.stages]

    def row(curve: SaturationCurve) -> tuple[Line, ...]:
        name, value, ends = _name(curve.model), math.nan, None
        if curve.saturates_at is not None:
            place = curve.samples.index(curve.saturates_at)
            value, ends = curve.values[place], curve.intervals[place]
        return (
            _name(curve.stage),
            (Strong(name), " (recommended)") if curve.recommended else name,
            "-" if math.isnan(value) else score_text(value, margin),
            Interval(interval_text(ends, margin), value, ends, marked=marked),
            curve.brief_finding,
            str(curve.affordable),
            str(len(curve.trials)),
        )

    shown = without_other_efforts(saturation.curves, thinking)
    curves = sorted(shown, key=lambda c: (order.index(c.stage), not c.recommended))
    head = ["stage", "model", f"expected {metric_of(task)}", "90 % interval", "saturates at"]
    head += ["most allowed", "trials"]
    about = (
        "Expected with as many samples as the model saturates at (90 % interval), the other "
        "stages being as recommended. Further ones, up to the most allowed, are expected to gain "
        f"at most {margin:.2g}; a model that still gains there has not saturated yet."
    )
    table = first_rows(head, list(map(row, curves)), LISTED * len(order))
    return Section("Which model, and how many samples", (*table, Paragraph(about)))


def thinking_section(task: Task, thinking: ThinkingCurves, marked: float | None) -> Section:
    """Return the expected score of each thinking effort, and where thinking saturates."""
    margin, order = thinking.margin, [stage.name for stage in task.stages]
    # Those of the recommended models are among the first ones, in all stages.
    first = sorted(thinking.curves, key=lambda c: not c.recommended)[:LISTED]
    curves = sorted(first, key=lambda c: (order.index(c.stage), not c.recommended))
    ended = any(point.ended is not None for curve in curves for point in curve.points)
    about = (
        "Expected with as many samples as are best beside each effort within the budget, the "
        "other stages being as recommended. An effort without a score does not fit with one "
        f"sample. A gain of at most {margin:.2g} counts as none."
    )
    if ended:
        about += " Replies that ended in thoughts have no answer; - is an effort without replies."
    blocks: list[Block] = [Paragraph(about)]
    ends = [end for c in curves for p in c.points if p.samples for end in p.interval or ()]
    scale = (min(ends), max(ends)) if ends else None

    def drawn(point: EffortPoint) -> Interval:
        value, ends = (point.value, point.interval) if point.samples else (math.nan, None)
        return Interval(interval_text(ends, margin), value, ends, scale, marked)

    for curve in curves:
        recommended = f" (recommended at {curve.chosen.effort})" * curve.recommended
        name = Strong(f"{_name(curve.stage)}, {_name(curve.model)}")
        blocks.append(Paragraph((name, f"{recommended}: {curve.finding}.")))
        blocks.append(_efforts_table(task, curve, margin, drawn, ended=ended))
    if (more := len(thinking.curves) - LISTED) > 0:
        text = (
            f"And {count_text(more, 'model')} more: `summarize(study).thinking` has all of them."
        )
        blocks.append(Paragraph(with_code(text)))
    return Section("How much thinking", tuple(blocks))


def _efforts_table(
    task: Task,
    curve: ThinkingCurve,
    margin: float,
    drawn: Callable[[EffortPoint], Interval],
    *,
    ended: bool,
) -> Table:
    """Return the table of a model's efforts, with the share of replies without an answer."""

    def row(point: EffortPoint) -> tuple[Line, ...]:
        share = "-" if point.ended is None else share_text(point.ended)
        return (
            Strong(point.effort) if point.recommended else point.effort,
            str(point.samples or "-"),
            score_text(point.value, margin) if point.samples else "-",
            drawn(point),
            amount_text(point.cost),
            str(len(point.trials)),
            *([share] if ended else []),
        )

    head = ["effort", "samples", f"expected {metric_of(task)}", "90 % interval", "cost", "trials"]
    head += ["ended in thoughts"] * ended
    return Table(tuple(head), tuple(map(row, curve.points)))


def instances_section(
    task: Task, outcomes: OutcomeTable, margin: float, *, every: bool = False
) -> Section:
    """Return the instances that fail most often, and those that tell allocations apart.

    Args:
        task: The task.
        outcomes: Outcomes of the instances; at least one.
        margin: Difference of scores to show.
        every: Whether to list all instances. Default: the first ones that fail.
    """

    def mean(each: InstanceOutcomes) -> str:
        return score_text(each.mean, margin)

    found, best = outcomes.instances, outcomes.best
    failing = found if every else outcomes.failing
    if not failing:
        text = f"None: all {len(found)} have {score_text(best, margin)} in all trials."
        return Section("Which instances fail", (Paragraph(text),))
    rows = [
        (_name(each.name), mean(each), f"{each.decides:.2f}", str(each.trials))
        for each in failing[: None if every else LISTED]
    ]
    head = ("instance", f"mean {metric_of(task)}", "agrees with other instances", "trials")
    about = f"The worst {len(rows)} of {len(found)}"
    if len(rows) == len(failing) < len(found):
        about += f"; the others have {score_text(best, margin)} in all trials"
    about += ". The correlation of an instance with the others is high where it tells good "
    about += "allocations from bad ones."
    deciding = sorted((each for each in found if each.decides > 0), key=lambda e: -e.decides)
    if deciding:
        named = ", ".join(f"{_name(each.name)} ({mean(each)})" for each in deciding[:_FEW])
        about += f" Best at that, with their means: {named}."
    return Section("Which instances fail", (Table(head, tuple(rows)), Paragraph(about)))


def cost_section(spend: Spend, costs: Expenditure) -> Section:
    """Return the spend, and its parts by stage and model, the largest one first."""
    ranked = sorted(costs.expenses, key=lambda each: -each.spend)
    total, saved = sum(each.spend for each in ranked), sum(each.saved for each in ranked)
    text = one_line(str(spend), _PROSE)
    if saved:
        text += f" Reuse of samples saved {spend_text(saved, costs.unit)}."
    if ranked and not costs.measured:
        text += " Stages are not measured: spends are divided by the costs of allocations."
    rows = [
        (
            _name(each.stage),
            _name(each.model),
            amount_text(each.spend),
            share_text(each.spend / total) if total else "-",
            *([amount_text(each.saved)] if saved else []),
            str(each.trials),
        )
        for each in ranked
    ]
    unit = f" ({_name(costs.unit)})" if costs.unit else ""
    reuse = ["saved by reuse"] if saved else []
    table = first_rows(("stage", "model", f"spend{unit}", "share", *reuse, "trials"), rows)
    return Section("What it cost", (Paragraph(text), *table))
