"""Measure the playground's grid: the outcome of every allocation on 200 problems.

``python examples/playground_training/measure_grid.py --out grid.npz``

Shows: how searches with a known optimum are made. Requests and seeds are those of the live
    pipeline, so a live run has the same outcomes.
Needs: `pip install .`, nothing else.
Takes: about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optuna_agenttts.llm import ChatRequest
from optuna_agenttts_integrations.calls.completions import request_text, sample_seed
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import StageProgram, State
from optuna_agenttts_integrations.playground.grid import Grid
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    PlaygroundModel,
    make_pipeline,
)
from optuna_agenttts_integrations.playground.problems import Problem, make_problems

_logger = logging.getLogger(__name__)

PROBLEMS = 200
SAMPLES = 100
_REQUESTS_PER_BATCH = 20
"""Requests decoded as one batch, `SAMPLES` replies each; bounds the memory."""


def measure(problems: Sequence[Problem], *, seed: int = 0) -> Grid:
    """Measure the grid.

    Args:
        problems: The problems.
        seed: The seed, as of `MultiStageObjective`.
    """
    retrieval, answer = make_pipeline().programs
    sets = np.zeros((len(problems), len(RETRIEVERS), SAMPLES), dtype=np.int32)
    states: list[State] = []
    rows: dict[tuple[int, object], int] = {}
    for column, model in enumerate(RETRIEVERS):
        start = [State(problem) for problem in problems]
        requests = [retrieval.request(model, state) for state in start]
        for index, replies in enumerate(sample_replies(model, requests, seed=seed)):
            for count in range(1, SAMPLES + 1):
                result = aggregated(retrieval, replies[:count], start[index])
                row = rows.setdefault((index, result), len(rows))
                if row == len(states):
                    states.append(start[index].after("retrieval", result))
                sets[index, column, count - 1] = row
    _logger.info("%d distinct sets of lines", len(states))
    right = np.zeros((len(states), len(ANSWERERS), SAMPLES), dtype=bool)
    for column, model in enumerate(ANSWERERS):
        requests = [answer.request(model, state) for state in states]
        for row, replies in enumerate(sample_replies(model, requests, seed=seed)):
            truth = states[row].instance.answer
            for count in range(1, SAMPLES + 1):
                found = aggregated(answer, replies[:count], states[row])
                right[row, column, count - 1] = found == truth
        _logger.info("%s done", model)
    return Grid(sets, right)


def aggregated(program: StageProgram, replies: Sequence[str], state: State) -> Any:
    """Return a stage's result from its replies; None if none can be parsed."""
    assert not isinstance(program.aggregate, LLMFusion)
    samples = [program.parse(reply, state) for reply in replies]
    readable = [sample for sample in samples if sample is not None]
    return program.aggregate(readable) if readable else None


def sample_replies(model: str, requests: Sequence[ChatRequest], *, seed: int) -> list[list[str]]:
    """Return the first hundred replies to each request, with the seeds of the live pipeline."""
    generate, replies = PlaygroundModel(model), []
    for start in range(0, len(requests), _REQUESTS_PER_BATCH):
        part = requests[start : start + _REQUESTS_PER_BATCH]
        seeded = [
            (request, sample_seed(text, index, seed))
            for request, text in zip(part, map(request_text, part))
            for index in range(SAMPLES)
        ]
        texts = [completion.text for completion in generate(seeded)]
        replies += [texts[i : i + SAMPLES] for i in range(0, len(texts), SAMPLES)]
    return replies


def save(grid: Grid, path: Path) -> None:
    """Write a grid to a file."""
    np.savez_compressed(
        path,
        sets=grid.sets.astype(np.uint16),
        right=np.packbits(grid.right),
        shape=np.array(grid.right.shape),
    )


def main() -> None:
    """Measure the grid and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    save(measure(make_problems("test", PROBLEMS)), arguments.out)
    print(f"\nNext:  the grid is in {arguments.out}; plot_curves.py draws that of the package")


if __name__ == "__main__":
    main()
