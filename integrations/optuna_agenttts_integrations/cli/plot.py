"""``agenttts plot``: write a figure of a study to a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_agenttts import AgentTTSError
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.visualization.figures import ALL_FIGURES
from optuna_agenttts_integrations.cli.parser import Commands, add_command
from optuna_agenttts_integrations.cli.storages import add_study_arguments, open_study

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PICTURES = ("png", "svg", "pdf")
_WIDTH, _HEIGHT, _SCALE = 800, 500, 2
"""Size of pictures, in pixels of a screen, and pixels of the file for each. Chosen by hand."""
_MAX_REASON = 300
"""Maximum length of another package's error in a message, in characters. Chosen by hand."""


def add_plot(commands: Commands) -> None:
    """Add ``agenttts plot`` to the command line."""
    plot = add_command(
        commands,
        "plot",
        "The study's storage is only read. Figures need Plotly, and pictures also kaleido and "
        "Chrome or Chromium: pip install 'optuna-agenttts[plot]'.",
    )
    plot.add_argument("name", choices=ALL_FIGURES, metavar="NAME", help=", ".join(ALL_FIGURES))
    add_study_arguments(plot)
    plot.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write: .html, a page that needs no network, or a picture, .png, .svg or "
        ".pdf; an existing file is overwritten; default: NAME.html",
    )
    for side, default in (("width", _WIDTH), ("height", _HEIGHT)):
        plot.add_argument(
            f"--{side}",
            type=int,
            default=default,
            metavar="PIXELS",
            help=f"{side} of a picture; default: {default}",
        )
    plot.set_defaults(run=_plot)


def _plot(options: argparse.Namespace) -> int:
    path = options.output or Path(f"{options.name}.html")
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("html", *_PICTURES):
        raise AgentTTSError(
            f"`--output` must end with .html, .png, .svg or .pdf, got {str(path)!r}."
        )
    for side in ("width", "height"):
        if getattr(options, side) < 1:
            raise AgentTTSError(f"`--{side}` must be positive, got {getattr(options, side)}.")
    figure = ALL_FIGURES[options.name](StudyView(open_study(options.storage, options.study)))
    if kind == "html":
        # Plotly is part of the page, so that it needs no network.
        figure.write_html(path, include_plotlyjs=True)
    else:
        path.write_bytes(_picture(figure, kind, options.width, options.height))
    print(path)
    return 0


def _picture(figure: Figure, kind: str, width: int, height: int) -> bytes:
    """Return a picture of a figure.

    Raises:
        AgentTTSError: kaleido or a browser is missing.
    """
    try:
        picture: bytes = figure.to_image(kind, width=width, height=height, scale=_SCALE)
    # Plotly, kaleido and the browser's driver have errors of many kinds for what is missing.
    except Exception as error:
        raise AgentTTSError(
            "Pictures need kaleido (`pip install 'optuna-agenttts[plot]'`) and Chrome or "
            "Chromium, which is searched for if the environment variable BROWSER_PATH does not "
            "name it. Write .html, which needs neither, or mend this: "
            + one_line(str(error), _MAX_REASON)
        ) from error
    return picture
