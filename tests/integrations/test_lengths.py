"""Token lengths measured by first trials, and the search that uses them."""

import logging
import multiprocessing
import threading

import optuna
import pytest
from pipeline_support import MODELS, allocation, make_pipeline, side_by_side

from optuna_agenttts import AgentTTSSampler, Model, PriceCost, Stage, Task, recommend
from optuna_agenttts.llm import ChatRefusedError, Completion, Usage
from optuna_agenttts.study.measured import with_lengths
from optuna_agenttts_integrations import (
    Endpoint,
    InstanceResult,
    MultiStageObjective,
    Pipeline,
    StageProgram,
)
from optuna_agenttts_integrations.lengths import apply_measured_lengths, mean_lengths
from optuna_agenttts_integrations.pipeline.evaluation import StageUsage

DECLARED = (100.0, 50.0)
MEASURED = {"find": (200.0, 25.0), "say": (400.0, 30.0)}


class Counted:
    """Chat model that replies yes or no, and reports the token usage of the prompt's stage."""

    def __init__(self, lengths, refuse=()):
        self.lengths, self.refuse = lengths, refuse

    async def complete(self, request, *, seed):
        """Reply."""
        text = request.messages[-1].content
        stage, instance = text.split()[:2]
        if instance in self.refuse:
            raise ChatRefusedError("refused")
        prompt, generation = self.lengths[stage]
        return Completion("yes" if seed % 3 else "no", Usage(int(prompt), int(generation)))


def declare(budget=None, lengths=None, cost=None):
    """Build a task of two stages with declared lengths."""
    models = [
        Model("small", parameters=3e9, input_price=0.1, output_price=0.2),
        Model("large", parameters=7e10, input_price=1.0, output_price=2.0),
    ]
    return Task(
        name="two",
        stages=[
            Stage(
                name,
                models=models,
                prompt_tokens=(lengths or {}).get(name, DECLARED)[0],
                generation_tokens=(lengths or {}).get(name, DECLARED)[1],
                max_samples=30,
            )
            for name in ("find", "say")
        ],
        budget=budget,
        cost=cost,
    )


def objective_of(task, *, lengths=MEASURED, pipeline=None, count=6, refuse=(), **options):
    """Build an objective whose models report `lengths`."""
    chats = {name: Counted(lengths, refuse) for name in MODELS}
    return MultiStageObjective(
        pipeline or make_pipeline(),
        [{"id": f"q{i}"} for i in range(count)],
        task=task,
        endpoints={name: Endpoint(chat=chat, identity=name) for name, chat in chats.items()},
        progress=False,
        **options,
    )


def search(task, trials, *, storage=None, sampler=None, **options):
    """Run or resume a study with a new objective, and return it."""
    study = optuna.create_study(
        direction="maximize",
        sampler=sampler or AgentTTSSampler(task),
        storage=storage,
        study_name="s",
        load_if_exists=True,
    )
    with objective_of(task, **options) as objective:
        study.optimize(objective, n_trials=trials)
        objective.store.close()
    return study


def allocation_in(trial):
    """Return the allocation of a trial's parameters."""
    return {
        name: (trial.params[f"{name}.model"], trial.params[f"{name}.samples"])
        for name in ("find", "say")
    }


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def storage(tmp_path):
    """Return the URL of a storage that other processes can open."""
    return f"sqlite:///{tmp_path}/study.db"


# Means.


def result(stages, failed=False):
    """Build a result from the prompt and sample lengths of each stage."""
    usage = {
        name: StageUsage(prompt_length=prompt, sample_length=sample)
        for name, (prompt, sample) in stages.items()
    }
    return InstanceResult(0.0, failed, usage)


def test_lengths_are_means_over_instances():
    """Skipped stages count as zero, failed instances not at all."""
    results = {
        "a": result({"find": (100, 10.0), "say": (50, 4.0)}),
        "b": result({"find": (200, 20.0)}),
        "c": result({"find": (9000, 900.0)}, failed=True),
    }
    assert mean_lengths(results, make_pipeline()) == {"find": [150.0, 15.0], "say": [25.0, 2.0]}
    assert mean_lengths({"c": results["c"]}, make_pipeline()) == {}
    assert mean_lengths({}, make_pipeline()) == {}


def shown(cost):
    """Return what equals a cost in user attributes, which have four significant digits."""
    return pytest.approx(cost, rel=5.1e-4)


def study_with(*lengths, **options):
    """Create a study whose trials report these lengths, in this order."""
    study = optuna.create_study(**options)
    for each in lengths:
        study.add_trial(optuna.create_trial(value=0.0, user_attrs={"lengths": each}))
    return study


def test_only_the_first_trials_count():
    """Workers that look later, with more finished trials, measure the same."""
    first = {"find": [200.0, 25.0], "say": [400.0, 30.0]}
    other = {"find": [900.0, 900.0], "say": [900.0, 900.0]}
    task = declare()
    found = apply_measured_lengths(study_with(first, first), task, 2)
    assert found == with_lengths(task, MEASURED)
    assert apply_measured_lengths(study_with(first, first, other, other), task, 2) == found
    assert apply_measured_lengths(study_with(first), task, 2) == task


@pytest.mark.parametrize(
    ("find", "follows"),
    [
        ((100.0, 50.0), False),
        ((109.0, 54.0), False),
        ((91.0, 46.0), False),
        ((112.0, 50.0), True),
        ((100.0, 44.0), True),
        ((0.0, 0.0), False),
        ((0.0, 80.0), True),
    ],
)
def test_differences_up_to_a_tenth_are_ignored(find, follows, caplog):
    """A stage that never ran is ignored; a change is logged."""
    task = declare()
    study = study_with(*[{"find": list(find), "say": [100.0, 50.0]}] * 2)
    with caplog.at_level(logging.INFO, logger="optuna_agenttts_integrations"):
        found = apply_measured_lengths(study, task, 2)
    assert (found != task) == follows
    assert ("now uses token lengths" in caplog.text) == follows
    assert (Task.registered(study) is not None) == follows


@pytest.mark.parametrize(
    ("budget", "factor", "level"),
    [
        (None, 1.4, "INFO"),
        (None, 6, "WARNING"),
        (None, 0.5, "WARNING"),
        (1e4, 6, "INFO"),
    ],
)
def test_a_default_budget_that_moves_far_is_a_warning(budget, factor, level, caplog):
    """It then is more than half as large again, or less than two thirds; never if it was given."""
    task = declare(budget=budget)
    lengths = [factor * each for each in DECLARED]
    with caplog.at_level(logging.INFO, logger="optuna_agenttts"):
        apply_measured_lengths(study_with({"find": lengths, "say": lengths}), task, 1)
    (line,) = [r for r in caplog.records if "now uses token lengths" in r.getMessage()]
    assert line.levelname == level
    assert ("Give `budget=`" in line.getMessage()) == (budget is None)


def test_measured_lengths_that_fit_no_budget_are_not_used(caplog):
    """The declared task is kept, and the log has the reason."""
    task = declare(budget=20.0)
    study = study_with({"find": [5000.0, 50.0], "say": [100.0, 50.0]})
    assert apply_measured_lengths(study, task, 1) is task
    assert "cheapest allocation" in caplog.text


# Searches.


@pytest.mark.parametrize("explicit", [True, False])
def test_costs_follow_after_the_first_trials(explicit, caplog):
    """Sampler, budget and recommendation use them from the fourth trial on, without a warning."""
    task = declare(budget=300.0)
    measured = with_lengths(task, MEASURED)
    study = search(task, 10, sampler=AgentTTSSampler(task if explicit else None))
    for trial in study.trials:
        asked = allocation_in(trial)
        assert trial.system_attrs["agenttts:lengths"] == {k: list(v) for k, v in MEASURED.items()}
        follows = trial.number >= 3
        effective = measured if follows else task
        assert trial.user_attrs["cost"] == shown(effective.cost(asked))
        assert effective.fits(asked)
        if follows:
            given = trial.system_attrs["agenttts:candidate"]
            assert measured.fits({name: tuple(setting) for name, setting in given.items()})
    assert Task.registered(study) == measured
    found = recommend(study)
    assert found.cost == pytest.approx(measured.cost(found.allocation))
    assert "another task" not in caplog.text


def test_a_default_budget_follows_too():
    """It remains the cost of one sample of the most expensive model in each stage."""
    task = declare()
    study = search(task, 5)
    measured = Task.registered(study)
    assert measured == with_lengths(task, MEASURED)
    assert measured.budget == pytest.approx(
        measured.cost({"find": ("large", 1), "say": ("large", 1)})
    )
    assert measured.budget != task.budget


@pytest.mark.parametrize("cost", [None, PriceCost()], ids=["flops", "price"])
def test_spend_is_cost_where_nothing_is_reused(cost):
    """With measured lengths, trials spend what their allocation costs."""
    task = declare(budget=1e9, cost=cost, lengths=MEASURED)
    with objective_of(task) as objective:
        wanted = allocation(("small", 3), ("large", 2))
        evaluation = objective.evaluate(wanted)
        assert evaluation.spend == pytest.approx(6 * task.cost(wanted))
        objective.store.close()


@pytest.mark.parametrize("lengths", [{"find": (109, 46), "say": (91, 54)}, None])
def test_accurate_or_fixed_lengths_are_kept(lengths):
    """Lengths are accurate within a tenth, and fixed with `measure_after=None`."""
    task = declare()
    options = {"measure_after": None} if lengths is None else {}
    study = search(task, 6, lengths=lengths or MEASURED, **options)
    assert Task.registered(study) == task
    for trial in study.trials:
        assert trial.user_attrs["cost"] == shown(task.cost(allocation_in(trial)))


def test_a_resumed_study_follows_at_once(storage, caplog):
    """New objects on the same storage use measured lengths from their first trial."""
    task = declare(budget=300.0)
    search(task, 4, storage=storage)
    with caplog.at_level(logging.INFO):
        # The models now report other lengths, which are not measured again.
        study = search(task, 4, storage=storage, lengths={"find": (900, 90), "say": (900, 90)})
    measured = with_lengths(task, MEASURED)
    assert Task.registered(study) == measured
    for trial in study.trials[4:]:
        assert trial.user_attrs["cost"] == shown(measured.cost(allocation_in(trial)))
        assert measured.fits(allocation_in(trial))
    assert "another task" not in caplog.text
    assert caplog.text.count("now uses token lengths measured in its first 3 trials") == 1
    assert caplog.text.count("now uses token lengths measured earlier") == 1


def test_a_study_resumed_before_it_measured_still_measures(storage, caplog):
    """After two trials and two more, the fourth uses measured lengths."""
    task = declare()
    search(task, 2, storage=storage)
    study = search(task, 2, storage=storage)
    measured = with_lengths(task, MEASURED)
    costs = [trial.user_attrs["cost"] for trial in study.trials]
    tasks = [task, task, task, measured]
    assert costs == shown([t.cost(allocation_in(trial)) for t, trial in zip(tasks, study.trials)])
    assert "another task" not in caplog.text


def test_corrected_lengths_are_used_until_measured(storage, caplog):
    """A correction after one trial gives a warning and is replaced by measured lengths later."""
    search(declare(), 1, storage=storage)
    again = declare(lengths={"find": (1000.0, 500.0)})
    study = search(again, 4, storage=storage)
    assert "another task before" in caplog.text
    assert study.trials[1].user_attrs["cost"] == shown(again.cost(allocation_in(study.trials[1])))
    assert Task.registered(study) == with_lengths(again, MEASURED)


class TokenCost:
    """Custom cost model."""

    unit = "tokens"

    def stage_cost(self, stage, model, samples):
        """Price a stage."""
        return stage.prompt_tokens + stage.generation_tokens * samples


def test_a_custom_cost_model_follows(storage, caplog):
    """It does so in a resumed study, too, where storage has only its table of costs."""
    task = declare(budget=1500.0, cost=TokenCost())
    search(task, 5, storage=storage)
    study = search(task, 3, storage=storage)
    measured = with_lengths(task, MEASURED)
    for trial in study.trials[3:]:
        assert trial.user_attrs["cost"] == shown(measured.cost(allocation_in(trial)))
        given = trial.system_attrs["agenttts:candidate"]
        assert measured.fits({name: tuple(setting) for name, setting in given.items()})
    assert "another task" not in caplog.text


@pytest.mark.parametrize(
    "sampler", [optuna.samplers.TPESampler, optuna.samplers.RandomSampler], ids=["tpe", "random"]
)
def test_other_samplers_follow(sampler, caplog):
    """Other samplers of Optuna stay within the measured budget."""
    task = declare(budget=300.0)
    measured = with_lengths(task, MEASURED)
    study = search(task, 20, sampler=sampler(seed=0))
    ran = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(ran) > 10
    for trial in ran[3:]:
        assert trial.user_attrs["cost"] == shown(measured.cost(allocation_in(trial)))
        assert measured.fits(allocation_in(trial))
    assert recommend(study).cost <= 300.0 * (1 + 1e-9)
    assert "another task" not in caplog.text


def _skips(state):
    return int(state.instance["id"][1:]) % 3 == 0


def test_skipped_stages_have_expected_costs():
    """A stage that a third of the instances run has a third of its cost."""
    pipeline = Pipeline(
        stages=[
            StageProgram(
                name="find", prompt=lambda state: f"find {state.instance['id']}", enough=None
            ),
            StageProgram(
                name="say",
                prompt=lambda state: f"say {state.instance['id']}",
                when=_skips,
                enough=None,
            ),
        ],
        score=lambda state: 1.0,
    )
    task = declare(budget=1.0, cost=PriceCost())
    study = search(task, 4, pipeline=pipeline)
    lengths = Task.registered(study).stages[1]
    assert lengths.prompt_tokens == pytest.approx(400 / 3, rel=0.01)
    assert lengths.generation_tokens == pytest.approx(30 / 3, rel=0.01)
    with objective_of(task, pipeline=pipeline) as objective:
        wanted = allocation(("large", 2), ("large", 4))
        spent = objective.evaluate(wanted).spend / 6
        assert spent == pytest.approx(Task.registered(study).cost(wanted), rel=0.01)
        objective.store.close()


def test_failed_instances_are_not_measured():
    """They would make stages look shorter."""
    task = declare()
    study = search(task, 4, refuse=("q1",), max_failed=0.5)
    assert study.trials[0].user_attrs["failed"] == 1
    assert Task.registered(study) == with_lengths(task, MEASURED)


def test_threads_agree():
    """Concurrent trials use one of the two tasks, and the last ones the same task."""
    task = declare(budget=300.0)
    measured = with_lengths(task, MEASURED)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    with objective_of(task) as objective:
        study.optimize(objective, n_trials=16, n_jobs=4)
        objective.store.close()
    for trial in study.trials:
        cost, asked = trial.user_attrs["cost"], allocation_in(trial)
        known = [shown(t.cost(asked)) for t in (task, measured)]
        assert cost in (known if trial.number < 8 else known[1:])
    assert Task.registered(study) == measured


def _work(storage, barrier):
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    task = declare(budget=300.0)
    barrier.wait()
    search(task, 6, storage=storage)


@pytest.mark.slow
def test_workers_agree(storage):
    """Two processes on one storage end up with the same task and costs."""
    optuna.create_study(direction="maximize", storage=storage, study_name="s")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_work, args=(storage, barrier)) for _ in range(2)]
    side_by_side(workers)
    task = declare(budget=300.0)
    measured = with_lengths(task, MEASURED)
    study = optuna.load_study(study_name="s", storage=storage)
    assert Task.registered(study) == measured
    assert len(study.trials) == 12
    for trial in study.trials[6:]:
        assert trial.user_attrs["cost"] == shown(measured.cost(allocation_in(trial)))


def test_workers_that_measure_at_the_same_moment_measure_the_same():
    """Trials that finish meanwhile do not matter."""
    task = declare()
    first = {"find": [200.0, 25.0], "say": [400.0, 30.0]}
    study = study_with(first, first, first)
    found = []

    def look():
        study.add_trial(
            optuna.create_trial(
                value=0.0, user_attrs={"lengths": {"find": [1.0, 1.0], "say": [1.0, 1.0]}}
            )
        )
        found.append(apply_measured_lengths(study, task, 3))

    threads = [threading.Thread(target=look) for _ in range(4)]
    side_by_side(threads)
    assert found == [with_lengths(task, MEASURED)] * 4
