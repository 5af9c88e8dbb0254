"""One process that runs for long: its memory, and the time of an ask."""

import statistics
import time
from pathlib import Path

import optuna
from stress_support import temporary_folder

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import (
    CompletionStore,
    MultiStageObjective,
    Pipeline,
    StageProgram,
    connect_endpoints,
)
from optuna_agenttts_integrations.playground import make_task

COMPLETIONS_PER_TRIAL = 50
MOST_GROWTH = 1.25
"""Largest factor by which memory may grow over the last three quarters of the trials; the trials
themselves are kept by Optuna."""


class Instant:
    """Model that replies at once, differently each time."""

    async def complete(self, request, *, seed):
        return Completion(f"Answer {seed % 3} {'because ' * 20}", Usage(50, 25))


def resident():
    """Return the resident memory of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def long_search(trials):
    """Run trials that each generate 50 completions, into one store on disk."""
    task = make_task()
    pipeline = Pipeline(
        stages=[
            StageProgram(name="retrieval", prompt=lambda q: str(q.instance)),
            StageProgram(name="answer", prompt=lambda q: f"{q.instance} {q['retrieval'][:9]}"),
        ],
        score=lambda q: float(q["answer"].startswith("Answer 1")),
    )
    with temporary_folder() as folder:
        store = CompletionStore(f"{folder}/store.db")
        objective = MultiStageObjective(
            pipeline,
            ["an instance of the search"],
            task=task,
            endpoints=connect_endpoints(task, Instant()),
            store=store,
            progress=False,
            measure_after=None,
        )
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
        sampler = AgentTTSSampler(task, seed=0, explain=False)
        study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler)
        memory, seconds = [], []
        for number in range(trials):
            started = time.perf_counter()
            trial = study.ask()
            allocation = task.suggest(trial)
            seconds.append(time.perf_counter() - started)
            samples = sum(setting.samples for setting in allocation.values())
            # Fresh instances for each trial, so that nothing is reused.
            count = -(-COMPLETIONS_PER_TRIAL // samples)
            fresh = [f"trial {number}, instance {index}" for index in range(count)]
            study.tell(trial, objective.evaluate(allocation, fresh).mean)
            memory.append(resident())
        generated = len(store)
        objective.close()
        store.close()
        storage.engine.dispose()
    quarter = trials // 4
    early, late = max(memory[: quarter + 1]), max(memory[quarter:])
    first, last = seconds[: max(1, trials // 10)], seconds[-max(1, trials // 10) :]
    text = (
        f"{trials:,} trials, {generated:,} completions; {early:.0f} MB after a quarter, "
        f"{late:.0f} MB at the end; median ask {1000 * statistics.median(first):.0f} ms at first, "
        f"{1000 * statistics.median(last):.0f} ms at the end"
    )
    return text, late > MOST_GROWTH * early
