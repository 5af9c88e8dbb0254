"""Remarks of a summary: what is wrong or not known, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.report.recommendation import Recommendation
from optuna_agenttts.report.saturation import Saturation
from optuna_agenttts.report.text import count_text, numbers_text, share_text
from optuna_agenttts.report.thinking import ended_of, thinking_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.claims import contradictions
from optuna_agenttts.study.constraints import constraints_of, violations
from optuna_agenttts.study.objectives import has_cost
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.study.spending import Spend
from optuna_agenttts.support.plain import one_line

_FEW = 12
"""Trials below which more are advised. Chosen by hand: most models of two stages are compared."""
_COMPARED = 3
"""Least trials of the agent, and of the planner, whose medians are compared. Chosen by hand."""
_EVALUATIONS = 400
"""Least runs of an instance that a confirmation is advised with. Chosen by hand: enough for four
allocations on a hundred instances."""


def warnings_of(
    view: StudyView,
    recommendation: Recommendation | None,
    spend: Spend,
    rounds: tuple[Round, ...],
) -> Iterator[str]:
    """Yield what is wrong with a study, or not known, one sentence each."""
    trials = view.trials
    if recommendation is not None:
        yield from recommendation.warnings
    elif failed := [trial.number for trial in trials if trial.state == TrialState.FAIL]:
        yield f"Trials failed: {numbers_text(failed)}; the log has their errors."
    violating = [trial.number for trial in trials if violations(constraints_of(trial))]
    if violating:
        yield f"Trials that violate a constraint: {numbers_text(violating)}."
    if not spend.whole:
        yield (
            "The objective reports no spend (user attribute `spend`): each trial counts the cost "
            "of one instance."
        )
    if spend.unpriced:
        yield f"{spend.unpriced:,} tokens of the agent are of unknown cost."
    lines = [line for trial in trials for line in _thoughts(trial.user_attrs.get("thoughts"))]
    # The latest share of each model and stage, and of thinking efforts that over all trials.
    latest = {line.partition("% of")[2]: line for line in lines}
    for (stage, model), (ended, replies) in view.get(ended_of).items():
        start = f" the replies of {model!r} in stage {stage!r} ended"
        for text in [text for text in latest if text.startswith(start) and ended]:
            latest[text] = f"{share_text(ended / max(replies, 1))} of{text}"
    for line in latest.values():
        yield f"{line}."
    if rounds and rounds[-1].error:
        what = "nothing that can be used" if rounds[-1].dropped else "nothing"
        yield f"The agent's latest round proposed {what}: {one_line(rounds[-1].error)}."
    yield from _comparison(trials) if rounds else ()
    for planned in [planned for planned in rounds if planned.guidelines][-1:]:
        yield from (one_line(verdict.text) for verdict in contradictions(planned.verdicts))


def _comparison(trials: Sequence[FrozenTrial]) -> Iterator[str]:
    """Yield how the agent's trials did beside the planner's, if there are three of each."""
    mine, others = (
        [
            trial.values[0]
            for trial in trials
            if trial.state == TrialState.COMPLETE
            and trial.user_attrs.get(storage.ORIGIN) in origins
        ]
        for origins in (("agent",), ("numerical", "fallback"))
    )
    if min(len(mine), len(others)) >= _COMPARED:
        yield (
            f"Medians: {median(mine):.3g} of the agent's {len(mine)} trials, {median(others):.3g} "
            f"of the {len(others)} that the numerical planner proposed after the opening."
        )


def _thoughts(written: object) -> list[str]:
    """Return the lines of a trial about thoughts, which earlier versions wrote as a list."""
    lines = written if isinstance(written, list) else str(written or "").splitlines()
    return [one_line(str(line)) for line in lines]


def next_steps_of(
    view: StudyView,
    recommendation: Recommendation | None,
    saturation: Saturation | None,
    fresh: int,
) -> Iterator[str]:
    """Yield what to do next, one sentence each, the most useful first."""
    several = len(view.study.directions) > 1
    if several and not has_cost(view.study):
        yield "Choose a trial of the Pareto front: `study.best_trials`."
        return
    if recommendation is None:
        failed = any(trial.state == TrialState.FAIL for trial in view.trials)
        if failed:
            yield "Fix what makes trials fail: `agenttts doctor` checks servers and objective."
        yield "Run more trials: `study.optimize(objective, n_trials=20)`."
        return
    searching = [trial for trial in view.trials if not storage.confirmation_block(trial)]
    ran = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in searching)
    if ran < _FEW:
        yield f"Run more trials: {count_text(ran, 'trial')} so far tell{'s' * (ran == 1)} little."
    if recommendation.interval is not None and not fresh:
        evaluations, why = _EVALUATIONS, ""
        # A frontier leaves the choice of a cost to its reader.
        if recommendation.undecided and not several:
            needed = recommendation.undecided[0].instances
            why = f"; about {needed} may show that a cheaper one is as good"
            # Both allocations run on them.
            evaluations = max(evaluations, 2 * needed)
        text = f"confirm(study, objective, instances, evaluations={evaluations})"
        text = f"Confirm it on fresh instances: `{text}`{why}"
        yield f"{text}."
    if several:
        yield "Choose the allocation for a budget: `recommend(study).frontier.at(budget)`."
    elif recommendation.ties:
        yield "Use the cheapest of those that are as good: `recommend(study).cheapest`."
    if saturation is not None:
        yield from _larger_budgets(view, saturation)
        yield from _more_thinking(view)
    yield "Save it for production: `recommend(study).save('allocation.json')`."


def _larger_budgets(view: StudyView, saturation: Saturation) -> Iterator[str]:
    """Yield the stages whose recommended models gain by samples beyond the budget."""
    sign = view.candidates.evidence.sign
    for curve in saturation.curves:
        values = {n: sign * value for n, value in zip(curve.samples, curve.values)}
        within = [value for n, value in values.items() if n <= curve.affordable]
        gain = max(values.values()) - max(within, default=-math.inf)
        if curve.recommended and saturation.margin < gain < math.inf:
            yield (
                f"Try a larger budget: more samples of {one_line(curve.model)} in stage "
                f"{one_line(curve.stage)} are expected to gain {gain:.2g}."
            )


def _more_thinking(view: StudyView) -> Iterator[str]:
    """Yield the stages whose recommended models gain by thinking beyond the budget."""
    found, sign = view.get(thinking_of), view.candidates.evidence.sign
    for curve in found.curves:
        if curve.recommended:
            own = curve.chosen
            over = [p for p in curve.points if p.tokens > own.tokens and not p.samples]
            best = max(over, key=lambda point: sign * point.value_alike, default=own)
            gain = sign * (best.value_alike - own.value)
            if gain > found.margin:
                yield (
                    f"Try a larger budget: thinking at {best.effort} in place of {own.effort} by "
                    f"{one_line(curve.model)} in stage {one_line(curve.stage)} is expected to "
                    f"gain {gain:.2g}."
                )
