"""Measured token lengths: the task with them, who follows it, and what samples really cost."""

import copy
import json
import pickle
from dataclasses import dataclass

import numpy as np
import optuna
import pytest
from core_support import wiki_task
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import (
    AgentTTSSampler,
    BudgetError,
    FlopsCost,
    LatencyCost,
    Model,
    PriceCost,
    Stage,
    Task,
    TaskError,
    recommend,
    storage,
)
from optuna_agenttts.study.measured import effective_task, set_effective_task, with_lengths
from optuna_agenttts.study.spending import cost_of_samples

LENGTHS = {"retrieval": (1024.0, 32.0), "answer": (600.0, 200.0)}


@dataclass(frozen=True)
class CentsPerToken:
    """A cost model of the user's own, which storages keep as a table."""

    cents: float = 2.0

    unit = "cents"

    def stage_cost(self, stage, model, samples):
        """Price a stage."""
        return self.cents * (stage.prompt_tokens + stage.generation_tokens * samples)


def priced_task(budget=None, cost=None, prompt=100, generation=50, max_samples=20):
    """Two stages of two models that state every fact."""
    models = [
        Model(
            name,
            parameters=size * 1e9,
            input_price=size / 10,
            output_price=size / 5,
            prompt_tokens_per_second=1000 / size,
            generation_tokens_per_second=100 / size,
        )
        for name, size in (("small", 3), ("large", 70))
    ]
    return Task(
        name="priced",
        stages=[
            Stage(
                name,
                models=models,
                prompt_tokens=prompt,
                generation_tokens=generation,
                max_samples=max_samples,
            )
            for name in ("one", "two")
        ],
        budget=budget,
        cost=cost,
    )


def lengths_of(task):
    """Return the lengths of a task's stages."""
    return {s.name: (s.prompt_tokens, s.generation_tokens) for s in task.stages}


def study_of(**options):
    """Create an in-memory study."""
    return optuna.create_study(direction="maximize", **options)


def elsewhere(study):
    """Load the study as another process sees it."""
    return optuna.load_study(study_name=study.study_name, storage=study._storage)


COSTS = [
    FlopsCost(),
    FlopsCost(fusion=True),
    PriceCost(),
    LatencyCost(concurrency=4),
    CentsPerToken(),
]


class TestWithLengths:
    def test_an_explicit_budget_stays(self):
        """Everything else stays, too; what is not measured stays as declared."""
        task = wiki_task(budget=900)
        found = with_lengths(task, {"answer": (600.0, 200.0), "unknown": (1.0, 1.0)})
        assert found.budget == 900
        assert lengths_of(found) == {"retrieval": (2048, 128), "answer": (600, 200)}
        assert with_lengths(found, lengths_of(task)) == task

    @pytest.mark.parametrize("cost", COSTS, ids=repr)
    def test_a_default_budget_is_the_default_again(self, cost):
        """The budget is one sample of the most expensive model in each stage, for any lengths."""
        task = priced_task(cost=cost)
        found = with_lengths(task, {"one": (1000.0, 900.0)})
        assert found.budget != task.budget
        assert found.budget == pytest.approx(
            found.cost({"one": ("large", 1), "two": ("large", 1)})
        )
        assert with_lengths(found, lengths_of(task)) == task

    @settings(max_examples=30)
    @given(
        st.dictionaries(
            st.sampled_from(["one", "two"]),
            st.tuples(st.floats(0.1, 1e5), st.floats(0.1, 1e5)),
        ),
        st.sampled_from([None, 1e9]),
    )
    def test_is_idempotent(self, lengths, budget):
        """The same lengths again change nothing."""
        once = with_lengths(priced_task(budget), lengths)
        assert with_lengths(once, lengths) == once
        assert with_lengths(once, {}) == once

    @pytest.mark.parametrize("nothing", [0.0, -1.0, float("nan")])
    def test_lengths_that_are_none_are_ignored(self, nothing):
        """A stage that never ran keeps its declared lengths; each length counts separately."""
        task = wiki_task()
        assert with_lengths(task, {"answer": (nothing, nothing)}) == task
        found = with_lengths(task, {"answer": (nothing, 7.0)})
        assert lengths_of(found)["answer"] == (256, 7)

    def test_a_budget_that_nothing_fits_is_refused(self):
        """With ten times the lengths the cheapest allocation is too dear."""
        with pytest.raises(BudgetError, match="cheapest allocation"):
            with_lengths(wiki_task(budget=100), {"retrieval": (20_000.0, 10_000.0)})

    def test_names_of_parameters_and_texts_stay(self):
        """A task with a description and parameters of its own."""
        task = Task(
            name="own",
            stages=[
                Stage(
                    "one",
                    models=[Model("m", parameters=1e9)],
                    prompt_tokens=1000,
                    generation_tokens=100,
                    description="first",
                    model_parameter="llm",
                    samples_parameter="n",
                )
            ],
            metric="em",
            description="all",
        )
        found = with_lengths(task, {"one": (2000.0, 50.0)})
        assert set(found.params({"one": ("m", 1)})) == {"llm", "n"}
        changed = {line.split(":")[0] for line in task.differences(found)}
        assert changed == {"stages.one.prompt_tokens", "stages.one.generation_tokens", "budget"}


class TestTaskInForce:
    def test_is_the_declared_one_until_another_is_put(self):
        """In this process and in others."""
        study, task = study_of(), wiki_task()
        measured = with_lengths(task, LENGTHS)
        assert effective_task(study, task, fresh=True) is task
        task.register(study)
        assert effective_task(study, task, fresh=True) is task
        set_effective_task(study, measured)
        assert effective_task(study, task) == measured
        other = elsewhere(study)
        assert effective_task(other, task) == measured
        assert effective_task(other, measured) == measured
        assert Task.registered(other) == measured

    @pytest.mark.parametrize("cost", COSTS, ids=repr)
    def test_any_cost_model_follows(self, cost):
        """Also one of the user's own, which comes back itself and not as a table."""
        study, task = study_of(), priced_task(cost=cost)
        measured = with_lengths(task, {"one": (321.0, 12.3)})
        set_effective_task(study, measured)
        found = effective_task(elsewhere(study), task)
        assert found == measured
        assert found.cost_model == cost

    def test_lengths_that_were_declared_before_are_not_measured(self, caplog):
        """Who declares others counts, and the change is logged."""
        study, before = study_of(), wiki_task()
        before.register(study)
        now = with_lengths(before, LENGTHS)
        other = elsewhere(study)
        assert effective_task(other, now, fresh=True) == now
        now.register(other)
        assert "was registered with another task before" in caplog.text

    @pytest.mark.parametrize("thinking", [(), ("off", "low")])
    def test_measured_lengths_are_no_change_beside_what_was_changed(self, caplog, thinking):
        """They give way to declared ones until they are measured again."""
        lengths = {"prompt_tokens": 20, "generation_tokens": 5}
        stage = Stage("a", models=[Model("m-8B")], thinking=thinking, **lengths)
        before, now = (Task(name="t", stages=[stage], budget=b) for b in (3000, 2500))
        study = study_of()
        low = {"m-8B, low thinking": 93.2} if thinking else {}
        set_effective_task(study, with_lengths(before, {"a": (321.0, 12.3)}, {"a": low}))
        now.register(study)
        assert Task.registered(study) == now
        assert caplog.text.rstrip().endswith("instance): budget: 3000.0 -> 2500.0")

    def test_what_differs_in_more_than_lengths_is_another_task(self):
        """A budget, models or stages of its own."""
        study, task = study_of(), wiki_task(budget=900)
        set_effective_task(study, with_lengths(wiki_task(budget=800), LENGTHS))
        assert effective_task(elsewhere(study), task) is task
        set_effective_task(study, with_lengths(priced_task(), {"one": (5.0, 5.0)}))
        assert effective_task(elsewhere(study), task) is task

    def test_an_equal_task_of_another_caller_is_not_taken_for_measured(self):
        """Who asks with a task that nothing was measured of gets that very object back."""
        first, second = wiki_task(budget=900), wiki_task(budget=900)
        study = study_of()
        first.register(study)
        set_effective_task(study, with_lengths(wiki_task(budget=800), LENGTHS))
        assert effective_task(study, first, fresh=True) is first
        assert effective_task(study, second, fresh=True) is second
        study = study_of()
        second.register(study)
        assert effective_task(study, first, fresh=True) is first
        assert effective_task(study, second, fresh=True) is second

    def test_lengths_declared_anew_do_not_undo_what_was_measured(self):
        """A user who corrects the declared lengths later keeps the measured ones."""
        for budget in (900, None):
            study, task = study_of(), wiki_task(budget=budget)
            measured = with_lengths(task, LENGTHS)
            set_effective_task(study, measured)
            corrected = with_lengths(task, {"retrieval": (1000.0, 30.0)})
            assert effective_task(elsewhere(study), corrected) == measured

    def test_what_cannot_be_read_counts_as_another_task(self):
        """A description of a later version, or none at all."""
        task = wiki_task()
        for text in ('{"name": "x"}', '{"stages": 3}', "{}", json.dumps({"stages": [{}]})):
            study = study_of()
            storage.register(study, text)
            assert effective_task(elsewhere(study), task, fresh=True) is task


class TestSampler:
    @pytest.mark.parametrize("explicit", [True, False])
    def test_next_allocations_follow_the_measured_task(self, explicit, caplog):
        """With a task of its own and without, in this process and in another."""
        task = wiki_task(budget=900)
        measured = with_lengths(task, {"retrieval": (4096.0, 500.0)})
        assert not measured.fits(
            task.project({"retrieval": ("qwen-72B", 9), "answer": ("small-3B", 1)})
        )
        sampler = AgentTTSSampler(task if explicit else None)
        study = study_of(sampler=sampler)

        def run(study, sampler, trials):
            study.sampler = sampler
            start = len(study.trials)
            study.optimize(lambda trial: wish(trial), n_trials=trials)
            return study.trials[start:]

        def wish(trial):
            found = effective_task(trial.study, task, fresh=True).suggest(trial)
            return -abs(measured.cost(found) - 800) / 1000

        run(study, sampler, 3)
        set_effective_task(study, measured)
        copies = [sampler, copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))]
        for number, each in enumerate(copies):
            shared = study if number == 0 else elsewhere(study)
            for trial in run(shared, each, 4):
                assert trial.state == optuna.trial.TrialState.COMPLETE
                assert measured.choices_from_params(trial.params).keys() == {0, 1}
                announced = trial.system_attrs["agenttts:candidate"]
                given = {name: tuple(setting) for name, setting in announced.items()}
                assert measured.fits(given)
                assert measured.params(given) == trial.params
            assert each._tasks.get(shared, 0) == measured
        assert "another task" not in caplog.text

    def test_the_task_is_not_read_from_storage_for_every_parameter(self, monkeypatch):
        """What this process saw last is enough for the sampler."""
        task = wiki_task()
        sampler = AgentTTSSampler(task)
        study = study_of(sampler=sampler)
        set_effective_task(study, with_lengths(task, LENGTHS))
        sampler._tasks.get(study, 0)
        monkeypatch.setattr(study._storage, "get_study_system_attrs", None)
        assert sampler._tasks.get(study, 0) == with_lengths(task, LENGTHS)

    def test_recommendations_cost_what_was_measured(self):
        """Without being told the task."""
        task = wiki_task()
        measured = with_lengths(task, LENGTHS)
        study = study_of(sampler=AgentTTSSampler(task))
        study.optimize(lambda trial: float(task.suggest(trial)["answer"].samples), n_trials=3)
        set_effective_task(study, measured)
        found = recommend(elsewhere(study))
        assert found.cost == pytest.approx(measured.cost(found.allocation))
        assert found.cost != pytest.approx(task.cost(found.allocation))


class TestCostOfSamples:
    @pytest.mark.parametrize("cost", COSTS, ids=repr)
    @pytest.mark.parametrize("model", ["small", "large"])
    @pytest.mark.parametrize("samples", [1, 2, 20])
    def test_is_the_tasks_cost_for_declared_lengths(self, cost, model, samples):
        """But for the call that fuses, which is a sample of its own."""
        task = priced_task(cost=cost, budget=1e9)
        plain = cost
        if getattr(cost, "fusion", False):
            plain = FlopsCost(fusion=False)
        expected = priced_task(cost=plain, budget=1e9)
        found = cost_of_samples(
            task, "one", model, samples, prompt_tokens=100, generation_tokens=50
        )
        index = ["small", "large"].index(model)
        assert found == pytest.approx(float(expected.feasible.costs[0][index][samples - 1]))

    @settings(max_examples=30)
    @given(
        st.integers(1, 50),
        st.integers(1, 50),
        st.floats(0, 1e5),
        st.floats(0, 1e5),
        st.booleans(),
    )
    def test_prices_add_up(self, first, second, prompt, generation, fusion):
        """Where each call is billed, it does not matter in how many parts they are made."""
        task = priced_task(cost=PriceCost(fusion=fusion))

        def price(samples):
            return cost_of_samples(
                task, "two", "large", samples, prompt_tokens=prompt, generation_tokens=generation
            )

        assert price(first + second) == pytest.approx(price(first) + price(second))
        assert price(first) == pytest.approx(first * price(1))

    @pytest.mark.parametrize(
        "cost",
        [FlopsCost(fusion=True), PriceCost(fusion=True), LatencyCost(fusion=True)],
        ids=repr,
    )
    def test_fusion_is_not_charged_twice(self, cost):
        """Samples and the fusion call, priced apart, are what the task charges for both."""
        samples = 5
        big = {"prompt_tokens": 2000, "generation_tokens": 300}
        task = priced_task(cost=cost, prompt=2000, generation=300, budget=1e9)
        both = float(task.feasible.costs[0][1][samples - 1])
        apart = cost_of_samples(task, "one", "large", samples, **big)
        fused = cost_of_samples(
            task,
            "one",
            "large",
            1,
            prompt_tokens=2000 + samples * 300,
            generation_tokens=300,
        )
        # Of FLOPs, the reference's prompt is taken off for each request.
        offset = 128 / 64 if isinstance(cost, FlopsCost) else 0.0
        assert apart + fused == pytest.approx(both - offset)

    def test_more_samples_than_the_stage_allows_have_a_cost(self):
        """What a stage took is priced, however much it was."""
        task = priced_task(cost=PriceCost())
        assert cost_of_samples(
            task, "one", "small", 500, prompt_tokens=10, generation_tokens=10
        ) == pytest.approx(500 * (10 * 0.3 + 10 * 0.6) / 1e6)

    def test_no_tokens_cost_nothing(self):
        """Of prices; a stage itself would refuse a length of zero."""
        task = priced_task(cost=PriceCost())
        assert cost_of_samples(
            task, "one", "large", 3, prompt_tokens=0, generation_tokens=0
        ) == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize(("stage", "model"), [("three", "small"), ("one", "tiny")])
    def test_unknown_names_are_refused(self, stage, model):
        """As everywhere else."""
        with pytest.raises(TaskError, match=r"Unknown stage|has no model"):
            cost_of_samples(priced_task(), stage, model, 1, prompt_tokens=1, generation_tokens=1)

    def test_is_a_plain_number(self):
        """Ready for a storage."""
        found = cost_of_samples(
            priced_task(), "one", "large", np.int64(3), prompt_tokens=9e3, generation_tokens=1.5
        )
        assert type(found) is float


class TestBudget:
    """A budget that was given never changes, a default one follows the lengths."""

    @pytest.mark.parametrize("way", ["itself", "pickle", "dict", "storage"])
    @pytest.mark.parametrize("cost", [None, PriceCost()], ids=["flops", "price"])
    def test_is_kept_if_it_was_given_even_with_the_default_value(self, way, cost):
        """The task remembers it, also through pickles and storages."""

        def kept(task):
            study = optuna.create_study()
            task.register(study)
            return {
                "itself": lambda: task,
                "pickle": lambda: pickle.loads(pickle.dumps(task)),
                "dict": lambda: Task.from_dict(json.loads(task.text)),
                "storage": lambda: Task.registered(study),
            }[way]()

        default = kept(priced_task(cost=cost))
        given_ = kept(priced_task(cost=cost, budget=default.budget))
        lengths = {"one": (50.0, 20.0)}
        assert with_lengths(given_, lengths).budget == given_.budget == default.budget
        assert with_lengths(default, lengths).budget < default.budget
        assert default == priced_task(cost=cost) != given_

    def test_of_user_defined_costs_is_remembered_too(self):
        """Storages have a table in place of the costs."""
        default = priced_task(cost=CentsPerToken())
        for task in (default, priced_task(cost=CentsPerToken(), budget=default.budget)):
            assert Task.from_dict(task.to_dict()).budget_given == task.budget_given
            assert Task.from_dict(task.to_dict()).text == task.text

    def test_of_tasks_stored_by_earlier_versions_reads_as_before(self):
        """They have no mark: a budget of the default value was not given."""
        for budget, is_given in ((None, False), (1e6, True)):
            task = priced_task(budget=budget)
            assert "budget_given" not in task.to_dict()
            assert Task.from_dict(task.to_dict()) == task
            assert Task.from_dict(task.to_dict()).budget_given is is_given

    @pytest.mark.parametrize("is_given", [True, False])
    def test_is_logged_with_its_unit(self, is_given, caplog):
        """Once, with the lengths of each stage, also where another process measured them."""
        task = priced_task(budget=1e4 if is_given else None)
        measured = with_lengths(task, {"one": (50.0, 20.0)})
        study = optuna.create_study()
        set_effective_task(study, measured)
        storage._registered.clear()
        for _ in range(2):
            assert effective_task(study, task, fresh=True) == measured
        (line,) = [r.getMessage() for r in caplog.records if "token lengths" in r.getMessage()]
        assert "one 100 -> 50 tokens of a prompt and 50 -> 20 of a sample" in line
        assert f"{measured.budget:g} reference samples per instance" in line
        assert ("was given stays" in line) == is_given
        assert (f"from {task.budget:g} to" in line) != is_given
