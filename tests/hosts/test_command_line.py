"""Searches around the command `optuna`: it creates, tells and shows; Python asks.

`optuna ask --sampler` finds samplers in `optuna.samplers` only, so only TPE is asked for there.
"""

import json
import sys

import optuna
import pytest
from hosts_support import compare, distributions, make_sampler, params_of, score
from optuna.cli import main
from optuna.distributions import distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `optuna` with arguments, and return what it prints."""

    def run(*arguments):
        # Sixty processes would take a minute, for the same code.
        monkeypatch.setattr(sys, "argv", ["optuna", *arguments, "--quiet"])
        capsys.readouterr()
        assert main() == 0
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_command_line(command, tmp_path):
    """The three searches compare as stated, with every value told by the command."""
    space = {name: json.loads(distribution_to_json(d)) for name, d in distributions().items()}
    ask = ["--sampler", "TPESampler", "--sampler-kwargs", '{"seed": 0}']
    ask += ["--search-space", json.dumps(space), "--format", "json"]

    def search(name, n_trials):
        path = str(tmp_path / "journal.log")
        storage = JournalStorage(JournalFileBackend(path))
        where = ("--storage", path, "--storage-class", "JournalFileBackend", "--study-name", name)
        command("create-study", *where, "--direction", "maximize")
        for number in range(n_trials):
            if name == "TPE":
                params = json.loads(command("ask", *where, *ask))["params"]
            else:
                sampler = make_sampler(name)
                study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
                params = study.ask(distributions()).params
            value = str(score(params))
            command("tell", *where, "--trial-number", str(number), "--values", value)
        study = optuna.load_study(study_name=name, storage=storage)
        best = json.loads(command("best-trial", *where, "--format", "json"))
        assert best["params"] == study.best_params
        return params_of(study)

    compare(search)
