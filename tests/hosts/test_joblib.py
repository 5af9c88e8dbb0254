"""Searches by joblib's processes, which share a study in a journal file."""

import optuna
import pytest
from hosts_support import compare, params_of, work_on_journal
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

joblib = pytest.importorskip("joblib")


@pytest.mark.slow
def test_joblib(tmp_path):
    """The three searches compare as stated with two processes at a time."""
    path = str(tmp_path / "journal.log")

    def search(name, n_trials):
        storage = JournalStorage(JournalFileBackend(path))
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        worker = joblib.delayed(work_on_journal)
        joblib.Parallel(n_jobs=2)(worker(path, name, n_trials // 2) for _ in range(2))
        return params_of(study)

    compare(search)
