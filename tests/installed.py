"""Fail unless both packages are imported from where they were installed, marked as typed."""

from pathlib import Path

import optuna_agenttts
import optuna_agenttts_integrations

for package in (optuna_agenttts, optuna_agenttts_integrations):
    folder = Path(package.__file__).parent
    assert "site-packages" in folder.parts, folder
    assert (folder / "py.typed").exists(), folder
