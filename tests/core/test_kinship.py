"""The planner's knowledge that choices of a stage are one model at several thinking efforts."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import AgentTTSSampler, Model, PriceCost, Stage, Task, efforts
from optuna_agenttts.planner.kernels import Points, ResidualKernel
from optuna_agenttts.planner.kinship import Kinship
from optuna_agenttts.planner.opening import untried_models, with_most_untried
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.planner.prior import draw_curves, log_sizes

SIZES = (4e9, 14e9, 32e9)
LEVELS = ("off", "low", "high")


def thinking_task(stages=2, sizes=SIZES, levels=LEVELS, **options):
    """Return a task whose models think at several efforts."""
    models = [Model(f"model{i}", parameters=size) for i, size in enumerate(sizes)]
    return Task(
        name="thinking",
        stages=[
            Stage(
                f"s{i}",
                models=models,
                thinking=levels,
                prompt_tokens=500,
                generation_tokens=200,
                max_samples=20,
            )
            for i in range(stages)
        ],
        **options,
    )


def at(lengths, sizes=(7e9,), **more):
    """Return a task of one stage whose models think for the given numbers of tokens."""
    listed = {f"e{i}": tokens for i, tokens in enumerate(lengths)}
    models = [
        choice
        for i, size in enumerate(sizes)
        for choice in efforts(
            Model(f"m{i}", parameters=size, **more), tokens=listed, **dict.fromkeys(listed)
        )
    ]
    stage = Stage("only", models=models, prompt_tokens=10, generation_tokens=10)
    return Task(name="one", stages=[stage], budget=1e9)


def rates(task, draws=4000, **options):
    """Return drawn rates of one sample of each choice of a task of one stage."""
    count = len(task.stages[0].models)
    drawn = draw_curves(task, np.random.default_rng(0), draws=draws, **options)
    return drawn.rates(np.arange(count)[:, None], np.ones((count, 1), dtype=np.int64))


def kernel(task, length=0.8):
    """Return the residual kernel of the choices of a task of one stage."""
    models = np.arange(len(task.stages[0].models))[:, None]
    points = Points(models, np.ones_like(models), (), (), ())
    return ResidualKernel(task)(points, points, length)


def test_choices_are_kin_by_the_name_that_servers_know():
    """A model without efforts is alone, or kin of the efforts that share its name."""
    models = [*efforts(Model("a"), off={}, low={}), Model("b"), Model("a"), Model("a, loud")]
    stage = Stage("only", models=models, prompt_tokens=1, generation_tokens=1)
    kin = Kinship.of(stage)
    assert kin.bases.tolist() == [0, 0, 1, 0, 2]
    assert kin.thoughts == pytest.approx([0, np.log1p(5.12), 0, 0, 0])


@pytest.mark.parametrize("broad", [False, True])
def test_efforts_of_one_model_differ_by_their_thoughts_alone(broad):
    """Equal lengths of thoughts have equal rates; those of another model of the size differ."""
    drawn = rates(at((500, 500), sizes=(7e9, 7e9)), draws=200, broad=broad)
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])
    assert np.abs(drawn[:, 0] - drawn[:, 2]).min() > 0


def test_expected_gain_of_thinking_saturates():
    """Mean rates rise with the length of thoughts, by less per doubling, and level off."""
    mean = rates(at((0, 500, 2000, 8000, 32000, 128000))).mean(axis=0)
    steps = np.diff(mean)
    assert (steps[:2] > 0).all()
    assert (np.diff(steps) < 0).all()
    assert np.abs(steps[2:]).max() < steps[0] / 2


def test_draws_without_efforts_do_not_depend_on_those_of_others():
    """Everything but effects of thinking is drawn as for the same models without efforts."""
    with_efforts = thinking_task(levels=("off", "low"))
    models = [Model(f"model{i}", parameters=size) for i, size in enumerate(SIZES)]
    stages = [replace(stage, models=models) for stage in with_efforts.stages]
    drawn, plain = (
        draw_curves(task, np.random.default_rng(0), draws=50)
        for task in (with_efforts, Task(name="plain", stages=stages))
    )
    for name in ("level", "slope", "gain", "peak", "decline", "widening", "influence", "advance"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(plain, name))
    for thinking, effects in zip(drawn.effects, plain.effects):
        np.testing.assert_array_equal(thinking[:, ::2], effects)


def test_kin_have_one_size_where_sizes_are_absent():
    """The cost of the least effort replaces the size of the model at each effort."""
    cheap, dear = (Model(n, input_price=1, output_price=p) for n, p in (("c", 1), ("d", 10)))
    stage = Stage(
        "only", models=[cheap, dear], thinking=(0, 8192), prompt_tokens=10, generation_tokens=100
    )
    (sizes,) = log_sizes(Task(name="priced", stages=[stage], cost=PriceCost()))
    # Cheapest: 10 prompt tokens and 100 others.
    assert sizes == pytest.approx([np.log10(110 / 1010)] * 2 + [0, 0])


def test_kin_are_more_alike_than_other_models_and_less_so_the_further_apart():
    """The kernel falls with the distance of thoughts, and further to other models of the size."""
    found = kernel(at((0, 500, 8000), sizes=(7e9, 7e9)))
    np.testing.assert_array_equal(np.diag(found), 1)
    same, other = found[0, :3], found[0, 3:]
    assert same[0] > same[1] > same[2] > other[0] > other[1] > other[2]


@settings(max_examples=30)
@given(
    st.lists(st.floats(0, 1e5), min_size=1, max_size=4),
    st.lists(st.floats(1e8, 1e12), min_size=1, max_size=3),
)
def test_the_kernel_is_positive_semidefinite(lengths, sizes):
    """Eigenvalues are not negative beyond rounding."""
    assert np.linalg.eigvalsh(kernel(at(lengths, sizes))).min() > -1e-12


def test_the_opening_tries_each_model_once():
    """Two stages of three models at three efforts each take three trials."""
    task = thinking_task()
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task, seed=0))
    seen = [set(), set()]
    for _ in range(3):
        trial = study.ask()
        for stage, (name, _) in enumerate(task.suggest(trial).values()):
            seen[stage].add(name.partition(", ")[0])
        study.tell(trial, trial.number / 10)
    assert [len(names) for names in seen] == [3, 3]


def test_the_pool_of_many_efforts_has_each_of_them():
    """Of 50,625 combinations of choices, the pool draws some that include every choice."""
    task = thinking_task(stages=4, levels=("off", "low", "medium", "high", "max"))
    models, samples = build_pool(task.feasible, np.random.default_rng(0), 3000)
    assert len(models) < 4000
    assert (task.feasible.costs_of(models, samples) <= task.feasible.limit).all()
    assert [set(column) for column in models.T] == [set(range(15))] * 4
    # And with one trial of each, the models of all stages have been tried.
    tried = []
    while len(found := with_most_untried(models, untried_models(task, tried))):
        tried.append(tuple(zip(models[found[0]].tolist(), samples[found[0]].tolist())))
    assert len(tried) <= 4
