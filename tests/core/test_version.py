"""The version is written once, and the wheel, both packages and the citation agree on it."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

import optuna_agenttts
import optuna_agenttts_integrations

ROOT = Path(__file__).parents[2]
CITATION, INSTALL = ROOT / "CITATION.cff", ROOT / "docs/start/install.md"


def test_packages_and_metadata_agree():
    """Both packages state the version that was installed."""
    assert optuna_agenttts.__version__ == version("optuna-agenttts")
    assert optuna_agenttts_integrations.__version__ == optuna_agenttts.__version__


def test_version_is_one_of_pep_440():
    """Three numbers, and a suffix for what is not final."""
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|(a|b|rc)\d+)?", optuna_agenttts.__version__)


@pytest.mark.skipif(not CITATION.exists(), reason="needs the source tree")
def test_citation_names_the_version():
    """Who cites the package cites the version that they have."""
    assert f"\nversion: {optuna_agenttts.__version__}\n" in CITATION.read_text()


@pytest.mark.skipif(not INSTALL.exists(), reason="needs the source tree")
def test_every_extra_is_described():
    """The page on installing says what each one is for."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = INSTALL.read_text("utf-8").splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == set(project["optional-dependencies"])
