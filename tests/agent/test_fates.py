"""What becomes of the agent's proposals: queue, weighing, and what the next prompt has of it."""

import json

import optuna
import pytest
from agent_support import TASK, evidence_of, planner_of
from core_support import objective, run

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, guidelines
from optuna_agenttts import storage as keys
from optuna_agenttts.agent.ask import RoundContext
from optuna_agenttts.agent.prompts import shown_fates
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.study.fates import Fate, fates
from optuna_agenttts.study.rounds import Proposed, Round, write_round


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
    assert {each.kind for planned in later for each in planned.dropped} == {"duplicate"}
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
    assert sorted(kinds) == ["duplicate", "over budget", *["spare"] * 3, "unknown model"]
    kept = [fate for fate in found if fate.outcome != "dropped"]
    assert [fate.trial for fate in kept] == list(range(planned.first, planned.first + 6))
    # The agent's own order is kept, and the first ones where there are too many.
    assert [fate.params["retrieval.samples"] for fate in kept[:5]] == [11, 12, 13, 14, 15]
    for fate in kept:
        assert (fate.outcome == "queued") == (fate.trial >= len(study.trials))
        if fate.outcome == "tried":
            assert study.trials[fate.trial].params == fate.params
            assert f"{study.trials[fate.trial].value:.4g}" in fate.text


def test_refused_proposals_are_recorded_with_what_they_promised():
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
    assert "it promised" in chat.requests[-1].messages[1].content


@pytest.mark.parametrize(
    ("state", "text"),
    [("COMPLETE", ": 0.5"), ("FAIL", ", failed"), ("PRUNED", ", stopped early")],
)
def test_trials_of_the_agent_are_described_by_their_state(state, text):
    """A trial that failed or was stopped has no value to name."""
    study = optuna.create_study()
    trial = study.ask()
    trial.set_user_attr(keys.ORIGIN, "agent")
    planned = Round(number=0, candidates=(Proposed({"x": 1}, ""), Proposed({"x": 2}, "")))
    tried, queued = fates(study.trials, [planned])
    assert (tried.text, queued.text) == ("tried as trial 0, running", "queued for trial 1")
    values = 0.5 if state == "COMPLETE" else None
    study.tell(trial, values, state=optuna.trial.TrialState[state])
    assert fates(study.trials, [planned])[0].text == f"tried as trial 0{text}"


def test_rounds_of_earlier_versions_have_fates():
    """Their rounds state no first trial, and their trials have no record of proposals."""
    study = run(AgentTTSSampler(TASK), n_trials=8)
    values = {"number": 1, "candidates": [{"params": study.trials[6].params, "reason": ""}] * 6}
    keys.write_study_value(study._storage, study._study_id, f"{keys.ROUND}1", values)
    (planned,) = guidelines(study)
    assert planned.first == 6
    found = fates(study.trials, [planned])
    assert [fate.outcome for fate in found] == ["missed"] * 2 + ["queued"] * 4


def test_what_is_queued_is_in_the_prompt_and_may_not_be_proposed():
    """The reader of replies treats it as it treats tried allocations."""
    evidence = evidence_of(TASK, lambda allocation: 0.5, 4)
    params = TASK.params(TASK.allocation([(0, 11), (0, 21)]))
    queue = (Fate(1, "queued", "queued for trial 9", params, trial=9),)
    questions = TaskQuestions(
        planner_of(TASK), evidence, insights=(), guidelines=True, wanted=8, fates=queue
    )
    text = questions.messages(RoundContext())[1].content
    assert 'trial 9: "retrieval": "qwen-7B" x 11, "answer": "small-3B" x 21' in text
    read = questions.read(reply(*LISTED[:2]), ())
    assert [each.kind for each in read.dropped] == ["duplicate"]
    assert [proposal.choices for proposal in read.proposals] == [((0, 12), (0, 22))]


def test_prompts_show_the_whole_queue_and_two_rounds():
    """Spare proposals are left out, and so are more than four that were not kept."""
    found = [Fate(n, "tried", "t", {}, trial=n) for n in range(6)]
    found += [Fate(1, "queued", "q", {}, trial=20)]
    found += [Fate(5, "dropped", "d", {}, kind=kind) for kind in ["spare"] + ["duplicate"] * 9]
    shown = shown_fates(found)
    assert [fate.round for fate in shown if fate.outcome == "tried"] == [4, 5]
    assert [fate.outcome for fate in shown].count("queued") == 1
    assert [fate.kind for fate in shown if fate.outcome == "dropped"] == ["duplicate"] * 4


def test_history_names_who_proposed_each_trial():
    """The agent's own trials are told from those of the fit and the opening."""
    study, chat = search(LISTED, 18)
    history = chat.requests[-1].messages[1].content
    origins = {trial.number: trial.user_attrs[keys.ORIGIN] for trial in study.trials}
    words = {"agent": "you", "numerical": "fit", "fallback": "fit", "opening": "opening"}
    rows = [line.split(" | ") for line in history.splitlines() if line.count(" | ") == 5]
    named = {int(row[0]): row[4] for row in rows if row[0].isdigit()}
    assert named
    assert all(words[origins[number]] == who for number, who in named.items())


def test_rounds_are_written_with_what_was_not_kept():
    """They come back from the storage as they were."""
    study = run(AgentTTSSampler(TASK), n_trials=1)
    study_, _ = search([*LISTED, COSTLY, IMPOSSIBLE], 7)
    (planned, *_) = guidelines(study_)
    write_round(study, planned)
    (copy,) = guidelines(study)
    assert copy == planned
    assert copy.dropped
