"""The playground's models in Hugging Face form: the same in `transformers`, and behind its server.

Outcomes are compared with those in process by their means: `transformers serve` seeds a generator
that all requests share, so that what a seed gives depends on what else is asked for.
"""

import copy
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from optuna_agenttts.llm import ChatRequest, HuggingFaceChat, Message
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts_integrations import MultiStageObjective
from optuna_agenttts_integrations.calls.endpoints import Endpoint
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground import (
    make_endpoints,
    make_objective,
    make_pipeline,
    make_problems,
    make_task,
)
from optuna_agenttts_integrations.playground.export import export_hugging_face
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    TEMPERATURE,
    WEIGHTS,
    load,
)
from optuna_agenttts_integrations.playground.problems import answer_prompt, retrieval_prompt
from optuna_agenttts_integrations.playground.vocabulary import ANSWER, RETRIEVAL

sys.path.insert(0, str(Path(__file__).parent.parent))
from real_server_support import transformers_serve

NAMES = RETRIEVERS + ANSWERERS
RETRIEVER, ANSWERER = "retriever-96k", "answerer-22k"
ALLOCATION = {"retrieval": (RETRIEVER, 1), "answer": (ANSWERER, 2)}
PROBLEMS = make_problems("search", 200)
MAX_TOKENS = 20


def vocabulary_of(name):
    """Return the vocabulary of a model."""
    return RETRIEVAL if name in RETRIEVERS else ANSWER


def prompts_of(name, count):
    """Prompts as a model gets them in the pipeline, given the right lines."""
    for problem in PROBLEMS[:count]:
        if name in RETRIEVERS:
            yield retrieval_prompt(problem.titles, problem.concept)
        else:
            lines = [problem.contents[line] for line in problem.relevant]
            yield answer_prompt(lines, problem.question)


def greedy(name, prompt):
    """Return the reply in process, as tokens."""
    vocabulary = vocabulary_of(name)
    (reply,) = load(name).generate(
        [(vocabulary.encode(prompt), 1)],
        temperature=0,
        max_new_tokens=MAX_TOKENS,
        stop_token=vocabulary.end,
    )
    return reply


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Where all models are, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("exported")
    for name in NAMES:
        assert export_hugging_face(name, folder / name) == folder / name
    return folder


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, exported):
    """Return a model's name, and model and tokenizer as `transformers` loads them."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = exported / request.param
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return request.param, model, transformers.AutoTokenizer.from_pretrained(folder)


def test_weights_are_the_very_same(exported):
    """Byte for byte."""
    for name in NAMES:
        file = f"{name}/model.safetensors"
        assert (exported / file).read_bytes() == (WEIGHTS / file).read_bytes()


def test_tokenizer_is_the_vocabulary(loaded):
    """The chat template adds nothing; tokens and texts of all words are the vocabulary's."""
    name, _, tokenizer = loaded
    vocabulary = vocabulary_of(name)
    assert len(tokenizer) == len(vocabulary)
    for prompt in [*prompts_of(name, 20), " ".join(vocabulary.words[::-1])]:
        messages = [{"role": "system", "content": "x"}, {"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        expected = vocabulary.encode(prompt)
        assert text == prompt
        assert tokenizer(text)["input_ids"] == expected
        assert tokenizer.decode(expected) == vocabulary.decode(expected) == prompt


def test_replies_are_read_as_the_vocabulary_reads_them(loaded):
    """The end is left out, and nothing else is: neither padding nor blanks around signs."""
    name, _, tokenizer = loaded
    vocabulary = vocabulary_of(name)
    words = [number for number in range(len(vocabulary)) if number != vocabulary.end]
    text = tokenizer.decode([*words, vocabulary.end], skip_special_tokens=True)
    assert text == vocabulary.decode(words)


@pytest.mark.parametrize("text", ["1 Bonjour", "1 2.", "<unknown>", "<unk>"])
def test_unknown_words_are_refused(loaded, text):
    """They are an error, as they are in process, and not some other word."""
    name, _, tokenizer = loaded
    with pytest.raises(ValueError, match="unknown word"):
        vocabulary_of(name).encode(text)
    with pytest.raises(Exception, match="WordLevel"):
        tokenizer(text)


def test_logits_are_the_playgrounds(loaded):
    """On real prompts, to 1e-4, as loaded without any option."""
    name, model, tokenizer = loaded
    for prompt in prompts_of(name, 10):
        tokens = tokenizer(prompt, return_tensors="pt")
        found = model(**tokens).logits.detach().numpy()
        np.testing.assert_allclose(found, load(name).logits(tokens.input_ids.numpy()), atol=1e-4)


def test_greedy_replies_are_the_playgrounds(loaded):
    """Token by token, and the end ends them."""
    name, model, tokenizer = loaded
    for prompt in prompts_of(name, 10):
        tokens = tokenizer(prompt, return_tensors="pt")
        found = model.generate(**tokens, do_sample=False, max_new_tokens=MAX_TOKENS)
        reply = found[0, tokens.input_ids.shape[1] :].tolist()
        expected = [*greedy(name, prompt), vocabulary_of(name).end]
        assert reply == expected[:MAX_TOKENS]


def test_replies_are_sampled_at_a_temperature_and_by_nothing_else(loaded):
    """Every token keeps the probability that its logit and the temperature give it."""
    name, model, tokenizer = loaded
    (prompt,) = prompts_of(name, 1)
    tokens = tokenizer(prompt, return_tensors="pt")
    logits = load(name).logits(tokens.input_ids.numpy())[:, -1]
    assert model.generation_config.do_sample
    for temperature in (TEMPERATURE, 2.0):
        config = copy.deepcopy(model.generation_config)
        assert config.temperature == TEMPERATURE
        config.update(
            temperature=temperature,
            max_new_tokens=1,
            output_scores=True,
            return_dict_in_generate=True,
        )
        (scores,) = model.generate(**tokens, generation_config=config).scores
        np.testing.assert_allclose(scores.numpy(), logits / temperature, atol=1e-4)


def test_unknown_models_are_refused(tmp_path):
    """Before anything is written."""
    with pytest.raises(PipelineError, match="'gpt'"):
        export_hugging_face("gpt", tmp_path / "gpt")
    assert not (tmp_path / "gpt").exists()


def test_command_writes_what_the_function_writes(exported, tmp_path):
    """And an unknown name is a usage error that lists the known ones."""
    command = [sys.executable, "-m", "optuna_agenttts_integrations.playground", "export"]
    subprocess.run([*command, ANSWERER, tmp_path / "a" / "b"], check=True, capture_output=True)
    written = {file.name: file.read_bytes() for file in (tmp_path / "a" / "b").iterdir()}
    assert written == {f.name: f.read_bytes() for f in (exported / ANSWERER).iterdir()}
    refused = subprocess.run([*command, "gpt", tmp_path / "c"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert RETRIEVER in refused.stderr


@pytest.fixture(scope="module")
def url(exported):
    """Start a real server in the folder of the models, pinned to none."""
    for library in ("torch", "transformers", "uvicorn"):
        pytest.importorskip(library)
    with transformers_serve(exported) as url:
        yield url


@pytest.mark.parametrize("name", [RETRIEVER, ANSWERER])
def test_server_gives_the_replies_and_token_counts_of_the_process(url, name):
    """Greedy replies are the same texts, and as many tokens are counted."""
    chat = HuggingFaceChat(name, base_url=url, timeout=60)
    loop = LoopThread(chat.aclose)
    for prompt in prompts_of(name, 8):
        request = ChatRequest(
            model=name,
            messages=(Message("user", prompt),),
            max_tokens=MAX_TOKENS,
            temperature=0,
        )
        expected = loop.run(make_endpoints()[name].chat.complete(request, seed=1))
        found = loop.run(chat.complete(request, seed=1))
        assert (found.text, found.usage) == (expected.text, expected.usage)
    loop.close()


def test_server_gives_the_mean_outcome_of_the_process(url):
    """Through the objective, to 3.5 standard errors of what chance does on these problems.

    Tokens are as many to 5 %: their number varies by 1 % from seed to seed.
    """
    by_problem, tokens = defaultdict(list), []
    repeats = 10
    for seed in range(repeats):
        with make_objective(problems=PROBLEMS, seed=seed) as objective:
            evaluation = objective.evaluate(ALLOCATION)
        tokens.append(evaluation.generated_tokens)
        for name, result in evaluation.results.items():
            by_problem[name].append(result.outcome)
    outcomes = np.array(list(by_problem.values()))
    variance = outcomes.var(axis=1, ddof=1).sum() / len(PROBLEMS) ** 2
    endpoints = {
        name: Endpoint(
            chat=HuggingFaceChat(name, base_url=url, timeout=60),
            identity=f"transformers serve: {name}",
        )
        for name in NAMES
    }
    with MultiStageObjective(
        make_pipeline(), PROBLEMS, task=make_task(), endpoints=endpoints
    ) as objective:
        served = objective.evaluate(ALLOCATION)
    assert served.failed == 0
    error = math.sqrt(variance * (1 + 1 / repeats))
    assert abs(served.mean - outcomes.mean()) < 3.5 * error
    assert served.generated_tokens == pytest.approx(np.mean(tokens), rel=0.05)
