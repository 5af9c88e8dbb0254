"""What becomes of the agent's proposals: queue, weighing, and what the next prompt has of it."""

import asyncio
import itertools
import json
import re
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from html import escape
from statistics import median

import numpy as np
import optuna
import pytest
from agent_support import TASK, evidence_of, planner_of, score
from core_support import objective, run

from optuna_agenttts import (
    AgentTTSSampler,
    ScriptedChatModel,
    StopAtSpend,
    guidelines,
    rounds_dataframe,
    summarize,
)
from optuna_agenttts import storage as keys
from optuna_agenttts.agent import scheduler
from optuna_agenttts.agent.pace import lead
from optuna_agenttts.agent.prompts import shown_fates
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.study.archive import Archive
from optuna_agenttts.study.fates import fates, position_of
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.study.rounds import Round, write_round


def item(model, samples, answer, answers):
    """Return a candidate of a reply."""
    setting = {
        "retrieval": {"model": model, "samples": samples},
        "answer": {"model": answer, "samples": answers},
    }
    return {"allocation": setting, "reason": "r"}


def reply(*items):
    """Return a reply with candidates."""
    return json.dumps({"guidelines": ["g"], "claims": [], "candidates": list(items)})


def search(items, n_trials=18, target=objective, **options):
    """Run a search whose agent always proposes the same; return the study and the model."""
    chat = ScriptedChatModel(lambda _: reply(*items))
    study = run(AgentTTSSampler(TASK, llm=chat, seed=0, **options), n_trials, target=target)
    return study, chat


LISTED = [item("qwen-7B", 11 + i, "small-3B", 21 + i) for i in range(5)]
COSTLY = item("qwen-7B", 90, "large-70B", 90)
IMPOSSIBLE = item("qwen-72B", 1, "large-70B", 1)


def test_nothing_queued_or_tried_is_kept_again():
    """An agent that repeats itself fills one round; later ones name the repeats."""
    study, chat = search([*LISTED, COSTLY])
    first, *later = guidelines(study)
    assert len(first.candidates) == 6
    tried = [trial.params for trial in study.trials if trial.user_attrs[keys.ORIGIN] == "agent"]
    assert tried
    # One that was refused, and not tried since, may be proposed again.
    refused = [f.params for f in fates(study.trials, [first]) if f.outcome != "tried"]
    for candidate in (each for planned in later for each in planned.candidates):
        assert candidate.params in refused
    assert {each.kind for planned in later for each in planned.dropped} <= {"duplicate", "refused"}
    text = next(
        request.messages[1].content
        for request in chat.requests
        if "<proposals>" in request.messages[1].content
    )
    assert all(f"x {11 + i}," in text for i in range(5))
    assert "reduced to the budget from" in text


def test_each_proposal_has_one_fate():
    """Tried, queued, refused, reduced, repeated, unusable, or more than were needed."""
    items = [*LISTED, COSTLY, LISTED[0], IMPOSSIBLE, item("?", 1, "small-3B", 1)]
    items += [item("qwen-7B", 30 + i, "small-3B", 3) for i in range(3)]
    study, _ = search(items, 8)
    (planned, *_) = guidelines(study)
    found = fates(study.trials, [planned])
    assert len(found) == len(items)
    assert [fate.asked is not None for fate in found].count(True) == 1
    kinds = [fate.kind for fate in found if fate.outcome == "dropped"]
    assert sorted(kinds) == ["duplicate", "over budget", "spare", "unknown model"]
    kept = [fate for fate in found if fate.outcome != "dropped"]
    assert len(kept) == 8
    numbers = [fate.trial for fate in kept if fate.trial is not None]
    assert numbers == sorted(set(numbers))
    # The agent's own order is kept, and the first ones where there are too many.
    assert [fate.params["retrieval.samples"] for fate in kept[:5]] == [11, 12, 13, 14, 15]
    for fate in kept:
        queued = fate.trial is not None and fate.trial >= len(study.trials)
        assert (fate.outcome == "queued") == queued
        if fate.outcome == "tried":
            assert study.trials[fate.trial].params == fate.params
            assert f"{study.trials[fate.trial].value:.4g}" in fate.text


def test_readers_of_a_study_see_what_became_of_proposals():
    """`guidelines` has it for each candidate, reports for the latest round, tables as counts."""
    study, _ = search([*LISTED, COSTLY, LISTED[0]], 12)
    rounds = guidelines(study)
    assert list(fates(study.trials, rounds)) == [
        each for planned in rounds for each in (*planned.candidates, *planned.dropped)
    ]
    tried = [c for planned in rounds for c in planned.candidates if c.outcome == "tried"]
    assert all(study.trials[each.trial].params == each.params for each in tried)
    text = str(summarize(study))
    assert f"{sum(each.round == 0 for each in tried)} tried" in text
    assert "1 not kept (duplicate)" in text
    latest = [planned for planned in rounds if planned.candidates][-1]
    assert all(each.text in text for each in latest.candidates)
    assert all(escape(each.text) in latest._repr_html_() for each in latest.candidates)
    counts = rounds_dataframe(study)["tried"]
    assert counts.sum() == len(tried)


def test_trials_after_the_planned_end_have_no_fallback():
    """No round is planned for them, so none is late."""
    chat = ScriptedChatModel(script())
    study = run(AgentTTSSampler(TASK, llm=chat, seed=0, n_trials=9), 20)
    origins = [trial.user_attrs[keys.ORIGIN] for trial in study.trials]
    assert "agent" in origins
    assert set(origins[9:]) == {"numerical"}


def test_refused_proposals_are_recorded_with_what_was_expected():
    """Each trial of a round has the agent's candidate on record; those it lost say why."""
    poor = [item("qwen-7B", 1, "small-3B", 1 + n) for n in range(8)]
    study, chat = search(poor, 20)
    records = [t.system_attrs.get(keys.PROPOSED) for t in study.trials]
    assert any(records)
    for trial, record in zip(study.trials, records):
        if record is not None and record["outcome"] == "refused":
            assert 0 <= record["worth"] < 0.9
            assert trial.user_attrs[keys.ORIGIN] != "agent"
        elif record is not None:
            assert (record["outcome"] == "tried") == (trial.user_attrs[keys.ORIGIN] == "agent")
    outcomes = {fate.outcome for fate in fates(study.trials, guidelines(study))}
    assert "refused" in outcomes
    assert any("expected to help" in request.messages[1].content for request in chat.requests)


@pytest.mark.parametrize(
    ("state", "text"),
    [("COMPLETE", ": 0.5"), ("FAIL", ", failed"), ("PRUNED", ", stopped early")],
)
def test_trials_of_the_agent_are_described_by_their_state(state, text):
    """A trial that failed or was stopped has no value to name."""
    study = optuna.create_study()
    trial = study.ask()
    trial.set_user_attr(keys.ORIGIN, "agent")
    planned = Round(number=0, candidates=(Proposal({"x": 1}, ""), Proposal({"x": 2}, "")))
    tried, queued = fates(study.trials, [planned])
    assert (tried.text, queued.text) == ("tried as trial 0, running", "queued for trial 1")
    values = 0.5 if state == "COMPLETE" else None
    study.tell(trial, values, state=optuna.trial.TrialState[state])
    assert fates(study.trials, [planned])[0].text == f"tried as trial 0{text}"


def test_rounds_of_earlier_versions_have_fates():
    """Their rounds state no first trial, and their trials have no record of proposals.

    What other trials have tried since is not queued any more.
    """
    study = run(AgentTTSSampler(TASK), n_trials=8)
    values = {"number": 1, "candidates": [{"params": study.trials[6].params, "reason": ""}] * 6}
    keys.write_study_value(study._storage, study._study_id, f"{keys.ROUND}1", values)
    (planned,) = guidelines(study)
    assert planned.first == 6
    found = fates(study.trials, [planned])
    assert [fate.outcome for fate in found] == ["missed"] * 2 + ["taken"] * 4
    untried = TASK.params(TASK.allocation([(0, 11), (0, 21)]))
    later = replace(planned, candidates=(Proposal(untried),) * 6)
    found = fates(study.trials, [later])
    assert [fate.outcome for fate in found] == ["missed"] * 2 + ["queued"] * 4


def test_what_is_queued_is_in_the_prompt_and_may_not_be_proposed():
    """The reader of replies treats it as it treats tried allocations."""
    evidence = evidence_of(TASK, lambda allocation: 0.5, 4)
    params = TASK.params(TASK.allocation([(0, 11), (0, 21)]))
    queue = (Proposal(params, text="queued for trial 9", round=1, outcome="queued", trial=9),)
    questions = TaskQuestions(
        planner_of(TASK), evidence, insights=(), guidelines=True, wanted=8, fates=queue
    )
    text = questions.messages()[1].content
    assert "trial 9: 7B x 11, 3B x 21" in text
    read = questions.read(reply(*LISTED[:2]), ())
    assert [each.kind for each in read.dropped] == ["duplicate"]
    assert [TASK.read(proposal.params) for proposal in read.proposals] == [((0, 12), (0, 22))]


def test_prompts_show_the_whole_queue_and_two_rounds():
    """Spare proposals are left out, and so are more than four that were not kept."""
    found = [Proposal({}, text="t", round=n, outcome="tried", trial=n) for n in range(6)]
    found += [Proposal({}, text="q", round=1, outcome="queued", trial=20)]
    found += [
        Proposal({}, kind=kind, text="d", round=5, outcome="dropped")
        for kind in ["spare"] + ["duplicate"] * 9
    ]
    shown = shown_fates(found)
    assert [fate.round for fate in shown if fate.outcome == "tried"] == [4, 5]
    assert [fate.outcome for fate in shown].count("queued") == 1
    assert [fate.kind for fate in shown if fate.outcome == "dropped"] == ["duplicate"] * 4


def test_history_names_who_proposed_each_trial():
    """The agent's own trials are told from those of the fit and the opening."""
    study, chat = search(LISTED, 18)
    history = chat.requests[-1].messages[1].content
    origins = {trial.number: trial.user_attrs[keys.ORIGIN] for trial in study.trials}
    listed = re.findall(r"^(\d+)(\*?) \|", history, re.M)
    assert listed
    assert all((origins[int(number)] == "agent") == bool(mark) for number, mark in listed)


def test_rounds_are_written_with_what_was_not_kept():
    """They come back from the storage as they were."""
    study = run(AgentTTSSampler(TASK), n_trials=1)
    study_, _ = search([*LISTED, COSTLY, IMPOSSIBLE], 7)
    (planned, *_) = guidelines(study_)
    write_round(study, planned)
    (copy,) = guidelines(study)
    assert copy == planned
    assert copy.dropped


# When rounds are planned, and for which trials.


def script():
    """Return a script that proposes eight new allocations in each reply."""
    replies = itertools.count(1)

    def next_reply(request):
        n = next(replies)
        return reply(*(item("qwen-7B", 8 * n + i, "small-3B", 40 + n) for i in range(8)))

    return next_reply


@pytest.mark.parametrize("first", [0, 1])
def test_proposals_count_from_the_trial_at_which_they_arrive(first, monkeypatch):
    """With a fast model from the first trial on, with a slow one from a later one on."""
    gate = threading.Event()
    if first:
        monkeypatch.setattr(scheduler, "MIN_WAIT", 0.05)
    else:
        gate.set()

    async def until_open(seconds):
        while not gate.is_set():
            await asyncio.sleep(0.005)

    chat = ScriptedChatModel(script(), delay=1, sleep=until_open)
    sampler = AgentTTSSampler(TASK, llm=chat, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def slow(trial):
        value = objective(trial)
        if trial.number == 1:
            gate.set()
            while not guidelines(study):
                time.sleep(0.005)
        return value

    study.optimize(slow, n_trials=12)
    planned = guidelines(study)[0]
    # A trial waits for a moment, and the reply arrives while a later one runs.
    assert planned.first >= first
    assert first or planned.first == 0
    assert planned.trials == 0
    proposed = [t.number for t in study.trials if keys.PROPOSED in t.system_attrs]
    assert proposed[0] == planned.first
    assert all(t.user_attrs[keys.ORIGIN] != "fallback" for t in study.trials[: planned.first])


def times(gap, number):
    """Return finished trials whose starts are some seconds apart."""
    start = datetime(2026, 1, 1)
    return [
        optuna.trial.FrozenTrial(
            number=n,
            state=optuna.trial.TrialState.COMPLETE,
            value=0.0,
            datetime_start=start + timedelta(seconds=gap * n),
            datetime_complete=start + timedelta(seconds=gap * n + gap),
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=n,
        )
        for n in range(number)
    ]


@pytest.mark.parametrize(
    ("latency", "gap", "expected"),
    [(0.1, 0.01, 1), (5, 10, 1), (5, 4, 2), (30, 10, 4), (600, 10, 6), (5, 0, 6)],
)
def test_planning_starts_when_a_reply_can_arrive_in_time(latency, gap, expected, monkeypatch):
    """The lead is the latency in trials, plus one, within a round."""
    monkeypatch.setattr("optuna_agenttts.agent.pace.MIN_WAIT", 0.5)
    rounds = [Round(number=n, seconds=latency) for n in range(3)]
    assert lead(rounds, times(gap, 12)) == expected
    assert lead(rounds, times(gap, 1)) == (1 if latency < 0.5 else 3)


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_trials_of_the_agent_record_what_was_expected_of_them(direction, sign):
    """It is oriented as scores are, and known of the agent's trials alone."""
    sampler = AgentTTSSampler(TASK, llm=ScriptedChatModel(script()))
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.optimize(lambda trial: sign * score(TASK.suggest(trial)), n_trials=14)
    evidence = Archive(TASK, maximize=sign > 0).read(study.trials)
    known = np.flatnonzero(np.isfinite(evidence.expected))
    assert {evidence.origins[row] for row in known} == {"agent"}
    gaps = np.array(evidence.expected)[known] - evidence.scores[known]
    assert (np.abs(gaps) < 0.5).all()


@pytest.mark.parametrize(("n_trials", "wanted"), [(50, [8, 8]), (12, [8, 3]), (9, [8]), (4, [4])])
def test_no_round_is_requested_that_the_search_does_not_reach(n_trials, wanted):
    """The last one has as many candidates as trials are left."""
    chat = ScriptedChatModel(script())
    sampler = AgentTTSSampler(TASK, llm=chat, seed=0, n_trials=n_trials)
    run(sampler, n_trials)
    asked = [
        json.loads(request.schema)["properties"]["candidates"]["maxItems"]
        for request in chat.requests
    ]
    assert asked[: len(wanted)] == wanted
    assert len(asked) == max(len(wanted), 1 + (n_trials - 9 + 3) // 6)
    assert all(
        f"Propose up to {n} candidate" in r.messages[1].content
        for n, r in zip(asked, chat.requests)
    )


def test_a_limit_on_spend_ends_the_requests():
    """No round begins after the trials that the limit leaves."""
    chat = ScriptedChatModel(script())
    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(TASK, llm=chat, seed=0)
    )
    study.optimize(objective, n_trials=60, callbacks=[StopAtSpend(15_000)])
    (*_, last) = guidelines(study)
    assert last.first < len(study.trials)
    wanted = [
        json.loads(request.schema)["properties"]["candidates"]["maxItems"]
        for request in chat.requests
    ]
    assert wanted[0] == 8
    assert sum(p.requests for p in guidelines(study)) == len(chat.requests)


def test_the_opening_leaves_the_agents_candidates_in_the_queue():
    """A bad agent delays it by one trial; what it is not tried for comes later."""
    poor = [item("qwen-7B", 1, "small-3B", 1 + n) for n in range(8)]
    study, _ = search(poor, 9)
    origins = [trial.user_attrs[keys.ORIGIN] for trial in study.trials]
    assert origins[:3] == ["opening", "opening", "agent"]
    assert origins.count("agent") == 1
    (planned, *_) = guidelines(study)
    records = [trial.system_attrs[keys.PROPOSED] for trial in study.trials]
    postponed = [record["outcome"] == "opening" for record in records]
    assert any(postponed)
    positions = [record["position"] for record in records]
    for (position, waits), later in zip(zip(positions, postponed), positions[1:]):
        assert later == position + (not waits)
    assert positions == [position_of(planned, n, study.trials) for n in range(9)]


def test_reports_compare_the_agent_with_the_planner_and_explain_what_is_not_kept():
    """A round of repeated proposals did propose something."""
    study, _ = search(LISTED, 26)
    for found in study.trials[-3:]:
        study.add_trial(
            optuna.trial.create_trial(
                params=found.params,
                distributions=found.distributions,
                value=found.value,
                user_attrs={keys.ORIGIN: "agent"},
            )
        )
    repeated = Proposal(LISTED[0], "r", kind="duplicate")
    rounds = guidelines(study)
    error = "candidate 1 was tried or proposed already"
    write_round(study, Round(number=len(rounds), first=29, dropped=(repeated,), error=error))
    text = " ".join(str(summarize(study)).split())
    origins = [(trial.user_attrs[keys.ORIGIN], trial.value) for trial in study.trials]
    mine = [value for origin, value in origins if origin == "agent"]
    others = [value for origin, value in origins if origin in ("numerical", "fallback")]
    assert f"Medians: {median(mine):.3g} of the agent's {len(mine)} trials" in text
    assert f"{median(others):.3g} of the {len(others)} that the numerical planner" in text
    assert "Not kept: a duplicate was tried, or is proposed already" in text
    assert "latest round proposed nothing that can be used: candidate 1 was tried" in text
