"""The measured grid: the outcome of every allocation on 200 problems of the test split.

Results of the first stage are few (unions of lines), so the grid is factored: for each problem,
model and number of samples of the first stage, the resulting set of lines; for each set and each
model of the second stage, whether the answer is right after 1, 2, ... samples.
``examples/playground_training/measure_grid.py`` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).parent / "grid.npz"


@dataclass(frozen=True, slots=True)
class Grid:
    """Outcomes of all allocations on a number of problems.

    Args:
        sets: Row of `right` for each problem, retriever and number of samples less one, shape
            (problems, retrievers, samples).
        right: Whether the answer is right, by row, answerer and number of samples less one, shape
            (rows, answerers, samples).
    """

    sets: NDArray[np.int32]
    right: NDArray[np.bool_]

    def outcomes(self, models: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the outcomes of allocations, shape (allocations, problems).

        Args:
            models: Positions of retriever and answerer, shape (allocations, 2).
            samples: Numbers of samples, from 1, shape (allocations, 2).
        """
        rows = self.sets[:, models[:, 0], samples[:, 0] - 1].T
        right: NDArray[np.bool_] = self.right[rows, models[:, 1, None], samples[:, 1, None] - 1]
        return right


def load_grid(path: Path = PATH) -> Grid:
    """Load a grid.

    Args:
        path: A file that `measure_grid.py` has written. Default: the grid of the package.
    """
    with np.load(path) as stored:
        shape = tuple(stored["shape"])
        bits = np.unpackbits(stored["right"], count=int(np.prod(shape)))
        return Grid(stored["sets"].astype(np.int32), bits.reshape(shape).astype(bool))
