"""When the agent is asked: for every round, or on alarms."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from agent_support import TASK, evidence_of, planner_of, score
from core_support import run

from optuna_agenttts import (
    AgentTTSSampler,
    ScriptedChatModel,
    TaskError,
    guidelines,
    spend,
    summarize,
)
from optuna_agenttts import storage as keys
from optuna_agenttts.agent.alarm import alarms


def alarm(planner, evidence):
    """Return all alarms as one text."""
    return "; ".join(alarms(planner, evidence))


NOTHING = '{"guidelines": ["g"], "claims": [], "candidates": []}'


def searched(when, trials=40, **options):
    """Run a search; return the study and the model, which proposes nothing."""
    chat = ScriptedChatModel(lambda request: NOTHING)
    sampler = AgentTTSSampler(TASK, llm=chat, llm_when=when, seed=0, **options)
    return run(sampler, trials), chat


def test_fewer_requests_are_sent_on_alarms_alone():
    """What is not asked costs nothing, and trials are those of the planner."""
    always, often = searched("always")
    study, seldom = searched("auto")
    assert 0 < len(seldom.requests) < len(often.requests)
    rounds = guidelines(study)
    assert all(planned.why for planned in rounds)
    silent = [planned for planned in rounds if not planned.asked]
    for planned in silent:
        assert (planned.requests, planned.cost, planned.error) == (0, 0.0, "")
    assert sum(planned.requests for planned in rounds) == len(seldom.requests)
    covered = {number for planned in silent for number in range(planned.first, planned.end)}
    for trial in study.trials:
        if trial.number in covered:
            assert trial.user_attrs[keys.ORIGIN] == "numerical"
    assert all(planned.asked for planned in guidelines(always))


def test_an_alarm_rings_once():
    """The agent has answered it; it rings again after 24 trials."""
    study, _ = searched("auto", 60)
    asked = [planned for planned in guidelines(study) if planned.asked]
    assert asked[0].why == "the search begins"
    for index, later in enumerate(asked):
        for earlier in asked[:index]:
            assert earlier.why != later.why or later.first - earlier.first > 20


def test_rounds_follow_each_other_without_gaps():
    """Also where some of them are silent."""
    study, _ = searched("auto")
    rounds = guidelines(study)
    assert [planned.number for planned in rounds] == list(range(len(rounds)))
    assert all(later.first >= planned.end for planned, later in pairwise(rounds))


def test_reports_and_the_log_name_why_the_agent_is_silent(caplog):
    """One line in the log, and a row of the report for rounds in a row."""
    with caplog.at_level("INFO", "optuna_agenttts"):
        study, _ = searched("auto")
    lines = [record for record in caplog.records if "is not asked before" in record.message]
    assert len(lines) == 1
    reasons = [planned.why for planned in guidelines(study) if not planned.asked]
    assert reasons[0] in lines[0].message
    text = " ".join(str(summarize(study)).split())
    assert all(f"not asked: {reason}" in text for reason in reasons)
    assert spend(study).requests == sum(planned.requests for planned in guidelines(study))


def test_other_words_are_refused():
    """Both words are named."""
    with pytest.raises(TaskError, match="`llm_when` must be 'auto' or 'always', got 'never'"):
        AgentTTSSampler(TASK, llm_when="never")


def test_there_is_no_alarm_while_all_agree():
    """The recommended models have the best raw means, too."""
    evidence = evidence_of(TASK, lambda a: 0.2 + 0.6 * (a["retrieval"].model == "qwen-72B"), 40)
    assert alarm(planner_of(TASK), evidence) == ""


def test_the_opening_and_equal_scores_are_alarms():
    """Nothing is known then."""
    assert "opening" in alarm(planner_of(TASK), evidence_of(TASK, score, 0))
    assert "scores" in alarm(planner_of(TASK), evidence_of(TASK, lambda a: 0.5, 30))


def test_raw_means_that_contradict_the_fit_are_an_alarm():
    """A model that is good in one combination only is worse on average."""

    def rate(allocation):
        good = allocation["retrieval"].model == "qwen-72B" and allocation["answer"].samples > 8
        return 0.8 if good else 0.2 + 0.2 * (allocation["retrieval"].model == "qwen-7B")

    evidence = evidence_of(TASK, rate, 40)
    large = evidence.models[:, 0] == 1
    few = np.flatnonzero(large & (evidence.scores > 0.5))[:1]
    kept = np.concatenate([np.flatnonzero(~large), few, np.flatnonzero(evidence.scores < 0.3)])
    found = evidence.take(np.sort(kept))
    reasons = list(alarms(planner_of(TASK), found))
    assert any("recommends 'qwen-72B' in 'retrieval', raw means 'qwen-7B'" in r for r in reasons)


def test_six_disappointing_trials_of_the_planner_are_an_alarm():
    """All of them below the fit to the trials before; five are not enough."""
    evidence = evidence_of(TASK, lambda a: 0.2 + 0.6 * (a["retrieval"].model == "qwen-72B"), 40)
    scores = evidence.scores.copy()
    last = np.flatnonzero(evidence.models[:, 0] == 1)[-6:]
    for count in (5, 6):
        origins = ["opening"] * 40
        for row in last[-count:]:
            scores[row] = evidence.scores[row] - 0.15
            origins[row] = "numerical"
        found = replace(evidence, scores=scores, origins=tuple(origins))
        reason = alarm(planner_of(TASK), found)
        assert ("below what was expected" in reason) == (count == 6), reason
