"""Expected improvement, knowledge gradient, and repeated measurements."""

import math
from dataclasses import replace
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from core_support import wiki_task
from posterior_cases import TASKS, draw_allocations, draw_evidence
from posterior_reference import condition

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task
from optuna_agenttts.planner.acquisition import expected_improvement, knowledge_gradient
from optuna_agenttts.planner.evidence import Constraint, Evidence
from optuna_agenttts.planner.kernels import surrogate_of
from optuna_agenttts.planner.mixture import Moments
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.task.ranges import Ranges

TASK = wiki_task()


def evidence(seed=0, trials=12, instances=40):
    """Return random trials of the task whose outcomes share the difficulty of the instances."""
    rng = np.random.default_rng(seed)
    models, samples = TASK.feasible.arrays()
    rows = rng.choice(len(models), trials, replace=False)
    hard = rng.normal(size=instances)
    quality = 0.2 * np.log(samples[rows]).sum(axis=1) + 0.4 * models[rows].sum(axis=1) - 0.8
    latent = 0.7 * hard + 0.7 * rng.normal(size=(trials, instances))
    table = (latent < quality[:, None]).astype(float)
    return replace(
        Evidence.empty(TASK),
        models=models[rows],
        samples=samples[rows],
        scores=table.mean(axis=1),
        shares=np.ones(trials),
        visited=frozenset(
            tuple(zip(m, s)) for m, s in zip(models[rows].tolist(), samples[rows].tolist())
        ),
        outcomes=tuple(dict(enumerate(row)) for row in table.tolist()),
    )


@pytest.mark.parametrize("ahead", [-0.1, -0.01, 0.0, 0.03, 0.2])
@pytest.mark.parametrize("moved", [0.005, 0.05, 0.3])
def test_knowledge_gradient_beside_one_known_rival_is_the_expected_improvement(ahead, moved):
    """If only the allocation's own mean can change, it is E max(0, d + s Z)."""

    class Settled:
        points = (None,)
        mixture = SimpleNamespace(weights=np.ones(1))

        def __init__(self, mean):
            self.mean = mean

        def moments(self):
            return Moments(np.ones(1), np.array([[self.mean]]), np.ones((1, 1)))

        def joint(self, others, chosen):
            return np.zeros((1, 1, 1))

        def pairwise(self, others):
            return np.array([[moved]])

    z = ahead / moved
    closed = ahead * NormalDist().cdf(z) + moved * NormalDist().pdf(z)
    view, rival = Settled(ahead), Settled(0.0)
    assert knowledge_gradient(view, view, rival)[0] == pytest.approx(closed, rel=0.02, abs=2e-5)


def gradient(posterior, view):
    """Return the knowledge gradient under a posterior."""
    return knowledge_gradient(view, posterior.next_scores(view), posterior.incumbents)


def improvement(posterior, view):
    """Return the expected improvement under a posterior."""
    return expected_improvement(view, posterior.incumbents)


def test_knowledge_gradient_is_not_negative_and_decreases_with_noise():
    """Scores over a hundred times as many instances increase it for every allocation."""
    planner = NumericalPlanner(TASK)
    posterior = Posterior(planner.surrogate, evidence())
    view = posterior.at(planner.pool(evidence()).points.take(np.arange(0, 344, 5)))
    worth = gradient(posterior, view)
    assert worth.min() >= -1e-9
    posterior.noise = replace(posterior.noise, instances=100 * posterior.noise.instances)
    assert (gradient(posterior, view) >= worth - 1e-4).all()


def test_knowledge_gradient_is_below_expected_improvement():
    """One noisy score is worth less than the exact rate, in the median."""
    planner = NumericalPlanner(TASK)
    posterior = Posterior(planner.surrogate, evidence())
    view = posterior.at(planner.pool(evidence()).points)
    assert np.median(gradient(posterior, view) / improvement(posterior, view)) < 1


def positive_part(ahead, deviations, weights=(1.0,)):
    """Return the expected positive part of a mixture."""
    return Moments(np.array(weights), np.array(ahead), np.array(deviations)).positive_part()


def closed_form(ahead, deviation):
    """Return E max(0, ahead + deviation * Z) by `math.erf`."""
    z = ahead / deviation
    below = 0.5 * (1 + math.erf(z / math.sqrt(2)))
    return ahead * below + deviation * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def test_expected_improvement_is_exact():
    """It equals the closed form by `math.erf` to 1e-12."""
    ahead = np.linspace(-1, 1, 401)
    for deviation in (1e-5, 0.003, 0.05, 0.4, 3.0):
        found = positive_part([ahead], [np.full(401, deviation)])
        expected = [closed_form(d, deviation) for d in ahead.tolist()]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_expected_improvement_averages_over_components():
    """The improvement is the weighted mean of the components' closed forms."""
    ahead, deviations = [[0.1, -0.2], [-0.3, 0.0]], [[0.2, 0.1], [0.4, 0.05]]
    found = positive_part(ahead, deviations, (0.3, 0.7))
    for i in range(2):
        first, second = (closed_form(ahead[c][i], deviations[c][i]) for c in range(2))
        assert found[i] == pytest.approx(0.3 * first + 0.7 * second, abs=1e-12)


def test_expected_improvement_is_strictly_monotonic_in_the_tail():
    """Down to 35 standard deviations it is positive and keeps its order."""
    z = np.linspace(-35, 5, 2001)
    found = positive_part([z], [np.ones(2001)])
    assert found.min() > 0
    assert (np.diff(found) > 0).all()


def test_expected_improvement_without_variance_is_the_positive_part():
    """As the standard deviation goes to zero it becomes max(0, ahead)."""
    found = positive_part([[-0.2, -1e-3, 1e-3, 0.2]], [np.full(4, 1e-12)])
    np.testing.assert_allclose(found, [0, 0, 1e-3, 0.2], atol=1e-12)


def view_and_reference(stages, kind):
    """Query posterior and reference at 20 allocations followed by the observed ones."""
    task = TASKS[stages]
    seen = draw_evidence(task, kind)
    surrogate = surrogate_of(task)[0]
    posterior = Posterior(surrogate, seen)
    points = surrogate.points(*draw_allocations(task, np.random.default_rng(1), 20))
    view = posterior.at(points.joined(posterior.observed))
    return seen, posterior, view, condition(seen, view.points.models, view.points.samples)


@pytest.mark.parametrize("stages", TASKS)
@pytest.mark.parametrize("kind", ["scores", "stopped"])
def test_expected_improvement_agrees_with_simulated_rates(stages, kind):
    """Rates drawn jointly from the reference posterior agree within 4 standard errors."""
    _, posterior, view, components = view_and_reference(stages, kind)
    rng, draws, asked = np.random.default_rng(2), 20_000, len(view.points)
    expected, error = np.zeros((2, asked))
    for component in components:
        best = 20 + int(np.argmax(component.mean[20:asked]))
        rates = rng.multivariate_normal(
            component.mean[:asked], component.covariance[:asked, :asked], draws, method="eigh"
        )
        gains = np.maximum(rates - rates[:, [best]], 0)
        expected += component.weight * gains.mean(axis=0)
        error += component.weight**2 * gains.var(axis=0) / draws
    found = improvement(posterior, view)
    # Gains of a few millionths are too rare to be simulated. One is that of the incumbent, whose
    # standard deviation has a floor of 1e-5.
    assert (np.abs(found - expected) < 4 * np.sqrt(error) + 5e-6).all()


def best_after(component, lines, scores):
    """Return the best posterior mean after each score; every mean is linear in the score."""
    at_first, at_second = lines[component.name]
    means = at_first + (scores[:, None] - 0.4) / 0.2 * (at_second - at_first)
    return means.max(axis=1)


@pytest.mark.parametrize("stages", TASKS)
def test_knowledge_gradient_agrees_with_simulated_scores(stages):
    """Brute-force conditioning on drawn scores agrees within 4 standard errors."""
    seen, posterior, view, components = view_and_reference(stages, "scores")
    rng, draws, asked = np.random.default_rng(3), 20_000, len(view.points)
    found = gradient(posterior, view)
    for row in (0, 7, int(np.argmax(found)), asked - 1):
        trial = view.points.models[[row]], view.points.samples[[row]]
        rows = [row, *range(20, asked)]
        after = []
        for score in (0.4, 0.6):
            # Posterior means are linear in the score: two scores determine them.
            more = replace(
                seen,
                models=np.concatenate([seen.models, trial[0]]),
                samples=np.concatenate([seen.samples, trial[1]]),
                scores=np.append(seen.scores, score),
                shares=np.append(seen.shares, 1.0),
            )
            told = condition(more, view.points.models[rows], view.points.samples[rows], kept=1.0)
            after.append({c.name: c.mean[: len(rows)] for c in told})
        lines = {name: (mean, after[1][name]) for name, mean in after[0].items()}
        expected = variance = 0.0
        for component in components:
            deviation = math.sqrt(component.next_variance[row])
            scores = rng.normal(component.mean[row], deviation, draws)
            best = best_after(component, lines, scores)
            expected += component.weight * (best.mean() - component.mean[20:asked].max())
            variance += component.weight**2 * best.var() / draws
        assert abs(found[row] - expected) < 4 * math.sqrt(variance) + 1e-12


@pytest.mark.parametrize("stages", TASKS)
def test_knowledge_gradient_agrees_under_correlated_noise(stages):
    """Where the new score's noise is correlated with that of observed scores, likewise."""
    _, posterior, view, components = view_and_reference(stages, "stopped")
    rng, draws, asked = np.random.default_rng(4), 20_000, len(view.points)
    found = gradient(posterior, view)
    for row in range(0, asked, 3):
        rows = [row, *range(20, asked)]
        expected = variance = 0.0
        for component in components:
            off = rng.normal(0, math.sqrt(component.next_variance[row]), draws)
            slope = component.next_covariance[rows, row] / component.next_variance[row]
            best = (component.mean[rows] + off[:, None] * slope).max(axis=1)
            expected += component.weight * (best.mean() - component.mean[20:asked].max())
            variance += component.weight**2 * best.var() / draws
        assert abs(found[row] - expected) < 4 * math.sqrt(variance) + 1e-12


def with_noise(posterior, noise):
    """Set the noise that the posterior expects of a new trial."""
    components = [replace(part, noise=noise) for part in posterior.mixture.components]
    posterior.mixture = replace(posterior.mixture, components=components)
    return posterior


def certain(stages):
    """Condition on one trial without noise."""
    task = TASKS[stages]
    models, samples = draw_allocations(task, np.random.default_rng(0), 1)
    sure = replace(
        Evidence.empty(task),
        models=models,
        samples=samples,
        scores=np.array([0.6]),
        shares=np.array([1e12]),
    )
    return Posterior(surrogate_of(task)[0], sure)


def points_of(stages):
    """Draw forty allocations."""
    return draw_allocations(TASKS[stages], np.random.default_rng(5), 40)


@pytest.mark.parametrize("stages", TASKS)
def test_both_measures_agree_without_noise_and_with_a_known_incumbent(stages):
    """A trial then reveals the rate, and the only rival's rate is known."""
    posterior = with_noise(certain(stages), 0.0)
    view = posterior.at(posterior.mixture.surrogate.points(*points_of(stages)))
    np.testing.assert_allclose(
        gradient(posterior, view), improvement(posterior, view), rtol=0.02, atol=2e-5
    )


@pytest.mark.parametrize("stages", TASKS)
def test_a_known_allocation_is_worth_nothing(stages):
    """An allocation without variance has a knowledge gradient and an improvement of zero."""
    posterior = certain(stages)
    view = posterior.at(posterior.observed)
    assert abs(gradient(posterior, view)[0]) < 1e-8
    assert improvement(posterior, view)[0] < 1e-5


@pytest.mark.parametrize("stages", TASKS)
def test_an_uninformative_score_has_no_gradient(stages):
    """As noise grows, only the current lead of new allocations over the incumbent remains."""
    surrogate = surrogate_of(TASKS[stages])[0]
    posterior = with_noise(Posterior(surrogate, draw_evidence(TASKS[stages], "scores")), 1e6)
    view = posterior.at(surrogate.points(*points_of(stages)))
    lead = view.moments().means - posterior.incumbents.moments().means.max(axis=1)[:, None]
    ahead = posterior.mixture.weights @ np.maximum(lead, 0)
    np.testing.assert_allclose(gradient(posterior, view), ahead, atol=1e-6)


NAMES = ["a-1B", "b-8B"]
SMALL = Task(
    name="small",
    stages=[
        Stage(
            "only",
            models=[Model(NAMES[0], parameters=1e9), Model(NAMES[1], parameters=8e9)],
            prompt_tokens=128,
            generation_tokens=64,
            max_samples=6,
        )
    ],
    budget=40,
)


def repeated(score, trials=24):
    """Run a search of a small task whose first allocation is enqueued twice."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(SMALL, seed=0))
    for _ in range(2):
        study.enqueue_trial(SMALL.params({"only": ("a-1B", 1)}))

    def objective(trial):
        return score(SMALL.suggest(trial)["only"])

    study.optimize(objective, n_trials=trials)
    return [tuple(SMALL.choices_from_params(t.params).values()) for t in study.trials]


def value(setting):
    """Return a score without noise."""
    return 0.3 + 0.05 * setting.samples + 0.2 * (setting.model == "b-8B")


def test_no_allocation_is_repeated_if_repeats_score_the_same():
    """All allocations are tried once, since repeats of reused samples add nothing."""
    tried = repeated(value, trials=SMALL.count_allocations() + 1)
    assert len(set(tried)) == SMALL.count_allocations()


def test_good_allocations_are_repeated_if_scores_are_random():
    """At least five trials are repeats, and their mean score is above the median."""
    rng = np.random.default_rng(0)
    tried = repeated(lambda setting: value(setting) + rng.normal(0, 0.1), trials=40)
    again = [choices for i, choices in enumerate(tried) if i > 1 and choices in tried[:i]]
    assert len(again) >= 5
    scores = {c: value(SimpleNamespace(samples=c[0][1], model=NAMES[c[0][0]])) for c in set(tried)}
    assert np.mean([scores[c] for c in again]) > np.median(list(scores.values()))


def test_fixed_choices_are_kept_if_scores_are_random():
    """A trial with an enqueued model gets that model."""
    seen = evidence()
    twice = replace(
        seen,
        models=np.concatenate([seen.models, seen.models[:1]]),
        samples=np.concatenate([seen.samples, seen.samples[:1]]),
        scores=np.append(seen.scores, seen.scores[0] + 0.05),
        shares=np.ones(13),
        outcomes=(),
    )
    planner = NumericalPlanner(TASK)
    for model in (0, 1):
        ranges = Ranges.all_of(TASK.feasible).with_models(0, [model])
        assert planner.propose(twice, Constraint(ranges, fixed=True)).choices[0][0] == model
