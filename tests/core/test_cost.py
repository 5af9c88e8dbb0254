"""What allocations cost."""

import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts import (
    CostModel,
    FlopsCost,
    LatencyCost,
    MissingFactError,
    Model,
    PriceCost,
    Stage,
    Task,
    TaskError,
)
from optuna_agenttts.task.cost import TableCost, cost_from_dict, cost_to_dict


def price(cost, model, prompt, generation, samples=1):
    stage = Stage("stage", models=[model], prompt_tokens=prompt, generation_tokens=generation)
    return float(cost.stage_cost(stage, model, np.array([samples]))[0])


def flops(billions, prompt, generation, samples=1, **options):
    model = Model("model", parameters=billions * 1e9)
    return price(FlopsCost(**options), model, prompt, generation, samples)


def task_of(*stages, max_samples=100, **options):
    return Task(
        name="task",
        stages=[
            Stage(
                f"stage{index}",
                models=[Model("tiny", parameters=3e9), Model("large", parameters=size * 1e9)],
                prompt_tokens=prompt,
                generation_tokens=generation,
                max_samples=max_samples,
            )
            for index, (size, prompt, generation) in enumerate(stages)
        ],
        **options,
    )


class Steps:
    """A user's own cost model."""

    unit = "steps"

    def stage_cost(self, stage, model, samples):
        return np.sqrt(samples) * len(model.name)


TABLE = [
    (72, 2048, 128, 814),
    (70, 256, 64, 115),
    (7, 2048, 128, 77),
    (8, 2048, 128, 89),
    (70, 1024, 2048, 1118),
    (3, 256, 64, 3),
]


@pytest.mark.parametrize(("billions", "prompt", "generation", "expected"), TABLE)
def test_flops_of_one_sample_agree_with_table_5_of_the_paper(
    billions, prompt, generation, expected
):
    """One sample costs what the paper's Table 5 says, rounded."""
    assert round(flops(billions, prompt, generation)) == expected


def test_flops_of_the_reference_itself_are_one():
    """One sample of the reference model with the reference lengths is the unit."""
    assert flops(3, 128, 64) == pytest.approx(1.0)


def test_flops_pay_the_prompt_once_for_all_samples():
    """Every further sample costs its generation alone."""
    increments = np.diff([flops(72, 2048, 128, samples) for samples in range(1, 6)])
    assert increments == pytest.approx(np.full(4, 72 / 3 * 128 / 64))


BUDGETS = [
    ([(72, 2048, 128), (70, 256, 64)], 928.67),
    ([(72, 1024, 64), (70, 256, 64)], 520.67),
    ([(70, 1024, 64), (70, 1024, 256), (70, 1024, 2048)], 1977.33),
    ([(70, 1024, 1024), (70, 1024, 512), (70, 1024, 256)], 1767.33),
]


@pytest.mark.parametrize(("stages", "expected"), BUDGETS)
def test_default_budget_is_one_sample_of_the_largest_everywhere(stages, expected):
    """The default budgets of the paper's tasks come out."""
    assert task_of(*stages).budget == pytest.approx(expected, abs=0.005)


def test_default_budget_fits_its_own_allocation():
    """The allocation that defines the default budget is within it, to the last unit."""
    task = task_of(*BUDGETS[2][0])
    assert task.fits({stage.name: ("large", 1) for stage in task.stages})


SIZES = st.floats(1e-6, 1e3)
LENGTHS = st.floats(1, 1e5)
OPTIONS = st.fixed_dictionaries(
    {
        "prefix_sharing": st.booleans(),
        "fusion": st.booleans(),
        "reference_prompt_tokens": st.sampled_from([0, 128, 1000]),
        "reference_generation_tokens": st.sampled_from([1, 64]),
    }
)


@given(SIZES, LENGTHS, LENGTHS, OPTIONS)
def test_flops_are_above_zero_and_increase_with_each_sample(billions, prompt, generation, options):
    """However small the model and the prompt are."""
    model = Model("model", parameters=billions * 1e9)
    stage = Stage("stage", models=[model], prompt_tokens=prompt, generation_tokens=generation)
    costs = FlopsCost(**options).stage_cost(stage, model, np.arange(1, 101))
    assert costs[0] > 0
    assert (np.diff(costs) > 0).all()


@given(SIZES, LENGTHS, LENGTHS, st.integers(1, 100))
def test_flops_are_theorem_1_where_the_prompt_reaches_the_reference(
    billions, prompt, generation, samples
):
    """Below, they are above the theorem, by the part of the prompt that the reference lacks."""
    ratio = billions / 3
    theorem = (ratio * (prompt + samples * generation) - 128) / 64
    missing = max(0.0, 128 - ratio * prompt) / 64
    assert flops(billions, prompt, generation, samples) == pytest.approx(theorem + missing)


@given(SIZES, LENGTHS, LENGTHS)
def test_flops_increase_with_the_size_of_the_model(billions, prompt, generation):
    """A larger model never costs less, and the prompt never pays a sample."""
    assert flops(billions, prompt, generation) < flops(2 * billions, prompt, generation)
    assert flops(billions, prompt, generation) <= flops(billions, 2 * prompt, generation)


def test_prompt_paid_for_each_sample_without_prefix_sharing():
    """Three samples read the prompt three times: ((70/3) (3 * 256 + 3 * 64) - 128) / 64."""
    assert flops(70, 256, 64, 3, prefix_sharing=False) == pytest.approx(
        (70 / 3 * (3 * 256 + 3 * 64) - 128) / 64
    )


def test_prefix_sharing_does_not_matter_for_one_sample():
    """One sample reads the prompt once either way."""
    assert flops(70, 256, 64, prefix_sharing=False) == flops(70, 256, 64)


def test_fusion_reads_the_instance_and_every_sample_and_writes_one_answer():
    """Three samples and their fusion: prompts 256 + 256 + 192, generations 192 + 64."""
    assert flops(70, 256, 64, 3, fusion=True) == pytest.approx(
        (70 / 3 * (256 + 3 * 64 + 256 + 3 * 64 + 64) - 128) / 64
    )


def test_one_sample_costs_no_fusion():
    """There is nothing to fuse."""
    assert flops(70, 256, 64, fusion=True) == flops(70, 256, 64)


def test_flops_take_another_reference():
    """With a reference of 6e9 parameters, no prompt and one token, costs are tokens in units."""
    assert flops(
        12, 10, 5, 2,
        reference_parameters=6e9, reference_prompt_tokens=0, reference_generation_tokens=1,
    ) == pytest.approx(2 * (10 + 2 * 5))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reference_parameters", 0),
        ("reference_parameters", -3e9),
        ("reference_generation_tokens", 0),
        ("reference_prompt_tokens", -1),
    ],
)
def test_flops_refuse_a_senseless_reference(name, value):
    """The error names the argument and its value."""
    with pytest.raises(TaskError, match=rf"`{name}` must .*got {value!r}"):
        FlopsCost(**{name: value})


PRICED = Model("priced", input_price=2.0, output_price=10.0)


def test_price_bills_the_prompt_for_each_sample():
    """Three requests of 1000 tokens in and 100 out, at 2 and 10 USD per million."""
    assert price(PriceCost(), PRICED, 1000, 100, 3) == pytest.approx((3000 * 2 + 300 * 10) / 1e6)


def test_price_bills_a_shared_prompt_once():
    """With prefix sharing 1000 tokens in and 300 out are billed."""
    assert price(PriceCost(prefix_sharing=True), PRICED, 1000, 100, 3) == pytest.approx(
        (1000 * 2 + 300 * 10) / 1e6
    )


@given(
    prices=st.tuples(*[st.floats(0, 100)] * 3).map(sorted),
    prompt=st.floats(1, 1e4),
    generation=st.floats(1, 1e4),
    samples=st.integers(1, 100),
)
def test_a_cached_prompt_is_billed_in_full_once(prices, prompt, generation, samples):
    """Its further samples cost the cached price, between a shared prompt and none."""
    cached, paid, out = prices
    plain = Model("m", input_price=paid, output_price=out)
    model = Model("m", input_price=paid, output_price=out, cached_price=cached)
    cost = price(PriceCost(), model, prompt, generation, samples)
    assert cost * 1e6 == pytest.approx(
        prompt * (paid + (samples - 1) * cached) + samples * generation * out
    )
    shared = price(PriceCost(prefix_sharing=True), model, prompt, generation, samples)
    assert shared == price(PriceCost(prefix_sharing=True), plain, prompt, generation, samples)
    full = price(PriceCost(), plain, prompt, generation, samples)
    assert shared <= cost * (1 + 1e-12)
    assert cost <= full * (1 + 1e-12)


@pytest.mark.parametrize(("cached", "message"), [(-1, "0 or more"), (3, "above `input_price`")])
def test_a_cached_price_is_a_lower_one(cached, message):
    """So that an upper bound on the cost of calls stays one."""
    with pytest.raises(TaskError, match=message):
        Model("m", input_price=2, output_price=2, cached_price=cached)


def test_a_cached_price_is_stored():
    """A task without one is stored as by earlier versions."""
    plain, model = (
        Model("m", input_price=2, output_price=3, **more) for more in ({}, {"cached_price": 1})
    )
    tasks = [
        Task(
            name="t",
            stages=[Stage("s", models=[m], prompt_tokens=9, generation_tokens=1)],
            cost=PriceCost(),
        )
        for m in (plain, model)
    ]
    assert [Task.from_dict(t.to_dict()) for t in tasks] == tasks
    assert "cached_price" not in tasks[0].text
    assert tasks[0] != tasks[1]


def test_price_of_fusion():
    """Fusion reads 1000 + 3 * 100 tokens more and writes 100 more."""
    assert price(PriceCost(fusion=True), PRICED, 1000, 100, 3) == pytest.approx(
        ((3000 + 1300) * 2 + (300 + 100) * 10) / 1e6
    )


def test_price_of_a_free_model_is_zero():
    """A price of zero is a statement, not a missing fact."""
    assert price(PriceCost(), Model("free", input_price=0, output_price=0), 10, 10, 4) == 0.0


SPEEDY = Model("speedy", prompt_tokens_per_second=1000, generation_tokens_per_second=50)


@pytest.mark.parametrize(
    ("options", "samples", "expected"),
    [
        ({}, 1, 2 + 2),
        ({}, 3, 2 + 3 * 2),
        ({"concurrency": 2}, 3, 2 + 2 * 2),
        ({"concurrency": 4}, 4, 2 + 2),
        ({"concurrency": 4}, 5, 2 + 2 * 2),
        ({"concurrency": 2, "prefix_sharing": False}, 3, 2 * 2 + 2 * 2),
        ({"fusion": True}, 1, 2 + 2),
        ({"fusion": True}, 3, 2 + 3 * 2 + (2 + 0.3) + 2),
    ],
)
def test_latency_by_hand(options, samples, expected):
    """Reading 2000 tokens takes 2 s and writing 100 takes 2 s, wave by wave."""
    assert price(LatencyCost(**options), SPEEDY, 2000, 100, samples) == pytest.approx(expected)


def test_latency_refuses_no_concurrency():
    """The error names the argument and its value."""
    with pytest.raises(TaskError, match="`concurrency` must be 1 or more, got 0"):
        LatencyCost(concurrency=0)


@pytest.mark.parametrize(
    ("cost", "fact", "model"),
    [
        (FlopsCost(), "parameters", Model("bare")),
        (PriceCost(), "input_price", Model("bare", output_price=1)),
        (PriceCost(), "output_price", Model("bare", input_price=1)),
        (LatencyCost(), "prompt_tokens_per_second", Model("bare", generation_tokens_per_second=1)),
        (LatencyCost(), "generation_tokens_per_second", Model("bare", prompt_tokens_per_second=1)),
    ],
)
def test_missing_fact_is_an_error_that_names_model_and_fact(cost, fact, model):
    """What a model does not state is not free."""
    with pytest.raises(MissingFactError, match=rf"`{fact}` of model 'bare'"):
        price(cost, model, 10, 10)


@pytest.mark.parametrize(
    "cost",
    [
        FlopsCost(),
        FlopsCost(prefix_sharing=False, fusion=True, reference_parameters=1e9),
        PriceCost(prefix_sharing=True),
        LatencyCost(concurrency=8, fusion=True),
    ],
)
def test_cost_round_trips_through_json(cost):
    """A given cost model comes back equal."""
    assert cost_from_dict(json.loads(json.dumps(cost_to_dict(cost, ())))) == cost


@pytest.mark.parametrize(
    "cost", [FlopsCost(), PriceCost(), LatencyCost(), TableCost(table={}), Steps()]
)
def test_costs_meet_the_protocol(cost):
    """Given costs, tables and a user's own class are cost models."""
    assert isinstance(cost, CostModel)


def test_own_cost_is_stored_as_a_table():
    """A user-defined cost model is stored as a table of its costs, with its unit."""
    task = task_of((70, 10, 10), (8, 5, 5), cost=Steps(), budget=30)
    values = json.loads(json.dumps(cost_to_dict(task.cost_model, task.stages)))
    assert (values["kind"], cost_from_dict(values).unit) == ("table", "steps")


def test_own_cost_charges_the_same_after_the_round_trip():
    """The table charges what the class did."""
    task = task_of((70, 10, 10), cost=Steps(), budget=30)
    stage = task.stages[0]
    table = cost_from_dict(json.loads(json.dumps(cost_to_dict(task.cost_model, task.stages))))
    samples = np.array([1, 7, 100])
    for model in stage.models:
        assert table.stage_cost(stage, model, samples) == pytest.approx(
            Steps().stage_cost(stage, model, samples)
        )


def test_subclass_of_a_given_cost_is_stored_as_a_table():
    """A subclass may charge otherwise, so its name alone must not be stored."""

    class Double(FlopsCost):
        def stage_cost(self, stage, model, samples):
            return 2 * super().stage_cost(stage, model, samples)

    task = task_of((70, 256, 64), cost=Double())
    assert cost_to_dict(task.cost_model, task.stages)["kind"] == "table"


def test_table_round_trips_again():
    """A table that was read back is written down as the same table."""
    task = task_of((70, 10, 10), cost=Steps(), budget=30)
    once = json.loads(json.dumps(cost_to_dict(task.cost_model, task.stages)))
    assert json.loads(json.dumps(cost_to_dict(cost_from_dict(once), task.stages))) == once


@pytest.mark.parametrize("name", ["known", "unknown"])
def test_table_names_what_it_does_not_list(name):
    """Too many samples, or an unknown model, is a missing fact that is named."""
    table = TableCost(table={"stage": {"known": (1.0, 2.0)}})
    with pytest.raises(MissingFactError, match=rf"model '{name}' in stage\s+'stage'"):
        price(table, Model(name), 1, 1, samples=3)


def test_unknown_kind_of_cost_is_an_error():
    """The error names the kind that was stored."""
    with pytest.raises(TaskError, match="cost model 'quantum'"):
        cost_from_dict({"kind": "quantum"})


@pytest.mark.parametrize(
    ("charge", "complaint"),
    [
        (lambda samples: 10.0 - samples, "falls|must be finite"),
        (lambda samples: samples * np.nan, "must be finite"),
        (lambda samples: samples - 5.0, "must be finite and 0 or more"),
        (lambda samples: 1.0, "shape"),
        (lambda samples: 200.0 - samples, "must not fall as samples are added"),
    ],
)
def test_task_refuses_an_own_cost_that_breaks_the_protocol(charge, complaint):
    """Costs that fall, are negative, not finite or of another shape are named."""

    class Broken(Steps):
        def stage_cost(self, stage, model, samples):
            return charge(samples)

    with pytest.raises(TaskError, match=complaint):
        task_of((70, 10, 10), cost=Broken(), budget=1000)


class Odd:
    def __array__(self, *arguments, **options):
        raise RuntimeError("no array")

    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "returned",
    [
        None,
        "1234",
        b"1234",
        True,
        [1, 2, None, 4],
        ["1", "2", "3", "4"],
        [1, 2, 3, 4j],
        [1 + 0j, 2, 3, 4],
        [True, True, True, True],
        [[1], [2], [3], [4, 5]],
        [{}, {}, {}, {}],
        [1, 2, 3, 10**400],
        {1: 1, 2: 2, 3: 3, 4: 4},
        {1, 2, 3, 4},
        np.array([1, 2, 3, 4], dtype="datetime64[s]"),
        Odd(),
        [Odd()] * 4,
        iter([1, 2, 3, 4]),
        Steps,
    ],
    ids=lambda value: type(value).__name__,
)
def test_task_refuses_costs_that_are_no_numbers(returned):
    """The message names stage and model; numpy alone would read some of them as numbers."""

    class Broken(Steps):
        def stage_cost(self, stage, model, samples):
            return returned

    with pytest.raises(TaskError, match=r"model '\w+' in stage 'stage0'.* must return an array"):
        task_of((70, 10, 10), cost=Broken(), max_samples=4)


@pytest.mark.parametrize(
    "returned", [[1, 2], [Fraction(1, 2), 1], [Decimal("0.5"), 1.0], np.array([1, 2], dtype="f2")]
)
def test_costs_may_be_numbers_of_any_type(returned):
    class Own(Steps):
        def stage_cost(self, stage, model, samples):
            return returned

    task = task_of((70, 10, 10), cost=Own(), max_samples=2)
    assert Task.from_dict(json.loads(task.text)) == task


@pytest.mark.parametrize(
    "error", [ValueError("wrong\nprice"), KeyError("model"), RecursionError(), StopIteration()]
)
def test_errors_of_an_own_cost_name_stage_and_model(error):
    """The original error is the cause."""

    class Broken(Steps):
        def stage_cost(self, stage, model, samples):
            raise error

    message = rf"model '\w+' in stage 'stage0': `stage_cost` raised {type(error).__name__}"
    with pytest.raises(TaskError, match=message) as caught:
        task_of((70, 10, 10), cost=Broken())
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", [None, 5, b"USD", "\ud800"])
def test_the_unit_of_an_own_cost_is_a_text(unit):
    class Broken(Steps):
        pass

    Broken.unit = unit
    with pytest.raises(TaskError, match="`unit`"):
        task_of((70, 10, 10), cost=Broken())


def test_an_error_of_the_unit_is_named():
    class Broken(Steps):
        @property
        def unit(self):
            raise RuntimeError("no unit")

    with pytest.raises(TaskError, match="`unit` of `cost` raised RuntimeError: no unit"):
        task_of((70, 10, 10), cost=Broken())


def test_integers_above_all_floats_are_refused():
    """They would be an `OverflowError`."""
    with pytest.raises(TaskError, match="`parameters` must be finite"):
        Model("m", parameters=10**400)
    with pytest.raises(TaskError, match="`budget` must be finite"):
        task_of((70, 10, 10), budget=10**400)


@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan, "3e9", None])
def test_references_of_costs_are_finite_numbers(wrong):
    """An infinite reference would make every cost zero."""
    for name in ("reference_parameters", "reference_generation_tokens"):
        with pytest.raises(TaskError, match=name):
            FlopsCost(**{name: wrong})
    if wrong != 0:
        with pytest.raises(TaskError, match="reference_prompt_tokens"):
            FlopsCost(reference_prompt_tokens=wrong)
    with pytest.raises(TaskError, match="concurrency"):
        LatencyCost(concurrency=wrong)
