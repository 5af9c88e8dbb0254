"""The sampler with an LLM agent: candidates, storage, workers, and failures of the model."""

import asyncio
import copy
import json
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from dataclasses import replace

import optuna
import pytest
from core_support import LARGE, SMALL, allocation_of, objective, open_storage, run, wiki_task
from postgresql_support import postgresql

from optuna_agenttts import (
    AgentTTSError,
    AgentTTSSampler,
    Model,
    ScriptedChatModel,
    Stage,
    StopAtSpend,
    Task,
    TaskError,
    guidelines,
    recommend,
    spend,
)
from optuna_agenttts import storage as keys
from optuna_agenttts.agent import scheduler
from optuna_agenttts.agent.pace import ROUND_SIZE
from optuna_agenttts.agent.prompts import TABLES
from optuna_agenttts.agent.subjects import task_subject
from optuna_agenttts.llm import (
    ChatUnavailableError,
    Completion,
    RetryingChatModel,
    RetryPolicy,
    Usage,
)
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.study.archive import Archive

TASK = wiki_task()
ORIGIN, REASON = "agenttts:origin", "agenttts:reason"


def reply(*allocations, guidelines=("large models answer better",)):
    """Return a reply that proposes allocations, each (model, samples) for both stages."""
    candidates = [
        {
            "allocation": {
                stage: {"model": model, "samples": samples}
                for stage, (model, samples) in zip(("retrieval", "answer"), allocation)
            },
            "reason": f"reason {position}",
        }
        for position, allocation in enumerate(allocations)
    ]
    return json.dumps({"guidelines": list(guidelines), "candidates": candidates})


def sensible(request):
    """Propose plausible allocations that were never proposed before."""
    n = sensible.counter
    sensible.counter += 1
    return reply(
        *(
            (("qwen-72B", 2), (SMALL, 36 - k)) if k < 22 else (("qwen-7B", 20 + k), (LARGE, 10))
            for k in range(8 * n, 8 * n + 8)
        )
    )


sensible.counter = 0


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Ignore the user's model and reset the scripts."""
    sensible.counter = general_reply.counter = 0
    monkeypatch.delenv("OPTUNA_AGENTTTS_LLM", raising=False)


def origins(study):
    """Return the origin of each trial."""
    return [trial.user_attrs.get(ORIGIN) for trial in study.trials]


def quick(chat):
    """Return a model with short waits between retries."""
    return RetryingChatModel(chat, policy=RetryPolicy(attempts=2, base=0.001), timeout=5)


def test_agent_plans_from_the_opening_on():
    """Trials follow the agent, with its reasons, after two trials of the opening."""
    study = run(AgentTTSSampler(TASK, llm=ScriptedChatModel(sensible)), n_trials=30)
    assert "opening" in origins(study)[:2]
    tried = [trial for trial in study.trials if trial.user_attrs[ORIGIN] == "agent"]
    assert len(tried) >= 4
    assert all(trial.user_attrs[REASON].startswith("reason ") for trial in tried)
    assert all(TASK.fits(allocation_of(trial)) for trial in study.trials)
    assert len({json.dumps(trial.params) for trial in study.trials}) == 30


def test_each_round_is_requested_once():
    """With usable replies, there is one request per round."""
    chat = ScriptedChatModel(sensible)
    study = run(AgentTTSSampler(TASK, llm=chat), n_trials=50)
    # How many there are depends on how long they take to plan.
    assert len(chat.requests) == len(guidelines(study)) >= 6
    assert [planned.number for planned in guidelines(study)] == list(range(len(chat.requests)))
    assert all(planned.requests == 1 for planned in guidelines(study))


@pytest.mark.slow
def test_rounds_survive_the_process_and_are_not_requested_again(tmp_path):
    """A resumed study keeps its guidelines and continues with the next round."""
    url = f"sqlite:///{tmp_path}/s.db"
    run(AgentTTSSampler(TASK, llm=ScriptedChatModel(sensible)), n_trials=14, storage=url)
    chat = ScriptedChatModel(sensible)
    study = optuna.load_study(study_name="s", storage=url, sampler=AgentTTSSampler(TASK, llm=chat))
    before = guidelines(study)
    assert len(before) >= 2
    study.optimize(objective, n_trials=10)
    study.sampler._scheduler.wait(study)
    assert guidelines(study)[: len(before)] == before
    assert len(chat.requests) == len(guidelines(study)) - len(before)
    assert "large models answer better" in chat.requests[0].messages[1].content


def test_guidelines_are_read_without_the_sampler():
    """Any study object of the same storage can read them."""
    storage = optuna.storages.InMemoryStorage()
    run(AgentTTSSampler(TASK, llm=ScriptedChatModel(sensible)), n_trials=12, storage=storage)
    study = optuna.load_study(study_name="s", storage=storage)
    assert guidelines(study)[0].guidelines == ("large models answer better",)
    assert guidelines(study)[0].model == "scripted"


def test_agents_tokens_count_as_spend():
    """The spend of the search includes the tokens of all prompts and replies."""
    chat = ScriptedChatModel(sensible)
    chat.model = "org/planner-7B"
    study = run(AgentTTSSampler(TASK, llm=chat), n_trials=12)
    found = spend(study)
    planned = guidelines(study)
    assert found.agent_tokens == sum(p.prompt_tokens + p.completion_tokens for p in planned) > 0
    assert found.agent > 0
    assert found.total == found.trials + found.agent


class Silent:
    """Chat model that answers some requests and leaves the others without a reply."""

    model = "org/planner-7B"

    def __init__(self, *texts):
        self.texts = list(texts)

    async def complete(self, request, *, seed):
        if self.texts:
            return Completion(self.texts.pop(0), Usage(1000, 100))
        await asyncio.sleep(60)


@pytest.mark.parametrize("texts", [(), ("not JSON",)])
def test_rounds_that_time_out_count_what_is_known(texts):
    """The prompt that was sent, and the replies that came before."""
    sampler = AgentTTSSampler(TASK, llm=Silent(*texts), llm_timeout=0.3)
    study = run(sampler, n_trials=8)
    planned = guidelines(study)[0]
    assert planned.failures
    assert planned.completion_tokens == 100 * len(texts)
    assert planned.prompt_tokens > 1000 * len(texts) + 100
    assert planned.cost > 0
    assert spend(study).agent > 0


def test_repeated_requests_of_a_round_count():
    """A reply without text was paid for."""
    failed = [ChatUnavailableError("no text", kind="no text in reply", usage=Usage(7, 5))]

    class Shaky(ScriptedChatModel):
        async def complete(self, request, *, seed):
            if failed:
                raise failed.pop()
            return await super().complete(request, seed=seed)

    both = []
    for _ in range(2):
        chat = RetryingChatModel(Shaky(sensible), policy=RetryPolicy(base=0))
        both.append(guidelines(run(AgentTTSSampler(TASK, llm=chat), n_trials=8))[0])
    assert both[0].prompt_tokens == both[1].prompt_tokens + 7
    assert both[0].completion_tokens == both[1].completion_tokens + 5


def test_a_first_stage_with_one_model_leaves_the_plan_to_the_agent():
    """Optuna sets its model, as a parameter with one value; nothing is fixed by that."""
    first, second = TASK.stages
    large = [model for model in first.models if model.name == "qwen-72B"]
    task = Task(name="t", stages=[replace(first, models=large), second], budget=900)
    sampler = AgentTTSSampler(task, llm=ScriptedChatModel(sensible))
    study = run(
        sampler, n_trials=16, target=lambda trial: task.suggest(trial)["answer"].samples / 100
    )
    assert "agent" in [trial.user_attrs[ORIGIN] for trial in study.trials]


def test_tokens_that_the_cost_model_cannot_price_are_named():
    """Their cost is unknown, not zero."""
    study = run(AgentTTSSampler(TASK, llm=ScriptedChatModel(sensible)), n_trials=8)
    found = spend(study)
    assert found.unpriced == found.agent_tokens > 0
    assert f"{found.agent_tokens:,} tokens on planning, of unknown cost" in str(found)


def test_a_spend_without_trials_names_no_instances():
    """Nothing is known about what the objective reports."""
    study = optuna.create_study(sampler=AgentTTSSampler(TASK))
    assert str(spend(study, TASK)) == "Spent so far: 0 reference samples on trials."
    study.ask()
    assert "instance" not in str(spend(study, TASK))
    study.optimize(objective, n_trials=1)
    assert "over one instance per trial" in str(spend(study, TASK))


def test_limit_without_reported_spend_is_warned_about_once(caplog):
    """It then counts one instance per trial. Several callbacks do not repeat the warning."""
    study = optuna.create_study(sampler=AgentTTSSampler(TASK))
    study.optimize(objective, n_trials=3, callbacks=[StopAtSpend(1e9), StopAtSpend(2e9)])
    study.optimize(objective, n_trials=1, callbacks=[StopAtSpend(1e9)])
    (line,) = [r.getMessage() for r in caplog.records if "reports no spend" in r.getMessage()]
    assert "reference samples counts the cost of one instance per trial" in line


def test_limit_with_reported_spend_is_not_warned_about(caplog):
    """Nor does one trial that reports none, as it ran from the store."""

    def reporting(trial):
        trial.set_user_attr("spend", 5.0)
        return objective(trial)

    study = optuna.create_study(sampler=AgentTTSSampler(TASK))
    study.optimize(reporting, n_trials=9, callbacks=[StopAtSpend(20)])
    assert len(study.trials) == 4
    assert not [r for r in caplog.records if "reports no spend" in r.getMessage()]


def test_search_stops_at_a_limit_that_the_prompt_shows():
    """The limit covers trials and agent, and prompts show the remainder."""
    chat = ScriptedChatModel(sensible)
    chat.model = "org/planner-7B"
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK, llm=chat))
    study.optimize(objective, n_trials=60, callbacks=[StopAtSpend(20_000)])
    found = spend(study)
    assert len(study.trials) < 60
    assert found.agent > 0
    assert found.total >= 20_000 > found.total - TASK.budget
    assert "of 20,000 are left" in chat.requests[1].messages[1].content


def test_invalid_limits_are_rejected():
    """Limits must be positive numbers."""
    for limit in (0, -1, float("nan"), "10"):
        with pytest.raises(AgentTTSError, match="limit"):
            StopAtSpend(limit)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "I would rather not.",
        "{}",
        reply((("qwen-9000B", 1), (SMALL, 1))),
        reply((("qwen-72B", float("nan")), (SMALL, 1))),
        reply((("qwen-72B", 90), (LARGE, 90))),
        '{"candidates": [' * 3000,
        RuntimeError("boom"),
        ChatUnavailableError("down", kind="HTTP 503"),
    ],
    ids=str,
)
def test_useless_models_cost_no_trial(bad):
    """All trials complete within the budget, and the failures are recorded."""
    study = run(AgentTTSSampler(TASK, llm=quick(ScriptedChatModel(lambda _: bad))), n_trials=20)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 20
    assert all(TASK.fits(allocation_of(trial)) for trial in study.trials)
    planned = guidelines(study)
    if all(not p.candidates for p in planned):
        assert {"fallback"} >= set(origins(study)[ROUND_SIZE:])
        assert all(p.error and (p.problems or p.failures) for p in planned)


@pytest.mark.parametrize("answer", ['{"candidates": []}', reply()])
def test_no_candidate_is_an_answer(answer):
    """All trials after the opening are the planner's, without an error."""
    study = run(AgentTTSSampler(TASK, llm=quick(ScriptedChatModel(lambda _: answer))), n_trials=20)
    assert set(origins(study)[ROUND_SIZE:]) == {"numerical"}
    assert not any(p.error or p.problems or p.candidates for p in guidelines(study))


def test_script_that_ends_is_a_failure_like_any_other():
    """An unexpected exception in a model does not end the search."""
    study = run(AgentTTSSampler(TASK, llm=ScriptedChatModel([])), n_trials=14)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)
    assert guidelines(study)[0].failures == {"IndexError": 1}


def test_each_kind_of_failure_is_logged_once(caplog):
    """The log has one line with the failure and its count, not one per trial."""
    chat = quick(ScriptedChatModel(lambda _: ChatUnavailableError("no way", kind="HTTP 503")))
    with caplog.at_level(logging.WARNING):
        run(AgentTTSSampler(TASK, llm=chat), n_trials=50)
    lines = [record.getMessage() for record in caplog.records if "HTTP 503" in record.message]
    assert len(lines) == 1
    assert "HTTP 503, 2 so far" in lines[0]


def test_round_without_usable_reply_is_followed_by_single_requests():
    """A model without usable replies gets three requests once, and then one per round."""
    chat = ScriptedChatModel(lambda _: "no idea")
    study = run(AgentTTSSampler(TASK, llm=chat), n_trials=32)
    assert [planned.requests for planned in guidelines(study)] == [3, 1, 1, 1, 1]


def test_requests_are_bounded_for_any_replies():
    """Fifty trials take at most twelve requests, even if every reply needs a repair."""
    chat = ScriptedChatModel(
        lambda _: reply((("qwen-7B", 1 + len(chat.requests)), (LARGE, 20)), (("?", 1), (SMALL, 1)))
    )
    study = run(AgentTTSSampler(TASK, llm=chat), n_trials=50)
    assert len(chat.requests) == 12
    assert all(planned.candidates for planned in guidelines(study))


def test_worst_agent_is_overruled():
    """Proposals that contradict the evidence are not tried."""
    poor = [(("qwen-7B", 1), (SMALL, 1 + n)) for n in range(8)]
    study = run(AgentTTSSampler(TASK, llm=ScriptedChatModel(lambda _: reply(*poor))), n_trials=30)
    alone = run(AgentTTSSampler(TASK), n_trials=30)
    assert origins(study).count("agent") <= 2
    assert recommend(study).value >= recommend(alone).value - 0.02


def test_enqueued_trials_keep_what_the_user_chose():
    """Enqueued parameters take precedence over the agent's proposals."""
    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(TASK, llm=ScriptedChatModel(sensible))
    )
    for _ in range(14):
        study.enqueue_trial({"retrieval.model": "qwen-7B"})
    study.optimize(objective, n_trials=14)
    assert {trial.params["retrieval.model"] for trial in study.trials} == {"qwen-7B"}


def test_rounds_wait_for_enqueued_trials():
    """Their allocations are given, so that no candidate could be tried."""
    chat = ScriptedChatModel(sensible)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK, llm=chat))
    for number in range(12):
        study.enqueue_trial({"retrieval.model": "qwen-7B", "retrieval.samples": 1 + number})
    study.optimize(objective, n_trials=14)
    (planned,) = guidelines(study)
    assert planned.first == 12
    assert planned.trials > 6
    assert len(chat.requests) == 1


def test_trials_that_confirm_are_not_taken_for_running_ones():
    """What a limit leaves is counted from the end of the finished trials, whatever they are."""
    study = run(AgentTTSSampler(TASK), n_trials=4)
    for _ in range(6):
        trial = study.ask()
        objective(trial)
        study._storage.set_trial_system_attr(trial._trial_id, keys.CONFIRMATION, {"block": 1})
        study.tell(trial, 0.5)
    trials = study.trials
    limit = spend(study).total + 5.5 * spend(study).trials / 10
    evidence = Archive(TASK, maximize=True).read(trials)
    subject = task_subject(
        NumericalPlanner(TASK),
        evidence,
        trials,
        insights=(1, 2, 3),
        guidelines=True,
        limit=limit,
        start=10,
    )
    assert 3 <= subject.data().left <= 12


def test_no_round_is_requested_where_all_was_tried():
    """Nor are more candidates wanted than there are allocations."""
    stage = Stage(
        "answer",
        models=[Model("m-1B"), Model("m-2B")],
        prompt_tokens=9,
        generation_tokens=9,
        max_samples=2,
    )
    task = Task(name="tiny", stages=[stage], budget=1e6)
    items = [{"allocation": f"{name} x {n}"} for name in ("m-1B", "m-2B") for n in (1, 2)]
    chat = ScriptedChatModel(lambda request: json.dumps({"guidelines": [], "candidates": items}))
    study = run(
        AgentTTSSampler(task, llm=chat),
        n_trials=24,
        target=lambda trial: task.suggest(trial)["answer"].samples,
    )
    assert len(guidelines(study)) == len(chat.requests) == 1
    assert "Propose up to 4 candidates" in chat.requests[0].messages[1].content


def test_environment_names_the_model(monkeypatch):
    """`OPTUNA_AGENTTTS_LLM` is used where `llm` is not given; a dead server costs no trial."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("OPTUNA_AGENTTTS_LLM", f"http://127.0.0.1:{port}/v1#tiny")
    sampler = AgentTTSSampler(TASK, llm_timeout=0.5)
    study = run(sampler, n_trials=8)
    assert guidelines(study)[0].model == f"tiny at 127.0.0.1:{port}"
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)


def test_invalid_arguments_are_rejected():
    """Invalid arguments raise before any trial."""
    with pytest.raises(AgentTTSError, match="llm"):
        AgentTTSSampler(llm=3)
    with pytest.raises(AgentTTSError, match="llm_timeout"):
        AgentTTSSampler(llm_timeout=0)
    for tables in ("models", ("model",), [1], ("saturation",), ("paired",)):
        with pytest.raises(TaskError, match=r"`tables` must be .*'noise', .*'gains', 'next'"):
            AgentTTSSampler(tables=tables)
    with pytest.raises(AgentTTSError, match="experience"):
        AgentTTSSampler(experience=[optuna.create_study(directions=["minimize", "maximize"])])


def test_copies_of_a_used_sampler_continue():
    """Pickled and deep-copied samplers continue the same study."""
    chat = quick(ScriptedChatModel([sensible(None) for _ in range(9)]))
    sampler = AgentTTSSampler(TASK, llm=chat)
    study = run(sampler, n_trials=8)
    for other in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        study.sampler = other
        study.optimize(objective, n_trials=6)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)
    assert len(guidelines(study)) == 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_ablated_insight_is_not_in_any_prompt(number):
    """An ablated insight does not appear in prompts."""
    chat = ScriptedChatModel(sensible)
    rest = tuple({1, 2, 3} - {number})
    run(AgentTTSSampler(TASK, llm=chat, insights=rest), n_trials=20)
    prompts = "\n".join(m.content for request in chat.requests for m in request.messages)
    assert f"Insight {number}" not in prompts
    assert all(f"Insight {other}" in prompts for other in rest)


@pytest.mark.parametrize("tables", [(), ("noise", "effects"), ["next", "gains", "models"]])
def test_prompts_contain_only_the_selected_tables(tables):
    """Prompts contain only the selected tables of computed evidence."""
    chat = ScriptedChatModel(sensible)

    def target(trial):
        value = objective(trial)
        for step in range(6):
            trial.report(value, step)
        return value

    run(AgentTTSSampler(TASK, llm=chat, tables=tables), n_trials=14, target=target)
    assert len(chat.requests) > 1
    # The first round has no scores to compute tables from.
    for request in chat.requests[1:]:
        text = request.messages[1].content
        shown = [name for name in TABLES if f"<{name}>" in text]
        assert sorted(shown) == sorted(tables)
        assert ("| fit |" in text) == ("models" in tables)


def test_without_guidelines_none_are_requested_or_shown():
    """Without guidelines (LLM_ZS), candidates come from the history alone."""
    chat = ScriptedChatModel(sensible)
    run(AgentTTSSampler(TASK, llm=chat, guidelines=False), n_trials=20)
    assert all("uidelines" not in request.messages[1].content for request in chat.requests)
    assert all("laims" not in request.messages[1].content for request in chat.requests)
    assert all(set(json.loads(r.schema)["properties"]) == {"candidates"} for r in chat.requests)


def test_experience_is_in_the_prompt_and_used():
    """Earlier studies reach the prompt, and the first trial is the best of them."""
    earlier = run(AgentTTSSampler(TASK), n_trials=20)
    chat = ScriptedChatModel(sensible)
    study = run(AgentTTSSampler(TASK, llm=chat, experience=[earlier]), n_trials=8)
    assert "<experience>" in chat.requests[0].messages[1].content
    assert study.trials[0].value >= sorted(trial.value for trial in earlier.trials)[-4]


def test_agent_works_beside_a_bracket_pruner():
    """Hyperband passes samplers a study object with few of the usual methods."""

    def target(trial):
        value = objective(trial)
        for step in range(4):
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study = optuna.create_study(
        direction="maximize",
        sampler=AgentTTSSampler(TASK, llm=ScriptedChatModel(sensible)),
        pruner=optuna.pruners.HyperbandPruner(max_resource=4),
    )
    study.optimize(target, n_trials=20)
    assert all(trial.state.is_finished() for trial in study.trials)
    assert guidelines(study)


def test_unreadable_rounds_are_ignored():
    """Unreadable rounds in the storage do not fail a trial."""
    storage = optuna.storages.InMemoryStorage()
    study = run(AgentTTSSampler(TASK), n_trials=6, storage=storage)
    odd = {"params": {"retrieval.model": "qwen-7B", "retrieval.samples": "many"}, "reason": 3}
    for number, values in ((1, {"number": 1, "candidates": [odd] * 6}), (2, {"colour": "red"})):
        keys.write_study_value(storage, study._study_id, f"{keys.ROUND}{number}", values)
    study.sampler = AgentTTSSampler(TASK, llm=ScriptedChatModel(sensible))
    study.optimize(objective, n_trials=12)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 18


# Studies without stages.


def general(trial):
    """Suggest floats, logs, steps, categoricals and a conditional parameter."""
    kind = trial.suggest_categorical("kind", ["a", None, 2, True])
    x = trial.suggest_float("x", -5, 5)
    rate = trial.suggest_float("rate", 1e-5, 1e-1, log=True)
    n = trial.suggest_int("n", 2, 20, step=3)
    extra = trial.suggest_float("extra", 0, 1, step=0.25) if kind == "a" else 0.0
    return (x - 1) ** 2 + abs(n - 8) / 10 + extra + rate


def general_reply(request):
    """Propose good values of everything."""
    n = general_reply.counter
    general_reply.counter += 1
    candidates = [
        {
            "params": {"kind": None, "x": 1.0 + 0.001 * (8 * n + i), "rate": 0.001, "n": 8},
            "reason": "near the best",
        }
        for i in range(4)
    ]
    return json.dumps({"guidelines": ["x near 1"], "candidates": candidates})


general_reply.counter = 0


def test_agent_searches_any_space():
    """In studies without stages, the agent proposes values of any parameters."""
    chat = ScriptedChatModel(general_reply)
    sampler = AgentTTSSampler(llm=chat, seed=0, description="a bowl")
    study = optuna.create_study(sampler=sampler)
    study.optimize(general, n_trials=30)
    tried = [trial for trial in study.trials if trial.user_attrs.get(ORIGIN) == "agent"]
    assert len(tried) >= 8
    assert all(abs(trial.params["x"] - 1) < 0.2 for trial in tried)
    assert all(trial.params["n"] == 8 and trial.params["kind"] is None for trial in tried)
    assert "a bowl" in chat.requests[0].messages[1].content
    assert guidelines(study)[0].guidelines == ("x near 1",)


def test_bad_agent_keeps_one_trial_a_round_in_any_space():
    """Without a posterior, results limit the trials of a bad agent."""

    def worst(request):
        n = worst.counter = getattr(worst, "counter", 0) + 1
        values = [{"kind": "a", "x": -5.0, "rate": 0.1, "n": 20, "extra": 1.0}] * 4
        for i, params in enumerate(values):
            values[i] = {**params, "x": -5 + 0.001 * (4 * n + i)}
        return json.dumps({"candidates": [{"params": v, "reason": "bad"} for v in values]})

    study = optuna.create_study(sampler=AgentTTSSampler(llm=ScriptedChatModel(worst), seed=0))
    study.optimize(general, n_trials=60)
    late = [t for t in study.trials[24:] if t.user_attrs.get(ORIGIN) == "agent"]
    assert len(late) == 6


def test_several_objectives_are_left_to_the_independent_sampler():
    """Multi-objective studies cause no requests."""
    chat = ScriptedChatModel([])
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=AgentTTSSampler(llm=chat, seed=0)
    )
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), t.suggest_float("y", 0, 1)), n_trials=15)
    assert chat.requests == []


# Workers.


def test_threads_share_one_plan():
    """With n_jobs=4, no round is requested twice and no allocation is tried twice."""
    chat = ScriptedChatModel(sensible)
    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(TASK, llm=chat, llm_timeout=20)
    )

    def slow(trial):
        value = objective(trial)
        time.sleep(0.03)
        return value

    # The 40th would begin the seventh round's planning, and not wait for its end.
    study.optimize(slow, n_trials=39, n_jobs=4)
    numbers = [planned.number for planned in guidelines(study)]
    assert len(numbers) == len(set(numbers)) == len(chat.requests)
    assert len({json.dumps(trial.params) for trial in study.trials}) >= 39
    assert origins(study).count("agent") >= 4


class Gated(ScriptedChatModel):
    """Model that replies once its gate is open."""

    def __init__(self, script):
        super().__init__(script)
        self.gate = threading.Event()

    async def complete(self, request, *, seed):
        reply = await super().complete(request, seed=seed)
        while not self.gate.is_set():
            await asyncio.sleep(0.005)
        return reply


def test_round_being_planned_is_not_requested_again(monkeypatch):
    """No worker requests a round that is being planned, until its claim has expired."""
    monkeypatch.setattr(scheduler, "MIN_WAIT", 0.1)
    storage = optuna.storages.InMemoryStorage()
    first, second = Gated(sensible), Gated(sensible)
    study = optuna.create_study(
        study_name="s",
        storage=storage,
        direction="maximize",
        sampler=AgentTTSSampler(TASK, llm=first),
    )
    other = optuna.load_study(
        study_name="s", storage=storage, sampler=AgentTTSSampler(TASK, llm=second, llm_timeout=60)
    )
    for worker in (study, other, study):
        # The first trial's worker plans; the next ones do not wait for long.
        trial = worker.ask()
        worker.tell(trial, objective(trial))
    deadline = time.monotonic() + 10
    while not first.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (len(first.requests), len(second.requests)) == (1, 0)
    first.gate.set()
    second.gate.set()
    trial = other.ask()
    TASK.suggest(trial)
    assert guidelines(other)[0].candidates
    assert (len(first.requests), len(second.requests)) == (1, 0)


def run_worker(kind, path, n_trials, delay, started=None, timeout=3.0):
    """Run some trials of a shared study with an agent; entry point of other processes."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storage = optuna.storages.RDBStorage(path) if kind == "rdb" else open_storage(kind, path)

    def script(request):
        if started is not None:
            started.set()
        return sensible(request)

    chat = ScriptedChatModel(script, delay=delay)
    if started is not None:
        # Signal before the delay: the caller kills this process while it plans.
        chat = ScriptedChatModel(script, delay=0)
        chat.complete = _signalling(started, delay)
    sampler = AgentTTSSampler(TASK, llm=chat, llm_timeout=timeout)
    study = optuna.load_study(study_name="s", storage=storage, sampler=sampler)

    def target(trial):
        value = objective(trial)
        time.sleep(0.02)
        return value

    study.optimize(target, n_trials=n_trials)


def _signalling(started, delay):
    async def complete(request, *, seed):
        started.set()
        await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    return complete


def _four_processes(kind, path, storage):
    optuna.create_study(study_name="s", storage=storage, direction="maximize")
    spawn = multiprocessing.get_context("spawn")
    # No worker is so slow that others plan its round again.
    arguments = (kind, path, 8, 0.05, None, 60.0)
    workers = [spawn.Process(target=run_worker, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0] * 4
    study = optuna.load_study(study_name="s", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 32
    assert all(TASK.fits(allocation_of(trial)) for trial in study.trials)
    planned = guidelines(study)
    # A process that runs out of trials takes a plan that it is waiting for with it.
    assert len(planned) >= 3
    assert origins(study).count("agent") >= 2
    repeats = 32 - len({json.dumps(trial.params) for trial in study.trials})
    assert repeats <= 2
    storage.engine.dispose()


@pytest.mark.slow
def test_processes_share_one_plan_on_one_sqlite_file(tmp_path):
    """Four processes on one SQLite file plan each round once."""
    _four_processes("sqlite", tmp_path / "s.db", open_storage("sqlite", tmp_path / "s.db"))


@pytest.mark.slow
def test_processes_share_one_plan_on_postgresql():
    """Four processes on one PostgreSQL server plan each round once."""
    with postgresql() as url:
        _four_processes("rdb", url, optuna.storages.RDBStorage(url))


@pytest.mark.slow
def test_killed_planner_is_replaced(tmp_path):
    """After `kill -9` of the planning worker, others finish and plan its round or the next."""
    path = tmp_path / "s.db"
    storage = open_storage("sqlite", path)
    optuna.create_study(study_name="s", storage=storage, direction="maximize")
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    victim = spawn.Process(target=run_worker, args=("sqlite", path, 40, 60.0, started))
    victim.start()
    assert started.wait(300)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    heir = spawn.Process(target=run_worker, args=("sqlite", path, 16, 0.0))
    heir.start()
    heir.join(300)
    assert heir.exitcode == 0
    study = optuna.load_study(study_name="s", storage=storage)
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(done) >= 16
    assert any(planned.candidates for planned in guidelines(study))


def test_slow_model_does_not_hold_up_later_rounds(monkeypatch):
    """After the first round, an unanswered request delays no trial for long."""
    gate = threading.Event()
    first = sensible(None)

    class Stuck(ScriptedChatModel):
        async def complete(self, request, *, seed):
            self.requests.append(request)
            if len(self.requests) == 1:
                self.requests.pop()
                return await super().complete(request, seed=seed)
            # No longer as long as a busy machine needs for the first round.
            monkeypatch.setattr(scheduler, "MIN_WAIT", 0.1)
            while not gate.is_set():
                await asyncio.sleep(0.01)
            raise ChatUnavailableError("late", kind="late", permanent=True)

    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(TASK, llm=Stuck([first]), llm_timeout=600)
    )
    study.optimize(objective, n_trials=30)
    gate.set()
    study.sampler._scheduler.wait(study)
    assert len(study.trials) == 30
    assert "agent" in origins(study)[ROUND_SIZE : 2 * ROUND_SIZE]
    assert set(origins(study)[2 * ROUND_SIZE :]) == {"fallback"}
