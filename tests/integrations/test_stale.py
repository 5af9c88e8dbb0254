"""``agenttts studies --stale``: which trials it names, and which it fails."""

import datetime

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import RDBStorage
from sqlalchemy import text

from optuna_agenttts import AgentTTSError
from optuna_agenttts_integrations.cli import main
from optuna_agenttts_integrations.cli.stale import seconds_of


@pytest.fixture
def url(tmp_path):
    """Create studies with a finished trial and running ones: silent, alive, without heartbeats."""
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    beating = RDBStorage(url, heartbeat_interval=60)
    for name in ("first", "second"):
        study = optuna.create_study(study_name=name, storage=url)
        study.tell(study.ask(), 1.0)
        trials = [study.ask() for _ in range(3)]
        trials[0].suggest_int("answer.samples", 1, 8)
        for trial in trials[:2]:
            beating.record_heartbeat(trial._trial_id)
        with beating.engine.begin() as connection:
            # The database's clock is UTC.
            then = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=3)
            connection.execute(
                text("UPDATE trial_heartbeats SET heartbeat = :then WHERE trial_id = :trial"),
                {"then": then.replace(tzinfo=None), "trial": trials[0]._trial_id},
            )
    beating.engine.dispose()
    return url


def states(url, name="first"):
    """Return the states of a study's trials."""
    study = optuna.load_study(study_name=name, storage=url)
    return [trial.state.name for trial in study.trials]


def test_silent_trials_are_named(url, capsys):
    """Those that still send heartbeats are not, and those without are counted."""
    assert main(["studies", url, "--stale"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["first", "1"], ["second", "1"]]
    assert "3 h ago" in lines[1]
    assert "answer.samples=" in lines[1]
    assert lines[3].startswith("2 running trials without heartbeats, for up to ")
    assert states(url) == ["COMPLETE", "RUNNING", "RUNNING", "RUNNING"]


def test_only_named_trials_are_failed(url, capsys):
    """In one study or in all, and what was done is printed."""
    assert main(["studies", url, "--study", "first", "--stale", "--fail"]) == 0
    assert "Failed trial 1 of study 'first'.\n" in capsys.readouterr().out
    assert states(url) == ["COMPLETE", "FAIL", "RUNNING", "RUNNING"]
    assert states(url, "second") == ["COMPLETE", "RUNNING", "RUNNING", "RUNNING"]
    assert main(["studies", url, "--study", "first", "--stale", "--fail"]) == 0
    assert capsys.readouterr().out.startswith("No stale trial among 2 running trials.\n")


def test_older_trials_are_named_by_their_last_sign(url, capsys):
    """By the last heartbeat, or by the start of those without."""
    assert main(["studies", url, "--stale", "--older-than", "2h"]) == 0
    assert "without heartbeats" not in (printed := capsys.readouterr().out)
    assert "\nfirst       1" in printed
    assert main(["studies", url, "--stale", "--older-than", "4h"]) == 0
    assert capsys.readouterr().out == "No stale trial among 6 running trials.\n"
    assert main(["studies", url, "--stale", "--older-than", "0s", "--fail"]) == 0
    assert states(url)[3] == states(url, "second")[3] == "FAIL"


@pytest.mark.parametrize("options", [["--fail"], ["--older-than", "1h"]])
def test_options_of_stale_trials_need_it(url, options, capsys):
    assert main(["studies", url, *options]) == 1
    assert "options of `--stale`" in capsys.readouterr().err
    assert "FAIL" not in states(url)


def test_an_unknown_study_is_an_error(url, capsys):
    assert main(["studies", url, "--study", "third", "--stale", "--fail"]) == 1
    assert "must be one of first, second" in capsys.readouterr().err


def test_a_trial_that_finishes_meanwhile_is_kept(url, capsys, monkeypatch):
    """Its result is not overwritten."""
    from optuna_agenttts_integrations.cli import stale

    fail = stale.fail_trial

    def late(study, trial):
        study._storage.set_trial_state_values(
            trial._trial_id, optuna.trial.TrialState.COMPLETE, [2.0]
        )
        fail(study, trial)

    monkeypatch.setattr(stale, "fail_trial", late)
    assert main(["studies", url, "--study", "first", "--stale", "--fail"]) == 0
    assert "Kept trial 1 of study 'first': it has finished" in capsys.readouterr().out
    assert states(url)[:2] == ["COMPLETE", "COMPLETE"]


@given(number=st.integers(0, 10**6), unit=st.sampled_from("smhd"))
def test_durations(number, unit):
    assert seconds_of(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


@pytest.mark.parametrize("given", ["", "1", "h", "-1h", "1 hour", "nan", "1e3s", "9" * 99 + "d"])
def test_other_durations_are_errors(given):
    with pytest.raises(AgentTTSError, match="such as 90m, 2h or 1d"):
        seconds_of(given)
