"""Find models and numbers of samples for two stages of an LLM pipeline, under a budget."""

from __future__ import annotations

import optuna
import optunahub


module = optunahub.load_module("samplers/agenttts")

small = module.Model("small-7B", parameters=7e9)
large = module.Model("large-72B", parameters=72e9)
task = module.Task(
    name="qa",
    budget=900,
    stages=[
        module.Stage(
            "retrieval", models=[small, large], prompt_tokens=2048, generation_tokens=128
        ),
        module.Stage("answer", models=[small, large], prompt_tokens=256, generation_tokens=64),
    ],
)


def objective(trial: optuna.Trial) -> float:
    stages = task.suggest(trial)
    # Run the pipeline with these models and numbers of samples here. This is a simulation.
    found = 0.7 if stages["retrieval"].model == "large-72B" else 0.4
    return found * (1 - 0.5 / stages["answer"].samples ** 0.5)


if __name__ == "__main__":
    sampler = module.AgentTTSSampler(task)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=20)
    print(module.recommend(study))
