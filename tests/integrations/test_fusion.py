"""Fusion: what is asked of the stage's model in place of its samples, and what that costs."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_support import Replies, objective_of

from optuna_agenttts.llm import ChatRefusedError, Message
from optuna_agenttts_integrations import Pipeline, PipelineError, StageProgram
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.calls.tokens import estimated_tokens
from optuna_agenttts_integrations.pipeline.fusion import (
    LLMFusion,
    distinct,
    fusion_messages,
    most_frequent,
)
from optuna_agenttts_integrations.testing.serving import LoopbackServer, ServerLimits


def number(text, state):
    """Read a whole number."""
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else None


def is_fusion(request):
    """Whether a request asks to fuse."""
    return "<candidate" in request.messages[-1].content


def scripted(samples, fused="7"):
    """A model that gives samples in turn, and fuses to what a text or a function says."""

    def answer(request, index):
        if is_fusion(request):
            return fused(request) if callable(fused) else fused
        return samples[index]

    return Replies(answer)


def run(chat, count, *, fusion=None, program=None, chats=None, model="m", **options):
    """Evaluate one stage with some samples; returns its result, usage and the evaluation."""
    results = []
    stage = StageProgram(
        **{
            "name": "s",
            "prompt": lambda state: "Which number?",
            "parse": number,
            "aggregate": fusion or LLMFusion(),
            **(program or {}),
        }
    )

    def score(state):
        results.append(state["s"])
        return 1.0

    pipeline = Pipeline(stages=[stage], score=score)
    with objective_of(pipeline, chats or {"m": chat}, **options) as objective:
        evaluation = objective.evaluate({"s": (model, count)})
    (result,) = evaluation.results.values()
    return results[0] if results else None, result.stages["s"], evaluation


def fusions(chat):
    """The last messages of the requests to fuse."""
    return [r.messages[-1].content for r in chat.requests if is_fusion(r)]


# When the model is asked.


@pytest.mark.parametrize("samples", [["4"], ["4", "4"], ["4", " 4\n", "4  "], ["x", "4", "y"]])
def test_what_says_one_thing_is_not_fused(samples):
    """One sample, or several that are read as the same, make no call beyond their own."""
    chat = scripted(samples)
    result, usage, _ = run(chat, len(samples))
    assert result == 4
    assert usage.calls == len(chat.requests) == len(samples)


def test_candidates_are_distinct_and_in_order_of_first_appearance():
    """What cannot be read is no candidate, and what repeats one is none either."""
    chat = scripted(["5", "junk", "3", " 5", "3", "9"])
    result, usage, _ = run(chat, 6)
    (asked,) = fusions(chat)
    assert result == 7
    assert asked == fusion_messages([Message("user", "Which number?")], "539")[0].content
    assert (usage.malformed, usage.samples, usage.calls) == (1, 6, 7)


@given(st.lists(st.integers(0, 4) | st.lists(st.integers(0, 1), max_size=2)))
def test_distinct_keeps_the_first_of_each_sample(samples):
    """Samples that can be hashed and such that cannot, mixed: first appearances, in order."""
    found = distinct([f" {index}\n" for index in range(len(samples))], samples)
    first = [i for i, sample in enumerate(samples) if sample not in samples[:i]]
    assert found == [(str(i), samples[i]) for i in first]


@given(st.lists(st.integers(0, 3), min_size=1))
def test_most_frequent_counts_alike_whether_samples_can_be_hashed_or_not(samples):
    """Lists are counted as what they hold would be."""
    assert most_frequent([[sample] for sample in samples]) == [most_frequent(samples)]


def test_a_sample_that_says_nothing_new_leaves_the_fusion_as_it_was():
    """From two samples on, repetitions pay for themselves only: the fusion is in the store."""
    chat = scripted(["5", "3", "5", "3", "5"])
    pipeline = Pipeline(
        stages=[
            StageProgram(name="s", prompt=lambda state: "?", parse=number, aggregate=LLMFusion())
        ],
        score=lambda state: float(state["s"] == 7),
    )
    with objective_of(pipeline, {"m": chat}) as objective:
        evaluations = [objective.evaluate({"s": ("m", count)}) for count in (2, 3, 4, 5)]
    assert len(fusions(chat)) == 1
    generated = [e.results["0"].stages["s"].generated for e in evaluations]
    assert generated == [3, 1, 1, 1]
    assert [e.mean for e in evaluations] == [1, 1, 1, 1]


def test_the_stages_own_model_fuses():
    """Each model's samples are fused by itself, at the fusion's temperature."""
    chats = {name: scripted(["1", "2"], fused) for name, fused in (("a", "10"), ("b", "20"))}
    fusion = LLMFusion(temperature=0.05)
    for name, expected in (("a", 10), ("b", 20)):
        result, _, _ = run(None, 2, chats=chats, model=name, fusion=fusion)
        assert result == expected
        (asked,) = [request for request in chats[name].requests if is_fusion(request)]
        assert (asked.model, asked.temperature) == (name, 0.05)


def test_a_begun_reply_is_not_added_to():
    """After a prompt that ends with the model's own words the candidates come in a message."""
    prompt = (Message("user", "Which?"), Message("assistant", "It is"))
    asked = fusion_messages(prompt, ["a", "b"])
    assert asked[:2] == prompt
    assert [message.role for message in asked] == ["user", "assistant", "user"]


# Prompts that are too long.


@pytest.mark.parametrize("most", [330, 500, 900, 3000])
def test_prompts_that_would_not_fit_are_fused_in_groups(most):
    """Every prompt is within the bound, every candidate is read, and one reply comes out."""
    rng = random.Random(most)
    texts = [f"{i} " + "x" * rng.randrange(1, 400) for i in range(30)]

    def fused(request):
        listed = request.messages[-1].content.split('<candidate number="1">\n')[1]
        return f"{listed.split()[0]}00 fused"

    chat = scripted(texts, fused)
    fusion = LLMFusion(max_prompt_tokens=most)
    result, usage, _ = run(chat, 30, fusion=fusion, program={"parse": lambda text, _: text})
    asked = fusions(chat)
    assert all(estimated_tokens(text) <= most for text in asked)
    assert result.startswith("000")
    assert usage.calls == 30 + len(asked)
    assert all(any(text in prompt for prompt in asked) for text in texts[:-1])


def test_where_no_two_fit_the_fallback_decides():
    """No call is made for what cannot be asked."""
    chat = scripted(["5", "3", "3"])
    result, usage, _ = run(chat, 3, fusion=LLMFusion(max_prompt_tokens=10))
    assert result == 3
    assert usage.calls == 3
    assert not fusions(chat)


def test_groups_that_are_fused_to_the_same_need_no_further_fusion():
    """Results of groups are compared by what they are read as, as samples are."""
    texts = [f"{i}{' ' * 300}" for i in range(4)]
    bound = round(
        estimated_tokens(fusion_messages([Message("user", "Which number?")], "01")[0].content)
    )
    wide = {"parse": lambda text, _: int(text)}
    chat = scripted(
        texts, lambda request: " 8" if ">\n0\n<" in request.messages[-1].content else "8"
    )
    result, usage, _ = run(chat, 4, fusion=LLMFusion(max_prompt_tokens=bound + 5), program=wide)
    assert result == 8
    assert usage.calls - 4 == len(fusions(chat)) == 2


# What goes wrong.


def test_an_unreadable_fusion_is_counted_and_the_fallback_decides():
    """The instance lives on, and the reply counts as malformed."""
    chat = scripted(["5", "3", "3"], "I cannot decide")
    result, usage, evaluation = run(chat, 3)
    assert result == 3
    assert (usage.malformed, usage.calls, evaluation.failed) == (1, 4, 0)


def test_a_refused_fusion_is_no_failure():
    """A server that refuses the long prompt costs the fusion, not the instance."""
    chat = scripted(["5", "3", "3"], lambda request: ChatRefusedError("too long"))
    result, usage, evaluation = run(chat, 3, fusion=LLMFusion(fallback=max))
    assert result == 5
    assert evaluation.failed == usage.malformed == 0
    assert (usage.calls, usage.generated) == (3, 3)


@pytest.mark.parametrize("trouble", ["unreadable", ChatRefusedError("no")])
def test_a_group_that_cannot_be_fused_is_not_left_out(trouble):
    """Where one of several groups fails, the fallback decides over all samples."""
    texts = [f"{i}{'1' * 300}" for i in range(6)]

    def fused(request):
        return trouble if texts[0] in request.messages[-1].content else "5"

    chat = scripted(texts, fused)
    fusion = LLMFusion(max_prompt_tokens=400, fallback=min)
    result, _, evaluation = run(chat, 6, fusion=fusion)
    assert result == int(texts[0])
    assert evaluation.failed == 0


@pytest.mark.parametrize("fused", ["[7]", "nonsense"])
def test_samples_that_cannot_be_hashed_are_fused_and_counted(fused):
    """Lists and dictionaries are samples like any others, in the fallback too."""

    def parse(text, state):
        try:
            return json.loads(text)
        except ValueError:
            return None

    chat = scripted(["[1, 2]", '{"a": [3]}', "[1,2]", "[1, 2]"], fused)
    result, usage, _ = run(chat, 4, program={"parse": parse})
    assert result == ([7] if fused == "[7]" else [1, 2])
    assert usage.calls == 5
    assert fusions(chat)[0].count("<candidate") == 2


def test_a_real_server_that_refuses_a_long_fusion_costs_no_instance():
    """TGI's answer to a prompt beyond its context is 422: the fallback decides."""
    chat = scripted(["5", "3", "3"])
    limits = ServerLimits(max_input_tokens=20, max_total_tokens=300)
    with LoopbackServer({"m": chat}, limits=limits, dialect="tgi") as server:
        endpoint = connect_endpoints(["m"], server.url)["m"]
        result, _, evaluation = run(endpoint, 3)
        assert server.served["/v1/chat/completions"] == 4
    assert result == 3
    assert evaluation.failed == 0
    assert not fusions(chat)


# What it costs.


def test_fusion_and_repair_are_charged():
    """Tokens, calls and spend are those of all requests, at the lengths that they had."""

    def answer(request, index):
        if is_fusion(request):
            return "7"
        if request.messages[-1].content == "A number, please.":
            return "3 "
        return ["5 ", "not a number"][index]

    chat = Replies(answer)
    program = {"repair": lambda state, text: "A number, please."}
    pipeline = Pipeline(
        stages=[
            StageProgram(
                name="s",
                prompt=lambda state: "Which number?",
                parse=number,
                aggregate=LLMFusion(),
                **program,
            )
        ],
        score=lambda state: float(state["s"] == 7),
    )
    with objective_of(pipeline, {"m": chat}) as objective:
        evaluation = objective.evaluate({"s": ("m", 2)})
        again = objective.evaluate({"s": ("m", 2)})
    assert evaluation.mean == again.mean == 1
    used = evaluation.results["0"].stages["s"]
    words = [sum(len(m.content.split()) for m in request.messages) for request in chat.requests]
    assert len(words) == 4
    assert (used.samples, used.calls, used.generated, used.malformed) == (2, 4, 4, 1)
    assert used.prompt_tokens == sum(words)
    assert used.generated_tokens == used.naive_tokens == 1 + 3 + 1 + 1
    assert (used.prompt_length, used.sample_length) == (2, 2)
    assert evaluation.spend == pytest.approx(used.prompt_tokens + 2 * used.generated_tokens)
    # The second time all of it is reused, fusion and repair included.
    assert (again.generated_tokens, again.spend, again.reused) == (0, 0, 1)
    assert again.naive_tokens == evaluation.naive_tokens
    assert len(chat.requests) == 4


def test_nonsense_is_refused():
    """A bound of no tokens is named."""
    with pytest.raises(PipelineError, match="`max_prompt_tokens` is 0"):
        LLMFusion(max_prompt_tokens=0)
