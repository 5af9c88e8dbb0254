"""Compare what figures of a study show with the truth, on recorded searches.

``python explaining.py CACHE`` reads the searches that ``trust.py record CACHE`` has stored, and
prints a line for each family and sampler: how well the curves of `saturation_of` cover the truth,
what is lost where they are said to saturate, and how far shares of `importances_of` and values of
`map_of` are from the true ones. Options are those of `trust.py`.
"""

import argparse
import pickle
import warnings
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from landscapes import FAMILIES
from peers import SAMPLERS
from trust import make_place, searches

from optuna_agenttts.report.importances import _redrawn, importances_of
from optuna_agenttts.report.maps import map_of
from optuna_agenttts.report.saturation import saturation_of
from optuna_agenttts.report.view import StudyView

DRAWN = 3000
"""Allocations for the true shares."""


@cache
def truth(place, choices):
    """Return the true score of an allocation."""
    models, samples = np.array(choices).T
    return float(place.truth(models, samples))


@cache
def true_shares(place):
    """Return the shares of settings in the variance of true scores."""
    sets = _redrawn(place.task.feasible, np.random.default_rng(1), DRAWN)
    base, *others = [
        np.array([truth(place, tuple(zip(*pair))) for pair in zip(m.tolist(), n.tolist())])
        for m, n in sets
    ]
    effects = np.array([np.mean((base - other) ** 2) for other in others])
    return effects / effects.sum()


def put(choices, stage, setting):
    """Return an allocation with another setting of a stage."""
    return (*choices[:stage], setting, *choices[stage + 1 :])


def position(task, stage, model):
    """Return the positions of a stage and its model by name."""
    number = [s.name for s in task.stages].index(stage)
    return number, [m.name for m in task.stages[number].models].index(model)


def of_curves(place, view):
    """Yield figures of each curve."""
    saturation = view.get(saturation_of)
    for curve in saturation.curves:
        if not curve.affordable:
            continue
        stage, model = position(place.task, curve.stage, curve.model)
        within = [n for n in curve.samples if n <= curve.affordable]
        true = np.array([truth(place, put(view.best, stage, (model, n))) for n in within])
        # Numbers of samples weigh evenly by ratio.
        weights = np.diff(np.log([*within, within[-1] + 1]))
        low, high = np.array(curve.intervals[: len(within)]).T
        gains = [true[k:].max() - true[k] for k in range(len(within))]
        at = within[next(k for k, gain in enumerate(gains) if gain <= saturation.margin)]
        low_at, high_at = curve.saturates_between
        lost = gains[within.index(curve.saturates_at)]
        kind = "recommended models" if curve.recommended else "others"
        yield {
            f"interval covers, {kind}": np.average(
                (low <= true) & (true <= high), weights=weights
            ),
            f"saturation covered, {kind}": low_at <= at <= high_at,
            f"factor of saturation, {kind}": abs(np.log(curve.saturates_at / at)),
            f"samples beyond gain at most twice the margin, {kind}": lost <= 2 * saturation.margin,
        }


def of_shares(place, view):
    """Yield figures of each importance."""
    for found, true in zip(view.get(importances_of), true_shares(place)):
        low, high = found.interval
        yield {"share covered": low <= true <= high, "error of share": abs(found.share - true)}


def of_map(place, view):
    """Yield figures of each column of a map."""
    if len(place.task.stages) < 2:
        return
    found = view.get(map_of)
    for panel in found.panels:
        one, first = position(place.task, found.earlier, panel.earlier_model)
        two, second = position(place.task, found.later, panel.later_model)
        for column, (best, earlier) in enumerate(zip(panel.best_later, found.earlier_samples)):
            if best is None:
                continue
            rows = np.flatnonzero(np.isfinite(panel.values[:, column]))
            fixed = put(view.best, one, (first, earlier))
            later = [found.later_samples[row] for row in rows]
            true = np.array([truth(place, put(fixed, two, (second, n))) for n in later])
            yield {
                "error of map": np.mean(np.abs(panel.values[rows, column] - true)),
                "loss of best later samples": true.max() - true[later.index(best)],
            }


def main():
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs=1, type=Path, help="the cache")
    families = (*FAMILIES, "edges", "real")
    parser.add_argument("--families", nargs="+", choices=families, default=families)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["AgentTTS"])
    parser.add_argument("--real", type=Path, help="folder of the module `real_landscapes`")
    parser.add_argument("--split", choices=("development", "report"), default="development")
    parser.add_argument("--landscapes", type=int, help="at most so many of each family")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each landscape")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore")
    groups = defaultdict(list)
    for (family, index, name, _), path in searches(options):
        if path.exists():
            place = make_place(family, index, options.real)
            study = optuna.create_study(direction="maximize")
            study.add_trials(pickle.loads(path.read_bytes()))
            view, row = StudyView(study, place.task), defaultdict(list)
            for figures in (of_curves, of_shares, of_map):
                for found in figures(place, view):
                    for key, value in found.items():
                        row[key].append(float(value))
            groups[family, name].append({key: np.mean(values) for key, values in row.items()})
    for (family, name), rows in sorted(groups.items()):
        print(f"{family}, {name}: {len(rows)} searches")
        for key in dict.fromkeys(key for row in rows for key in row):
            mean = np.mean([row[key] for row in rows if key in row])
            print(f"  {key}: {np.exp(mean) if key.startswith('factor') else mean:.3f}")


if __name__ == "__main__":
    main()
