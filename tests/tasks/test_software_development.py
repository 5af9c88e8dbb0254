"""Software development: programs in replies, stages, scores, and runs inside the sandbox."""

import asyncio
import json
import math
import time
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks_support import as_competent, everything

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.llm import ChatUnavailableError, Completion, Message, Usage
from optuna_agenttts_integrations import CompletionStore, DataError, TooManyFailuresError
from optuna_agenttts_integrations.calls.embeddings import (
    HashingEmbedder,
    HuggingFaceEmbedder,
    StoredEmbedder,
)
from optuna_agenttts_integrations.exceptions import SandboxError
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion, fusion_messages
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.scoring.chatdev_metrics import (
    chatdev_code_text,
    chatdev_completeness,
    chatdev_executability,
)
from optuna_agenttts_integrations.scoring.metrics import cosine
from optuna_agenttts_integrations.scoring.sandbox import Limits, ProgramResult, Sandbox
from optuna_agenttts_integrations.tasks.programs import (
    Program,
    Run,
    Runner,
    completeness,
    format_program,
    is_unchanged_reply,
    parse_program,
    program_code,
    strip_comments,
)
from optuna_agenttts_integrations.tasks.records import sample_path
from optuna_agenttts_integrations.tasks.requirements import Software
from optuna_agenttts_integrations.tasks.software_development import chat_dev
from optuna_agenttts_integrations.tasks.software_scores import latest_program
from optuna_agenttts_integrations.testing.serving import LoopbackServer
from optuna_agenttts_integrations.testing.simulated_replies import quoted_text
from optuna_agenttts_integrations.testing.simulation import stage_instructions

SAMPLE = sample_path("software.csv")
BOX = Sandbox(limits=Limits(seconds=20))
MISSING = BOX.missing()
sandboxed = pytest.mark.skipif(MISSING is not None, reason=f"no sandbox here: {MISSING}")

LARGE = "meta-llama/Llama-3.1-70B-Instruct"
ONE_EACH = dict.fromkeys(("coding", "static_review", "dynamic_test"), (LARGE, 1))
RECORDS = [{"Name": "Sum", "Description": "Adds two numbers.", "Category": "Tools"}]


def main_py(source):
    """Return a reply with a program of one file."""
    return format_program(Program.from_files({"main.py": source}))


class Scripted:
    """Chat model with scripted replies for each stage; records the prompts."""

    def __init__(self, benchmark, **replies):
        self._marks, self._replies = stage_instructions(benchmark), replies
        self.prompts = []

    async def complete(self, request, *, seed):
        text = "\n".join(message.content for message in request.messages)
        stage = next(name for name, mark in self._marks.items() if mark in text)
        self.prompts.append((stage, text))
        said = self._replies.get(stage, "NO CHANGES")
        reply = said if isinstance(said, str) else said[(seed % len(said))]
        return Completion(reply, Usage(10, 5))

    def asked(self, stage):
        return [text for name, text in self.prompts if name == stage]


def scripted(replies, allocation=ONE_EACH, **options):
    """Evaluate one instance with a scripted model; return the evaluation and the model."""
    benchmark = chat_dev(RECORDS, search=1, **options)
    chat = Scripted(benchmark, **replies)
    with benchmark.objective(chat, progress=False) as objective:
        return objective.evaluate(allocation), chat


# What a reply may hold.


def test_a_reply_of_two_files_is_read():
    """Names, blocks and prose between them; other line ends and Markdown make no difference."""
    reply = (
        "Here it is.\n\nFILE: data/words.json\n\n```json\n[1]\n```\nAnd then:\n"
        "### FILE: `main.py`\n````python\nprint('''\n```\n''')\n````\n"
    )
    program = Program((("main.py", "print('''\n```\n''')\n"), ("data/words.json", "[1]\n")))
    assert parse_program(reply) == program
    assert parse_program(reply.replace("\n", "\r\n")) == program
    assert parse_program(reply.replace("\n", "\r")) == program
    assert hash(program) == hash(Program.from_files(dict(reversed(program.files))))


BLOCK = "```python\nx = 1\n```\n"
MAIN = f"FILE: main.py\n{BLOCK}"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "NO CHANGES",
        BLOCK,
        "```\nx = 1\n```\n",
        f"helper.py\n{BLOCK}",
        f"FILE: helper.py\n{BLOCK}",
        "FILE: main.py\n",
        "FILE: main.py\nprint(1)\n",
        "FILE: main.py\n```python\n\n```\n",
        "FILE: main.py\n```python\nprint(1)\n",
        f"FILE: main.py\n\nsome words\n{BLOCK}",
        MAIN + BLOCK,
        f"{MAIN}```python ../x.py\nx = 1\n```\n",
        MAIN + "FILE: note.md\n```\nlike so\n```bash\nls\n```\nand so\n```\n",
        *(
            f"{MAIN}FILE: {name}\n{BLOCK}"
            for name in (
                "../main.py",
                "a/../b.py",
                "..",
                "/etc/passwd.txt",
                "~/x.py",
                "./x.py",
                "a//b.py",
                ".hidden.py",
                "a/.git/x.py",
                "a\\b.py",
                "C:/x.py",
                "x.sh",
                "x.pyc",
                "x.PY ; rm",
                "two words.py",
                "caf\u00e9.py",
                "nul\0.py",
                "main.py/x.py",
                "x" * 100 + ".py",
                "a/b/c/d/e/f/g.py",
            )
        ),
        "".join(f"FILE: f{i}.py\n{BLOCK}" for i in range(1000)) + MAIN,
        "FILE: main.py\n```\n" + "x = 1\n" * 40_000 + "```\n",
        "FILE: main.py\n```\nx = '\ud800'\n```\n",
    ],
)
def test_hostile_replies_are_malformed(reply):
    """What leaves its folder, lacks main.py, has no end or is too much is no program."""
    assert parse_program(reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        f"Here is the program:\n\n{MAIN}\nRun it with\n```bash\npython main.py\n```\n",
        f"Filename: main.py\n{BLOCK}",
        f"1. **FILE: main.py**\n{BLOCK}",
        f"main.py\n{BLOCK}",
        f"### `main.py`:\n\n{BLOCK}",
        "```python:main.py\nx = 1\n```",
        '```python title="main.py"\nx = 1\n```',
        "```python\nFILE: main.py\nx = 1\n```",
        f"FILE: main.py\n```python\nx = 0\n```\nAfter the review:\n{MAIN}",
    ],
)
def test_programs_are_read_in_the_forms_that_models_write(reply):
    """Names before, at and in a block; the last of several; commands for the user aside."""
    assert parse_program(reply) == Program((("main.py", "x = 1\n"),))
    comment = "# FILE: main.py\nx = 1\n"
    assert parse_program(f"```python\n{comment}```") == Program((("main.py", comment),))


def test_a_block_without_a_name_is_a_whole_program_only_in_coding():
    """In a revision it may be a part of a file."""
    assert parse_program(f"It is:\n{BLOCK}", allow_unnamed=True) == parse_program(MAIN)
    assert parse_program(BLOCK + BLOCK, allow_unnamed=True) is None
    assert parse_program(MAIN + BLOCK, allow_unnamed=True) is None


def test_twenty_files_are_allowed():
    """The bound is what the docstring says."""
    files = "".join(f"FILE: f{i}.py\n{BLOCK}" for i in range(19))
    assert len(parse_program(files + MAIN).files) == 20
    assert parse_program(files + MAIN + f"FILE: g.py\n{BLOCK}") is None


@pytest.mark.parametrize(
    "line",
    [
        "FILE: " + "`" * 200_000 + "x",
        "FILE: " + "* " * 100_000 + "x",
        "#" * 200_000,
        "`" * 200_000,
        ("`" * 3 + "\n") * 50_000,
        "FILE: main.py\n" * 15_000,
    ],
)
def test_long_replies_are_read_in_no_time(line):
    """No pattern goes back and forth over a long line."""
    started = time.process_time()
    parse_program(line)
    is_unchanged_reply(line)
    assert time.process_time() - started < 2


names = st.from_regex(r"\A([a-z_][a-z0-9_]{0,4}/)?[a-z0-9_]{1,6}\.(py|txt|md|json)\Z")
lines = st.lists(
    st.sampled_from(
        ["x = 1", "", "```", "````python", "   ```", "    ```", "FILE: a.py", "# \u00e4"]
    )
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9),
    max_size=6,
).map("\n".join)


@settings(max_examples=200)
@given(st.dictionaries(names, lines, max_size=4), lines)
def test_what_is_shown_can_be_read(files, main):
    """A program in a prompt, its blocks inside blocks too, is read as the same program."""
    program = Program.from_files({**files, "main.py": f"x = 1\n{main}"})
    read = parse_program(format_program(program))
    assert read.files == tuple((name, text.rstrip() + "\n") for name, text in program.files)


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(["FILE: main.py", "FILE: ../x.py", "```", "```python", "````", "x", ""])
        | st.text(max_size=9),
        max_size=12,
    ).map("\n".join)
)
def test_any_reply_is_a_program_or_none(reply):
    """No reply raises an error or yields a file name outside of the folder."""
    program = parse_program(reply)
    if program is not None:
        assert program.files[0][0] == "main.py"
        assert all(".." not in name and name[0] != "/" for name, _ in program.files)
        assert program_code(program) is not None
        assert completeness(program) in (0.0, 1.0)


@pytest.mark.parametrize(
    ("reply", "unchanged"),
    [
        ("NO CHANGES", True),
        ("It is fine.\n\n**NO CHANGES.**\n", True),
        ("no changes", True),
        ("There were NO CHANGES to make", False),
        (f"NO CHANGES\n{MAIN}", False),
        ("", False),
    ],
)
def test_a_line_leaves_the_program_as_it_is(reply, unchanged):
    """The line stands alone, and next to no files."""
    assert is_unchanged_reply(reply) == unchanged


# Scores.


def test_a_program_is_complete_if_all_of_it_is():
    """One unfinished file is enough; other files and empty packages do not count."""
    done = {"main.py": "print(1)\n", "a/__init__.py": "\n", "todo.md": "TODO: pass\n"}
    assert completeness(Program.from_files(done)) == 1
    assert completeness(Program.from_files({**done, "b.py": "def f():\n    pass\n"})) == 0
    assert completeness(Program.from_files({**done, "b.py": "def f(:\n"})) == 0
    assert completeness(Program.from_files({**done, "b.py": "\n"})) == 0


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("x = 1  # one\n", "x = 1"),
        ('"""What\n# it is."""\n\nimport os\n\n\nx = "#"  # y', 'import os\nx = "#"'),
        ('def f(a):\n    """Doc."""\n    # why\n    return "a" \'b\'\n', 0),
        ('class A:\n    "One " \'two\'\n    x = """kept"""\n', 'class A:\n    x = """kept"""'),
        ('f("""\n# kept\n""")\n', 'f("""\n# kept\n""")'),
        ("a = [\n    # why\n    1,\n]\n", "a = [\n    1,\n]"),
        ("# nothing\n'''more'''\n", ""),
        ('f"""{g()}\n"""\n', 'f"""{g()}\n"""'),
        ("def f(:\n    '''open\n", "def f(:\n    '''open"),
    ],
)
def test_code_is_bare(source, bare):
    """Comments, docstrings and blank lines go, whatever looks like them in strings stays."""
    assert strip_comments(source) == (
        bare or ("def f(a):\n    return \"a\" 'b'" if bare == 0 else "")
    )


class Table:
    """Embeds the texts it knows."""

    identity = "table"

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    async def embed(self, texts):
        self.asked.append(list(texts))
        return [self.vectors[text] for text in texts]


@pytest.mark.parametrize(
    ("vector", "expected"),
    [([4.0, 3.0], 0.8), ([1.0, 0.0], 1.0), ([0.0, 2.0], 0.0), ([-1.0, 0.2], 0.0)],
)
def test_consistency_is_the_cosine_of_description_and_code(vector, expected):
    """The code without comments is compared, and the result is clipped at 0."""
    for own, chatdev in ((vector, [1.0, 0.0]), ([1.0, 0.0], vector)):
        table = Table(
            {"Adds two numbers.": [2.0, 0.0], "print(1 + 2)": own, block("print(1 + 2)"): chatdev}
        )
        evaluation, _ = scripted({"coding": main_py("# adds\nprint(1 + 2)\n")}, embedder=table)
        scores = [expected, 1.0] if own is vector else [1.0, expected]
        assert evaluation.mean == pytest.approx(scores[0])
        assert evaluation.metrics == pytest.approx(
            {
                "completeness": 1,
                "consistency": scores[0],
                "quality": scores[0],
                "ChatDev completeness": 1,
                "ChatDev consistency": scores[1],
                "ChatDev quality": scores[1],
            }
        )


def block(code):
    """Return the text of a program of one file that ChatDev's script embeds."""
    return f"main.py\n```Python\n{code}\n```"


def test_code_without_code_is_not_embedded():
    """A program of comments alone has no consistency; ChatDev's script embeds the rest of it."""
    table = Table({"Adds two numbers.": [1.0], "main.py\n```Python\n```": [1.0]})
    evaluation, _ = scripted({"coding": main_py("# nothing\n")}, embedder=table)
    assert evaluation.mean == 0
    assert evaluation.metrics["ChatDev consistency"] == 1


def test_equal_programs_are_embedded_once():
    """Vectors are kept, in memory if there is no store."""
    table = Table({text: [1.0, 0.0] for text in ("Adds two numbers.", "x = 1", block("x = 1"))})
    benchmark = chat_dev(RECORDS, search=1, embedder=table)
    chat = Scripted(benchmark, coding=main_py("x = 1\n"))
    with benchmark.objective(chat, progress=False) as objective:
        for samples in (1, 2, 3):
            objective.evaluate({**ONE_EACH, "coding": (LARGE, samples)})
    assert [set(texts) for texts in table.asked] == [set(table.vectors)]


CHATDEV = json.loads(Path(__file__).with_name("chatdev_scores.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CHATDEV)
def test_chatdevs_metrics_are_those_of_its_script(case):
    """Values of ``eval_quality.py`` for programs made up of lines on which metrics differ."""
    assert chatdev_completeness(case["files"]) == case["completeness"]
    # The script embeds "#" in place of nothing.
    assert chatdev_code_text(case["files"]) == (case["code"] or "#")


def test_limit_cases_of_chatdevs_metrics():
    """No Python file, no line, and stderr without a traceback."""
    assert chatdev_completeness({}) == 1
    assert chatdev_code_text({}) == "#"
    assert chatdev_executability("Warning: slow") == 1
    assert chatdev_executability("Traceback (most recent call last):") == 0


def test_an_embedder_that_fails_fails_the_instance():
    """What cannot be scored is a failed instance, counted by its cause."""

    class Down:
        identity = "down"

        async def embed(self, texts):
            raise ChatUnavailableError("nobody there", kind="timeout")

    async def no_sleep(seconds):
        pass

    down = StoredEmbedder(Down(), CompletionStore(), sleep=no_sleep)
    with pytest.raises(TooManyFailuresError, match="nobody there"):
        scripted({"coding": main_py("print(1)\n")}, embedder=down)


# Data and task.


def test_the_budget_is_the_papers():
    """One sample of the largest model in each stage: 1767.33 (AgentTTS, section 5.1)."""
    task = chat_dev(SAMPLE, search=8).task
    assert task.budget == pytest.approx(1767.33, abs=0.005)
    assert task.metric == "completeness"
    lengths = [(stage.prompt_tokens, stage.generation_tokens) for stage in task.stages]
    assert lengths == [(1024, 1024), (1024, 512), (1024, 256)]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_requirements_are_read_from_files(tmp_path, suffix):
    """CSV, JSON and JSON lines, with fields in either case, hold the same requirements."""
    path = tmp_path / f"data.{suffix}"
    rows = [{"name": "A", "description": f"Does\n{i}, ok", "category": "C"} for i in range(3)]
    path.write_text(
        {
            "csv": "Name,Description,Category\n"
            + "".join(f'A,"Does\n{i}, ok",C\n' for i in range(3)),
            "json": json.dumps(rows),
            "jsonl": "\n".join(map(json.dumps, rows)),
        }[suffix]
    )
    benchmark = chat_dev(path, search=2)
    found = sorted(everything(benchmark), key=lambda item: item.description)
    assert [item.description for item in found] == ["Does 0, ok", "Does 1, ok", "Does 2, ok"]
    assert len({item.id for item in found}) == 3
    assert found[0] == Software("A", "Does 0, ok", "C")


def test_the_lists_of_the_papers_authors_are_requirements(tmp_path):
    """Names and tasks, as their file has them; the same as SRDD's table without categories."""
    rows = [{"Name": f"N{i}", "Description": f"Does {i}."} for i in range(4)]
    lists = {
        "names": [row["Name"] for row in rows],
        "tasks": [row["Description"] for row in rows],
    }
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps(lists))
    assert everything(chat_dev(path, search=2)) == everything(chat_dev(rows, search=2))
    with pytest.raises(DataError, match="needs a list `names` of the same length"):
        chat_dev([{"tasks": ["Does it."]}], search=1)


def test_unusable_requirements_are_left_out_and_counted():
    """On demand; the same words are the same requirement."""
    rows = [*RECORDS, {"Name": "x"}, {"Name": "Again", "Description": "adds  two numbers"}]
    with pytest.raises(DataError, match="1 of 3 records cannot be used"):
        chat_dev(rows, search=1)
    benchmark = chat_dev(rows, search=1, skip_unusable=True)
    assert sum(benchmark.left_out.values()) == 1
    assert [software.id for software in everything(benchmark)] == ["Sum"]


def test_the_sample_is_sound():
    """60 different requirements come along, enough for a search of 40 and 20 more."""
    found = everything(chat_dev(SAMPLE, search=40))
    assert len({software.id for software in found}) == 60
    assert len({software.overlap_key for software in found}) == 60
    assert all(software.category for software in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "consistency"}, "'consistency' needs an `embedder`"),
        ({"metric": "executability"}, "'executability' a `sandbox`"),
        ({"metric": "beauty"}, "`metric` must be one of .*got 'beauty'"),
        (
            {"source": [{"Name": "x"}]},
            "field 'Description' or .* must be a non-empty string",
        ),
    ],
)
def test_nonsense_is_refused(options, message):
    """Bad data and metrics that cannot be had are named before anything is spent."""
    with pytest.raises(DataError, match=message):
        chat_dev(**{"source": RECORDS, "search": 1, **options})


def test_a_sandbox_that_does_not_work_is_refused():
    """Nothing is run anywhere else instead."""
    broken = Sandbox(python="/nowhere/python")
    with pytest.raises(SandboxError, match=r"bwrap|bubblewrap|This is"):
        chat_dev(RECORDS, search=1, sandbox=broken)


def test_prompts_name_one_stage_and_the_requirement():
    """Each stage's prompt holds its own mark, the requirement and the program so far."""
    benchmark = chat_dev(RECORDS, search=1)
    instance = benchmark.search[0]
    state = State(instance, {"coding": Program.from_files({"main.py": "print(77)\n"})})
    for program in benchmark.pipeline.programs:
        text = "\n".join(message.content for message in program.messages(state))
        marks = [name for name, mark in stage_instructions(benchmark).items() if mark in text]
        assert marks == [program.name]
        assert quoted_text(instance) == "Requirement: Adds two numbers."
        assert quoted_text(instance) in text
        assert ("print(77)" in text) == (program.name != "coding")
    assert (
        benchmark.pipeline.lengths(benchmark.search).keys() == stage_instructions(benchmark).keys()
    )


# Stages.

PARTIAL = "def add(a, b):\n    pass\n\n\nadd(1, 2)\n"
WHOLE = "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n"


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({"coding": PARTIAL}, 0),
        ({"coding": PARTIAL, "static_review": WHOLE}, 1),
        ({"coding": PARTIAL, "dynamic_test": WHOLE}, 1),
        ({"coding": WHOLE, "static_review": PARTIAL}, 0),
        ({"coding": WHOLE, "static_review": PARTIAL, "dynamic_test": WHOLE}, 1),
    ],
)
def test_the_last_program_counts(replies, expected):
    """A stage that changes nothing passes on what it got."""
    replies = {stage: main_py(source) for stage, source in replies.items()}
    evaluation, chat = scripted(replies)
    assert evaluation.mean == expected
    assert [stage for stage, _ in chat.prompts] == list(ONE_EACH)


def test_unreadable_revisions_leave_the_program_before():
    """Later stages without a readable reply are counted, and cost the program nothing."""
    evaluation, _ = scripted(
        {"coding": main_py(WHOLE), "static_review": "Well.", "dynamic_test": BLOCK}
    )
    assert (evaluation.mean, evaluation.malformed, evaluation.failed) == (1, 2, 0)


def test_no_program_at_all_is_a_failed_instance():
    """An invalid reply is repaired once; without a program, the instance fails."""
    benchmark = chat_dev(RECORDS, search=1)
    chat = Scripted(benchmark, coding="I would rather not.")
    with benchmark.objective(chat, progress=False) as objective:
        evaluation = objective.evaluate(ONE_EACH)
    assert (evaluation.mean, evaluation.failed) == (0, 1)
    assert len(chat.prompts) == 2
    assert "Write it again" in chat.prompts[1][1]


def test_samples_are_fused_or_the_first_complete_one_counts():
    """Fusion asks the model once more, falls back on a complete sample, and can be left out."""
    many = {**ONE_EACH, "coding": (LARGE, 12)}
    # Most samples are unfinished, so that no majority finds a whole one.
    mixed = [*[main_py(PARTIAL)] * 3, main_py(WHOLE)]
    for fusion in (True, False):
        evaluation, chat = scripted({"coding": mixed}, many, fusion=fusion)
        fused = [text for text in chat.asked("coding") if "</candidate>" in text]
        assert len(fused) == fusion
        assert fusion or evaluation.mean == 1

    class Speechless(Scripted):
        async def complete(self, request, *, seed):
            done = await super().complete(request, seed=seed)
            last = request.messages[-1].content
            return Completion("Hm.", done.usage) if "</candidate>" in last else done

    benchmark = chat_dev(RECORDS, search=1)
    with benchmark.objective(Speechless(benchmark, coding=mixed), progress=False) as objective:
        assert objective.evaluate(many).mean == 1
    fusion = benchmark.pipeline.programs[0].aggregate
    assert isinstance(fusion, LLMFusion)
    shown = fusion_messages([Message("user", "ask")], mixed)
    assert mixed[0] in shown[-1].content


# From end to end, with simulated models.


def test_what_models_can_do_shows_in_the_score():
    """Models that are always right score 1, models that never are score 0."""
    benchmark = chat_dev(SAMPLE, search=6, embedder=HashingEmbedder(), metric="quality")
    found = []
    for value in (1.0, 0.0):
        with benchmark.objective(as_competent(benchmark, value), progress=False) as objective:
            found.append(objective.evaluate(dict.fromkeys(ONE_EACH, (LARGE, 3))))
    assert [evaluation.metrics["completeness"] for evaluation in found] == [1, 0]
    assert [evaluation.malformed for evaluation in found] == [0, 0]
    assert found[0].mean == pytest.approx(found[0].metrics["consistency"])
    assert found[0].metrics["consistency"] > found[1].metrics["consistency"]
    assert found[1].mean == 0


@pytest.mark.slow
def test_a_study_runs_and_its_repetition_asks_nobody(tmp_path):
    """Chat and embeddings over HTTP; a second study of the same store makes no request."""

    async def count(texts):
        return await HashingEmbedder(64).embed(texts)

    values = []
    for run in range(2):
        store = CompletionStore(tmp_path / "store.db")
        plan = chat_dev(SAMPLE, search=4)
        with LoopbackServer(
            as_competent(plan, 0.6), embed=lambda texts: asyncio.run(count(texts))
        ) as server:
            # The port is part of what completions are known by.
            address = f"{server.url}"
            if run == 0:
                first = address
            embedder = StoredEmbedder(
                _Renamed(HuggingFaceEmbedder("e", base_url=address)), store, replay=run == 1
            )
            benchmark = chat_dev(SAMPLE, search=4, embedder=embedder)
            places = address if run == 0 else first
            with benchmark.objective(places, store=store, progress=False) as objective:
                study = optuna.create_study(
                    direction="maximize", sampler=AgentTTSSampler(benchmark.task, seed=1)
                )
                study.optimize(objective, n_trials=5)
            asked = sum(server.served.values())
            assert (asked > 0) == (run == 0)
            assert run or server.served["/v1/embeddings"]
        store.close()
        values.append([trial.value for trial in study.trials])
        assert "consistency" in study.trials[0].user_attrs
    assert values[0] == values[1]
    assert all(0 < value < 1 for value in values[0])


class _Renamed:
    """An embedder known by a name that does not change with its port."""

    identity = "renamed"

    def __init__(self, embedder):
        self._embedder = embedder

    async def embed(self, texts):
        return await self._embedder.embed(texts)


def test_hashed_consistency_is_what_its_vectors_say():
    """The score is the cosine of the embedder's own vectors."""
    source = "def add_two(numbers):\n    return sum(numbers)\n"
    evaluation, _ = scripted({"coding": main_py(source)}, embedder=HashingEmbedder())
    vectors = asyncio.run(HashingEmbedder().embed(["Adds two numbers.", source]))
    assert evaluation.mean == pytest.approx(cosine(*vectors))
    # Of 3 and of 8 words (def add two numbers return sum numbers): two, and numbers twice.
    assert evaluation.mean == pytest.approx(3 / math.sqrt(3 * 9))


# What runs, and what does not.


def test_without_a_sandbox_nothing_is_run(tmp_path):
    """A program that would leave a file leaves none, in any stage or score."""
    trace = tmp_path / "trace"
    source = f"from pathlib import Path\n\nPath({str(trace)!r}).write_text('I ran')\n"
    evaluation, chat = scripted(
        {stage: main_py(source) for stage in ONE_EACH}, embedder=HashingEmbedder()
    )
    assert evaluation.metrics["completeness"] == 1
    assert not trace.exists()
    assert "executability" not in evaluation.metrics
    assert "as if it were started" in chat.asked("dynamic_test")[0]
    exec(source)
    assert trace.exists()


BUGGY = "def mean(numbers):\n    return sum(numbers) / len(numbers)\n\n\nprint(mean([]))\n"
MENDED = BUGGY.replace("mean([])", "mean([1, 2])")


@sandboxed
def test_a_bug_that_shows_in_a_run_is_repaired():
    """The dynamic test sees exit code and error output, and the repaired program counts."""
    replies = {"coding": main_py(BUGGY), "dynamic_test": main_py(MENDED)}
    evaluation, chat = scripted(replies, sandbox=BOX, metric="quality")
    (prompt,) = chat.asked("dynamic_test")
    assert "It exited with code 1" in prompt
    assert "ZeroDivisionError: division by zero" in prompt
    scores = {"completeness": 1, "executability": 1, "quality": 1}
    assert evaluation.metrics == {**scores, **{f"ChatDev {name}": 1 for name in scores}}


@sandboxed
def test_a_bug_that_stays_counts():
    """A program that still fails is not executable, complete or not."""
    evaluation, _ = scripted({"coding": main_py(BUGGY)}, sandbox=BOX, metric="executability")
    scores = {"completeness": 1, "executability": 0, "quality": 0}
    assert evaluation.metrics == {
        **scores,
        **{f"ChatDev {name}": score for name, score in scores.items()},
    }


@sandboxed
def test_chatdev_looks_for_tracebacks_only():
    """A program that ends with another exit code than 0 is executable there, and not here."""
    source = "import sys\nsys.exit('no')\n"
    evaluation, _ = scripted({"coding": main_py(source)}, sandbox=BOX)
    assert evaluation.metrics["executability"] == 0
    assert evaluation.metrics["ChatDev executability"] == 1


@sandboxed
@pytest.mark.parametrize("source", [MENDED, "while True:\n    pass\n"])
def test_programs_that_run_are_not_tested(source):
    """What ends well, or still runs at the time limit, needs no repair and costs none."""
    box = Sandbox(limits=Limits(seconds=20 if source == MENDED else 1))
    evaluation, chat = scripted({"coding": main_py(source)}, sandbox=box)
    assert chat.asked("dynamic_test") == []
    stage = chat_dev(RECORDS, search=1, sandbox=box).pipeline.programs[-1]
    program = Program.from_files({"main.py": source})
    assert stage.otherwise(State(None, {"coding": program})) == program
    assert evaluation.metrics["executability"] == 1


@sandboxed
def test_what_programs_write_stays_inside(tmp_path):
    """A run inside the sandbox leaves nothing on this machine."""
    trace = tmp_path / "trace"
    evaluation, _ = scripted(
        {"coding": main_py(f"open({str(trace)!r}, 'w').write('I ran')\n")}, sandbox=BOX
    )
    assert evaluation.metrics["executability"] == 0
    assert not trace.exists()


@sandboxed
def test_simulated_programs_do_as_they_claim():
    """Right programs run, wrong ones fail or are not complete."""
    benchmark = chat_dev(SAMPLE, search=2, sandbox=BOX, metric="quality")
    for value in (1.0, 0.0):
        with benchmark.objective(as_competent(benchmark, value), progress=False) as objective:
            assert objective.evaluate(ONE_EACH).mean == value


class Counting:
    """A sandbox that counts what it is asked to run."""

    def __init__(self, stderr=""):
        self.runs, self.at_once, self.most, self._stderr = 0, 0, 0, stderr

    async def run(self, files, *, main):
        self.runs += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        return ProgramResult(1, "", self._stderr, False, 0.0)


def test_equal_programs_run_once_and_memory_is_bounded():
    """Results are kept for so many programs, and so many run at once."""
    box = Counting()
    runner = Runner(box, parallel=2, cache_size=3)
    programs = [Program.from_files({"main.py": f"x = {i}\n"}) for i in range(5)]

    async def work(*which):
        return await asyncio.gather(*(runner.run(programs[i]) for i in which))

    asyncio.run(work(0, 1, 2))
    asyncio.run(work(0, 1, 2, 0))
    assert (box.runs, box.most) == (3, 2)
    asyncio.run(work(3, 4))
    asyncio.run(work(0))
    assert box.runs == 6
    assert len(runner._results) == 3


def test_error_output_is_short_and_the_same_in_each_run():
    """The end is kept, and addresses in memory, which make prompts differ, are not."""
    box = Counting("x" * 5000 + "\n<object at 0x7f3a5c0de120> failed, code 0x10\n")
    done = asyncio.run(Runner(box).run(Program.from_files({"main.py": "x\n"})))
    assert done == Run(1, done.errors)
    assert done.errors.endswith("<object at 0x...> failed, code 0x10")
    assert 1900 < len(done.errors) <= 2000


def test_the_latest_program_is_the_last_one():
    """Stages that have no result, or have not run, are passed over."""
    one, two = (Program.from_files({"main.py": f"x = {i}\n"}) for i in range(2))
    instance = Software("a", "b", "c")
    assert latest_program(State(instance)) is None
    assert latest_program(State(instance, {"coding": one, "static_review": None})) is one
    assert latest_program(State(instance, {"coding": one, "dynamic_test": two})) is two
