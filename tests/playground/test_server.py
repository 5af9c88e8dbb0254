"""The playground behind HTTP: TGI's contract, the same scores as in process, and bad days."""

import contextlib
import json
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import optuna
import pytest

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.llm import ChatRequest, HuggingFaceChat
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts_integrations import MultiStageObjective
from optuna_agenttts_integrations.calls.endpoints import Endpoint
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground import (
    Faults,
    PlaygroundServer,
    make_objective,
    make_pipeline,
    make_problems,
    make_task,
)

SPECIFICATION = Path(__file__).parents[3] / "shared" / "data" / "tgi-openapi.json"
PROBLEMS = make_problems("search", 50)[:12]
SMALL, MIDDLE = "answerer-13k", "answerer-22k"
ALLOCATION = {"retrieval": ("retriever-28k", 3), "answer": (SMALL, 4)}


def fetch(url, body=None):
    """Get or post; returns status and decoded JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urlopen(request, timeout=20) as reply:
            content, status = reply.read(), reply.status
    except HTTPError as error:
        with error:
            content, status = error.read(), error.code
    return status, json.loads(content) if content else None


def prompt_of_answerer():
    """Return a prompt in the vocabulary of the answering models."""
    objective = make_objective(problems=PROBLEMS[:1])
    seen = []

    class Recording:
        async def complete(self, request, *, seed):
            seen.append(request)
            return await objective.endpoints[request.model].chat.complete(request, seed=seed)

    endpoints = {
        name: Endpoint(chat=Recording(), identity=f"recording {name}")
        for name in objective.endpoints
    }
    with MultiStageObjective(
        make_pipeline(), PROBLEMS[:1], task=make_task(), endpoints=endpoints
    ) as recording:
        recording.evaluate(ALLOCATION)
    return next(request for request in seen if request.model == SMALL)


def served(urls, timeout=20.0):
    """Create an objective over servers; `urls` by model's name."""
    endpoints = {
        name: Endpoint(
            chat=HuggingFaceChat(name, base_url=urls[name], timeout=timeout),
            identity=f"test {name}",
            concurrency=16,
        )
        for stage in make_task().stages
        for name in (model.name for model in stage.models)
    }
    return MultiStageObjective(
        make_pipeline(), PROBLEMS, task=make_task(), endpoints=endpoints, measure_after=None
    )


def outcomes(objective):
    """Outcomes by problem, and how many instances failed."""
    evaluation = objective.evaluate(ALLOCATION)
    return {name: result.outcome for name, result in evaluation.results.items()}


@contextlib.contextmanager
def restarted(server, *, up, down):
    """Restart a server twice once it has answered: after so many seconds, and for so many.

    A server that has never answered is not waited for, so a first answer must have come.
    """

    def answered():
        # A request that goes wrong is counted twice: by its path and by its fault.
        counts = server.served.copy().items()
        return sum(-count if "fault" in what else count for what, count in counts)

    def restart():
        deadline = time.monotonic() + 60
        while answered() < 1:
            assert time.monotonic() < deadline, "no request came"
            time.sleep(0.01)
        for _ in range(2):
            time.sleep(up)
            server.stop()
            time.sleep(down)
            server.start()

    trouble = threading.Thread(target=restart)
    trouble.start()
    try:
        yield
    finally:
        trouble.join()


def searched(objective):
    """Return parameters and scores of a search of five trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler())
    study.optimize(objective, n_trials=5)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    return [(trial.params, trial.value) for trial in study.trials]


@pytest.fixture(scope="module")
def quiet_search():
    """Run a search in process."""
    with make_objective(problems=PROBLEMS) as objective:
        return searched(objective)


@pytest.mark.slow
def test_a_search_is_the_same_through_both_dialects(quiet_search):
    """The same allocations and the very same scores, in process and over HTTP."""
    with PlaygroundServer() as server:
        with served(dict.fromkeys(server.models, server.url)) as objective:
            assert searched(objective) == quiet_search
        with contextlib.ExitStack() as stack:
            urls = {
                name: stack.enter_context(PlaygroundServer([name], dialect="tgi")).url
                for name in server.models
            }
            with served(urls) as objective:
                assert searched(objective) == quiet_search


@pytest.mark.slow
def test_a_search_survives_faults_and_restarts(quiet_search):
    """A fifth of the requests go wrong and the server is killed twice: not one score differs."""
    with PlaygroundServer(faults=Faults(rate=0.2, seed=5)) as server:
        places = dict.fromkeys(server.models, server.url)
        with restarted(server, up=1.0, down=0.5), served(places) as objective:
            assert searched(objective) == quiet_search
        assert sum(count for what, count in server.served.items() if "fault" in what) > 20


@pytest.fixture(scope="module")
def expected():
    """Outcomes in process."""
    with make_objective(problems=PROBLEMS) as objective:
        return outcomes(objective)


def test_openai_dialect_gives_the_scores_of_the_process(expected):
    """One server, six models by name, the same seeds."""
    with PlaygroundServer() as server:
        names = dict.fromkeys(server.models, server.url)
        with served(names) as objective:
            assert outcomes(objective) == expected


def test_tgi_dialect_gives_the_scores_of_the_process(expected):
    """One server for each model."""
    servers = {name: PlaygroundServer([name], dialect="tgi") for name in PlaygroundServer().models}
    for server in servers.values():
        server.start()
    with served({name: server.url for name, server in servers.items()}) as objective:
        assert outcomes(objective) == expected
    for server in servers.values():
        server.__exit__()


@pytest.mark.slow
def test_faults_and_restarts_cost_no_instance(expected):
    """With a fifth of the requests going wrong, and two restarts, the scores are the same."""
    with PlaygroundServer(faults=Faults(rate=0.2, seed=3)) as server:
        places = dict.fromkeys(server.models, server.url)
        with restarted(server, up=0.4, down=0.2), served(places) as objective:
            found = objective.evaluate(ALLOCATION)
        assert {name: result.outcome for name, result in found.results.items()} == expected
        assert sum(count for what, count in server.served.items() if "fault" in what) > 3


def resolved(schema, schemas):
    """Return a schema with its reference resolved."""
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return schema


def check(value, schema, schemas, where="reply"):
    """Hold a JSON value to a schema of OpenAPI 3.0: types, required fields, enumerations."""
    schema = resolved(schema, schemas)
    if value is None:
        assert schema.get("nullable"), f"{where} is null"
        return
    for name in ("allOf", "oneOf"):
        if name in schema:
            options = [resolved(option, schemas) for option in schema[name]]
            fitting = [o for o in options if set(o.get("required", ())) <= set(value)]
            assert fitting, f"{where} fits none of {name}"
            return
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
    }
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), f"{where} is no {schema['type']}"
    assert value in schema.get("enum", [value]), f"{where} is {value!r}"
    for name in schema.get("required", ()):
        assert name in value, f"{where} lacks {name}"
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                check(value[name], inner, schemas, f"{where}.{name}")
    if isinstance(value, list):
        for item in value:
            check(item, schema.get("items", {}), schemas, f"{where}[]")


@pytest.mark.skipif(not SPECIFICATION.exists(), reason="needs TGI's specification")
def test_replies_and_errors_keep_to_the_specification_of_tgi():
    """Every route's reply has the types and required fields that TGI's has."""
    schemas = json.loads(SPECIFICATION.read_text())["components"]["schemas"]
    request = prompt_of_answerer()
    content = request.messages[-1].content
    message = {"role": "user", "content": content}
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        url = server.url
        chat = {"messages": [message], "max_tokens": 20, "temperature": 0.9, "seed": 5}
        status, reply = fetch(f"{url}/v1/chat/completions", chat)
        assert status == 200
        check(reply, schemas["ChatCompletion"], schemas)
        usage = reply["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        parameters = {
            "max_new_tokens": 20,
            "temperature": 0.9,
            "do_sample": True,
            "seed": 5,
            "details": True,
        }
        status, generated = fetch(f"{url}/generate", {"inputs": content, "parameters": parameters})
        assert status == 200
        check(generated, schemas["GenerateResponse"], schemas)
        assert generated["generated_text"] == reply["choices"][0]["message"]["content"]
        check(fetch(f"{url}/info")[1], schemas["Info"], schemas)
        check(fetch(f"{url}/v1/models")[1]["data"][0], schemas["ModelInfo"], schemas)
        assert fetch(f"{url}/health") == (200, None)
        for wrong in (
            {"top_p": 1.0},
            {"temperature": -1},
            {"max_tokens": 0},
            {"max_tokens": 1000},
            {"stop": ["a"] * 5},
            {"messages": []},
            {"seed": 0},
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            {"messages": [{"role": "user", "content": "words that nobody taught it"}]},
        ):
            status, error = fetch(f"{url}/v1/chat/completions", {**chat, **wrong})
            assert status == 422, wrong
            check(error, schemas["ErrorResponse"], schemas)


def test_adapter_finds_its_way():
    """What is served is read; forms of constraint that are not known are stepped over."""
    request = prompt_of_answerer()
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        chat = HuggingFaceChat(base_url=server.url, timeout=10)
        loop = LoopThread(chat.aclose)
        assert loop.run(chat.healthy())
        assert loop.run(chat.served_models()) == (SMALL,)
        assert loop.run(chat.info())["max_total_tokens"] == 128
        constrained = ChatRequest(
            model="",
            messages=request.messages,
            max_tokens=20,
            temperature=0.9,
            schema='{"type":"object","properties":{}}',
        )
        first = loop.run(chat.complete(constrained, seed=7))
        before = server.served["/v1/chat/completions"]
        assert loop.run(chat.complete(constrained, seed=7)) == first
        assert (before, server.served["/v1/chat/completions"]) == (2, 3)
        assert chat.model == SMALL
        loop.close()


def test_unknown_models_are_refused_where_they_are_told_apart():
    """By name in the OpenAI dialect; TGI serves what it serves."""
    request = prompt_of_answerer()
    message = {"role": "user", "content": request.messages[-1].content}
    body = {"model": "other", "messages": [message], "max_tokens": 5}
    with PlaygroundServer([SMALL, MIDDLE]) as server:
        assert fetch(f"{server.url}/v1/chat/completions", body)[0] == 404
        assert fetch(f"{server.url}/info")[0] == 404
    with PlaygroundServer([SMALL], dialect="tgi") as server:
        assert fetch(f"{server.url}/v1/chat/completions", body)[0] == 200


def test_invalid_arguments_are_refused():
    """Before a port is taken."""
    for wrong in (
        lambda: PlaygroundServer(["gpt"]),
        lambda: PlaygroundServer([]),
        lambda: PlaygroundServer([SMALL, MIDDLE], dialect="tgi"),
        lambda: Faults(rate=2),
        lambda: Faults(kinds=["meteor"]),
    ):
        with pytest.raises(PipelineError):
            wrong()


def test_parallel_requests_are_served_together():
    """Sixty-four callers at once get the replies that each gets alone."""
    request = prompt_of_answerer()
    with PlaygroundServer([SMALL]) as server:
        chat = HuggingFaceChat(SMALL, base_url=server.url, timeout=30, concurrency=64)

        async def many():
            import asyncio

            calls = (chat.complete(request, seed=seed) for seed in range(1, 65))
            return [completion.text for completion in await asyncio.gather(*calls)]

        loop = LoopThread(chat.aclose)
        together = loop.run(many())
        alone = [loop.run(chat.complete(request, seed=seed)).text for seed in (1, 17, 64)]
        loop.close()
    assert [together[0], together[16], together[63]] == alone
