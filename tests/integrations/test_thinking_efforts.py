"""Thinking efforts in searches: requests, endpoints, lengths and thoughts of each choice."""

import asyncio
import logging
import multiprocessing
import random
from dataclasses import replace
from itertools import pairwise

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from pipeline_support import side_by_side

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    PriceCost,
    Stage,
    Task,
    efforts,
    recommend,
    storage,
)
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.llm.port import servers_behind
from optuna_agenttts.report.thinking import ended_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.choice_lengths import Report, choice_lengths
from optuna_agenttts.study.measured import effective_task, set_effective_task, with_lengths
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
from optuna_agenttts_integrations.lengths import apply_measured_lengths
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
            StageProgram(
                name=stage.name,
                prompt=lambda state: state.instance,
                **{"enough": None, **program},
            )
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


def read_allocation(trial):
    """Return the allocation of a trial's parameters."""
    return {"say": (trial.params["say.model"], trial.params["say.samples"])}


def distributions_of(task):
    """Return the distributions of a task of one stage."""
    return {
        "say.model": CategoricalDistribution([model.name for model in task.stages[0].models]),
        "say.samples": IntDistribution(1, 4),
    }


class TokenCost:
    """Cost model of a user."""

    unit = "tokens"

    def __eq__(self, other):
        return type(self) is type(other)

    def stage_cost(self, stage, model, samples):
        """Price a stage."""
        return stage.prompt_tokens + stage.generation_tokens * samples


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
            ("Qwen/Qwen3-8B", "low", 64 + 2 * 512, None),
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
        assert {(r.thinking, r.max_tokens) for r in chat.requests} == {("low", 64 + 1024)}
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

    def test_a_mistyped_choice_is_named(self):
        """It would be served elsewhere without a word; other models' places may be there."""
        task, typo = task_of(thinking=("off", "low")), choice("lwo thinking")
        with pytest.raises(PipelineError, match=f"has '{typo}', which is no choice.*{QWEN.name}"):
            connect_endpoints(task, {QWEN.name: "http://a:1", typo: "http://b:2"})
        assert connect_endpoints(task, {QWEN.name: "http://a:1", "other": "http://b:2"})

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
        drawn=1,
        calls=1,
        generated=1,
        prompt_tokens=10,
        generated_tokens=340,
        thought_tokens=300,
        naive_tokens=340,
        prompt_length=10,
        sample_length=340.0,
        spend=pytest.approx((10 * 0.1 + 340 * 0.4) / 1e6),
        thought_length=300.0,
    )


def lengths_of(task, stage=0):
    """Return the length of a sample of each choice."""
    found = task.stages[stage]
    return [found.sample_tokens(model) for model in found.models]


class TestLengths:
    def test_costs_follow_what_each_effort_took(self, caplog):
        """Of efforts that were not tried, thoughts are as much shorter as those of their model."""
        caplog.set_level(logging.INFO)
        task, chat = task_of(QWEN, PLAIN, thinking=("off", "low", "high")), Thinker()
        off, low, high = (choice(f"{word} thinking") for word in ("no", "low", "high"))
        assert lengths_of(task) == [40, 552, 8232, 40]
        study = tried(task, chat, *[{"say": (name, 1)} for name in (off, low, low)])
        assert Task.registered(study) == task
        more = [{"say": (name, 1)} for name in (low, high, high)]
        for number, allocation in enumerate(more):
            study.enqueue_trial(task.params(allocation))
            with objective_of(task, chat) as objective:
                study.optimize(objective, n_trials=1)
            expected = [40, 340, 40 + 300 / 512 * 8192, 40]
            assert lengths_of(Task.registered(study)) == pytest.approx(expected, rel=0.01), number
        with objective_of(task, chat) as objective:
            study.optimize(objective, n_trials=1)
        measured = Task.registered(study)
        assert lengths_of(measured) == [40, 340, 2040, 40]
        cost = study.trials[-1].user_attrs["cost"]
        assert cost == pytest.approx(measured.cost(read_allocation(study.trials[-1])), rel=1e-3)
        assert caplog.text.count("now uses token lengths measured in its first 3 trials") == 1
        assert caplog.text.count("now uses token lengths measured in its first 6 trials") == 1
        assert "with thoughts 552 -> 340 of 'Qwen/Qwen3-8B, low thinking'" in caplog.text
        assert recommend(study).cost == measured.cost(recommend(study).allocation)

    def test_trials_say_how_long_samples_and_thoughts_were(self):
        """Also how many replies ended inside their thoughts, for efforts alone."""
        task = task_of(QWEN, PLAIN, thinking=("low", "high"))
        chat = Thinker({"low": 300, "high": 10**6, None: 0})
        choices = (choice("low thinking"), choice("high thinking"), PLAIN.name)
        study = tried(task, chat, *({"say": (name, 2)} for name in choices))
        found = [storage.read_trial_fact(trial, storage.LENGTHS) for trial in study.trials]
        most = 64 + 2 * 8192
        assert found == [{"say": [10, 340, 300]}, {"say": [10, most, most]}, {"say": [10, 40, 0]}]
        ended = [storage.read_trial_fact(trial, storage.ENDED) for trial in study.trials]
        assert [each and list(each["say"]) for each in ended] == [[0, 8], [8, 8], None]
        assert study.trials[1].user_attrs["thoughts"] == (
            "100 % of the replies of 'Qwen/Qwen3-8B, high thinking' in stage 'say' ended inside "
            "their thoughts: raise `max_tokens` or lower thinking"
        )

    @pytest.mark.parametrize("cost", [PriceCost(), TokenCost()], ids=["price", "custom"])
    def test_other_processes_read_and_measure_the_same(self, tmp_path, cost):
        """In any order of looking, and with more trials than a look counts."""
        task = task_of(QWEN, PLAIN, thinking=("off", "low", "high"), cost=cost)
        url = f"sqlite:///{tmp_path}/study.db"
        study = optuna.create_study(direction="maximize", storage=url, study_name="s")
        rng = random.Random(1)
        names = [model.name for model in task.stages[0].models]
        found = []
        for number in range(14):
            name = names[number % 4]
            length = rng.uniform(100, 2000)
            study.add_trial(
                optuna.create_trial(
                    value=0.0,
                    params=task.params({"say": (name, 1)}),
                    distributions=distributions_of(task),
                    system_attrs={"agenttts:lengths": {"say": [10, length + 40, length]}},
                )
            )
            other = optuna.load_study(study_name="s", storage=url)
            before = effective_task(other, task, fresh=True)
            found.append(apply_measured_lengths(other, task, 3, before))
            assert found[-1] == apply_measured_lengths(other, task, 3)
        assert [a == b for a, b in pairwise(found)] == [
            number not in (2, 5, 11) for number in range(1, 14)
        ]
        other = optuna.load_study(study_name="s", storage=url)
        assert effective_task(other, task, fresh=True) == found[-1]
        assert found[-1].cost_model == cost

    def test_concurrent_trials_agree(self):
        task, chat = task_of(QWEN, PLAIN, thinking=("off", "low", "high")), Thinker()
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
        with objective_of(task, chat) as objective:
            study.optimize(objective, n_trials=13, n_jobs=4)
            study.optimize(objective, n_trials=1)
            measured = Task.registered(study)
            assert apply_measured_lengths(study, task, 3) == measured
        for trial in study.trials[-1:]:
            cost = trial.user_attrs["cost"]
            assert cost == pytest.approx(measured.cost(read_allocation(trial)), rel=1e-3)

    def test_a_trial_with_earlier_lengths_does_not_undo_later_ones(self, caplog):
        """Another thread may measure between the reading of lengths and the suggestions."""
        task = task_of(thinking=("off", "low"))
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
        before, after = (
            with_lengths(task, {}, {"say": {choice("low thinking"): length}})
            for length in (300.0, 200.0)
        )
        set_effective_task(study, before)
        set_effective_task(study, after)
        before.suggest(study.ask())
        assert Task.registered(study) == after
        assert effective_task(study, task, fresh=True) == after
        assert "another task" not in caplog.text

    def test_lengths_that_were_declared_well_are_kept(self):
        """Expected thoughts within a tenth of what efforts take."""
        models = efforts(QWEN, tokens={"low": 310, "high": 1900}, off=OFF, low=None, high=None)
        task = task_of(*models)
        study = tried(task, Thinker(), *({"say": (m.name, 1)} for m in (*models, *models)))
        assert Task.registered(study) == task


def _work(storage, barrier):
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    task = task_of(QWEN, PLAIN, thinking=("off", "low", "high"))
    study = optuna.load_study(study_name="s", storage=storage, sampler=AgentTTSSampler(task))
    barrier.wait()
    with objective_of(task, Thinker()) as objective:
        study.optimize(objective, n_trials=8)


@pytest.mark.slow
def test_workers_measure_the_same(tmp_path):
    """Two processes on one storage end with the task that follows from its trials."""
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(direction="maximize", storage=storage, study_name="s")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_work, args=(storage, barrier)) for _ in range(2)]
    side_by_side(workers)
    task = task_of(QWEN, PLAIN, thinking=("off", "low", "high"))
    assert len(study.trials) == 16
    assert apply_measured_lengths(study, task, 3) == effective_task(study, task, fresh=True)
    assert Task.registered(study) != task


@given(st.data())
@settings(max_examples=60)
def test_lengths_of_choices_lie_between_those_that_were_measured(data):
    """Of one model whose thoughts are any multiple of the expected ones."""
    stage = task_of(thinking=("off", "minimal", "low", "medium", "high", 512, 4096)).stages[0]
    ratio = data.draw(st.floats(0.1, 10))
    tried = data.draw(st.lists(st.sampled_from(stage.models[1:5]), min_size=1, unique=True))
    reports = [
        Report(m.name, 10, 40 + ratio * m.thinking.tokens, ratio * m.thinking.tokens)
        for m in tried
    ]
    answer, found = choice_lengths(stage, data.draw(st.permutations(reports)))
    assert answer == pytest.approx(40)
    for model in stage.models:
        thoughts = ratio * model.thinking.tokens
        if isinstance(model.thinking.effort, int):
            thoughts = min(thoughts, model.thinking.effort)
        assert found[model.name] == pytest.approx(40 + thoughts)


def test_a_model_that_always_thinks_says_nothing_about_answers():
    """Neither where its thoughts are counted nor where not: no effort becomes as long as it."""
    always = replace(PLAIN, name="always-8b")
    task = task_of(QWEN, always, thinking=("off", "low"))
    for counted in (3000, 0):
        reports = [Report("always-8b", 10, 3000 + ANSWER, counted)] * 3
        reports.append(Report(choice("low thinking"), 10, 300 + ANSWER, 300))
        answer, lengths = choice_lengths(task.stages[0], reports)
        assert answer == ANSWER
        assert lengths[choice("no thinking")] == ANSWER
        assert lengths["always-8b"] == 3000 + ANSWER
    study = tried(task, Thinker({**THOUGHTS, None: 30}), {"say": ("always-8b", 1)})
    assert storage.read_trial_fact(study.trials[0], storage.LENGTHS)["say"] == [10, 70, 30]


def test_shares_of_replies_without_an_answer_are_read_from_memory():
    """Storages in memory keep what was written, others what JSON keeps of it."""
    study = tried(
        task_of(thinking=("off",)), Thinker({"off": 500}), {"say": (choice("no thinking"), 2)}
    )
    assert set(ended_of(StudyView(study)).values()) == {(8, 8)}
    assert "did not switch thinking off" in study.trials[0].user_attrs["thoughts"]


def test_thoughts_that_servers_do_not_count_are_what_exceeds_an_answer():
    """The answer is that of models that do not think."""
    stage = task_of(QWEN, PLAIN, thinking=("off", "low", "high")).stages[0]
    low = Report(choice("low thinking"), 10, 296.0)
    answer, found = choice_lengths(stage, [low, Report("plain-1b", 10, 40.0)])
    assert (answer, found[choice("high thinking")]) == (40, pytest.approx(40 + 8192 / 2))
    assert choice_lengths(stage, [low])[0] == 40
    assert choice_lengths(stage, [Report("gone", 10, 5.0), Report(None, 10, 0.0)]) == (
        40,
        {model.name: stage.sample_tokens(model) for model in stage.models[:3]},
    )


def test_an_effort_that_took_no_thoughts_says_little_about_others():
    """A server may not have understood it, or questions may be easy."""
    stage = task_of(thinking=("low", "high")).stages[0]
    _, found = choice_lengths(stage, [Report(choice("low thinking"), 10, 40.0)])
    assert found[choice("high thinking")] == 40 + 8192 / 16


def test_a_model_with_a_length_of_its_own_is_measured_by_itself():
    long = replace(PLAIN, name="long-1b", generation_tokens=900)
    stage = task_of(PLAIN, long).stages[0]
    reports = [Report("plain-1b", 10, 50.0), Report("long-1b", 10, 700.0)]
    answer, found = choice_lengths(stage, reports[:1])
    assert (answer, found) == (50, {"plain-1b": 50})
    _, found = choice_lengths(stage, reports)
    assert found == {"plain-1b": 50, "long-1b": 700}
