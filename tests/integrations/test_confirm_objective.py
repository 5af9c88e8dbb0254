"""An objective searches on some of its instances and confirms on the others."""

import math
import zlib

import optuna
import pytest
from optuna.pruners import WilcoxonPruner
from optuna.trial import TrialState
from pipeline_support import ScriptedModel, calls

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    PriceCost,
    Stage,
    Task,
    TaskError,
    confirm,
    search,
    spend,
    storage,
)
from optuna_agenttts.llm import ChatRefusedError, Completion, Usage
from optuna_agenttts.study.spending import stated_spend
from optuna_agenttts_integrations import (
    Endpoint,
    MultiStageObjective,
    Pipeline,
    PipelineError,
    SpendLimitError,
    StageProgram,
    TooManyFailuresError,
)
from optuna_agenttts_integrations.inspection.trials import recorded_outcomes
from optuna_agenttts_integrations.instances import named_instances
from optuna_agenttts_integrations.splitting import SplittableObjective

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Noisy(ScriptedModel):
    """Chat model that is right at random, the large one more often, and costs what is declared."""

    async def complete(self, request, *, seed):
        text = request.messages[-1].content
        self.calls.append((text, seed))
        if any(name == text for name in self.refuse):
            raise ChatRefusedError("unknown instance")
        luck = zlib.crc32(text.encode()) % 100 / 100
        own = zlib.crc32(repr((text, seed, self.name)).encode()) % 100 / 100
        right = 0.5 * luck + 0.5 * own < (0.62 if self.name == "large" else 0.55)
        return Completion("yes" if right else "no", Usage(10, 2))


def noisy_objective(count, refuse=(), **options):
    """Build an objective of one stage; a sample costs 14, or 28 of the large model."""
    models = [
        Model(name, parameters=size, input_price=price, output_price=2 * price)
        for name, size, price in (("small", 1e9, 1e6), ("large", 1e10, 2e6))
    ]
    stage = Stage("say", models=models, prompt_tokens=10, generation_tokens=2, max_samples=6)
    task = Task(name="one", stages=[stage], budget=140, cost=PriceCost(), metric_range=(0, 1))
    program = StageProgram(
        name="say", prompt=lambda s: s.instance["id"], max_tokens=4, enough=None
    )
    chats = {model.name: Noisy(model.name, refuse) for model in models}
    objective = MultiStageObjective(
        Pipeline(stages=[program], score=lambda state: float(state["say"] == "yes")),
        [{"id": f"q{i}."} for i in range(count)],
        task=task,
        endpoints={name: Endpoint(chat=chat, identity=name) for name, chat in chats.items()},
        progress=False,
        **options,
    )
    return objective, chats


def chosen(model="large", samples=3):
    """Build an allocation."""
    return {"say": (model, samples)}


def study_of(objective, **options):
    """Return a new study of an objective."""
    sampler = AgentTTSSampler(objective.task, seed=0)
    return optuna.create_study(direction="maximize", sampler=sampler, **options)


def confirmed(study, state=TrialState.COMPLETE):
    """Return the confirmation trials of a study."""
    return [t for t in study.trials if storage.confirmation_block(t) and t.state == state]


def fresh(first, count):
    """Return instances that the objective does not have."""
    return [{"id": f"q{i}."} for i in range(first, first + count)]


def test_a_part_of_an_objective_shares_everything_but_its_instances():
    """Samples that the whole has drawn are those of the part, at the same steps."""
    objective, chats = noisy_objective(count=20)
    part = objective.on(dict(list(objective.instances.items())[:5]))
    assert isinstance(part, SplittableObjective)
    assert part.store is objective.store
    assert part.task is objective.task
    assert len(objective.instances) == 20
    study = study_of(objective)
    study.optimize(part, n_trials=1)
    made = calls(chats)
    study.enqueue_trial(study.trials[0].params)
    study.optimize(objective, n_trials=1)
    one, two = (trial.intermediate_values for trial in study.trials)
    assert list(one) == list(range(5))
    assert {step: two[step] for step in one} == one
    assert len(two) == 20
    assert calls(chats) > made
    assert part.evaluate(chosen()).outcomes.keys() == part.instances.keys()


def test_instances_of_the_objective_are_not_fresh():
    objective, chats = noisy_objective(count=10)
    assert list(objective.fresh_instances(fresh(10, 2))) == ["q10.", "q11."]
    with pytest.raises(PipelineError, match="must not occur in the search"):
        objective.fresh_instances(fresh(9, 2))
    assert list(objective.fresh_instances(fresh(9, 2), drop=True)) == ["q10."]
    assert named_instances({"a": 1}) == {"a": 1}
    study = study_of(objective)
    study.optimize(objective, n_trials=2)
    made = calls(chats)
    for given in (objective, objective.evaluate):
        with pytest.raises(PipelineError, match="must not occur in the search"):
            confirm(study, given, fresh(9, 2), evaluations=100)
    assert calls(chats) == made


@pytest.mark.parametrize(
    "pruner", [None, pytest.param(WilcoxonPruner(p_threshold=0.4), marks=pytest.mark.slow)]
)
def test_a_search_splits_the_instances(pruner):
    """Its spend is metered, and the objective alone still scores every instance."""
    objective, _ = noisy_objective(count=120)
    study = study_of(objective, **({"pruner": pruner} if pruner else {}))
    found = search(study, objective, evaluations=800)
    assert set(found.search_instances) | set(found.fresh_instances) == set(objective.instances)
    assert len(objective.instances) == 120
    assert found.spend == pytest.approx(spend(study).total)
    assert spend(study).whole
    assert confirmed(study) or pruner
    assert all(stated_spend(t) >= 0 for t in study.trials)
    assert found.evaluations <= 800


def test_copies_of_instances_are_left_out():
    """An instance of a trial is not fresh under another name."""
    objective, _ = noisy_objective(count=40)
    doubled = [{"id": f"{i}", "text": f"q{i // 2}."} for i in range(80)]
    study = study_of(objective)
    found = search(
        study, objective, [{**each, "id": each["id"] + "."} for each in doubled], evaluations=400
    )
    texts = {each["id"] + ".": each["text"] for each in doubled}
    searched = {texts[name] for name in found.search_instances}
    assert not searched & {texts[name] for name in found.fresh_instances}
    assert len(found.search_instances) + len(found.fresh_instances) < 80


def test_the_limit_of_the_objective_covers_both():
    """A confirmation ends with what it finished when `max_spend` does not cover the next call."""
    unlimited, _ = noisy_objective(count=120)
    study = study_of(unlimited)
    whole = search(study, unlimited, evaluations=2000).spend
    limit = 0.6 * whole
    objective, _ = noisy_objective(count=120, max_spend=limit)
    study = study_of(objective)
    found = search(study, objective, evaluations=2000)
    assert found.spend <= limit
    assert found.spend > 0.5 * limit
    assert not confirmed(study, TrialState.FAIL)
    confirm_spend = sum(stated_spend(t) for t in confirmed(study))
    assert found.confirmation.spend == pytest.approx(confirm_spend)
    more, _ = noisy_objective(count=120, max_spend=10 * whole)
    again = search(study, more, evaluations=2000)
    assert again.evaluations >= found.evaluations


def test_a_limit_that_is_used_up_confirms_nothing():
    """The `max_spend` of an objective is that of the study, not of each evaluation."""
    unlimited, _ = noisy_objective(count=20)
    study = study_of(unlimited)
    study.optimize(unlimited, n_trials=5)
    used = spend(study).total
    objective, chats = noisy_objective(count=20, max_spend=used)
    with pytest.raises(TaskError, match="does not cover one instance"):
        confirm(study, objective, fresh(20, 100), evaluations=500)
    assert not calls(chats)
    more, _ = noisy_objective(count=20, max_spend=1.2 * used)
    found = confirm(study, more, fresh(20, 100), evaluations=5000)
    assert 0 < found.spend <= 0.2 * used * (1 + 1e-9)


def test_a_partial_evaluation_returns_what_was_finished():
    objective, _ = noisy_objective(count=30)
    whole = objective.evaluate(chosen())
    assert whole.spend == pytest.approx(30 * objective.task.cost(chosen()))
    objective, _ = noisy_objective(count=30, concurrency=1)
    part = objective.evaluate(chosen(), max_spend=0.5 * whole.spend, partial=True)
    assert 0 < len(part.outcomes) < 30
    assert part.outcomes.items() <= whole.outcomes.items()
    assert part.spend <= 0.5 * whole.spend
    objective, _ = noisy_objective(count=30, concurrency=1)
    with pytest.raises(SpendLimitError):
        objective.evaluate(chosen(), max_spend=0.5 * whole.spend)


def test_the_spend_of_a_failed_evaluation_counts():
    """Its error has it, and the failed trial records it."""
    names = [f"q{i}." for i in range(20, 60, 2)]
    objective, _ = noisy_objective(count=20, refuse=names)
    with pytest.raises(TooManyFailuresError) as caught:
        objective.evaluate(chosen(), fresh(20, 40))
    assert caught.value.spend == pytest.approx(20 * objective.task.cost(chosen()))
    study = study_of(objective)
    study.optimize(objective, n_trials=4)
    before = spend(study).total
    with pytest.raises(TooManyFailuresError):
        confirm(study, objective, fresh(20, 40), evaluations=200)
    failed = confirmed(study, TrialState.FAIL)
    assert failed
    assert all("TooManyFailuresError" in t.user_attrs["error"] for t in failed)
    paid = sum(stated_spend(t) for t in failed)
    assert spend(study).total == pytest.approx(before + paid)


def test_a_repeated_confirmation_reuses_samples():
    """In another study of the same store, the samples cost nothing."""
    objective, chats = noisy_objective(count=60)
    search(study_of(objective), objective, evaluations=600)
    made = calls(chats)
    study = study_of(objective)
    again = search(study, objective, evaluations=600)
    assert calls(chats) == made
    assert again.spend == 0
    assert again.confirmation.evaluations


def test_inspection_names_fresh_instances():
    objective, _ = noisy_objective(count=60)
    study = study_of(objective)
    found = search(study, objective, evaluations=600)
    trial = confirmed(study)[0]
    names = {found.fresh_instances[i] for i in range(len(trial.intermediate_values))}
    shown = objective.inspect(trial, study=study)
    known = {each.instance for each in shown if each.recorded is not None}
    assert known == names
    for each in shown:
        if each.recorded is not None:
            assert each.computed == each.recorded
    listed = recorded_outcomes(study, trial.number)
    assert {each.instance for each in listed} == names
    first = recorded_outcomes(study, 0)
    assert {each.instance for each in first} == set(found.search_instances)
    one = objective.inspect(study.trials[0])
    assert {e.instance for e in one if e.recorded is not None} == set(found.search_instances)


def test_a_search_may_be_given_other_instances_than_the_objective():
    objective, _ = noisy_objective(count=5)
    study = study_of(objective)
    found = search(study, objective, fresh(100, 80), evaluations=400)
    assert {*found.search_instances, *found.fresh_instances} == {f"q{i}." for i in range(100, 180)}
    assert math.isfinite(found.recommendation.value)
