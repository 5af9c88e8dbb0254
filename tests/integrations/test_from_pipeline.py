"""Tasks derived from a pipeline and its data."""

import json

import pytest

from optuna_agenttts import FlopsCost, MissingFactError, Model, PriceCost, Stage, Task, TaskError
from optuna_agenttts_integrations import Pipeline, PipelineError, StageProgram, Step

INSTANCES = [{"text": "a" * 400}, {"text": "b" * 800}]
NAMES = {"find": ["org/small-1B", "org/large-10B"], "say": ["org/small-1B"]}


def pipeline(*before):
    """Two stages; the second reads what the first found."""
    return Pipeline(
        stages=[
            *before,
            StageProgram(name="find", prompt=lambda s: s.instance["text"], max_tokens=100),
            StageProgram(name="say", prompt=lambda s: f"{s['find']} say it", max_tokens=40),
        ],
        score=lambda state: 1.0,
    )


def derive(models=NAMES, **options):
    """A task from that pipeline."""
    return Task.from_pipeline(pipeline(), INSTANCES, models=models, name="derived", **options)


def test_it_is_the_task_that_one_would_write():
    """Prompts are counted, replies guessed at half their bound, sizes read off names."""
    find, say = derive().stages
    assert (find.prompt_tokens, find.generation_tokens) == (150, 50)
    # Its own words, and half of the longest reply of the stage before.
    assert say.prompt_tokens == pytest.approx(50 + len("None say it") / 4)
    assert say.generation_tokens == 20
    small, large = Model("org/small-1B", parameters=1e9), Model("org/large-10B", parameters=1e10)
    written = Task(
        name="derived",
        stages=[
            Stage("find", models=[small, large], prompt_tokens=150, generation_tokens=50),
            Stage("say", models=[small], prompt_tokens=say.prompt_tokens, generation_tokens=20),
        ],
    )
    assert derive() == written


def test_what_is_said_passes_through():
    """Budget, cost, metric, description and bounds are those of `Task`."""
    task = derive(
        budget=1e4,
        cost=FlopsCost(prefix_sharing=False),
        metric="exact match",
        description="words",
        max_samples=7,
    )
    assert (task.budget, task.metric, task.description) == (1e4, "exact match", "words")
    assert not task.cost_model.prefix_sharing
    assert {stage.max_samples for stage in task.stages} == {7}


def test_models_are_taken_as_they_are_given(tmp_path):
    """A `Model`, or the folder of a checkpoint."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 100,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = Model("mine", parameters=5e9)
    task = derive(models={"find": [str(tmp_path)], "say": [given]})
    assert task.stages[1].models == (given,)
    # Embedding, and for each layer attention, feed-forward and two norms; the last norm.
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert task.stages[0].models[0].parameters == 100 * 64 + 2 * layer + 64


def test_a_fact_that_nobody_tells_is_an_error():
    """It names the model and the remedy, before anything is spent."""
    with pytest.raises(MissingFactError, match=r"input_price.*org/small-1B"):
        derive(cost=PriceCost())
    with pytest.raises(MissingFactError, match=r"parameters.*nameless"):
        derive(models={"find": ["nameless"], "say": ["nameless"]})


@pytest.mark.parametrize("models", [{"find": ["a-1B"]}, {**NAMES, "other": ["a-1B"]}])
def test_stages_and_models_must_agree(models):
    """Both lists are named."""
    with pytest.raises(TaskError, match=r"asks models in \['find', 'say'\]"):
        derive(models=models)


def test_plain_steps_before_the_first_stage_are_run():
    """Their results are in prompts; coroutine functions are left out."""

    async def fetch(state):
        raise AssertionError

    stages = [
        Step(name="tidy", run=lambda state: state.instance["text"][:40]),
        Step(name="page", run=fetch),
        StageProgram(name="find", prompt=lambda s: f"{s['tidy']}{s['page']}", max_tokens=10),
    ]
    counted = Pipeline(stages=stages, score=lambda state: 1.0).lengths(INSTANCES)
    assert counted == {"find": (len("x" * 40 + "None") / 4, 5)}


def test_no_instances_tell_nothing():
    """An empty list is refused."""
    with pytest.raises(PipelineError, match="`instances` is empty"):
        Task.from_pipeline(pipeline(), [], models=NAMES, name="derived")
