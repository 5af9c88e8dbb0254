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


def link_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Point relative links that leave the pages, which GitHub resolves too, to the repository."""
    page = Path(app.srcdir, docname)

    def replace(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / match[1]))
        root = Path(app.srcdir).parent
        if target.is_relative_to(app.srcdir) or not target.exists():
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{target.relative_to(root).as_posix()}{match[2]}"

    source[0] = _LINK.sub(replace, source[0])


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


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks."""
    app.connect("source-read", link_files)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
