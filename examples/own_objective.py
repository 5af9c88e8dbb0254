"""Replace TPE by AgentTTSSampler for any pipeline: describe the stages, return a score.

Shows: a task with two stages, an objective that suggests an allocation and reports the outcome of
    each question, a recommendation. The pipeline is a formula: replace it by your own calls.
Needs: `pip install .`, nothing else.
Takes: about ten seconds.
"""

import math
import random

import optuna

from optuna_agenttts import AgentTTSSampler, Model, PrintTrials, Stage, Task, recommend

task = Task(
    name="wiki-qa",
    description="Pick the passages that help, then answer the question from them.",
    stages=[
        Stage(
            "retrieval",
            models=[
                Model("Qwen/Qwen2.5-7B-Instruct", parameters=7e9),
                Model("Qwen/Qwen2.5-72B-Instruct", parameters=72e9),
            ],
            prompt_tokens=2048,
            generation_tokens=128,
        ),
        Stage(
            "answer",
            models=[
                Model("meta-llama/Llama-3.2-3B-Instruct", parameters=3e9),
                Model("meta-llama/Llama-3.1-70B-Instruct", parameters=70e9),
            ],
            prompt_tokens=256,
            generation_tokens=64,
        ),
    ],
    metric="exact match",
)


def my_pipeline(allocation, rng):
    """Simulate a pipeline on fifty questions, from easy to hard: 1 for each right answer."""
    retriever, answerer = allocation["retrieval"], allocation["answer"]
    found = (0.5 if "72B" in retriever.model else -0.8) + 0.15 * math.log(retriever.samples)
    peak = 12 if found > 0 else 40
    gain = 0.3 * math.log(min(answerer.samples, peak))
    level = found + gain + (0.3 if "70B" in answerer.model else 0.0) - 0.6
    return [int(rng.random() < 1 / (1 + math.exp(q / 12 - 2 - level))) for q in range(50)]


def objective(trial, rng):
    """Return the mean score of a trial's allocation."""
    outcomes = my_pipeline(task.suggest(trial), rng)
    for question, outcome in enumerate(outcomes):
        # Optional: with the outcomes of questions, the recommendation has an interval.
        trial.report(outcome, step=question)
    return sum(outcomes) / len(outcomes)


def main():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = random.Random(0)
    study = optuna.create_study(
        study_name="own_objective",
        storage="sqlite:///own_objective.db",
        load_if_exists=True,
        direction="maximize",
        sampler=AgentTTSSampler(task),
    )
    study.optimize(lambda trial: objective(trial, rng), n_trials=30, callbacks=[PrintTrials()])
    print(recommend(study))
    print("\nNext:  agenttts report own_objective.db --html own_objective.html  (a web page)")
    print("       optuna-dashboard sqlite:///own_objective.db  (the study in a browser)")
    print("       replace `my_pipeline` by your calls, or see own_pipeline.py for prompts")


if __name__ == "__main__":
    main()
