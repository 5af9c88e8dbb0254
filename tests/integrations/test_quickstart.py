"""`agenttts quickstart` runs a search that needs nothing but the package."""

import optuna
import pytest

from optuna_agenttts_integrations.cli import main


@pytest.mark.slow
def test_it_searches_compares_and_keeps_the_study(tmp_path, monkeypatch, capsys):
    """In any folder; a second run keeps the study of the first one."""
    monkeypatch.chdir(tmp_path)
    for run in (1, 2):
        assert main(["quickstart", "--trials", "2"]) == 0
        assert f"quickstart {run}" in optuna.get_all_study_names("sqlite:///quickstart.db")
    printed = capsys.readouterr().out
    for words in ("90 % interval", "On 200 held-out problems", "TPE (", "Next: "):
        assert words in printed
    assert {path.name for path in tmp_path.iterdir()} == {"quickstart.db", "quickstart.html"}
    study = optuna.load_study(study_name="quickstart 1", storage="sqlite:///quickstart.db")
    assert len(study.trials) == 2
    assert "quickstart 2" in (tmp_path / "quickstart.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trials", "0"], "`--trials` must be positive, got 0."),
        (["--out", "missing/x.db"], "`--out` must be a file that can be written"),
        (["--out", "text.db"], "`--out` must be a file that can be written"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, capsys, arguments, words):
    """In one line, before anything runs; files are left as they were."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("not a database")
    assert main(["quickstart", *arguments]) == 1
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out
    assert [path.read_text() for path in tmp_path.iterdir()] == ["not a database"]
