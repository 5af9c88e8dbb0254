"""Plot the quality curves of the playground's models, on the problems of the measured grid.

``python examples/playground_training/plot_curves.py --out FIGURE.png``

Shows: the paper's three insights, in models that run in process.
Needs: Matplotlib: ``pip install matplotlib``.
Takes: about twenty seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from measure_grid import PROBLEMS, SAMPLES, aggregated, sample_replies
from numpy.typing import NDArray

from optuna_agenttts import Task
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.playground.grid import Grid, load_grid
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    make_pipeline,
    make_task,
)
from optuna_agenttts_integrations.playground.problems import make_problems

# From the color-blind safe palette of Okabe and Ito.
_COLORS = ("#E69F00", "#009E73", "#0072B2")
_STYLES = (("solid", RETRIEVERS[2], 3), ("dashed", RETRIEVERS[1], 5), ("dotted", RETRIEVERS[0], 5))
_TICKS = (1, 2, 5, 10, 20, 50, 100)


def retrieval_scores() -> NDArray[np.float64]:
    """Return the mean F1 of retrieved lines, shape (retrievers, samples)."""
    program = make_pipeline().programs[0]
    problems = make_problems("test", PROBLEMS)
    scores = np.zeros((len(RETRIEVERS), SAMPLES))
    for row, model in enumerate(RETRIEVERS):
        states = [State(problem) for problem in problems]
        requests = [program.request(model, state) for state in states]
        for state, replies in zip(states, sample_replies(model, requests, seed=0)):
            gold = set(state.instance.relevant)
            for count in range(1, SAMPLES + 1):
                found = set(aggregated(program, replies[:count], state) or ())
                scores[row, count - 1] += 2 * len(found & gold) / (len(found) + len(gold))
    return scores / len(problems)


def best_by_budget(
    grid: Grid, task: Task, budgets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the best mean outcome within each budget, free and with one sample per stage."""
    # Positions of (model, samples) in each stage, and all pairs of them.
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
    grid, task = load_grid(), make_task()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    _plot_retrieval(left)
    _plot_answering(middle, grid)
    _plot_budgets(right, grid, task)
    _tidy(left, "lower right", 1)
    _tidy(middle, "upper left", 2)
    _tidy(right, "upper left", 1)
    for axes in (left, middle):
        axes.set_xlabel("samples")
        axes.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
    figure.savefig(out, dpi=120)
    plt.close(figure)


def _plot_retrieval(axes: Any) -> None:
    count = np.arange(1, SAMPLES + 1)
    for scores, model, color in zip(retrieval_scores(), RETRIEVERS, _COLORS):
        axes.plot(count, scores, color=color, lw=2, label=model)
        peak = int(np.argmax(scores))
        axes.plot(count[peak], scores[peak], "o", color=color)
    axes.set(title="Retrieval: size counts, and too many samples hurt", ylabel="F1 of lines")


def _plot_answering(axes: Any, grid: Grid) -> None:
    count = np.arange(1, SAMPLES + 1)
    for column, (model, color) in enumerate(zip(ANSWERERS, _COLORS)):
        for style, retriever, samples in _STYLES:
            rows = grid.sets[:, RETRIEVERS.index(retriever), samples - 1]
            scores = grid.right[rows, column].mean(axis=0)
            label = model if style == "solid" else None
            axes.plot(count, scores, color=color, ls=style, lw=2, label=label)
    for style, retriever, samples in _STYLES:
        axes.plot([], [], color="grey", ls=style, label=f"after {samples} x {retriever}")
    axes.set(title="Answering: small models catch up; bad lines cap all", ylabel="exact match")


def _plot_budgets(axes: Any, grid: Grid, task: Task) -> None:
    budgets = np.geomspace(task.feasible.cheapest_cost * 1.02, 600, 60)
    best, once = best_by_budget(grid, task, budgets)
    axes.plot(budgets, best, color=_COLORS[2], lw=2, label="best allocation")
    axes.plot(budgets, once, color=_COLORS[0], lw=2, ls="dashed", label="best, one sample each")
    axes.axvline(task.budget, color="grey", lw=1, ls="dotted")
    axes.annotate("the quickstart's budget", (task.budget * 1.08, 0.03), color="grey")
    axes.set(title="Both stages: what a budget buys", xlabel="cost per problem")
    axes.set_ylabel("exact match")


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
    path = parser.parse_args().out
    plot(path)
    print(f"\nNext:  open {path}; agenttts quickstart searches these models")


if __name__ == "__main__":
    main()
