"""Tables, figures and JSON of the paper's experiments (not an example by itself)."""

import json
from importlib.util import find_spec
from math import ceil, floor, log10
from textwrap import wrap

COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#000000", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def table(columns, rows):
    """Return a Markdown table; None is a dash, floats have three significant digits."""

    def cell(value):
        if value is None:
            return "-"
        return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else _plain(value)

    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _plain(value):
    return f"{value:,.0f}" if isinstance(value, float) else str(value).replace("|", "\\|")


class Output:
    """Writes an experiment's JSON, table and figures to a folder, headed by what they show.

    Args:
        folder: The folder.
        heading: First line of everything.
        scale: How large the experiments are, for the JSON.
        note: Further lines below the heading of tables of searches.
    """

    def __init__(self, folder, heading, scale, note=""):
        self.folder, self.heading, self.scale, self.note = folder, heading, scale, note

    def write(self, name, title, *, results, text, panels=(), searched=True):
        """Write the files of an experiment.

        Args:
            name: Name of the files.
            title: What of the paper it is the counterpart of.
            results: Values for the JSON.
            text: Markdown.
            panels: Figures; see `draw`.
            searched: Whether the values are those of searches, which the note is about.
        """
        content = {
            "heading": self.heading,
            "title": title,
            "scale": vars(self.scale),
            "results": results,
        }
        (self.folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        note = f"{self.note}\n\n" if self.note and searched else ""
        page = f"# {title}\n\n**{self.heading}**\n\n{note}{text}"
        (self.folder / f"{name}.md").write_text(page)
        if panels and find_spec("plotly"):
            draw(self.folder / f"{name}.html", title, self.heading, panels)
        print(page)


def draw(path, title, heading, panels):
    """Draw panels beside each other, with Plotly (extra `plot`).

    Args:
        path: HTML file; the folder gets one copy of Plotly's script, so that no network is needed.
        title: Title of the page.
        heading: Line below the title.
        panels: For each panel its title, titles of both axes, whether the x-axis is logarithmic,
            and lines: name, x values, y values.
    """
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        make_subplots(
            rows,
            columns,
            subplot_titles=[panel["title"].replace(" after ", "<br>after ") for panel in panels],
            vertical_spacing=0.3 / rows,
        )
    )
    # One panel alone is wide enough for the title and the legend.
    width = max(480 * columns, 960)
    names = list(dict.fromkeys(line[0] for panel in panels for line in panel["lines"]))
    shown = set()
    for number, panel in enumerate(panels):
        row, column = number // columns + 1, number % columns + 1
        for name, x, y in panel["lines"]:
            position = names.index(name)
            look = {
                "color": COLORS[position % len(COLORS)],
                "dash": DASHES[position // len(COLORS) % len(DASHES)],
                # Later lines are thinner, so that one shows on top of an equal one.
                "width": 2 + 1.2 * (len(names) - 1 - position) if len(names) < 10 else 2,
            }
            figure.add_trace(
                Scatter(
                    x=x,
                    y=y,
                    name=name,
                    legendgroup=name,
                    showlegend=name not in shown,
                    mode="lines+markers" if len(x) < 15 else "lines",
                    line=look,
                    marker={"size": look["width"] + 4},
                ),
                row,
                column,
            )
            shown.add(name)
        ticks = {}
        if panel.get("log"):
            ticks = log_ticks([x for _, xs, _ in panel["lines"] for x in xs])
        figure.update_xaxes(title_text=panel["x"], row=row, col=column, **ticks)
        figure.update_yaxes(title_text=panel["y"], row=row, col=column)
    figure.update_annotations(font_size=12)
    # About 8 pixels a character of the title; the last line is never cut.
    lines = [*(f"<b>{line}</b>" for line in wrap(title, width // 11)), *wrap(heading, width // 9)]
    height = 380 * rows + 160
    figure.update_layout(
        # Fractions of the height: 20 pixels from the top of pages of any length.
        title={
            "text": "<br>".join(lines),
            "font_size": 15,
            "y": 1 - 20 / height,
            "yanchor": "top",
        },
        margin_t=80 + 20 * len(lines),
        template="plotly_white",
        height=height,
        width=width,
    )
    figure.write_html(path, include_plotlyjs="directory")


def log_ticks(values):
    """Return a logarithmic axis with ticks at 1, 2 and 5, or at powers of ten if they are many."""
    least, most = min(values), max(values)
    powers = range(floor(log10(least)), ceil(log10(most)) + 1)
    found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    found = [value for value in found if least <= value <= most]
    if len(found) > 6:
        return {"type": "log", "dtick": 1, "exponentformat": "power"}
    return {"type": "log", "tickvals": found, "ticktext": [f"{value:g}" for value in found]}
