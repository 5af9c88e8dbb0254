"""Everything public goes through pickle, cloudpickle and deepcopy, and keys stay behind."""

import copy
import multiprocessing
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import cloudpickle
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pickling_support import (
    BENCHMARKS,
    KEY,
    VARIABLE,
    benchmark_objective,
    chat,
    environment_keys,
    key_function,
    playground_objective,
    run_pickled,
    sampler,
    score,
    search,
)

import optuna_agenttts as core
import optuna_agenttts_integrations as integrations
from optuna_agenttts import llm
from optuna_agenttts.llm.secrets import key_for
from optuna_agenttts_integrations import playground, tasks
from optuna_agenttts_integrations.calls import embeddings
from optuna_agenttts_integrations.scoring import sandbox
from optuna_agenttts_integrations.testing.simulation import simulated_models

MODULES = (core, llm, integrations, tasks, playground, embeddings, sandbox)
WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "oldest protocol": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}

USAGE, MESSAGE = llm.Usage(1, 2), llm.Message("user", "hi")
REQUEST = llm.ChatRequest(model="m", messages=(MESSAGE,), max_tokens=1, temperature=0.0)
MODEL = core.Model("m", parameters=1e9, input_price=1.0, output_price=1.0)
STAGE = core.Stage("find", models=[MODEL], prompt_tokens=1, generation_tokens=1)
TASK = core.Task(name="t", stages=[STAGE], budget=1e9)
ALLOCATION = core.Allocation({"find": core.StageAllocation("m", 1)})
CLAIM = core.Claim("find", ("m",), (1, 2))
VERDICT = core.Verdict("find", "models", "open", "text")
FINDING = llm.Finding("m", "call", "ok", "fine")
INSTANCE = integrations.InstanceResult(1.0, False, {"find": integrations.StageUsage()})
INSPECTION = integrations.InstanceInspection("q1", "trial 0", outcome=1.0)
TIE = core.Tie(ALLOCATION, 0.5, 1.0, 0.01, 50)
UNDECIDED = core.Undecided(ALLOCATION, 0.5, 1.0, 0.1, 50, 400)
RECOMMENDATION = core.Recommendation(
    {"x": 1}, ALLOCATION, 0.5, (0.4, 0.6), 1.0, "FLOPs", (TIE,), (UNDECIDED,), 0.05, 9
)
STANDING = core.Standing({"x": 1}, ALLOCATION, 1.0, 0.5, 50, 0.1, (0.0, 0.2), None)
CONFIRMATION = core.Confirmation(RECOMMENDATION, (STANDING,), 50, 2, 90, 80.0, "FLOPs", "all")
POINT = core.FrontierPoint(
    {"x": 1}, ALLOCATION, 0.5, (0.4, 0.6), 1.0, {"FLOPs": 1.0}, True, 50, 0.01, 50
)
PROGRAM = integrations.StageProgram(name="find", prompt=str)


def study_with(sampler):
    return optuna.create_study(direction="maximize", sampler=sampler)


def study_of(sampler):
    """Return a study of a task, with some trials."""
    study = study_with(sampler)
    study.optimize(lambda trial: float(TASK.suggest(trial)["find"].samples), n_trials=4)
    return study


def thinking_stage():
    """Return a stage whose model has thinking efforts."""
    return core.Stage(
        "find", models=[MODEL], prompt_tokens=1, generation_tokens=1, thinking=("off", 1024)
    )


def used(callback):
    """Return a callback that was called."""
    study = study_of(core.AgentTTSSampler(TASK))
    callback(study, study.trials[-1])
    return callback


# For each public name, functions that build values of it.
VALUES = {
    "AgentTTSSampler": [
        core.AgentTTSSampler,
        sampler,
        lambda: sampler(search_space={"x": optuna.distributions.FloatDistribution(0, 1)}),
        lambda: core.AgentTTSSampler(TASK, llm=chat(), insights=(1,), tables=("models",)),
        lambda: core.AgentTTSSampler(
            TASK, experience=[study_of(core.AgentTTSSampler(TASK))], description="d"
        ),
        lambda: core.AgentTTSSampler(independent_sampler=optuna.samplers.RandomSampler(1)),
        lambda: study_of(core.AgentTTSSampler(TASK)),
        lambda: study_of(core.AgentTTSSampler(TASK)).sampler,
        lambda: study_with(sampler()),
    ],
    "Allocation": [lambda: ALLOCATION],
    "BatchingChatModel": [
        lambda: integrations.BatchingChatModel(len),
        lambda: playground.make_endpoints()["answerer-13k"].chat,
    ],
    "Benchmark": [BENCHMARKS["two_wiki"]],
    "CircuitBreaker": [llm.CircuitBreaker],
    "ChatRequest": [lambda: REQUEST],
    "Claim": [lambda: CLAIM],
    "Confirmation": [lambda: CONFIRMATION],
    "Comparison": [lambda: integrations.Comparison(0.1, (0.0, 0.2), 0.05, 10)],
    "Completion": [lambda: llm.Completion("text", USAGE)],
    "CompletionStore": [integrations.CompletionStore],
    "Endpoint": [lambda: integrations.Endpoint(chat=chat(), identity="i")],
    "Evaluation": [lambda: integrations.Evaluation({"q": INSTANCE}, 1.0)],
    "Faults": [playground.Faults],
    "Finding": [lambda: FINDING],
    "FlopsCost": [core.FlopsCost],
    "Frontier": [lambda: core.Frontier((POINT,), "FLOPs", 2.0, (), True, 0.05, 50)],
    "FrontierPoint": [lambda: POINT],
    "HashingEmbedder": [embeddings.HashingEmbedder],
    "Hub": [core.Hub],
    "HuggingFaceChat": [chat, lambda: core.HuggingFaceChat("org/m", provider="groq")],
    "HuggingFaceEmbedder": [lambda: embeddings.HuggingFaceEmbedder("m")],
    "InstanceInspection": [lambda: INSPECTION],
    "InstanceResult": [lambda: INSTANCE],
    "LLMFusion": [integrations.LLMFusion],
    "LatencyCost": [core.LatencyCost],
    "Limits": [sandbox.Limits],
    "Message": [lambda: MESSAGE],
    "Model": [lambda: MODEL],
    "MultiStageObjective": [
        playground_objective,
        lambda: playground_objective().on(playground.make_problems("test", 2)),
        *(partial(benchmark_objective, name) for name in BENCHMARKS if "sandbox" not in name),
    ],
    "PassageQuestion": [lambda: BENCHMARKS["two_wiki"]().search],
    "Pipeline": [lambda: integrations.Pipeline(stages=[PROGRAM], score=float)],
    "PriceCost": [core.PriceCost],
    "Problem": [lambda: playground.make_problems("test", 2)],
    "ProgramResult": [lambda: sandbox.ProgramResult(0, "", "", False, 1.0)],
    "Recommendation": [lambda: RECOMMENDATION],
    "ReplicatedChatModel": [lambda: integrations.ReplicatedChatModel([chat(), chat()])],
    "Report": [lambda: llm.Report((FINDING,))],
    "RetryPolicy": [llm.RetryPolicy],
    "RetryingChatModel": [lambda: llm.RetryingChatModel(chat())],
    "Round": [lambda: core.Round(number=1, claims=(CLAIM,), verdicts=(VERDICT,))],
    "Sandbox": [sandbox.Sandbox],
    "ScriptedChatModel": [
        lambda: core.ScriptedChatModel(["a", llm.Completion("b", USAGE), ValueError("c")]),
        lambda: core.ScriptedChatModel(str),
    ],
    "SearchResult": [
        lambda: core.SearchResult(
            RECOMMENDATION, CONFIRMATION, 9, ("a",), ("b",), 99, 90.0, "FLOPs"
        )
    ],
    "Summary": [lambda: core.summarize(study_with(None), TASK)],
    "Software": [lambda: BENCHMARKS["chat_dev"]().search],
    "Spend": [lambda: core.Spend(1.0, True, 0.0, 0, 0, "USD")],
    "Stage": [lambda: STAGE, lambda: thinking_stage()],
    "StageAllocation": [lambda: core.StageAllocation("m", 1)],
    "StageCheck": [lambda: integrations.StageCheck("found", bool)],
    "StageProgram": [lambda: PROGRAM],
    "StageUsage": [integrations.StageUsage],
    "Standing": [lambda: STANDING],
    "State": [lambda: integrations.State("q", {"find": 1})],
    "Step": [lambda: integrations.Step(name="s", run=str)],
    "Explain": [lambda: used(core.Explain())],
    "StopAtSpend": [lambda: used(core.StopAtSpend(1e9, task=TASK))],
    "PrintTrials": [lambda: used(core.PrintTrials(task=TASK))],
    "StopWhenExhausted": [lambda: used(core.StopWhenExhausted(task=TASK))],
    "StopWhenSettled": [lambda: used(core.StopWhenSettled(task=TASK))],
    "StoredEmbedder": [
        lambda: embeddings.StoredEmbedder(
            embeddings.HashingEmbedder(), integrations.CompletionStore()
        )
    ],
    "Task": [lambda: TASK, playground.make_task],
    "Thinking": [lambda: core.Thinking(model="m", effort="low", tokens=512)],
    "Tie": [lambda: TIE],
    "Tool": [lambda: BENCHMARKS["daily"]().search[0].tools],
    "ToolRequest": [lambda: BENCHMARKS["daily"]().search],
    "TrialInspection": [lambda: integrations.TrialInspection("trial 0", (INSPECTION,))],
    "TripleQuestion": [lambda: BENCHMARKS["cwq"]().search],
    "Undecided": [lambda: UNDECIDED],
    "Usage": [lambda: USAGE],
    "Verdict": [lambda: VERDICT],
    # Functions, by what they return.
    "best_of": [lambda: integrations.best_of(len)],
    "chat_dev": [
        BENCHMARKS["chat_dev"],
        BENCHMARKS["chat_dev, embedded"],
        lambda: simulated_models(BENCHMARKS["chat_dev"]()),
    ],
    "connect": [lambda: llm.connect("http://127.0.0.1:9")],
    "connect_endpoints": [
        lambda: integrations.connect_endpoints(["m"], ["http://127.0.0.1:9", "http://h:9#n"]),
        lambda: integrations.connect_endpoints(["m"], core.ScriptedChatModel([])),
    ],
    "cwq": [BENCHMARKS["cwq"]],
    "hotpot_qa": [BENCHMARKS["hotpot_qa"]],
    "efforts": [lambda: core.efforts(MODEL, off={"x": 1}, low=None)],
    "id_vote": [lambda: integrations.id_vote(0.5)],
    "make_endpoints": [playground.make_endpoints],
    "make_objective": [playground.make_objective],
    "Prediction": [lambda: integrations.Prediction(id="q", answer="yes")],
    "Predictions": [
        lambda: integrations.Predictions(results=(), allocation={}, seconds=1.0, unit="USD")
    ],
    "Predictor": [
        lambda: integrations.Predictor(
            playground.make_pipeline(),
            task=playground.make_task(),
            endpoints=playground.make_endpoints(),
        )
    ],
    "make_pipeline": [playground.make_pipeline],
    "make_problems": [lambda: playground.make_problems("search", 1)],
    "make_task": [playground.make_task],
    "medoid": [lambda: integrations.medoid(max)],
    "normalized_vote": [lambda: integrations.normalized_vote(str)],
    "settled": [lambda: integrations.settled(0.95)],
    "passage_benchmark": [BENCHMARKS["two_wiki"]],
    "task_bench": [BENCHMARKS["daily"], BENCHMARKS["multimedia"]],
    "triple_benchmark": [BENCHMARKS["cwq"]],
    "two_wiki": [BENCHMARKS["two_wiki"]],
    "web_qsp": [BENCHMARKS["web_qsp"]],
}

# Functions whose results are values of the classes above, or paths.
PLAIN = {
    *("carry_over", "confirm", "describe_model", "examine", "explain", "frontier", "guidelines"),
    *("load_allocation", "majority_vote", "recommend", "report_outcomes", "sample_path"),
    *("save_allocation", "rounds_dataframe", "search", "spend", "summarize", "task_bench_scores"),
    *("trials_dataframe", "union"),
}
SERVERS = {"LoopbackServer", "PlaygroundServer"}
"""They run threads and hold sockets; objectives refer to them by URL."""


def public():
    """Return every public object by module and name."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in MODULES
        for name in module.__all__
    }


def is_error(value):
    return isinstance(value, type) and issubclass(value, Exception)


def test_every_public_name_is_covered():
    """A new public class or function needs an entry above."""
    found = {
        name.rpartition(".")[2]
        for name, value in public().items()
        if callable(value) and not is_error(value) and not getattr(value, "_is_protocol", False)
    }
    assert found == set(VALUES) | PLAIN | SERVERS


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_public_objects_are_found_by_name(way):
    """Classes, functions and constants stay the same; errors keep their message."""
    for name, value in public().items():
        if is_error(value):
            error = way(value("what"))
            assert type(error) is value, name
            assert str(error) == "what", name
        else:
            # Classes and functions are equal only to themselves.
            assert way(value) == value, name


def test_chat_errors_keep_their_cause():
    error = llm.ChatUnavailableError("late", kind="timeout", retry_after=3.0)
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.kind, copied.retry_after) == ("timeout", 3.0)


@pytest.mark.parametrize("name", VALUES)
def test_public_values_are_copied(name):
    for build in VALUES[name]:
        value = build()
        for label, way in WAYS.items():
            copied = way(way(value))
            assert type(copied) is type(value), label
            assert described(copied) == described(value), label


def described(value):
    """Return the `repr` of a value without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize(
    "name",
    [
        "playground",
        *(name for name in BENCHMARKS if "sandbox" not in name),
        pytest.param("chat_dev, sandboxed", marks=pytest.mark.slow),
    ],
)
def test_copied_objectives_give_the_same_scores(name):
    """Results do not depend on whether an objective was copied, before or after its first use."""
    if "sandbox" in name and sandbox.Sandbox().missing():
        pytest.skip("no sandbox on this machine")
    objective = playground_objective() if name == "playground" else benchmark_objective(name)
    fresh = [way(objective) for way in WAYS.values()]
    expected = score(objective)
    for copied in (*fresh, *(way(objective) for way in WAYS.values())):
        assert score(copied) == expected


@given(threshold=st.floats(0.01, 1), samples=st.lists(st.lists(st.integers(0, 4)), min_size=1))
def test_copied_aggregations_agree(threshold, samples):
    for aggregation in (
        integrations.id_vote(threshold),
        integrations.normalized_vote(tuple),
        integrations.best_of(len),
        integrations.medoid(_common),
    ):
        for way in WAYS.values():
            assert way(aggregation)(samples) == aggregation(samples)


def _common(one, other):
    return len(set(one) & set(other))


@pytest.fixture
def keyed(monkeypatch):
    """Build everything that takes a key, with a given one."""
    monkeypatch.setenv(VARIABLE, KEY)

    def build(key):
        endpoints = integrations.connect_endpoints(TASK, "http://127.0.0.1:9", api_key=key)
        task, pipeline = TASK, integrations.Pipeline(stages=[PROGRAM], score=float)
        objective = integrations.MultiStageObjective(pipeline, "q", task=task, endpoints=endpoints)
        embedder = embeddings.HuggingFaceEmbedder("m", api_key=key)
        return {
            "chat": chat(key),
            "sampler": sampler(chat(key)),
            "study": study_with(sampler(llm.RetryingChatModel(chat(key)))),
            "replicas": integrations.ReplicatedChatModel([chat(key), chat(key)]),
            "endpoints": endpoints,
            "objective": objective,
            "embedder": embedder,
            "stored": embeddings.StoredEmbedder(embedder, integrations.CompletionStore()),
            "hub": core.Hub(token=key),
        }

    return build


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_literal_keys_are_never_pickled(keyed, dumps):
    for name, value in keyed(KEY).items():
        text = dumps(value)
        assert KEY.encode() not in text, name
        # Nor by a copy of the copy, nor by a copy in this process.
        assert KEY.encode() not in dumps(pickle.loads(text)), name
        assert KEY.encode() not in dumps(copy.deepcopy(value)), name


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_functions_that_return_keys_are_pickled_by_name(keyed, dumps):
    for name, value in keyed(key_function).items():
        text = dumps(value)
        assert KEY.encode() not in text, name
        assert b"key_function" in text, name


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("kind", environment_keys())
def test_names_of_environment_variables_are_pickled_without_values(keyed, dumps, kind):
    for name, value in keyed(environment_keys()[kind]).items():
        text = dumps(value)
        assert KEY.encode() not in text, name
        assert VARIABLE.encode() in text, name
    copied = pickle.loads(dumps(chat(environment_keys()[kind])))
    assert key_for("http://127.0.0.1:9", copied._api_key) == KEY


def test_unpickled_objects_say_that_a_key_is_missing(keyed, caplog):
    for name, value in keyed(KEY).items():
        copied = pickle.loads(pickle.dumps(value))
        key = getattr(copied, "_api_key", getattr(copied, "_token", None))
        if key is not None:
            with pytest.raises(llm.ChatRefusedError, match=r"os\.getenv"):
                key_for("http://127.0.0.1:9", key)
            assert repr(key) == "<not pickled>", name
    hub = pickle.loads(pickle.dumps(core.Hub(endpoint="http://127.0.0.1:9", token=KEY)))
    hub.facts("org/m")
    assert "not pickled" in caplog.text


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_copies_in_this_process_keep_the_key(way):
    for value in (chat(KEY), embeddings.HuggingFaceEmbedder("m", api_key=KEY)):
        assert way(value)._api_key == KEY
    assert way(core.Hub(token=KEY))._endpoint._api_key == KEY


def test_lambdas_go_through_cloudpickle():
    """A pipeline of lambdas scores the same on either side."""
    pipeline = integrations.Pipeline(
        stages=[
            integrations.StageProgram(
                name="find",
                prompt=lambda state: f"{state.instance}",
                parse=lambda text, state: text,
                aggregate=lambda samples: samples[0],
            )
        ],
        score=lambda state: float(state["find"] == "yes"),
    )
    endpoints = integrations.connect_endpoints(TASK, core.ScriptedChatModel(lambda request: "yes"))
    objective = integrations.MultiStageObjective(
        pipeline, ["q"], task=TASK, endpoints=endpoints, progress=False
    )
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(objective)
    assert score(pickle.loads(cloudpickle.dumps(objective))) == 1.0


def test_a_pickled_circuit_is_closed():
    """Clocks differ between machines, so the state of a circuit is not pickled."""
    breaker = llm.CircuitBreaker(threshold=1)
    breaker.record(llm.ChatUnavailableError("down"))
    with pytest.raises(llm.CircuitOpenError):
        breaker.check()
    pickle.loads(pickle.dumps(breaker)).check()


def test_an_unpickled_store_opens_the_same_file_from_anywhere(tmp_path, monkeypatch):
    """A relative path stays that of the first process's working directory."""
    monkeypatch.chdir(tmp_path)
    objective = playground_objective("store.db")
    expected = score(objective)
    text = pickle.dumps(objective)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    copied = pickle.loads(text)
    assert len(copied.store) == len(objective.store) > 0
    assert score(copied) == expected
    assert not any(other.iterdir())


@pytest.mark.slow
def test_spawned_processes_run_objectives_and_studies(tmp_path):
    """A fresh interpreter scores the same, writes to the same store, and continues a study."""
    objectives = {name: benchmark_objective(name) for name in BENCHMARKS if "sandbox" not in name}
    objectives["playground"] = playground_objective(tmp_path / "store.db")
    study = optuna.create_study(
        direction="maximize",
        storage=f"sqlite:///{tmp_path / 'study.db'}",
        sampler=core.AgentTTSSampler(
            objectives["playground"].task, llm=core.ScriptedChatModel([])
        ),
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for name, objective in objectives.items():
            assert pool.submit(score, objective).result() == score(objective), name
        written = len(objectives["playground"].store)
        found = pool.submit(search, study, 4, objectives["playground"]).result()
        assert found == [trial.params for trial in study.trials]
        assert len(found) == 4
        assert len(objectives["playground"].store) > written
        lambdas = cloudpickle.dumps((lambda value: score(value) + 1, objectives["two_wiki"]))
        expected = score(objectives["two_wiki"]) + 1
        assert pool.submit(run_pickled, lambdas).result() == expected
