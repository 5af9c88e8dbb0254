"""Sessions that a contributor can start with one command: ``nox --list`` shows them.

``nox`` alone runs what a change should pass before it is sent: lint, types, and the fast tests.
Arguments after ``--`` go to pytest: ``nox -s tests-3.12 -- tests/core -k cost``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
EXTRAS = PROJECT["project"]["optional-dependencies"]
VERSIONS = nox.project.python_versions(PROJECT)
PLAYWRIGHT = "playwright>=1.49,<2"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

# Extras and tests of each host; docs/how-to/hosts.md names the versions that were tried.
HOSTS = {
    "optuna": (
        "test",
        [
            f"tests/hosts/test_{name}.py"
            for name in (
                *("ask_and_tell", "command_line", "storages", "joblib"),
                *("engines", "namespaces"),
            )
        ],
    ),
    "ray": ("ray", ["tests/hosts/test_ray.py", "tests/hosts/test_engines.py"]),
    "sklearn": ("sklearn", ["tests/hosts/test_sklearn.py"]),
    "dask": ("dask", ["tests/hosts/test_dask.py", "tests/hosts/test_engines.py"]),
    "mlflow": ("mlflow", ["tests/hosts/test_mlflow.py"]),
    "hydra": ("hydra", ["tests/hosts/test_hydra.py"]),
    "trainer": ("transformers", ["tests/hosts/test_transformers.py"]),
    "lightning": ("lightning", ["tests/hosts/test_lightning.py"]),
    "dspy": ("dspy", ["tests/hosts/test_dspy.py"]),
    "optunahub": ("optunahub", ["tests/hosts/test_optunahub.py"]),
    # `transformers serve`: a server that is not ours.
    "server": ("transformers", ["tests/llm/test_real_server.py", "tests/playground"]),
}

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", f"tests-3.{sys.version_info.minor}"]
# Versions of Python that are not at hand are skipped, not downloaded.
nox.options.download_python = "never"


def _tool(name: str) -> str:
    """Return a tool of the `dev` extra with its version bounds."""
    return next(line for line in EXTRAS["dev"] if Requirement(line).name == name)


def _pytest(session: nox.Session, *arguments: str) -> None:
    session.run("python", "-m", "pytest", *arguments, *session.posargs, env=ENVIRONMENT)


@nox.session(python=VERSIONS)
def tests(session: nox.Session) -> None:
    """Run the fast tests on every version of Python that is at hand."""
    session.install("-e", ".[test]")
    _pytest(session)


@nox.session
def slow(session: nox.Session) -> None:
    """Run all tests, the slow ones included, but no stress tests."""
    session.install("-e", ".[test]", _tool("mypy"))
    _pytest(session, "-m", "not stress")


@nox.session
def stress(session: nox.Session) -> None:
    """Kill workers, fill disks and fuzz for half an hour; `-- --scale 0.05` takes minutes."""
    session.install("-e", ".[test]")
    session.run("python", "tests/stress/reliability.py", *session.posargs, env=ENVIRONMENT)
    session.run("python", "-m", "pytest", "-m", "stress", env=ENVIRONMENT)


@nox.session(python=VERSIONS[:2], venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the fast tests with the lowest version of each dependency that is allowed."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run("uv", "pip", "list", external=True)
    _pytest(session)


@nox.session
@nox.parametrize("host", [nox.param(host, id=host) for host in HOSTS])
def hosts(session: nox.Session, host: str) -> None:
    """Run the same searches in a program that samplers are plugged into."""
    extra, files = HOSTS[host]
    session.install("-e", f".[test,{extra}]")
    if host == "server":
        session.install("transformers[serving]")
    _pytest(session, "-m", "not stress", *files)
    # Blocks of the page on hosts run where their packages are installed.
    _pytest(session, "-m", "", "tests/docs/test_blocks.py", "-k", "hosts.md")


@nox.session
def browser(session: nox.Session) -> None:
    """Open optuna-dashboard, reports and figures in the system's Chromium, and keep pictures."""
    session.install("-e", ".[test,plot]", PLAYWRIGHT)
    pictures = Path(session.create_tmp()).resolve() / "screenshots"
    session.log(f"Pictures are kept in {pictures}.")
    _pytest(session, "-m", "browser", "--screenshots", str(pictures), "tests/browser")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format and style."""
    session.install(_tool("ruff"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of both packages, and of programs that use them."""
    session.install("-e", ".[test]", _tool("mypy"))
    session.run("mypy")
    session.run("python", "-m", "pytest", "-m", "", "tests/typing", env=ENVIRONMENT)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, where warnings are errors, and check all pages; `-- serve` shows it."""
    serve = "serve" in session.posargs
    session.install("-e", ".[docs]" if serve else ".[docs,test]")
    site = "docs/_build/html"
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-q", "docs", site, env=ENVIRONMENT)
    if serve:
        session.run("python", "-m", "http.server", "-d", site, "--bind", "127.0.0.1", "8000")
    else:
        _pytest(session, "-m", "", "tests/docs")


@nox.session
def package(session: nox.Session) -> None:
    """Build and check sdist and wheel, and run the quickstart with nothing but the wheel."""
    work = Path(session.create_tmp()).resolve()
    shutil.rmtree(work)
    session.install(_tool("build"), _tool("twine"))
    # The wheel is built from the sdist.
    session.run("python", "-m", "build", "--outdir", str(work / "dist"), str(ROOT))
    built = [str(path) for path in (work / "dist").iterdir()]
    session.run("twine", "check", "--strict", *built)
    session.run("python", "tests/distribution.py", str(work / "dist"), *session.posargs)
    session.run("python", "-m", "venv", str(work / "light"))
    light = work / "light/bin"
    (wheel,) = [path for path in built if path.endswith(".whl")]
    session.run(str(light / "pip"), "install", "--quiet", wheel, external=True)
    session.chdir(work)
    session.run(str(light / "agenttts"), "quickstart", "--trials", "6", external=True)


@nox.session
def wheel(session: nox.Session) -> None:
    """Run the fast tests against the built wheel, with the sources out of reach."""
    work = Path(session.create_tmp()).resolve()
    shutil.rmtree(work)
    session.install(_tool("build"))
    session.run("python", "-m", "build", "--wheel", "--outdir", str(work / "dist"), str(ROOT))
    (built,) = (work / "dist").glob("*.whl")
    session.install("--force-reinstall", f"{built}[test]")
    for name in ("tests", "examples"):
        shutil.copytree(ROOT / name, work / name)
    shutil.copy(ROOT / "pyproject.toml", work)
    session.chdir(work)
    session.run("python", "tests/installed.py")
    _pytest(session, "-p", "no:cacheprovider")
