"""Thinking efforts: choices of a stage that are one model."""

import copy
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import (
    AgentTTSSampler,
    FlopsCost,
    LatencyCost,
    Model,
    PriceCost,
    Stage,
    Task,
    TaskError,
    Thinking,
    carry_over,
    efforts,
    load_allocation,
    recommend,
    save_allocation,
)
from optuna_agenttts.study.spending import cost_of_samples, price_of

QWEN = Model(
    "Qwen/Qwen3-8B",
    parameters=8e9,
    input_price=0.1,
    output_price=0.4,
    prompt_tokens_per_second=4000,
    generation_tokens_per_second=100,
)
PLAIN = Model(
    "gemma-3-4b",
    parameters=4e9,
    input_price=0.05,
    output_price=0.2,
    prompt_tokens_per_second=8000,
    generation_tokens_per_second=200,
)
NO_THOUGHTS = {"chat_template_kwargs": {"enable_thinking": False}}
WORDS = ["off", "minimal", "low", "medium", "high", "xhigh"]
COSTS = [FlopsCost(), FlopsCost(fusion=True), PriceCost(), LatencyCost()]


def stage_of(*models, name="say", **options):
    given = {"prompt_tokens": 100, "generation_tokens": 50, "max_samples": 8, **options}
    return Stage(name, models=models or [QWEN], **given)


def task_of(*stages, **options):
    return Task(**{"name": "qa", "stages": stages, "budget": 1e12, **options})


def names(models):
    return [model.name for model in models]


class TestEfforts:
    def test_each_effort_is_a_choice_with_its_fields(self):
        """Fields are added to those of the model, and facts stay."""
        model = Model("m", parameters=8e9, input_price=1.0, extra={"top_k": 20})
        off, low, high = efforts(model, off=NO_THOUGHTS, low={"top_k": 5}, high=None)
        assert names([off, low, high]) == ["m, no thinking", "m, low thinking", "m, high thinking"]
        assert (off.extra, low.extra, high.extra) == (
            {"top_k": 20, **NO_THOUGHTS},
            {"top_k": 5},
            {"top_k": 20},
        )
        assert [choice.thinking.negotiated for choice in (off, low, high)] == [False, False, True]
        for choice in (off, low, high):
            assert choice.served_name == choice.thinking.model == "m"
            assert (choice.parameters, choice.input_price) == (8e9, 1.0)

    def test_expected_thoughts_rise_from_effort_to_effort(self):
        """Given ones count, also for the words after them that have no known length."""
        tokens = [c.thinking.tokens for c in efforts(QWEN, **dict.fromkeys(WORDS))]
        assert tokens == sorted(tokens)
        assert tokens[0] == 0
        own = efforts(QWEN, tokens={"low": 700}, off=None, low=None, deep=None)
        assert [choice.thinking.tokens for choice in own] == [0, 700, 2800]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "at least one effort"),
            ({"low": 3}, "low thinking: fields of requests must be a dict, got 3"),
            ({"low": {"x": {1}}}, "values that JSON can hold"),
            ({"low": {"seed": 1}}, "must not set seed"),
            ({"low": None, "tokens": {"high": 3}}, "'high', which is not among the efforts"),
            ({"low": None, "tokens": {"low": -1}}, "`tokens` must be finite and 0 or more"),
            ({"low": None, "tokens": {"low": math.nan}}, "`tokens` must be finite"),
            ({"low": None, "tokens": [300]}, "`tokens` must be a dict by effort"),
            ({"off": None, "none": None}, "'off', 'none' and 0 are one"),
            ({"low": None, "LOW": None}, "must be unique"),
        ],
    )
    def test_nonsense_is_named(self, arguments, message):
        with pytest.raises(TaskError, match=message):
            efforts(QWEN, **arguments)

    @pytest.mark.parametrize(
        ("written", "effort"),
        [
            ("Off", "off"),
            (" HIGH ", "high"),
            ("2048", 2048),
            (np.int64(2048), 2048),
            ("Deep", "Deep"),
        ],
    )
    def test_an_effort_is_the_same_however_it_is_written(self, written, effort):
        """Numbers of a key of `efforts` are numbers, too, and those of `tokens`."""
        (choice,) = stage_of(QWEN, thinking=(written,)).models
        assert [choice] == list(stage_of(QWEN, thinking=(effort,)).models)
        key = str(written)
        (own,) = efforts(QWEN, **{key: {"a": 1}}, tokens={key: np.float32(300)})
        assert (own.name, own.thinking.effort, own.thinking.tokens) == (choice.name, effort, 300.0)

    def test_fields_within_an_object_are_added_to_those_of_the_model(self):
        model = replace(QWEN, extra={"chat_template_kwargs": {"style": "brief"}})
        (off,) = efforts(model, off=NO_THOUGHTS)
        both = {"style": "brief", **NO_THOUGHTS["chat_template_kwargs"]}
        assert off.extra == {"chat_template_kwargs": both}

    def test_thoughts_come_on_top_of_a_length_of_the_models_own(self):
        """Otherwise all efforts of the model would cost the same."""
        stage = stage_of(replace(QWEN, generation_tokens=100), thinking=("off", "low"))
        assert [stage.sample_tokens(model) for model in stage.models] == [100, 612]

    def test_a_model_has_one_effort(self):
        with pytest.raises(TaskError, match="at a thinking effort already"):
            efforts(efforts(QWEN, low=None)[0], high=None)
        with pytest.raises(TaskError, match=r"must be a `Thinking`, got 'low'.*efforts\("):
            Model("m", thinking="low")
        with pytest.raises(TaskError, match="must be unique"):
            stage_of(*efforts(QWEN, off=None, none=None))


class TestStage:
    def test_efforts_of_a_stage_are_those_of_each_model_that_thinks(self):
        """Except models that do not think, or have efforts of their own."""
        own = efforts(Model("own-1b"), low={"a": 1})
        stage = stage_of(
            QWEN, Model("silent-1b", thinks=False), *own, thinking=("off", "low", 2048)
        )
        assert names(stage.models) == [
            "Qwen/Qwen3-8B, no thinking",
            "Qwen/Qwen3-8B, low thinking",
            "Qwen/Qwen3-8B, 2048 thinking tokens",
            "silent-1b",
            "own-1b, low thinking",
        ]
        assert all(c.thinking.negotiated for c in stage.models[:3])
        assert stage.thinking == ()

    def test_is_equal_to_the_same_choices_made_by_hand(self):
        both = stage_of(QWEN, PLAIN, thinking=("off", "high"))
        assert both == stage_of(
            *efforts(QWEN, off=None, high=None), *efforts(PLAIN, off=None, high=None)
        )
        assert stage_of(*both.models) == both

    @pytest.mark.parametrize("nothing", [0, "off", "none"])
    def test_no_thinking_is_called_so(self, nothing):
        (choice,) = stage_of(thinking=(nothing,)).models
        assert choice.name == "Qwen/Qwen3-8B, no thinking"
        assert (choice.thinking.tokens, choice.thinking.room) == (0, 0)

    @pytest.mark.parametrize(
        ("thinking", "message"),
        [
            ("low", r"must be a sequence of efforts.*got 'low'"),
            (3, r"must be a sequence of efforts"),
            (("low", "low"), "must be unique"),
            (("low", -1), "a number of tokens, 0 or more, got -1"),
            ((0, False), "must be unique"),
            (("",), "got ''"),
            ((None,), "got None"),
            ((0, "off"), "must be unique"),
            (("1024", 1024), "must be unique"),
        ],
    )
    def test_nonsense_is_named(self, thinking, message):
        with pytest.raises(TaskError, match=message):
            stage_of(thinking=thinking)

    def test_words_that_yaml_reads_as_truth_values_are_efforts(self):
        """``thinking: [off, on]`` in a file of YAML 1.1 is [False, True]."""
        read, said = (stage_of(thinking=t) for t in ([False, 512, True], ("off", 512, "on")))
        assert read == said

    def test_efforts_that_no_model_takes_are_an_error(self):
        """As in `replace(stage, thinking=...)`, whose models are at other efforts."""
        with pytest.raises(TaskError, match="no effect, as each of the models is at an effort"):
            replace(stage_of(QWEN, thinking=("off", "low")), thinking=("off", "high"))
        with pytest.raises(TaskError, match="must be a `Model`, got 'm'"):
            efforts("m", low=None)
        with pytest.raises(TaskError, match="`thinks` must be True, False or None, got 'no'"):
            Model("m", thinks="no")

    def test_samples_are_as_long_as_answer_and_thoughts(self):
        """A length that is given or measured includes both."""
        off, low, budget = stage_of(thinking=("off", "low", 1024)).models
        stage = stage_of(off, low, budget, PLAIN, Model("long-1b", generation_tokens=900))
        assert [stage.sample_tokens(m) for m in stage.models] == [50, 562, 562, 50, 900]
        assert stage.sample_tokens(replace(low, generation_tokens=77)) == 77

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True))
    def test_more_room_for_larger_budgets(self, budgets):
        """A reply has the budget of its thoughts and the answer."""
        models = stage_of(thinking=sorted(budgets)).models
        rooms = [model.thinking.room for model in models]
        assert rooms == sorted(budgets)
        assert [m.thinking.tokens for m in models] == [budget / 2 for budget in sorted(budgets)]


class TestCosts:
    @pytest.mark.parametrize("cost", COSTS, ids=repr)
    def test_are_those_of_a_stage_with_that_length(self, cost):
        """Thoughts cost as answers do; the prompt of a fusion holds the answers alone."""
        stage = stage_of(thinking=("off", "low", "high"))
        task = task_of(stage, cost=cost)
        for row, model in zip(task.feasible.costs[0], stage.models):
            long = stage_of(generation_tokens=stage.sample_tokens(model))
            alone = task_of(long, cost=cost).feasible.costs[0][0]
            thoughts = model.thinking.tokens
            read = [samples * thoughts if samples > 1 else 0 for samples in range(1, 9)]
            less = 0.0
            if getattr(cost, "fusion", False):
                less = [8 / 3 * tokens / 64 for tokens in read]
            assert row == pytest.approx(alone - less)

    def test_the_default_budget_is_one_sample_of_the_costliest_effort(self):
        task = task_of(stage_of(thinking=("off", "high")), budget=None)
        assert task.budget == task.cost({"say": ("Qwen/Qwen3-8B, high thinking", 1)})

    def test_a_users_cost_model_sees_the_length_of_each_choice(self):
        """It reads the length of the stage, as it did before there were efforts."""

        class TokenCost:
            unit = "tokens"

            def stage_cost(self, stage, model, samples):
                assert stage.sample_tokens(model) == stage.generation_tokens
                return stage.prompt_tokens + stage.generation_tokens * samples

        task = task_of(stage_of(PLAIN, *efforts(QWEN, off=None, low=None)), cost=TokenCost())
        costs = [float(row[1]) for row in task.feasible.costs[0]]
        assert costs == [200, 200, 100 + 2 * 562]
        assert Task.from_dict(json.loads(task.text)) == task

    @pytest.mark.parametrize("cost", COSTS, ids=repr)
    def test_samples_are_priced_by_their_measured_lengths(self, cost):
        """Expected thoughts do not matter, nor does a length that was given."""
        off, low = efforts(QWEN, off=None, low=None)
        given = replace(QWEN, name="given", generation_tokens=9000)
        task = task_of(stage_of(QWEN, off, low, given), cost=cost)
        prices = {
            cost_of_samples(task, "say", model.name, 3, prompt_tokens=70, generation_tokens=40)
            for model in task.stages[0].models
        }
        assert len(prices) == 1

    def test_the_agents_model_is_found_at_any_effort(self):
        """Its tokens are those of the call."""
        task = task_of(stage_of(thinking=("low", "high")), cost=PriceCost())
        price = price_of(task, "Qwen/Qwen3-8B at somewhere", 1000, 100)
        assert price == pytest.approx((1000 * 0.1 + 100 * 0.4) / 1e6)


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda task: pickle.loads(pickle.dumps(task)),
        lambda task: Task.from_dict(json.loads(json.dumps(task.to_dict()))),
    ],
    ids=["deepcopy", "pickle", "json"],
)
def test_copies_are_equal(copied):
    """Words stay words, and numbers of tokens numbers."""
    first = stage_of(QWEN, Model("silent-1b", thinks=False), thinking=("off", 2048), name="find")
    task = task_of(first, stage_of(*efforts(QWEN, low=NO_THOUGHTS)))
    again = copied(task)
    assert again == task
    assert again.stages == task.stages
    assert [model.thinking.effort for model in again.stages[0].models[:2]] == ["off", 2048]


def test_tasks_without_efforts_are_stored_as_before():
    """Stored by an earlier version, they compare equal."""
    stored = task_of(stage_of(QWEN, PLAIN)).to_dict()["stages"][0]
    assert "thinking" not in stored
    for model in stored["models"]:
        assert set(model) == {
            *("name", "parameters", "input_price", "output_price"),
            *("prompt_tokens_per_second", "generation_tokens_per_second"),
        }


@pytest.mark.parametrize("thinking", [{"model": "m"}, {"model": "m", "effort": "low", "x": 1}, 3])
def test_what_is_no_effort_is_no_task(thinking):
    values = task_of(stage_of(thinking=("low",))).to_dict()
    values["stages"][0]["models"][0]["thinking"] = thinking
    with pytest.raises(TaskError):
        Task.from_dict(values)


def test_allocations_are_saved_and_loaded(tmp_path):
    allocation = {"say": ("Qwen/Qwen3-8B, low thinking", 3)}
    save_allocation(allocation, tmp_path / "a.json")
    loaded = load_allocation(tmp_path / "a.json")
    task = task_of(stage_of(thinking=("off", "low")))
    assert task.allocation(task.choices(loaded)) == loaded == allocation


def study_of(task, trials=6):
    """Run a search whose score grows with thinking and samples."""

    def objective(trial):
        (name, samples) = task.suggest(trial)["say"]
        return 0.1 * samples + ("high" in name)

    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    study.optimize(objective, n_trials=trials)
    return study


def test_a_study_is_resumed_with_the_same_efforts_in_another_order():
    task = task_of(stage_of(thinking=("off", "low", "high")))
    study = study_of(task)
    again = task_of(stage_of(thinking=("high", "off", "low")))
    study.sampler = AgentTTSSampler(again)
    study.optimize(lambda trial: float(again.suggest(trial)["say"].samples), n_trials=2)
    assert recommend(study).allocation is not None


@pytest.mark.parametrize("after", [("off", "low", "high"), ("off",), ("off", 1024), ()])
def test_efforts_added_or_removed_need_a_new_study(after):
    """It takes over the trials whose efforts the task still has."""
    study = study_of(task_of(stage_of(thinking=("off", "low"))), trials=10)
    now = task_of(stage_of(thinking=after))
    study.sampler = AgentTTSSampler(now)
    with pytest.raises(TaskError, match=r"cannot be resumed with other models.*carry_over"):
        study.optimize(now.suggest, n_trials=1)
    new = carry_over(study, now)
    kept = [
        t.params for t in study.trials if t.params.get("say.model") in names(now.stages[0].models)
    ]
    assert [trial.params for trial in new.trials] == kept
    assert bool(kept) == bool(after)
    new.optimize(lambda trial: float(now.suggest(trial)["say"].samples), n_trials=2)


class TestThinking:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"model": ""}, "`model` must be a non-empty string"),
            ({"effort": 1.5}, "got 1.5"),
            ({"tokens": "many"}, "`tokens` must be finite"),
            ({"tokens": True}, "`tokens` must be finite"),
        ],
    )
    def test_nonsense_is_named(self, arguments, message):
        with pytest.raises(TaskError, match=message):
            Thinking(**{"model": "m", "effort": "low", "tokens": 1, **arguments})

    def test_words_of_efforts(self):
        def choice(effort):
            return Thinking(model="m", effort=effort, tokens=1).choice

        assert choice("on") == "m, thinking"
        assert choice("xhigh") == "m, xhigh thinking"
        assert choice(1024) == "m, 1024 thinking tokens"
