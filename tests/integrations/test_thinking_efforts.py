"""Thinking efforts in searches: requests, endpoints, lengths and thoughts of each choice."""

import asyncio

import optuna
import pytest

from optuna_agenttts import AgentTTSSampler, Model, PriceCost, Stage, Task, efforts
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.llm.port import servers_behind
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    LLMFusion,
    MultiStageObjective,
    Pipeline,
    PipelineError,
    Predictor,
    StageProgram,
    connect_endpoints,
)
from optuna_agenttts_integrations.pipeline.evaluation import StageUsage

QWEN = Model("Qwen/Qwen3-8B", parameters=8e9, input_price=0.1, output_price=0.4)
PLAIN = Model("plain-1b", input_price=0.05, output_price=0.2, thinks=False)
OFF = {"chat_template_kwargs": {"enable_thinking": False}}
THOUGHTS = {"off": 0, "low": 300, "high": 2000, None: 0}
ANSWER = 40


class Thinker:
    """Chat model whose thoughts are as long as the effort says, up to `max_tokens`."""

    def __init__(self, thoughts=THOUGHTS, reply="yes"):
        self.thoughts, self.reply, self.requests = thoughts, reply, []

    async def complete(self, request, *, seed):
        """Reply."""
        self.requests.append(request)
        effort = request.thinking
        if request.extra:
            effort = "off" if "enable_thinking" in request.extra else effort
        length = self.thoughts[effort]
        reply = self.reply(request) if callable(self.reply) else self.reply
        if length >= request.max_tokens:
            return Completion(
                "",
                Usage(10, request.max_tokens, thought_tokens=request.max_tokens),
                "length",
                "hm",
            )
        return Completion(
            reply, Usage(10, length + ANSWER, thought_tokens=length), "stop", "hm" * bool(length)
        )


def task_of(*models, thinking=(), stages=("say",), **options):
    return Task(
        name="t",
        stages=[
            Stage(
                name,
                models=models or [QWEN],
                prompt_tokens=10,
                generation_tokens=ANSWER,
                max_samples=4,
                thinking=thinking,
            )
            for name in stages
        ],
        **{"budget": 1e9, "cost": PriceCost(), **options},
    )


def objective_of(task, chat, *, questions=4, endpoints=None, **options):
    program = {"max_tokens": 64, **options.pop("program", {})}
    pipeline = Pipeline(
        stages=[
            StageProgram(name=stage.name, prompt=lambda state: state.instance, **program)
            for stage in task.stages
        ],
        score=lambda state: float(state["say"] == "yes"),
    )
    return MultiStageObjective(
        pipeline,
        [f"question {number}" for number in range(questions)],
        task=task,
        endpoints=endpoints or connect_endpoints(task, chat),
        progress=False,
        **options,
    )


def tried(task, chat, *allocations, **options):
    """Run these allocations; return the study."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    for allocation in allocations:
        study.enqueue_trial(task.params(allocation))
    with objective_of(task, chat, **options) as objective:
        study.optimize(objective, n_trials=len(allocations))
    return study


def choice(label, model="Qwen/Qwen3-8B"):
    return f"{model}, {label}"


class TestRequests:
    def test_carry_the_effort_and_room_for_thoughts(self):
        """Under the name that the server knows; `max_tokens` of the answer stays."""
        task, chat = (
            task_of(QWEN, PLAIN, thinking=("off", "low", 1024)),
            Thinker({1024: 9} | THOUGHTS),
        )
        names = [model.name for model in task.stages[0].models]
        tried(task, chat, *({"say": (name, 1)} for name in names), questions=1)
        sent = [(r.model, r.thinking, r.max_tokens, r.extra) for r in chat.requests]
        assert sent == [
            ("Qwen/Qwen3-8B", "off", 64, None),
            ("Qwen/Qwen3-8B", "low", 64 + 4 * 512, None),
            ("Qwen/Qwen3-8B", 1024, 64 + 1024, None),
            ("plain-1b", None, 64, None),
        ]

    def test_carry_fields_that_were_given_instead(self):
        off, low = efforts(QWEN, off=OFF, low={"reasoning_effort": "low"})
        chat = Thinker()
        tried(task_of(off, low), chat, {"say": (off.name, 1)}, {"say": (low.name, 1)}, questions=1)
        assert [(r.thinking, r.extra) for r in chat.requests] == [
            (None, '{"chat_template_kwargs":{"enable_thinking":false}}'),
            (None, '{"reasoning_effort":"low"}'),
        ]

    def test_samples_of_one_effort_are_not_those_of_another(self):
        """Each is stored under its own key, and reused."""
        task, chat, store = task_of(thinking=("off", "low")), Thinker(), CompletionStore()
        off, low = ({"say": (choice(label), 2)} for label in ("no thinking", "low thinking"))
        study = tried(task, chat, off, low, low, store=store, questions=3)
        assert len(chat.requests) == 12
        assert [t.user_attrs["reused"] for t in study.trials] == [0, 0, 1]
        assert len(store) == 12

    def test_repairs_and_fusions_are_calls_of_the_same_choice(self):
        """A fusion reads answers, not thoughts, and has room to think itself."""

        def reply(request):
            last = request.messages[-1].content
            if last == "again" or "<candidate" in last:
                return "yes"
            return ["", "maybe", "no"][len(chat.requests) % 3]

        chat = Thinker(reply=reply)
        task = task_of(thinking=("low",))
        program = {
            "aggregate": LLMFusion(),
            "parse": lambda text, state: text if text in ("yes", "no") else None,
            "repair": lambda state, text: "again",
        }
        study = tried(
            task, chat, {"say": (choice("low thinking"), 3)}, questions=1, program=program
        )
        assert study.trials[0].value == 1
        assert len(chat.requests) > 4
        assert {(r.thinking, r.max_tokens) for r in chat.requests} == {("low", 64 + 2048)}
        fusion = next(r for r in chat.requests if "<candidate" in r.messages[-1].content)
        assert "hm" not in fusion.messages[-1].content


class TestEndpoints:
    def test_efforts_share_the_endpoint_of_their_model(self):
        """So that they share limits and what was negotiated, in every stage."""
        task = task_of(QWEN, PLAIN, thinking=("off", "low"), stages=("find", "say"))
        places = {QWEN.name: "http://127.0.0.1:9#other", PLAIN.name: "http://127.0.0.1:9"}
        found = connect_endpoints(task, places)
        assert list(found) == [choice("no thinking"), choice("low thinking"), "plain-1b"]
        first, second, plain = found.values()
        assert first is second
        assert first.identity == "Qwen/Qwen3-8B at 127.0.0.1:9#other"
        assert first.server == plain.server
        assert servers_behind(first.chat)[0][1] == "other"

    def test_an_effort_may_be_served_elsewhere(self):
        """By the name of its choice; all places may be given so."""
        task = task_of(thinking=("off", "low"))
        off, low = choice("no thinking"), choice("low thinking")
        found = connect_endpoints(task, {QWEN.name: "http://a:1", low: "http://b:2"})
        assert [found[name].server for name in (off, low)] == ["a:1", "b:2"]
        both = connect_endpoints(task, {off: "http://a:1", low: "http://a:1"})
        assert both[off].server == "a:1"

    @pytest.mark.parametrize("places", [{}, {choice("low thinking"): "http://a:1"}])
    def test_a_model_without_a_place_is_named(self, places):
        with pytest.raises(PipelineError, match="`places` lacks Qwen/Qwen3-8B: give a place"):
            connect_endpoints(task_of(thinking=("off", "low")), places)

    def test_endpoints_by_name_of_the_model_are_those_of_its_efforts(self):
        """In searches and in predictions."""
        task, chat = task_of(QWEN, PLAIN, thinking=("off", "low")), Thinker()
        endpoints = {name: Endpoint(chat=chat, identity=name) for name in (QWEN.name, PLAIN.name)}
        with objective_of(task, chat, endpoints=endpoints) as objective:
            assert objective.evaluate({"say": (choice("low thinking"), 1)}).mean == 1
            predictor = Predictor(objective.pipeline, task=task, endpoints=endpoints)
        with predictor:
            found = predictor.predict(["question"], {"say": (choice("low thinking"), 2)})
        assert found.answers == ["yes"]
        with pytest.raises(PipelineError, match="no endpoint for Qwen/Qwen3-8B, low thinking"):
            objective_of(task, chat, endpoints={PLAIN.name: endpoints[PLAIN.name]})

    def test_check_asks_for_each_effort(self):
        """With its fields and its room, under the model's name."""
        chat = Thinker()
        task = task_of(PLAIN, *efforts(QWEN, off=OFF, low=None))
        with objective_of(task, chat) as objective:
            report = objective.check()
        subjects = {finding.subject for finding in report.findings}
        assert {choice("no thinking"), choice("low thinking"), "plain-1b"} <= subjects
        assert {request.model for request in chat.requests} == {QWEN.name, PLAIN.name}


def test_a_limit_reserves_room_for_thoughts():
    """And none for efforts that do not think."""
    task = task_of(thinking=("off", "high"))
    chat = Thinker({"off": 0, "high": 10**6})
    spent = 0.4 * 64 / 1e6
    with objective_of(task, chat, max_spend=8 * spent) as objective:
        assert len(objective.evaluate({"say": (choice("no thinking"), 1)}).results) == 4
        stopped = objective.evaluate({"say": (choice("high thinking"), 1)}, partial=True)
        assert not stopped.results


def test_inspection_shows_the_choice_and_its_thoughts():
    task, chat = task_of(thinking=("off", "low")), Thinker()
    with objective_of(task, chat) as objective:
        allocation = {"say": (choice("low thinking"), 2)}
        objective.evaluate(allocation)
        found = objective.inspect(allocation, "0")
    stage = found.stages[0]
    assert stage.model == choice("low thinking")
    assert [reply.thoughts for reply in stage.requests[0].replies] == ["hm", "hm"]


def test_predictions_of_an_event_loop_think_too():
    task, chat = task_of(thinking=("low",)), Thinker()
    with objective_of(task, chat) as objective:
        found = asyncio.run(objective.apredict(["q"], {"say": (choice("low thinking"), 1)}))
    assert found[0].stages["say"] == StageUsage(
        samples=1,
        calls=1,
        generated=1,
        prompt_tokens=10,
        generated_tokens=340,
        thought_tokens=300,
        naive_tokens=340,
        prompt_length=10,
        sample_length=340.0,
        spend=pytest.approx((10 * 0.1 + 340 * 0.4) / 1e6),
    )
