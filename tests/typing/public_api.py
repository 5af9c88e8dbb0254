"""Programs that use the public API as its documentation shows; mypy checks them, nothing runs."""

from collections.abc import Iterator
from typing import Any

import optuna
from typing_extensions import assert_type

from optuna_agenttts import (
    AgentTTSSampler,
    Allocation,
    Claim,
    Confirmation,
    CostModel,
    FlopsCost,
    Frontier,
    FrontierPoint,
    HuggingFaceChat,
    LatencyCost,
    Model,
    PriceCost,
    Recommendation,
    Round,
    ScriptedChatModel,
    SearchResult,
    Spend,
    Stage,
    StageAllocation,
    Standing,
    StopAtSpend,
    StopWhenSettled,
    Summary,
    Task,
    Thinking,
    Tie,
    Undecided,
    Verdict,
    __version__,
    confirm,
    efforts,
    frontier,
    guidelines,
    load_allocation,
    recommend,
    search,
    spend,
    summarize,
)
from optuna_agenttts.llm import ChatModel, ChatRequest, Completion, Usage
from optuna_agenttts_integrations import (
    CompletionStore,
    Evaluation,
    InstanceInspection,
    LLMFusion,
    LoopbackServer,
    MultiStageObjective,
    Pipeline,
    Prediction,
    Predictions,
    Predictor,
    StageProgram,
    State,
    Step,
    TrialInspection,
    connect_endpoints,
    majority_vote,
    union,
)
from optuna_agenttts_integrations.tasks import Benchmark, two_wiki

assert_type(__version__, str)

# A task is a value, and reads as one.
model = Model("small", parameters=3e9)
stage = Stage("answer", models=[model], prompt_tokens=256, generation_tokens=64)
task = Task(name="qa", stages=[stage], budget=900, cost=FlopsCost())
assert_type(task.cost({"answer": ("small", 3)}), float)
assert_type(task.fits({"answer": ("small", 3)}), bool)
assert_type(task.count_allocations(), int | float)
assert_type(task.allocations(), Iterator[Allocation])
assert_type(task.complete({}), Allocation)
assert_type(task.params(task.complete({})), dict[str, Any])
assert_type(task.complete({})["answer"], StageAllocation)
assert_type(Task.from_dict(task.to_dict()), Task)

# Efforts are words or numbers of tokens.
levels = efforts(model, tokens={"low": 400}, off={"enable_thinking": False}, low=None)
assert_type(levels, list[Model])
assert_type(levels[0].thinking, Thinking | None)
Stage("check", models=levels, prompt_tokens=256, generation_tokens=64)
Stage("check", models=[model], prompt_tokens=9, generation_tokens=9, thinking=("off", 1024))
assert_type(stage.sample_tokens(model), float)


def objective(trial: optuna.Trial) -> float:
    """Return the score of what a trial chose."""
    name, samples = task.suggest(trial)["answer"]
    assert_type(name, str)
    assert_type(samples, int)
    return samples / 100


def run_search(llm: str | ChatModel | None) -> None:
    """Search with or without an agent, and read what came out."""
    sampler: optuna.samplers.BaseSampler = AgentTTSSampler(task, llm=llm, insights=(1, 2), seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=3, callbacks=[StopAtSpend(10.0), StopWhenSettled()])
    best = recommend(study)
    assert_type(best, Recommendation)
    assert_type(best.interval, tuple[float, float] | None)
    assert_type(best.ties, tuple[Tie, ...])
    assert_type(best.undecided, tuple[Undecided, ...])
    assert_type(best.outliers, tuple[tuple[int, float], ...])
    assert_type(recommend(study, margin=0.02, score_sd=0.1).margin, float)
    assert_type(recommend(study, at_least=0.6).probability, float | None)
    found = frontier(study, costs=[PriceCost()], tried_only=True)
    assert_type(found, Frontier)
    assert_type(found.at(300), FrontierPoint)
    assert_type(found.cheapest(within=0.02).allocation, Allocation)
    assert_type(found.knee.costs, dict[str, float])
    best.save("best.json")
    assert_type(Recommendation.load("best.json"), Recommendation)
    assert_type(load_allocation("best.json"), Allocation)
    assert_type(spend(study), Spend)
    summary = summarize(study)
    assert_type(summary, Summary)
    assert_type(summary.recommendation, Recommendation | None)
    assert_type(summary.next_steps, tuple[str, ...])
    for planned in guidelines(study):
        assert_type(planned, Round)
        assert_type(planned.claims, tuple[Claim, ...])
        assert_type(planned.verdicts, tuple[Verdict, ...])


def evaluate(allocation: Allocation, names: list[str]) -> list[float]:
    """Return an outcome for each instance."""
    return [allocation["answer"].samples / 100 for _ in names]


def confirm_best(study: optuna.Study) -> None:
    """Confirm the best allocations, and read how they stand."""
    found = confirm(study, evaluate, ["one", "two"], evaluations=10, seed=1)
    assert_type(found, Confirmation)
    assert_type(found.contenders, tuple[Standing, ...])
    assert_type(found.recommendation, Recommendation)
    assert_type(search(study, evaluate, ["one", "two"], spend=1e3, task=task), SearchResult)


class Scripted:
    """Answer every request alike: anything with `complete` is a chat model."""

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion."""
        return Completion("yes", Usage(prompt_tokens=1, completion_tokens=1))


run_search(Scripted())
run_search(ScriptedChatModel(["yes"]))
run_search(HuggingFaceChat("model", base_url="http://127.0.0.1:8080"))
costs: list[CostModel] = [FlopsCost(), PriceCost(), LatencyCost(prefix_sharing=False)]


def prompt(state: State) -> str:
    """Write the prompt of an instance."""
    return f"Answer {state.instance}"


def score(state: State) -> float:
    """Score an instance."""
    return float(state["answer"] == "yes")


pipeline = Pipeline(
    stages=[
        Step(name="look_up", run=lambda state: state.instance, fails_on=(TimeoutError,)),
        StageProgram(name="ids", prompt=prompt, aggregate=union),
        StageProgram(name="draft", prompt=prompt, aggregate=majority_vote),
        StageProgram(name="answer", prompt=prompt, aggregate=LLMFusion()),
    ],
    score=score,
)
with (
    LoopbackServer({"small": Scripted()}) as server,
    MultiStageObjective(
        pipeline,
        ["one", "two"],
        task=task,
        endpoints=connect_endpoints(task, server.url),
        store=CompletionStore("completions.db"),
    ) as measured,
):
    study = optuna.create_study()
    study.optimize(measured, n_trials=1)
    evaluation = measured.evaluate(task.complete({}), ["three"])
    assert_type(evaluation, Evaluation)
    assert_type(evaluation.mean, float)
    assert_type(search(study, measured, evaluations=100), SearchResult)
    assert_type(confirm(study, measured, ["three"], spend=100.0), Confirmation)
    assert_type(confirm(study, measured.evaluate, ["three"], spend=100.0), Confirmation)
    assert_type(measured.on(["four"]), MultiStageObjective)
    predictions = measured.predict(iter(["three"]), recommend(study), max_spend=1.0)
    assert_type(predictions, Predictions)
    assert_type(predictions[0], Prediction)
    assert_type(predictions[0].error, Exception | None)
    assert_type(
        pipeline.predict(["four"], task.complete({}), task=task, endpoints={}).spend, float
    )
    with Predictor(pipeline, task=task, endpoints={}) as predictor:
        assert_type(predictor.predict(["five"], task.complete({})), Predictions)
    assert_type(measured.inspect(0, "one", study=study), InstanceInspection)
    assert_type(measured.inspect(task.complete({})), TrialInspection)
    assert_type(measured.inspect(study.best_trial)[0], InstanceInspection)

benchmark = two_wiki("2wiki.json")
assert_type(benchmark, Benchmark)
assert_type(benchmark.objective("http://127.0.0.1:8080"), MultiStageObjective)
