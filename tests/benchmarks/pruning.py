"""What `WilcoxonPruner` saves, and at what loss: live searches of the playground.

    python tests/benchmarks/pruning.py [--seeds 12] [--trials 40]

Every search has 50 problems and a store of its own. Tokens and instances are those that the trials
really took; regret is that of the recommendation on the measured grid (0 for the best feasible
allocation, 1 for the median one).
"""

import argparse
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import optuna
from optuna.pruners import NopPruner, WilcoxonPruner
from optuna.trial import TrialState

from optuna_agenttts import AgentTTSSampler, recommend
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts_integrations.playground import make_objective, make_problems, make_task
from optuna_agenttts_integrations.playground.grid import load_grid

PROBLEMS = 50
PRUNERS = {"none": NopPruner, "Wilcoxon": WilcoxonPruner}
SAMPLERS = {"AgentTTS": AgentTTSSampler, "TPE": optuna.samplers.TPESampler}


def truth():
    """Of each feasible allocation, the mean outcome on all problems of the grid."""
    task, grid = make_task(), load_grid()
    models, samples = task.feasible.arrays()
    parts = zip(np.array_split(models, 50), np.array_split(samples, 50))
    return np.concatenate([grid.outcomes(m, s).mean(axis=1) for m, s in parts])


def one_search(sampler, pruner, seed, trials):
    """Run one search; returns its figures."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task, grid, scores = make_task(), load_grid(), truth()
    problems = make_problems("search", PROBLEMS * (seed + 1))[-PROBLEMS:]
    study = optuna.create_study(
        direction="maximize", sampler=SAMPLERS[sampler](seed=seed), pruner=PRUNERS[pruner]()
    )
    with make_objective(task=task, problems=problems, progress=False) as objective:
        study.optimize(objective, n_trials=trials)
    choices = np.array([task.choices(recommend(study).allocation)])
    found = grid.outcomes(choices[..., 0], choices[..., 1]).mean()
    best, median = scores.max(), np.median(scores)
    return {
        "tokens": sum(trial.user_attrs["tokens"] for trial in study.trials),
        "naive": sum(trial.user_attrs["naive_tokens"] for trial in study.trials),
        "instances": sum(len(outcomes_of(trial)) for trial in study.trials),
        "pruned": sum(trial.state == TrialState.PRUNED for trial in study.trials),
        "regret": (best - found) / (best - median),
    }


def main():
    """Run all searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--trials", type=int, default=40)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print("| sampler | pruner | trials pruned | instances | tokens | without reuse | regret |")
    print("|---|---|---|---|---|---|---|")
    for sampler in SAMPLERS:
        plain = None
        for pruner in PRUNERS:
            seeds = range(options.seeds)
            with ProcessPoolExecutor(2) as pool:
                count = len(seeds)
                found = list(
                    pool.map(
                        one_search,
                        [sampler] * count,
                        [pruner] * count,
                        seeds,
                        [options.trials] * count,
                    )
                )
            figures = {key: np.array([f[key] for f in found], dtype=float) for key in found[0]}
            plain = plain or figures
            cells = [f"{np.median(figures['pruned']):.0f} of {options.trials}"]
            for key in ("instances", "tokens", "naive"):
                share = np.median(figures[key] / plain[key])
                cells.append(f"{np.median(figures[key]):,.0f} ({share:.0%})")
            draws = np.median(rng.choice(figures["regret"], (2000, count)), axis=1)
            low, high = np.percentile(draws, [5, 95])
            cells.append(f"{np.median(figures['regret']):.2f} ({low:.2f} to {high:.2f})")
            print(f"| {sampler} | {pruner} | {' | '.join(cells)} |", flush=True)
    print(
        f"\n{options.seeds} seeds, {options.trials} trials, {PROBLEMS} problems; medians, in "
        "brackets the share of the search without pruner and the bootstrap 90 % interval."
    )


if __name__ == "__main__":
    main()
