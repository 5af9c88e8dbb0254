"""The measured grid: what every allocation scores on 200 problems of the test split.

``python -m optuna_agenttts_integrations.playground.grid --out grid.npz`` measures it anew, in
some ten minutes on one core, with the very requests and seeds of the live pipeline, so that a
live run gives the same outcomes. Results of the first stage are few (unions of lines), so the
grid is kept factored: for each problem, model and number of samples of the first stage which set
of lines results, and for each set and model of the second stage whether the answer is right after
1, 2, ... samples.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.llm import ChatRequest
from optuna_agenttts_integrations.calls.completions import request_text, sample_seed
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import StageProgram, State
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    PlaygroundModel,
    make_pipeline,
)
from optuna_agenttts_integrations.playground.problems import Problem, make_problems

_logger = logging.getLogger(__name__)

PATH = Path(__file__).parent / "grid.npz"
PROBLEMS = 200
SAMPLES = 100


@dataclass(frozen=True, slots=True)
class Grid:
    """The measured grid.

    Args:
        sets: Row of `right` for each problem, retriever and number of samples, shape
            (problems, retrievers, samples).
        right: Whether the answer is right, by row, answerer and number of samples.
    """

    sets: NDArray[np.int32]
    right: NDArray[np.bool_]

    def outcomes(self, models: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Outcomes of allocations, shape (allocations, problems).

        Args:
            models: Positions of retriever and answerer, shape (allocations, 2).
            samples: Numbers of samples, likewise.
        """
        rows = self.sets[:, models[:, 0], samples[:, 0] - 1].T
        right: NDArray[np.bool_] = self.right[rows, models[:, 1, None], samples[:, 1, None] - 1]
        return right


def load_grid(path: Path = PATH) -> Grid:
    """Load the grid that is shipped, or another one."""
    with np.load(path) as stored:
        shape = tuple(stored["shape"])
        bits = np.unpackbits(stored["right"], count=int(np.prod(shape)))
        return Grid(stored["sets"].astype(np.int32), bits.reshape(shape).astype(bool))


def measure(problems: Sequence[Problem], *, seed: int = 0) -> Grid:
    """Measure the grid.

    Args:
        problems: The problems.
        seed: As the objective's.
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
                result = joined(retrieval, replies[:count], start[index])
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
                found = joined(answer, replies[:count], states[row])
                right[row, column, count - 1] = found == truth
        _logger.info("%s done", model)
    return Grid(sets, right)


def joined(program: StageProgram, replies: Sequence[str], state: State) -> Any:
    """The result of a stage that joins its samples without asking a model."""
    assert not isinstance(program.aggregate, LLMFusion)
    samples = [program.parse(reply, state) for reply in replies]
    readable = [sample for sample in samples if sample is not None]
    return program.aggregate(readable) if readable else None


def save(grid: Grid, path: Path) -> None:
    """Write a grid."""
    np.savez_compressed(
        path,
        sets=grid.sets.astype(np.uint16),
        right=np.packbits(grid.right),
        shape=np.array(grid.right.shape),
    )


def sample_replies(model: str, requests: Sequence[ChatRequest], *, seed: int) -> list[list[str]]:
    """The first hundred replies to each request, with the live pipeline's own seeds."""
    generate, replies = PlaygroundModel(model), []
    for start in range(0, len(requests), 20):
        part = requests[start : start + 20]
        asked = [
            (request, sample_seed(text, index, seed))
            for request, text in zip(part, map(request_text, part))
            for index in range(SAMPLES)
        ]
        texts = [completion.text for completion in generate(asked)]
        replies += [texts[i : i + SAMPLES] for i in range(0, len(texts), SAMPLES)]
    return replies


def main() -> None:
    """Measure the grid and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PATH)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    save(measure(make_problems("test", PROBLEMS)), arguments.out)


if __name__ == "__main__":
    main()
