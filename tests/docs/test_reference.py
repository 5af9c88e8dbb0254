"""The reference is complete: names, parameters, commands, variables, stored keys, errors."""

import argparse
import ast
import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

import optuna
import pytest

from optuna_agenttts import AgentTTSError, AgentTTSSampler, confirm, storage
from optuna_agenttts_integrations.playground import make_objective, make_problems

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"

if not REFERENCE.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

sys.path.insert(0, str(ROOT / "docs/_extension"))
from site_names import PUBLIC_MODULES, command_parsers, documentation, public_names  # noqa: E402

LISTED = {
    name
    for page in REFERENCE.glob("*.md")
    for name in re.findall(r"^   ~([\w.]+)$", page.read_text("utf-8"), re.M)
}


def text_of(name):
    """Return a page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


def value_of(name):
    """Return the object with a qualified name."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def described(text):
    """Return the parameters in the section of arguments of a docstring."""
    section = re.search(r"^Args:\n((?:(?: .*)?\n)*)", f"{text}\n", re.M)
    found = re.findall(r"^    \*{0,2}(\w+):", section[1] if section else "", re.M)
    return set(found)


def parameters(value):
    """Return the names of a function's or a constructor's parameters."""
    if getattr(value, "_is_protocol", False):
        return []
    if inspect.isclass(value) and issubclass(value, AgentTTSError):
        value = vars(value).get("__init__", lambda: None)
    try:
        names = inspect.signature(value).parameters
    except (TypeError, ValueError):
        return []
    return [name for name in names if name not in ("self", "cls")]


def members(value):
    """Yield (owner, name, function) of the public methods of a class of this package."""
    for owner in value.__mro__:
        if not owner.__module__.startswith("optuna_agenttts"):
            continue
        for name, member in vars(owner).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield owner, name, function


def test_every_public_name_is_listed_once():
    """By one of the names that it is imported under."""
    listed = [value_of(name) for name in LISTED]
    missing = [name for name in public_names() if not any(value_of(name) is v for v in listed)]
    assert not missing
    names = [name for name in LISTED if isinstance(value_of(name), type)]
    assert len({value_of(name) for name in names}) == len(names)


def test_names_are_imported_from_public_modules():
    """Those that pages, examples and notebooks import."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *ROOT.glob("examples/*.py")]
    found = re.compile(
        r"^ *from (optuna_agenttts[\w.]*) import (?:\(([\w,\s]+)\)|([\w, ]+)$)", re.M
    )
    imported = {
        f"{module}.{name.split(' as ')[0].strip()}"
        for file in files
        if "_build" not in file.parts
        for module, *names in found.findall(file.read_text("utf-8"))
        for name in "".join(names).split(",")
        if name.strip()
    }
    assert len(imported) > 30
    listed = [value_of(name) for name in LISTED]
    values = {name: value_of(name) for name in imported}
    missing = [
        name
        for name, value in values.items()
        if not inspect.ismodule(value) and not any(value is v for v in listed)
    ]
    assert not missing


@pytest.mark.parametrize("name", sorted(LISTED))
def test_every_parameter_is_described(name):
    """Also those of methods, which may be described by the class that they override."""
    value = value_of(name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert value.__doc__
    owner = value if inspect.isclass(value) else None
    missing = set(parameters(value)) - described(documentation(owner, "__init__", value))
    assert not missing
    for base, method, function in members(value) if inspect.isclass(value) else ():
        text = documentation(base, method, function)
        assert text, f"{method} has no docstring"
        assert not set(parameters(function)) - described(text), method


def test_every_command_is_described():
    """With a description of each of its options."""
    page = text_of("cli.md")
    parsers = command_parsers()
    assert set(re.findall(r"^```\{command\} (.*)$", page, re.M)) == set(parsers)
    for parser in parsers.values():
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), action.dest


def test_every_environment_variable_is_listed():
    """Those that the code reads."""
    page, read = text_of("environment.md"), set()
    for package in ("optuna_agenttts", "integrations/optuna_agenttts_integrations"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text("utf-8")
            read |= set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", text))
            read |= set(re.findall(r"^_VARIABLE = \"(\w+)\"", text, re.M))
    assert {"OPTUNA_AGENTTTS_LLM", "NO_COLOR", "SSL_CERT_FILE"} <= read
    assert all(f"`{name}`" in page for name in read)


def test_every_stored_key_is_listed():
    """The constants of the only module that writes attributes."""
    page = text_of("storage.md")
    tree = ast.parse(inspect.getsource(storage))
    keys = {
        getattr(storage, node.targets[0].id)
        for node in tree.body
        if isinstance(node, ast.Assign) and "PREFIX +" in ast.unparse(node)
    }
    assert len(keys) > 15
    assert [key for key in keys if f"`{key}" not in page] == []


def test_a_search_writes_the_listed_attributes(tmp_path):
    """A search and its confirmation, on a storage."""
    page = text_of("storage.md")
    with make_objective(problems=make_problems("search", 10), progress=False) as objective:
        study = optuna.create_study(
            storage=f"sqlite:///{tmp_path / 'study.db'}",
            direction="maximize",
            sampler=AgentTTSSampler(objective.task),
        )
        study.optimize(objective, n_trials=3)
        confirm(study, objective, make_problems("search", 40)[10:], evaluations=40)
    system = study._storage.get_study_system_attrs(study._study_id)
    written = {key for trial in study.trials for key in (*trial.user_attrs, *trial.system_attrs)}
    written |= {re.sub(r"\d+", "1", key) for key in study.user_attrs}
    written |= {":".join(key.split(":")[:2]) for key in system if key.startswith("agenttts:")}
    assert len(written) > 15
    assert [key for key in sorted(written) if f"`{key}" not in page] == []


def test_every_error_has_a_remedy():
    """A row of the table for each error that is imported from a public module."""
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", text_of("errors.md"), re.M)
    errors = {
        name.rpartition(".")[2]
        for name in public_names()
        if isinstance(value_of(name), type) and issubclass(value_of(name), AgentTTSError)
    }
    assert errors - {"AgentTTSError", "ChatError"} == set(rows)


def test_the_front_page_of_the_reference_lists_the_public_modules():
    """And nothing else."""
    found = re.findall(r"^\| `(optuna_agenttts[\w.]*)` \|", text_of("index.md"), re.M)
    parents = {module for module in found if module not in PUBLIC_MODULES}
    assert all(any(name.startswith(f"{p}.") for name in PUBLIC_MODULES) for p in parents)
    assert all(
        any(name == m or name.startswith(f"{m}.") for m in found) for name in PUBLIC_MODULES
    )
