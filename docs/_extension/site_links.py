"""Links of the site: names of other projects, files of the repository, names in backticks.

Inventories of other projects are not downloaded: the build would depend on their servers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref, pending_xref_condition
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

REPOSITORY = "https://github.com/optuna-agenttts/optuna-agenttts"
OPTUNA = "https://optuna.readthedocs.io/en/stable/reference"
PYTHON = "https://docs.python.org/3/library"

EXTERNAL = {
    **dict.fromkeys(("Study", "study.Study"), f"{OPTUNA}/generated/optuna.study.Study.html"),
    **{
        name: f"{OPTUNA}/generated/optuna.trial.{name.rpartition('.')[2]}.html"
        for name in ("Trial", "FrozenTrial", "TrialState", "trial.TrialState")
    },
    "BaseSampler": f"{OPTUNA}/samplers/generated/optuna.samplers.BaseSampler.html",
    "TPESampler": f"{OPTUNA}/samplers/generated/optuna.samplers.TPESampler.html",
    "WilcoxonPruner": f"{OPTUNA}/generated/optuna.pruners.WilcoxonPruner.html",
    "BaseDistribution": f"{OPTUNA}/distributions.html",
    "BaseStorage": f"{OPTUNA}/storages.html",
    "DataFrame": "https://pandas.pydata.org/docs/reference/api/pandas.DataFrame.html",
    "Figure": "https://plotly.com/python-api-reference/generated/plotly.graph_objects.Figure.html",
    "Path": f"{PYTHON}/pathlib.html#pathlib.Path",
}
"""Pages of other projects by the last parts of a name."""

# Relative links in Markdown, without those to anchors of the same page.
_LINK = re.compile(r"(?<=\]\()(?!#|[a-z]+:)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
_INCLUDE = re.compile(r"^```\{include\} (\S+)\n```$", re.MULTILINE)


def link_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Point links at what the site has: pages, executed notebooks, files of the repository.

    Included pages are read here, because their links start from another folder.
    """
    pages = Path(app.srcdir)
    folder = (pages / docname).parent

    def include(match: re.Match[str]) -> str:
        path = (folder / match[1]).resolve()
        app.env.note_dependency(path)
        return rewritten(path.read_text("utf-8"), path.parent)

    def rewritten(text: str, base: Path) -> str:
        return _LINK.sub(lambda match: target_of(match, base), text)

    def target_of(match: re.Match[str], base: Path) -> str:
        target = Path(os.path.normpath(base / match[1]))
        if not target.exists():
            return match[0]
        examples = pages.parent / "examples" / "notebooks"
        if target.parent == examples and target.suffix == ".ipynb":
            target = pages / "tutorials" / "examples" / "notebooks" / target.name
        if target.is_relative_to(pages):
            return f"{os.path.relpath(target, folder)}{match[2]}"
        kind = "tree" if target.is_dir() else "blob"
        path = target.relative_to(pages.parent).as_posix()
        return f"{REPOSITORY}/{kind}/main/{path}{match[2]}"

    if not docname.startswith("tutorials/examples/"):
        source[0] = _INCLUDE.sub(include, rewritten(source[0], folder))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Resolve what the page's module does not have: other modules, other projects, plain code."""
    if node.get("refdomain") != "py":
        return None
    target, kind = node["reftarget"], node["reftype"]
    # Types in signatures are given twice: in short, and in full.
    for condition in node.findall(pending_xref_condition):
        if condition.get("condition") == "resolved":
            contnode = nodes.inline("", "", *condition.children)
    domain: Any = env.get_domain("py")
    # A name of another module of the reference, if only one ends so.
    found = {
        entry.docname: name
        for name, entry in domain.objects.items()
        if not entry.aliased and (name == target or name.endswith(f".{target}"))
    }
    if len(found) == 1 and "." not in target.lstrip("."):
        ((docname, name),) = found.items()
        refuri = app.builder.get_relative_uri(node["refdoc"], docname)
        return nodes.reference("", "", contnode, refuri=f"{refuri}#{name}", internal=True)
    parts = target.split(".")
    for key in (".".join(parts[-2:]), parts[-1]):
        if key in EXTERNAL and (len(parts) == 1 or not target.startswith("optuna_agenttts")):
            return nodes.reference("", "", contnode, refuri=EXTERNAL[key], internal=False)
    # Backticks without a role, and types of other projects, are code.
    ours = target.startswith("optuna_agenttts")
    return contnode if kind == "obj" or not ours else None


def hide_source(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.Node | None
) -> None:
    """Leave out the links to the source of pages that are generated."""
    if page.startswith(("reference/api/", "tutorials/examples/")):
        context["page_source_suffix"] = ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks."""
    app.connect("source-read", link_files)
    app.connect("missing-reference", resolve)
    app.connect("html-page-context", hide_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
