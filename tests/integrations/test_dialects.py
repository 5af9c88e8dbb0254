"""Recorded replies of servers through pipelines, the store, the doctor and the agent.

`tests/llm/recorded_replies.py` has the replies, and `tests/llm/test_replies.py` what they mean.
"""

import asyncio
import json
import sys
from pathlib import Path

import optuna
import pytest
from pipeline_support import objective_of

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
from llm_support import AdversarialServer, ask, body
from recorded_replies import (
    COMPLETIONS,
    ENDED,
    ENDS,
    ERRORS,
    SPECIAL,
    TEXT,
    WAITS,
    Meaning,
)

from optuna_agenttts import AgentTTSSampler, HuggingFaceChat, Model, Stage, Task, guidelines
from optuna_agenttts.llm import RetryingChatModel, RetryPolicy, examine
from optuna_agenttts_integrations import (
    CompletionStore,
    Pipeline,
    StageProgram,
    TooManyFailuresError,
)
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.tasks.answering import parse_answer

ALLOCATION = {"answer": ("m", 2)}
INSTANCES = ("x" * 40, "y" * 40)
CALLS = 4
GOOD = body(COMPLETIONS["TGI: normal"][0])
FAST = RetryPolicy(attempts=8, base=0.001, longest=0.01, patience=600)
SERVERS = ("TGI before 2.2", "vLLM", "Mistral", "Gemini behind a gateway", "xAI", "Groq")
REPLIES = {
    **{name: row for name, row in COMPLETIONS.items() if name.partition(":")[0] in SERVERS},
    **SPECIAL,
}
SENT = {name: (200, *row) for name, row in REPLIES.items()} | ENDED | ERRORS
"""Status, body and meaning of replies; of the situations of all servers, a few servers' forms."""


def page(name):
    """Return the body of a recorded reply as bytes or text."""
    values = SENT[name][1]
    return values if isinstance(values, (bytes, str)) else json.dumps(values).encode()


def reply(name):
    """Answer with a recorded reply."""
    return body(page(name), SENT[name][0])


def objective_at(server, store=None):
    """Build an objective of one stage that calls a server, with short waits."""
    program = StageProgram(
        name="answer",
        prompt=lambda state: state.instance,
        parse=parse_answer,
        max_tokens=64,
        enough=None,
    )
    pipeline = Pipeline(stages=[program], score=lambda state: float(state["answer"] == "Paris"))
    (endpoint,) = connect_endpoints(["m"], server.url, timeout=5).values()
    objective = objective_of(pipeline, {"m": endpoint}, INSTANCES, store=store)
    objective._completions._policy = FAST
    return objective


def trial_of(objective):
    """Run one trial."""
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(objective.task.params(ALLOCATION))
    with objective:
        study.optimize(objective, n_trials=1)
    return study.trials[0]


@pytest.mark.parametrize("name", [*REPLIES, *ENDED])
def test_completions_are_scored_counted_and_stored(name):
    """One call a sample, or two where another seed may help; none once they are stored."""
    meaning = SENT[name][2]
    store = CompletionStore()
    with AdversarialServer(reply(name)) as server:
        trials = [trial_of(objective_at(server, store)) for _ in range(2)]
        calls = len(server.chats)
    again = not meaning.text and meaning.thought_tokens and meaning.reason == "stop"
    assert calls == (CALLS * 2 if again else CALLS)
    answered = meaning.text == TEXT
    assert [trial.value for trial in trials] == [float(answered)] * 2
    first, second = (trial.user_attrs for trial in trials)
    assert (first["tokens"], second["tokens"]) == (calls * meaning.generated, 0)
    assert first["malformed"] == second["malformed"] == (0 if answered else CALLS)
    assert first.get("thought_tokens", 0) == CALLS * meaning.thought_tokens
    stored = [
        json.loads(row)
        for (row,) in store._database.connection.execute("SELECT value FROM completions")
    ]
    assert [row[0] for row in stored] == [meaning.text] * CALLS
    assert [row[3] for row in stored] == [meaning.reason] * CALLS


@pytest.mark.parametrize("name", ERRORS)
def test_errors_cost_time_or_end_a_trial_and_are_never_stored(name):
    """More failures than there are attempts, of a server that comes back; or its own words."""
    failure = SENT[name][2]
    store = CompletionStore()
    failures = CALLS * (12 if failure.then == WAITS else 2)
    with AdversarialServer([*[reply(name)] * failures, GOOD]) as server:
        if failure.then == ENDS:
            with (
                objective_at(server, store) as objective,
                pytest.raises(TooManyFailuresError) as caught,
            ):
                objective.evaluate(ALLOCATION)
            assert failure.words in str(caught.value)
            assert len(server.chats) == CALLS
            assert not store._database.connection.execute(
                "SELECT value FROM completions"
            ).fetchall()
            return
        assert trial_of(objective_at(server, store)).value == 1.0
        # Before the last attempts at a call, a request of one word may find the server back.
        assert failures + CALLS <= len(server.chats) <= failures + 2 * CALLS
    assert {
        row for (row,) in store._database.connection.execute("SELECT value FROM completions")
    } == {json.dumps([TEXT, 12, 64, "stop"])}


@pytest.mark.parametrize("name", SENT)
def test_the_doctor_says_what_a_search_will_meet(name):
    """Completions pass, thoughts without an answer do not, and errors have their words."""
    meaning = SENT[name][2]

    async def work(chat):
        try:
            return await examine(
                chat, subject="m", model="m", longest=ask("x" * 40, max_tokens=64), parameters=1.0
            )
        finally:
            await chat.aclose()

    with AdversarialServer(reply(name), models=body({"data": [{"id": "m"}]})) as server:
        findings = asyncio.run(work(HuggingFaceChat("m", base_url=server.url, timeout=5)))
    levels = {finding.check: finding.level for finding in findings}
    if isinstance(meaning, Meaning):
        assert levels["one token"] == "ok"
        if meaning.text or meaning.thought_tokens:
            assert (levels["full length"] == "ok") is bool(meaning.text)
        return
    (found,) = (finding for finding in findings if finding.check == "one token")
    assert found.level == ("warning" if meaning.kind == "HTTP 429" else "error")
    assert meaning.words in f"{found.message} {found.remedy}"


TASK = Task(
    name="t",
    stages=[
        Stage(
            "answer",
            models=[Model("m", parameters=1e9)],
            prompt_tokens=9,
            generation_tokens=9,
            max_samples=40,
        )
    ],
    budget=1e13,
)
PLAN = json.dumps(
    {
        "guidelines": ["Sample the small model."],
        "candidates": [
            {"allocation": {"answer": {"model": "m", "samples": samples}}, "reason": "x"}
            for samples in (5, 9, 12, 15, 18, 30)
        ],
    }
)


def planned(behaviour):
    """Return the agent's rounds in a search whose agent is a server."""
    with AdversarialServer(behaviour) as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=5)
        agent = RetryingChatModel(
            chat, policy=RetryPolicy(attempts=2, base=0.001, longest=0.001), timeout=10
        )
        sampler = AgentTTSSampler(TASK, llm=agent, seed=0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(lambda trial: TASK.suggest(trial)["answer"].samples ** 0.1, n_trials=7)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    return guidelines(study)


FORMS = ("reason", "thoughts", "content: one", "content: ends with '</s>'", "bytes", "events")


@pytest.mark.parametrize(
    "name", [name for name in SPECIAL if name.startswith(FORMS) and TEXT.encode() in page(name)]
)
def test_the_agent_plans_with_replies_of_each_form(name):
    """The plan in a reply is read, and nothing about it is a problem."""
    plan = json.dumps(PLAN)[1:-1].encode()
    (found,) = planned(body(page(name).replace(TEXT.encode(), plan)))
    assert not found.problems
    assert not found.failures
    assert found.guidelines == ("Sample the small model.",)


@pytest.mark.parametrize("name", {ERRORS[name][2].kind: name for name in ERRORS}.values())
def test_the_agent_falls_back_where_its_server_fails(name):
    """No trial is lost, and the kind of failure is counted."""
    (found,) = planned(reply(name))
    assert set(found.failures) == {SENT[name][2].kind}
