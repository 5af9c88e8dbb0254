"""The study's note in optuna-dashboard: a summary of the study as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from optuna.study import Study

from optuna_agenttts.explanation.markdown import bullets, plain, prose, table
from optuna_agenttts.report.outcomes import InstanceOutcomes
from optuna_agenttts.report.recommendation import Recommendation
from optuna_agenttts.report.saturation import SaturationCurve
from optuna_agenttts.report.summary import Summary
from optuna_agenttts.report.summary_text import duration_text, metric_of
from optuna_agenttts.report.text import count_text, score_text, sentence, share_text
from optuna_agenttts.study.claims import contradictions
from optuna_agenttts.study.claims import summary as summary_of_verdicts
from optuna_agenttts.study.rounds import Round, guidelines
from optuna_agenttts.support.plain import amount_text

HEADING = "## Summary of the search"
GUIDELINES = "## Guidelines of the agent"
"""First lines of our parts of the note. Text before them belongs to the user and is kept."""

_LISTED = 5
"""Rows of a table. Chosen by hand, so that a note is read within a minute."""
_ROUNDS = 10
"""Rounds in the table of the agent's rounds."""
_HISTORY = 4
"""Earlier rounds whose guidelines are shown: more would push the rest out of sight."""
_NAME = 60
"""Characters of a name. Chosen by hand, so that a table is as wide as a page."""


def save_note(study: Study, body: str) -> None:
    """Write the study's note below the user's text; an equal note stays as it is."""
    import optuna_dashboard

    present = optuna_dashboard.get_note(study)
    own = present.partition(HEADING)[0].partition(GUIDELINES)[0].rstrip()
    text = f"{own}\n\n{body}" if own else body
    if text != present:
        optuna_dashboard.save_note(study, text)


def save_guidelines(study: Study) -> None:
    """Write the agent's guidelines at the end of the study's note, after a round."""
    import optuna_dashboard

    present = optuna_dashboard.get_note(study)
    _, heading, tail = present.partition(HEADING)
    save_note(
        study,
        "\n\n".join(
            [
                *([heading + tail.partition(GUIDELINES)[0].rstrip()] if heading else []),
                guidelines_note(guidelines(study)),
            ]
        ),
    )


def note(summary: Summary, *, graphs: bool = True, constrained: bool = False) -> str:
    """Return the summary of a study as Markdown.

    Args:
        summary: The summary.
        graphs: Whether figures can be made, as Plotly is installed.
        constrained: Whether trials have constraints.
    """
    found = summary.recommendation
    parts = [HEADING, _task(summary)]
    if found is None:
        parts += ["### Nothing to recommend", prose(summary.without)]
    else:
        parts += ["### What to use", *_use(summary, found)]
        parts += ["### As good for less", *_ties(summary, found)]
    if summary.importances:
        parts += ["### What matters", *_importances(summary)]
    if summary.saturation is not None:
        parts += ["### Which model, and how many samples", *_stages(summary)]
    if summary.outcomes.instances:
        parts += ["### Which instances fail", *_instances(summary)]
    parts += ["### What it cost", *_spend(summary)]
    if warnings := list(_warnings(summary, constrained)):
        parts += ["### What to know", bullets(warnings)]
    if summary.next_steps:
        parts += ["### What next", bullets([prose(line) for line in summary.next_steps])]
    if found is not None:
        parts += ["### Figures", _figures(graphs)]
    parts.append(
        f"*Written after {count_text(summary.trials, 'trial')}; `explain(study)` in Python "
        "writes it again. Text above the title stays.*"
    )
    if summary.rounds:
        parts.append(guidelines_note(summary.rounds))
    return "\n\n".join(parts)


def _metric(summary: Summary) -> str:
    return plain(metric_of(summary.task))


def _task(summary: Summary) -> str:
    """Describe what was tuned, under which budget."""
    task = summary.task
    unit = plain(task.cost_model.unit or "units of the cost", _NAME)
    direction = {True: "higher is better", False: "lower is better", None: "several objectives"}
    stages = [f"**{plain(stage.name, _NAME)}**" for stage in task.stages]
    names = " and ".join([", ".join(stages[:-1]), stages[-1]] if stages[1:] else stages)
    text = (
        f"Which model, and how many samples of it, should {names} of the task "
        f"**{plain(task.name, _NAME)}** get, at a cost of at most "
        f"**{amount_text(task.budget)} {unit}** "
        f"per instance? Metric: **{_metric(summary)}** ({direction[summary.maximize]})."
    )
    if task.description:
        text += f" {plain(task.description, 300)}"
    runs = ", ".join(f"{count} {state}" for state, count in summary.states.items()) or "none"
    text += f"\n\nTrials: {runs}"
    if summary.instances:
        text += f", on up to {count_text(summary.instances, 'instance')} each"
    if summary.fresh:
        text += f"; confirmed on {count_text(summary.fresh, 'fresh instance')}"
    if summary.seconds is not None:
        text += f"; {duration_text(summary.seconds)}"
    return f"{text}."


def _use(summary: Summary, found: Recommendation) -> Iterator[str]:
    """Yield the recommended allocation, its value and its cost."""
    yield table(
        ("Stage", "Model", "Samples"),
        [
            (plain(stage, _NAME), f"**{plain(chosen.model, _NAME)}**", f"**{chosen.samples}**")
            for stage, chosen in found.allocation.items()
        ],
    )
    text = f"Expected {_metric(summary)}: **{score_text(found.value, found.margin)}**"
    if found.interval is not None:
        text += " (90 % interval **{} to {}**, on instances like those of the search)".format(
            *(score_text(end, found.margin) for end in found.interval)
        )
    text += (
        f". Cost: **{amount_text(found.cost)} {plain(found.unit, _NAME)}** per instance, "
        f"{share_text(found.cost / (summary.task.budget or 1))} of the budget."
    )
    yield text
    if found.interval is None:
        yield (
            "How sure that is, is not known: the trials report no outcomes of single instances. "
            "`trial.report(outcome, step=number)` for each instance gives an interval."
        )


def _ties(summary: Summary, found: Recommendation) -> Iterator[str]:
    """Yield the cheaper allocations that are as good, or may be."""
    margin = f"{found.margin:.2g}"
    if found.ties:
        yield f"Shown to lose less than {margin} (95 % bound), cheapest first:"
    elif found.undecided:
        yield f"No cheaper allocation is shown to lose less than {margin} yet. These may:"
    elif found.interval is None:
        yield "Not known: this takes outcomes of single instances."
    else:
        yield f"No tried cheaper allocation can lose less than {margin}."
    others = found.ties or found.undecided
    if others:
        yield table(
            ("Allocation", _metric(summary), "May lose", "Cost", "Of the recommended cost"),
            [
                (
                    plain(sentence(other.allocation), 2 * _NAME),
                    score_text(other.value, found.margin),
                    f"{max(other.loss, 0):.2g}",
                    amount_text(other.cost),
                    share_text(other.cost / found.cost) if found.cost else "-",
                )
                for other in others[:_LISTED]
            ],
        )
    more = len(others) - _LISTED
    if more > 0:
        yield f"And {more} more: `print(recommend(study))`."


def _importances(summary: Summary) -> Iterator[str]:
    """Yield which settings matter."""
    rows = sorted(summary.importances, key=lambda each: -each.share)
    yield table(
        ("Setting", "Share of the variation", "90 % interval", "Loss if chosen at random"),
        [
            (
                f"{each.setting} of {plain(each.stage, _NAME)}",
                f"**{share_text(each.share)}**",
                " to ".join(map(share_text, each.interval)),
                f"{each.loss:.2g}",
            )
            for each in rows[: 2 * _LISTED]
        ],
    )
    yield (
        "These shares are about all allocations within the budget, by the posterior. The card "
        "*Hyperparameter Importance* of this dashboard compares the best tenth of the trials with "
        "all trials: models look unimportant there, as a search rarely tries bad ones."
    )


def _stages(summary: Summary) -> Iterator[str]:
    """Yield for each stage its models, and where their samples saturate."""
    assert summary.saturation is not None
    margin = summary.saturation.margin
    for stage in summary.task.stages:
        curves = [c for c in summary.saturation.curves if c.stage == stage.name]
        curves.sort(key=lambda curve: not curve.recommended)
        yield f"**{plain(stage.name, _NAME)}**"
        yield table(
            ("Model", f"Expected {_metric(summary)}", "Samples", "Trials"),
            [_curve(curve, margin) for curve in curves[: 2 * _LISTED]],
        )
    yield (
        "Expected with as many samples as it saturates at, or as the budget allows, and the other "
        f"stages as recommended. Samples beyond are expected to gain less than {margin:.2g}."
    )


def _curve(curve: SaturationCurve, margin: float) -> Sequence[str]:
    """Return the row of a model."""
    name = plain(curve.model, _NAME)
    score = "-"
    if curve.saturates_at is not None:
        position = curve.samples.index(curve.saturates_at)
        score = score_text(curve.values[position], margin)
        if (interval := curve.intervals[position]) is not None:
            score += " ({} to {})".format(*(score_text(end, margin) for end in interval))
    return (
        f"**{name}** (recommended)" if curve.recommended else name,
        score,
        plain(curve.finding),
        str(len(curve.trials)),
    )


def _instances(summary: Summary) -> Iterator[str]:
    """Yield the instances that fail most often, and those that decide."""
    instances = summary.outcomes.instances

    def listed(chosen: Sequence[InstanceOutcomes]) -> str:
        return ", ".join(
            f"{plain(each.name, _NAME)} ({score_text(each.mean)})" for each in chosen[:_LISTED]
        )

    yield f"Worst mean {_metric(summary)} over the trials: {listed(instances)}."
    deciding = sorted(instances, key=lambda each: -each.decides)
    if deciding[0].decides > 0:
        yield (
            "These tell good allocations from bad ones best: "
            f"{listed([each for each in deciding if each.decides > 0])}."
        )


def _spend(summary: Summary) -> Iterator[str]:
    """Yield the spend, by stage and model."""
    yield plain(str(summary.spend))
    costs = summary.expenditure
    total = sum(expense.spend for expense in costs.expenses)
    saved = any(expense.saved for expense in costs.expenses)
    rows = [
        (
            plain(expense.stage, _NAME),
            plain(expense.model, _NAME),
            amount_text(expense.spend),
            share_text(expense.spend / total) if total else "-",
            *([amount_text(expense.saved)] if saved else []),
            str(expense.trials),
        )
        for expense in sorted(costs.expenses, key=lambda each: -each.spend)[: 2 * _LISTED]
    ]
    if rows:
        unit = f" ({plain(costs.unit, _NAME)})" if costs.unit else ""
        titles = [
            "Stage",
            "Model",
            f"Spend{unit}",
            "Share",
            *(["Saved by reuse"] if saved else []),
        ]
        yield table((*titles, "Trials"), rows)


def _warnings(summary: Summary, constrained: bool) -> Iterator[str]:
    """Yield what is wrong, and what misleads in the dashboard."""
    found = summary.recommendation
    if found is not None and summary.luckiest is not None:
        number, value = summary.luckiest
        yield (
            f"*Best Trial* in this dashboard is trial {number} ({score_text(value, found.margin)})"
            ": the luckiest trial, not the recommendation."
        )
    if constrained:
        yield "*Best Trial* ignores constraints, too; each trial's note has its constraints."
    if summary.pruned:
        yield (
            "Lines of stopped trials in plots are means of the instances that they saw: "
            f"{plain(summary.pruned)}."
        )
    yield from map(prose, summary.warnings)


def _figures(graphs: bool) -> str:
    """Say where the figures are."""
    if graphs:
        return (
            "On the page of the study (first icon on the left). They are made after 10, 20, 50, "
            "100, ... trials."
        )
    return (
        "`pip install optuna-agenttts[plot]`, then `explain(study)`, puts figures on the page of "
        "the study."
    )


def guidelines_note(rounds: Sequence[Round]) -> str:
    """Return the agent's guidelines and rounds as Markdown."""
    written = [planned for planned in rounds if planned.guidelines]
    parts = [GUIDELINES]
    if written:
        latest = written[-1]
        model = plain(latest.model, 2 * _NAME)
        parts.append(f"Round {latest.number}, after {latest.trials} trials, by {model}:")
        parts.append(bullets([plain(line) for line in latest.guidelines]))
        if latest.verdicts:
            parts.append(plain(summary_of_verdicts(latest.verdicts)))
        if refuted := contradictions(latest.verdicts):
            parts.append(bullets([plain(verdict.text) for verdict in refuted]))
    else:
        parts.append("None yet.")
    titles = ("Round", "Candidates", "Requests", "Tokens", "Seconds", "Problems")
    parts += ["### Rounds", table(titles, [_round(each) for each in rounds[-_ROUNDS:][::-1]])]
    for planned in reversed(written[:-1][-_HISTORY:]):
        lines = bullets([plain(line) for line in planned.guidelines])
        parts.append(f"### Round {planned.number}\n\n{lines}")
    return "\n\n".join(parts)


def _round(planned: Round) -> Sequence[str]:
    """Return the row of a round."""
    problems = Counter(planned.problems) + Counter(planned.failures)
    words = ", ".join(f"{kind} ({count})" for kind, count in sorted(problems.items()))
    return (
        str(planned.number),
        str(len(planned.candidates)),
        str(planned.requests),
        str(planned.prompt_tokens + planned.completion_tokens),
        f"{planned.seconds:.1f}",
        plain(words or "none"),
    )
