"""Tune how long models think, beside the model and the number of samples.

Shows: models at thinking efforts, on servers that read efforts in three ways; a check; a search.
Needs: `pip install .`, nothing else: models are simulated, and served on 127.0.0.1.
Takes: about twenty seconds.
"""

import argparse
import contextlib

import optuna

from optuna_agenttts import AgentTTSSampler, Model, PrintTrials, Stage, Task, efforts, recommend
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations import LoopbackServer, Pipeline, StageProgram
from optuna_agenttts_integrations.tasks.benchmark import Benchmark
from optuna_agenttts_integrations.testing.simulated_thinking import SimulatedThinking
from optuna_agenttts_integrations.testing.simulation import simulated_models

TOKENS = {"off": 0, "low": 60, "high": 360}  # of thoughts, until they are measured
FOUND_OUT = dict.fromkeys(TOKENS)  # None: the fields that the server reads are found out
SMALL, MIDDLE, LARGE = "Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B"
MODELS = [
    *efforts(
        Model(SMALL, parameters=1.7e9),
        off={"chat_template_kwargs": {"enable_thinking": False}},
        low={"thinking_token_budget": 60},
        high={"thinking_token_budget": 360},
        tokens=TOKENS,
    ),
    *efforts(Model(MIDDLE, parameters=8e9), **FOUND_OUT, tokens=TOKENS),
    *efforts(Model(LARGE, parameters=32e9), **FOUND_OUT, tokens=TOKENS),
]
DIALECTS = {SMALL: "vllm", MIDDLE: "provider", LARGE: "openai"}
# Probabilities that a sample is right without thoughts.
PLAN, ANSWER = {SMALL: 0.25, MIDDLE: 0.35, LARGE: 0.45}, {SMALL: 0.60, MIDDLE: 0.75, LARGE: 0.80}
# Thoughts remove up to 80 % of the errors in plans, and few of those in answers.
THINKING = SimulatedThinking(gain={"plan": 0.8, "answer": 0.1}, scale=100, tokens=TOKENS)


def program(name):
    """Return a stage; simulated models recognize it by the system message."""
    ask = Message("system", f"Stage: {name}")
    return StageProgram(name=name, prompt=lambda s: [ask, Message("user", s.instance)])


def reply(instance, *, stage, prompt, right, rng):
    """Write the reply of a simulated model."""
    return "right" if right else f"wrong {rng.randint(1, 4)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lengths = {"models": MODELS, "prompt_tokens": 10, "generation_tokens": 4, "max_samples": 8}
    stages, programs = zip(*((Stage(x, **lengths), program(x)) for x in ("plan", "answer")))
    task = Task(name="thinking", stages=stages, budget=300, metric="accuracy")
    questions = tuple(f"Question {number}?" for number in range(100, 140))
    pipeline = Pipeline(stages=programs, score=lambda s: s["plan"] == s["answer"] == "right")
    made = Benchmark(task=task, pipeline=pipeline, search=questions, held_out=())
    levels = {name: {"plan": PLAN[name], "answer": ANSWER[name]} for name in DIALECTS}
    models = simulated_models(made, levels, reply=reply, quote=str, thinking=THINKING)
    with contextlib.ExitStack() as stack:
        servers = {x: LoopbackServer({x: models[x]}, thinking=DIALECTS[x]) for x in DIALECTS}
        places = {name: stack.enter_context(server).url for name, server in servers.items()}
        objective = stack.enter_context(made.objective(places))
        print(objective.check())
        kept = {"study_name": "thinking", "storage": "sqlite:///thinking.db"}
        how = {"sampler": AgentTTSSampler(seed=0), "direction": "maximize"}
        study = optuna.create_study(**kept, **how, load_if_exists=True)
        study.optimize(objective, n_trials=options.trials, callbacks=[PrintTrials()])
        print(recommend(study))
    print("\nNext:  agenttts report thinking.db --html thinking.html  (curves over thinking)")
    print("       optuna-dashboard sqlite:///thinking.db")


if __name__ == "__main__":
    main()
