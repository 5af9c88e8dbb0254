"""`agenttts plot` writes figures of studies to files."""

import re
import shutil
import sys

import optuna
import pytest
from pipeline_support import make_task
from plotly.io import _kaleido

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.visualization.figures import FIGURES
from optuna_agenttts_integrations.cli import main


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Return the URL of a storage with a short study."""
    url = f"sqlite:///{tmp_path_factory.mktemp('plot')}/study.db"
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="mine", storage=url, direction="maximize", sampler=AgentTTSSampler()
    )
    task = make_task()

    def answer(trial):
        task.suggest(trial)
        outcomes = [float(trial.number), 0.0]
        for step, outcome in enumerate(outcomes):
            trial.report(outcome, step)
        return sum(outcomes) / 2

    study.optimize(answer, n_trials=6)
    optuna.logging.set_verbosity(verbosity)
    return url


@pytest.mark.parametrize("name", FIGURES)
def test_pages_need_no_network(storage, name, tmp_path, monkeypatch, capsys):
    """A page is named after its figure unless `-o` names it; its path is printed."""
    monkeypatch.chdir(tmp_path)
    assert main(["plot", name, storage]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{name}.html\n", "")
    page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in page
    assert not re.search(r"""<(?:script|link|img)[^>]*(?:src|href)=["']http""", page)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="pictures need Chromium")
@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG\r\n"), ("svg", b"<svg")])
def test_pictures(storage, kind, start, tmp_path):
    path = tmp_path / f"spend.{kind}"
    assert main(["plot", "spend", storage, "-o", str(path), "--width", "400"]) == 0
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.bmp"], r"`--output` must end with .html, .png, .svg or .pdf, got 'x.bmp'."),
        (["--width", "0"], r"`--width` must be positive, got 0."),
        (["-o", "no/folder/x.html"], r"No such file or directory: 'no/folder/x.html'"),
    ],
)
def test_errors_are_one_line(storage, arguments, message, capsys):
    assert main(["plot", "spend", storage, *arguments]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("missing", ["kaleido", "plotly"])
def test_missing_packages_are_named(storage, missing, tmp_path, capsys, monkeypatch):
    """With what to install, and what works without."""
    if missing == "kaleido":
        monkeypatch.setattr(_kaleido, "kaleido_available", lambda: False)
    else:
        monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["plot", "spend", storage, "-o", str(tmp_path / "x.png")]) == 1
    error = capsys.readouterr().err
    assert "optuna-agenttts[plot]" in error
    if missing == "kaleido":
        assert "Write .html" in error


def test_unknown_figures_are_rejected_with_the_known_ones(storage, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["plot", "nothing", storage])
    assert caught.value.code == 2
    assert "allocation-map" in capsys.readouterr().err
