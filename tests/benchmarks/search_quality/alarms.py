"""How often alarms ring while the planner's recommendation is right, and while it is wrong.

``python tests/benchmarks/search_quality/alarms.py [--families calibrated] [--landscapes 8]``

Searches of the planner alone, one of each development landscape. Every third trial from the ninth
on, the alarms of ``llm_when="auto"`` are considered (`agent/alarm.py`); a recommendation is wrong
if its regret is .1 or more.
"""

import argparse
import warnings

import numpy as np
import optuna
from families import cycle
from landscapes import DEVELOPMENT, FAMILIES, landscape

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.agent.alarm import alarms
from optuna_agenttts.planner.posterior import Posterior

KINDS = {"opening": "opening", "scores": "two different", "raw means": "raw means"}
KINDS |= {"kernels": "kernels", "disappointed": "below what was expected"}


def one_search(family, index, trials, instances=50):
    """Run a search; yield the regret of the recommendation and the alarms at each check."""
    place = landscape(family, index)
    task, seed = place.task, int(np.random.SeedSequence([0, index]).generate_state(1)[0] % 2**31)
    sampler = AgentTTSSampler(task, seed=seed, explain=False)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(trials):
        trial = study.ask()
        models, samples = np.array(task.choices(task.suggest(trial))).T
        outcomes = place.outcomes(models, samples, 0, instances)
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome, step)
        study.tell(trial, float(outcomes.mean()))
        if number >= 8 and number % 3 == 2:
            evidence, planner = sampler._candidates.planned_from(study, task, number + 1)
            incumbents = Posterior(planner.surrogate, evidence).incumbents
            best = incumbents.points.take(np.array([int(np.argmax(incumbents.mean()))]))
            truth = place.truth(best.models[0], best.samples[0])
            yield float(place.regret(truth)), list(alarms(planner, evidence))


def main():
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES[:3])
    parser.add_argument("--landscapes", type=int, default=8)
    parser.add_argument("--trials", type=int, default=50)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    searches = []
    for family in options.families:
        first = -(-DEVELOPMENT.start // cycle(family)) * cycle(family)
        indices = range(first, first + options.landscapes)
        searches += [list(one_search(family, index, options.trials)) for index in indices]
    wrong = np.array([regret >= 0.1 for checks in searches for regret, _ in checks])
    found = [reasons for checks in searches for _, reasons in checks]
    print(f"{len(searches)} searches, {len(wrong)} checks, {wrong.mean():.0%} of them wrong")
    kinds = {"any": "", **KINDS}
    for kind, text in kinds.items():
        rings = np.array([any(text in reason for reason in reasons) for reasons in found])
        print(
            f"{kind:12s} rings: wrong {rings[wrong].mean():.0%}, right {rings[~wrong].mean():.0%}"
        )
    bad = [checks for checks in searches if checks[-1][0] >= 0.3]
    silent = sum(not any(reasons for _, reasons in checks) for checks in bad)
    print(f"{len(bad)} searches end with a regret of .3 or more, {silent} of them without alarm")


if __name__ == "__main__":
    main()
