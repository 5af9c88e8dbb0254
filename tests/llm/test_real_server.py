"""A real server that is not ours: `transformers serve` over a tiny model with random weights."""

import sys
from pathlib import Path

import optuna
import pytest

from optuna_agenttts import AgentTTSSampler, HuggingFaceChat, guidelines
from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts.llm.loop import LoopThread

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "core"))
from core_support import allocation_of, objective, wiki_task
from real_server_support import transformers_serve

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("uvicorn")
tokenizers = pytest.importorskip("tokenizers")

TASK = wiki_task()


def write_model(folder):
    """Write a Llama of two layers with random weights, and a tokenizer of bytes."""
    level = tokenizers.pre_tokenizers.ByteLevel
    words = ["<unk>", "<s>", "</s>", *sorted(level.alphabet())]
    model = tokenizers.models.BPE(
        vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        bos_token_id=1,
        eos_token_id=2,
    )
    llama = transformers.LlamaForCausalLM(config)
    llama.generation_config.do_sample = True
    llama.generation_config.top_k = 0
    llama.save_pretrained(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start the server; yields its URL and the model's name."""
    folder = tmp_path_factory.mktemp("served")
    write_model(folder / "tiny")
    model = str(folder / "tiny")
    with transformers_serve(folder, model) as url:
        yield url, model


def test_completion_from_a_real_server(server):
    """Text, usage and finish reason come through, and the token bound is kept."""
    url, model = server
    chat = HuggingFaceChat(model, base_url=url, timeout=60)
    loop = LoopThread(chat.aclose)
    request = ChatRequest(
        model="", messages=(Message("user", "Say something."),), max_tokens=12, temperature=0.7
    )
    completion = loop.run(chat.complete(request, seed=1))
    loop.close()
    assert completion.text
    assert 0 < completion.usage.completion_tokens <= 12
    assert completion.usage.prompt_tokens > 10


def test_efforts_reach_the_chat_template_of_a_real_server(server):
    """It refuses what it does not know, all fields by name, and ignores `reasoning_effort`."""
    url, model = server
    chat = HuggingFaceChat(model, base_url=url, timeout=60)
    loop = LoopThread(chat.aclose)
    prompts = {}
    for effort in (None, "low", "off", 1024):
        request = ChatRequest(
            model="",
            messages=(Message("user", "Say something."),),
            max_tokens=2,
            temperature=0.7,
            thinking=effort,
        )
        prompts[effort] = loop.run(chat.complete(request, seed=1)).usage.prompt_tokens
    loop.close()
    assert prompts["low"] == prompts[1024] == prompts[None]
    assert prompts["off"] == prompts[None] + len("<think></think>")
    assert chat.negotiated()["thinking"] == "reasoning_effort chat_template_kwargs"


def test_search_with_a_real_server(server, monkeypatch):
    """It connects and is asked; a model this small proposes nothing, and no trial is lost."""
    url, model = server
    monkeypatch.delenv("OPTUNA_AGENTTTS_LLM", raising=False)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = AgentTTSSampler(TASK, llm=f"{url}#{model}", llm_timeout=100)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=14)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 14
    assert all(TASK.fits(allocation_of(trial)) for trial in study.trials)
    planned = guidelines(study)
    # Later rounds may still be under way when the search ends.
    assert [p.number for p in planned][:1] == [0]
    assert planned[0].completion_tokens > 0
    assert planned[0].candidates or planned[0].problems
