"""``python -m optuna_agenttts_integrations.playground serve``: the models behind HTTP."""

from __future__ import annotations

import argparse
import contextlib
import logging

from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground.pipeline import ANSWERERS, RETRIEVERS
from optuna_agenttts_integrations.playground.server import Faults, PlaygroundServer


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m optuna_agenttts_integrations.playground")
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="serve the playground's models on loopback")
    serve.add_argument("--models", nargs="+", help="default: all of them; TGI serves one")
    serve.add_argument("--dialect", choices=("tgi", "openai"), default="openai")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--faults", type=float, default=0.0, help="share of requests that fail")
    serve.add_argument("--verbose", action="store_true", help="log every request")
    options = parser.parse_args()
    if options.verbose:
        logging.basicConfig(level=logging.DEBUG)
    try:
        server = PlaygroundServer(
            options.models or (*RETRIEVERS, *ANSWERERS),
            dialect=options.dialect,
            port=options.port,
            faults=Faults(rate=options.faults) if options.faults else None,
        )
    except PipelineError as error:
        parser.error(str(error))
    with contextlib.suppress(KeyboardInterrupt), server:
        print(f"{', '.join(server.models)} at {server.url} ({server.dialect}); Ctrl-C stops")
        server.wait()


if __name__ == "__main__":
    main()
