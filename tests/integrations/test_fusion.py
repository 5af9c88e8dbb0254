"""Fusion of samples by the stage's model: prompts, failures and costs."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_support import Replies, objective_of

from optuna_agenttts.llm import ChatRefusedError, Message
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts_integrations import Pipeline, PipelineError, StageProgram
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.pipeline.fusion import (
    LLMFusion,
    deduplicate,
    fusion_messages,
    most_frequent,
)
from optuna_agenttts_integrations.testing.serving import LoopbackServer, ServerLimits


def number(text, state):
    """Parse an integer."""
    text = text.strip()
    return int(text) if text.lstrip("-").isdigit() else None


def is_fusion(request):
    """Return whether a request is a fusion."""
    return "<candidate" in request.messages[-1].content


def scripted(samples, fused="7"):
    """Build a model that replies with samples in turn, and to fusions with a text or function."""

    def answer(request, index):
        if is_fusion(request):
            return fused(request) if callable(fused) else fused
        return samples[index]

    return Replies(answer)


def run(chat, count, *, fusion=None, program=None, chats=None, model="m", **options):
    """Evaluate one stage; return its result, its usage and the evaluation."""
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
    """Return the last message of each fusion request."""
    return [r.messages[-1].content for r in chat.requests if is_fusion(r)]


# When a fusion is requested.


@pytest.mark.parametrize("samples", [["4"], ["4", "4"], ["4", " 4\n", "4  "], ["x", "4", "y"]])
def test_a_single_distinct_sample_is_not_fused(samples):
    """One sample, or several with one parsed value, cause no further call."""
    chat = scripted(samples)
    result, usage, _ = run(chat, len(samples))
    assert result == 4
    assert usage.calls == len(chat.requests) == len(samples)


def test_candidates_are_distinct_and_in_order_of_first_appearance():
    """Malformed and repeated replies are not candidates."""
    chat = scripted(["5", "junk", "3", " 5", "3", "9"])
    result, usage, _ = run(chat, 6)
    (prompt,) = fusions(chat)
    assert result == 7
    assert prompt == fusion_messages([Message("user", "Which number?")], "539")[0].content
    assert (usage.malformed, usage.samples, usage.calls) == (1, 6, 7)


@given(st.lists(st.integers(0, 4) | st.lists(st.integers(0, 1), max_size=2)))
def test_deduplicate_keeps_the_first_of_each_sample(samples):
    """Hashable and unhashable samples are kept in order of first appearance."""
    found = deduplicate([f" {index}\n" for index in range(len(samples))], samples)
    first = [i for i, sample in enumerate(samples) if sample not in samples[:i]]
    assert found == [(str(i), samples[i]) for i in first]


@given(st.lists(st.integers(0, 3), min_size=1))
def test_most_frequent_works_for_unhashable_samples(samples):
    """Lists of one item give the same winner as the items."""
    assert most_frequent([[sample] for sample in samples]) == [most_frequent(samples)]


def test_a_repeated_sample_leaves_the_fusion_unchanged():
    """Only the repeated sample is generated, because the fusion is in the store."""
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
    """Each model fuses its own samples, at the fusion's temperature."""
    chats = {name: scripted(["1", "2"], fused) for name, fused in (("a", "10"), ("b", "20"))}
    fusion = LLMFusion(temperature=0.05)
    for name, expected in (("a", 10), ("b", 20)):
        result, _, _ = run(None, 2, chats=chats, model=name, fusion=fusion)
        assert result == expected
        (fused,) = [request for request in chats[name].requests if is_fusion(request)]
        assert (fused.model, fused.temperature) == (name, 0.05)


def test_a_prefilled_reply_is_not_extended():
    """If the prompt ends with an assistant message, candidates go into a new user message."""
    prompt = (Message("user", "Which?"), Message("assistant", "It is"))
    messages = fusion_messages(prompt, ["a", "b"])
    assert messages[:2] == prompt
    assert [message.role for message in messages] == ["user", "assistant", "user"]


# Prompts that are too long.


@pytest.mark.parametrize("most", [330, 500, 900, 3000])
def test_prompts_that_would_not_fit_are_fused_in_groups(most):
    """Every prompt is within the limit, every candidate is used, and one reply is left."""
    rng = random.Random(most)
    texts = [f"{i} " + "x" * rng.randrange(1, 400) for i in range(30)]

    def fused(request):
        listed = request.messages[-1].content.split('<candidate number="1">\n')[1]
        return f"{listed.split()[0]}00 fused"

    chat = scripted(texts, fused)
    fusion = LLMFusion(max_prompt_tokens=most)
    result, usage, _ = run(chat, 30, fusion=fusion, program={"parse": lambda text, _: text})
    prompts = fusions(chat)
    assert all(estimated_tokens(text) <= most for text in prompts)
    assert result.startswith("000")
    assert usage.calls == 30 + len(prompts)
    assert all(any(text in prompt for prompt in prompts) for text in texts[:-1])


def test_the_fallback_is_used_if_no_two_candidates_fit():
    """No fusion is requested."""
    chat = scripted(["5", "3", "3"])
    result, usage, _ = run(chat, 3, fusion=LLMFusion(max_prompt_tokens=10))
    assert result == 3
    assert usage.calls == 3
    assert not fusions(chat)


def test_groups_with_equal_fusions_need_no_further_fusion():
    """Fused replies are deduplicated by their parsed samples."""
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


# Failures.


def test_a_malformed_fusion_is_counted_and_the_fallback_is_used():
    """The instance does not fail."""
    chat = scripted(["5", "3", "3"], "I cannot decide")
    result, usage, evaluation = run(chat, 3)
    assert result == 3
    assert (usage.malformed, usage.calls, evaluation.failed) == (1, 4, 0)


def test_a_refused_fusion_is_no_failure():
    """The fallback is used if the server refuses the long prompt."""
    chat = scripted(["5", "3", "3"], lambda request: ChatRefusedError("too long"))
    result, usage, evaluation = run(chat, 3, fusion=LLMFusion(fallback=max))
    assert result == 5
    assert evaluation.failed == usage.malformed == 0
    assert (usage.calls, usage.generated) == (3, 3)


@pytest.mark.parametrize("failure", ["unreadable", ChatRefusedError("no")])
def test_a_group_that_cannot_be_fused_is_not_left_out(failure):
    """If one of several groups fails, the fallback aggregates all samples."""
    texts = [f"{i}{'1' * 300}" for i in range(6)]

    def fused(request):
        return failure if texts[0] in request.messages[-1].content else "5"

    chat = scripted(texts, fused)
    fusion = LLMFusion(max_prompt_tokens=400, fallback=min)
    result, _, evaluation = run(chat, 6, fusion=fusion)
    assert result == int(texts[0])
    assert evaluation.failed == 0


@pytest.mark.parametrize("fused", ["[7]", "nonsense"])
def test_unhashable_samples_are_fused_and_counted(fused):
    """Lists and dictionaries work in fusion and fallback."""

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
    """TGI returns 422 for a prompt beyond its context; the fallback is used."""
    chat = scripted(["5", "3", "3"])
    limits = ServerLimits(max_input_tokens=20, max_total_tokens=300)
    with LoopbackServer({"m": chat}, limits=limits, dialect="tgi") as server:
        endpoint = connect_endpoints(["m"], server.url)["m"]
        result, _, evaluation = run(endpoint, 3)
        assert server.served["/v1/chat/completions"] == 4
    assert result == 3
    assert evaluation.failed == 0
    assert not fusions(chat)


# Costs.


def test_fusion_and_repair_are_charged():
    """Tokens, calls and spend include all requests, at their actual lengths."""

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
    # The second time everything is reused, including fusion and repair.
    assert (again.generated_tokens, again.spend, again.reused) == (0, 0, 1)
    assert again.naive_tokens == evaluation.naive_tokens
    assert len(chat.requests) == 4


def test_invalid_limits_are_rejected():
    """The error has the argument and its value."""
    with pytest.raises(PipelineError, match="`max_prompt_tokens` must be at least 1, got 0"):
        LLMFusion(max_prompt_tokens=0)
