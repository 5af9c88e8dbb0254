"""Tasks derived from a pipeline and its data."""

import asyncio
import json
import threading
import warnings
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import optuna
import pytest

from optuna_agenttts import (
    AgentTTSSampler,
    BudgetError,
    FlopsCost,
    MissingFactError,
    Model,
    PriceCost,
    Stage,
    Task,
    TaskError,
    describe_model,
    recommend,
)
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.models.hub import Hub
from optuna_agenttts_integrations import (
    Endpoint,
    MultiStageObjective,
    Pipeline,
    PipelineError,
    StageProgram,
    Step,
)

INSTANCES = [{"text": "a" * 400}, {"text": "b" * 800}]
NAMES = {"find": ["org/small-1B", "org/large-10B"], "say": ["org/small-1B"]}


def pipeline(*before):
    """Build a pipeline of two stages; the second uses the result of the first."""
    return Pipeline(
        stages=[
            *before,
            StageProgram(
                name="find", prompt=lambda s: s.instance["text"], max_tokens=100, enough=None
            ),
            StageProgram(
                name="say", prompt=lambda s: f"{s['find']} say it", max_tokens=40, enough=None
            ),
        ],
        score=lambda state: 1.0,
    )


def derive(models=NAMES, **options):
    """Derive a task from that pipeline."""
    return Task.from_pipeline(pipeline(), INSTANCES, models=models, name="derived", **options)


def test_a_derived_task_equals_a_written_one():
    """Prompts are counted, replies are half of `max_tokens`, sizes come from names."""
    find, say = derive().stages
    assert (find.prompt_tokens, find.generation_tokens) == (150, 50)
    # Its own text, and half of `max_tokens` of the stage before.
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


def test_arguments_are_passed_on():
    """Budget, cost, metric, description and limits are those of `Task`."""
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


def test_models_can_be_given_as_objects_or_folders(tmp_path):
    """A `Model` is used unchanged, the folder of a checkpoint is read."""
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
    task = derive(models={"find": [str(tmp_path)], "say": [given]}, describe=describe_model)
    assert task.stages[1].models == (given,)
    # Embedding, and for each layer attention, feed-forward and two norms; the last norm.
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert task.stages[0].models[0].parameters == 100 * 64 + 2 * layer + 64


class Pages(BaseHTTPRequestHandler):
    """Fake Hub and router with a model of 8e9 parameters at 0.3 and 0.6 USD."""

    MODEL = "org/priced"
    OFFER = {"provider": "groq", "status": "live", "pricing": {"input": 0.3, "output": 0.6}}
    CONTENT = {
        f"/api/models/{MODEL}": {"safetensors": {"total": 8e9, "parameters": {"BF16": 8e9}}},
        "/v1/models": {"data": [{"id": MODEL, "providers": [OFFER]}]},
    }

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.seen[path] += 1
        body = json.dumps(self.CONTENT.get(path, {})).encode()
        self.send_response(200 if path in self.CONTENT else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@contextmanager
def online():
    """Serve a Hub on loopback; yield it and the number of requests for each page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.seen = Counter()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        yield Hub(endpoint=url, router=url), server.seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_prices_and_sizes_come_from_the_hub_once_for_each_model():
    """A model of two stages is looked up once."""
    with online() as (hub, seen):
        models = {"find": [Pages.MODEL], "say": [Pages.MODEL]}
        priced = derive(models=models, describe=hub.describe, cost=PriceCost())
        assert set(seen.values()) == {1}
        given = Model(Pages.MODEL, input_price=9, output_price=9)
        mixed = derive(models={**models, "say": [given]}, describe=hub.describe, cost=PriceCost())
    found = Model(Pages.MODEL, parameters=8e9, input_price=0.3, output_price=0.6)
    assert [stage.models for stage in priced.stages] == [(found,), (found,)]
    find, say = priced.stages
    one = find.prompt_tokens * 0.3 + find.generation_tokens * 0.6
    other = say.prompt_tokens * 0.3 + say.generation_tokens * 0.6
    assert priced.cost({"find": found_one(), "say": found_one()}) == pytest.approx(
        (one + other) / 1e6
    )
    # Declared facts are used unchanged.
    assert mixed.stages[1].models == (given,)


def found_one():
    """Return one sample of the Hub's model."""
    return (Pages.MODEL, 1)


def test_a_fact_missing_from_the_hub_is_an_error():
    """A size can be inferred from the name; a price cannot."""
    with online() as (hub, _):
        assert derive(describe=hub.describe).stages[0].models[0].parameters == 1e9
        with pytest.raises(MissingFactError, match=r"Model\('org/small-1B', input_price=\.\.\.\)"):
            derive(describe=hub.describe, cost=PriceCost())


def test_a_missing_fact_is_an_error():
    """The error names the model and the missing argument."""
    with pytest.raises(MissingFactError, match=r"input_price.*org/small-1B"):
        derive(cost=PriceCost())
    with pytest.raises(MissingFactError, match=r"parameters.*nameless"):
        derive(models={"find": ["nameless"], "say": ["nameless"]})


def test_a_budget_below_the_cheapest_allocation_is_rejected():
    """This is the check of `Task`."""
    with pytest.raises(BudgetError, match="raise `budget`"):
        derive(models={"find": ["org/large-10B"], "say": ["org/small-1B"]}, budget=1)


def test_each_name_is_described_once():
    """`describe` maps a name to a model; a given `Model` is used unchanged."""
    described = []

    def describe(name):
        described.append(name)
        return Model(name, parameters=2e9)

    given = Model("given", parameters=3e9)
    models = {"find": ["one", "two", given], "say": ["two", "one"]}
    find, say = derive(models=models, describe=describe).stages
    assert sorted(described) == ["one", "two"]
    assert [m.parameters for m in find.models] == [2e9, 2e9, 3e9]
    assert {m.parameters for m in say.models} == {2e9}


@pytest.mark.parametrize(
    "models", [{"find": ["a-1B"]}, {**NAMES, "other": ["a-1B"]}, {}, ["find"]]
)
def test_stages_and_models_must_agree(models):
    """The error has both lists of names."""
    with pytest.raises(TaskError, match=r"pipeline's stages \['find', 'say'\]") as caught:
        derive(models=models)
    assert f"got {list(models)!r}" in str(caught.value)


@pytest.mark.parametrize("choices", ["a-1B", Model("a", parameters=1e9), None])
def test_a_stage_has_a_list_of_models(choices):
    """A string is not split into letters."""
    with pytest.raises(TaskError, match="list of models or names for stage 'say'"):
        derive(models={**NAMES, "say": choices})


@pytest.mark.parametrize("choices", [[], [3], [""], ["a-1B", "a-1B"], [["a-1B"]]])
def test_invalid_models_are_rejected(choices):
    """The error is a TaskError, not a TypeError."""
    with pytest.raises(TaskError):
        derive(models={**NAMES, "say": choices})


def test_plain_steps_before_the_first_stage_are_run():
    """Prompts contain their results; coroutine functions are not run."""

    async def fetch(state):
        raise AssertionError

    stages = [
        Step(name="tidy", run=lambda state: state.instance["text"][:40]),
        Step(name="page", run=fetch),
        StageProgram(name="find", prompt=lambda s: f"{s['tidy']}{s['page']}", max_tokens=10),
    ]
    counted = Pipeline(stages=stages, score=lambda state: 1.0).lengths(INSTANCES)
    assert counted == {"find": (len("x" * 40 + "None") / 4, 5)}


async def _fetch(state, url=""):
    raise AssertionError


class Tool:
    """Callable object with an asynchronous call."""

    async def __call__(self, state):
        raise AssertionError


@pytest.mark.parametrize("run", [_fetch, partial(_fetch, url="x"), lambda s: _fetch(s), Tool()])
def test_no_form_of_coroutine_step_is_run(run):
    """No coroutine is left unawaited; a step that needs its result gives None, too."""
    stages = [
        Step(name="page", run=run),
        Step(name="title", run=lambda state: state["page"].title()),
        Step(name="tidy", run=lambda state: "tidy"),
        StageProgram(name="find", prompt=lambda s: f"{s['title']} {s['tidy']}"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = Pipeline(stages=stages, score=lambda state: 1.0).start({"text": "x"})
    assert state.results == {"page": None, "title": None, "tidy": "tidy"}


def test_bugs_of_leading_steps_are_raised_and_failures_of_tools_are_not():
    """Exceptions in `fails_on` leave an instance out; the others are counted."""

    def look(state):
        if state.instance["text"].startswith("b"):
            raise TimeoutError
        return state.instance["text"]

    def lengths(**options):
        stages = [
            Step(name="look", run=look, **options),
            Step(name="tidy", run=lambda state: state["look"].strip()),
            StageProgram(name="find", prompt=lambda s: s["tidy"] + "!" * 4, max_tokens=10),
        ]
        return Pipeline(stages=stages, score=lambda state: 1.0).lengths(INSTANCES)

    assert lengths(fails_on=(OSError,)) == {"find": (101, 5)}
    assert lengths(when=lambda s: s.instance["text"][0] == "a", otherwise=lambda s: "") == {
        "find": ((101 + 1) / 2, 5)
    }
    with pytest.raises(TimeoutError):
        lengths()


def test_later_prompts_are_written_as_if_stages_had_been_skipped():
    """They use the results of `otherwise`, where these need no missing results."""
    stages = [
        StageProgram(name="find", prompt=str, otherwise=lambda s: "o" * 20, max_tokens=100),
        Step(name="look", run=lambda s: "no", otherwise=lambda s: s["find"][:8]),
        Step(name="miss", run=lambda s: "no", otherwise=lambda s: s["find"].missing),
        StageProgram(
            name="say", prompt=lambda s: s["find"] + s["look"] + str(s["miss"]), max_tokens=40
        ),
    ]
    lengths = Pipeline(stages=stages, score=lambda state: 1.0).lengths(INSTANCES)
    assert lengths["say"] == (len("o" * 28 + "None") / 4 + 50, 20)


class Wordy:
    """Chat model that uses more tokens than estimated from the data."""

    async def complete(self, request, *, seed):
        """Reply."""
        await asyncio.sleep(0)
        return Completion("yes" if seed % 3 else "no", Usage(1000, 30))


def test_a_search_follows_what_it_measures():
    """Costs and the default budget use measured lengths from the fourth trial on."""
    task = derive()
    endpoints = {
        model.name: Endpoint(chat=Wordy(), identity=model.name) for model in task.stages[0].models
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(seed=0))
    with MultiStageObjective(pipeline(), INSTANCES, task=task, endpoints=endpoints) as objective:
        study.optimize(objective, n_trials=5)
    optuna.logging.set_verbosity(verbosity)
    followed = Task.registered(study)
    assert [(s.prompt_tokens, s.generation_tokens) for s in followed.stages] == [(1000, 30)] * 2
    assert followed.budget > task.budget
    assert [s.models for s in followed.stages] == [s.models for s in task.stages]
    best = recommend(study)
    assert best.cost == pytest.approx(followed.cost(best.allocation))
    first, last = study.trials[0], study.trials[-1]
    for trial, meant in ((first, task), (last, followed)):
        choices = meant.choices_from_params(trial.params)
        chosen = meant.allocation([choices[i] for i in sorted(choices)])
        assert trial.user_attrs["cost"] == pytest.approx(meant.cost(chosen), rel=1e-3)


def test_an_empty_list_of_instances_is_rejected():
    """There is nothing to measure."""
    with pytest.raises(PipelineError, match="`instances` must not be empty"):
        Task.from_pipeline(pipeline(), [], models=NAMES, name="derived")


def test_thinking_efforts_are_those_of_every_stage_or_by_stage():
    """As in `Stage(thinking=...)`."""
    both = derive(thinking=("off", 1024))
    assert [len(stage.models) for stage in both.stages] == [4, 2]
    assert both.stages[1].models[1].name == "org/small-1B, 1024 thinking tokens"
    one = derive(thinking={"say": ("low", "high")})
    assert one.stages[0] == derive().stages[0]
    assert [model.thinking.effort for model in one.stages[1].models] == ["low", "high"]
    with pytest.raises(TaskError, match="`thinking` has 'sing', which is none of the pipeline's"):
        derive(thinking={"sing": ("low",)})
