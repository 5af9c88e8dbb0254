"""Predictions: the answers of an evaluation, without gold and scores, with the cost of each."""

import asyncio
import json
import pickle
import threading
from dataclasses import dataclass, replace
from math import fsum, inf

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_support import (
    MODELS,
    Replies,
    ScriptedModel,
    Slow,
    allocation,
    calls,
    make_objective,
    make_pipeline,
    make_task,
    objective_of,
)

from optuna_agenttts import AgentTTSSampler, TaskError, recommend
from optuna_agenttts.llm import ChatRefusedError
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    Pipeline,
    PipelineError,
    Predictor,
    SpendLimitError,
    StageProgram,
    Step,
    StoreError,
    connect_endpoints,
)
from optuna_agenttts_integrations.playground import (
    PlaygroundServer,
    make_endpoints,
    make_problems,
)
from optuna_agenttts_integrations.playground import make_objective as make_playground
from optuna_agenttts_integrations.playground import make_pipeline as playground_pipeline
from optuna_agenttts_integrations.playground import make_task as playground_task

optuna.logging.set_verbosity(optuna.logging.WARNING)

SETTINGS = st.tuples(st.sampled_from(MODELS), st.integers(1, 8))


def touched(state):
    """Score that must not be computed."""
    raise AssertionError("scored")


def unscored(pipeline):
    """Return the pipeline with a score and a metric that raise."""
    return replace(pipeline, score=touched, metrics={"m": touched})


def endpoints_of(chats):
    return {name: Endpoint(chat=chat, identity=f"scripted:{name}") for name, chat in chats.items()}


def make_predictor(pipeline=None, chats=None, **options):
    """Build a predictor over scripted models; return it and its models."""
    chats = chats or {name: ScriptedModel(name) for name in MODELS}
    predictor = Predictor(
        unscored(pipeline or make_pipeline()),
        task=make_task(),
        endpoints=endpoints_of(chats),
        progress=False,
        **options,
    )
    return predictor, chats


def echo(name="say", reply=lambda request, number: request.messages[-1].content, **options):
    """Build an objective of one stage whose replies are the prompts; return it and its model."""
    chat = Replies(reply)
    # All samples are drawn, so that calls can be counted.
    options = {"enough": None, **options}
    program = StageProgram(name=name, prompt=lambda state: state.instance, **options)
    return objective_of(Pipeline(stages=[program], score=touched), {"m": chat}), chat


@settings(max_examples=20)
@given(find=SETTINGS, say=SETTINGS, seed=st.integers(0, 3))
def test_answers_are_those_of_an_evaluation_and_are_not_paid_for_again(find, say, seed):
    """Over random allocations and seeds, and the other way round."""
    chosen = allocation(find, say)
    objective, chats = make_objective(seed=seed)
    seen = {}
    score = objective.pipeline.score
    objective.pipeline = replace(
        objective.pipeline,
        score=lambda state: (
            seen.update({state.instance["id"]: dict(state.results)}) or score(state)
        ),
    )
    with objective:
        evaluation = objective.evaluate(chosen)
        count = calls(chats)
        inputs = [{"id": name} for name in seen]
        objective.pipeline = unscored(objective.pipeline)
        predictions = objective.predict(inputs, chosen)
    assert [p.results for p in predictions] == [seen[i["id"]] for i in inputs]
    assert predictions.answers == [seen[i["id"]]["say"] for i in inputs]
    assert [p.id for p in predictions] == list(seen)
    assert calls(chats) == count
    assert predictions.spend == predictions.tokens == 0
    predictor, fresh = make_predictor(seed=seed)
    with predictor:
        alone = predictor.predict(inputs, chosen)
    assert alone.answers == predictions.answers
    assert calls(fresh) == count
    assert alone.spend == pytest.approx(evaluation.spend)
    assert alone.tokens == evaluation.generated_tokens
    assert [p.spend for p in alone] == pytest.approx(
        [evaluation.results[p.id].total("spend") for p in alone]
    )


@dataclass(frozen=True)
class Unlabelled:
    """Input whose gold cannot be read."""

    question: str

    @property
    def gold(self):
        raise AssertionError("gold was read")


def test_gold_is_not_read_and_scoring_steps_are_left_out():
    """Neither by score and metrics, nor by steps that serve them."""
    ran = []
    pipeline = Pipeline(
        stages=[
            StageProgram(name="say", prompt=lambda state: state.instance.question),
            Step(name="answer", run=lambda state: state["say"].upper()),
            Step(name="compared", run=lambda state: ran.append(state.instance.gold), scoring=True),
        ],
        score=lambda state: float(state["answer"] == state.instance.gold),
    )
    chat = Replies(lambda request, number: request.messages[-1].content)
    with objective_of(pipeline, {"m": chat}) as objective:
        found = objective.predict([Unlabelled("why"), Unlabelled("how")], {"say": ("m", 1)})
        assert found.answers == ["WHY", "HOW"]
        assert not found.failed
        assert not ran
        assert [p.id for p in found] == ["0", "1"]
        assert set(found[0].results) == {"say", "answer"}
        objective.pipeline = replace(pipeline, answer=lambda state: len(state["say"]))
        assert objective.predict([Unlabelled("why")], {"say": ("m", 1)}).answers == [3]
        objective.pipeline = replace(pipeline, answer=lambda: 3)
        assert "`answer` (lambda in test_predict.py" in str(objective.check())


def test_inputs_may_be_none_equal_ones_or_a_generator():
    """Equal inputs are paid for once, and each has its answer in its place."""
    objective, chat = echo()
    chosen = {"say": ("m", 2)}
    with objective:
        empty = objective.predict([], chosen)
        assert list(empty) == [] == empty.answers
        assert empty.spend == 0
        assert str(empty)
        found = objective.predict((text for text in "abab"), chosen)
        assert found.answers == list("abab")
        assert len(found) == 4
        assert len(chat.requests) == 4, "two samples of each of two inputs"
        # A prompt of one word costs 1, a reply of one word 2.
        assert found.spend == 2 * (2 * (1 + 2))
        assert sorted(p.spend for p in found) == [0, 0, 6, 6]
        assert [p.answer for p in found[1:3]] == ["b", "a"]
        for wrong in ("text", {"id": 1}, b"bytes", 3):
            with pytest.raises(PipelineError, match=r"pass `\[input\]` for a single one"):
                objective.predict(wrong, chosen)


@pytest.mark.parametrize("wrong", [None, "a.json", 3, ("small", 1)])
def test_what_is_no_allocation_is_refused(wrong):
    objective, _ = echo()
    with objective, pytest.raises(PipelineError, match="`allocation` must be a mapping, or"):
        objective.predict(["a"], wrong)


def test_a_table_is_refused():
    """It would iterate over the names of its columns, and be paid for."""
    pandas = pytest.importorskip("pandas")
    objective, chat = echo()
    table = pandas.DataFrame({"id": ["a", "b"], "question": ["c", "d"]})
    with objective:
        with pytest.raises(PipelineError, match=r"of type DataFrame: .*a list of the rows"):
            objective.predict(table, {"say": ("m", 1)})
        assert not chat.requests
        assert objective.predict(table["question"], {"say": ("m", 1)}).answers == ["c", "d"]


def test_the_answer_may_be_a_coroutine_function():
    """As score and steps may be."""

    async def answer(state):
        return state["say"].upper()

    objective, _ = echo()
    objective.pipeline = replace(objective.pipeline, answer=answer)
    with objective:
        assert objective.predict(["a"], {"say": ("m", 1)}).answers == ["A"]


def test_one_input_that_fails_does_not_lose_the_others(caplog):
    """Calls that fail, unreadable replies, steps, and bugs of functions have their cause."""

    def look(state):
        if state.instance["id"] == "down":
            raise TimeoutError("the tool is down")
        return state.instance["text"]

    pipeline = Pipeline(
        stages=[
            Step(name="look", run=look, fails_on=(TimeoutError,)),
            StageProgram(
                name="say",
                prompt=lambda state: state["look"],
                parse=lambda text, state: json.loads(text) if text != "no" else None,
                required=True,
                enough=None,
            ),
        ],
        score=touched,
    )

    def reply(request, number):
        text = request.messages[-1].content
        return ChatRefusedError("not this one") if text == "refused" else text

    inputs = [
        {"id": "good", "text": "1"},
        {"id": "down", "text": "2"},
        {"id": "refused", "text": "refused"},
        {"id": "mute", "text": "no"},
        {"id": "secret bug", "text": "{"},
        {"id": "short"},
        {"id": "last", "text": "7"},
    ]
    with objective_of(pipeline, {"m": Replies(reply)}) as objective:
        found = objective.predict(inputs, {"say": ("m", 2)})
    assert found.answers == [1, None, None, None, None, None, 7]
    assert [p.failed for p in found] == [False, True, True, True, True, True, False]
    kinds = [type(p.error) for p in found]
    assert kinds[1:6] == [
        TimeoutError,
        ChatRefusedError,
        PipelineError,
        json.JSONDecodeError,
        KeyError,
    ]
    assert "no reply of m could be parsed" in str(found[3].error)
    assert found[3].malformed == 2
    assert found[3].spend == 6 == found[4].spend, "what was paid for is known"
    assert (found.failed, found.malformed) == (5, 2)
    assert "1 x TimeoutError: the tool is down" in str(found)
    assert "5 of 7 inputs failed" in caplog.text
    assert "the tool is down" not in caplog.text, "messages of users' errors may quote inputs"
    assert found.spend == fsum(p.spend for p in found)
    copy = pickle.loads(pickle.dumps(found))
    assert copy.answers == found.answers
    assert str(copy.results[5].error) == str(found[5].error)


@settings(max_examples=25)
@given(limit=st.floats(0.5, 400), samples=st.integers(1, 4), count=st.integers(1, 8))
def test_the_limit_is_kept_and_inputs_that_it_covers_are_answered(limit, samples, count):
    """Each input is either answered as without a limit, or failed by the limit."""
    texts = [f"{number}" for number in range(count)]
    objective, chat = echo(max_tokens=4)
    with objective:
        found = objective.predict(texts, {"say": ("m", samples)}, max_spend=limit)
        assert found.spend <= limit
        assert found.spend == 3 * len(chat.requests)
        for text, prediction in zip(texts, found):
            assert prediction.answer == text or isinstance(prediction.error, SpendLimitError)
        after = objective.predict(texts, {"say": ("m", samples)}, max_spend=inf)
    assert after.answers == texts
    assert found.spend + after.spend == 3 * samples * count, "nothing is paid for twice"


def test_the_limit_of_an_objective_holds_for_each_call():
    """As for evaluations; another one can be given."""
    chat = Replies(lambda request, number: "a")
    program = StageProgram(name="say", prompt=lambda state: state.instance, max_tokens=1)
    pipeline = Pipeline(stages=[program], score=touched)
    with objective_of(pipeline, {"m": chat}, max_spend=10) as objective:
        assert objective.predict(["a"], {"say": ("m", 100)}).failed == 1
        assert not objective.predict(["a"], {"say": ("m", 100)}, max_spend=inf).failed
        with pytest.raises(PipelineError, match="max_spend"):
            objective.predict(["a"], {"say": ("m", 1)}, max_spend=0)


def test_predictions_of_threads_and_coroutines_run_side_by_side():
    """One input at a time, on one event loop with its limits."""
    chat = Slow(lambda request, number: request.messages[-1].content, 0.02)
    program = StageProgram(name="say", prompt=lambda state: state.instance)
    chosen = {"say": ("m", 1)}
    with objective_of(Pipeline(stages=[program], score=touched), {"m": chat}) as objective:

        async def ask():
            found = await asyncio.gather(*(objective.apredict([t], chosen) for t in "abcdef"))
            return [p.answers for p in found]

        assert asyncio.run(ask()) == [[t] for t in "abcdef"]
        assert chat.most == 6
        answers = {}
        threads = [
            threading.Thread(
                target=lambda t=t: answers.update({t: objective.predict([t], chosen)[0].answer})
            )
            for t in "uvwxyz"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {t: t for t in "uvwxyz"}
        assert chat.most > 1

        async def cancelled():
            task = asyncio.ensure_future(objective.apredict(["slow"], chosen))
            await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancelled())


def test_a_predictor_needs_only_what_the_allocation_uses(tmp_path):
    """Other models need no endpoint; a mistake is named before anything is sent."""
    chats = {"small": ScriptedModel("small")}
    predictor, _ = make_predictor(chats=chats, store=CompletionStore(tmp_path / "c.db"))
    with predictor:
        chosen = allocation(("small", 1), ("small", 2))
        found = predictor.predict([{"id": "a"}], chosen)
        assert found[0].answer in ("yes", "no")
        with pytest.raises(PipelineError, match="no endpoint for large"):
            predictor.predict([{"id": "a"}], allocation())
        with pytest.raises(TaskError, match="has no model"):
            predictor.predict([{"id": "a"}], allocation(("huge", 1)))
        with pytest.raises(PipelineError, match=r"got 'best.json': read files with"):
            predictor.predict([{"id": "a"}], "best.json")
        count = calls(chats)
        with pickle.loads(pickle.dumps(predictor)) as copy:
            assert copy.predict([{"id": "a"}], chosen).answers == found.answers
        assert calls(chats) == count
    replaying, _ = make_predictor(chats=chats, store=predictor.store, replay=True)
    with replaying:
        assert replaying.predict([{"id": "a"}], chosen).answers == found.answers
        with pytest.raises(StoreError, match="lacks"):
            replaying.predict([{"id": "b"}], chosen)
    half = Pipeline(stages=make_pipeline().stages[:1], score=touched)
    with pytest.raises(PipelineError, match="one `StageProgram` for each stage"):
        Predictor(half, task=make_task(), endpoints={})
    with pytest.raises(PipelineError, match="concurrency"):
        make_predictor(concurrency=0)
    named, _ = make_predictor(chats=chats, instance_id=lambda instance: f"no. {instance['id']}")
    with named:
        assert named.predict([{"id": 3}], chosen)[0].id == "no. 3"


def test_the_playground_end_to_end_in_process_and_behind_a_server(tmp_path):
    """Search, recommend, predict; a server gives the same answers."""
    store = CompletionStore(tmp_path / "c.db")
    objective = make_playground(problems=make_problems("search", 10), store=store, progress=False)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(objective.task))
    study.optimize(objective, n_trials=6)
    best = recommend(study)
    problems = make_problems("test", 8)
    scored = objective.evaluate(best.allocation, problems)
    inputs = [replace(p, relevant=(), steps="", answer="") for p in problems]
    predictions = objective.predict(inputs, best)
    right = [float(p.answer == q.answer) for p, q in zip(predictions, problems)]
    assert right == [scored.outcomes[p.id] for p in problems]
    assert predictions.spend == 0
    assert predictions.unit == objective.task.cost_model.unit
    objective.close()

    pipeline, task = unscored(playground_pipeline()), playground_task()
    alone = pipeline.predict(inputs, best, task=task, endpoints=make_endpoints())
    assert alone.answers == predictions.answers
    assert alone.spend == pytest.approx(scored.spend)
    free = pipeline.predict(inputs, best, task=task, endpoints=make_endpoints(), store=store)
    assert free.answers == predictions.answers
    assert free.spend == 0
    with PlaygroundServer() as server:
        served = pipeline.predict(
            inputs, best, task=task, endpoints=connect_endpoints(task, server.url)
        )
    assert served.answers == predictions.answers
    assert not served.failed
