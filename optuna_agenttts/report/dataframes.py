"""Trials and rounds of a study as pandas DataFrames."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.report.frames import to_frame
from optuna_agenttts.report.trials import STATE_NAMES, value_of
from optuna_agenttts.study.fates import guidelines
from optuna_agenttts.study.spending import stated_spend
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts.study.tasks import find_task
from optuna_agenttts.task.parameters import parameters_of
from optuna_agenttts.task.stage import Stage, has_efforts
from optuna_agenttts.task.task import Task

if TYPE_CHECKING:
    from pandas import DataFrame

_ROUND = (
    *("number", "trials", "model", "asked", "why", "candidates", "tried", "guidelines"),
    *("agrees", "contradicts", "open"),
    *("requests", "prompt_tokens", "completion_tokens", "cost", "seconds", "problems", "error"),
)


def trials_dataframe(study: Study, task: Task | None = None) -> DataFrame:
    """Return the trials of a study as a pandas DataFrame, one row each.

    The columns are:

    - ``number``, ``state`` and ``value``, that of a pruned trial being the mean of what it saw; or
      ``value 0``, ``value 1``, ... if the study has several objectives;
    - the parameters, those of the task first, by their names in Optuna;
    - ``<stage>.base_model`` and ``<stage>.thinking``, the model and its thinking effort, such as
      "off", "low" or "1024 tokens", of stages whose models have efforts;
    - ``cost`` of the allocation for one instance, and ``spend`` of the trial over all its
      instances, as far as it was reported: both exact, in units of the task's cost model;
    - ``instances``: number of outcomes that the trial reported;
    - ``origin`` of the allocation and the ``reason`` for it, and ``confirms``, which is True for
      trials that confirm an allocation on fresh instances;
    - ``start``, and ``seconds`` that it took;
    - other user attributes, such as ``reused``, ``tokens``, ``malformed`` and metrics.

    Args:
        study: The study, of any sampler.
        task: Task that it tunes; see `recommend`. Without one, ``cost`` is empty.

    Raises:
        AgentTTSError: pandas is not installed.
    """
    columns, rows = trial_rows(study, task)
    return to_frame("trials_dataframe", rows, columns)


def trial_rows(study: Study, task: Task | None = None) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and rows of `trials_dataframe`, without pandas."""
    task = find_task(study, task)
    trials = storage.read_trials(study)
    several = len(study.directions)
    values = ["value"] if several == 1 else [f"value {i}" for i in range(several)]
    ours = list(parameters_of(task)) if task is not None else []
    params = dict.fromkeys([*ours, *(name for trial in trials for name in trial.params)])
    params |= dict.fromkeys(
        column
        for stage in (task.stages if task is not None else ())
        for column in _effort_columns(stage)
    )
    facts = ("cost", "spend", "instances", "origin", "reason", "confirms", "start", "seconds")
    rows = [_row(trial, task, several=several > 1) for trial in trials]
    others = [name for row in rows for name in row]
    columns = dict.fromkeys(["number", "state", *values, *params, *facts, *others])
    return list(columns), rows


def _row(trial: FrozenTrial, task: Task | None, *, several: bool) -> dict[str, Any]:
    """Return the row of a trial."""
    choices = task.read(trial.params) if task is not None else None
    if several:
        values = {f"value {i}": value for i, value in enumerate(trial.values or ())}
    else:
        values = {"value": value_of(trial)}
    others = {
        name: value
        for name, value in trial.user_attrs.items()
        if not name.startswith(storage.PREFIX)
    }
    return {
        **others,
        "number": trial.number,
        "state": STATE_NAMES[trial.state],
        **values,
        **trial.params,
        **(_efforts(task, choices) if task is not None and choices else {}),
        "cost": task.feasible.cost(choices) if task is not None and choices else None,
        "spend": stated_spend(trial),
        "instances": len(outcomes_of(trial)),
        "origin": trial.user_attrs.get(storage.ORIGIN, ""),
        "reason": trial.user_attrs.get(storage.REASON, ""),
        "confirms": storage.confirmation_block(trial) > 0,
        "start": trial.datetime_start,
        "seconds": trial.duration.total_seconds() if trial.duration is not None else None,
    }


def _effort_columns(stage: Stage) -> tuple[str, ...]:
    """Return the columns of a stage's model and effort; none if its models have no efforts."""
    return (f"{stage.name}.base_model", f"{stage.name}.thinking") if has_efforts([stage]) else ()


def _efforts(task: Task, choices: Choices) -> dict[str, Any]:
    """Return model and effort of each stage whose models have efforts."""
    values: dict[str, Any] = {}
    for stage, (position, _) in zip(task.stages, choices):
        model = stage.models[position]
        thinking = model.thinking
        pair = (model.name, "") if thinking is None else (thinking.model, thinking.brief_label)
        values |= zip(_effort_columns(stage), pair)
    return values


def rounds_dataframe(study: Study) -> DataFrame:
    """Return the rounds that an agent planned for a study as a pandas DataFrame, one row each.

    The columns are those of `Round`, with the number of ``candidates`` and of those ``tried``,
    the ``guidelines`` as one text with a line for each, the number of claims with which the fit
    ``agrees``, which it ``contradicts`` and which it leaves ``open``, and ``problems`` and
    failures as a text.

    Args:
        study: The study; without rounds, the DataFrame is empty.

    Raises:
        AgentTTSError: pandas is not installed.
    """
    rows = []
    for planned in guidelines(study):
        verdicts = Counter(verdict.outcome for verdict in planned.verdicts)
        row = {
            **{name: getattr(planned, name, None) for name in _ROUND},
            **{name: verdicts[name] for name in ("agrees", "contradicts", "open")},
            "candidates": len(planned.candidates),
            "tried": sum(each.outcome == "tried" for each in planned.candidates),
            "guidelines": "\n".join(planned.guidelines),
            "problems": planned.problems_text,
        }
        rows.append(row)
    return to_frame("rounds_dataframe", rows, _ROUND)
