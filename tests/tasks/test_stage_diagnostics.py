"""What agents see of the stages of the task families: descriptions, checks, transcripts."""

from functools import partial

import optuna
import pytest

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, storage
from optuna_agenttts.study.diagnostics import read_diagnostics
from optuna_agenttts_integrations.playground import make_objective
from optuna_agenttts_integrations.playground.problems import make_problems
from optuna_agenttts_integrations.tasks import (
    chat_dev,
    cwq,
    hotpot_qa,
    sample_path,
    task_bench,
    two_wiki,
    web_qsp,
)
from optuna_agenttts_integrations.testing.simulation import simulated_models

FAMILIES = {
    "two_wiki.json": two_wiki,
    "hotpot_qa.json": hotpot_qa,
    "cwq.json": cwq,
    "web_qsp.json": web_qsp,
    "task_bench.json": partial(task_bench, tools=sample_path("task_bench_tools.json")),
    "software.csv": chat_dev,
}


def objective_of(name):
    """Return the objective of a data set's sample, or of the playground."""
    if name == "playground":
        return make_objective(problems=make_problems("search", 8), progress=False)
    benchmark = FAMILIES[name](sample_path(name), search=4)
    return benchmark.objective(simulated_models(benchmark), progress=False)


@pytest.mark.parametrize("name", [*FAMILIES, "playground"])
def test_every_stage_is_described_and_all_but_revisions_and_answers_are_checked(name):
    """The first stage always has a check, so that its failures are not blamed on others."""
    with objective_of(name) as objective:
        assert objective.task.description
        assert all(stage.description for stage in objective.task.stages)
        checked = [program.check is not None for program in objective.pipeline.programs]
        assert checked[0]
        assert all(checked[:-1]) or name == "software.csv"


@pytest.mark.parametrize("name", [*FAMILIES, "playground"])
def test_trials_record_checks_and_short_transcripts(name):
    """Shares are between 0 and 1, and attributes of a trial stay short."""
    chat = ScriptedChatModel(lambda request: '{"guidelines": [], "candidates": []}')
    with objective_of(name) as objective:
        sampler = AgentTTSSampler(objective.task, llm=chat, explain=False)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=2)
    for trial in study.trials:
        (read,) = read_diagnostics(objective.task, [trial])
        first = read.stages[0]
        assert first.check
        assert 0 <= first.own <= first.weight == first.instances == len(objective.instances)
        assert len(str(trial.system_attrs[storage.DIAGNOSTICS])) < 2000
        assert len(str(trial.system_attrs[storage.TRANSCRIPTS])) < 4000
