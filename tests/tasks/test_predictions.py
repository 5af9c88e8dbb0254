"""The paper's task families predict from instances without gold what they answer with it."""

from dataclasses import fields, replace
from functools import partial

import pytest
from tasks_support import allocated, everything

from optuna_agenttts_integrations import DataError
from optuna_agenttts_integrations.tasks import chat_dev, cwq, sample_path, task_bench, two_wiki
from optuna_agenttts_integrations.tasks.kg_qa import TripleQuestion
from optuna_agenttts_integrations.tasks.retrieval_qa import PassageQuestion
from optuna_agenttts_integrations.testing.simulation import simulated_models

GOLD = {"gold", "answers", "steps", "calls"}
FAMILIES = {
    "two_wiki": (two_wiki, "two_wiki.json"),
    "cwq": (cwq, "cwq.json"),
    "task_bench": (
        partial(task_bench, tools=sample_path("task_bench_tools.json")),
        "task_bench.json",
    ),
    "chat_dev": (chat_dev, "software.csv"),
}


def without_gold(instance):
    """Return an instance made from what prompts need."""
    given = {f.name: getattr(instance, f.name) for f in fields(instance) if f.name not in GOLD}
    return type(instance)(**given)


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_gold_is_not_needed(family, fusion):
    """The answers are those of an evaluation, whose samples are reused."""
    make, sample = FAMILIES[family]
    benchmark = make(sample_path(sample), search=2, fusion=fusion)
    states = {}

    def score(state):
        states[state.instance.id] = state
        return 1.0

    recorded = replace(benchmark, pipeline=replace(benchmark.pipeline, score=score, metrics={}))
    chosen = allocated(benchmark, 3)
    instances = everything(benchmark)[:4]
    with recorded.objective(simulated_models(benchmark), progress=False) as objective:
        objective.instances = {instance.id: instance for instance in instances}
        objective.evaluate(chosen)
        found = objective.predict([without_gold(instance) for instance in instances], chosen)
    assert found.spend == 0
    for prediction in found:
        if prediction.id in states:
            state = states[prediction.id]
            assert prediction.results == state.results
            choose = benchmark.pipeline.answer
            last = benchmark.pipeline.stages[-1].name
            assert prediction.answer == (choose(state) if choose else state[last])
        else:
            assert prediction.failed, "an evaluation scores failed instances without `score`"
    assert len(found.answers) == 4
    assert any(answer is not None for answer in found.answers)


def test_instances_without_answers_cannot_be_scored():
    """Instead of a score of 0."""
    benchmark = two_wiki(sample_path("two_wiki.json"), search=2)
    bare = without_gold(benchmark.search[0])
    assert bare == PassageQuestion(bare.id, bare.question, bare.passages)
    assert TripleQuestion("1", "who?", ()).answers == ()
    with benchmark.objective(simulated_models(benchmark), progress=False) as objective:
        objective.instances = {bare.id: bare}
        with pytest.raises(DataError, match="no `answers` to score against"):
            objective.evaluate(allocated(benchmark))
