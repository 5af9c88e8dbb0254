"""Notes of trials in optuna-dashboard: their worst instances, and what the models replied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.explanation.markdown import code, plain, table
from optuna_agenttts.explanation.note import write_below
from optuna_agenttts.report.outcomes import outcomes_of_study
from optuna_agenttts.report.text import count_text, metric_of, score_text, sentence, share_text
from optuna_agenttts.report.trials import value_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.archive import is_maximized
from optuna_agenttts.study.constraints import constraints_of
from optuna_agenttts.study.fresh import instance_names
from optuna_agenttts.study.objectives import has_cost
from optuna_agenttts.study.spending import stated_spend
from optuna_agenttts.study.stopped import measured_cost, outcomes_of
from optuna_agenttts.support.plain import amount_text

HEADING = "### Trial"
"""Start of our part of the note. Text before it belongs to the user and is kept."""
MOST_NOTES = 200
"""Trials with a note. Notes are attributes of the study, all of which are read whenever one is:
200 notes take 5 ms on SQLite."""
_WORST = 5
"""Instances in the table. Chosen by hand."""
_ANSWERED = 2
"""Instances whose replies are shown, if these are asked for. Chosen by hand."""
_REPLIES = 2
"""Different replies shown of a stage."""
_REPLY, _PROMPT = 400, 600
"""Characters shown of a reply, and of the prompt. Chosen by hand."""


class Inspector(Protocol):
    """Objective that knows what its models replied, such as `MultiStageObjective`."""

    def inspect(self, trial: Any, instance: Any = None, *, study: Study | None = None) -> Any:
        """Return the inspection of a trial's instance; see `MultiStageObjective.inspect`."""


@dataclass(frozen=True, slots=True)
class _Noted:
    """Trial, also after its end, as `optuna_dashboard.save_note` takes it."""

    storage: BaseStorage
    study: Study
    _trial_id: int


def save_trial_notes(
    view: StudyView,
    objective: Inspector | None = None,
    more_time: Callable[[], bool] = lambda: True,
) -> None:
    """Write the notes of finished trials.

    Args:
        view: The study.
        objective: Objective whose models' replies are shown. With it, earlier notes are replaced.
        more_time: Function that returns whether there is time for another note.
    """
    study = view.study
    attributes = storage.attributes_of(study)
    for trial in view.trials[:MOST_NOTES]:
        if not more_time():
            return
        if not trial.state.is_finished():
            continue
        new = f"{storage.trial_note_key(trial._trial_id)}ver" not in attributes
        if new or objective is not None:
            body = trial_note(view, trial, objective)
            if body and new:
                storage.write_trial_note(study, trial._trial_id, body)
            elif body:
                write_below(_Noted(study._storage, study, trial._trial_id), body, (HEADING,))


def trial_note(view: StudyView, trial: FrozenTrial, objective: Inspector | None = None) -> str:
    """Return the note of a trial as Markdown.

    Args:
        view: The study.
        trial: The trial, which is finished.
        objective: Objective whose models' replies are shown.

    Returns:
        The note; empty if there is nothing to say, or the study has other objectives than a score,
        or a score and then a cost.
    """
    if len(view.study.directions) > 1 and not has_cost(view.study):
        return ""
    sign = 1 if is_maximized(view.study.directions) else -1
    outcomes, unit = outcomes_of(trial), view.task.cost_model.unit
    parts = []
    choices = view.task.read(trial.params)
    if choices is not None:
        cost = plain(amount_text(view.task.feasible.cost(choices), unit))
        text = plain(sentence(view.task.allocation(choices)), 300)
        parts.append(f"{text}; cost {cost} per instance.")
    if result := _result(view, trial):
        parts.append(result)
    if origin := trial.user_attrs.get(storage.ORIGIN):
        reason = plain(str(trial.user_attrs.get(storage.REASON, "")), 500)
        parts.append(f"Proposed by: {plain(str(origin), 60)}{reason and f' ({reason})'}.")
    if constraints := constraints_of(trial):
        rows = [
            (plain(key, 60), f"{value:.4g}", "met" if value <= 0 else "**not met**")
            for key, value in constraints.items()
        ]
        parts.append(table(("Constraint", "Value", "0 or less"), rows))
    worst = sorted(outcomes, key=lambda step: (sign * outcomes[step], step))[:_WORST]
    best = view.get(outcomes_of_study).best
    if worst and outcomes[worst[0]] == best:
        count = count_text(len(outcomes), "instance")
        parts.append(f"No instance fails: {count} with {best:.3g}.")
    elif worst:
        name = instance_names(view.study)
        names = {step: name(step) or f"step {step}" for step in worst}
        parts.append(f"Worst of {count_text(len(outcomes), 'instance')}:")
        cells = [(plain(names[step], 60), f"{outcomes[step]:.3g}") for step in worst]
        parts.append(table(("Instance", plain(metric_of(view.task))), cells))
    for step in () if objective is None else worst[:_ANSWERED]:
        assert objective is not None
        parts += _answers(objective.inspect(trial, f"step:{step}", study=view.study))
    return "\n\n".join([f"{HEADING} {trial.number}", *parts]) if parts else ""


def _result(view: StudyView, trial: FrozenTrial) -> str:
    """Return a trial's score, and what it took, in one sentence; empty if nothing is known."""
    parts, attributes = [], trial.user_attrs
    if (value := value_of(trial)) is not None:
        parts.append(f"{plain(metric_of(view.task))} **{score_text(value)}**")
    choices, second = view.task.read(trial.params), measured_cost(trial)
    cost = math.nan if choices is None else view.task.feasible.cost(choices)
    if abs(second - cost) > 1e-6 * cost:
        parts.append(f"second value {amount_text(second)}")
    if (spend := stated_spend(trial)) is not None:
        parts.append(f"spend {plain(amount_text(spend, view.task.cost_model.unit))}")
    for name, words in (("reused", "of the calls reused"), ("malformed", "malformed replies")):
        number = attributes.get(name)
        if isinstance(number, (int, float)):
            shown = share_text(number) if name == "reused" else f"{number:g}"
            parts.append(f"{shown} {words}")
    return f"{'; '.join(parts)}." if parts else ""


def _answers(inspection: Any) -> Iterator[str]:
    """Yield prompts, replies and results of one instance; see `InstanceInspection`."""
    yield f"#### {plain(inspection.instance, 60)}"
    for stage in inspection.stages:
        yield f"**{plain(stage.name, 60)}**"
        for request in stage.requests:
            prompt = request.messages[-1].content if request.messages else ""
            yield f"Prompt:\n\n{code(prompt, _PROMPT)}"
            yield from _replies(request.replies)
        yield f"Result: {plain(str(stage.result), _REPLY)}"


def _replies(replies: Sequence[Any]) -> Iterator[str]:
    """Yield the most frequent replies to a request."""
    counts: dict[str, int] = {}
    for reply in replies:
        text = "(not in the store)" if reply.text is None else reply.text
        counts[text] = counts.get(text, 0) + 1
    for text, count in sorted(counts.items(), key=lambda pair: -pair[1])[:_REPLIES]:
        yield f"Reply of {count} of {count_text(len(replies), 'sample')}:"
        yield code(text, _REPLY)
