"""``agenttts show``: what the models of a trial replied, and what became of it."""

from __future__ import annotations

import argparse
import json
import shutil
from contextlib import ExitStack, closing

import optuna

from optuna_agenttts import AgentTTSError, Task
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.calls.store_targets import store_exists
from optuna_agenttts_integrations.cli.objectives import IMPORT_NOTE, open_objective
from optuna_agenttts_integrations.cli.parser import Commands, add_command
from optuna_agenttts_integrations.cli.storages import add_study_arguments, open_study
from optuna_agenttts_integrations.inspection.trials import recorded_outcomes
from optuna_agenttts_integrations.inspection.views import InstanceInspection, TrialInspection

_PLAYGROUND = "optuna_agenttts_integrations.playground:make_objective"
"""Objective of studies of the playground's task."""

_ROWS = 20
"""Default number of instances listed for people. Chosen by hand, to fit on a screen."""


def add_show(commands: Commands) -> None:
    """Add ``agenttts show`` to the command line."""
    show = add_command(
        commands,
        "show",
        "No model is called. Without an instance, instances are listed, the worst outcome first;\n"
        "with --baseline, those whose outcomes differ. Outcomes come from the study's storage;\n"
        "prompts and replies need the objective and its store.",
        epilog="examples:\n"
        "  agenttts show sqlite:///study.db 12\n"
        "  agenttts show sqlite:///study.db 12 --baseline 4\n"
        "  agenttts show sqlite:///study.db 12 q17 --objective my_module:make_objective\n"
        "  agenttts show sqlite:///study.db 12 q17 --objective my_module:objective \\\n"
        "      --store completions.db --json\n\n" + IMPORT_NOTE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_study_arguments(show)
    show.add_argument("trial", type=int, help="number of the trial")
    show.add_argument(
        "instance", nargs="?", help="ID of an instance, or 'step:3' as listed; default: list all"
    )
    show.add_argument(
        "--baseline", type=int, metavar="TRIAL", help="number of another trial to show beside it"
    )
    show.add_argument(
        "--objective",
        metavar="MODULE:NAME",
        help="the study's MultiStageObjective, or a function without arguments that returns it; "
        "default: the playground's, for studies of its task",
    )
    show.add_argument(
        "--store",
        metavar="STORE",
        help="file or PostgreSQL URL of the completions; default: the objective's store",
    )
    show.add_argument("--json", action="store_true", help="print JSON")
    show.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"maximum number of instances listed; default: {_ROWS}, or all with --json",
    )
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    if options.limit is not None and options.limit < 1:
        raise AgentTTSError(f"`--limit` must be at least 1, got {options.limit}.")
    if options.store is not None and not store_exists(options.store):
        raise AgentTTSError(f"`--store` {options.store.rpartition('@')[2]!r} does not exist.")
    study = open_study(options.storage, options.study)
    shown = _inspect(study, options)
    if options.json:
        values = shown.to_dict()
        if isinstance(shown, TrialInspection):
            values["instances"] = values["instances"][: options.limit]
        print(json.dumps(values, indent=2))
        return 0
    width = shutil.get_terminal_size().columns
    if isinstance(shown, TrialInspection):
        print(shown.text(width, options.limit or _ROWS))
    else:
        print(shown.text(width))
    return 0


def _inspect(
    study: optuna.Study, options: argparse.Namespace
) -> InstanceInspection | TrialInspection:
    name = options.objective or _default_objective(study, options)
    if name is None:
        if options.instance is not None or options.store is not None:
            raise AgentTTSError(
                "Prompts and replies need the study's objective: pass `--objective module:name`, "
                "or neither an instance nor `--store` to list outcomes."
            )
        return recorded_outcomes(study, options.trial, options.baseline)
    with ExitStack() as stack:
        objective = stack.enter_context(open_objective(name))
        if options.store is not None:
            objective.store = stack.enter_context(closing(CompletionStore(options.store)))
        shown: InstanceInspection | TrialInspection = objective.inspect(
            options.trial, options.instance, baseline=options.baseline, study=study
        )
        return shown


def _default_objective(study: optuna.Study, options: argparse.Namespace) -> str | None:
    """Return the playground's objective if the study tunes its task and replies are wanted."""
    task = Task.registered(study)
    wanted = options.instance is not None or options.store is not None
    return _PLAYGROUND if wanted and task is not None and task.name == "playground" else None
