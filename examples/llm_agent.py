"""Let a language model plan the search, and print what it concluded.

Shows: rounds of the agent, its guidelines, and how often it was right. The pipeline is that of
    own_objective.py.
Needs: `pip install .`, nothing else: a scripted model plans. ``--llm Qwen/Qwen2.5-72B-Instruct``
    asks Hugging Face Inference Providers (set HF_TOKEN), and ``--llm http://127.0.0.1:8080`` a
    TGI or OpenAI-compatible server.
Takes: about ten seconds with the scripted model.
"""

import argparse
import json
import random

import optuna
from own_objective import objective, task

from optuna_agenttts import AgentTTSSampler, PrintTrials, ScriptedChatModel, explain, summarize


def script(request):
    """Write the replies of the scripted model."""
    script.rounds += 1
    candidates = [
        {
            "allocation": {
                "retrieval": {"model": "Qwen/Qwen2.5-72B-Instruct", "samples": 1},
                "answer": {
                    "model": "meta-llama/Llama-3.2-3B-Instruct",
                    "samples": 4 + 7 * script.rounds + 3 * i,
                },
            },
            "reason": "good passages let a small model peak at about a dozen samples",
        }
        for i in range(8)
    ]
    lines = [
        "Retrieval: the 72B model is ahead of the 7B model by far more than the errors.",
        "Answer: the 3B model saturates at 8 to 16 samples once retrieval is good.",
    ]
    return json.dumps({"guidelines": lines, "candidates": candidates})


script.rounds = 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", help="model ID of the Hub, or URL of a server")
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rng = random.Random(0)
    sampler = AgentTTSSampler(task, llm=options.llm or ScriptedChatModel(script))
    study = optuna.create_study(
        study_name="llm_agent",
        storage="sqlite:///llm_agent.db",
        load_if_exists=True,
        direction="maximize",
        sampler=sampler,
    )
    study.optimize(
        lambda trial: objective(trial, rng), n_trials=options.trials, callbacks=[PrintTrials()]
    )
    explain(study)  # in optuna-dashboard
    print(f"\n{summarize(study)}")
    print("\nNext:  agenttts report llm_agent.db --html llm_agent.html  (guidelines and figures)")
    print("       optuna-dashboard sqlite:///llm_agent.db  (the study in a browser)")
    print("       give --llm a model, to see what a real one proposes")


if __name__ == "__main__":
    main()
