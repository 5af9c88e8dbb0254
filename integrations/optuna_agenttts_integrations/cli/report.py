"""``agenttts report``: print the recommendation and the spend of a study."""

from __future__ import annotations

import argparse
import textwrap

from optuna_agenttts import (
    AgentTTSError,
    NoTaskError,
    Task,
    frontier,
    guidelines,
    recommend,
    spend,
)
from optuna_agenttts.report.trials import count_states, stopped_trials
from optuna_agenttts.study.claims import contradictions, summary
from optuna_agenttts_integrations.cli.parser import COMMANDS, Commands, add_command
from optuna_agenttts_integrations.cli.storages import add_study_arguments, open_study


def add_report(commands: Commands) -> None:
    """Add ``agenttts report`` to the command line."""
    report = add_command(
        commands,
        "report",
        COMMANDS["report"],
        "The study's storage is only read.",
    )
    add_study_arguments(report)
    report.add_argument(
        "--frontier", action="store_true", help="also print the allocations for smaller budgets"
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    study = open_study(options.storage, options.study)
    try:
        recommended = recommend(study)
    except NoTaskError as error:
        if len(study.directions) > 1:
            raise
        raise AgentTTSError(
            f"No task is registered on study {study.study_name!r}: `task.suggest` and "
            "`AgentTTSSampler(task)` register one. Call `recommend(study, task=...)` in Python."
        ) from error
    trials = study.get_trials(deepcopy=False)
    finished = sum(trial.state.is_finished() for trial in trials)
    print(
        f"Study {study.study_name!r}: {finished} finished trials of {len(trials)} "
        f"({count_states(trials)})"
    )
    if stopped := stopped_trials(trials):
        print(f"Pruned, with the mean of what each saw: {stopped}")
    thoughts = [line for trial in trials for line in trial.user_attrs.get("thoughts", ())]
    # The latest share of each model and stage.
    for line in {str(line).partition("% of")[2]: line for line in thoughts}.values():
        print(f"Thoughts: {line}")
    print()
    print("Recommended")
    print(textwrap.indent(str(recommended), "  "))
    if options.frontier:
        print("\nFor smaller budgets")
        print(textwrap.indent(str(frontier(study)), "  "))
    # A task that was inferred from parameter names has no costs.
    if Task.registered(study) is not None:
        print(f"\n{spend(study)}")
    if written := [planned for planned in guidelines(study) if planned.guidelines]:
        print("\nThe agent's last guidelines")
        for line in written[-1].guidelines:
            print(f"  - {line}")
        if checked := summary(written[-1].verdicts):
            print(f"  {checked}")
        for verdict in contradictions(written[-1].verdicts):
            print(f"  - {verdict.text}")
    return 0
