"""How well samplers search the playground's measured grid.

``python tests/benchmarks/playground_search.py [--seeds 20] [--trials 40] [--out docs/...md]``

Each seed draws 50 of the grid's 200 problems; a trial's value is the mean outcome on them. What
is reported is true on all 200: the score of the allocation that a user would take from the study,
and after how many trials one was tried whose regret is under .10. Regret is 0 for the best
feasible allocation and 1 for the median one. Every sampler suggests through `Task.suggest`, so
that all of them search allocations within the budget only.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import optuna

from optuna_agenttts import AgentTTSSampler, recommend
from optuna_agenttts_integrations.playground import make_task
from optuna_agenttts_integrations.playground.grid import load_grid

PROBLEMS = 50
SAMPLERS = ("Random", "TPE", "GP", "AgentTTS")


def make_sampler(name, task, seed):
    """Create the named sampler with its default settings."""
    if name == "Random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "TPE":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "GP":
        return optuna.samplers.GPSampler(seed=seed)
    return AgentTTSSampler(task, seed=seed)


def one_search(name, seed, trials):
    """Run one search; returns its figures."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task, grid = make_task(), load_grid()
    models, samples = task.feasible.arrays()
    truth = np.concatenate(
        [
            grid.outcomes(m, s).mean(axis=1)
            for m, s in zip(np.array_split(models, 50), np.array_split(samples, 50))
        ]
    )
    best, median = truth.max(), np.median(truth)
    problems = np.random.default_rng(seed).choice(200, PROBLEMS, replace=False)

    def outcomes(choices):
        array = np.array([choices])
        return grid.outcomes(array[..., 0], array[..., 1])[0]

    def objective(trial):
        choices = task.choices(task.suggest(trial))
        values = outcomes(choices)[problems].astype(float)
        for step, value in enumerate(values):
            trial.report(value, step)
        return float(values.mean())

    study = optuna.create_study(direction="maximize", sampler=make_sampler(name, task, seed))
    study.optimize(objective, n_trials=trials)

    def choices_of(params):
        known = task.choices_from_params(params)
        return [known[0], known[1]]

    tried = [outcomes(choices_of(t.params)).mean() for t in study.trials if t.value is not None]
    regrets = (best - np.array(tried)) / (best - median)
    hit = next((i + 1 for i, regret in enumerate(regrets) if regret < 0.1), trials + 1)
    recommendation = recommend(study)
    recommended = outcomes(task.choices(recommendation.allocation)).mean()
    low, high = recommendation.interval
    return {
        "recommended": recommended,
        "best trial": outcomes(choices_of(study.best_params)).mean(),
        "hit": hit,
        "covered": low <= recommended <= high,
        "regret": (best - recommended) / (best - median),
        "best": best,
        "median": median,
    }


def interval(values, rng):
    """Bootstrap 90 % interval of the median."""
    draws = rng.choice(values, (2000, len(values)))
    return np.percentile(np.median(draws, axis=1), [5, 95])


def main():
    """Run all searches and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [
        "| sampler | trials to regret < .10 | true score of `recommend(study)` | its regret "
        "| true score of `study.best_trial` | 90 % interval covers |",
        "|---|---|---|---|---|---|",
    ]
    with ProcessPoolExecutor(2) as pool:
        for name in arguments.samplers:
            seeds = range(arguments.seeds)
            count = len(seeds)
            found = list(pool.map(one_search, [name] * count, seeds, [arguments.trials] * count))
            cells = []
            for key, form in (
                ("hit", "{:.0f}"),
                ("recommended", "{:.3f}"),
                ("regret", "{:.2f}"),
                ("best trial", "{:.3f}"),
            ):
                values = np.array([float(f[key]) for f in found])
                low, high = interval(values, rng)
                text = f"{form} ({form} to {form})".format(np.median(values), low, high)
                cells.append(text.replace(str(arguments.trials + 1), f"> {arguments.trials}"))
            covered = sum(f["covered"] for f in found)
            rows.append(f"| {name} | {' | '.join(cells)} | {covered} of {count} |")
            print(rows[-1], file=sys.stderr, flush=True)
    rows.append("")
    rows.append(
        f"Best feasible allocation {found[0]['best']:.3f}, median {found[0]['median']:.3f}; "
        f"{arguments.seeds} seeds, {arguments.trials} trials, {PROBLEMS} problems, Optuna "
        f"{optuna.__version__} defaults; medians with bootstrap 90 % intervals."
    )
    text = "\n".join(rows)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
