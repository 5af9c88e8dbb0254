"""Searches through `Study.ask` and `Study.tell`, as other programs call Optuna."""

import optuna
import pytest
from hosts_support import compare, distributions, make_sampler, params_of, score, suggest


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed distributions", "define-by-run"])
def test_ask_and_tell(fixed):
    """The three searches compare as stated, however parameters are asked for."""

    def search(name, n_trials):
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name))
        for _ in range(n_trials):
            trial = study.ask(distributions() if fixed else None)
            study.tell(trial, score(trial.params if fixed else suggest(trial)))
        return params_of(study)

    compare(search)


def test_batches():
    """The same holds where two trials are asked for before they are told."""

    def search(name, n_trials):
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name))
        for _ in range(n_trials // 2):
            for trial in [study.ask(distributions()) for _ in range(2)]:
                study.tell(trial, score(trial.params))
        return params_of(study)

    compare(search)
