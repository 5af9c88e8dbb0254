"""Figures in executed notebooks; IPython runs this before the first cell of each.

Plotly's own renderers load scripts from other hosts, or put 5 MB into each page.
"""

import plotly.io
from plotly.io._base_renderers import MimetypeRenderer

SCRIPT = "../../../_static/plotly.min.js"
"""Path from the pages of notebooks."""


class SiteRenderer(MimetypeRenderer):
    """Renderer whose first figure loads the site's copy of Plotly."""

    loaded = False

    def to_mimebundle(self, fig_dict: dict) -> dict[str, str]:
        """Return a figure as HTML."""
        script = False if self.loaded else SCRIPT
        self.loaded = True
        text = plotly.io.to_html(
            fig_dict, include_plotlyjs=script, include_mathjax=False, full_html=False
        )
        return {"text/html": text}


plotly.io.renderers["site"] = SiteRenderer()
plotly.io.renderers.default = "site"
