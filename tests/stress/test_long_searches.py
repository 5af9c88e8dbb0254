"""Searches that are long, or shared by many workers. They take minutes and load all cores."""

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import optuna
import pytest
from core_support import allocation_of, objective, open_storage, params_of, wiki_task
from optuna.trial import TrialState

from optuna_agenttts import AgentTTSSampler

pytestmark = pytest.mark.stress

TASK = wiki_task()


def work(kind, path, n_trials):
    """Run trials of a shared study in a process of its own."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.load_study(
        study_name="s", storage=open_storage(kind, path), sampler=AgentTTSSampler(TASK)
    )
    study.optimize(objective, n_trials=n_trials)


def test_an_ask_takes_no_longer_in_a_search_of_a_thousand_trials():
    """The evidence that is kept is bounded, and so is the time for a proposal."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    seconds = []
    for _ in range(1000):
        start = time.perf_counter()
        trial = study.ask()
        value = objective(trial)
        seconds.append(time.perf_counter() - start)
        study.tell(trial, value)
    assert statistics.median(seconds[-100:]) < 3 * statistics.median(seconds[100:200])


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_eight_processes_share_a_long_study(tmp_path, kind):
    """All trials complete within the budget, and few of them repeat another."""
    path = tmp_path / "study"
    storage = open_storage(kind, path)
    optuna.create_study(study_name="s", storage=storage, direction="maximize")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(8, mp_context=context) as pool:
        for future in [pool.submit(work, kind, path, 25) for _ in range(8)]:
            future.result(timeout=600)
    study = optuna.load_study(study_name="s", storage=storage)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 200
    assert all(TASK.fits(allocation_of(trial)) for trial in study.trials)
    assert 200 - len({tuple(sorted(params.items())) for params in params_of(study)}) <= 10
    if kind == "sqlite":
        storage.engine.dispose()
