"""The samplers that are compared. All of them search through `Task.suggest`.

``make_sampler(name, task, seed)`` builds one. Besides Optuna's own there are simple searches that
a careful engineer might write, the compared methods of the paper (`paper_loop`), and AgentTTS with
scripted agents (`agents`). Those that derive from `ChoicesSampler` see allocations and scores
only, and are handed out through Optuna's parameters.
"""

from importlib.util import find_spec

import numpy as np
import optuna
from agents import AGENTS
from choices_sampler import ChoicesSampler
from paper_loop import LOOPS

from optuna_agenttts import AgentTTSSampler


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


def _optuna(name):
    def make(task, seed):
        return getattr(optuna.samplers, name)(seed=seed)

    return make


_SIMPLE = {
    "Random": _optuna("RandomSampler"),
    "TPE": _optuna("TPESampler"),
    "GP": _optuna("GPSampler"),
    "QMC": _optuna("QMCSampler"),
    "AgentTTS": lambda task, seed: AgentTTSSampler(task, seed=seed),
    "arm elimination": ArmElimination,
    "coordinate": CoordinateSearch,
}
if find_spec("cmaes"):
    _SIMPLE["CMA-ES"] = _optuna("CmaEsSampler")

SAMPLERS = (*_SIMPLE, *LOOPS, *AGENTS)
"""Names of all samplers."""
TALKING = frozenset(LOOPS) | {"AgentTTS+llm"}
"""Those that talk to a language model, if one is given."""


def make_sampler(name, task, seed, *, place=None, llm=None):
    """Create the named sampler with its default settings.

    Args:
        name: One of `SAMPLERS`.
        task: The task.
        seed: Seed of its randomness.
        place: The landscape being searched, for agents that know it, and for experience with
            others of its family.
        llm: The language model behind methods that talk to one, as `connect` takes it; None for
            their scripted stand-in.
    """
    if name in _SIMPLE:
        return _SIMPLE[name](task, seed)
    if name in LOOPS:
        return LOOPS[name](task, seed, place=place, llm=llm)
    return AGENTS[name](task, seed, place=place, llm=llm)
