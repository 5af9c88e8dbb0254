"""Tune your own pipeline on your own JSON lines: plain code, a tool, a conditional stage.

Shows: prompts, steps of code, costs in dollars, a check, a search, a score on held-out questions.
Needs: `pip install .`, nothing else: models are simulated, unless --places names real ones.
Takes: about ten seconds.
"""

import argparse
import json
from pathlib import Path

import optuna
from offline_models import calculate, make_offline_models

from optuna_agenttts import AgentTTSSampler, Model, PriceCost, PrintTrials, Task, recommend
from optuna_agenttts_integrations import MultiStageObjective, Pipeline, StageProgram, Step
from optuna_agenttts_integrations import connect_endpoints as connect

MODELS = [  # prices in USD per million tokens; replace them by yours
    Model("Qwen/Qwen2.5-1.5B-Instruct", input_price=0.02, output_price=0.06),
    Model("Qwen/Qwen2.5-7B-Instruct", input_price=0.10, output_price=0.30),
]
PIPELINE = Pipeline(
    stages=[
        Step(name="question", run=lambda state: " ".join(state.instance["question"].split())),
        StageProgram(
            name="formula",
            prompt=lambda s: f"{s['question']}\nWrite the sum that answers this, or 'none'.",
            max_tokens=32,
        ),
        Step(name="value", run=lambda state: calculate(state["formula"])),  # the tool
        StageProgram(
            name="answer",
            prompt=lambda s: f"{s['question']}\nAnswer with one word or number.",
            when=lambda state: state["value"] is None,  # only without a formula
            max_tokens=16,
        ),
    ],
    score=lambda s: float((s["value"] or s["answer"] or "").lower() == s.instance["answer"]),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "questions.jsonl")
    parser.add_argument("--places", help="'hf' or a URL; default: offline, simulated")
    options = parser.parse_args()
    questions = [json.loads(line) for line in options.data.read_text("utf-8").split("\n") if line]
    some = 2 * len(questions) // 3
    search, held_out = questions[:some], questions[some:]  # for the final evaluation
    models, db = {"formula": MODELS, "answer": MODELS}, "sqlite:///own_pipeline.db"
    usd = {"cost": PriceCost(), "budget": 2e-5}  # per question
    task = Task.from_pipeline(PIPELINE, search, models=models, name="sums", **usd)
    places = connect(task, options.places or make_offline_models(questions, task))
    with MultiStageObjective(PIPELINE, search, task=task, endpoints=places) as objective:
        print(objective.check())
        kept = {"study_name": "own_pipeline", "storage": db, "load_if_exists": True}
        study = optuna.create_study(sampler=AgentTTSSampler(), direction="maximize", **kept)
        study.optimize(objective, n_trials=12, callbacks=[PrintTrials()])
        print(best := recommend(study))
        print(objective.evaluate(best.allocation, held_out, baseline=task.complete({})))
        print(f"Next:  agenttts report {db} --html page.html\n       optuna-dashboard {db}")
        print("       --data FILE takes questions of yours, and --places hf real models")


if __name__ == "__main__":
    main()
