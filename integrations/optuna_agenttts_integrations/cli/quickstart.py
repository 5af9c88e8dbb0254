"""``agenttts quickstart``: tune a pipeline of tiny models that come with the package."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import optuna
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage

from optuna_agenttts import (
    AgentTTSError,
    AgentTTSSampler,
    Allocation,
    Model,
    PrintTrials,
    StopAtSpend,
    Task,
    explain,
    recommend,
    spend,
    summarize,
)
from optuna_agenttts.report.text import allocation_table, share_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.cli.parser import Commands, add_command
from optuna_agenttts_integrations.cli.report import write_page
from optuna_agenttts_integrations.objective import MultiStageObjective
from optuna_agenttts_integrations.playground import make_objective, make_problems, make_task

_TRIALS = 40
"""Trials of the search. Chosen by hand: the recommendation rarely changes after them."""
_HELD_OUT = 200
"""Problems that no trial has seen, on which allocations are compared. Chosen by hand."""


def add_quickstart(commands: Commands) -> None:
    """Add ``agenttts quickstart`` to the command line."""
    quickstart = add_command(
        commands,
        "quickstart",
        "A pipeline answers arithmetic problems in two stages: the first picks the lines that "
        "help, the second computes the answer from them. The models were trained for it, and "
        "run in process: no key, network or GPU is needed. It takes about a minute, then scores "
        "the recommended allocation and others on problems that the search has not seen.",
    )
    quickstart.add_argument(
        "--trials", type=int, default=_TRIALS, metavar="N", help=f"default: {_TRIALS}"
    )
    quickstart.add_argument(
        "--out",
        type=Path,
        default=Path("quickstart.db"),
        metavar="FILE",
        help="SQLite file of the study, which is kept; a web page about the study is written "
        "beside it; default: %(default)s",
    )
    quickstart.set_defaults(run=_quickstart)


def _quickstart(options: argparse.Namespace) -> int:
    if options.trials < 1:
        raise AgentTTSError(f"`--trials` must be positive, got {options.trials}.")
    task, url = make_task(), f"sqlite:///{options.out}"
    try:
        storage = RDBStorage(url)
    # SQLAlchemy's errors, of which it has many, are pages long.
    except Exception as error:
        raise AgentTTSError(
            f"`--out` must be a file that can be written, new or of SQLite, got {options.out}."
        ) from error
    print(
        f"{task.count_allocations():,} allocations of {len(task.stages)} stages cost at most "
        f"{task.budget:g} {task.cost_model.unit} per instance."
    )
    study = optuna.create_study(
        # A new name for each run, so that earlier studies are kept.
        study_name=f"quickstart {len(optuna.get_all_study_names(storage)) + 1}",
        storage=storage,
        direction="maximize",
        sampler=AgentTTSSampler(task),
    )
    with closing(CompletionStore()) as store, make_objective(task=task, store=store) as objective:
        _search(study, objective, options.trials)
        print(f"\n{summarize(study)}\n")
        largest = {s.name: (max(s.models, key=_size).name, 1) for s in task.stages}
        by_tpe, trials = _tune_with_tpe(task, spend(study).trials, 3 * options.trials)
        _compare(
            {
                "recommended": recommend(study).allocation,
                "largest models, once": task.project(largest),
                "cheapest": task.complete({}),
                f"TPE ({trials} trials, same spend)": by_tpe,
            },
            objective,
        )
    explain(study)
    page = options.out.with_suffix(".html")
    write_page(StudyView(study), url, page)
    print(f"\nStudy: {options.out}, web page about it: {page}")
    print(f"Next:  open {page} in a browser")
    print(f"       or watch the study in optuna-dashboard:  optuna-dashboard {url}")
    print(f"       or print the summary again:  agenttts report {options.out}")
    return 0


def _search(study: optuna.Study, objective: MultiStageObjective, n_trials: int) -> None:
    """Run a study's trials, and print what they took."""
    started = time.perf_counter()
    study.optimize(objective, n_trials=n_trials, callbacks=[PrintTrials()])
    seconds = time.perf_counter() - started
    tokens, naive = (
        sum(trial.user_attrs[name] for trial in study.trials)
        for name in ("tokens", "naive_tokens")
    )
    print(
        f"{len(study.trials)} trials in {seconds:.0f} s; {tokens:,} tokens generated, "
        f"{share_text(tokens / naive)} of what they would have taken without reuse."
    )


def _tune_with_tpe(task: Task, limit: float, n_trials: int) -> tuple[Allocation, int]:
    """Tune the pipeline with `TPESampler`.

    Args:
        task: The task.
        limit: Spend at which to stop, in units of the task's cost model over all trials.
        n_trials: Maximum number of trials.

    Returns:
        The allocation of the best trial, and the number of trials.
    """
    study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=0))
    # A store of its own, so that it does not reuse the completions of the other search.
    with closing(CompletionStore()) as store, make_objective(task=task, store=store) as objective:
        study.optimize(objective, n_trials=n_trials, callbacks=[StopAtSpend(limit)])
    choices = task.read(study.best_params)
    assert choices is not None
    return task.allocation(choices), len(study.trials)


def _compare(allocations: Mapping[str, Allocation], objective: MultiStageObjective) -> None:
    """Print costs of allocations, and their scores on held-out problems."""
    task, problems = objective.task, make_problems("test", _HELD_OUT)
    unit = task.cost_model.unit
    print(f"On {len(problems)} held-out problems (± standard error), cost in {unit} per instance")
    rows = []
    for name, allocation in allocations.items():
        mean = objective.evaluate(allocation, problems).mean
        error = math.sqrt(mean * (1 - mean) / len(problems))
        cost = f"{task.cost(allocation):.1f}"
        rows.append(((name, f"{mean:.3f} ± {error:.3f}", cost), allocation))
    print("\n".join(f"  {line}" for line in allocation_table(("", "score", "cost"), rows)))


def _size(model: Model) -> float:
    return model.parameters or 0.0
