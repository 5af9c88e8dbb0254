"""Thoughts and missing texts in searches: counted, reported, and never scored as an answer."""

import asyncio
import json
import logging
import random

import optuna
import pytest
from pipeline_support import Replies

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task, TaskError
from optuna_agenttts.llm import ChatRequest, Completion, Message, Usage
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    LLMFusion,
    MultiStageObjective,
    Pipeline,
    SpendLimitError,
    StageProgram,
    connect_endpoints,
)
from optuna_agenttts_integrations.calls.completions import Completions
from optuna_agenttts_integrations.calls.metering import Account, Ledger, Meter


def search(chat, *, samples=2, model=None, questions=4, **options):
    """Run one trial of a pipeline of one stage; return the trial."""
    stage = Stage(
        "say",
        models=[model or Model("m", parameters=1e9)],
        prompt_tokens=10,
        generation_tokens=10,
    )
    task = Task(name="t", stages=[stage], budget=1e13)
    # All samples are drawn, so that calls and tokens can be counted.
    program = StageProgram(
        name="say", prompt=lambda s: s.instance, max_tokens=64, enough=None, **options
    )
    objective = MultiStageObjective(
        Pipeline(stages=[program], score=lambda state: float(state["say"] == "Paris")),
        [f"question {number}" for number in range(questions)],
        task=task,
        endpoints=connect_endpoints(task, chat),
        progress=False,
    )
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    study.enqueue_trial(task.params({"say": ("m", samples)}))
    with objective:
        study.optimize(objective, n_trials=1)
    return study.trials[0]


class Server:
    """Chat model that returns completions in turn, the last one for ever."""

    def __init__(self, *replies):
        self.replies, self.seeds, self.requests = list(replies), [], []

    async def complete(self, request, *, seed):
        """Reply."""
        self.seeds.append(seed)
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


def thinking(text, finish="stop", tokens=40):
    """Return a reply of a model that thinks."""
    return Completion(text, Usage(10, tokens), finish)


def test_thoughts_are_not_part_of_an_answer():
    """A plain stage scores what follows them, and counts their tokens as spent."""
    trial = search(Server(thinking("<think>London?</think>Paris")), parse=lambda text, _: text)
    assert trial.value == 1
    assert trial.user_attrs["tokens"] == 8 * 40
    assert 0 < trial.user_attrs["thought_tokens"] < 8 * 40
    assert "thoughts" not in trial.user_attrs


def test_a_search_without_thoughts_reports_none():
    """Trials have the attributes of earlier versions."""
    assert not {"thoughts", "thought_tokens"} & set(search(Server(thinking("Paris"))).user_attrs)


def test_thoughts_that_never_end_are_no_answer(caplog):
    """They are malformed, are not parsed or repaired, and the share is reported."""
    parsed = []
    chat = Server(thinking("<think>Paris", "length"), thinking("Paris"))
    with caplog.at_level(logging.WARNING):
        trial = search(
            chat,
            parse=lambda text, _: parsed.append(text) or text,
            repair=lambda state, text: "again",
        )
    assert trial.value == 1
    assert set(parsed) == {"Paris"}
    assert len(chat.seeds) == 8
    assert trial.user_attrs["malformed"] == 1
    assert trial.user_attrs["thoughts"] == (
        "12 % of m's replies in stage 'say' ended inside their thoughts: raise `max_tokens` or "
        "lower thinking"
    )
    assert caplog.text.count("ended inside their thoughts") == 1


@pytest.mark.parametrize("reason", ["content_filter", "length", "tool_calls", "refusal"])
def test_a_missing_text_is_malformed_and_asked_for_once(reason):
    """Another seed does not help, and its tokens are counted."""
    chat = Server(thinking("", reason))
    trial = search(chat, parse=lambda text, _: "Paris")
    assert (trial.value, trial.user_attrs["malformed"], len(chat.seeds)) == (0, 8, 8)
    assert trial.user_attrs["tokens"] == 8 * 40


def test_a_model_that_stops_after_its_thoughts_is_asked_again_with_another_seed():
    """Once, and both calls count."""
    chat = Server(thinking("<think>hm</think>"), thinking("Paris"))
    trial = search(chat, samples=1, questions=1)
    assert trial.value == 1
    assert len(set(chat.seeds)) == 2
    assert trial.user_attrs["tokens"] == 80


def test_a_paid_reply_is_stored_if_the_limit_does_not_cover_another(tmp_path):
    """The reply ended in its thoughts, but was received."""
    store = CompletionStore(tmp_path / "store.db")
    chat = Server(thinking("<think>hm</think>"), thinking("Paris"))
    request = ChatRequest(
        model="m", messages=(Message("user", "?"),), max_tokens=5, temperature=0.7
    )
    meter = Meter(request, lambda calls, *tokens: 1.0 * calls, Account(Ledger(limit=1.5)))
    source = Completions(store=store, seed=0, rng=random.Random(0))
    with pytest.raises(SpendLimitError):
        asyncio.run(source.sample(request, Endpoint(chat=chat, identity="x"), 1, meter))
    assert (len(chat.seeds), len(store)) == (1, 1)


def test_candidates_of_a_fusion_have_no_thoughts():
    """Distinct thoughts before equal answers are one candidate."""
    chat = Replies(lambda request, number: f"<think>{number}</think>Paris")
    trial = search(chat, samples=4, questions=1, aggregate=LLMFusion())
    assert trial.value == 1
    assert len(chat.requests) == 4


def test_a_reply_that_ended_early_is_no_sample():
    """Also one of a chat model in process: it is asked again, and its tokens count."""
    chat = Server(thinking("Par", "abort", tokens=3), thinking("Paris"))
    trial = search(chat, samples=1, questions=1)
    assert (trial.value, trial.user_attrs["tokens"], len(chat.seeds)) == (1, 43, 2)


LOW = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}


def test_extra_fields_are_part_of_each_request_and_of_the_stored_task():
    """So that samples of other fields are not reused, and tasks without them stay as they were."""
    chat = Server(thinking("Paris"))
    model = Model("m", parameters=1e9, extra=LOW)
    search(chat, model=model)
    assert {request.extra for request in chat.requests} == {
        '{"chat_template_kwargs":{"enable_thinking":false},"reasoning_effort":"low"}'
    }
    stage = Stage("say", models=[model], prompt_tokens=1, generation_tokens=1)
    task = Task(name="t", stages=[stage], budget=1e13)
    stored = json.loads(json.dumps(task.to_dict()))
    assert Task.from_dict(stored).stages == task.stages
    assert stored["stages"][0]["models"][0]["extra"] == LOW
    assert hash(model) == hash(Model("m", parameters=1e9, extra=dict(reversed(LOW.items()))))
    assert model != Model("m", parameters=1e9)
    model.extra["chat_template_kwargs"]["enable_thinking"] = True
    assert model.extra == LOW


@pytest.mark.parametrize("extra", [{"x": float("nan")}, {"x": {1}}, [1], {"seed": 3}, "text"])
def test_extra_fields_are_json(extra):
    """And leave out the fields that every request has."""
    with pytest.raises(TaskError, match="`extra`"):
        Model("m", extra=extra)
