"""Command line of the playground: serve its models, or export one.

``python -m optuna_agenttts_integrations.playground serve|export --help``
"""

from __future__ import annotations

import argparse
import contextlib
import logging

from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground.export import export_hugging_face
from optuna_agenttts_integrations.playground.pipeline import MODELS
from optuna_agenttts_integrations.playground.server import Faults, PlaygroundServer


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m optuna_agenttts_integrations.playground")
    commands = parser.add_subparsers(required=True, dest="command")
    serve = commands.add_parser("serve", help="serve the playground's models on 127.0.0.1")
    serve.add_argument(
        "--models", nargs="+", help="models to serve; default: all (TGI serves exactly one)"
    )
    serve.add_argument(
        "--dialect", choices=("tgi", "openai"), default="openai", help="API; default: openai"
    )
    serve.add_argument("--port", type=int, default=8080, help="default: 8080; 0 takes a free one")
    serve.add_argument(
        "--faults", type=float, default=0.0, help="fraction of requests that fail, 0 to 1"
    )
    serve.add_argument("--verbose", action="store_true", help="log every request")
    export = commands.add_parser(
        "export",
        help="write a model in Hugging Face format, for servers such as transformers serve",
    )
    export.add_argument("name", metavar="NAME", help=", ".join(MODELS))
    export.add_argument("folder", metavar="FOLDER", help="created if missing")
    return parser


def main() -> None:
    """Parse the command line, then serve or export."""
    parser = make_parser()
    options = parser.parse_args()
    try:
        if options.command == "export":
            print(export_hugging_face(options.name, options.folder))
            return
        server = _server(options)
    except PipelineError as error:
        parser.error(str(error))
    with contextlib.suppress(KeyboardInterrupt), server:
        print(f"{', '.join(server.models)} at {server.url} ({server.dialect}); Ctrl-C stops")
        server.wait()


def _server(options: argparse.Namespace) -> PlaygroundServer:
    if options.verbose:
        logging.basicConfig(level=logging.DEBUG)
    return PlaygroundServer(
        options.models or MODELS,
        dialect=options.dialect,
        port=options.port,
        faults=Faults(rate=options.faults) if options.faults else None,
    )


if __name__ == "__main__":
    main()
