"""`max_spend` is a hard limit, and spend counts every token of every call."""

import asyncio
import logging
import random
import threading
import time

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from pipeline_support import Replies, Slow, objective_of, side_by_side

from optuna_agenttts import FlopsCost, LatencyCost, Model, PriceCost, Stage, Task, spend
from optuna_agenttts.llm import (
    ChatRefusedError,
    ChatUnavailableError,
    CircuitBreaker,
    Completion,
    RetryingChatModel,
    RetryPolicy,
    Usage,
)
from optuna_agenttts.study.spending import price_of, stated_spend
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts.task.cost import TableCost
from optuna_agenttts_integrations import (
    BatchingChatModel,
    CompletionStore,
    LLMFusion,
    LoopbackServer,
    MultiStageObjective,
    Pipeline,
    PipelineError,
    ReplicatedChatModel,
    SpendLimitError,
    StageProgram,
    connect_endpoints,
)
from optuna_agenttts_integrations.calls import completions as completions_module
from optuna_agenttts_integrations.testing.faults import Faults

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """Retry at once, and at most three times."""
    policy = RetryPolicy(attempts=3, base=0, longest=0)
    monkeypatch.setattr(completions_module.Completions.__init__, "__kwdefaults__", {
        **completions_module.Completions.__init__.__kwdefaults__, "policy": policy,
    })  # fmt: skip


class Paid:
    """Chat model that adds up what its calls cost, and the most that it had to be paid at once.

    A token of a prompt costs 1 and one of a reply 2, as in `objective_of`.
    """

    def __init__(self, fail=0.0, seconds=0.0, longest=8, seed=0):
        self.fail, self.seconds, self.longest = fail, seconds, longest
        self.rng, self.spent, self.calls, self.started = random.Random(seed), 0, 0, 0

    async def complete(self, request, *, seed):
        self.started += 1
        await asyncio.sleep(self.seconds * self.rng.random())
        self.calls += 1
        prompt = sum(len(message.content) for message in request.messages)
        reply = self.rng.randint(1, min(self.longest, request.max_tokens))
        usage = Usage(prompt, reply)
        self.spent += prompt + 2 * reply
        if self.rng.random() < self.fail:
            raise ChatUnavailableError("no text", kind="no text in reply", usage=usage)
        return Completion(self.rng.choice("abcdefgh"), usage)


def pipeline(*, stages=1, max_tokens=16, **options):
    return Pipeline(
        stages=[
            StageProgram(
                name=f"stage{number}",
                prompt=lambda state: f"question {state.instance} {list(state.results.values())}",
                max_tokens=max_tokens,
                **options,
            )
            for number in range(stages)
        ],
        score=lambda state: float(state["stage0"] == "a"),
    )


def search(objective, trials=5, study=None, jobs=1, **options):
    study = study or optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1), **options)
    study.optimize(objective, n_trials=trials, n_jobs=jobs)
    return study


def spent(study):
    return sum(stated_spend(trial) or 0 for trial in study.trials)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.floats(200, 5000),
    st.integers(1, 30),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_limit_is_never_exceeded(limit, instances, stages, fail, jobs, fused):
    """With failing calls, fusion, and trials side by side; the trials record what was paid."""
    paid = Paid(fail)
    objective = objective_of(
        pipeline(stages=stages, **({"aggregate": LLMFusion()} if fused else {})),
        {"small": paid},
        range(instances),
        max_spend=limit,
        max_failed=1.0,
        measure_after=None,
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    with objective:
        study.optimize(objective, n_trials=4, n_jobs=jobs, catch=(SpendLimitError,))
    assert paid.spent <= limit
    assert spent(study) == pytest.approx(paid.spent)


class PerCall:
    """Cost model of one's own, without lengths; each sample costs more than the one before."""

    unit = "points"

    def stage_cost(self, stage, model, samples):
        return np.asarray(samples, dtype=float) ** 2


@pytest.mark.parametrize(
    ("cost", "limit"),
    [
        (FlopsCost(), 3),
        (FlopsCost(prefix_sharing=False, fusion=True), 3),
        (LatencyCost(concurrency=4), 60),
        (LatencyCost(concurrency=4, prefix_sharing=False), 60),
        (TableCost(table={"stage0": {"small": tuple(range(1, 11))}}, unit_name="points"), 60),
        (PerCall(), 500),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("fail", [0.0, 0.4])
def test_limit_holds_for_every_cost_model(cost, limit, fail):
    """Also where repeated calls are more than a table lists, and where calls share a prompt."""
    model = Model(
        "small",
        parameters=1e9,
        prompt_tokens_per_second=100,
        generation_tokens_per_second=10,
    )
    task = Task(
        name="any",
        stages=[
            Stage("stage0", models=[model], prompt_tokens=10, generation_tokens=5, max_samples=10)
        ],
        cost=cost,
        budget=1e6,
    )
    objective = MultiStageObjective(
        pipeline(),
        list(range(30)),
        task=task,
        endpoints=connect_endpoints(task, Paid(fail)),
        max_spend=limit,
        max_failed=1.0,
        measure_after=None,
    )
    study = search(objective, trials=20)
    assert study.trials[-1].state == TrialState.PRUNED
    assert limit / 2 < spent(study) <= limit
    assert cost.unit in str(spend(study))


class Cached(Paid):
    """Bills a prompt's tokens at a tenth of the price, after the first call with it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = set()

    async def complete(self, request, *, seed):
        completion = await super().complete(request, seed=seed)
        usage = completion.usage
        cached = usage.prompt_tokens - 2 if request in self.seen else 0
        self.seen.add(request)
        self.spent -= 0.9 * cached
        usage = Usage(usage.prompt_tokens, usage.completion_tokens, cached_tokens=cached)
        return Completion(completion.text, usage)


@pytest.mark.parametrize("limit", [None, 3000.0])
def test_cached_tokens_are_spent_at_their_price(limit):
    """The recorded spend is what servers bill, and the limit holds for it."""
    model = Model("m", input_price=1e6, output_price=2e6, cached_price=1e5)
    stage = Stage("stage0", models=[model], prompt_tokens=20, generation_tokens=10)
    task = Task(name="any", stages=[stage], cost=PriceCost(), budget=1e9)
    paid = Cached()
    endpoints = connect_endpoints(task, paid)
    objective = MultiStageObjective(
        pipeline(), list(range(8)), task=task, endpoints=endpoints, max_spend=limit
    )
    study = search(objective, trials=6)
    assert paid.seen
    assert spent(study) == pytest.approx(paid.spent)
    assert limit is None or limit / 2 < paid.spent <= limit
    agent = price_of(task, "m", 100, 10, 80)
    assert agent == pytest.approx(20 + 80 * 0.1 + 10 * 2)


def test_limit_stops_the_study_and_keeps_the_trial(caplog):
    """The last trial is pruned with what it measured, and one line gives the reason and unit."""
    paid = Paid(seconds=0.001)
    objective = objective_of(
        pipeline(), {"small": paid}, range(40), max_spend=5000, measure_after=None
    )
    with caplog.at_level(logging.WARNING):
        study = search(objective, trials=50)
    *others, last = study.trials
    assert {trial.state for trial in others} <= {TrialState.COMPLETE}
    assert last.state == TrialState.PRUNED
    assert 0 < len(last.intermediate_values) < 40
    # No more is left than one call may cost.
    assert 5000 - 30 - 32 - 2 * 16 < paid.spent <= 5000
    (line,) = [r.getMessage() for r in caplog.records if "max_spend" in r.getMessage()]
    assert "5000 USD" in line
    assert "over the whole search" in line


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("length", [4, 30])
def test_a_limit_finishes_the_instances_that_it_covers(stages, share, length):
    """Not all are begun at once, also if votes run in rounds and lengths are declared too low."""
    options = {"prompt_tokens": length, "measure_after": None}
    allocation = {f"stage{number}": ("small", 9) for number in range(stages)}

    def evaluate(**limits):
        paid = Paid(seconds=0.001)
        with objective_of(pipeline(stages=stages), {"small": paid}, range(40), **options) as whole:
            return whole.evaluate(allocation, **limits)

    limit = share * evaluate().spend
    some = evaluate(max_spend=limit, partial=True)
    spends = [result.total("spend") for result in some.results.values()]
    # What is left is less than two instances take.
    assert sum(spends) >= limit - 2 * max(spends)
    with objective_of(pipeline(stages=stages), {"small": Paid()}, **options) as objective:
        found = objective.predict(list(range(40)), allocation, max_spend=limit)
    spends = [prediction.spend for prediction in found if prediction.error is None]
    assert sum(spends) >= limit - 3 * max(spends)


def test_each_search_says_why_it_stops(caplog):
    """Also the second one with the same objective; concurrent trials say it once."""
    limit = {"max_spend": 5000, "measure_after": None}
    objective = objective_of(pipeline(), {"small": Paid()}, range(40), **limit)
    study = search(objective, trials=50)
    for _ in range(2):
        caplog.clear()
        study.optimize(objective, n_trials=8, n_jobs=4)
        (line,) = [r.getMessage() for r in caplog.records if "max_spend" in r.getMessage()]
        assert line.startswith(f"Study {study.study_name!r} stops")


def test_a_resumed_study_has_the_rest_of_the_limit():
    """A new objective counts what the trials have recorded."""
    storage = optuna.storages.InMemoryStorage()
    total = 0
    for limit, rounds in ((2000, 3), (4000, 2)):
        for _ in range(rounds):
            paid = Paid(seed=limit)
            objective = objective_of(
                pipeline(), {"small": paid}, range(30), max_spend=limit, measure_after=None
            )
            study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
            search(objective, trials=10, study=study)
            total += paid.spent
        assert limit - 100 < total <= limit
        assert spent(study) == pytest.approx(total)


def test_two_studies_have_a_limit_each():
    """An objective may serve several searches."""
    objective = objective_of(
        pipeline(), {"small": Paid()}, range(30), max_spend=1000, measure_after=None
    )
    for _ in range(2):
        objective.store = CompletionStore()
        objective.close()
        assert 900 < spent(search(objective)) <= 1000


@pytest.mark.parametrize("limit", [1e-9, 40])
def test_too_low_a_limit_is_an_error_before_anything_is_spent(limit, caplog):
    """The error names the limit, the most that a call costs, and the unit."""
    paid = Paid()
    objective = objective_of(pipeline(), {"small": paid}, range(3), max_spend=limit)
    with (
        caplog.at_level("WARNING", "optuna"),
        pytest.raises(
            SpendLimitError, match=r"may cost up to .* USD.*Raise `max_spend`"
        ) as raised,
    ):
        search(objective)
    assert paid.calls == 0
    # Its traceback is printed once, by Python, and ends where the limit is checked.
    assert caplog.records
    assert not any(record.exc_info for record in caplog.records)
    assert raised.traceback[-1].path.name == "limit.py"


def test_instances_of_stored_samples_are_kept_under_a_limit_that_covers_no_call():
    """The trial is pruned with their outcomes, instead of failing as if it had none."""
    store, allocation = CompletionStore(), {"stage0": ("small", 1)}
    objective_of(pipeline(), {"small": Paid()}, range(3), store=store).evaluate(allocation)
    objective = objective_of(pipeline(), {"small": Paid()}, range(6), store=store, max_spend=1e-9)
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(objective.task.params(allocation))
    (trial,) = search(objective, trials=1, study=study).trials
    assert trial.state == TrialState.PRUNED
    assert len(outcomes_of(trial)) == 3


@pytest.mark.parametrize("limit", [0, -1, float("nan"), "10"])
def test_invalid_limits_are_refused(limit):
    """Of the objective, and of an evaluation."""
    with pytest.raises(PipelineError, match="max_spend"):
        objective_of(pipeline(), {"small": Paid()}, max_spend=limit)
    with pytest.raises(PipelineError, match="max_spend"):
        objective_of(pipeline(), {"small": Paid()}).evaluate(
            {"stage0": ("small", 1)}, max_spend=limit
        )


def test_stored_samples_are_free():
    """A search whose limit is spent goes on as long as it repeats requests."""
    store = CompletionStore()
    options = {"instances": range(20), "measure_after": None, "store": store}
    first = objective_of(pipeline(), {"small": Paid()}, **options)
    first.evaluate({"stage0": ("small", 100)})
    again = objective_of(pipeline(), {"small": Paid()}, max_spend=1e-9, **options)
    study = search(again)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert spent(study) == 0


def test_evaluations_have_the_limit_of_the_objective_or_their_own():
    """Apart from searches; infinity lifts it."""
    allocation = {"stage0": ("small", 50)}
    paid = Paid()
    objective = objective_of(
        pipeline(), {"small": paid}, range(20), max_spend=2000, measure_after=None
    )
    with pytest.raises(SpendLimitError, match="2000 USD"):
        objective.evaluate(allocation)
    assert 1900 < paid.spent <= 2000
    with pytest.raises(SpendLimitError, match="1000 USD"):
        objective.evaluate(allocation, max_spend=1000)
    assert paid.spent <= 3000
    assert objective.evaluate(allocation, max_spend=float("inf")).spend > 0


def test_calls_in_process_are_limited_too():
    """All samples of a request are one call."""
    made = []

    def generate(requests):
        made.extend(requests)
        return [Completion("a", Usage(10, 2)) for _ in requests]

    objective = objective_of(
        pipeline(),
        {"small": BatchingChatModel(generate)},
        range(30),
        max_spend=10_000,
        measure_after=None,
    )
    study = search(objective, trials=50)
    assert study.trials[-1].state == TrialState.PRUNED
    assert 14 * len(made) == spent(study) <= 10_000


def test_replies_beyond_max_tokens_are_reserved_once_they_are_known():
    """Thoughts may not count towards `max_tokens`."""
    long = Replies(lambda request, number: "word " * 100)
    objective = objective_of(
        pipeline(), {"small": long}, range(30), max_spend=3000, measure_after=None, concurrency=1
    )
    study = optuna.create_study()
    study.enqueue_trial({"stage0.model": "small", "stage0.samples": 1})
    search(objective, study=study)
    # The bytes of the last call's prompt are more than its three tokens.
    assert len(long.requests) == (3000 - 60) // (3 + 2 * 100)
    assert spent(study) <= 3000


def test_a_fixed_trial_is_limited_as_well():
    """It has no study to stop."""
    objective = objective_of(
        pipeline(), {"small": Paid()}, range(30), max_spend=500, measure_after=None
    )
    trial = optuna.trial.FixedTrial({"stage0.model": "small", "stage0.samples": 30})
    with pytest.raises(optuna.TrialPruned):
        objective(trial)
    assert stated_spend(trial) <= 500


def test_ask_and_tell_is_limited():
    """The study cannot be stopped there, but no further call is made."""
    paid = Paid()
    objective = objective_of(
        pipeline(), {"small": paid}, range(30), max_spend=500, measure_after=None
    )
    study = optuna.create_study()
    for _ in range(3):
        trial = study.ask()
        try:
            study.tell(trial, objective(trial))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
    assert paid.spent == spent(study) <= 500


def test_workers_of_one_process_share_the_limit():
    """Threads with one study and one objective."""
    paid = Paid(seconds=0.002)
    objective = objective_of(
        pipeline(), {"small": paid}, range(20), max_spend=6000, measure_after=None
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    side_by_side(
        [
            threading.Thread(target=study.optimize, args=(objective,), kwargs={"n_trials": 9})
            for _ in range(3)
        ]
    )
    assert 5900 < paid.spent <= 6000
    assert spent(study) == pytest.approx(paid.spent)


# What is counted.


def test_failed_and_repeated_calls_count():
    """A server that counts tokens of replies without a text is paid for each of them."""
    paid = Paid(fail=0.5)
    objective = objective_of(pipeline(), {"small": paid}, range(30), max_failed=1.0)
    evaluation = objective.evaluate({"stage0": ("small", 5)})
    assert paid.calls > 150
    assert evaluation.spend == paid.spent
    assert evaluation.prompt_tokens + 2 * evaluation.generated_tokens == paid.spent


def test_a_lost_reply_counts_its_prompt_and_what_it_may_have_generated():
    """Known tokens are those of the prompt, at four characters each."""

    def answer(request, number):
        return ChatUnavailableError("late", kind="timeout", lost=True) if number < 1 else "yes"

    objective = objective_of(pipeline(max_tokens=50), {"small": Replies(answer)})
    evaluation = objective.evaluate({"stage0": ("small", 1)})
    assert evaluation.spend == (len("question q []") // 4 + 2 * 50) + (3 + 2 * 1)
    assert evaluation.generated_tokens == 1


def test_refused_calls_cost_nothing():
    """Neither do those that never reached a server."""
    errors = [ChatRefusedError("no"), ChatUnavailableError("down", kind="ConnectError")]
    for error in errors:
        refusing = Replies(lambda request, number, error=error: error)
        objective = objective_of(pipeline(), {"small": refusing}, max_failed=1.0)
        assert objective.evaluate({"stage0": ("small", 3)}).spend == 0


def test_replicas_and_wrapped_models_count_what_they_repeat():
    """Failed calls that are repeated elsewhere, or inside of a model, are paid for."""
    bad, good = Paid(fail=1.0), Paid()
    replicas = ReplicatedChatModel([bad, good], clock=lambda: 0.0)
    objective = objective_of(pipeline(), {"small": replicas}, range(5))
    assert objective.evaluate({"stage0": ("small", 3)}).spend == bad.spent + good.spent
    assert bad.spent > 0
    shaky = Paid(fail=0.5)
    policy = RetryPolicy(attempts=20, base=0, longest=0)
    objective = objective_of(
        pipeline(), {"small": RetryingChatModel(shaky, policy=policy)}, range(10)
    )
    assert objective.evaluate({"stage0": ("small", 3)}).spend == shaky.spent
    assert shaky.calls > 30


@pytest.mark.parametrize("limit", [300, 1000, 3000])
def test_calls_that_are_repeated_inside_of_a_model_are_limited(limit):
    """A model that repeats its calls itself reserves each of them."""
    policy = RetryPolicy(attempts=50, base=0, longest=0)
    for wrapped in (
        lambda paid: RetryingChatModel(paid, policy=policy, breaker=CircuitBreaker(threshold=99)),
        lambda paid: ReplicatedChatModel([paid] * 50, clock=lambda: 0.0),
    ):
        paid = Paid(fail=0.9)
        objective = objective_of(
            pipeline(),
            {"small": wrapped(paid)},
            range(10),
            max_spend=limit,
            max_failed=1.0,
            measure_after=None,
        )
        study = search(objective)
        assert study.trials[-1].state == TrialState.PRUNED
        assert 0 < paid.spent == spent(study) <= limit


def test_a_trial_that_fails_records_what_it_spent():
    """A bug in the score does not make its calls free."""
    paid = Paid()
    broken = Pipeline(stages=pipeline().stages, score=lambda state: 1 / 0)
    objective = objective_of(broken, {"small": paid}, range(5))
    study = optuna.create_study()
    study.optimize(objective, n_trials=1, catch=(ZeroDivisionError,))
    assert study.trials[0].state == TrialState.FAIL
    # Calls in progress count as lost.
    assert stated_spend(study.trials[0]) >= paid.spent > 0


def test_a_cancelled_call_counts_like_a_lost_one():
    """Others fail while it is in progress."""

    def parse(text, state):
        raise RuntimeError("bug")

    class Mixed(Slow):
        async def complete(self, request, *, seed):
            if " 0 " in request.messages[0].content:
                return Completion("yes", Usage(10, 1))
            return await super().complete(request, seed=seed)

    objective = objective_of(
        pipeline(parse=parse), {"small": Mixed(lambda request, number: "yes", seconds=60)}, [0, 1]
    )
    study = optuna.create_study()
    study.enqueue_trial({"stage0.model": "small", "stage0.samples": 1})
    study.optimize(objective, n_trials=1, catch=(RuntimeError,))
    assert stated_spend(study.trials[0]) == (10 + 2) + (len("question 1 []") // 4 + 2 * 16)


@pytest.mark.parametrize("kinds", [("cut",), ("500", "503", "429 with Retry-After"), ("slow",)])
def test_limit_holds_at_a_server_with_faults(kinds):
    """The server has generated no more than the limit allows, and the trials record as much."""
    paid = Paid()
    faults = Faults(rate=0.3, kinds=kinds)
    with LoopbackServer({"small": paid}, faults=faults) as server:
        places = connect_endpoints(["small"], server.url)
        with objective_of(
            pipeline(), places, range(20), max_spend=4000, measure_after=None, max_failed=1.0
        ) as objective:
            study = search(objective, trials=20)
    assert study.trials[-1].state == TrialState.PRUNED
    assert 0 < paid.spent <= spent(study) <= 4000


def test_limit_holds_at_a_server_that_replies_too_late():
    """It has generated what the client no longer waits for."""
    paid = Paid(seconds=0.3)
    with LoopbackServer({"small": paid}) as server:
        places = connect_endpoints(["small"], server.url, timeout=0.1)
        with objective_of(
            pipeline(), places, range(20), max_spend=2000, measure_after=None, max_failed=1.0
        ) as objective:
            study = search(objective, trials=20)
        # A server that stops generates no more: on a busy machine it may have generated nothing.
        deadline = time.monotonic() + 30
        while (not paid.calls or paid.calls < paid.started) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert study.trials[-1].state == TrialState.PRUNED
    assert 0 < paid.spent <= spent(study) <= 2000
