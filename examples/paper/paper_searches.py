"""Searches and curves that continue where a killed run stopped (not an example by itself)."""

import itertools
import json
import os
import re
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait

import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState
from paper_data import SIMILAR, Setting
from paper_methods import EXPERIENCE_TRIALS, METHODS, make_sampler

from optuna_agenttts import guidelines, recommend

PAPER_TEMPERATURE = 0.9
"""The families have temperatures of their own; the paper samples at this one in all stages."""
_ATTEMPTS = 6
"""Trials over the budget, which cost nothing, end a search after this many times its trials."""


@dataclass(frozen=True)
class Case:
    """A benchmark, as arguments that can be sent to another process.

    Args:
        name: Name of the data set.
        options: Arguments of `Setting.benchmark`, as pairs.
        in_usd: Whether costs are API prices.
    """

    name: str
    options: tuple = ()
    in_usd: bool = False


def case_of(name, *, in_usd=False, **options):
    """Return a case; the temperature is that of the paper unless another one is given."""
    return Case(name, tuple({"temperature": PAPER_TEMPERATURE, **options}.items()), in_usd)


@dataclass(frozen=True)
class Job:
    """A search: what it is part of, its case, its method, and its number."""

    experiment: str
    case: Case
    method: str
    seed: int = 0


class Lines(BaseJournalBackend):
    """Journal of one process that does not wait for the disk: a trial takes some forty writes.

    What a killed process has written is kept, apart from half of a line.

    Args:
        path: The file.
    """

    def __init__(self, path):
        self._logs, self._path = [], path
        whole = b""
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if not line.endswith(b"\n"):
                break
            self._logs.append(json.loads(line))
            whole += line
        path.write_bytes(whole)

    def read_logs(self, log_number_from):
        """Return the logs from a number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs):
        """Write logs."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self._logs += map(json.loads, lines)


@dataclass
class Runs:
    """Runs searches and curves, and keeps them in a folder.

    Trials are in ``studies/*.log``, completions in ``completions.db``, points of curves and scores
    of best trials in ``points.jsonl``: a second run takes all of them from there.

    Args:
        arguments: Arguments of `Setting`.
        methods: Methods of comparisons.
        llm: Language model of the methods that need one; None for a script.
        seeds: Searches of each kind.
        jobs: Processes.
    """

    arguments: dict
    methods: tuple = METHODS
    llm: str | None = None
    seeds: int = 1
    jobs: int = 1
    _points: dict = field(default_factory=dict)
    _benchmarks: dict = field(default_factory=dict)
    _pool: ProcessPoolExecutor | None = None

    def __post_init__(self):
        self.setting = Setting(**self.arguments)
        self._path = self.setting.folder / "points.jsonl"
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            self._points.update(_read_point(line))

    def once(self, key, compute):
        """Return what an earlier run has computed under a key, else compute and keep it."""
        if key not in self._points:
            self._points[key] = compute()
            # The line begins with a break, so that half a line of a killed run ends before it.
            with self._path.open("a") as file:
                file.write("\n" + json.dumps([key, self._points[key]]) + "\n")
        return self._points[key]

    def benchmark(self, case):
        """Return the benchmark of a case."""
        if case not in self._benchmarks:
            options = dict(case.options)
            self._benchmarks[case] = self.setting.benchmark(
                case.name, in_usd=case.in_usd, **options
            )
        return self._benchmarks[case]

    def searches(self, jobs):
        """Run searches and return their figures, in order; side by side if there are processes."""
        if self.jobs == 1 or len(jobs) == 1:
            return [self.search(job) for job in jobs]
        if self._pool is None:
            start = (self.arguments, self.llm)
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(self.jobs, context, _start, start)
        return list(self._pool.map(_search, jobs))

    def close(self):
        """End the processes, and close the store."""
        if self._pool is not None:
            self._pool.shutdown()
        self.setting.store.close()

    def search(self, job):
        """Run a search, or the rest of it, and return its figures."""
        benchmark, trials = self.benchmark(job.case), self.setting.scale.trials
        title = f"{job.experiment}, {job.case.name}, {job.method}, seed {job.seed}"
        folder = self.setting.folder / "studies"
        folder.mkdir(exist_ok=True)
        path = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', title)}.log"
        study = optuna.create_study(
            study_name=title,
            storage=optuna.storages.JournalStorage(Lines(path)),
            load_if_exists=True,
            direction="maximize",
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)  # of a run that was killed
        if len(_complete(study)) < trials:
            started = time.monotonic()
            study.sampler = make_sampler(
                job.method,
                benchmark.task,
                # Of its own for each start: random trials would be repeated.
                zlib.crc32(f"{title}, {len(study.trials)}".encode()) % 2**31,
                llm=self.llm,
                n_trials=trials,
                experience=self._experience(job.case) if job.method == "MLCopilot" else (),
            )
            self._run(study, job.case.name, benchmark)
            print(f"  {title}: {time.monotonic() - started:.0f} s", flush=True)
        return self._figures(title, study, job.case.name, benchmark)

    def _run(self, study, name, benchmark):
        trials, said = self.setting.scale.trials, 0
        with self.setting.objective(name, benchmark) as objective:
            for _ in range(_ATTEMPTS * trials - len(study.trials)):
                study.optimize(objective, n_trials=1)
                talk = getattr(study.sampler, "talk", ())
                known = sum(key.startswith("reply ") for key in study.user_attrs)
                for number, (_, reply) in enumerate(talk[said:], known + 1):
                    study.set_user_attr(f"reply {number:03}", reply)
                said = len(talk)
                last = study.get_trials(deepcopy=False)[-1]
                # Trials over the budget have no outcomes; one that reached the limit of spend has.
                limited = last.state == TrialState.PRUNED and last.intermediate_values
                if limited or len(_complete(study)) >= trials:
                    break

    def _figures(self, title, study, name, benchmark):
        task, instances = benchmark.task, len(benchmark.search)
        trials = _complete(study)[: self.setting.scale.trials]
        scores = [trial.value for trial in trials]
        allocations = [_allocation(task, trial) for trial in trials]
        best = max(range(len(trials)), key=scores.__getitem__)
        recommended = recommend(study, task).allocation
        test = {}
        for what, allocation in (("best trial", allocations[best]), ("recommended", recommended)):
            key = f"{title}, {len(trials)} trials, test {_text(allocation)}"
            score = self.once(key, lambda a=allocation: self._test(name, benchmark, a))
            test[what] = {"allocation": _text(allocation), "score": score}
        attrs = study.user_attrs
        return {
            "scores": scores,
            "curve": list(itertools.accumulate(scores, max)),
            "allocations": [_text(allocation) for allocation in allocations],
            "costs": [round(task.cost(allocation) * instances, 6) for allocation in allocations],
            "seconds": [round(trial.duration.total_seconds(), 3) for trial in trials],
            "spend": sum(trial.user_attrs.get("spend", 0.0) for trial in trials),
            "unit": task.cost_model.unit,
            "over budget": len(study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))),
            "test": test,
            "replies": [attrs[key] for key in sorted(attrs) if key.startswith("reply ")],
            "guidelines": [
                {"trial": written.start, "lines": list(written.guidelines)}
                for written in guidelines(study)
            ],
        }

    def _test(self, name, benchmark, allocation):
        with self.setting.objective(name, benchmark) as objective:
            return objective.evaluate(allocation, self.setting.held_out(benchmark)).mean

    def _experience(self, case):
        """Return random trials of the similar task, as MLCopilot reads them."""
        similar = Case(SIMILAR[case.name], case.options[:1])  # at the same temperature
        benchmark = self.benchmark(similar)
        task = benchmark.task
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1)
        )
        rows = []
        while len(rows) < EXPERIENCE_TRIALS:
            trial = study.ask()
            try:
                allocation = task.suggest(trial)
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
                continue
            ((value, _),) = self.curve(similar, [allocation])
            study.tell(trial, value)
            rows.append((value, tuple(task.choices(allocation))))
        return task, rows

    def curve(self, case, allocations):
        """Score allocations on the instances of the search; they may exceed the budget.

        Returns:
            Pairs of the score and the pipeline's metrics.
        """
        benchmark = self.benchmark(case)
        # Budget and costs have no effect on scores.
        options = [pair for pair in case.options if pair[0] != "budget"]
        label = f"{case.name}, {_options_text(options)}, {len(benchmark.search)} instances"
        keys = [f"{label}, {_text(task_allocation(benchmark, a))}" for a in allocations]
        if any(key not in self._points for key in keys):
            with self.setting.objective(case.name, benchmark) as objective:
                for key, allocation in zip(keys, allocations):
                    self.once(key, lambda a=allocation: _score(objective, a))
        return [self._points[key] for key in keys]


_worker = None


def _start(arguments, llm):
    """Prepare a process for searches; it ends with its parent, even if that is killed."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _worker = Runs(arguments, llm=llm)


def _end_with_parent():
    wait([parent_process().sentinel])
    os._exit(1)


def _search(job):
    return _worker.search(job)


def _score(objective, allocation):
    evaluation = objective.evaluate(allocation)
    return [evaluation.mean, dict(evaluation.metrics)]


def _complete(study):
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _read_point(line):
    """Return the point of a line; nothing for the half of a line that a killed run left."""
    try:
        key, value = json.loads(line)
    except ValueError:
        return {}
    return {key: value}


def _allocation(task, trial):
    known = task.choices_from_params(trial.params)
    return task.allocation([known[i] for i in range(len(task.stages))])


def task_allocation(benchmark, allocation):
    """Return an allocation in the form of the task."""
    return benchmark.task.allocation(benchmark.task.choices(allocation))


def _text(allocation):
    return ", ".join(f"{stage}: {s.model} x {s.samples}" for stage, s in allocation.items())


def _options_text(options):
    texts = (
        f"{name} {value if isinstance(value, float | int) else '*'}" for name, value in options
    )
    return ", ".join(texts) or "defaults"
