"""The package for OptunaHub's registry loads as users will load it, and its texts are complete."""

import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hosts_support import compare, make_task, objective, params_of

import optuna_agenttts

optunahub = pytest.importorskip("optunahub")
yaml = pytest.importorskip("yaml")

REGISTRY = Path(__file__).parents[2] / "integrations/optunahub"
NAME = "samplers/agenttts"
PACKAGE = REGISTRY / "package" / NAME

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(not REGISTRY.exists(), reason="needs the source tree"),
]


@pytest.fixture
def module():
    """Load the package from the folder."""
    return optunahub.load_local_module(NAME, registry_root=str(REGISTRY / "package"))


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """Put the package into a registry of the name and form of OptunaHub's, on this machine."""
    registry = tmp_path / "remote/optuna/optunahub-registry"
    registry.parent.mkdir(parents=True)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (
        ["cp", "-r", str(REGISTRY), str(registry)],
        [*git, "-C", str(registry), "init", "-q", "-b", "main"],
        [*git, "-C", str(registry), "add", "."],
        [*git, "-C", str(registry), "commit", "-q", "-m", "Add the package"],
    ):
        subprocess.run(command, check=True)
    monkeypatch.setenv("OPTUNAHUB_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/remote/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    return tmp_path


def test_it_exports_what_the_package_has(module):
    """The classes themselves, not others of these names."""
    for name in module.__all__:
        assert getattr(module, name) is getattr(optuna_agenttts, name)
    assert issubclass(module.AgentTTSSampler, optuna.samplers.BaseSampler)


def test_searches_compare_as_in_other_hosts(module):
    """With TPE, without a task, and with one."""

    def search(name, n_trials):
        sampler = {
            "TPE": lambda: optuna.samplers.TPESampler(seed=0),
            "ours": lambda: module.AgentTTSSampler(seed=0),
            "task": lambda: module.AgentTTSSampler(make_task(), seed=0),
        }[name]()
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=n_trials)
        return params_of(study)

    compare(search)


def test_readme_and_example_run_as_printed_once_the_package_is_merged(merged, capfd):
    """`load_module` takes the package from the registry, by git."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (merged / "block.py").write_text(block, encoding="utf-8")
    for program in (merged / "block.py", PACKAGE / "example.py"):
        subprocess.run([sys.executable, str(program)], check=True, cwd=merged)
        assert "large-72B" in capfd.readouterr().out
    loaded = merged / "cache/github.com/optuna/optunahub-registry/main/package" / NAME
    assert (loaded / "__init__.py").read_text() == (PACKAGE / "__init__.py").read_text()


def test_texts_have_the_form_that_the_registry_demands(module):
    """Front matter, sections, licence, requirements; no HTML, which the registry removes."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    names = "author title description tags optuna_versions license"
    assert list(facts) == names.split()
    assert all(facts.values())
    assert "sampler" in facts["tags"]
    assert all(isinstance(version, str) for version in facts["optuna_versions"])
    sections = re.findall(r"^## (.*)$", body, re.MULTILINE)
    assert sections == ["Abstract", "APIs", "Installation", "Example", "Others"]
    assert all(f"`{name}" in body for name in module.__all__)
    assert "@inproceedings" in body
    assert not re.search(r"</?\w+>", re.sub(r"`[^`]*`", "", body))
    ours = (REGISTRY.parents[1] / "LICENSE").read_text(encoding="utf-8")
    assert (PACKAGE / "LICENSE").read_text(encoding="utf-8") == ours
    assert "optuna-agenttts" in (PACKAGE / "requirements.txt").read_text().split()
