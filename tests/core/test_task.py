"""What is being tuned."""

import copy
import json
import logging
import pickle

import numpy as np
import optuna
import pytest
from core_support import LARGE, SMALL, allocation_of, wiki_task
from optuna.trial import FixedTrial, TrialState

from optuna_agenttts import (
    BudgetError,
    FlopsCost,
    MissingFactError,
    Model,
    PriceCost,
    Stage,
    StageAllocation,
    Task,
    TaskError,
)

FULL = {"retrieval": ("qwen-7B", 3), "answer": (SMALL, 20)}


def stage(name="stage", **options):
    values = {
        "models": [Model("model", parameters=3e9)],
        "prompt_tokens": 100,
        "generation_tokens": 10,
        **options,
    }
    return Stage(name, **values)


def task(*stages, **options):
    return Task(**{"name": "task", "stages": stages or [stage()], **options})


NONSENSE = [
    (lambda: Model(""), r"`name` must .*got ''"),
    (lambda: Model(None), r"`name` must .*got None"),
    (lambda: Model("m", parameters=0), r"'m': `parameters` must .*got 0"),
    (lambda: Model("m", parameters=-7e9), r"'m': `parameters` must .*got -7000000000.0"),
    (lambda: Model("m", parameters=float("nan")), r"`parameters` must .*got nan"),
    (lambda: Model("m", parameters=float("inf")), r"`parameters` must .*got inf"),
    (lambda: Model("m", input_price=-1), r"`input_price` must .*got -1"),
    (lambda: Model("m", output_price=float("inf")), r"`output_price` must .*got inf"),
    (lambda: Model("m", prompt_tokens_per_second=0), r"`prompt_tokens_per_second` must .*got 0"),
    (
        lambda: Model("m", generation_tokens_per_second=-2),
        r"`generation_tokens_per_second` must .*got -2",
    ),
    (lambda: stage(""), r"`name` must .*got ''"),
    (lambda: stage("a.b"), r"`name` must .*got 'a.b'"),
    (lambda: stage(3), r"`name` must .*got 3"),
    (lambda: stage(models=[]), r"'stage': `models` must .*got \[\]"),
    (lambda: stage(models=["gpt"]), r"`models` must .*got \['gpt'\]"),
    (
        lambda: stage(models=[Model("m"), Model("m")]),
        r"names of `models` must be unique, got \['m', 'm'\]",
    ),
    (lambda: stage(prompt_tokens=0), r"`prompt_tokens` must .*got 0"),
    (lambda: stage(prompt_tokens=-5), r"`prompt_tokens` must .*got -5"),
    (lambda: stage(prompt_tokens=float("nan")), r"`prompt_tokens` must .*got nan"),
    (lambda: stage(generation_tokens=0), r"`generation_tokens` must .*got 0"),
    (lambda: stage(generation_tokens=float("inf")), r"`generation_tokens` must .*got inf"),
    (lambda: stage(max_samples=0), r"`max_samples` must .*got 0"),
    (lambda: stage(max_samples=-1), r"`max_samples` must .*got -1"),
    (lambda: stage(max_samples=2.5), r"`max_samples` must .*got 2.5"),
    (lambda: task(name=""), r"`name` must .*got ''"),
    (lambda: task(stages=[]), r"`stages` must .*got \(\)"),
    (lambda: task(stages=["retrieval"]), r"`stages` must .*got \('retrieval',\)"),
    (lambda: task(stage("a"), stage("a")), r"names of `stages` must be unique, got \['a', 'a'\]"),
    (
        lambda: task(stage("a", model_parameter="m"), stage("b", model_parameter="m")),
        r"parameters of `stages` must be unique, got \['m', 'a.samples', 'm', 'b.samples'\]",
    ),
    (lambda: task(budget=float("nan")), r"`budget` must .*got nan"),
    (lambda: task(budget=float("inf")), r"`budget` must .*got inf"),
    (lambda: task(budget=-1), r"`budget` must .*got -1"),
    (lambda: task(budget="900"), r"`budget` must .*got '900'"),
    (lambda: task(cost="flops"), r"`cost` must .*got 'flops'"),
]


@pytest.mark.parametrize(("build", "message"), NONSENSE)
def test_nonsense_is_named(build, message):
    """The error names the argument and its value."""
    with pytest.raises(TaskError, match=message):
        build()


CARELESS = [
    (lambda: Model("m", parameters="7B"), r"`parameters` must .*got '7B'"),
    (lambda: Model("m", input_price="free"), r"`input_price` must .*got 'free'"),
    (lambda: stage(prompt_tokens="long"), r"`prompt_tokens` must .*got 'long'"),
    (lambda: stage(prompt_tokens=None), r"`prompt_tokens` must .*got None"),
    (lambda: stage(generation_tokens=None), r"`generation_tokens` must .*got None"),
    (lambda: stage(max_samples="ten"), r"`max_samples` must .*got 'ten'"),
    (lambda: stage(max_samples=float("nan")), r"`max_samples` must .*got nan"),
    (lambda: stage(max_samples=float("inf")), r"`max_samples` must .*got inf"),
    (lambda: stage(models=Model("m")), r"`models` must .*got "),
    (lambda: task(stages=stage()), r"`stages` must .*got "),
]


@pytest.mark.parametrize(("build", "message"), CARELESS)
def test_values_of_the_wrong_type_are_named(build, message):
    """A value of the wrong type is named as one out of range is."""
    with pytest.raises(TaskError, match=message):
        build()


@pytest.mark.parametrize("budget", [np.int64(900), np.float32(900), np.float64(900)])
def test_budget_may_be_a_numpy_number(budget):
    """A budget that numpy worked out is the number that it is."""
    assert wiki_task(budget=budget) == wiki_task(budget=900.0)


def test_tokens_may_be_numpy_numbers():
    """Lengths that numpy measured are the numbers that they are."""
    measured = stage(prompt_tokens=np.int64(100), generation_tokens=np.float64(10))
    assert task(measured) == task(stage())


def test_missing_size_names_model_and_fact():
    """The default cost needs sizes."""
    with pytest.raises(MissingFactError, match="`parameters` of model 'bare'"):
        task(stage(models=[Model("bare")]))


def test_missing_price_names_model_and_fact():
    """A model that states no price is not free."""
    with pytest.raises(MissingFactError, match="`input_price` of model 'model'"):
        task(cost=PriceCost())


def test_budget_below_the_cheapest_names_both():
    """The error names the budget and what the cheapest allocation costs."""
    with pytest.raises(BudgetError, match=r"`budget` is 50, .* costs 80\.33"):
        wiki_task(budget=50)


def test_budget_of_exactly_the_cheapest_is_enough():
    """One allocation is left."""
    cheapest = wiki_task().feasible.cheapest_cost
    assert wiki_task(budget=cheapest).count_allocations() == 1


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        ({"retrieval": ("qwen-7B", 1)}, "lacks the stages answer"),
        ({**FULL, "rerank": ("x", 1)}, "Unknown stage 'rerank'"),
        ({**FULL, "answer": ("gpt", 1)}, "Stage 'answer' has no model 'gpt'"),
        ({**FULL, "answer": (SMALL, 0)}, "'answer': `samples` must be from 1 to 100, got 0"),
        ({**FULL, "answer": (SMALL, 101)}, "'answer': `samples` must be from 1 to 100, got 101"),
        ({**FULL, "answer": (SMALL, 1.5)}, "'answer': `samples` must be an integer, got 1.5"),
        ({**FULL, "answer": (SMALL, True)}, "'answer': `samples` must be an integer, got True"),
        ({**FULL, "answer": (SMALL, "3")}, "'answer': `samples` must be an integer, got '3'"),
        ({**FULL, "answer": SMALL}, f"'answer': expected .model, samples., got '{SMALL}'"),
        ({**FULL, "answer": None}, "'answer': expected .model, samples., got None"),
        (
            {**FULL, "answer": (SMALL, 1, 2)},
            r"expected .model, samples., got \(.small-3B., 1, 2\)",
        ),
    ],
)
@pytest.mark.parametrize("method", ["cost", "fits", "project", "params"])
def test_senseless_allocation_is_named(method, allocation, message):
    """Every method that takes an allocation reports what is invalid."""
    with pytest.raises(TaskError, match=message):
        getattr(wiki_task(), method)(allocation)


def test_completion_over_the_budget_is_named():
    """The error names the partial allocation and what its completion costs."""
    with pytest.raises(BudgetError, match=r"`partial` is .*'qwen-72B', 100.*over the budget of"):
        wiki_task().complete({"retrieval": ("qwen-72B", 100)})


def test_completion_adds_the_cheapest_stages():
    """Stages that are left open get one sample of their cheapest model."""
    assert wiki_task().complete({"retrieval": ("qwen-72B", 1)}) == {
        "retrieval": ("qwen-72B", 1),
        "answer": (SMALL, 1),
    }


def test_cost_of_an_allocation_is_the_sum_over_its_stages():
    """814.67 for one 72B retrieval plus 2.67 + 1 for two 3B answers."""
    allocation = {"retrieval": ("qwen-72B", 1), "answer": (SMALL, 2)}
    assert wiki_task().cost(allocation) == pytest.approx(814 + 4.0)


def test_projection_fits_and_keeps_models():
    """Samples are reduced where that is enough."""
    wished = {"retrieval": ("qwen-7B", 100), "answer": (SMALL, 100)}
    projected = wiki_task(budget=300).project(wished)
    assert wiki_task(budget=300).fits(projected)
    assert [setting.model for setting in projected.values()] == ["qwen-7B", SMALL]


def test_allocations_are_named_tuples_by_stage():
    """People read ``allocation["answer"].samples``."""
    first = next(wiki_task().allocations())
    assert first == {
        "retrieval": StageAllocation("qwen-7B", 1),
        "answer": StageAllocation(SMALL, 1),
    }


def test_allocations_are_all_counted_and_fit():
    """Walking yields as many as are counted, all within the budget."""
    small = wiki_task(max_samples=8)
    allocations = list(small.allocations())
    assert len(allocations) == small.count_allocations()
    assert all(map(small.fits, allocations))


def test_params_are_ready_to_enqueue():
    """An allocation becomes parameters by name."""
    assert wiki_task().params(FULL) == {
        "retrieval.model": "qwen-7B",
        "retrieval.samples": 3,
        "answer.model": SMALL,
        "answer.samples": 20,
    }


def test_an_allocation_is_read_from_its_parameters():
    """All of it, or nothing; single stages with `choices_from_params`."""
    task = wiki_task()
    for allocation in task.allocations():
        params = task.params(allocation)
        assert task.read({**params, "other": 1}) == tuple(task.choices(allocation))
    params["answer.samples"] = 0
    assert task.read(params) is None
    assert set(task.choices_from_params(params)) == {0}


def test_parameters_can_have_own_names():
    """A pipeline keeps its own names."""
    own = task(stage(model_parameter="generator", samples_parameter="n"))
    trial = FixedTrial({"generator": "model", "n": 1})
    assert own.suggest(trial) == {"stage": ("model", 1)}


def test_own_names_survive_the_round_trip():
    """Names of parameters are part of the task."""
    own = task(stage(model_parameter="generator", samples_parameter="n"))
    assert Task.from_dict(json.loads(json.dumps(own.to_dict()))).params(
        {"stage": ("model", 1)}
    ) == {"generator": "model", "n": 1}


def test_equal_by_content():
    """Two tasks built alike are one value."""
    assert wiki_task() == wiki_task()
    assert hash(wiki_task()) == hash(wiki_task())


def test_whole_and_floating_numbers_are_the_same_content():
    """7_000_000_000 and 7e9 parameters are the same model, and the same task."""
    tasks = [task(stage(models=[Model("m", parameters=p)])) for p in (7e9, 7_000_000_000)]
    assert tasks[0].stages == tasks[1].stages
    assert tasks[0] == tasks[1]


@pytest.mark.parametrize(
    "other",
    [
        wiki_task(budget=901),
        wiki_task(max_samples=99),
        wiki_task(metric="F1"),
        wiki_task(description="other"),
        wiki_task(cost=FlopsCost(fusion=True)),
        "wiki",
    ],
)
def test_unequal_by_content(other):
    """Every fact counts."""
    assert wiki_task() != other


@pytest.mark.parametrize(
    "copied",
    [
        lambda t: pickle.loads(pickle.dumps(t)),
        copy.deepcopy,
        copy.copy,
        lambda t: Task.from_dict(json.loads(json.dumps(t.to_dict()))),
    ],
    ids=["pickle", "deepcopy", "copy", "json"],
)
@pytest.mark.parametrize("cost", [None, FlopsCost(prefix_sharing=False, fusion=True)])
def test_copies_are_equal(copied, cost):
    """A copy is equal, costs the same and allows the same."""
    task = wiki_task(cost=cost, metric="EM", description="Ünïcode")
    twin = copied(task)
    assert twin == task
    assert twin.count_allocations() == task.count_allocations()


@pytest.mark.parametrize("name", ["budget", "stages", "name", "nonsense"])
def test_task_is_immutable(name):
    """Attributes can be neither set nor deleted."""
    task = wiki_task()
    with pytest.raises(AttributeError, match=r"cannot (assign|delete)"):
        setattr(task, name, 1)
    with pytest.raises(AttributeError, match=r"cannot (assign|delete)"):
        delattr(task, name)


def test_stages_of_a_task_do_not_follow_the_list_they_came_from():
    """A list that changes later changes no task."""
    models = [Model("model", parameters=3e9)]
    first = stage(models=models)
    models.append(Model("other", parameters=7e9))
    assert len(first.models) == 1


@pytest.mark.parametrize("values", [{}, {"name": "x"}, {"name": "x", "stages": [{"what": 1}]}])
def test_values_that_are_no_task_are_an_error(values):
    """Damaged storage is a `TaskError`, not a `KeyError`."""
    with pytest.raises(TaskError, match=r"Task.from_dict"):
        Task.from_dict(values)


def test_equal_tasks_have_no_differences():
    """Equal tasks have an empty list of differences."""
    assert wiki_task().differences(wiki_task()) == []


def test_differences_name_the_fact_and_both_values():
    """One line for each fact, this task's first."""
    assert wiki_task(budget=900).differences(wiki_task(budget=1000, metric="F1")) == [
        "budget: 900.0 -> 1000.0",
        "metric: '' -> 'F1'",
    ]


def test_differences_go_by_the_names_of_stages():
    """A changed stage is named, not counted."""
    lines = wiki_task().differences(wiki_task(max_samples=50))
    assert lines == [
        "stages.retrieval.max_samples: 100 -> 50",
        "stages.answer.max_samples: 100 -> 50",
    ]


def test_differences_name_added_models():
    """A model more is one line."""
    one = task(stage(models=[Model("a", parameters=1e9)]), budget=99)
    two = task(stage(models=[Model("a", parameters=1e9), Model("b", parameters=2e9)]), budget=99)
    assert one.differences(two) == ["stages.stage.models: ['a'] -> ['a', 'b']"]


def test_differences_name_removed_stages():
    """A stage less is one line."""
    both, one = task(stage("a"), stage("b"), budget=99), task(stage("a"), budget=99)
    assert both.differences(one) == ["stages: ['a', 'b'] -> ['a']"]


def test_repr_names_stages_and_budget():
    """The repr shows the name, stages and budget."""
    assert repr(wiki_task()) == (
        "<Task 'wiki': retrieval (2 models), answer (2 models); budget 900 reference samples>"
    )


SAMPLERS = [
    lambda: optuna.samplers.RandomSampler(seed=0),
    lambda: optuna.samplers.TPESampler(seed=0),
    lambda: optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True),
    lambda: optuna.samplers.QMCSampler(seed=0),
]
SAMPLER_IDS = ["random", "tpe", "multivariate", "qmc"]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=SAMPLER_IDS)
@pytest.mark.parametrize("budget", [100, 830, 900, 2000])
def test_suggest_never_exceeds_the_budget(sampler, budget):
    """With any sampler, what the objective gets fits and is what the parameters say."""
    task = wiki_task(budget=budget)
    seen = []

    def objective(trial):
        allocation = task.suggest(trial)
        assert allocation == allocation_of(trial)
        assert task.cost(allocation) <= task.budget + 1e-6
        seen.append(allocation)
        return sum(setting.samples for setting in allocation.values())

    study = optuna.create_study(sampler=sampler(), direction="maximize")
    study.optimize(objective, n_trials=30)
    assert len(seen) == sum(t.state == TrialState.COMPLETE for t in study.trials) > 0


def test_suggest_reaches_the_whole_budget():
    """The bounds leave no feasible number of samples out."""
    task = wiki_task(budget=900, max_samples=4)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = set()
    for _ in range(400):
        trial = study.ask()
        try:
            found.add(tuple(task.suggest(trial).items()))
        except optuna.TrialPruned:
            continue
    assert found == {tuple(a.items()) for a in task.allocations()}


def test_suggest_prunes_models_that_do_not_fit_with_one_sample():
    """A tight budget prunes the combination before it runs."""
    task = wiki_task(budget=900)
    params = {"retrieval.model": "qwen-72B", "answer.model": LARGE}
    with pytest.raises(optuna.TrialPruned, match=r"over the budget of 900"):
        task.suggest(FixedTrial(params))


def test_suggest_with_a_fixed_trial():
    """A fixed trial gets its fixed values."""
    params = wiki_task().params(FULL)
    assert wiki_task().suggest(FixedTrial(params)) == FULL


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_enqueued_values_over_the_budget_are_pruned_before_they_run():
    """Nothing is spent on them."""
    task, ran = wiki_task(budget=900), []

    def objective(trial):
        ran.append(task.suggest(trial))
        return 0.0

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(task.params({"retrieval": ("qwen-7B", 100), "answer": (LARGE, 100)}))
    study.optimize(objective, n_trials=1)
    assert (study.trials[0].state, ran) == (TrialState.PRUNED, [])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("samples", [500, 0, -3])
@pytest.mark.parametrize("name", ["retrieval", "answer"])
def test_enqueued_samples_out_of_range_never_run_as_something_else(name, samples):
    """The trial is pruned, or the allocation equals its parameters."""
    task = wiki_task(budget=1e6)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({**task.params(FULL), f"{name}.samples": samples})
    trial = study.ask()
    try:
        allocation = task.suggest(trial)
    except optuna.TrialPruned:
        return
    assert allocation == allocation_of(trial)


def test_enqueued_values_within_the_budget_run():
    """Enqueued values within the budget run unchanged."""
    task = wiki_task()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(task.params(FULL))
    assert task.suggest(study.ask()) == FULL


def asked(study):
    """Return a trial with an enqueued allocation."""
    study.enqueue_trial(wiki_task().params(FULL))
    return study.ask()


def test_suggest_registers_the_task():
    """`suggest` registers the task on the study."""
    study = optuna.create_study()
    assert Task.registered(study) is None
    wiki_task(metric="EM").suggest(asked(study))
    assert Task.registered(study) == wiki_task(metric="EM")


def test_registration_is_read_by_another_process_over_sqlite(tmp_path):
    """Another process reads the registered task."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    wiki_task().suggest(asked(optuna.create_study(study_name="s", storage=storage)))
    assert Task.registered(optuna.load_study(study_name="s", storage=storage)) == wiki_task()


def test_same_task_is_registered_quietly(caplog):
    """Nothing differs, so nothing is said."""
    study = optuna.create_study()
    with caplog.at_level(logging.WARNING, "optuna_agenttts"):
        for _ in range(3):
            wiki_task().suggest(asked(study))
    assert caplog.records == []


def test_another_task_on_a_study_is_logged_once_with_what_differs(caplog):
    """The warning lists each change with its old and new value."""
    study = optuna.create_study(study_name="wiki-study")
    wiki_task(budget=900).suggest(asked(study))
    with caplog.at_level(logging.WARNING, "optuna_agenttts"):
        wiki_task(budget=1000).suggest(asked(study))
        wiki_task(budget=1000).suggest(asked(study))
    (record,) = caplog.records
    assert "wiki-study" in record.getMessage()
    assert "budget: 900.0 -> 1000.0" in record.getMessage()


def test_own_cost_class_survives_registration():
    """A study keeps what a user's own class charges, never the class."""

    class Steps:
        unit = "steps"

        def stage_cost(self, stage, model, samples):
            return samples * 10.0

    task, study = wiki_task(budget=200, cost=Steps()), optuna.create_study()
    task.register(study)
    assert Task.registered(study).cost(FULL) == task.cost(FULL) == 230.0


def test_metric_range_is_kept_and_checked():
    """It survives storage and pickling; a task without one is stored as before."""
    plain, ranged = task(), task(metric_range=(0, 1))
    assert plain.metric_range is None
    assert "metric_range" not in plain.to_dict()
    for copied in (Task.from_dict(json.loads(ranged.text)), pickle.loads(pickle.dumps(ranged))):
        assert copied == ranged
        assert copied.metric_range == (0.0, 1.0)
    assert plain.differences(ranged) == ["metric_range: None -> [0.0, 1.0]"]
    for wrong in ((1, 0), (0, 0), (0, np.inf), (0, np.nan), (0,), 3, "01", ("a", "b")):
        with pytest.raises(TaskError, match="metric_range"):
            task(metric_range=wrong)
