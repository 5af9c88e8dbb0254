"""Records of data sets: what is read, and what is refused with a reason."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import zipfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks import chat_dev, cwq, hotpot_qa, task_bench
from optuna_agenttts_integrations.tasks.records import (
    get_field,
    get_texts,
    nested,
    question_key,
    read_each,
    read_records,
    sample_path,
    split_instances,
)

RECORDS = [
    {"question": "who?", "answers": ["M\u00e4rta \u4e2d\u2028\U0001f600"]},
    {"question": "b"},
]


def write(folder, name, content):
    """Write a file with a content, text or bytes."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_in_all_its_forms_reads_the_same(tmp_path, mark, escaped):
    """A list, an object around one, JSON lines with blank ones; with a byte order mark or not."""
    one, *_ = lines = [json.dumps(record, ensure_ascii=escaped) for record in RECORDS]
    whole = f"[{', '.join(lines)}]"
    for name, content in (
        ("a.json", whole),
        ("b.json", f'{{"version": 1, "tags": ["x"], "data": {whole}}}'),
        ("c.jsonl", "\n\n".join(lines) + "\n\n"),
        ("d.json", "\r\n".join(lines)),
    ):
        assert read_records(write(tmp_path, name, mark + content)) == RECORDS
    # One record is an object as well as a line.
    for name in ("e.json", "e.jsonl"):
        assert read_records(str(write(tmp_path, name, mark + one))) == RECORDS[:1]
    nested = '{"id": 1, "nodes": [{"a": 1}]}'
    assert read_records(write(tmp_path, "f.jsonl", nested)) == [json.loads(nested)]
    columns = '{"question": ["a"], "answer": ["b"], "nodes": []}'
    assert read_records(write(tmp_path, "g.json", columns)) == [json.loads(columns)]


def zipped(**files):
    """Return a ZIP archive of files by name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_", "."), text)
    return content.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_read_as_those_inside(tmp_path, pack):
    """By content, whatever the name; a ZIP archive has one file, apart from a system's own."""
    whole, table = json.dumps(RECORDS), "question\nwho?\n"
    for name, text in (
        ("a.json.gz", whole),
        ("a.json", whole),
        ("a.jsonl.GZ", "\n".join(map(json.dumps, RECORDS))),
    ):
        assert read_records(write(tmp_path, name, pack(text.encode()))) == RECORDS
    assert read_records(write(tmp_path, "a.csv.xz", pack(table.encode()))) == [
        {"question": "who?"}
    ]
    assert read_records(write(tmp_path, "a.zip", zipped(a_json=whole))) == RECORDS
    with pytest.raises(DataError, match=r"ZIP archive of a.json, b.json; unpack"):
        read_records(write(tmp_path, "b.zip", zipped(a_json=whole, b_json=whole)))


def test_documents_of_all_kinds_read_the_same(tmp_path):
    """Objects of records, of columns and of both, pages of the Hub's viewer, objects in a row."""
    records = [{"id": "x7", "question": "who?"}, {"id": "y", "question": "b"}]
    names = list(records[0])
    columns = {name: [record[name] for record in records] for name in names}
    rows = [{"row_idx": 0, "row": record, "truncated_cells": []} for record in records]
    for number, document in enumerate(
        (
            {"data": {"dev": records}},
            {record["id"]: record for record in records},
            columns,
            {name: dict(enumerate(values)) for name, values in columns.items()},
            {"columns": names, "index": [0, 1], "data": [list(r.values()) for r in records]},
            {"features": [{"name": "id"}], "rows": rows, "partial": False},
            rows,
        )
    ):
        path = write(tmp_path, f"{number}.json", json.dumps(document))
        assert read_records(path) == records, document
    with_bom = write(
        tmp_path, "tools.json", "\ufeff" + sample_path("task_bench_tools.json").read_text()
    )
    load = partial(task_bench, sample_path("task_bench.json"), search=5)
    assert load(tools=with_bom).search == load(tools=sample_path("task_bench_tools.json")).search
    written = "\n".join(json.dumps(record, indent=2) for record in records)
    for name in ("a.json", "a.jsonl"):
        assert read_records(write(tmp_path, name, written)) == records
    rows[1]["truncated_cells"] = ["question"]
    path = write(tmp_path, "cut.json", json.dumps({"features": [], "rows": rows}))
    with pytest.raises(DataError, match=r"record 1: the Hub's viewer has cut question; download"):
        read_records(path)


def test_tables_of_libraries_read_as_their_records(tmp_path):
    """Those of pandas and `datasets`, with splits or without, and Arrow files."""
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    records = [{"id": "x", "question": "who?"}, {"id": "y", "question": "b"}]
    table = datasets.Dataset.from_list(records)
    splits = datasets.DatasetDict(test=table, train=table.select([0]))
    assert read_records(pandas.DataFrame(records)) == read_records(table) == records
    assert read_records(splits) == records
    assert read_records(splits, split="train") == records[:1]
    table.save_to_disk(str(tmp_path))
    (path,) = tmp_path.glob("*.arrow")
    assert read_records(path) == records


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_keeps_quotes_and_line_breaks(tmp_path, mark):
    """In quoted fields both are part of the text, and no other character ends a row."""
    content = 'name,text\n"a ""b""","one,\ntwo"\nc,d\u2028e\x85f\n\n'
    expected = [{"name": 'a "b"', "text": "one,\ntwo"}, {"name": "c", "text": "d\u2028e\x85f"}]
    for ends in ("\n", "\r\n"):
        path = write(tmp_path, "a.CSV", mark + content.replace("\n", ends))
        assert read_records(path) == expected


def test_csv_of_spreadsheets_reads_the_same(tmp_path, caplog):
    """Other delimiters and encodings, the latter with a warning if it is a guess; long fields."""
    expected = [{"name": "M\u00e4rta", "text": "x" * 200_000}]
    for delimiter, encoding, warned in (
        (",", "utf-8", 0),
        (";", "utf-16", 0),
        ("\t", "utf-8-sig", 0),
        (";", "cp1252", 1),
    ):
        lines = (delimiter.join(values) for values in (expected[0], expected[0].values()))
        caplog.clear()
        assert (
            read_records(write(tmp_path, "a.csv", "\n".join(lines).encode(encoding))) == expected
        )
        assert len(caplog.records) == warned


@pytest.mark.slow
@pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")
def test_parquet_keeps_nested_values(tmp_path):
    """As JSON does; without the library, the message says how to get it."""
    import pyarrow
    from pyarrow import parquet

    records = [{"q": "a", "context": {"title": ["A"], "sentences": [["x", "y"]]}}, {"q": "b"}]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    assert read_records(path) == [records[0], {"q": "b", "context": None}]
    with pytest.raises(DataError, match="cannot be read"):
        read_records(write(tmp_path, "b.parquet", b"PAR1"))


def test_without_parquet_the_message_says_how_to_get_it(monkeypatch):
    """And which files need no library."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"pip install 'optuna-agenttts\[datasets\]', or give JSON"
    ):
        read_records("a.parquet")


def odd(record, number):
    """Return the number of a record; refuse even ones."""
    if record["n"] % 2 == 0:
        raise DataError(f"Record {number}: field 'n' must be odd, got {record['n']}. Correct it.")
    return record["n"]


def test_all_records_are_read_before_an_error_lists_the_first_five(tmp_path, caplog):
    """With the count of all, and the remedy; those that cannot be read are among them."""
    lines = [json.dumps({"n": n}) for n in range(13)]
    path = write(tmp_path, "a.jsonl", "\n".join([*lines, "{", "3", '{"n": "\\ud83d"}']))
    records = read_records(path, keep_unreadable=True)
    with pytest.raises(DataError) as caught:
        read_each(records, odd, source=path, skip_unusable=False)
    first, *listed, more, remedy = str(caught.value).split("\n")
    assert first == f"`source` {str(path)!r}: 10 of 16 records cannot be used:"
    assert listed[1] == "Record 2: field 'n' must be odd, got 2. Correct it."
    assert (len(listed), more) == (5, "... and 5 more.")
    assert remedy == "Correct them, or leave them out with `skip_unusable=True`."
    read, left_out = read_each(records, odd, source=path, skip_unusable=True)
    assert read == [1, 3, 5, 7, 9, 11]
    assert left_out == {
        "field 'n' must be odd": 7,
        "line N is invalid JSON": 1,
        "must be an object with named fields": 1,
        "a string has an unpaired surrogate and cannot be encoded as UTF-8": 1,
    }
    assert "10 of 16 records" in caplog.text
    assert "7 x field 'n' must be odd; 1 x line N" in caplog.text
    assert read_each([{"n": 1}], odd, source=[], skip_unusable=False) == ([1], {})
    for skip in (True, False):
        with pytest.raises(DataError, match=r"1 of 1 records cannot(?s:.*)Correct them.$"):
            read_each([{"n": 2}], odd, source=[], skip_unusable=skip)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "", "has no records"),
        ("a.json", "[]", "has no records"),
        ("a.json", "{}", None),
        ("a.json", '{"data": []}', "has no records"),
        ("a.json", "[1, 2]", "record 0 must be an object with named fields, got a int"),
        ("a.json", '[{"a": 1}, null]', "record 1 must be .*got a NoneType"),
        ("a.json", '"text"', "record 0 must be .*got a str"),
        ("a.json", '[{"a": 1}', "invalid JSON"),
        ("a.json", "[" * 100_000, "invalid JSON"),
        ("a.jsonl", '{"a": 1}\n\n{"a": ', "line 3 is invalid JSON"),
        ("a.jsonl", "[" * 100_000, "line 1 is invalid JSON"),
        ("a.jsonl", "\n\n", "has no records"),
        ("a.json", b"\xff{}", "cannot be read"),
        ("a.json", '[{"a": 1}, {"a": "\\ud83d"}]', "record 1: a string has an unpaired surrogate"),
        ("a.csv", "", "has no records"),
        ("a.csv", "a,b\n", "has no records"),
        ("a.csv", "a,b\n1,2\n3\n", "line 3 and the header differ"),
        ("a.csv", "a,b\n1,2,3\n", "line 2 and the header differ"),
        ("a.csv", 'a,b\n"1,2\n', "unexpected end"),
        ("a.csv", b"a,b\n\x81,1\n", "cannot be read"),
        ("a.zip", b"PK\x03\x04", "not a zip file"),
        ("a.json.gz", b"\x1f\x8b\x08", "ended before"),
        ("a.json", '{"train": [{"a": 1}], "dev": [{"a": 2}]}', "lists of records: train, dev"),
        ("a.json", b"PAR1", "rename it to end in .parquet"),
        ("a.json", "version https://git-lfs.github.com/spec/v1\noid ", "`git lfs pull`"),
    ],
)
def test_files_that_hold_no_records_are_refused(tmp_path, name, content, says):
    """The message names the file and what is wrong with it."""
    path = write(tmp_path, name, content)
    if says is None:
        assert read_records(path) == [{}]
        return
    with pytest.raises(DataError, match=says) as caught:
        read_records(path)
    assert str(path) in str(caught.value)


def test_sources_that_are_nothing_to_read_are_refused(tmp_path):
    """Missing files, folders, impossible names, and values of other kinds."""
    for source in (tmp_path, tmp_path / "none.json", "a\0b", ""):
        with pytest.raises(DataError, match="cannot be read"):
            read_records(source)
    with pytest.raises(DataError, match="is a URL: download it"):
        read_records("https://127.0.0.1/a.json")
    for source in (None, 7, b"a.json", {"question": "a"}, io.StringIO("{}")):
        with pytest.raises(DataError, match="must be a file or a list"):
            read_records(source)
    for source in ([], (), iter(())):
        with pytest.raises(DataError, match="no records"):
            read_records(source)
    with pytest.raises(DataError, match=r"record 0 must be .*got a list"):
        read_records([["a"]])
    assert read_records(iter(RECORDS)) == RECORDS


def test_fields_are_found_under_any_of_their_names():
    """Of the right type and not blank; otherwise the message says what is there instead."""
    record = {"a": None, "b": "x", "c": 3, "d": " ", "e": [], "n": float("nan")}
    assert get_field(record, 4, ("a", "b"), str) == "x"
    assert get_field(record, 4, "e", list) == []
    for names, says in (
        ("z", "Record 4: field 'z' must be a non-empty string, but the record has only a, b"),
        ("c", "'c' is 3"),
        (("d", "n"), "'d' is ' ' and 'n' is nan"),
    ):
        with pytest.raises(DataError, match=says):
            get_field(record, 4, names, str)


@pytest.mark.parametrize(
    ("load", "right"),
    [
        (
            partial(task_bench, tools=[{"id": "t", "desc": "d", "parameters": []}]),
            "TaskBench's data.json",
        ),
        (hotpot_qa, "hotpot_dev_distractor_v1.json"),
        (chat_dev, "tasks.json"),
        (cwq, "hf:rmanluo/RoG-cwq"),
    ],
)
def test_files_of_another_family_are_refused_with_the_right_ones(load, right):
    """Also files of the same repository, such as TaskBench's user_requests.json."""
    with pytest.raises(DataError, match=rf"id, user_request(?s:.*){right}"):
        load([{"id": "1", "user_request": "a"}])


def test_texts_are_stripped_and_named_once():
    """A text alone is a list of one; empty ones and repetitions go."""
    assert get_texts({"a": " x "}, 0, "a") == ("x",)
    assert get_texts({"a": ["x", " x", "", "y"]}, 0, ("b", "a")) == ("x", "y")
    for value in ("", [], [""], [" ", "\n"], ["x", None], [1], 1, float("nan"), None, {"a": "b"}):
        with pytest.raises(DataError, match="field 'a' must be a non-empty string or a list"):
            get_texts({"a": value}, 0, "a")


def test_nested_values_of_tables_are_read():
    """JSON, what Python prints, and arrays; other texts stay."""
    value = [["A", ["x", "y"]], ["B's", []]]
    for text in (json.dumps(value), repr(value), value, np.array([["A", "x"]])):
        expected = [["A", "x"]] if isinstance(text, np.ndarray) else value
        assert nested(text) == expected
    table = {
        "title": np.array(["A", "B's"], object),
        "sentences": np.array([["x"], ["y"]], object),
    }
    assert nested(repr(table)) == {"title": ["A", "B's"], "sentences": [["x"], ["y"]]}
    for other in (
        "text",
        "apple",
        "array(1, 2",
        "[f(1)]",
        "array([x])",
        "{" * 10_000,
        "[x",
        "[1, 2",
        "{",
        "",
        None,
        3,
    ):
        assert nested(other) == other


def test_arrays_that_numpy_prints_without_commas_keep_their_items():
    """Tables written as CSV by `datasets` have them; Python would join the strings."""
    names = ["Jaxon Bieber", "Jazmyn", "O'Neil \"x\" 'y' 'z'"]
    assert nested(str(np.array(names, object))) == names
    triples = [["a", "b", f"c {n}"] for n in range(40)]
    assert nested(str(np.array([np.array(t, object) for t in triples], object))) == triples
    entries = [{"title": "A", "sentences": ["x", "y"]}, {"title": "B", "sentences": ["z"]}]
    printed = [{**entry, "sentences": np.array(entry["sentences"], object)} for entry in entries]
    assert nested(str(np.array(printed))) == entries


def test_an_array_that_numpy_has_cut_off_is_no_list_of_texts():
    printed = str(np.array([f"answer {n}" for n in range(2000)], object))
    with pytest.raises(DataError, match="Ellipsis"):
        get_texts({"answer": nested(printed)}, 0, "answer")


def test_the_key_of_a_question_is_its_words():
    """Case, punctuation, white space and typography make no difference."""
    assert question_key("Who's  \u201cthe\u201d 1st?") == question_key("who\u2019s THE 1st")
    assert question_key("Caf\u00e9?") == question_key("Cafe\u0301") != question_key("Cafe")
    assert question_key("1 or 2?") != question_key("1 or 3?")
    assert question_key("?") == "?"


def test_splits_are_seeded_disjoint_and_without_twins():
    """Both parts together are all different instances, the first of each kind."""
    instances = [(n % 10, n) for n in range(25)]
    search, held_out = split_instances(instances, search=4, seed=3, content=lambda pair: pair[0])
    assert len(search) == 4
    assert sorted(search + held_out) == [(n, n) for n in range(10)]
    again = split_instances(instances, search=4, seed=3, content=lambda pair: pair[0])
    other = split_instances(instances, search=4, seed=4, content=lambda pair: pair[0])
    assert again == (search, held_out) != other
    assert split_instances("ab", search=2, seed=0)[1] == ()
    for wrong in (0, -1, 11, 2.5, None):
        with pytest.raises(DataError, match="integer from 1 to 10"):
            split_instances(instances, search=wrong, seed=0, content=lambda pair: pair[0])


def test_samples_are_there_and_others_are_not():
    """By their names in the package's folder, and nowhere else."""
    for name in ("hotpot_qa.json", "two_wiki.json"):
        assert len(read_records(sample_path(name))) == 60
    for name in ("none.json", "../records.py", ""):
        with pytest.raises(DataError, match=r"must be one of .*two_wiki\.json"):
            sample_path(name)


HUB = """
import json, sys
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks import hotpot_qa
from optuna_agenttts_integrations.tasks.records import read_records

plain, folder = sys.argv[1:]
records = read_records(f"hf:{folder}", split="validation")
for record, own in zip(records, json.load(open(plain)), strict=True):
    assert record["id"] == own["_id"]
    facts = record["supporting_facts"]
    pairs = [list(pair) for pair in zip(facts["title"], facts["sent_id"])]
    assert pairs == own["supporting_facts"]
assert read_records(f"hf:{folder}:default", split="validation") == records
assert read_records(f"hf:{folder}", split="train") == records[:3]
assert hotpot_qa(f"hf:{folder}", search=8).search == hotpot_qa(plain, search=8).search
for source, split in ((folder, "other"), (folder + ":other", "train"), (folder + "-not", "train")):
    try:
        read_records("hf:" + source, split=split)
    except DataError as error:
        assert "cannot be loaded" in str(error), error
    else:
        raise SystemExit("no error")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")
def test_data_sets_of_the_hub_read_as_the_files_do(tmp_path):
    """With the real library, in the Hub's form of HotpotQA, from local files and offline."""
    plain = sample_path("hotpot_qa.json")
    lines = []
    for record in json.loads(plain.read_text()):
        facts, context = zip(*record["supporting_facts"]), zip(*record["context"])
        there = {name: record[name] for name in ("question", "answer", "type", "level")}
        there["id"] = record["_id"]
        there["supporting_facts"] = dict(zip(("title", "sent_id"), map(list, facts)))
        there["context"] = dict(zip(("title", "sentences"), map(list, context)))
        lines.append(json.dumps(there))
    folder = tmp_path / "hotpot"
    folder.mkdir()
    write(folder, "validation.jsonl", "\n".join(lines))
    write(folder, "train.jsonl", "\n".join(lines[:3]))
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", HUB, str(plain), str(folder)],
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch):
    """And that a file would do."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'optuna-agenttts\[datasets\]', or give a"):
        read_records("hf:hotpotqa/hotpot_qa:distractor")


def test_real_records_read():
    """The paper's own file: a hundred questions."""
    path = Path(__file__).parents[3] / "shared" / "data" / "2wiki_100.json"
    if not path.exists():
        pytest.skip("the paper's file is not here")
    assert len(read_records(path)) == 100
