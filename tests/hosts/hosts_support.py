"""The same three searches in every host: TPE as the control, then ours without and with a task.

The pipeline writes its own ranges, as a program that used TPE before does; the task is README's.
"""

import logging
import os
import sys

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task

NAMES = "{stage}.{part}"
"""Names of parameters; hosts that cannot have dots in names use another pattern."""
STAGES = ("retrieval", "answer")
MODELS = ("small-7B", "large-72B")
LOW, HIGH = 1, 8
"""Range of samples in every stage: 256 allocations, 144 of them within the budget."""
N_TRIALS = 16
REPEATS = 2
"""Trials of a search that may repeat an allocation."""
SLACK = 0.04
"""Score by which a search may end below TPE's: a tenth of what scores range over, .44 to .82."""

_logger = logging.getLogger("hosts")


def make_task(names=NAMES):
    """Return README's task, with parameters named as the host names them."""
    lengths = {"retrieval": (2048, 128), "answer": (256, 64)}
    models = [Model("small-7B", parameters=7e9), Model("large-72B", parameters=72e9)]
    stages = [
        Stage(
            stage,
            models=models,
            prompt_tokens=prompt,
            generation_tokens=generation,
            model_parameter=names.format(stage=stage, part="model"),
            samples_parameter=names.format(stage=stage, part="samples"),
        )
        for stage, (prompt, generation) in lengths.items()
    ]
    return Task(name="qa", budget=900, stages=stages)


def make_sampler(name, names=NAMES):
    """Return the sampler of one of the three searches: "TPE", "ours" or "task"."""
    if name == "TPE":
        return TPESampler(seed=0)
    return AgentTTSSampler(make_task(names) if name == "task" else None, seed=0)


def distributions(names=NAMES):
    """Return the search space, for hosts that want one before the search."""
    space = {}
    for stage in STAGES:
        space[names.format(stage=stage, part="model")] = CategoricalDistribution(MODELS)
        space[names.format(stage=stage, part="samples")] = IntDistribution(LOW, HIGH)
    return space


def suggest(trial, names=NAMES):
    """Suggest the pipeline's parameters in its own ranges, not with `Task.suggest`."""
    params = {}
    for stage in STAGES:
        model, samples = (names.format(stage=stage, part=part) for part in ("model", "samples"))
        params[model] = trial.suggest_categorical(model, MODELS)
        params[samples] = trial.suggest_int(samples, LOW, HIGH)
    return params


def allocation_of(params, names=NAMES):
    """Return the allocation that parameters say."""
    return {
        stage: (
            params[names.format(stage=stage, part="model")],
            params[names.format(stage=stage, part="samples")],
        )
        for stage in STAGES
    }


def score(params, names=NAMES):
    """Score without noise: retrieval saturates, answers peak at three samples."""
    retrieval, answer = allocation_of(params, names).values()
    found = {"small-7B": 0.45, "large-72B": 0.5}[retrieval[0]] + 0.04 * min(retrieval[1], 5)
    return found + {"small-7B": 0.12, "large-72B": 0.1}[answer[0]] - 0.03 * abs(answer[1] - 3)


def objective(trial):
    """Score an allocation that is suggested in the pipeline's own ranges."""
    return score(suggest(trial))


def params_of(study):
    """Return the parameters of every trial of a study."""
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def work_on_journal(path, name, n_trials):
    """Run a worker's trials of a study in a journal file; for another process to call."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storage = JournalStorage(JournalFileBackend(path))
    study = optuna.load_study(study_name=name, storage=storage, sampler=make_sampler(name))
    study.optimize(objective, n_trials=n_trials)


def compare(search, *, names=NAMES, n_trials=N_TRIALS):
    """Run the three searches in a host, and check distinct allocations, budget and best score.

    Args:
        search: Function of a sampler's name, as for `make_sampler`, and a number of trials, that
            runs a search in the host and returns the parameters of its trials.
        names: Pattern of the parameters' names in the host.
        n_trials: Trials of each search.
    """
    task = make_task(names)
    rows, wrong, best, within = [], [], {}, {}
    for name in ("TPE", "ours", "task"):
        trials = search(name, n_trials)
        fit = [params for params in trials if task.cost(allocation_of(params, names)) <= 900]
        distinct = len({tuple(sorted(params.items())) for params in trials})
        best[name] = max(score(params, names) for params in trials)
        within[name] = max((score(params, names) for params in fit), default=0.0)
        rows.append(
            f"{name}: {len(trials)} trials, {distinct} distinct, {len(fit)} within the budget, "
            f"best {best[name]:.3f}, best within the budget {within[name]:.3f}"
        )
        _logger.info(rows[-1])
        if len(trials) != n_trials:
            wrong.append(f"{name}: {n_trials} trials were wanted")
        if name != "TPE" and distinct < n_trials - REPEATS:
            wrong.append(f"{name}: repeats allocations")
        if name == "task" and len(fit) < len(trials):
            wrong.append(f"{name}: exceeds the budget")
    # Without a task no budget is known; with one, allocations over it do not count.
    if best["ours"] < best["TPE"] - SLACK:
        wrong.append("ours: ends below TPE")
    if within["task"] < within["TPE"] - SLACK:
        wrong.append("task: ends below TPE")
    assert not wrong, "\n".join([*wrong, *rows])


def environment(**more):
    """Return the environment of a program that imports what this process does."""
    path = os.pathsep.join(filter(None, sys.path))
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    return {**os.environ, **quiet, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **more}
