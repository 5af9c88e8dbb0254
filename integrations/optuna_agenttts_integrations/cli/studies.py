"""``agenttts studies``: list the studies of a storage, or trials of workers that were killed."""

from __future__ import annotations

import argparse
from contextlib import suppress

import optuna

from optuna_agenttts import AgentTTSError
from optuna_agenttts.report.text import score_text, table
from optuna_agenttts.report.trials import count_states
from optuna_agenttts.study.measured import readable_task
from optuna_agenttts.support.plain import one_line
from optuna_agenttts_integrations.cli.parser import Commands, add_command
from optuna_agenttts_integrations.cli.stale import list_stale, seconds_of
from optuna_agenttts_integrations.cli.storages import add_storage_argument, open_storage, selected

_HEAD = ("study", "task", "metric", "best trial", "last trial", "trials")
_MAX_NAME = 60
"""Maximum length of a name, in characters. Chosen by hand."""


def add_studies(commands: Commands) -> None:
    """Add ``agenttts studies`` to the command line."""
    studies = add_command(
        commands,
        "studies",
        "The oldest study comes first. The best trial of a noisy study is a lucky one: "
        "`agenttts report` says what to use. The storage is only read, except with --fail.",
    )
    add_storage_argument(studies)
    studies.add_argument("--study", metavar="NAME", help="only this study; default: all")
    studies.add_argument(
        "--stale",
        action="store_true",
        help="list running trials whose worker was killed instead: those whose last heartbeat is "
        "older than five minutes",
    )
    studies.add_argument(
        "--older-than",
        metavar="TIME",
        help="with --stale: those whose last heartbeat, or start if they have none, is older, "
        "such as 90m, 2h or 1d",
    )
    studies.add_argument(
        "--fail", action="store_true", help="with --stale: fail them, and print which"
    )
    studies.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    older_than = seconds_of(options.older_than)
    if not options.stale and (options.fail or older_than is not None):
        raise AgentTTSError("`--fail` and `--older-than` are options of `--stale`: add it.")
    storage, names, shown = open_storage(options.storage)
    names = selected(names, options.study, shown)
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    if options.stale:
        for line in list_stale(storage, studies, older_than, fail=options.fail):
            print(line, flush=True)
        return 0
    print("\n".join(table([_HEAD, *map(_row, studies)])))
    return 0


def _row(study: optuna.Study) -> tuple[str, ...]:
    task = readable_task(study)
    trials = study.get_trials(deepcopy=False)
    best = "-"
    if len(study.directions) == 1:
        # No trial is complete, or none that is meets the constraints.
        with suppress(ValueError):
            best = score_text(study.best_value)
    elif len(study.directions) > 1 and any(trial.values for trial in trials):
        best = f"{len(study.best_trials)} on the front"
    dates = [trial.datetime_start for trial in trials if trial.datetime_start is not None]
    metric = "" if task is None else task.metric
    directions = ", ".join(direction.name.lower() for direction in study.directions)
    return (
        one_line(study.study_name, _MAX_NAME),
        "-" if task is None else one_line(task.name, _MAX_NAME) or "-",
        one_line(f"{metric} ({directions})".strip(), _MAX_NAME),
        best,
        f"{max(dates):%Y-%m-%d %H:%M}" if dates else "-",
        count_states(trials),
    )
