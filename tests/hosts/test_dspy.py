"""Searches whose objective evaluates a DSPy program; DSPy's own optimizers take no sampler."""

import inspect

import optuna
import pytest
from hosts_support import allocation_of, compare, make_sampler, params_of, score, suggest

dspy = pytest.importorskip("dspy")
dummies = pytest.importorskip("dspy.utils.dummies")

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]


class Pipeline(dspy.Module):
    """Two stages, each with a model and the majority of its samples."""

    def __init__(self, allocation):
        super().__init__()
        self.allocation = allocation
        self.retrieval = dspy.Predict("question -> context")
        self.answer = dspy.Predict("context, question -> answer")

    def forward(self, question):
        context = self.sample("retrieval", question=question).context
        return self.sample("answer", context=context, question=question)

    def sample(self, stage, **inputs):
        """Return the majority of a stage's samples."""
        model, samples = self.allocation[stage]
        lm = dummies.DummyLM([{"context": model, "answer": model}] * samples)
        with dspy.context(lm=lm):
            predictor = getattr(self, stage)
            completions = [predictor(**inputs) for _ in range(samples)]
        return dspy.majority([dict(completion) for completion in completions])


def test_objective():
    """The three searches compare as stated around a program."""
    examples = [dspy.Example(question="q").with_inputs("question")]

    def objective(trial):
        params = suggest(trial)
        allocation = allocation_of(params)

        def metric(example, prediction, trace=None):
            # The right model has answered, or the trial scores nothing.
            return score(params) * (prediction.answer == allocation["answer"][0])

        program = Pipeline(allocation)
        evaluate = dspy.Evaluate(devset=examples, metric=metric, num_threads=1)
        value = evaluate(program).score / 100
        assert value == pytest.approx(score(params), abs=1e-4)
        return value

    def search(name, n_trials):
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name))
        study.optimize(objective, n_trials=n_trials)
        return params_of(study)

    compare(search)


def test_mipro_takes_no_sampler():
    """`MIPROv2` makes its own `TPESampler`, as docs/how-to/hosts.md states."""
    for function in (dspy.MIPROv2.__init__, dspy.MIPROv2.compile):
        assert "sampler" not in inspect.signature(function).parameters
