"""Retrieval question answering: data as it comes, and the whole way through served models."""

import contextlib
import json
import logging
from pathlib import Path

import optuna
import pytest
from tasks_support import as_competent, everything

from optuna_agenttts import AgentTTSSampler, Model
from optuna_agenttts.llm import Completion, ScriptedChatModel, Usage
from optuna_agenttts_integrations import CompletionStore, PipelineError
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks import hotpot_qa, passage_benchmark, two_wiki
from optuna_agenttts_integrations.tasks.records import read_records, sample_path
from optuna_agenttts_integrations.testing.serving import LoopbackServer
from optuna_agenttts_integrations.testing.simulation import simulated_models, stage_instructions

REAL = Path(__file__).parents[3] / "shared" / "data" / "2wiki_100.json"
WIKI = sample_path("two_wiki.json")
HOTPOT = sample_path("hotpot_qa.json")
SMALL = {
    "retrievers": [Model("finder", parameters=7e9)],
    "answerers": [Model("sayer", parameters=3e9)],
}
ONCE = {"retrieval": ("finder", 1), "answer": ("sayer", 1)}


def record(question="Who?", passages="abcd", gold="b", answers=("x",)):
    """Return a record in the paper's form."""
    return {
        "question": question,
        "answers": list(answers),
        "ctxs_candidate": list(passages),
        "ctxs_gt": list(gold),
    }


def paragraphs(context, facts, question="Who?", **more):
    """Return a record in HotpotQA's form."""
    fields = {"question": question, "answer": "x", "context": context, "supporting_facts": facts}
    return {**fields, **more}


def only(source, **options):
    """Return the question of a source of one."""
    (question,) = hotpot_qa(source, search=1, **options).search
    return question


class Counting:
    """Passes requests on and counts them."""

    def __init__(self, chat):
        self.chat, self.count = chat, 0

    async def complete(self, request, *, seed):
        self.count += 1
        return await self.chat.complete(request, seed=seed)


def test_the_budget_is_the_papers():
    """928.67: one sample of the largest model in each stage (AgentTTS, section 5.1)."""
    for make, path in ((two_wiki, WIKI), (hotpot_qa, HOTPOT)):
        task = make(path, search=8).task
        assert task.budget == pytest.approx(928.67, abs=0.005)
        largest = {stage.name: (stage.models[-1].name, 1) for stage in task.stages}
        assert task.cost(largest) == pytest.approx(task.budget)
        assert make(path, search=8, budget=500).task.budget == 500


@pytest.mark.parametrize(
    "source",
    [WIKI, pytest.param(REAL, marks=pytest.mark.skipif(not REAL.exists(), reason="not here"))],
)
def test_the_papers_files_keep_all_that_they_say(source):
    """Passages in their order, gold ones by number, every accepted answer once."""
    records = {r["question"]: r for r in read_records(source)}
    benchmark = two_wiki(source, search=10)
    questions = everything(benchmark)
    assert {q.question for q in questions} == set(records)
    assert len({q.id for q in questions}) == len(records)
    for q in questions:
        own = records[q.question]
        lines = [" ".join(text.split()) for text in own["ctxs_candidate"]]
        assert list(q.passages) == list(dict.fromkeys(lines))
        gold = {" ".join(text.split()) for text in own["ctxs_gt"]}
        assert {q.passages[number - 1] for number in q.gold} == gold
        assert q.answers == tuple(dict.fromkeys(text.strip() for text in own["answers"]))


def test_hotpots_own_form_is_filled_up_with_other_questions_paragraphs():
    """To as many as there are or are asked for, gold ones among them, the same for every seed."""
    for candidates, count in ((100, 64), (20, 20), (3, 4)):
        benchmark = hotpot_qa(HOTPOT, search=8, candidates=candidates)
        other = hotpot_qa(HOTPOT, search=8, candidates=candidates, seed=1)
        both = [{q.question: q for q in everything(b)} for b in (benchmark, other)]
        assert both[0] == both[1]
        assert benchmark.search != other.search
        for own in read_records(HOTPOT):
            q = both[0][own["question"]]
            assert len(q.passages) == len(set(q.passages)) == count
            texts = {title: " ".join(sentences) for title, sentences in own["context"]}
            assert set(texts.values()) <= set(q.passages)
            gold = {texts[title] for title, _ in own["supporting_facts"]}
            assert {q.passages[number - 1] for number in q.gold} == gold
            assert (q.id, q.answers) == (own["_id"], (own["answer"],))
        # Where a passage stands says nothing about whether it helps.
        assert count < 5 or {number > 4 for q in both[0].values() for number in q.gold} == {
            True,
            False,
        }


def test_paragraphs_come_in_lists_objects_or_whole():
    """White space is one blank, empty paragraphs are none, titles may repeat."""
    plain = [["A", ["One. ", " Two\n."]], ["B", "Whole\ntext."], ["C", []], ["A", ["More."]]]
    columns = {"title": [t for t, _ in plain], "sentences": [s for _, s in plain]}
    for context in (plain, columns):
        for facts in ([["A", 0], ["A", 1]], {"title": ["A"], "sent_id": [0]}):
            question = only([paragraphs(context, facts)], candidates=0)
            assert question.passages == ("One. Two .", "Whole text.", "More.")
            assert question.gold == (1, 3)


def test_supporting_titles_that_are_missing_are_said(caplog):
    """As long as one is there; the warning counts the records."""
    with caplog.at_level(logging.WARNING):
        question = only([paragraphs([["A", ["a"]], ["B", ["b"]]], [["B", 0], ["Z", 0]])])
    assert [question.passages[number - 1] for number in question.gold] == ["b"]
    assert "In 1 of 1 records" in caplog.text


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"question": "q"}, "provide `ctxs_candidate`"),
        ({**record(), "question": " "}, "field 'question' must be a non-empty string"),
        ({**record(), "question": 3}, "'question' is 3"),
        (
            {**record(), "answers": []},
            "field 'answers' or 'answer' must be a non-empty string or a list",
        ),
        ({**record(), "answers": [2014]}, r"'answers' is \[2014\]"),
        ({**record(), "answers": float("nan")}, "'answers' is nan"),
        ({**record(), "ctxs_candidate": None}, "field 'ctxs_candidate' must be"),
        (
            {**record(), "ctxs_candidate": "b"},
            "'ctxs_candidate' must be a list of passages, got one string",
        ),
        ({**record(), "ctxs_gt": []}, "field 'ctxs_gt' must be"),
        (record(gold="bz"), "`ctxs_gt` must be in `ctxs_candidate`; 'z' is not"),
        (paragraphs([["A", ["a"]]], []), r"`supporting_facts` contains \[\]"),
        (paragraphs([["A", ["a"]]], None), r"`supporting_facts` contains \[\]"),
        (paragraphs([["A", ["a"]]], [["B", 0]]), r"contains \['B'\]"),
        (paragraphs([["A", []]], [["A", 0]]), r"contains \['A'\]"),
        (paragraphs([["A", ["a"]]], [[["A"], 0]]), "must contain titles"),
        (paragraphs([["A", ["a"]]], [3]), "must contain titles"),
        (paragraphs([["A", ["a"]]], {"sent_id": [0]}), "must contain titles"),
        (paragraphs([["A", ["a"]]], {"title": None}), "must contain titles"),
        (paragraphs([["A"]], [["A", 0]]), "`context` must be a list"),
        (paragraphs([["A", [None]]], [["A", 0]]), "`context` must be a list"),
        (paragraphs({"title": ["A"], "sentences": []}, [["A", 0]]), "`context` must be a list"),
        (paragraphs("text", [["A", 0]]), "`context` must be a list"),
    ],
)
def test_broken_records_are_refused_by_number(broken, says):
    """Nothing is dropped or made up."""
    with pytest.raises(DataError, match=f"Record 1.*{says}"):
        two_wiki([record("one?"), broken], search=1)


def test_invalid_settings_are_refused():
    """With what there is to choose from."""
    with pytest.raises(
        DataError, match="must be one of exact match, token F1, answer contained; got 'rouge'"
    ):
        two_wiki(WIKI, search=8, metric="rouge")
    with pytest.raises(DataError, match=r"`search` must be an integer from 1 to 16, .*got 50"):
        two_wiki(WIKI)
    with pytest.raises(ValueError, match="`threshold` must be above 0 and at most 1, got 2"):
        two_wiki(WIKI, search=8, threshold=2)


def test_a_data_set_of_the_hub_is_asked_for_as_told(data_sets):
    """Name, configuration, split and revision reach the library."""
    data_sets.records = QUESTIONS
    hotpot_qa("hf:a/b:c", search=1)
    two_wiki("hf:a/b", search=1, split="test", revision="v1")
    assert data_sets.asked == [
        ("a/b", "c", {"split": "validation", "revision": None}),
        ("a/b", None, {"split": "test", "revision": "v1"}),
    ]


def test_questions_that_repeat_are_kept_once_and_named_apart():
    """The first of them; ids that repeat or are missing are made unique."""
    twins = [
        {**record("a?"), "id": 7},
        {**record("b?"), "id": 7},
        {**record(" a? ", answers=["y"]), "id": 8},
        {**record("c?"), "id": None},
        {**record("d?"), "_id": ""},
    ]
    benchmark = two_wiki(twins, search=4, **SMALL)
    assert {q.question: q.id for q in benchmark.search} == {
        "a?": "7",
        "b?": "7 (record 1)",
        "c?": "3",
        "d?": "4",
    }
    assert {q.answers for q in benchmark.search} == {("x",)}


def test_passages_cannot_pass_for_others():
    """Line breaks within one are blanks in the prompt."""
    source = [record(passages=["a\n[2] not b", "b", " b"], gold=["b "])]
    (question,) = two_wiki(source, search=1).search
    assert question.passages == ("a [2] not b", "b")
    assert question.gold == (2,)


QUESTIONS = [
    record("one?", [f"passage {n}" for n in range(1, 7)], ["passage 2", "passage 5"], ["Paris"]),
    record("two?", [f"passage {n}" for n in range(1, 7)], ["passage 1", "passage 3"], ["the Po"]),
    record("three?", [f"passage {n}" for n in range(1, 7)], ["passage 4"], ["Ann Lee", "Lee"]),
    record("four?", [f"passage {n}" for n in range(1, 7)], ["passage 6"], ["yes"]),
]
REPLIES = {
    # Two of three are right; F1 = 2 * 2 / (3 + 2).
    ("finder", "one?"): "Passage [4] and [99] no.\nAnswer: [2, 5, 6]",
    # One of two is right, one is out of range, one named again: F1 = 2 * 1 / (2 + 2).
    ("finder", "two?"): "Answer: [3, 9, 4, 3]",
    # No list: malformed.
    ("finder", "three?"): "Passage [4] helps.",
    # Nothing is chosen.
    ("finder", "four?"): "Answer: none",
    ("sayer", "one?"): "It is in the passages.\n**Answer: paris.**",
    # Words "river po" against "po": F1 = 2 * 1 / (2 + 1), and contained.
    ("sayer", "two?"): "Answer: The river Po",
    # Words "ann smith" against "ann lee": F1 = 2 * 1 / (2 + 2); "lee" is not there.
    ("sayer", "three?"): "Answer: Ann Smith",
    # Malformed.
    ("sayer", "four?"): "Yes.",
}
BY_HAND = {
    "one?": (1, 1, 1, 0.8, 0, 0),
    "two?": (0, 2 / 3, 1, 0.5, 1, 1),
    "three?": (0, 0.5, 0, 0, 0, 0),
    "four?": (0, 0, 0, 0, 0, 0),
}
NAMES = (
    "exact match",
    "token F1",
    "answer contained",
    "retrieval F1",
    "ids out of range",
    "ids repeated",
)


def scripted(name):
    """Reply with the script's text for the question of a prompt."""

    def reply(request):
        prompt = request.messages[-1].content
        (question,) = [q["question"] for q in QUESTIONS if f"Question: {q['question']}" in prompt]
        return Completion(REPLIES[name, question], Usage(50, 5))

    return ScriptedChatModel(reply)


@pytest.mark.parametrize("metric", NAMES[:3])
def test_metrics_are_as_computed_by_hand(served, metric):
    """On four questions with scripted replies; three samples that agree score as one does."""
    benchmark = two_wiki(QUESTIONS, search=4, metric=metric, **SMALL)
    chats = {name: scripted(name) for name in ("finder", "sayer")}
    with benchmark.objective(served(chats)) as objective:
        for samples, factor in ((1, 1), (3, 3)):
            allocation = {"retrieval": ("finder", samples), "answer": ("sayer", samples)}
            evaluation = objective.evaluate(allocation)
            for q in benchmark.search:
                result = evaluation.results[q.id]
                expected = dict(zip(NAMES, BY_HAND[q.question]))
                for name in NAMES[4:]:
                    # Counts are those of all samples together.
                    expected[name] *= factor
                assert dict(result.metrics) == pytest.approx(expected)
                assert result.outcome == pytest.approx(expected[metric])
                assert not result.failed
            assert evaluation.malformed == 2 * factor
    # What agrees is not fused: three samples of each of eight requests.
    assert sum(len(chat.requests) for chat in chats.values()) == 24


def test_prompts_show_what_was_chosen():
    """All passages by number first; then the chosen ones, or that there is none."""
    benchmark = two_wiki(QUESTIONS, search=4, **SMALL)
    chats = {name: scripted(name) for name in ("finder", "sayer")}
    with benchmark.objective(chats) as objective:
        objective.evaluate(ONCE)
    asked = [request.messages[-1].content for request in chats["finder"].requests]
    assert all("[1] passage 1\n[2] passage 2\n" in prompt for prompt in asked)
    shown = {
        prompt.split("Question: ")[1].split("\n")[0]: prompt.split("\n\n")[0]
        for prompt in (request.messages[-1].content for request in chats["sayer"].requests)
    }
    assert shown == {
        "one?": "Passages:\n- passage 2\n- passage 5\n- passage 6",
        "two?": "Passages:\n- passage 3\n- passage 4",
        "three?": "Passages:\n(none was chosen)",
        "four?": "Passages:\n(none was chosen)",
    }
    for request in (*chats["finder"].requests, *chats["sayer"].requests):
        text = "\n".join(message.content for message in request.messages)
        assert sum(mark in text for mark in stage_instructions(benchmark).values()) == 1


@pytest.mark.parametrize(("make", "path"), [(two_wiki, WIKI), (hotpot_qa, HOTPOT)])
def test_perfect_models_are_right_and_hopeless_ones_wrong(served, make, path):
    """Exact match and retrieval F1 of 1 through HTTP; of 0, and below 1."""
    for competence in (1.0, 0.0):
        benchmark = make(path, search=16, **SMALL)
        with benchmark.objective(served(as_competent(benchmark, competence))) as objective:
            evaluation = objective.evaluate(ONCE)
        assert evaluation.failed == evaluation.malformed == 0
        assert evaluation.mean == evaluation.metrics["exact match"] == competence
        assert (evaluation.metrics["retrieval F1"] == 1) == (competence == 1)
        assert evaluation.metrics["ids out of range"] == 0


@pytest.mark.skipif(not REAL.exists(), reason="the paper's file is not here")
def test_the_papers_file_runs_end_to_end():
    """A hundred real questions: perfect models are right on every one, in either stage."""
    benchmark = two_wiki(REAL, search=100, **SMALL)
    chats = as_competent(benchmark, 1.0)
    with LoopbackServer(chats) as server, benchmark.objective(server.url) as objective:
        evaluation = objective.evaluate(ONCE)
        found = {f.check: f.level for f in objective.check().findings if f.subject == "retrieval"}
    assert (evaluation.mean, evaluation.metrics["retrieval F1"]) == (1, 1)
    assert found == {"prompts": "ok", "result": "ok"}


def test_fusion_is_by_the_model_or_by_vote():
    """Samples that differ are fused by one more call, unless a vote is asked for."""
    for fusion, calls in ((True, 6), (False, 5)):
        benchmark = two_wiki(QUESTIONS[:1], search=1, fusion=fusion, **SMALL)
        said = iter(["Po", "Rome", "Paris", "Rome", "fused"])
        sayer = ScriptedChatModel(lambda request, said=said: f"Answer: {next(said)}")
        chats = {"finder": scripted("finder"), "sayer": sayer}
        with benchmark.objective(chats) as objective:
            allocation = {"retrieval": ("finder", 1), "answer": ("sayer", 4)}
            result = objective.evaluate(allocation)
        assert result.results["0"].total("calls") == calls
        fusions = [r for r in sayer.requests if "different replies" in r.messages[-1].content]
        assert len(fusions) == fusion


def test_held_out_questions_are_scored_and_those_seen_are_refused():
    """Also where another seed split the same file."""
    options = {"search": 8, **SMALL}
    for make, path in ((two_wiki, WIKI), (hotpot_qa, HOTPOT)):
        benchmark = make(path, **options)
        with benchmark.objective(as_competent(benchmark, 1.0)) as objective:
            evaluation = objective.evaluate(ONCE, benchmark.held_out, baseline=ONCE)
            assert (len(evaluation.results), evaluation.mean) == (8, 1)
            assert evaluation.comparison.difference == 0
            other = make(path, seed=1, **options).held_out
            for seen in (benchmark.search, benchmark.search[:1] + benchmark.held_out, other):
                with pytest.raises(PipelineError, match="must not occur in the search"):
                    objective.evaluate(ONCE, seen)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "path"), [(two_wiki, WIKI), (hotpot_qa, HOTPOT)])
def test_a_second_study_from_the_same_store_asks_nobody(tmp_path, make, path):
    """Eight trials, repeated from the store, have the same values and send no requests."""
    values, asked = [], []
    for _ in range(2):
        benchmark = make(path, search=8)
        chats = {name: Counting(chat) for name, chat in simulated_models(benchmark).items()}
        store = CompletionStore(tmp_path / "kept.db")
        with contextlib.closing(store), benchmark.objective(chats, store=store) as objective:
            sampler = AgentTTSSampler(benchmark.task, seed=0)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            study.optimize(objective, n_trials=8)
        values.append([trial.value for trial in study.trials])
        asked.append(sum(chat.count for chat in chats.values()))
        assert all(0 <= trial.user_attrs["retrieval F1"] <= 1 for trial in study.trials)
    assert values[0] == values[1]
    assert asked[0] > 0 == asked[1]


def test_a_data_set_of_ones_own_has_ones_own_name(tmp_path):
    """`passage_benchmark` takes any records of the form, from any file."""
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    benchmark = passage_benchmark("mine", path, search=3, metric="token F1")
    assert (benchmark.task.name, benchmark.task.metric) == ("mine", "token F1")
    assert (len(benchmark.search), len(benchmark.held_out)) == (3, 1)
