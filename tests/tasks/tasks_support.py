"""Helpers for tests of the task families."""

from optuna_agenttts_integrations.testing.simulation import simulated_models, stage_instructions


def everything(benchmark):
    """Return all instances of a benchmark."""
    return (*benchmark.search, *benchmark.held_out)


def allocated(benchmark, samples=1):
    """Return the allocation of the first model of each stage with a number of samples."""
    return {stage.name: (stage.models[0].name, samples) for stage in benchmark.task.stages}


def as_competent(benchmark, competence):
    """Create simulated models with the same probability of being right in every stage."""
    names = {model.name for stage in benchmark.task.stages for model in stage.models}
    chances = dict.fromkeys(stage_instructions(benchmark), competence)
    return simulated_models(benchmark, dict.fromkeys(names, chances))
