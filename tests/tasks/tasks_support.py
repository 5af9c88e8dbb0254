"""What tests of several task families need."""

from optuna_agenttts_integrations.testing.simulation import simulated_models, stage_instructions


def everything(benchmark):
    """All instances."""
    return (*benchmark.search, *benchmark.held_out)


def allocated(benchmark, samples=1):
    """The first model of each stage, with so many samples."""
    return {stage.name: (stage.models[0].name, samples) for stage in benchmark.task.stages}


def as_competent(benchmark, competence):
    """Simulated models that have one chance to be right, in every stage."""
    names = {model.name for stage in benchmark.task.stages for model in stage.models}
    chances = dict.fromkeys(stage_instructions(benchmark), competence)
    return simulated_models(benchmark, dict.fromkeys(names, chances))
