"""Retrieval question answering: data as it comes, and the whole way through served models."""

import contextlib
import csv
import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from tasks_support import as_competent, everything

from optuna_agenttts import AgentTTSSampler, Model
from optuna_agenttts.llm import Completion, ScriptedChatModel, Usage
from optuna_agenttts_integrations import CompletionStore, PipelineError
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.instances import shared_instances
from optuna_agenttts_integrations.tasks import hotpot_qa, passage_benchmark, two_wiki
from optuna_agenttts_integrations.tasks.records import read_records, sample_path
from optuna_agenttts_integrations.testing.serving import LoopbackServer
from optuna_agenttts_integrations.testing.simulation import simulated_models, stage_instructions

DATA = Path(__file__).parents[3] / "shared" / "data"
REAL = DATA / "2wiki_100.json"
REAL_HOTPOT = DATA / "hotpotqa_original_20.json"
WIKI = sample_path("two_wiki.json")
HOTPOT = sample_path("hotpot_qa.json")
ALIASES = sample_path("two_wiki_aliases.json")
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


def as_in_the_paper(record):
    """Return a record of a data set in the paper's form, with a few passages."""
    texts = {title: " ".join(sentences) for title, sentences in record["context"]}
    gold = dict.fromkeys(texts[title] for title, _ in record["supporting_facts"])
    return {
        "question": record["question"],
        "answers": [record["answer"], record["answer"]],
        "ctxs_candidate": list(texts.values()),
        "ctxs_gt": list(gold),
    }


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
    [
        [as_in_the_paper(record) for record in read_records(WIKI)],
        pytest.param(REAL, marks=pytest.mark.skipif(not REAL.exists(), reason="not here")),
    ],
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
    for candidates, count in ((200, 125), (20, 20), (3, 10)):
        benchmark = hotpot_qa(HOTPOT, search=8, candidates=candidates, titles=False)
        other = hotpot_qa(HOTPOT, search=8, candidates=candidates, titles=False, seed=1)
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
        assert count < 11 or {number > 10 for q in both[0].values() for number in q.gold} == {
            True,
            False,
        }


def test_paragraphs_come_in_lists_objects_or_whole():
    """White space is one blank, empty paragraphs are none, titles may repeat."""
    plain = [["A", ["One. ", " Two\n."]], ["B", "Whole\ntext."], ["C", []], ["A", ["More."]]]
    columns = {"title": [t for t, _ in plain], "sentences": [s for _, s in plain]}
    for context in (plain, columns):
        for facts in ([["A", 0], ["A", 1]], {"title": ["A"], "sent_id": [0]}):
            question = only([paragraphs(context, facts)], candidates=0, titles=False)
            assert question.passages == ("One. Two .", "Whole text.", "More.")
            assert question.gold == (1, 3)
            titled = only([paragraphs(context, facts)], candidates=0)
            assert titled.passages == ("A: One. Two .", "B: Whole text.", "A: More.")
            assert titled.gold == (1, 3)


def test_supporting_titles_that_are_missing_are_said(caplog):
    """As long as one is there; the warning counts the records."""
    with caplog.at_level(logging.WARNING):
        question = only([paragraphs([["A", ["a"]], ["B", ["b"]]], [["B", 0], ["Z", 0]])])
    assert [question.passages[number - 1] for number in question.gold] == ["B: b"]
    assert "In 1 of 1 records" in caplog.text


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"question": "q"}, "neither `context` nor `ctxs_candidate`, only question"),
        ({**record(), "question": " "}, "field 'question' must be a non-empty string"),
        ({**record(), "question": 3}, "'question' is 3"),
        (
            {**record(), "answers": []},
            "field 'answers' or 'answer' must be a non-empty string or a list",
        ),
        ({**record(), "answers": [2014]}, r"'answers' is \[2014\]"),
        ({**record(), "answers": float("nan")}, "'answers' is nan"),
        ({**record(), "answers": '["Paris", "Par'}, "`answers` is a list that is cut off"),
        ({**record(), "ctxs_candidate": None}, "field 'ctxs_candidate' must be"),
        (
            {**record(), "ctxs_candidate": "b"},
            "'ctxs_candidate' must be a list of passages, got one string",
        ),
        ({**record(), "ctxs_gt": []}, "field 'ctxs_gt' must be"),
        (record(passages=["a", "b", "\ud83d"]), "unpaired surrogate"),
        (record(gold="bz"), "`ctxs_gt` must be in `ctxs_candidate`; 'z' is not"),
        (paragraphs([["A", ["a"]]], []), r"`supporting_facts` must have a text .* got \[\]"),
        (paragraphs([["A", ["a"]]], None), r"`supporting_facts` must have a text .* got \[\]"),
        (paragraphs([["A", ["a"]]], [["B", 0]]), r"must have a text .* got \['B'\]"),
        (paragraphs([["A", []]], [["A", 0]]), r"must have a text .* got \['A'\]"),
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
        DataError, match=r"must be one of exact match, HotpotQA F1, SQuAD F1, .* got 'rouge'"
    ):
        two_wiki(WIKI, search=8, metric="rouge")
    with pytest.raises(DataError, match=r"`search` must be an integer from 1 to 60, .*got 61"):
        two_wiki(WIKI, search=61)
    with pytest.raises(ValueError, match="`threshold` must be above 0 and at most 1, got 2"):
        two_wiki(WIKI, search=8, threshold=2)


def test_a_data_set_of_the_hub_is_asked_for_as_told(data_sets):
    """Name, configuration, split and revision reach the library."""
    data_sets.records = QUESTIONS
    hotpot_qa("hf:a/b:c", search=1)
    two_wiki("hf:a/b", search=1, split="test", revision="v1")
    hotpot_qa("hf:a/b:c@v2", search=1)
    two_wiki("hf:a/b@v2", search=1, revision="v2")
    with pytest.raises(DataError, match=r"`revision` must be that of `source`, 'v2', .* got 'v1'"):
        two_wiki("hf:a/b@v2", search=1, revision="v1")
    assert data_sets.asked == [
        ("a/b", "c", {"split": "validation", "revision": None}),
        ("a/b", None, {"split": "test", "revision": "v1"}),
        ("a/b", "c", {"split": "validation", "revision": "v2"}),
        ("a/b", None, {"split": "validation", "revision": "v2"}),
    ]


def test_the_key_of_overlap_is_the_question():
    """Titles, padding, order, typography and IDs make no difference."""
    one, two = (
        only([paragraphs([["A", ["a"]]], [["A", 0]], question, _id=question)], titles=titles)
        for question, titles in (("Who, then?", True), ("WHO  then", False))
    )
    assert one != two
    assert one.overlap_key == two.overlap_key
    search, held_out = {"1": one}, {"2": two}
    assert shared_instances(search, held_out) == {"2": "1"}
    assert len(everything(two_wiki([record("Who, then?"), record("who then")], search=1))) == 1


def test_aliases_are_accepted_answers():
    """As by 2Wiki's script: aliases and demonyms of `answer_id`, in the given order."""
    for aliases in (ALIASES, read_records(ALIASES)):
        plain, aliased = (
            {q.id: q for q in everything(two_wiki(WIKI, search=9, aliases=given))}
            for given in (None, aliases)
        )
        names = {r["Q_id"]: (*r["aliases"], *r["demonyms"]) for r in read_records(ALIASES)}
        for own in read_records(WIKI):
            accepted = (own["answer"], *names.get(own["answer_id"], ()))
            assert aliased[own["_id"]].answers == accepted
            assert plain[own["_id"]].answers == accepted[:1]
        assert any(len(q.answers) > 2 for q in aliased.values())
    with pytest.raises(DataError, match="`aliases` must have a `Q_id` that is the `answer_id`"):
        two_wiki(WIKI, search=9, aliases=[{"Q_id": "Q1", "aliases": ["x"], "demonyms": []}])
    with pytest.raises(DataError, match="`aliases` and `demonyms` must be lists"):
        two_wiki(WIKI, search=9, aliases=[{"Q_id": "Q1", "aliases": "x"}])


def hub_form(own):
    """Return a record in the columns of hotpotqa/hotpot_qa and framolfese/2WikiMultihopQA."""
    context, facts = (list(map(list, zip(*own[name]))) for name in ("context", "supporting_facts"))
    return {
        "id": own["_id"],
        "question": own["question"],
        "answer": own["answer"],
        "type": own["type"],
        "supporting_facts": {"title": facts[0], "sent_id": facts[1]},
        "context": {"title": context[0], "sentences": context[1]},
    }


def json_form(own):
    """Return a record in the columns of xanhho/2WikiMultihopQA, which hold JSON."""
    nested = ("context", "supporting_facts", "evidences")
    return {name: json.dumps(own[name]) if name in nested else own[name] for name in own}


def forms(path, folder):
    """Yield the records of a file in other forms: records in memory, and files of each kind."""
    records = read_records(path)
    yield [hub_form(own) for own in records]
    yield [json_form(own) for own in records]
    yield [
        {**own, "context": [{"title": t, "sentences": s} for t, s in own["context"]]}
        for own in records
    ]
    lines = folder / "lines.jsonl"
    lines.write_text("\n".join(json.dumps(hub_form(own)) for own in records))
    yield lines
    for name, form in (("json.csv", json_form), ("python.csv", hub_form)):
        table = folder / name
        with table.open("w", encoding="utf-8", newline="") as file:
            rows = [form({"evidences": [], **own}) for own in records]
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        yield table


@pytest.mark.parametrize(
    ("make", "path", "search"),
    [
        (hotpot_qa, HOTPOT, 40),
        (two_wiki, WIKI, 40),
        pytest.param(
            *(hotpot_qa, REAL_HOTPOT, 10),
            marks=pytest.mark.skipif(not REAL_HOTPOT.exists(), reason="not here"),
        ),
    ],
)
def test_all_forms_of_a_data_set_are_the_same_questions(tmp_path, make, path, search):
    """The original, the Hub's columns, and tables: questions, gold, answers and split."""
    original = make(path, search=search)
    for form in forms(path, tmp_path):
        other = make(form, search=search)
        assert (other.search, other.held_out) == (original.search, original.held_out)
        assert other.left_out == {}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")
@pytest.mark.parametrize("form", [hub_form, json_form])
def test_parquet_files_are_the_same_questions(tmp_path, form):
    """As the Hub stores them."""
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "validation.parquet"
    rows = [form(own) for own in read_records(WIKI)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert two_wiki(path).search == two_wiki(WIKI).search


@pytest.mark.skipif(not REAL_HOTPOT.exists(), reason="HotpotQA's records are not here")
def test_titles_name_the_subjects_of_paragraphs():
    """Of the original's gold paragraphs, some do not: without titles, who is meant is lost."""
    named = {}
    for titles in (True, False):
        questions = everything(hotpot_qa(REAL_HOTPOT, search=10, titles=titles))
        for own in read_records(REAL_HOTPOT):
            (question,) = [q for q in questions if q.id == own["_id"]]
            shown = [question.passages[number - 1] for number in question.gold]
            for title in {title for title, _ in own["supporting_facts"]}:
                named.setdefault(titles, []).append(any(title in text for text in shown))
    assert all(named[True])
    assert not all(named[False])


def test_unusable_records_are_left_out_and_counted(tmp_path):
    """By default an error lists them; both also for lines that cannot be read."""
    good = [record(f"{n}?") for n in range(8)]
    bad = [
        record("a?", answers=[]),
        record("b?", gold="z"),
        {"question": "c?"},
        record("d?", gold="y"),
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, [*good, *bad])) + "\n{")
    with pytest.raises(DataError, match=r"5 of 13 records cannot be used:\nRecord 8: ") as caught:
        two_wiki(path, search=4)
    assert str(caught.value).count("\nRecord ") == 5
    benchmark = two_wiki(path, search=4, skip_unusable=True)
    assert {q.question for q in everything(benchmark)} == {f"{n}?" for n in range(8)}
    assert sum(benchmark.left_out.values()) == 5
    assert benchmark.left_out["every passage of `ctxs_gt` must be in `ctxs_candidate`"] == 2
    assert "2 left out: every passage" in repr(benchmark)


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
    # One of two is right, one is out of range, one named again, and one is no number, which is out
    # of range, too: F1 = 2 * 1 / (2 + 2).
    ("finder", "two?"): "Answer: [3, 9, 4, 3, the last]",
    # No list: malformed.
    ("finder", "three?"): "Passage [4] helps.",
    # Nothing is chosen.
    ("finder", "four?"): "Answer: none",
    ("sayer", "one?"): "It is in the passages.\n**Answer: paris.**",
    # Words "river po" against "po": F1 = 2 * 1 / (2 + 1), and contained.
    ("sayer", "two?"): "Answer: The river Po",
    # Words "ann smith" against "ann lee": F1 = 2 * 1 / (2 + 2); "lee" is not there.
    ("sayer", "three?"): "Answer: Ann Smith",
    # Words "yes both of" against "yes": F1 = 2 * 1 / (3 + 1), but nothing by HotpotQA's rule.
    ("sayer", "four?"): "Answer: yes, both of",
}
BY_HAND = {
    "one?": (1, 1, 1, 1, 0.8, 0, 0, 0),
    "two?": (0, 2 / 3, 2 / 3, 1, 0.5, 2, 1, 1),
    "three?": (0, 0.5, 0.5, 0, 0, 0, 0, 0),
    "four?": (0, 0, 0.5, 1, 0, 0, 0, 0),
}
NAMES = (
    "exact match",
    "HotpotQA F1",
    "SQuAD F1",
    "answer contained",
    "retrieval F1",
    "ids out of range",
    "ids repeated",
    "replies read in part",
)


def scripted(name):
    """Reply with the script's text for the question of a prompt."""

    def reply(request):
        prompt = request.messages[-1].content
        (question,) = [q["question"] for q in QUESTIONS if f"Question: {q['question']}" in prompt]
        return Completion(REPLIES[name, question], Usage(50, 5))

    return ScriptedChatModel(reply)


@pytest.mark.parametrize("metric", NAMES[:4])
def test_metrics_are_as_computed_by_hand(served, metric):
    """On four questions with scripted replies; three samples that agree score as one does."""
    benchmark = two_wiki(QUESTIONS, search=4, metric=metric, **SMALL)
    chats = {name: scripted(name) for name in ("finder", "sayer")}
    with benchmark.objective(served(chats)) as objective:
        # The first two settle a vote of three on passages.
        for samples, factor in ((1, 1), (3, 2)):
            allocation = {"retrieval": ("finder", samples), "answer": ("sayer", samples)}
            evaluation = objective.evaluate(allocation)
            for q in benchmark.search:
                result = evaluation.results[q.id]
                expected = dict(zip(NAMES, BY_HAND[q.question]))
                for name in NAMES[5:]:
                    # Counts are those of all drawn samples together.
                    expected[name] *= factor
                assert dict(result.metrics) == pytest.approx(expected)
                assert result.outcome == pytest.approx(expected[metric])
                assert not result.failed
            assert evaluation.malformed == 1 * samples
    # Two samples of three choices settle them; the malformed one is drawn three times.
    assert len(chats["finder"].requests) == 3 * 2 + 3
    # Fusions draw all three samples of four answers, and what agrees is not fused.
    assert len(chats["sayer"].requests) == 4 * 3


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
        benchmark = replace(benchmark, held_out=benchmark.held_out[:8])
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
    benchmark = passage_benchmark("mine", path, search=3, metric="SQuAD F1")
    assert (benchmark.task.name, benchmark.task.metric) == ("mine", "SQuAD F1")
    assert (len(benchmark.search), len(benchmark.held_out)) == (3, 1)
