"""Studies resumed with the same models in another order, and with others."""

import logging

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    Stage,
    Task,
    TaskError,
    carry_over,
    recommend,
    spend,
)
from optuna_agenttts.study.measured import effective_task, set_effective_task, with_lengths

SMALL, LARGE, NEW = (Model(f"model-{size}b") for size in (7, 72, 32))
SAMPLERS = {
    "agenttts": AgentTTSSampler,
    "registered": lambda task: AgentTTSSampler(),
    "random": lambda task: RandomSampler(seed=1),
    "tpe": lambda task: TPESampler(seed=1, n_startup_trials=2),
}
STORAGES = {
    "memory": lambda path: InMemoryStorage(),
    "sqlite": lambda path: f"sqlite:///{path / 'study.db'}",
    "journal": lambda path: JournalStorage(JournalFileBackend(str(path / "study.log"))),
}

PAIRS = [
    *(("agenttts", "memory"), ("agenttts", "sqlite"), ("agenttts", "journal")),
    *(("registered", "sqlite"), ("random", "memory"), ("tpe", "journal")),
]


def label(models):
    return "+".join(model.name for model in models)


def task_of(*models, **options):
    stages = [
        Stage(name, models=models, prompt_tokens=256, generation_tokens=64, max_samples=20)
        for name in ("find", "say")
    ]
    return Task(**{"name": "qa", "budget": 900, "stages": stages, **options})


class Objective:
    """Objective that counts its calls, and reports outcomes and spend."""

    def __init__(self, task):
        self.task, self.calls = task, 0

    def __call__(self, trial):
        allocation = self.task.suggest(trial)
        temperature = trial.suggest_float("temperature", 0, 1)
        self.calls += 1
        values = [0.0, 1.0] if allocation["say"].model == LARGE.name else [0.0, 0.0, 1.0]
        trial.set_user_attr("outcomes", values)
        trial.set_user_attr("spend", 2.0)
        return sum(values) / len(values) + 0.01 * temperature


def study_of(task, sampler="agenttts", storage=None, trials=6):
    study = optuna.create_study(
        study_name="old", storage=storage, direction="maximize", sampler=SAMPLERS[sampler](task)
    )
    study.optimize(Objective(task), n_trials=trials)
    return study


def again(study, task, sampler="agenttts"):
    """Load a study as another process would."""
    return optuna.load_study(
        study_name=study.study_name, storage=study._storage, sampler=SAMPLERS[sampler](task)
    )


@pytest.mark.parametrize(("sampler", "storage"), PAIRS)
def test_another_order_resumes(sampler, storage, tmp_path, caplog):
    """Nothing changes, so nothing is reported or stored."""
    task, now = task_of(SMALL, LARGE, NEW), task_of(NEW, SMALL, LARGE)
    study = study_of(task, sampler, STORAGES[storage](tmp_path))
    before = recommend(study)
    caplog.clear()
    study = again(study, now, sampler)
    objective = Objective(now)
    assert recommend(study).allocation == before.allocation
    study.enqueue_trial(now.params({"find": (NEW.name, 1), "say": (SMALL.name, 2)}))
    study.optimize(objective, n_trials=4)
    assert objective.calls == 4
    assert len({trial.distributions["find.model"] for trial in study.trials}) == 1
    assert now.choices_from_params(study.trials[6].params) == {0: (0, 1), 1: (1, 2)}
    assert Task.registered(study) == task
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_another_order_keeps_measured_lengths():
    """Lengths that were measured are those of the same stages."""
    task, now = task_of(SMALL, LARGE), task_of(LARGE, SMALL)
    study = study_of(task)
    lengths = {"find": (300.0, 20.0), "say": (100.0, 10.0)}
    set_effective_task(study, with_lengths(task, lengths))
    assert effective_task(again(study, now), now, fresh=True) == with_lengths(now, lengths)
    assert effective_task(again(study, now), task_of(SMALL, NEW), fresh=True) == task_of(
        SMALL, NEW
    )


@pytest.mark.parametrize(("sampler", "storage"), PAIRS)
def test_other_models_are_refused_before_anything_runs(sampler, storage, tmp_path):
    """The error gives the remedies, and the study stays as it was."""
    study = study_of(task_of(SMALL, LARGE), sampler, STORAGES[storage](tmp_path))
    before, cost = recommend(study), spend(study)
    for number, models in enumerate([(SMALL, LARGE, NEW), (SMALL,), (SMALL, NEW)], 1):
        now = task_of(*models)
        study, objective = again(study, now, sampler), Objective(now)
        for _ in range(2):
            with pytest.raises(TaskError, match=r"find\.model.*carry_over.*experience=\[study\]"):
                study.optimize(objective, n_trials=3)
        assert objective.calls == 0
        assert [t.state for t in study.trials[6:]] == [TrialState.FAIL] * 2 * number
        assert Task.registered(study) == task_of(SMALL, LARGE)
    after = recommend(study)
    assert (after.allocation, after.interval) == (before.allocation, before.interval)
    assert spend(study) == cost


def test_measured_lengths_of_other_models_are_refused():
    """An objective may measure before it suggests."""
    study = study_of(task_of(SMALL, LARGE))
    now = with_lengths(task_of(SMALL), {"find": (300.0, 20.0)})
    with pytest.raises(TaskError, match="carry_over"):
        set_effective_task(again(study, now), now)
    assert Task.registered(study) == task_of(SMALL, LARGE)
    set_effective_task(again(study, now), with_lengths(task_of(LARGE, SMALL), {"say": (9.0, 9.0)}))


def test_a_search_goes_on_after_a_refusal():
    """With the models that it had."""
    task = task_of(SMALL, LARGE)
    study = study_of(task)
    study.sampler = AgentTTSSampler(task_of(SMALL, NEW))
    with pytest.raises(TaskError, match="carry_over"):
        study.ask()
    study.sampler = AgentTTSSampler(task)
    study.optimize(Objective(task), n_trials=2)
    assert [t.state for t in study.trials[7:]] == [TrialState.COMPLETE] * 2


def test_an_objective_may_leave_models_out():
    """The task lists more models than are suggested, in the first process and in others."""

    def objective(trial):
        name = trial.suggest_categorical("find.model", [LARGE.name, SMALL.name])
        trial.suggest_categorical("say.model", [SMALL.name])
        return (
            trial.suggest_int("find.samples", 1, 3)
            + trial.suggest_int("say.samples", 1, 3)
            + (name == LARGE.name)
        )

    study = optuna.create_study(sampler=AgentTTSSampler(task_of(SMALL, LARGE, NEW)))
    study.optimize(objective, n_trials=4)
    for models in [(SMALL, LARGE, NEW), (LARGE, SMALL, Model("other-1b"))]:
        study = again(study, task_of(*models))
        study.optimize(objective, n_trials=2)
    assert len(study.trials) == 8


@pytest.mark.parametrize("sampler", ["agenttts", "recognized"])
@pytest.mark.parametrize("names", [(LARGE, SMALL), (SMALL, LARGE, NEW)], ids=label)
def test_choices_that_an_objective_changes_are_named(names, sampler):
    """Optuna's own error names neither the parameter nor a remedy."""

    def objective(models):
        def run(trial):
            trial.suggest_categorical("find.model", [model.name for model in models])
            return trial.suggest_int("find.samples", 1, 3)

        return run

    study = optuna.create_study(
        sampler=AgentTTSSampler(task_of(SMALL, LARGE) if sampler == "agenttts" else None)
    )
    study.optimize(objective([SMALL, LARGE]), n_trials=3)
    with pytest.raises(TaskError, match=r"find\.model.*same order.*carry_over.*experience"):
        study.optimize(objective(names), n_trials=1)


class TestCarryOver:
    @pytest.mark.parametrize("storage", STORAGES)
    def test_trials_that_still_exist_are_taken_over(self, storage, tmp_path, caplog):
        """With all that they hold; the others are counted."""
        caplog.set_level(logging.INFO)
        old = study_of(task_of(SMALL, LARGE), storage=STORAGES[storage](tmp_path), trials=8)
        for models in [(LARGE, NEW, SMALL), (LARGE,), (NEW, LARGE)]:
            caplog.clear()
            now, names = task_of(*models), {model.name for model in models}
            kept = [
                t for t in old.trials if {t.params["find.model"], t.params["say.model"]} <= names
            ]
            assert kept
            new = carry_over(old, now, storage=old._storage, study_name=label(models))
            assert len(new.trials) == len(kept)
            for trial, before in zip(new.trials, kept):
                assert (trial.params, trial.values, trial.user_attrs, trial.datetime_complete) == (
                    before.params,
                    before.values,
                    before.user_attrs,
                    before.datetime_complete,
                )
            left_out = len(old.trials) - len(kept)
            assert new.user_attrs["agenttts:carried"] == (
                f"{len(kept)} trials of study 'old'; {left_out} others were left out"
            )
            assert (
                f"begins with {len(kept)} of 8 finished trials of study 'old'. {left_out} are"
                in (caplog.text)
            )
            assert Task.registered(new) == now
            assert spend(new).trials == 2.0 * len(kept)
            recommended = now.params(recommend(new).allocation).items()
            assert any(recommended <= trial.params.items() for trial in kept)
            new.optimize(Objective(now), n_trials=6)
            tried = {t.params[f"{stage}.model"] for t in new.trials for stage in ("find", "say")}
            assert tried == names
            assert len(old.trials) == 8

    def test_directions_states_and_other_parameters_stay(self):
        """Pruned and failed trials are evidence, too; running ones are not taken over."""
        task = task_of(SMALL, LARGE)
        old = optuna.create_study(sampler=AgentTTSSampler(task))

        def objective(trial):
            task.suggest(trial)
            trial.report(0.5, 1)
            trial.suggest_float("x", 1e-3, 1, log=True)
            if trial.number == 1:
                raise optuna.TrialPruned
            assert trial.number != 2
            return float(trial.number)

        old.optimize(objective, n_trials=4, catch=(AssertionError,))
        old.ask()
        new = carry_over(old, task_of(NEW, SMALL, LARGE), sampler=RandomSampler(seed=0))
        assert new.direction == old.direction
        assert [t.state for t in new.trials] == [t.state for t in old.trials[:4]]
        assert [t.intermediate_values for t in new.trials] == [{1: 0.5}] * 4
        assert new.trials[0].distributions["x"] == FloatDistribution(1e-3, 1, log=True)
        new.optimize(lambda trial: len(task_of(LARGE, NEW, SMALL).suggest(trial)), n_trials=1)

    def test_a_stage_less_or_more_is_another_allocation(self):
        """Its scores are of another pipeline."""
        task = task_of(SMALL, LARGE)
        old = study_of(task)
        more = Stage("check", models=[SMALL], prompt_tokens=9, generation_tokens=9)
        for stages in (task.stages[:1], (*task.stages, more)):
            assert carry_over(old, task_of(SMALL, stages=stages)).trials == []

    def test_studies_without_a_task_are_taken_over(self):
        """Such as those of another sampler, whose choices may lack the organization."""
        old = optuna.create_study()
        old.enqueue_trial({"find.model": "MODEL-7B"})

        def objective(trial):
            trial.suggest_categorical("find.model", ["MODEL-7B", "gone"])
            trial.suggest_categorical("say.model", ["model-72b"])
            return trial.suggest_int("find.samples", 1, 3) + trial.suggest_int("say.samples", 1, 3)

        old.optimize(objective, n_trials=1)
        new = carry_over(old, task_of(SMALL, Model("org/model-72b")))
        assert new.trials[0].params == {
            **old.trials[0].params,
            "find.model": SMALL.name,
            "say.model": "org/model-72b",
        }

    @pytest.mark.parametrize("arguments", [(None, task_of(SMALL)), ("study", None)])
    def test_arguments_are_checked(self, arguments):
        """The error names both."""
        with pytest.raises(TaskError, match="`study` must be"):
            carry_over(*arguments)
