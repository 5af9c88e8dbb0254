"""Searches whose trials are pinned, so that moving code cannot change what is proposed.

``python tests/core/pinned_searches.py`` writes `PINNED` anew, where a change is meant to change
searches. ``--many FILE`` writes many more searches, with every digit, to compare two checkouts by
``diff``.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "search_quality"))

from agents import PromptSampler
from attentive import as_reply, attentive
from landscapes import landscape

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, recommend

PINNED = Path(__file__).parent / "pinned_searches.json"
TRIALS, INSTANCES = 14, 50
CHOSEN = [
    ("calibrated", 0, ""),
    ("calibrated", 3, ""),
    ("random", 1, ""),
    ("random", 7, ""),
    ("violating", 0, ""),
    ("violating", 5, ""),
    ("playground", 0, ""),
    ("playground", 0, "agent"),
    ("calibrated", 1, "agent"),
    ("random", 2, "stopped"),
]
"""Family and index of a landscape, and what is special about the search: an agent plans, or every
third trial is stopped after ten instances."""


def search(family, index, special, trials=TRIALS, seed=0):
    """Run one search; return each trial's allocation, who proposed it and why, and the winner."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    place = landscape(family, index)
    task = place.task
    llm = None
    if special == "agent":
        llm = ScriptedChatModel(
            lambda request: as_reply(task, attentive(task, request.messages[1].content))
        )
    # Rounds are waited for: otherwise a slow machine would leave trials to the planner.
    sampler = AgentTTSSampler if llm is None else PromptSampler
    study = optuna.create_study(direction="maximize", sampler=sampler(task, llm=llm, seed=seed))
    steps = []
    for number in range(trials):
        trial = study.ask()
        allocation = task.suggest(trial)
        choices = task.choices(allocation)
        models, samples = np.array(choices).T
        outcomes = place.outcomes(models, samples, seed, INSTANCES)
        stopped = special == "stopped" and number % 3 == 2
        outcomes = outcomes[:10] if stopped else outcomes
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome, step)
        if stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, float(outcomes.mean()))
        attributes = study.trials[-1].user_attrs
        steps.append(
            {
                "allocation": [list(map(int, choice)) for choice in choices],
                "origin": attributes["agenttts:origin"],
                "reason": attributes["agenttts:reason"],
            }
        )
    found = recommend(study, task)
    return {
        "trials": steps,
        "recommended": [list(map(int, choice)) for choice in task.choices(found.allocation)],
        "value": repr(float(found.value)),
        "interval": [repr(float(end)) for end in found.interval],
        "ties": [repr(tie) for tie in found.ties],
    }


def key(family, index, special):
    """Return the name of a pinned search."""
    return f"{family} {index} {special}".strip()


def pinned(found):
    """Return what is pinned of a search: no text, and no digits that other machines round away."""
    return {
        "trials": [step["allocation"] for step in found["trials"]],
        "origins": [step["origin"] for step in found["trials"]],
        "recommended": found["recommended"],
        "value": round(float(found["value"]), 6),
    }


def main():
    """Write the pinned searches, or many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=Path)
    options = parser.parse_args()
    if options.many is None:
        values = {key(*chosen): pinned(search(*chosen)) for chosen in CHOSEN}
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
        PINNED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return
    jobs = [
        (family, index, special)
        for family, count in (("calibrated", 6), ("random", 6), ("violating", 8))
        for index in range(count)
        for special in ("", "agent", "stopped")
    ]
    jobs += [("playground", 0, special) for special in ("", "agent", "stopped")]
    values = {key(*job): search(*job, trials=25) for job in jobs}
    options.many.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
