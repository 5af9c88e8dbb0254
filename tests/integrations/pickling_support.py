"""Objects that are pickled, and functions that other processes run on them."""

import os
import pickle
from functools import partial

import optuna

from optuna_agenttts import AgentTTSSampler, HuggingFaceChat
from optuna_agenttts.llm import RetryingChatModel, ScriptedChatModel
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.calls.embeddings import HashingEmbedder
from optuna_agenttts_integrations.playground import make_objective, make_problems
from optuna_agenttts_integrations.scoring.sandbox import Sandbox
from optuna_agenttts_integrations.tasks import (
    chat_dev,
    cwq,
    hotpot_qa,
    sample_path,
    task_bench,
    two_wiki,
    web_qsp,
)
from optuna_agenttts_integrations.testing.simulation import simulated_models

KEY = "hf_literal_key_that_stays_here"
VARIABLE = "AGENTTTS_TEST_KEY"


def key_function():
    """Return a key, for tests of functions that are pickled by name."""
    return KEY


def _tools(domain):
    return {
        "source": sample_path(f"task_bench{domain}.json"),
        "tools": sample_path(f"task_bench{domain}_tools.json"),
        "search": 3,
    }


BENCHMARKS = {
    "two_wiki": lambda: two_wiki(sample_path("two_wiki.json"), search=3),
    "hotpot_qa": lambda: hotpot_qa(sample_path("hotpot_qa.json"), search=3, fusion=False),
    "cwq": lambda: cwq(sample_path("cwq.json"), search=3),
    "web_qsp": lambda: web_qsp(sample_path("web_qsp.json"), search=3, fusion=False),
    "daily": lambda: task_bench(**_tools("")),
    "multimedia": lambda: task_bench(
        **_tools("_multimedia"), domain="multimedia", fusion=False, metric="node F1"
    ),
    "chat_dev": lambda: chat_dev(sample_path("software.csv"), search=3, fusion=False),
    "chat_dev, embedded": lambda: chat_dev(
        sample_path("software.csv"), search=3, embedder=HashingEmbedder()
    ),
    "chat_dev, sandboxed": lambda: chat_dev(
        sample_path("software.csv"), search=2, sandbox=Sandbox(), metric="quality"
    ),
}


def benchmark_objective(name, **options):
    """Return the objective of a benchmark with simulated models."""
    benchmark = BENCHMARKS[name]()
    options = {"progress": False, "store": CompletionStore(), **options}
    return benchmark.objective(simulated_models(benchmark), **options)


def playground_objective(path=":memory:"):
    """Return a small objective of the playground."""
    problems = make_problems("search", 6)
    return make_objective(problems=problems, store=CompletionStore(path), progress=False)


def score(objective):
    """Return the mean outcome of two samples of the first model of each stage."""
    allocation = {stage.name: (stage.models[0].name, 2) for stage in objective.task.stages}
    with objective:
        return objective.evaluate(allocation).mean


def search(study, n_trials, objective):
    """Continue a study, and return the parameters of all its trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with objective:
        study.optimize(objective, n_trials=n_trials)
    return [trial.params for trial in study.trials]


def chat(api_key=None, **options):
    """Return a chat model on a server that is never called."""
    return HuggingFaceChat("m", base_url="http://127.0.0.1:9", api_key=api_key, **options)


def sampler(llm=None, **options):
    """Return a sampler with an agent."""
    return AgentTTSSampler(llm=llm or RetryingChatModel(ScriptedChatModel(["{}"])), **options)


def environment_keys():
    """Return functions that read a key from the environment."""
    return {
        "getenv": partial(os.getenv, VARIABLE),
        "get": partial(os.environ.get, VARIABLE),
        "getitem": partial(os.environ.__getitem__, VARIABLE),
    }


def run_pickled(text):
    """Unpickle a function with its arguments, and return what it returns."""
    function, *arguments = pickle.loads(text)
    return function(*arguments)
