"""The base of searches that propose whole allocations and see their scores only."""

import numpy as np
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

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
        """Yield allocations as choices; `tried` fills up with (choices, score)."""
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
        """Return the nearest feasible allocation as a tuple."""
        limits = [len(self.task.feasible.costs[i][m]) for i, (m, _) in enumerate(choices)]
        inside = [(int(m), int(min(max(1, s), most))) for (m, s), most in zip(choices, limits)]
        return tuple(tuple(map(int, choice)) for choice in self.task.feasible.project(inside))

    def random(self):
        """Draw a random combination of models with log-uniform random numbers of samples."""
        combinations = self.task.feasible.model_combinations()
        models = combinations[self.rng.integers(len(combinations))]
        return self.fitting([(m, np.exp(self.rng.uniform(0, np.log(101)))) for m in models])

    def unit_budget(self, models):
        """Give each model the samples that one sample of its stage's dearest model would buy."""
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
