"""Studies with known truths, without a search, that tests of the recommendation share."""

from statistics import NormalDist

import numpy as np
import optuna
from core_support import LARGE, SMALL
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from optuna_agenttts import Model, Stage, Task


def one_stage(max_samples=64, budget=1000, **options):
    """Return a task of one stage."""
    models = [Model(SMALL, parameters=3e9), Model(LARGE, parameters=70e9)]
    stage = Stage(
        "answer", models=models, prompt_tokens=256, generation_tokens=64, max_samples=max_samples
    )
    return Task(name="one", stages=[stage], budget=budget, **options)


def small(samples):
    """Return an allocation of the small model."""
    return {"answer": (SMALL, samples)}


def trial_of(task, allocation, value, **options):
    """Return a finished trial of an allocation."""
    distributions = {}
    for stage in task.stages:
        names = [model.name for model in stage.models]
        distributions[stage.model_parameter] = CategoricalDistribution(names)
        distributions[stage.samples_parameter] = IntDistribution(1, stage.max_samples)
    return create_trial(
        params=task.params(allocation), distributions=distributions, value=value, **options
    )


def study_of(task, evidence, direction="maximize"):
    """Return a study of the given pairs of an allocation and its value."""
    study = optuna.create_study(direction=direction)
    study.add_trials([trial_of(task, allocation, value) for allocation, value in evidence])
    return study


def study_with_outcomes(task, evidence, direction="maximize", seen=None):
    """Return a study of the given pairs of an allocation and its outcomes.

    Args:
        task: The task.
        evidence: The pairs.
        direction: The study's direction.
        seen: By position, numbers of outcomes after which trials were stopped.
    """
    study = optuna.create_study(direction=direction)
    for position, (allocation, outcomes) in enumerate(evidence):
        count = (seen or {}).get(position, len(outcomes))
        steps = dict(enumerate(np.asarray(outcomes, dtype=float)[:count].tolist()))
        state = TrialState.PRUNED if count < len(outcomes) else TrialState.COMPLETE
        value = float(np.mean(list(steps.values())))
        study.add_trial(trial_of(task, allocation, value, intermediate_values=steps, state=state))
    return study


def draw_outcomes(rng, rates, instances, shared=0.5):
    """Draw outcomes 0 or 1 that share the difficulty of the instances, shape (rates, instances).

    Args:
        rng: Random number generator.
        rates: The true rates.
        instances: Number of instances.
        shared: Correlation of two trials on one instance, on the normal scale.
    """
    latent = np.sqrt(shared) * rng.normal(size=instances)
    latent = latent + np.sqrt(1 - shared) * rng.normal(size=(len(rates), instances))
    thresholds = [NormalDist().inv_cdf(rate) for rate in rates]
    return (latent < np.array(thresholds)[:, None]).astype(float)
