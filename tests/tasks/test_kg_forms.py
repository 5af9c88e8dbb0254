"""CWQ and WebQSP in the forms that people have: the same questions, and what is left out."""

import copy
import csv
import json
import logging
import pickle
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tasks_support import allocated, as_competent, everything

from optuna_agenttts import Model
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.tasks import sample_path
from optuna_agenttts_integrations.tasks.answering import parse_answers, split_answers
from optuna_agenttts_integrations.tasks.kg_qa import TripleQuestion, cwq, web_qsp

DATA = Path(__file__).parents[3] / "shared" / "data"
ORIGINAL = DATA / "webqsp_original_20.json"
PAPER = DATA / "cwq_100.json"


def graph(rng, size=40):
    """Return a random graph over few entities, in RoG's form."""
    names = [f"Entity {letter}" for letter in "ABCDEFGHIJ"]
    return [[rng.choice(names), f"r.{rng.choice('st')}", rng.choice(names)] for _ in range(size)]


def rog_records(count=12):
    """Return records in RoG's columns."""
    rng = random.Random(1)
    return [
        {
            "id": f"Test-{number}",
            "question": f"Which entity is number {number}?",
            "answer": ["Entity A", "Entity B"][: 1 + number % 2],
            "q_entity": ["Entity C"],
            "a_entity": ["Entity A", "Entity B"][: 1 + number % 2],
            "graph": graph(rng),
            "choices": [],
        }
        for number in range(count)
    ]


def original_web_qsp(record):
    """Return a record of WebQSP's file for one in RoG's columns."""
    answers = [
        {"AnswerType": "Entity", "AnswerArgument": f"m.{name[-1]}", "EntityName": name}
        for name in record["answer"]
    ]
    comment = {"ParseQuality": "Complete", "QuestionQuality": "Good"}
    return {
        "QuestionId": record["id"],
        "RawQuestion": record["question"],
        "Parses": [{"AnnotatorComment": comment, "Answers": answers}],
    }


def original_cwq(record, aliases=()):
    """Return a record of CWQ's file for one in RoG's columns."""
    return {
        "ID": record["id"],
        "question": record["question"],
        "answers": [
            {"answer_id": f"m.{name[-1]}", "answer": name, "aliases": list(aliases)}
            for name in record["answer"]
        ],
        "compositionality_type": "composition",
    }


def scores(make, source, **options):
    """Return the scores of models that are right half of the time."""
    model = {
        "retrievers": [Model("reader-7B", parameters=7e9)],
        "answerers": [Model("writer-8B", parameters=8e9)],
    }
    benchmark = make(source, search=8, **model, **options)
    with benchmark.objective(as_competent(benchmark, 0.5)) as objective:
        found = objective.evaluate(allocated(benchmark, 2))
    return found.outcomes, found.metrics


@pytest.fixture
def forms(tmp_path):
    """Return the same records as a list and as files of each form."""
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    records = rog_records()
    paths = {name: tmp_path / f"rog.{name}" for name in ("json", "jsonl", "csv", "parquet")}
    paths["json"].write_text(json.dumps(records), "utf-8")
    paths["jsonl"].write_text("\n".join(map(json.dumps, records)), "utf-8")
    with paths["csv"].open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)
    parquet.write_table(pyarrow.Table.from_pylist(records), paths["parquet"])
    return {"list": records, **paths}


@pytest.mark.parametrize("make", [cwq, web_qsp])
def test_files_of_all_forms_are_the_same_questions(make, forms):
    """Lists in JSON, JSON lines and Parquet, and as Python prints them in CSV."""
    found = {name: everything(make(source, search=8)) for name, source in forms.items()}
    assert all(questions == found["list"] for questions in found.values())
    assert any(question.gold for question in found["list"])


def test_hub_and_original_are_the_same_questions_and_scores(forms):
    """The original files have no triples: they are those of the Hub's records with their ids."""
    records = forms["list"]
    for make, original in ((cwq, original_cwq), (web_qsp, original_web_qsp)):
        originals = {"Questions": list(map(original, records))}["Questions"]
        hub = everything(make(records, search=8))
        assert everything(make(originals, graphs=records, search=8)) == hub
        assert everything(make(originals, graphs=forms["parquet"], search=8)) == hub
        first, second = scores(make, records), scores(make, originals, graphs=records)
        assert first == second


def test_a_data_set_of_the_hub_is_the_same_questions(data_sets, forms):
    """Also with graphs from the Hub, whose revision is named in their source."""
    data_sets.records = forms["list"]
    expected = everything(cwq(forms["list"], search=8))
    assert everything(cwq("hf:a/b@v1", search=8)) == expected
    originals = list(map(original_cwq, forms["list"]))
    assert everything(cwq(originals, graphs="hf:a/b@v2", search=8)) == expected
    assert [asked[-1]["revision"] for asked in data_sets.asked] == ["v1", "v2"]


def test_questions_without_graphs_name_the_remedy():
    records = rog_records(3)
    with pytest.raises(
        DataError, match=r"no field `crucial_triples`.*graphs='hf:rmanluo/RoG-cwq'"
    ):
        cwq(list(map(original_cwq, records)), search=1)
    with pytest.raises(
        DataError, match=r"`graphs` must have a record for each .*none for 'Test-2'"
    ):
        cwq(list(map(original_cwq, records)), graphs=records[:2], search=1)


def test_aliases_are_accepted_and_stay_with_their_entity():
    """In CWQ's form, and in the columns that `datasets` makes of it."""
    record = original_cwq(rog_records(2)[1], aliases=["Alias", "Other"])
    columns = {
        name: [answer[name] for answer in record["answers"]]
        for name in ("answer", "aliases", "answer_id")
    }
    for answers in (record["answers"], columns, json.dumps(record["answers"])):
        benchmark = cwq([{**record, "answers": answers}], graphs=rog_records(2), search=1)
        (question,) = benchmark.search
        assert question.answers == ("Entity A", "Alias", "Other", "Entity B")
        assert question.gold_sets == (
            (("Entity A", "Alias", "Other"), ("Entity B", "Alias", "Other")),
        )
    unnamed = [{"answer_id": "m.0x", "answer": None, "aliases": []}]
    benchmark = cwq([{**record, "answers": unnamed}], graphs=rog_records(2), search=1)
    assert benchmark.search[0].answers == ("m.0x",)


def test_each_parse_is_a_complete_answer():
    """Equal parses count once, and those without answers not at all."""
    record = original_web_qsp(rog_records(2)[0])
    named = record["Parses"][0]
    other = {"Answers": [{"AnswerType": "Value", "AnswerArgument": "1869", "EntityName": None}]}
    record["Parses"] = [named, {"Answers": []}, other, named]
    (question,) = web_qsp([record], graphs=rog_records(1), search=1).search
    assert question.answers == ("Entity A", "1869")
    assert question.gold_sets == ((("Entity A",),), (("1869",),))


def test_records_without_answers_are_listed_or_left_out(caplog):
    """The error names the first five and the remedy."""
    originals = list(map(original_web_qsp, rog_records(12)))
    for record in originals[:7]:
        record["Parses"][0]["Answers"] = []
    with pytest.raises(DataError) as error:
        web_qsp(originals, graphs=rog_records(12), search=2)
    text = str(error.value)
    assert "7 of 12 records cannot be used" in text
    assert [f"Record {number}: the answers in `Parses`" in text for number in range(7)] == [
        *[True] * 5,
        False,
        False,
    ]
    assert "skip_unusable=True" in text
    with caplog.at_level(logging.WARNING):
        benchmark = web_qsp(originals, graphs=rog_records(12), search=2, skip_unusable=True)
    assert len(everything(benchmark)) == 5
    assert sum(benchmark.left_out.values()) == 7
    assert "7 of 12 records" in caplog.text


@pytest.mark.parametrize("name", ["answer", "crucial_triples", "gt_triples", "2hop_triples"])
def test_texts_of_lists_that_are_cut_off_are_no_lists(name):
    """A table that was cut gives no answers of half a list, and no triples that fail later."""
    records = json.loads(sample_path("cwq.json").read_text("utf-8"))
    for record in records:
        record.update({key: str(v) for key, v in record.items() if isinstance(v, list)})
    whole = cwq(records, search=5)
    records[3][name] = records[3][name][:-4] + "x"
    cut = cwq(records, search=5, skip_unusable=True)
    assert len(everything(cut)) == len(everything(whole)) - 1
    (reason,) = cut.left_out
    assert f"`{name}`" in reason


@pytest.mark.skipif(not ORIGINAL.exists(), reason="the original records are not there")
def test_original_web_qsp_loads():
    """Every parse's answers are accepted, by name."""
    records = json.loads(ORIGINAL.read_text("utf-8"))["Questions"]
    graphs = [
        {
            "id": record["QuestionId"],
            "graph": [["a", "r", "b"]],
            "q_entity": ["a"],
            "a_entity": ["b"],
        }
        for record in records
    ]
    questions = {q.id: q for q in everything(web_qsp(ORIGINAL, graphs=graphs, search=10))}
    assert len(questions) == len(records) == 20
    for record in records:
        names = {
            answer["EntityName"] or answer["AnswerArgument"]
            for parse in record["Parses"]
            for answer in parse["Answers"]
        }
        assert set(questions[record["QuestionId"]].answers) == names
        assert questions[record["QuestionId"]].gold == (1,)


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's file is not there")
def test_the_papers_file_is_the_same_as_a_table(tmp_path):
    """Lists of triples as texts, as in CSV, and as columns of Parquet."""
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    records = json.loads(PAPER.read_text("utf-8"))[:20]
    names = ("ID", "question", "answer", "crucial_triples", "gt_triples", "2hop_triples")
    records = [{name: record[name] for name in names} for record in records]
    path = tmp_path / "cwq.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    expected = everything(cwq(records, search=5))
    assert everything(cwq(path, search=5)) == expected
    texts = [{n: v if n == "question" else str(v) for n, v in r.items()} for r in records]
    assert everything(cwq(texts, search=5)) == expected


def test_graphs_are_read_when_a_question_is_used(forms):
    """A question knows its text and answers without; then it equals one that was made whole."""
    (question, *_) = everything(web_qsp(forms["parquet"], search=8))
    assert question.overlap_key.startswith("which entity is number")
    assert "triples" not in vars(question)
    whole = TripleQuestion(
        id=question.id,
        question=question.question,
        triples=question.triples,
        gold=question.gold,
        answers=question.answers,
        answer_sets=question.answer_sets,
    )
    assert "triples" in vars(question)
    assert question == whole
    assert hash(question) == hash(whole)
    for make in (copy.deepcopy, copy.copy, lambda value: pickle.loads(pickle.dumps(value))):
        other = everything(web_qsp(forms["parquet"], search=8))[0]
        assert make(other) == whole
    assert replace(question, question="Else?").triples == whole.triples
    with pytest.raises(AttributeError, match="no attribute 'tripels'"):
        question.tripels  # noqa: B018


def test_a_bad_graph_of_a_table_is_named_when_it_is_used(tmp_path):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    records = rog_records(3)
    records[0]["graph"][1] = ["a", "b"]
    with pytest.raises(DataError, match=r"Record 0: `graph\[1\]` must be three strings"):
        cwq(records, search=1)
    path = tmp_path / "rog.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    questions = {question.id: question for question in everything(cwq(path, search=1))}
    assert questions["Test-1"].triples
    with pytest.raises(DataError, match=r"Record 0: `graph\[1\]` must be three strings"):
        questions["Test-0"].triples  # noqa: B018


def test_reading_a_graph_takes_about_the_time_of_parsing_it_as_json(tmp_path):
    """RoG's graphs have about 4,000 triples: 2 to 6 ms for JSON, 3 to 5 ms for a question."""
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    rng = random.Random(2)
    names = [f"entity number {number}" for number in range(2000)]
    records = rog_records(20)
    for record in records:
        record["q_entity"], record["a_entity"] = [names[1]], [names[300]]
        record["graph"] = [
            [rng.choice(names[:20]), f"r.{rng.randrange(50)}", rng.choice(names)]
            for _ in range(4000)
        ]
    path = tmp_path / "rog.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    text = json.dumps([record["graph"] for record in records])

    def seconds(function):
        started = time.process_time()
        function()
        return time.process_time() - started

    unit = min(seconds(lambda: json.loads(text)) for _ in range(3))
    for source in (records, path):
        loads, uses = [], []
        for _ in range(3):
            found = []
            loads.append(seconds(lambda: found.extend(everything(cwq(source, search=8)))))  # noqa: B023
            uses.append(seconds(lambda: [question.triples for question in found]))  # noqa: B023
        assert min(loads) < unit
        assert min(uses) < 4 * unit


def test_search_and_held_out_differ_in_more_than_typography():
    """The same question in other letters and marks is one question."""
    records = rog_records(4)
    records[1]["question"] = "which ENTITY is number 0 ??"
    assert len(everything(cwq(records, search=1))) == 3


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("Answer: Lake Victoria; Lake Tana", ["Lake Victoria", "Lake Tana"]),
        ("Answer: Lake Victoria", ["Lake Victoria"]),
        ("Answer: London, Ontario", ["London, Ontario"]),
        ("**Answer:** Lake Victoria | Lake Tana", ["Lake Victoria", "Lake Tana"]),
        ('Answer: ["Lake Victoria", "Lake Tana"]', ["Lake Victoria", "Lake Tana"]),
        (
            '```json\n{"answer": ["Lake Victoria", "Lake Tana"]}\n```',
            ["Lake Victoria", "Lake Tana"],
        ),
        ("Answer:\n- Lake Victoria\n- Lake Tana\n\nThat is all.", ["Lake Victoria", "Lake Tana"]),
        ("Answer:\n1. Lake Victoria\n2. **Lake Tana**", ["Lake Victoria", "Lake Tana"]),
        ("\\boxed{Lake Victoria; Lake Tana}", ["Lake Victoria", "Lake Tana"]),
        ("<think>Answer: no</think>Answer: 1869", ["1869"]),
        (
            '{"why": "x", "answers": ["Lake Victoria", "Lake Tana"]}',
            ["Lake Victoria", "Lake Tana"],
        ),
        ('Answer: {"answers": ["Lake Victoria", "Lake Tana"]}', ["Lake Victoria", "Lake Tana"]),
        ("Answer: ['Lake Victoria', 'Lake Tana']", ["Lake Victoria", "Lake Tana"]),
        ("**Answer:**\n\n* **Lake Victoria**\n* Lake Tana", ["Lake Victoria", "Lake Tana"]),
        ('```json\n["Lake Victoria", "Lake Tana"]\n```', ["Lake Victoria", "Lake Tana"]),
        ("Answer: Lake Victoria\u3001Lake Tana", ["Lake Victoria", "Lake Tana"]),
        ("The answer is Lake Victoria; Lake Tana.", ["Lake Victoria", "Lake Tana"]),
        (
            '{"answers": [{"name": "Lake Victoria"}, {"name": "Lake Tana"}]}',
            ["Lake Victoria", "Lake Tana"],
        ),
        ("There is none.", None),
        ("Answer:", None),
    ],
)
def test_all_answers_of_a_reply_are_read(text, answers):
    found = parse_answers(text, None)
    assert (None if found is None else split_answers(found)) == answers


@pytest.mark.parametrize("metric", ["answer-set F1", "RoG F1"])
@pytest.mark.parametrize(("make", "name"), [(cwq, "cwq.json"), (web_qsp, "web_qsp.json")])
@pytest.mark.parametrize("fusion", [True, False])
def test_metrics_of_sets_ask_for_all_answers(metric, make, name, fusion):
    """Models that are always right make 1; for other metrics, they are asked for one answer."""
    records = json.loads(sample_path(name).read_text("utf-8"))[::5]
    benchmark = make(records, search=10, metric=metric, fusion=fusion)
    prompt = benchmark.pipeline.programs[-1].messages(
        State(benchmark.search[0], {"retrieval": None})
    )
    assert "lists all answers" in prompt[-1].content
    with benchmark.objective(as_competent(benchmark, 1.0)) as objective:
        found = objective.evaluate(allocated(benchmark, 3))
    assert found.metrics["answer-set F1"] == 1
    assert found.mean == found.metrics[metric]
    assert found.mean == 1 or metric == "RoG F1"
    other = make(records, search=10).pipeline.programs[-1]
    asked = other.messages(State(benchmark.search[0], {"retrieval": None}))[-1].content
    assert "gives the answer" in asked
