"""Searches on the storages that several machines can share, by two workers of one study."""

import optuna
import pytest
from hosts_support import compare, make_sampler, objective, params_of
from storages_support import open_grpc, open_journal, open_postgresql


@pytest.mark.slow
@pytest.mark.parametrize("opened", [open_journal, open_grpc, open_postgresql])
def test_storage(opened, tmp_path):
    """The three searches compare as stated, half by one worker and half by another."""
    with opened(tmp_path) as storage:

        def search(name, n_trials):
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
            for _ in range(2):
                worker = optuna.load_study(
                    study_name=name, storage=storage, sampler=make_sampler(name)
                )
                worker.optimize(objective, n_trials=n_trials // 2)
            return params_of(study)

        compare(search)
