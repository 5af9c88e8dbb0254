"""Objectives, checks and the agent while a real server is down, and where it never comes."""

import asyncio
import json
import logging
import time

import optuna
import pytest
from pipeline_support import Replies, objective_of, unused

from optuna_agenttts import AgentTTSSampler, HuggingFaceChat, guidelines
from optuna_agenttts.llm import RetryPolicy
from optuna_agenttts_integrations import Pipeline, StageProgram, TooManyFailuresError
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.cli import main
from optuna_agenttts_integrations.testing.serving import LoopbackServer

DOWN_SECONDS = 0.8
"""Longer than the attempts of the policy below last."""


def http(status, content, kind="text/html"):
    """Return the bytes of a reply."""
    head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\nconnection: close\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n{content}".encode()


class Failing(LoopbackServer):
    """Server whose requests are answered with `reply` until a time; None closes the connection."""

    def __init__(self, reply, until, **options):
        super().__init__({"m": Replies(lambda *_: "fine")}, **options)
        self.reply, self.until, self.failed = reply, until, 0

    async def serve(self, request, writer):
        """Fail, or answer."""
        if time.monotonic() > self.until:
            return await super().serve(request, writer)
        self.failed += 1
        if self.reply is None:
            writer.transport.abort()
        else:
            writer.write(self.reply)
            await writer.drain()
        return False


def objective_at(url, samples=("q", "r", "s"), **options):
    """Build an objective with a single stage that calls the server."""
    program = StageProgram(name="answer", prompt=lambda s: f"{s.instance}?", max_tokens=5)
    pipeline = Pipeline(stages=[program], score=lambda s: float(s["answer"] == "fine"))
    (endpoint,) = connect_endpoints(["m"], url, timeout=5, **options).values()
    objective = objective_of(pipeline, {"m": endpoint}, samples)
    objective._completions._policy = RetryPolicy(attempts=2, base=0.05, longest=0.1, patience=600)
    return objective


@pytest.mark.parametrize(
    "reply",
    [
        None,
        http(500, "oops"),
        http(502, "<html>bad gateway</html>"),
        http(524, "<html>a timeout occurred</html>"),
        http(200, "<html>the server is being updated</html>"),
        http(200, '{"choices": [{"message": {"con', "application/json"),
    ],
    ids=["closed", "500", "502", "524", "page", "half"],
)
def test_an_outage_costs_time_but_no_trial(reply):
    """The trial scores as without it, after more failed calls than there are attempts."""
    with Failing(reply, time.monotonic() + DOWN_SECONDS) as server:
        objective = objective_at(server.url)
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial(objective.task.params({"answer": ("m", 2)}))
        study.optimize(objective, n_trials=1)
        objective.close()
        assert study.best_value == 1.0
        # Three calls, since the first of two votes wins, of two attempts each.
        assert server.failed > 3 * 2


@pytest.mark.parametrize("reply", [None, http(500, "oops")], ids=["closed", "500"])
@pytest.mark.parametrize("last", [False, True])
def test_a_request_that_breaks_the_server_does_not_hold_up_a_search(reply, last):
    """It gets the policy's attempts, also if it fails when no other call is left to succeed."""

    class Breaking(Failing):
        async def serve(self, request, writer):
            broken = b"poison" in (request.content or b"")
            if broken and last:
                await asyncio.sleep(0.3)
            self.until = float("inf") if broken else 0.0
            return await super().serve(request, writer)

    with Breaking(reply, 0.0) as server:
        objective = objective_at(server.url, ["poison", *"abcdefgh"], concurrency=30)
        objective._max_failed = 0.5
        started = time.monotonic()
        evaluation = objective.evaluate({"answer": ("m", 20)})
        objective.close()
    assert time.monotonic() - started < 20
    assert (evaluation.failed, len(evaluation.results)) == (1, 9)
    assert server.failed < 20 * 10


def test_a_restarted_server_is_waited_for_and_a_missing_one_is_not():
    """The same closed port is an outage after an answer, and an error with its remedy before."""
    url = unused()
    objective = objective_at(url)
    started = time.monotonic()
    with pytest.raises(TooManyFailuresError, match=r"verify host and port.*`starting=True`"):
        objective.evaluate({"answer": ("m", 2)})
    assert time.monotonic() - started < 30
    objective.close()


QUOTA = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}


@pytest.mark.parametrize(
    "reply", [http(429, json.dumps(QUOTA), "application/json"), http(401, "")]
)
def test_what_time_does_not_mend_ends_a_trial_at_once_and_fails_the_doctor(reply, capsys):
    """Each call is made once, and messages name the remedy."""
    remedy = "Add credits" if b"quota" in reply else "Check that the API key"
    with Failing(reply, float("inf")) as server:
        objective = objective_at(server.url)
        with pytest.raises(TooManyFailuresError, match=remedy):
            objective.evaluate({"answer": ("m", 1)})
        objective.close()
        assert server.failed == 3
        assert main(["doctor", server.url, "m"]) == 1
    assert f"> {remedy}" in capsys.readouterr().out


def test_the_agent_falls_back_at_once_and_says_why_once(caplog):
    """The numerical planner takes over, and one line names the reason and the remedy."""
    chat = HuggingFaceChat("m", base_url=unused(), timeout=300)
    with LoopbackServer({"m": Replies(lambda *_: "fine")}) as server:
        objective = objective_at(server.url)
        study = optuna.create_study(
            direction="maximize", sampler=AgentTTSSampler(objective.task, llm=chat, seed=0)
        )
        started = time.monotonic()
        with caplog.at_level(logging.INFO, "optuna_agenttts"):
            study.optimize(objective, n_trials=30)
        objective.close()
    assert time.monotonic() - started < 150
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    assert sum(planned.failures.get("ConnectError", 0) for planned in guidelines(study)) == 1
    lines = [r.getMessage() for r in caplog.records if "verify host and port" in r.getMessage()]
    assert sum("ConnectError, 1 so far" in line for line in lines) == 1
    assert len(lines) <= 2
