"""Programs are type-checked against the public API as a user's mypy would, with ``--strict``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import optuna_agenttts
import optuna_agenttts_integrations

pytest.importorskip("mypy", reason="needs mypy (pip install -e '.[dev]')")

HERE = Path(__file__).parent
FOLDERS = [
    Path(package.__file__).parent.parent
    for package in (optuna_agenttts, optuna_agenttts_integrations)
]


@pytest.mark.slow
def test_programs_are_checked_as_their_authors_would(tmp_path):
    """Documented uses have the stated types, and each mistake is found, by its code."""
    programs = [HERE / "public_api.py", HERE / "misuse.py"]
    # Installed packages are found by their `py.typed`; those of a source tree by their folder.
    sources = [str(folder) for folder in FOLDERS if folder.name != "site-packages"]
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir"),
            *(str(tmp_path), "--follow-imports=silent", *map(str, programs)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "MYPYPATH": os.pathsep.join(sources)},
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "no issues found in 2 source files" in checked.stdout
