"""Sizes of models, as far as their names state them."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts import FlopsCost, MissingFactError, Model, PriceCost, Stage, Task
from optuna_agenttts.task.sizes import size_in_name


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7),
        ("Qwen/Qwen2.5-0.5B", 0.5),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", 72),
        ("h2oai/h2o-danube-1.8b-chat", 1.8),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 0.36),
        ("mistralai/Mistral-7B-Instruct-v0.1", 7),
        ("qwen3:8b", 8),
        ("Qwen/Qwen3-8B:groq", 8),
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", 8),
        ("Llama 3 8B", 8),
        ("meta-llama/Llama-3.1-405B", 405),
        # A decimal point that is another sign.
        ("stabilityai/stablelm-2-1_6b", 1.6),
        ("Qwen/Qwen-1_8B-Chat", 1.8),
        ("qwen_0_5b", 0.5),
        ("llama_2_7b", 7),
        ("internlm/internlm2_5-7b-chat", 7),
        ("bigscience/bloom-7b1", 7.1),
        ("RWKV-5-World-1B5", 1.5),
        ("accounts/fireworks/models/qwen3-0p6b", 0.6),
        # Tokens of the context and of the training.
        ("Qwen/Qwen2.5-14B-Instruct-1M", 14),
        ("TinyLlama-1.1B-intermediate-step-1431k-3T", 1.1),
        ("01-ai/Yi-34B-200K", 34),
        # Active parameters.
        ("Qwen/Qwen3-30B-A3B", 3),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", 22),
        ("Qwen/Qwen1.5-MoE-A2.7B", 2.7),
        ("ibm-granite/granite-3.0-1b-a400m-instruct", 0.4),
        ("tencent/Hunyuan-A13B-Instruct", 13),
        ("google/gemma-3n-E2B-it", 2),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", 17),
        ("qwen3:30b-a3b", 3),
    ],
)
def test_a_stated_size_is_read(name, billions):
    """Of a mixture of experts, the parameters of one token."""
    assert size_in_name(name) == pytest.approx(billions * 1e9, rel=1e-12)
    assert Model(name).parameters == size_in_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("gpt-4o-mini", "claude-3-5-sonnet", "microsoft/Phi-3.5-mini-instruct", "BAAI/bge-m3"),
        *("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
        *("openai/gpt-oss-120b", "gpt-oss:20b", "allenai/OLMoE-1B-7B-0924", "qwen3:30b"),
        *("qwen3-vl:30b", "qwen3-next:80b", "qwen3-coder:480b"),
        *("deepseek-ai/DeepSeek-V3", "deepseek-r1:671b", "inclusionAI/Ling-1T", "kimi-k2:1t"),
        *("llama_3_1_8b", "stablelm-3-4e1t", "Llama-8-bit", "none-0B", "x-" + "9" * 400 + "B"),
    ],
)
def test_what_a_name_does_not_state_is_unknown(name):
    """A mixture's total is not the size that FLOPs follow: the user is asked instead."""
    assert size_in_name(name) is None
    with pytest.raises(MissingFactError, match="parameters="):
        Task(name="t", stages=[stage(Model(name))], cost=FlopsCost())


@given(st.text(max_size=30))
def test_any_name_is_read_or_not(name):
    """Never an error, and never a size of nothing."""
    size = size_in_name(name)
    assert size is None or 0 < size <= 405e9


def stage(*models):
    return Stage("s", models=models, prompt_tokens=256, generation_tokens=64)


def test_a_given_size_goes_before_the_name():
    """It also makes the same task as the name if both are equal."""
    assert Model("small-3B", parameters=5e9).parameters == 5e9
    assert Model("small-3B") == Model("small-3B", parameters=3e9)


def test_costs_without_sizes_need_none():
    """A model of unknown size has a price."""
    model = Model("gpt-4o", input_price=1, output_price=2)
    assert Task(name="t", stages=[stage(model)], cost=PriceCost()).budget == (256 + 128) / 1e6


def test_the_guess_is_logged_once(caplog, monkeypatch):
    """So that a wrong one is seen; a size that is given is none."""
    monkeypatch.setattr("optuna_agenttts.task.model._assumed", set())
    caplog.set_level(logging.INFO)
    Model("given-3B", parameters=3e9)
    Model("guessed-3B")
    Model("guessed-3B")
    assert caplog.text.count("assuming") == 1
    assert "guessed-3B: assuming 3e+09 parameters" in caplog.text
