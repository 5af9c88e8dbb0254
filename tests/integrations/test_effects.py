"""Settings reported as without effect have none: equal allocations give equal outcomes."""

import random
import zlib

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_support import MODELS, Replies, objective_of

from optuna_agenttts import AgentTTSSampler, Task, TaskError, recommend
from optuna_agenttts.llm import ChatRefusedError, Completion, Usage
from optuna_agenttts_integrations import (
    Endpoint,
    LLMFusion,
    Pipeline,
    StageProgram,
    Step,
    best_of,
    majority_vote,
    medoid,
    normalized_vote,
    union,
)
from optuna_agenttts_integrations.pipeline.aggregation import equal_counts
from optuna_agenttts_integrations.playground import make_objective, make_problems, make_task
from optuna_agenttts_integrations.tasks import chat_dev, cwq, sample_path, task_bench, two_wiki
from optuna_agenttts_integrations.testing.simulation import simulated_models

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Drawn:
    """Chat model whose replies are drawn from few letters, some of them malformed or refused."""

    def __init__(self, name, malformed, refused=0.0):
        self.name, self.malformed, self.refused, self.calls = name, malformed, refused, 0

    async def complete(self, request, *, seed):
        self.calls += 1
        rng = random.Random(f"{self.name} {request} {seed}")
        if rng.random() < self.refused:
            raise ChatRefusedError("no")
        text = "?" if rng.random() < self.malformed else rng.choice("abc")
        return Completion(text, Usage(5, 1))


def parse(text, state):
    return None if text == "?" else text


def middle(samples):
    """Return the sample in the middle of the first three: four samples are three."""
    return sorted(samples[:3])[len(samples[:3]) // 2]


AGGREGATIONS = {
    "vote": (majority_vote, None),
    "normalized": (normalized_vote(str.lower), None),
    "medoid": (medoid(lambda one, other: float(one == other)), None),
    "best": (best_of(ord), None),
    "union": (union, None),
    "all": (tuple, None),
    "fusion": (LLMFusion(), None),
    "declared": (middle, [(3, 4, 5)]),
    "undeclared vote": (majority_vote, ()),
}


@st.composite
def pipelines(draw):
    """Draw pipelines of two or three stages, where some instances skip stages."""
    stages = [Step(name="number", run=lambda state: int(state.instance["id"]))]
    for position in range(draw(st.integers(2, 3))):
        aggregate, equal = AGGREGATIONS[draw(st.sampled_from(sorted(AGGREGATIONS)))]
        skipping = draw(st.sampled_from(["never", "always", "single", "odd"]))

        def when(state, skipping=skipping):
            last = list(state.results.values())[-1]
            chosen = isinstance(last, tuple) and len(set(last)) < 2
            odd = state["number"] % 2
            return not {"never": False, "always": True, "single": chosen, "odd": odd}[skipping]

        stages.append(
            StageProgram(
                name=f"s{position}",
                prompt=lambda state: repr(sorted(state.results.items())),
                parse=parse,
                aggregate=aggregate,
                equal_samples=equal,
                when=when,
                otherwise=lambda state: list(state.results.values())[-1],
                required=draw(st.booleans()),
                repair=draw(st.sampled_from([None, lambda state, text: "again"])),
            )
        )
    return Pipeline(
        stages=stages, score=lambda state: zlib.crc32(repr(state.results).encode()) % 7 / 7
    )


@pytest.mark.slow
@settings(max_examples=60)
@given(
    pipeline=pipelines(),
    malformed=st.sampled_from([0.0, 0.0, 0.1, 0.5]),
    refused=st.sampled_from([0.0, 0.0, 0.1]),
    data=st.data(),
)
def test_equal_allocations_give_equal_outcomes(pipeline, malformed, refused, data):
    """For every instance, with the samples of the same store."""
    chats = {
        name: Endpoint(chat=Drawn(name, malformed, refused), identity=name) for name in MODELS
    }
    instances = [{"id": number} for number in range(6)]
    names = [program.name for program in pipeline.programs]
    setting = st.tuples(st.sampled_from(MODELS), st.integers(1, 5))
    chosen = {name: data.draw(setting) for name in names}
    with objective_of(pipeline, chats, instances, max_failed=1.0) as objective:
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial(objective.task.params(chosen))
        study.optimize(objective, n_trials=1)
        reported = study.trials[0].system_attrs.get("agenttts:equal", {})
        outcomes = objective.evaluate(chosen).outcomes
        for name, free in reported.items():
            model, samples = chosen[name]
            assert free == "any" or samples in free
            others = (
                [(model, number) for number in free]
                if free != "any"
                else [data.draw(setting), data.draw(setting)]
            )
            for other in others:
                assert objective.evaluate({**chosen, name: other}).outcomes == outcomes
        # All of them at once, and the cheapest ones.
        other, least = dict(chosen), dict(chosen)
        for name, free in reported.items():
            model = chosen[name][0]
            if free == "any":
                other[name], least[name] = data.draw(setting), (MODELS[0], 1)
            else:
                other[name], least[name] = (
                    (model, data.draw(st.sampled_from(free))),
                    (model, free[0]),
                )
        assert objective.evaluate(other).outcomes == outcomes
        assert recommend(study, objective.task).allocation == least


def test_a_stage_after_a_lost_sample_is_not_known_to_have_no_effect():
    """The sample may arrive in another trial, and then the stage may run."""
    pipeline = Pipeline(
        stages=[
            StageProgram(
                name="draft", prompt=str, aggregate=tuple, repair=lambda s, text: "again"
            ),
            StageProgram(name="judge", prompt=str, when=lambda state: len(state["draft"]) > 1),
        ],
        score=lambda state: float(len(state["draft"])),
    )
    lost = [True]

    def reply(request, number):
        return ChatRefusedError("no") if number and lost[0] else "a"

    chat = Endpoint(chat=Replies(reply), identity="m")
    chosen = {"draft": ("m", 2), "judge": ("m", 1)}
    with objective_of(pipeline, {"m": chat}) as objective:
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial(objective.task.params(chosen))
        study.optimize(objective, n_trials=1)
        assert study.trials[0].value == 1
        assert "agenttts:equal" not in study.trials[0].system_attrs
        lost[0] = False
        assert objective.evaluate({**chosen, "judge": ("m", 2)}).mean == 2


def test_equal_samples_are_checked_before_a_trial_is_paid_for():
    for groups in ([3], [(1, 3)], [(1, 2), (2, 3)], (1, 2)):
        with pytest.raises(TaskError, match="StageProgram 's': `equal_samples` must be groups"):
            StageProgram(name="s", prompt=str, equal_samples=groups)


@given(samples=st.lists(st.text("abAB", max_size=2), min_size=5, max_size=5))
def test_aggregations_know_themselves(samples):
    """Results of the declared numbers of samples are equal."""
    for aggregate, equal in AGGREGATIONS.values():
        if not isinstance(aggregate, LLMFusion):
            groups = equal_counts(aggregate) if equal is None else equal
            for group in groups:
                assert len({repr(aggregate(samples[:count])) for count in group}) == 1
    for voting in ("vote", "normalized", "medoid"):
        assert equal_counts(AGGREGATIONS[voting][0]) == ((1, 2),)


def test_a_search_takes_no_second_vote_and_no_judge_of_one_candidate():
    """As far as trials have shown it."""
    pipeline = Pipeline(
        stages=[
            StageProgram(name="draft", prompt=lambda s: s.instance, parse=parse, aggregate=tuple),
            StageProgram(
                name="judge",
                prompt=lambda s: f"{s.instance} {s['draft']}",
                parse=parse,
                when=lambda s: len(s["draft"]) > 1,
                otherwise=lambda s: s["draft"][0],
            ),
        ],
        score=lambda s: float(s["judge"] == "a"),
    )
    chats = {name: Drawn(name, 0.0) for name in MODELS}
    with objective_of(pipeline, chats, [f"q{n}" for n in range(8)]) as objective:
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler())
        study.enqueue_trial(
            {
                "draft.model": "small",
                "draft.samples": 1,
                "judge.model": "large",
                "judge.samples": 9,
            }
        )
        study.enqueue_trial(
            {
                "draft.model": "small",
                "draft.samples": 2,
                "judge.model": "large",
                "judge.samples": 2,
            }
        )
        study.optimize(objective, n_trials=25)
    tried = [tuple(objective.task.choices_from_params(t.params).values()) for t in study.trials]
    alone = [draft for draft, _ in tried if draft[1] == 1]
    assert len(set(alone)) == len(alone), "one trial of a single draft of each model"
    forms = [(draft, (judge[0], max(2, judge[1]))) for draft, judge in tried if draft[1] > 1]
    assert len(set(forms)) == len(forms), "one or two votes of a judge, not both"
    assert recommend(study).known > 100
    assert study.trials[0].system_attrs["agenttts:equal"] == {"judge": "any"}
    assert study.trials[1].system_attrs["agenttts:equal"] == {"judge": [1, 2]}


FAMILIES = {
    "two_wiki": lambda: two_wiki(sample_path("two_wiki.json"), search=5, fusion=False),
    "cwq": lambda: cwq(sample_path("cwq.json"), search=5, fusion=False),
    "task_bench": lambda: task_bench(
        sample_path("task_bench.json"),
        tools=sample_path("task_bench_tools.json"),
        search=5,
        fusion=False,
    ),
    "chat_dev": lambda: chat_dev(sample_path("software.csv"), search=3, fusion=False),
}


def with_budget(task, budget):
    return Task.from_dict({**task.to_dict(), "budget": budget})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_votes_are_known(family):
    """Two votes of the answering stage are one where replies are readable; nothing else is."""
    benchmark = FAMILIES[family]()
    voting = {
        program.name for program in benchmark.pipeline.programs if equal_counts(program.aggregate)
    }
    assert (
        voting
        == {
            "two_wiki": {"answer"},
            "cwq": {"answer"},
            "task_bench": {"decomposition", "selection", "parameters"},
            "chat_dev": set(),
        }[family]
    )
    with benchmark.objective(simulated_models(benchmark), progress=False) as objective:
        objective.task = with_budget(objective.task, 1e9)
        task = objective.task
        chosen = {stage.name: (stage.models[-1].name, 2) for stage in task.stages}
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial(task.params(chosen))
        study.optimize(objective, n_trials=1)
        reported = study.trials[0].system_attrs.get("agenttts:equal", {})
        assert set(reported) <= voting
        outcomes = objective.evaluate(chosen).outcomes
        fewer = {name: (m, 1 if name in reported else n) for name, (m, n) in chosen.items()}
        assert objective.evaluate(fewer).outcomes == outcomes


def test_the_playgrounds_votes_are_known():
    """All answers are readable."""
    task = make_task(1e6)
    with make_objective(problems=make_problems("search", 8), task=task) as objective:
        study = optuna.create_study(direction="maximize")
        chosen = {"retrieval": ("retriever-28k", 1), "answer": ("answerer-22k", 2)}
        study.enqueue_trial(task.params(chosen))
        study.optimize(objective, n_trials=1)
        trial = study.trials[0]
        assert trial.user_attrs["malformed"] == 0
        assert trial.system_attrs["agenttts:equal"] == {"answer": [1, 2]}
        one = {**chosen, "answer": ("answerer-22k", 1)}
        assert objective.evaluate(one).outcomes == objective.evaluate(chosen).outcomes
        assert recommend(study).allocation == one
