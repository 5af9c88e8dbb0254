"""Imports between the rooms of both packages run one way, as drawn in docs/design.md."""

import ast
from functools import cache
from pathlib import Path

import optuna_agenttts
import optuna_agenttts_integrations

CORE, INTEGRATIONS = "optuna_agenttts", "optuna_agenttts_integrations"
FOLDERS = {
    CORE: Path(optuna_agenttts.__file__).parent,
    INTEGRATIONS: Path(optuna_agenttts_integrations.__file__).parent,
}
# What each room may import, beside itself. Every list names rooms that stand above it only, so
# there are no circles.
ROOMS = {
    CORE: {
        "support": (),
        "exceptions": (),
        "storage": (),
        "task": ("exceptions", "storage", "support"),
        "planner": ("task",),
        "llm": ("exceptions", "support"),
        "models": ("llm", "task", "support", "exceptions"),
        "study": ("planner", "task", "storage", "support", "exceptions"),
        "agent": ("study", "planner", "llm", "task", "storage", "support", "exceptions"),
        "report": ("study", "planner", "task", "storage", "support", "exceptions"),
        "visualization": ("report", "task", "support", "exceptions"),
        "explanation": (
            *("visualization", "report", "study", "task"),
            *("storage", "support", "exceptions"),
        ),
        "confirmation": (
            *("explanation", "report", "study", "planner", "task"),
            *("storage", "support", "exceptions"),
        ),
        "sampler": (
            *("explanation", "agent", "study", "llm", "task"),
            *("storage", "support", "exceptions"),
        ),
        "carrying": ("sampler", "study", "task", "storage", "support", "exceptions"),
    },
    INTEGRATIONS: {
        "exceptions": (),
        "scoring": ("exceptions",),
        "calls": ("exceptions",),
        "pipeline": ("calls", "exceptions"),
        "instances": ("pipeline", "exceptions"),
        "lengths": ("pipeline",),
        "inspection": ("pipeline", "calls", "exceptions"),
        "check": ("inspection", "pipeline", "calls", "exceptions"),
        "check_pipeline": ("check", "inspection", "pipeline", "calls", "exceptions"),
        "pruning": ("exceptions",),
        "arguments": ("pipeline", "calls", "exceptions"),
        "limit": ("calls", "exceptions"),
        "splitting": ("instances", "limit"),
        "diagnosis": ("check_pipeline", "check", "inspection", "pipeline"),
        "stage_diagnostics": ("pipeline",),
        "objective": (
            *("diagnosis", "splitting", "lengths", "instances", "pruning", "arguments", "limit"),
            *("stage_diagnostics", "pipeline", "calls", "exceptions"),
        ),
        "tasks": ("objective", "instances", "pipeline", "scoring", "calls", "exceptions"),
        "testing": ("tasks", "pipeline", "exceptions"),
        "playground": ("testing", "objective", "pipeline", "calls", "exceptions"),
        "cli": ("playground", "objective", "check", "inspection", "calls"),
    },
}


@cache
def nodes_of(path):
    """Return the nodes of a file's syntax tree; parsing takes seconds, so it is done once."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports_of(path):
    """Return the dotted names of the modules that a file imports, wherever in the file."""
    names = []
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def arrows(package):
    """Return (room, imported room, file) for each import between rooms of a package."""
    folder = FOLDERS[package]
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).with_suffix("").parts[0]
        for name in imports_of(path):
            top, _, rest = name.partition(".")
            if top == package and rest and room != "__init__":
                other = rest.split(".")[0]
                # A public name, taken from the package itself, lives in no room of its own.
                assert other in ROOMS[package], f"{path} imports {name}: name its module"
                if other != room:
                    yield room, other, path


def test_every_module_belongs_to_a_room():
    for package, folder in FOLDERS.items():
        found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or is_room(path)}
        assert found - {"__init__"} == set(ROOMS[package])


def is_room(path):
    return (path / "__init__.py").exists()


def test_imports_run_one_way():
    for package, rooms in ROOMS.items():
        for room, other, path in arrows(package):
            assert other in rooms[room], f"{path}: `{room}` must not import `{other}`"


def test_the_rooms_have_no_circles():
    for rooms in ROOMS.values():
        order = list(rooms)
        for room, allowed in rooms.items():
            assert all(other in order for other in allowed)
            assert room not in allowed
        seen = set()
        while len(seen) < len(rooms):
            free = {r for r in rooms if r not in seen and set(rooms[r]) <= seen}
            assert free, f"a circle among {set(rooms) - seen}"
            seen |= free


def test_no_arrow_that_is_allowed_is_unused():
    """The table lists only imports that exist."""
    for package, rooms in ROOMS.items():
        used = {(room, other) for room, other, _ in arrows(package)}
        allowed = {(room, other) for room, others in rooms.items() for other in others}
        assert allowed <= used, f"unused: {allowed - used}"


def test_the_core_never_imports_the_integrations():
    for path in FOLDERS[CORE].rglob("*.py"):
        assert not any(name.split(".")[0] == INTEGRATIONS for name in imports_of(path)), path


def test_only_storage_writes_attributes():
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            if package == CORE and path.name == "storage.py" and path.parent == folder:
                continue
            for node in nodes_of(path):
                if isinstance(node, ast.Attribute):
                    name = node.attr
                    assert not (name.startswith("set_") and name.endswith("_attr")), path


def test_no_module_is_named_like_a_public_function():
    """`import optuna_agenttts.x` must give a module, not a function of that name."""
    for package, folder in FOLDERS.items():
        for init in folder.rglob("__init__.py"):
            parts = init.parent.relative_to(folder).parts
            module = __import__(".".join((package, *parts)), fromlist=["x"])
            modules = {p.stem for p in init.parent.iterdir() if p.suffix == ".py" or is_room(p)}
            public = {
                name for name in getattr(module, "__all__", ()) if callable(getattr(module, name))
            }
            assert not modules & public, f"{init}: {modules & public}"


def test_modules_and_functions_are_of_readable_length():
    for folder in FOLDERS.values():
        for path in folder.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert text.count("\n") <= 400, f"{path} is longer than 400 lines"
            for node in nodes_of(path):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    assert node.end_lineno is not None
                    length = node.end_lineno - node.lineno + 1
                    assert length <= 80, f"{path}: `{node.name}` is longer than 80 lines"


def test_no_two_modules_import_each_other():
    """Nor in longer circles, also not for types alone."""
    for package, folder in FOLDERS.items():
        names = {}
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            names[".".join((package, *parts)).removesuffix(".__init__")] = path
        imported = {
            name: {
                other
                for found in imports_of(path)
                for other in (found, found.rpartition(".")[0])
                if other in names and other != name and names[other].name != "__init__.py"
            }
            for name, path in names.items()
            if path.name != "__init__.py"
        }
        while imported:
            free = {name for name, others in imported.items() if not others & imported.keys()}
            assert free, f"a circle among {sorted(imported)}"
            imported = {name: others for name, others in imported.items() if name not in free}
