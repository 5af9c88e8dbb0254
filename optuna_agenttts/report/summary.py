"""A study in one value: what was tuned, what to use, why, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoEvidenceError, NoTaskError
from optuna_agenttts.report.agent_rounds import agent_section
from optuna_agenttts.report.document import Bullets, Section, with_code
from optuna_agenttts.report.expenditure import Expenditure, expenditure_of
from optuna_agenttts.report.fragments import section_html
from optuna_agenttts.report.importances import Importance, importances_of
from optuna_agenttts.report.outcomes import OutcomeTable, outcomes_of_study
from optuna_agenttts.report.points import Frontier
from optuna_agenttts.report.recommendation import Recommendation
from optuna_agenttts.report.remarks import next_steps_of, warnings_of
from optuna_agenttts.report.saturation import Saturation, saturation_of
from optuna_agenttts.report.sections import (
    cost_section,
    frontier_section,
    instances_section,
    less_section,
    matters_section,
    samples_section,
    thinking_section,
    tuned_section,
    use_section,
)
from optuna_agenttts.report.text import count_text, duration_text, section_text
from optuna_agenttts.report.thinking import ThinkingCurves, thinking_of
from optuna_agenttts.report.trials import states_of, stopped_trials
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.archive import explaining_outcomes, is_maximized
from optuna_agenttts.study.fates import with_fates
from optuna_agenttts.study.objectives import has_cost
from optuna_agenttts.study.rounds import Round, read_rounds
from optuna_agenttts.study.spending import Spend, read_limit, spend_of
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts.support import html
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.stage import has_efforts
from optuna_agenttts.task.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Summary of a study, for people who have not seen it.

    `str` shows it as plain text.

    Args:
        study: Name of the study.
        task: The task that it tunes.
        maximize: Whether higher values are better; None if the study has several objectives.
        states: Number of trials by state, such as "complete", "pruned" or "complete in
            confirmation"; states without trials are left out.
        instances: Number of instances of a trial of the search: the most that one reported; 0 if
            none reported outcomes of single instances.
        fresh: Number of fresh instances on which allocations were confirmed.
        seconds: Time from the start of the first trial of the search to the end of its last one;
            None without finished trials.
        recommendation: What to use; None if there is nothing to recommend.
        without: Why there is nothing to recommend; empty if there is.
        luckiest: Number and value of the complete trial of the search with the best value; None
            if all values are equal.
        frontier: What to use for smaller budgets.
        saturation: How scores saturate with samples.
        thinking: How they saturate with thinking; None if no model has thinking efforts.
        importances: Which settings matter, in order of stage.
        outcomes: Outcomes of instances.
        expenditure: What the search was spent on.
        spend: Its totals, and the limit.
        rounds: Rounds of the agent, in order.
        pruned: Latest pruned trials and the means of what they saw, in words; empty without.
        warnings: What is wrong or not known, one sentence each.
        next_steps: What to do next, one sentence each.
    """

    study: str
    task: Task
    maximize: bool | None
    states: Mapping[str, int]
    instances: int
    fresh: int
    seconds: float | None
    recommendation: Recommendation | None
    without: str
    luckiest: tuple[int, float] | None
    frontier: Frontier | None
    saturation: Saturation | None
    thinking: ThinkingCurves | None
    importances: tuple[Importance, ...]
    outcomes: OutcomeTable
    expenditure: Expenditure
    spend: Spend
    rounds: tuple[Round, ...]
    pruned: str
    warnings: tuple[str, ...]
    next_steps: tuple[str, ...]

    @property
    def sections(self) -> dict[str, Section]:
        """Questions about the study and their answers, which text, HTML and Markdown show."""
        task, found = self.task, self.recommendation
        margin = found.margin if found is not None else 0.0
        sections = {
            "tuned": tuned_section(task, self.maximize, self._trials(), self.pruned),
            "use": use_section(task, found, self.without, self.luckiest),
        }
        if found is not None and found.frontier is not None:
            sections["frontier"] = frontier_section(task, found.frontier, found.savings)
        elif found is not None:
            sections["less"] = less_section(task, found)
        if self.importances:
            sections["matters"] = matters_section(task, self.importances)
        if self.saturation is not None:
            marked = found.value if found is not None else None
            sections["samples"] = samples_section(task, self.saturation, marked, self.thinking)
            if self.thinking is not None:
                sections["thinking"] = thinking_section(task, self.thinking, marked)
        if self.outcomes.instances:
            sections["instances"] = instances_section(task, self.outcomes, margin)
        sections["cost"] = cost_section(self.spend, self.expenditure)
        if self.rounds:
            sections["agent"] = agent_section(self.rounds)
        lists = {"know": ("What to know", self.warnings), "next": ("What next", self.next_steps)}
        for key, (title, lines) in lists.items():
            if lines:
                sections[key] = Section(title, (Bullets(tuple(map(with_code, lines))),))
        return sections

    def __str__(self) -> str:
        """Return the summary as plain text."""
        title = f"Study {one_line(self.study)!r} of task {one_line(self.task.name)!r}"
        return "\n\n".join([title, *map(section_text, self.sections.values())])

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        title = html.heading(f"Study {self.study}", level=3)
        return html.join([title, *map(section_html, self.sections.values())])

    def _trials(self) -> str:
        """Count the trials and their instances."""
        text = ", ".join(f"{count} {name}" for name, count in self.states.items()) or "none"
        if self.instances:
            text += f", on up to {count_text(self.instances, 'instance')} each"
        if self.fresh:
            text += f"; confirmed on {count_text(self.fresh, 'fresh instance')}"
        return text if self.seconds is None else f"{text}; {duration_text(self.seconds)}"

    @property
    def trials(self) -> int:
        """Number of trials."""
        return sum(self.states.values())

    @property
    def guidelines(self) -> Round | None:
        """Latest round in which the agent wrote guidelines; None without one."""
        written = [planned for planned in self.rounds if planned.guidelines]
        return written[-1] if written else None


def summarize(study: Study, task: Task | None = None) -> Summary:
    """Summarize a study with any sampler: what was tuned, what to use, why, and what it cost.

    Args:
        study: The study.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Returns:
        The summary. A study of other objectives, or without a complete trial, has one without a
        recommendation.

    Raises:
        NoTaskError: The study has no task.
    """
    return summary_of(StudyView(study, task))


def summary_of(view: StudyView, *, brief: bool = False) -> Summary:
    """Summarize a study; see `summarize`.

    Args:
        view: The study.
        brief: Whether to leave out all that takes a posterior, which takes some tenths of a
            second: recommendation, frontier, saturation and importances.
    """
    study, task, trials = view.study, view.task, view.trials
    several = len(study.directions) > 1 and not has_cost(study)
    maximize = None if several else is_maximized(study.directions)
    recommendation = frontier = saturation = None
    thinking = None
    importances: tuple[Importance, ...] = ()
    without = "Too few trials are complete to recommend an allocation." if brief else ""
    try:
        if brief:
            raise NoEvidenceError(without)
        recommendation, frontier = view.recommendation, view.frontier
        saturation, importances = view.get(saturation_of), view.get(importances_of)
        thinking = view.get(thinking_of) if has_efforts(task.stages) else None
    except (NoEvidenceError, NoTaskError) as error:
        without = str(error)
    attributes = storage.attributes_of(study)
    rounds = with_fates(read_rounds(attributes), trials)
    outcomes = view.get(outcomes_of_study)
    searching = [trial for trial in trials if not storage.confirmation_block(trial)]
    complete = {
        trial.number: trial.values[0]
        for trial in searching
        if trial.state == TrialState.COMPLETE and trial.values
    }
    seen = (len(explaining_outcomes(trial)) for trial in searching)
    best = min if maximize is False else max
    differ = len(set(complete.values())) > 1
    luckiest = best(complete.items(), key=lambda pair: pair[1]) if differ else None
    confirming = [trial for trial in trials if storage.confirmation_block(trial)]
    fresh = {step for trial in confirming for step in outcomes_of(trial)}
    spend = spend_of(task, trials, rounds, read_limit(attributes))
    # Times of confirmations may be of another time zone.
    starts = [trial.datetime_start for trial in searching if trial.datetime_start is not None]
    ends = [trial.datetime_complete for trial in searching if trial.datetime_complete is not None]
    return Summary(
        study=study.study_name,
        task=task,
        maximize=maximize,
        states=states_of(trials),
        instances=max(seen, default=0),
        fresh=len(fresh),
        seconds=(max(ends) - min(starts)).total_seconds() if starts and ends else None,
        recommendation=recommendation,
        without=without,
        luckiest=None if several else luckiest,
        frontier=frontier,
        saturation=saturation,
        thinking=thinking,
        importances=importances,
        outcomes=outcomes,
        expenditure=view.get(expenditure_of),
        spend=spend,
        rounds=rounds,
        pruned=stopped_trials(trials),
        warnings=tuple(warnings_of(view, recommendation, spend, rounds)),
        next_steps=tuple(next_steps_of(view, recommendation, saturation, len(fresh))),
    )
