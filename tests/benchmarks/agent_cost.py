"""What the agent costs in requests, tokens and waiting: a search with a slow model.

``python tests/benchmarks/agent_cost.py [--trials 50] [--llm 5] [--trial 10] [--storage URL]
[--when auto]``

The model is scripted, takes some seconds for a reply and proposes what the grid says is good;
trials take some seconds too. Tokens are counted at four characters each.
"""

import argparse
import json
import time

import numpy as np
import optuna
from agent_search import landscape

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, guidelines
from optuna_agenttts.agent.pace import ROUND_SIZE


def main():
    """Run the search and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--llm", type=float, default=5.0, help="seconds for a reply")
    parser.add_argument("--trial", type=float, default=10.0, help="seconds for a trial")
    parser.add_argument("--storage", default=None)
    parser.add_argument("--when", choices=("auto", "always"), default="always")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task, positions, keys, outcomes, truth = landscape()
    order = np.argsort(-truth, kind="stable")[:400].tolist()
    tried = []

    def script(request):
        candidates = [
            {
                "allocation": {
                    stage: {"model": setting.model, "samples": setting.samples}
                    for stage, setting in task.allocation(keys[i]).items()
                },
                "reason": "the grid says so",
            }
            for i in [i for i in order if i not in tried][:8]
        ]
        lines = [f"guideline {i}: a sentence of the usual length with .1 ± .05" for i in range(8)]
        return json.dumps({"guidelines": lines, "candidates": candidates})

    chat = ScriptedChatModel(script, delay=options.llm)
    study = optuna.create_study(
        direction="maximize",
        storage=options.storage,
        sampler=AgentTTSSampler(task, llm=chat, llm_when=options.when),
    )
    waits = []
    for _ in range(options.trials):
        started = time.perf_counter()
        trial = study.ask()
        choices = tuple(task.choices(task.suggest(trial)))
        waits.append(time.perf_counter() - started)
        values = outcomes[positions[choices], :50].astype(float)
        for step, value in enumerate(values):
            trial.report(value, step)
        time.sleep(options.trial)
        study.tell(trial, float(values.mean()))
        tried.append(positions[choices])
    rounds = guidelines(study)
    characters = [sum(len(m.content) for m in request.messages) for request in chat.requests]
    later = np.array(waits[2 * ROUND_SIZE :]) * 1e3
    print(f"requests: {len(chat.requests)} for {options.trials} trials, {len(rounds)} rounds")
    print(f"characters of the last prompt: {characters[-1]} (about {characters[-1] // 4} tokens)")
    print(f"tokens in all: {sum(r.prompt_tokens + r.completion_tokens for r in rounds)}")
    print(
        f"ask and suggest after the first round: median {np.median(later):.1f} ms, 90 % below "
        f"{np.percentile(later, 90):.1f} ms, longest {later.max():.0f} ms"
    )
    print(f"longest before: {max(waits[: 2 * ROUND_SIZE]) * 1e3:.0f} ms")
    agents = sum(t.user_attrs.get("agenttts:origin") == "agent" for t in study.trials)
    print(f"trials that the agent proposed: {agents}")


if __name__ == "__main__":
    main()
