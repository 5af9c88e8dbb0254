"""A figure of the playground's curves, on the problems of the measured grid.

``python -m optuna_agenttts_integrations.playground.curves --out FIGURE.png``

Needs ``pip install "optuna-agenttts[plot]"``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts import Task
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.playground.grid import (
    PROBLEMS,
    SAMPLES,
    Grid,
    joined,
    load_grid,
    sample_replies,
)
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    make_pipeline,
    make_task,
)
from optuna_agenttts_integrations.playground.problems import make_problems

# Of the colour-blind safe palette by Okabe and Ito.
_COLOURS = ("#E69F00", "#009E73", "#0072B2")
_STYLES = (("solid", RETRIEVERS[2], 3), ("dashed", RETRIEVERS[1], 5), ("dotted", RETRIEVERS[0], 5))


def retrieval_scores() -> NDArray[np.float64]:
    """F1 of the retrieved lines by retriever and number of samples, shape (3, samples)."""
    program = make_pipeline().programs[0]
    problems = make_problems("test", PROBLEMS)
    scores = np.zeros((len(RETRIEVERS), SAMPLES))
    for row, model in enumerate(RETRIEVERS):
        states = [State(problem) for problem in problems]
        requests = [program.request(model, state) for state in states]
        for state, replies in zip(states, sample_replies(model, requests, seed=0)):
            gold = set(state.instance.relevant)
            for count in range(1, SAMPLES + 1):
                found = set(joined(program, replies[:count], state) or ())
                scores[row, count - 1] += 2 * len(found & gold) / (len(found) + len(gold))
    return scores / len(problems)


def best_by_budget(
    grid: Grid, task: Task, budgets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best mean outcome within each budget, and with one sample in every stage."""
    # Positions of (model, samples) in each stage, and every pair of them.
    choices = np.arange(len(RETRIEVERS) * SAMPLES)
    pairs = np.stack([axis.ravel() for axis in np.meshgrid(choices, choices)], axis=1)
    models, samples = pairs // SAMPLES, pairs % SAMPLES + 1
    costs = task.feasible.costs_of(models, samples)
    means = np.concatenate(
        [
            grid.outcomes(m, s).mean(axis=1)
            for m, s in zip(np.array_split(models, 100), np.array_split(samples, 100))
        ]
    )
    once = (samples == 1).all(axis=1)

    def best(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.array([means[mask & (costs <= budget)].max(initial=0.0) for budget in budgets])

    return best(np.ones(len(costs), dtype=bool)), best(once)


def plot(out: Path) -> None:
    """Draw the figure."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'The figure needs matplotlib: pip install "optuna-agenttts[plot]".'
        ) from error
    grid, task = load_grid(), make_task()
    count = np.arange(1, SAMPLES + 1)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    for scores, model, colour in zip(retrieval_scores(), RETRIEVERS, _COLOURS):
        left.plot(count, scores, color=colour, lw=2, label=model)
        peak = int(np.argmax(scores))
        left.plot(count[peak], scores[peak], "o", color=colour)
    left.set(title="Retrieval: size counts, and too many samples hurt", ylabel="F1 of lines")
    for column, (model, colour) in enumerate(zip(ANSWERERS, _COLOURS)):
        for style, retriever, samples in _STYLES:
            rows = grid.sets[:, RETRIEVERS.index(retriever), samples - 1]
            scores = grid.right[rows, column].mean(axis=0)
            label = model if style == "solid" else None
            middle.plot(count, scores, color=colour, ls=style, lw=2, label=label)
    for style, retriever, samples in _STYLES:
        middle.plot([], [], color="grey", ls=style, label=f"after {samples} x {retriever}")
    middle.set(title="Answering: small models catch up; bad lines cap all", ylabel="exact match")
    budgets = np.geomspace(task.feasible.cheapest_cost * 1.02, 600, 60)
    best, once = best_by_budget(grid, task, budgets)
    right.plot(budgets, best, color=_COLOURS[2], lw=2, label="best allocation")
    right.plot(budgets, once, color=_COLOURS[0], lw=2, ls="dashed", label="best, one sample each")
    right.axvline(task.budget, color="grey", lw=1, ls="dotted")
    right.annotate("the quickstart's budget", (task.budget * 1.08, 0.03), color="grey")
    right.set(title="Both stages: what a budget buys", xlabel="cost per problem")
    right.set_ylabel("exact match")
    for axes in (left, middle):
        axes.set_xlabel("samples")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100])
    _tidy(left, "lower right", 1)
    _tidy(middle, "upper left", 2)
    _tidy(right, "upper left", 1)
    for axes in (left, middle):
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    figure.savefig(out, dpi=120)
    plt.close(figure)


def _tidy(axes: Any, legend: str, columns: int) -> None:
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9, loc=legend, ncols=columns)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    plot(parser.parse_args().out)


if __name__ == "__main__":
    main()
