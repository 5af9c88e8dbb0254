"""Importing the package is cheap: what only some programs need is imported on first use."""

import subprocess
import sys

import pytest

import optuna_agenttts
import optuna_agenttts.llm

HEAVY = ("httpx", "httpx2", "huggingface_hub", "optuna_dashboard", "scipy", "torch")


@pytest.mark.parametrize(
    "program",
    [
        "import optuna_agenttts",
        "from optuna_agenttts.llm import ChatModel, ScriptedChatModel, connect",
        "from optuna_agenttts import AgentTTSSampler; AgentTTSSampler()",
    ],
)
def test_heavy_packages_are_not_imported(program):
    """Neither import nor sampler loads an HTTP client, the dashboard, SciPy or PyTorch."""
    code = f"{program}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", [optuna_agenttts, optuna_agenttts.llm])
def test_every_public_name_is_found(package):
    """Lazy names are listed and imported like others, and unknown ones are errors."""
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is getattr(package, name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_star_import_gives_every_public_name():
    """`from ... import *` includes the lazy names."""
    namespace = {}
    exec("from optuna_agenttts import *", namespace)
    assert set(optuna_agenttts.__all__) <= set(namespace)
