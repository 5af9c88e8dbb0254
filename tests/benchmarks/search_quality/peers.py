"""The samplers that are compared. All of them search through `Task.suggest`.

``make_sampler(name, task, seed)`` builds one. Besides Optuna's own there are simple searches that
a careful engineer might write (`ChoicesSampler` and what derives from it): they see allocations
and scores only, and are handed out through Optuna's parameters.
"""

from importlib.util import find_spec

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from optuna_agenttts import AgentTTSSampler

_MOST = 60


class ChoicesSampler(BaseSampler):
    """A sampler that proposes whole allocations; derive and write `propose`.

    Args:
        task: The task.
        seed: Seed of its randomness.
    """

    def __init__(self, task, seed):
        self.task, self.rng = task, np.random.default_rng(seed)
        self.planned = None
        self.params = {}

    def propose(self, tried):
        """A generator of allocations as choices; `tried` fills up with (choices, score)."""
        raise NotImplementedError

    def infer_relative_search_space(self, study, trial):
        """Nothing is sampled jointly."""
        return {}

    def sample_relative(self, study, trial, search_space):
        """Nothing is sampled jointly."""
        return {}

    def before_trial(self, study, trial):
        """Plan the trial."""
        if self.planned is None:
            self.tried = {}
            self.planned = self.propose(self.tried)
        for past in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            known = self.task.choices_from_params(past.params)
            choices = tuple(known[i] for i in range(len(self.task.stages)))
            self.tried[choices] = past.value
        choices = next(self.planned, None)
        for _ in range(50):  # what has been tried tells nothing: its outcomes are the same
            if choices is not None and choices not in self.tried:
                break
            choices = next(self.planned, None) or self.random()
        self.params[trial.number] = self.task.params(
            self.task.allocation(choices or self.random())
        )

    def sample_independent(self, study, trial, param_name, param_distribution):
        """Hand out what was planned."""
        return self.params[trial.number][param_name]

    def fitting(self, choices):
        """The nearest feasible allocation, as a tuple."""
        limits = [len(self.task.feasible.costs[i][m]) for i, (m, _) in enumerate(choices)]
        inside = [(int(m), int(min(max(1, s), most))) for (m, s), most in zip(choices, limits)]
        return tuple(tuple(map(int, choice)) for choice in self.task.feasible.project(inside))

    def random(self):
        """A random combination of models with random samples, log-uniform."""
        combinations = self.task.feasible.model_combinations()
        models = combinations[self.rng.integers(len(combinations))]
        return self.fitting([(m, np.exp(self.rng.uniform(0, np.log(101)))) for m in models])

    def unit_budget(self, models):
        """A combination of models with what one sample of each stage's dearest model buys."""
        choices = []
        for rows, model in zip(self.task.feasible.costs, models):
            unit = max(float(row[0]) for row in rows)
            bought = int(np.searchsorted(rows[model], unit, side="right"))
            choices.append((model, min(max(1, bought), _MOST)))
        return self.fitting(choices)

    def steps(self, tried):
        """Random steps in log samples of one stage or of two from the best so far."""
        while True:
            if not tried:
                yield self.random()
                continue
            choices = list(max(tried, key=tried.get))
            for stage in self.rng.permutation(len(choices))[: self.rng.integers(1, 3)]:
                model, samples = choices[stage]
                factor = np.exp(self.rng.normal(0, 0.8))
                moved = round(samples * factor)
                moved += (moved == samples) * int(self.rng.choice([-1, 1]))
                choices[stage] = (model, moved)
            yield self.fitting(choices)


class ArmElimination(ChoicesSampler):
    """Successive halving of model combinations, then local steps.

    Every combination (a random 20 of more) at its unit budget; the better half with twice the
    samples; the better quarter with half of them; then steps from the best.
    """

    def propose(self, tried):
        """See the class."""
        combinations = self.task.feasible.model_combinations()
        chosen = self.rng.permutation(len(combinations))[:20]
        arms = [self.unit_budget(combinations[i]) for i in chosen]
        scores = {}
        for factor in (1.0, 2.0, 0.5):
            for arm in arms:
                setting = self.fitting([(m, round(s * factor)) for m, s in arm])
                if setting not in tried:
                    yield setting
                score = tried.get(setting, -np.inf)
                scores[arm] = max(scores.get(arm, -np.inf), score)
            arms = sorted(arms, key=scores.get, reverse=True)[: max(1, len(arms) // 2)]
        yield from self.steps(tried)


class CoordinateSearch(ChoicesSampler):
    """One stage at a time: its models at their unit budget, then its samples on a grid; again."""

    def propose(self, tried):
        """See the class."""
        combinations = self.task.feasible.model_combinations()
        best = self.unit_budget(combinations[len(combinations) // 2])
        yield best
        for refinement in range(10):
            for stage, rows in enumerate(self.task.feasible.costs):
                for model in range(len(rows)):
                    changed = list(best)
                    changed[stage] = self.unit_budget(
                        [*(m for m, _ in best[:stage]), model, *(m for m, _ in best[stage + 1 :])]
                    )[stage]
                    yield self.fitting(changed)
                best = max(tried, key=tried.get, default=best)
                here = best[stage][1]
                grid = (1, 3, 10, 30, 100) if refinement == 0 else (here // 1.5, here * 1.5)
                for samples in grid:
                    changed = list(best)
                    changed[stage] = (best[stage][0], round(samples))
                    yield self.fitting(changed)
                best = max(tried, key=tried.get, default=best)
        yield from self.steps(tried)


class InsightOne(ChoicesSampler):
    """The paper's loop with a stand-in for the model that knows Insight 1 only.

    The opening of Eq. 5 (a stage's models at its unit budget, one sample of the cheapest
    elsewhere), then each stage's best model, and steps in samples.
    """

    def propose(self, tried):
        """See the class."""
        cheapest = self.task.feasible.complete({})
        found = {}
        for stage, rows in enumerate(self.task.feasible.costs):
            for model in range(len(rows)):
                models = [m for m, _ in cheapest]
                models[stage] = model
                choices = list(cheapest)
                choices[stage] = self.unit_budget(models)[stage]
                choices = self.fitting(choices)
                if choices not in tried:
                    yield choices
                found[stage, model] = tried.get(choices, -np.inf)
        best = [
            max(range(len(rows)), key=lambda model: found[stage, model])
            for stage, rows in enumerate(self.task.feasible.costs)
        ]
        yield self.unit_budget(best)
        yield self.fitting([(model, 10) for model in best])
        yield from self.steps(tried)


def _optuna(name):
    def make(task, seed):
        return getattr(optuna.samplers, name)(seed=seed)

    return make


SAMPLERS = {
    "Random": _optuna("RandomSampler"),
    "TPE": _optuna("TPESampler"),
    "GP": _optuna("GPSampler"),
    "QMC": _optuna("QMCSampler"),
    "AgentTTS": lambda task, seed: AgentTTSSampler(task, seed=seed),
    "arm elimination": ArmElimination,
    "coordinate": CoordinateSearch,
    "insight 1": InsightOne,
}
if find_spec("cmaes"):
    SAMPLERS["CMA-ES"] = _optuna("CmaEsSampler")


def make_sampler(name, task, seed):
    """A sampler by name, at its defaults."""
    return SAMPLERS[name](task, seed)
