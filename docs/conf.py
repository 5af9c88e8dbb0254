"""Configuration of the site: ``nox -s docs`` builds it, ``nox -s docs -- serve`` shows it."""

import os
import shutil
import sys
from pathlib import Path

import plotly

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_extension"))

from site_names import PUBLIC_MODULES  # noqa: E402

from optuna_agenttts import __version__  # noqa: E402

project = "optuna-agenttts"
author = copyright = "the optuna-agenttts developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "site_reference",
    "site_links",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_extension", "_templates"]

# Pages.
# Dashes alone: quotation marks are often those of code.
smartquotes_action = "D"
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
# Notebooks are kept without outputs: they run where the site is built, in a fresh folder.
examples = HERE / "tutorials" / "examples"
shutil.rmtree(examples, ignore_errors=True)
_left_out = shutil.ignore_patterns(
    "playground_training", "__pycache__", "README.md", ".*", "*.db*"
)
shutil.copytree(ROOT / "examples", examples, ignore=_left_out)
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
# Widgets would be drawn by scripts of another host; notebooks have a plain progress bar as well.
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
# Their figures use one copy of Plotly, which is a file of the site.
html_static_path = [str(Path(plotly.__file__).parent / "package_data" / "plotly.min.js")]
_ipython = HERE / "_build" / "ipython"
_startup = _ipython / "profile_default" / "startup"
_startup.mkdir(parents=True, exist_ok=True)
shutil.copy(HERE / "_extension" / "site_figures.py", _startup)
os.environ["IPYTHONDIR"] = str(_ipython)
# Also for the kernels of notebooks: nothing is loaded from the Hub while the site is built.
os.environ["HF_HUB_OFFLINE"] = "1"

# Reference.
autosummary_generate = True
# Their pages show how to import a name; other modules may move.
autosummary_context = {"public_modules": PUBLIC_MODULES}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True
# Names in single backticks link where they are names of the reference (see site_links).
default_role = "py:obj"
nitpicky = True
nitpick_ignore = [
    # Protocols of arguments: their text names the public classes that are meant.
    ("py:class", "optuna_agenttts.task.from_pipeline.DataPipeline"),
    ("py:class", "optuna_agenttts.confirmation.evaluation.SplittableObjective"),
    ("py:class", "optuna_agenttts.explanation.trial_notes.Inspector"),
    ("py:class", "optuna_agenttts_integrations.pipeline.predictor.Runnable"),
    ("py:class", "optuna_agenttts_integrations.pipeline.prediction._Allocated"),
    # An argument that only this package passes, and a value that only it renders.
    ("py:class", "optuna_agenttts.report.document.Section"),
    ("py:class", "optuna_agenttts.llm.client.Session"),
    # A type variable.
    ("py:class", "optuna_agenttts_integrations.calls.store._T"),
]

# Look.
html_theme = "furo"
html_title = f"optuna-agenttts {__version__}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/optuna-agenttts/optuna-agenttts/",
    "source_branch": "main",
    "source_directory": "docs/",
}
# Prompts and output are not copied.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
