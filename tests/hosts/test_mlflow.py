"""Searches that MLflow records, and searches whose storage MLflow is."""

import optuna
import pytest
from hosts_support import compare, make_sampler, objective, params_of

integration = pytest.importorskip("optuna_integration")
mlflow = pytest.importorskip("mlflow")
mlflow_optuna = pytest.importorskip("mlflow.optuna")

pytestmark = pytest.mark.hosts


@pytest.fixture
def tracking(tmp_path):
    """Keep runs in an SQLite file."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    return uri


def test_callback(tracking):
    """The three searches compare as stated while `MLflowCallback` writes a run for each trial."""

    def search(name, n_trials):
        study = optuna.create_study(
            study_name=name, direction="maximize", sampler=make_sampler(name)
        )
        record = integration.MLflowCallback(tracking_uri=tracking, metric_name="score")
        study.optimize(objective, n_trials=n_trials, callbacks=[record])
        runs = mlflow.search_runs(experiment_names=[name])
        assert sorted(runs["metrics.score"]) == sorted(trial.value for trial in study.trials)
        return params_of(study)

    compare(search)


def test_storage(tracking):
    """The three searches compare as stated with trials kept as runs."""
    storage = mlflow_optuna.MlflowStorage(experiment_id=mlflow.create_experiment("searches"))

    def search(name, n_trials):
        study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", sampler=make_sampler(name)
        )
        study.optimize(objective, n_trials=n_trials)
        return params_of(study)

    compare(search, n_trials=12)
