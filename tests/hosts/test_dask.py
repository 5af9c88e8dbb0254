"""Searches by the workers of a Dask cluster, through `DaskStorage`."""

import optuna
import pytest
from hosts_support import compare, make_sampler, objective, params_of

integration = pytest.importorskip("optuna_integration")
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.hosts


def test_dask():
    """The three searches compare as stated with two workers at a time."""
    cluster = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.Client(processes=False, **cluster) as client:

        def search(name, n_trials):
            study = optuna.create_study(
                study_name=name,
                storage=integration.DaskStorage(),
                direction="maximize",
                sampler=make_sampler(name),
            )
            tasks = [
                client.submit(study.optimize, objective, n_trials=n_trials // 2, pure=False)
                for _ in range(2)
            ]
            distributed.wait(tasks)
            assert all(task.status == "finished" for task in tasks)
            return params_of(study)

        compare(search)
