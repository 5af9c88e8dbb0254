"""Planning of a round: requests, repair requests, and computed facts."""

import asyncio
import json
import math
import re
from dataclasses import replace

import numpy as np
import optuna_dashboard
import pytest
from agent_support import TASK, evidence_of, planner_of, score
from core_support import run

from optuna_agenttts import (
    AgentTTSSampler,
    Claim,
    Model,
    ScriptedChatModel,
    TaskError,
    confirm,
    efforts,
    guidelines,
)
from optuna_agenttts.agent.advice import required_share
from optuna_agenttts.agent.ask import latest_guidelines, plan_round
from optuna_agenttts.agent.facts import Facts, fit_facts
from optuna_agenttts.agent.prompts import PromptData, render_plan
from optuna_agenttts.agent.prompts.history import behind
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.agent.verdicts import check_claims
from optuna_agenttts.explanation.markdown import plain
from optuna_agenttts.explanation.note import GUIDELINES, HEADING, save_guidelines
from optuna_agenttts.llm import ChatRefusedError, Completion, Usage
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.posterior import Z90, Posterior
from optuna_agenttts.study.experience import earlier_trials, read_experience
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.study.rounds import Round, write_round
from optuna_agenttts.study.spending import price_of
from optuna_agenttts.support.plain import amount_text

EVIDENCE = evidence_of(TASK, score, 12)
QUESTIONS = TaskQuestions(
    planner_of(TASK), EVIDENCE, insights=(1, 2, 3), guidelines=True, wanted=8
)


def reply(*samples, lines=("a guideline",)):
    """Return a reply with candidates with these numbers of samples in the answer stage."""
    candidates = [
        {
            "allocation": {
                "retrieval": {"model": "qwen-7B", "samples": 2},
                "answer": {"model": "small-3B", "samples": n},
            },
            "reason": "r",
        }
        for n in samples
    ]
    return json.dumps({"guidelines": list(lines), "candidates": candidates})


def ask(script, **options):
    """Plan a round of six; return it and the model."""
    chat = ScriptedChatModel(script)
    return asyncio.run(plan_round(chat, QUESTIONS, 0, **options)), chat


def test_one_request_is_enough_if_half_the_round_is_usable():
    """No repair request follows a reply that fills half of the round."""
    made, chat = ask([Completion(reply(1, 2, 3), Usage(100, 20))])
    assert len(chat.requests) == made.requests == 1
    assert (made.prompt_tokens, made.completion_tokens) == (100, 20)
    assert len(made.candidates) == 3
    assert made.error == ""


@pytest.mark.parametrize("samples", [(), (1,)])
def test_few_candidates_are_an_answer(samples):
    """No repair request follows, and a round without any has no error."""
    made, chat = ask([reply(*samples)])
    assert len(chat.requests) == 1
    assert len(made.candidates) == len(samples)
    assert (made.error, made.problems) == ("", {})
    assert made.guidelines == ("a guideline",)


def test_a_reply_that_ends_in_its_thoughts_names_the_remedy():
    """It is counted as what it is, and thinking is lowered in each request."""
    silent = Completion("", Usage(100, 4096), "length", "Let me think")
    made, chat = ask([silent] * 3, extra={"reasoning_effort": "low"})
    assert made.problems == {"ended in thoughts": 3}
    assert "`llm_facts=Model(" in made.error
    assert {request.extra for request in chat.requests} == {'{"reasoning_effort": "low"}'}


def test_the_sampler_passes_on_how_its_model_is_to_think():
    """`llm_facts` describes the planning model."""
    chat = ScriptedChatModel([Completion(reply(1, 2, 3), Usage(100, 20))] * 9)
    facts = Model("m", parameters=7e9, extra={"reasoning_effort": "low"})
    run(AgentTTSSampler(TASK, llm=chat, llm_facts=facts, seed=1))
    assert {request.extra for request in chat.requests} == {'{"reasoning_effort": "low"}'}


def test_an_effort_that_the_agent_would_not_send_is_refused():
    """Its fields are sent; an effort without fields would be ignored without a word."""
    low, high = efforts(Model("m"), low={"reasoning_effort": "low"}, high=None)
    AgentTTSSampler(TASK, llm_facts=low)
    with pytest.raises(TaskError, match="the fields of its effort, got 'm, high thinking'"):
        AgentTTSSampler(TASK, llm_facts=high)


def test_repair_requests_contain_problems_and_proposals_add_up():
    """A repair request contains the reply and its problems."""
    made, chat = ask([reply(1, 0, lines=["kept"]), reply(1, 2, 3, lines=[])])
    second = chat.requests[1].messages
    assert [m.role for m in second] == ["system", "user", "assistant", "user"]
    assert "is 0" in second[-1].content
    assert [p.params["answer.samples"] for p in made.candidates] == [1, 2, 3]
    assert made.problems == {"out of range": 1, "duplicate": 1}
    assert made.guidelines == ("kept",)


def test_at_most_two_requests_follow_the_first():
    """No request follows the first if repair requests are disabled."""
    made, chat = ask(["nothing"] * 9)
    assert len(chat.requests) == 3
    assert made.error
    assert made.candidates == ()
    _, chat = ask(["nothing"] * 9, max_repairs=0)
    assert len(chat.requests) == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ChatRefusedError("no", kind="HTTP 401"), "HTTP 401"),
        (ZeroDivisionError("x"), "ZeroDivisionError"),
    ],
)
def test_failures_are_recorded_not_raised(failure, kind):
    """Proposals from before the failure are kept."""
    made, _ = ask([reply(1, 0), failure])
    assert made.failures == {kind: 1}
    assert len(made.candidates) == 1
    assert made.error == ""
    made, _ = ask([failure])
    assert made.error


def test_only_the_latest_guidelines_are_shown():
    """They replace earlier ones, which may have been refuted; rounds without any do not."""
    rounds = [Round(number=n, guidelines=(f"g{n}",) if n != 6 else ()) for n in range(1, 7)]
    assert latest_guidelines(rounds) == ((5, ("g5",)),)
    assert latest_guidelines(()) == ()


# Computed evidence.


def most_of(fact):
    """Return the most samples of a fact's model that fit beside its companion."""
    rest = TASK.feasible.cost_of_others(fact.companion, fact.stage)
    return TASK.feasible.max_samples(fact.stage, fact.model, rest)


def test_facts_agree_with_the_landscape():
    """Without noise, models are ranked as they are, and companions fit and use their model."""
    evidence = evidence_of(TASK, score, 40)
    facts = fit_facts(planner_of(TASK), evidence)
    truth = {}
    for choices in TASK.feasible:
        value = score(TASK.allocation(choices))
        for stage, (model, _) in enumerate(choices):
            truth[stage, model] = max(truth.get((stage, model), 0), value)
    for fact in facts.models:
        assert fact.expected == pytest.approx(truth[fact.stage, fact.model], abs=0.04)
        assert fact.companion[fact.stage][0] == fact.model
        assert TASK.feasible.fits(fact.companion)
        assert fact.behind >= 0
        assert all(1 < number <= most_of(fact) <= 100 for number, _, _ in fact.gains)
    assert min(fact.behind for fact in facts.models) == 0


def test_facts_of_a_minimized_study_are_the_same_with_the_sign_turned():
    """Saturation and distances do not depend on the direction."""
    up = fit_facts(planner_of(TASK), evidence_of(TASK, score, 20))
    down = fit_facts(planner_of(TASK), evidence_of(TASK, score, 20, direction="minimize"))
    for a, b in zip(up.models, down.models):
        assert a.expected == pytest.approx(-b.expected, abs=0.05)
    assert fit_facts(planner_of(TASK), evidence_of(TASK, score, 0)) == Facts()


def deviations(facts):
    """Return the standard deviations of facts: of distances, and of gains in all."""
    return np.array([(fact.behind_sd, sum(sd for *_, sd in fact.gains)) for fact in facts.models])


def test_facts_state_the_noise_as_it_is():
    """Their standard deviations are those of an untempered posterior, not of the sampler's."""
    planner, evidence = planner_of(TASK), evidence_of(TASK, score, 20, instances=40)
    facts = fit_facts(planner, evidence)
    pool = planner.pool(evidence).points
    found = {}
    for power in (0.5, 1.0):
        posterior = Posterior(planner.surrogate, evidence, power=power)
        mean = posterior.at(pool).mean()
        best = int(np.argmax(mean))
        rows = []
        for fact in facts.models:
            with_model = np.flatnonzero(pool.models[:, fact.stage] == fact.model)
            rows.append(int(with_model[np.argmax(mean[with_model])]))
        compared = posterior.at(pool.take(np.array([best, *rows])))
        found[power] = compared.differences_from(0).sd()[1:]
    span = evidence.scale.span
    np.testing.assert_allclose(deviations(facts)[:, 0], span * found[1.0])
    assert not np.allclose(found[1.0], found[0.5], rtol=0.05)


def test_facts_include_the_experience_of_earlier_studies():
    """They are those of all trials, so that claims are checked against what the sampler weighs."""
    earlier = earlier_trials(read_experience([run(AgentTTSSampler(TASK), n_trials=25)]), TASK)
    evidence = evidence_of(TASK, score, 4)
    planner = NumericalPlanner(TASK, experience=earlier)
    facts, alone = fit_facts(planner, evidence), fit_facts(planner_of(TASK), evidence)
    both = fit_facts(planner_of(TASK), replace(planner.with_experience(evidence), outcomes=()))
    for fact, expected in zip(facts.models, both.models):
        assert fact.companion == expected.companion
        np.testing.assert_allclose(fact.gains, expected.gains)
        assert (fact.behind, fact.behind_sd) == pytest.approx(
            (expected.behind, expected.behind_sd)
        )
        assert fact.trials == int((evidence.models[:, fact.stage] == fact.model).sum())
    assert deviations(facts).mean() < deviations(alone).mean()


def test_verdicts_are_those_of_the_facts():
    """Earlier studies count: with them, the fit is surer of a model."""
    earlier = earlier_trials(read_experience([run(AgentTTSSampler(TASK), n_trials=40)]), TASK)
    evidence = evidence_of(TASK, score, 3)
    planner = NumericalPlanner(TASK, experience=earlier)
    largest = []
    for known in (planner_of(TASK), planner):
        questions = TaskQuestions(known, evidence, insights=(1, 2, 3), guidelines=True, wanted=1)
        claims = [Claim(f.name, (m.name,), None) for f in TASK.stages for m in f.models]
        verdicts = questions.check(claims)
        expected = check_claims(claims, fit_facts(known, evidence), TASK)
        assert verdicts == expected
        largest.append(max(max(odds) for odds in fit_facts(known, evidence).odds.models))
    assert largest[1] > largest[0]


def test_trials_are_compared_with_the_best_over_shared_instances():
    """Difference and standard error are those of the outcomes of instances that both saw."""
    evidence = evidence_of(TASK, score, 12, instances=30, direction="minimize")
    best = int(np.argmax(evidence.scores))
    for row in range(12):
        gaps = np.array(
            [evidence.outcomes[row][step] - evidence.outcomes[best][step] for step in range(30)]
        )
        assert behind(evidence, best, row) == (
            pytest.approx(gaps.mean()),
            pytest.approx(gaps.std(ddof=1) / np.sqrt(30)),
        )
    few = evidence_of(TASK, score, 12, instances=4)
    gap, error = behind(few, 0, 1)
    assert gap == pytest.approx(few.scores[0] - few.scores[1])
    own = [np.std(list(few.outcomes[row].values()), ddof=1) / 2 for row in (0, 1)]
    assert error == pytest.approx(np.hypot(*own))
    assert behind(evidence_of(TASK, score, 2), 0, 1)[1] is None


def test_gains_are_those_of_the_posterior_from_one_sample_to_more():
    """They begin with 4 samples, or as many as fit, and end with the most below 64."""
    planner, evidence = planner_of(TASK), evidence_of(TASK, score, 30)
    for fact in fit_facts(planner, evidence).models:
        numbers = [number for number, _, _ in fact.gains]
        most = most_of(fact)
        assert numbers == sorted({min(n, most) for n in (4, 16, 64) if n < 2 * most})
        for number, gain, sd in fact.gains:
            one, more = list(fact.companion), list(fact.companion)
            one[fact.stage] = fact.companion[fact.stage][0], 1
            more[fact.stage] = fact.companion[fact.stage][0], number
            assert TASK.feasible.fits(more)
            points = planner.surrogate.points_of([tuple(one), tuple(more)])
            view = Posterior(planner.surrogate, evidence, power=1.0).at(points)
            assert gain == pytest.approx(float(np.diff(view.mean())[0]) * evidence.scale.span)
            assert sd == pytest.approx(view.differences_from(0).sd()[1] * evidence.scale.span)


def test_the_first_leader_is_what_the_planner_proposes():
    """The others are untried and fit, and no two are alike."""
    planner, evidence = planner_of(TASK), evidence_of(TASK, score, 30, instances=20)
    leaders = fit_facts(planner, evidence).leaders
    assert leaders[0].choices == planner.propose(evidence).choices
    assert len(leaders) == len({leader.choices for leader in leaders}) == 8
    for leader in leaders:
        assert TASK.feasible.fits(leader.choices)
        assert leader.choices not in evidence.visited
        assert leader.sd > 0
    assert fit_facts(planner, evidence_of(TASK, score, 2, instances=20)).leaders == ()


def test_kernels_are_right_while_another_thread_empties_their_cache(monkeypatch):
    """Rounds are planned beside trials, with the same planner."""
    monkeypatch.setattr("optuna_agenttts.planner.pools._CACHED_KERNELS", 3)
    evidence = evidence_of(TASK, score, 3)
    planner = planner_of(TASK)
    pool = planner.pool(evidence)
    points = pool.points.take(np.arange(9))
    expected = planner_of(TASK).pool(evidence).kernels(points)
    kernels = planner.surrogate.residual_kernels
    others = [pool.points.take(np.arange(first, first + 5)) for first in (30, 20)]

    def compute(own, observed):
        while len(observed) == 6 and others:
            pool.kernels(others.pop())
        return kernels(own, observed)

    monkeypatch.setattr(planner.surrogate, "residual_kernels", compute)
    pool.kernels(points.take(np.arange(3)))
    assert np.array_equal(pool.kernels(points), expected)
    assert not others


def test_noise_is_that_of_means_over_the_instances():
    """Outcomes 0 or 1 of probability p have a variance of p (1 - p) over the instances."""
    rate = 0.5
    evidence = evidence_of(TASK, lambda a: rate, 30, instances=40)
    noise = fit_facts(planner_of(TASK), evidence).noise
    assert noise.trial == pytest.approx(np.sqrt(rate * (1 - rate) / 40), rel=0.1)
    assert noise.instances == 40
    assert noise.similar_difference <= noise.difference <= np.sqrt(2) * noise.trial
    assert noise.resolution(2) == pytest.approx(Z90 * noise.difference)
    assert noise.resolution(8) == pytest.approx(noise.resolution(2) / 2)
    hundred = evidence_of(TASK, lambda a: 100 * score(a), 30)
    one = fit_facts(planner_of(TASK), evidence_of(TASK, score, 30)).noise.trial
    # The scale of scores of unknown range is the same for both.
    assert fit_facts(planner_of(TASK), hundred).noise.trial > 10 * one


@pytest.mark.parametrize("checked", [False, True])
def test_the_prompt_states_the_share_that_holds(checked):
    """It is another one for agents that see checks of stages."""
    text = render_plan(PromptData(evidence=EVIDENCE, checked=checked))[1].content
    share = {"a quarter": 0.25, "half": 0.5}
    stated = re.search("expects a trial of it to help (.*) as much as its own next one", text)[1]
    assert share[stated] == required_share(replace(EVIDENCE, origins=()), checked=checked)


@pytest.mark.parametrize("expected", [(), (math.nan,) * 4 + (0.8,) * 4])
def test_required_share_falls_with_good_trials(expected):
    """Good ones score what was expected, or as well as the planner's, and bad ones less."""
    shares = []
    for good in range(5):
        agent = [1.0] * good + [0.7 if expected else 0.0] * (4 - good)
        scores = np.array([0.5] * 4 + agent)
        origins = ("numerical",) * 4 + ("agent",) * 4
        known = replace(EVIDENCE, scores=scores, origins=origins, expected=expected)
        shares.append(required_share(known))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5 > shares[-1]
    assert shares[2] == pytest.approx(0.5)
    unknown = replace(EVIDENCE, scores=np.array([0.5]), origins=("numerical",))
    assert required_share(unknown) == pytest.approx(0.5)


# Experience.


def test_only_stages_and_models_of_the_task_are_recalled():
    """Trials of other models, and of other parameters, are left out; the sign is turned."""
    study = run(AgentTTSSampler(TASK), n_trials=8)
    study.add_trial(study.trials[0])
    (experience,) = read_experience([study])
    odd = replace(
        experience, params=({"x": 1}, *experience.params), values=(9.0, *experience.values)
    )
    recalled = earlier_trials([replace(odd, maximize=False)], TASK)
    assert len(recalled.scores) == 9
    assert recalled.scores.tolist() == [-value for value in experience.values]
    assert earlier_trials([replace(experience, params=(), values=())], TASK) is None


def test_level_of_an_earlier_study_does_not_matter():
    """A constant added to all earlier scores is removed once the study has a score."""
    earlier = earlier_trials(read_experience([run(AgentTTSSampler(TASK), n_trials=12)]), TASK)
    evidence = evidence_of(TASK, lambda a: score(a) / 2, 6)
    low = NumericalPlanner(TASK, experience=earlier).with_experience(evidence)
    shifted = replace(earlier, scores=earlier.scores + 0.05)
    high = NumericalPlanner(TASK, experience=shifted).with_experience(evidence)
    assert high.scores == pytest.approx(low.scores, abs=0.02)
    assert (low.shares[6:] < 1).all()


# Archive, note, spend.


def test_rounds_come_back_as_they_were(tmp_path):
    """Long and non-ASCII texts survive on disk."""
    study = run(AgentTTSSampler(TASK), n_trials=1, storage=f"sqlite:///{tmp_path}/s.db")
    rounds = [
        Round(
            number=number,
            guidelines=("é漢字 " * 3000,),
            candidates=(Proposal({"retrieval.model": "qwen-7B"}, "r"),),
            model="m",
            problems={"duplicate": 2},
            cost=1.5,
        )
        for number in (2, 1, 10)
    ]
    for planned in rounds:
        write_round(study, planned)
    assert guidelines(study) == tuple(sorted(rounds, key=lambda r: r.number))


def test_note_shows_the_latest_first_and_keeps_what_the_user_wrote():
    """The note escapes Markdown in the model's texts."""
    study = run(AgentTTSSampler(TASK), n_trials=1)
    summary = optuna_dashboard.get_note(study)
    assert summary.startswith(HEADING)
    optuna_dashboard.save_note(study, f"My own words.\n\n{summary}")
    for number, text in ((1, "old one"), (2, "[x](http://y) ![i](www.z) <b> | # `c`")):
        planned = Round(number=number, guidelines=(text,), model="m")
        write_round(study, planned)
        save_guidelines(study)
    body = optuna_dashboard.get_note(study)
    assert body.startswith(f"My own words.\n\n{summary}\n\n{GUIDELINES}")
    assert body.count(GUIDELINES) == 1
    assert body.index("Round 2, after") < body.index("old one")
    assert (
        "\\[x\\]\\(http:\u2060//y\\) \\!\\[i\\]\\(www\u2060.z\\) \\<b\\> \\| \\# \\`c\\`" in body
    )


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_note_counts_what_followed_the_last_round():
    """A confirmation runs no round, and writes the note at its end."""
    study = run(AgentTTSSampler(TASK), n_trials=4)
    write_round(study, Round(number=1, guidelines=("a",), model="m"))
    found = confirm(study, lambda allocation, names: [0.5] * len(names), range(40), evaluations=60)
    assert found.looks
    text = optuna_dashboard.get_note(study)
    assert "complete in confirmation" in text
    assert plain(f"({amount_text(found.spend)} reference samples of it on") in text


def test_agent_is_priced_like_a_stage():
    """The FLOPs cost uses the size in the model's name, and is unknown without one."""
    known = price_of(TASK, "org/Qwen2.5-72B-Instruct at host", 2048, 128)
    assert known == pytest.approx(814, abs=1)
    assert price_of(TASK, "mystery", 2048, 128) is None
    assert price_of(TASK, "qwen-7B", 0, 0) == 0
    assert price_of(TASK, Model("mystery", parameters=72e9), 2048, 128) == known
