"""Simulated models: as competent as configured, and a function of request and seed."""

import asyncio
import math
from dataclasses import replace

import pytest
from tasks_support import everything

from optuna_agenttts import Model, Task
from optuna_agenttts.llm import ChatRefusedError, ChatRequest, Message
from optuna_agenttts_integrations import Pipeline, PipelineError, StageProgram, State
from optuna_agenttts_integrations.pipeline.fusion import fusion_messages
from optuna_agenttts_integrations.tasks import Benchmark, two_wiki
from optuna_agenttts_integrations.tasks.answering import parse_answer
from optuna_agenttts_integrations.tasks.records import sample_path
from optuna_agenttts_integrations.tasks.selection import Selection, parse_selection
from optuna_agenttts_integrations.testing.simulated_replies import quoted_text
from optuna_agenttts_integrations.testing.simulation import (
    SimulatedModel,
    simulated_models,
    stage_instructions,
)

BENCHMARK = two_wiki(
    sample_path("two_wiki.json"),
    search=8,
    retrievers=[Model("finder", parameters=7e9)],
    answerers=[Model("sayer", parameters=3e9)],
)
FIND, SAY = BENCHMARK.pipeline.programs


def model(competence, name="m"):
    """Create a model with the same competence in both stages."""
    chances = {"retrieval": competence, "answer": competence}
    return SimulatedModel(name=name, benchmark=BENCHMARK, competence=chances)


def say(chat, request, seed):
    """Return one reply."""
    return asyncio.run(chat.complete(request, seed=seed))


def share_right(chat, request, right, draws=400):
    """How many of many samples are right."""

    async def all_of_them():
        return [await chat.complete(request, seed=seed) for seed in range(1, draws + 1)]

    return sum(right(reply.text) for reply in asyncio.run(all_of_them())) / draws


def near(share, chance, draws=400):
    """Within four standard deviations of a binomial."""
    return abs(share - chance) <= 4 * math.sqrt(chance * (1 - chance) / draws) + 1e-9


@pytest.mark.parametrize("competence", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_share_right_is_the_competence(competence):
    """In either stage, within binomial noise."""
    chat = model(competence)
    instance = BENCHMARK.search[0]
    asked = FIND.request("m", State(instance))
    count = len(instance.passages)
    share = share_right(
        chat, asked, lambda text: parse_selection(text, count) == Selection(instance.gold)
    )
    assert near(share, competence)
    state = State(instance, {"retrieval": Selection(instance.gold)})
    asked = SAY.request("m", state)
    share = share_right(chat, asked, lambda text: parse_answer(text, state) in instance.answers)
    assert near(share, competence)


def test_nobody_answers_from_passages_that_are_not_shown():
    """But for some questions whose answers are known anyway, the same for all models."""
    known = set()
    for name in ("one", "other"):
        found = []
        for instance in everything(BENCHMARK):
            state = State(instance, {"retrieval": Selection(())})
            text = say(model(1.0, name), SAY.request("m", state), 1).text
            found.append(parse_answer(text, state) in instance.answers)
        known.add(tuple(found))
    (found,) = known
    assert 0 < sum(found) < len(found) / 2


def test_a_right_candidate_helps_to_fuse():
    """Half of what is missing to certainty is gained by reading it."""
    instance = BENCHMARK.search[0]
    state = State(instance, {"retrieval": Selection(instance.gold)})
    right, chat = f"Answer: {instance.answers[0]}", model(0.4)
    for candidates, chance in (
        (["Answer: no", right], 0.7),
        (["Answer: no", "Answer: neither"], 0.4),
    ):
        messages = fusion_messages(SAY.messages(state), candidates)
        asked = ChatRequest(model="m", messages=messages, max_tokens=64, temperature=0.3)
        share = share_right(chat, asked, lambda text: text == right)
        assert near(share, chance)


def test_replies_are_a_function_of_model_request_and_seed():
    """The same again, others for other seeds, prompts and models; with plausible usage."""
    instance = BENCHMARK.search[0]
    asked = FIND.request("m", State(instance))
    replies = [say(model(0.5), asked, seed) for seed in range(1, 21)]
    assert [say(model(0.5), asked, seed) for seed in range(1, 21)] == replies
    assert len({reply.text for reply in replies}) > 1
    assert [say(model(0.5, "n"), asked, seed) for seed in range(1, 21)] != replies
    assert all(r.usage.prompt_tokens > 100 and r.usage.completion_tokens > 0 for r in replies)


def test_prompts_of_others_are_refused():
    """Those of no stage, of two, and of questions that the benchmark has not."""
    marks = list(stage_instructions(BENCHMARK).values())
    subject = quoted_text(BENCHMARK.search[0])
    for text in ("hello", marks[0], subject, f"{marks[0]} {marks[1]} {subject}"):
        asked = ChatRequest(
            model="m", messages=(Message("user", text),), max_tokens=9, temperature=0.0
        )
        with pytest.raises(ChatRefusedError, match="does not belong to the benchmark"):
            say(model(1.0), asked, 1)


def test_larger_models_are_better_unless_told_otherwise():
    """In every stage, each model of a task."""
    benchmark = two_wiki(sample_path("two_wiki.json"), search=8)
    chats = simulated_models(benchmark)
    for stage in benchmark.task.stages:
        chances = [chats[m.name].competence[stage.name] for m in stage.models]
        assert chances == sorted(chances)
        assert len(set(chances)) == 3
        assert all(0 < chance < 1 for chance in chances)
    own = {"finder": {"retrieval": 0.3}, "sayer": {"answer": 1}}
    assert simulated_models(BENCHMARK, own)["finder"].competence == {"retrieval": 0.3}


@pytest.mark.parametrize(
    "competence",
    [
        {"finder": {"retrieval": 0.5}},
        {"finder": {"answer": 0.5}, "sayer": {"answer": 0.5}},
        {"finder": {"retrieval": 1.5}, "sayer": {"answer": 0.5}},
        {"finder": {"retrieval": 0.5}, "sayer": {"answer": math.nan}},
    ],
)
def test_competence_is_checked(competence):
    """Each model needs a chance for each of its stages, from 0 to 1."""
    with pytest.raises(PipelineError, match="a probability from 0 to 1"):
        simulated_models(BENCHMARK, competence)


def test_other_instances_need_functions_of_their_own():
    """Replies and quoted texts can be passed in; without them the remedy is named."""
    pipeline = Pipeline(
        stages=[
            StageProgram(
                name="add",
                prompt=lambda state: (Message("system", "Add."), Message("user", state.instance)),
            )
        ],
        score=lambda state: float(state["add"] == "3"),
    )
    task = Task.from_pipeline(
        pipeline, ["1 + 2"], models={"add": [Model("m", parameters=1e9)]}, name="sums"
    )
    benchmark = Benchmark(task=task, pipeline=pipeline, search=("1 + 2",), held_out=())

    def reply(instance, *, stage, prompt, right, rng):
        return "3" if right else "4"

    for competence, text in ((1.0, "3"), (0.0, "4")):
        chats = simulated_models(benchmark, {"m": {"add": competence}}, reply=reply, quote=str)
        asked = pipeline.programs[0].request("m", State("1 + 2"))
        assert say(chats["m"], asked, 1).text == text
    chats = simulated_models(benchmark)
    with pytest.raises(PipelineError, match=r"type str: register .*quoted_text.register"):
        say(chats["m"], asked, 1)


def test_stages_need_system_messages():
    """Without one, prompts of a stage cannot be recognized."""
    program = StageProgram(name="add", prompt=lambda state: state.instance.question)
    pipeline = Pipeline(stages=[program], score=lambda state: 0.0)
    benchmark = replace(BENCHMARK, pipeline=pipeline)
    with pytest.raises(PipelineError, match="'add' has no system message"):
        stage_instructions(benchmark)


@pytest.mark.parametrize("known", [(), ("finder",), ("sayer",)])
def test_every_model_needs_a_competence_if_some_are_given(known):
    """An empty mapping is not the default, but a mapping that lacks all models."""
    chances = {"retrieval": 1.0, "answer": 1.0}
    with pytest.raises(PipelineError, match=r"`competence` is \{\}"):
        simulated_models(BENCHMARK, dict.fromkeys(known, chances))
    assert set(simulated_models(BENCHMARK)) == {"finder", "sayer"}


def test_checks_of_simulated_models_test_seeds_also_with_long_prompts():
    """The longest prompt is sent, since these models know no others; it costs nothing."""
    benchmark = two_wiki(sample_path("two_wiki.json"), search=2)
    with benchmark.objective(simulated_models(benchmark)) as objective:
        levels = {f.level for f in objective.check().findings if f.check == "seeds"}
    assert levels == {"ok"}
