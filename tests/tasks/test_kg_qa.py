"""Knowledge-graph question answering: data, gold triples, prompts and whole runs."""

import json
import random
from pathlib import Path

import optuna
import pytest
from tasks_support import allocated, as_competent, everything

from optuna_agenttts import AgentTTSSampler, Model, recommend
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.tasks.kg_qa import cwq, triple_benchmark, web_qsp
from optuna_agenttts_integrations.tasks.records import sample_path
from optuna_agenttts_integrations.testing.simulated_replies import quoted_text
from optuna_agenttts_integrations.testing.simulation import simulated_models, stage_instructions

CWQ, WEB_QSP = sample_path("cwq.json"), sample_path("web_qsp.json")
PAPER = Path(__file__).parents[3] / "shared" / "data" / "cwq_100.json"
OWN = [(cwq, CWQ), (web_qsp, WEB_QSP)]
READER, WRITER = Model("reader-7B", parameters=7e9), Model("writer-8B", parameters=8e9)
ONE_MODEL_EACH = {"retrievers": [READER], "answerers": [WRITER]}


def gold_of(question):
    """Return the gold triples as a set of strings."""
    return {question.triples[number - 1] for number in question.gold}


def shown(triple):
    return f"({', '.join(triple)})"


def listed(**changes):
    """Return a record in the paper's form, one gold triple and three others."""
    record = {
        "ID": "one",
        "question": "Where does the Nile end?",
        "answer": ["Mediterranean Sea"],
        "crucial_triples": [["Nile", "river.mouth", "Mediterranean Sea"]],
        "gt_triples": [
            ["Nile", "river.mouth", "Mediterranean Sea"],
            ["Mediterranean Sea", "sea.river", "Nile"],
        ],
        "2hop_triples": [
            ["Nile", "river.mouth", "Mediterranean Sea"],
            ["Mediterranean Sea", "sea.river", "Nile"],
            ["Nile", "river.city", "Cairo"],
            ["Nile", "river.city", "Cairo"],
            ["Nile", "river.city", "Khartoum"],
            ["Cairo", "city.country", "Egypt"],
        ],
    }
    return {**record, **changes}


def graphed(graph, asked, answers, **changes):
    """Return a record in the Hub's form."""
    record = {
        "id": "one",
        "question": "Which?",
        "answer": answers or ["nothing"],
        "q_entity": asked,
        "a_entity": answers,
        "graph": [list(triple) for triple in graph],
    }
    return {**record, **changes}


def only(record, **options):
    """Return the question of a single record."""
    benchmark = triple_benchmark("test", [record], search=1, **options)
    return benchmark.search[0]


@pytest.mark.parametrize(("make", "path"), OWN)
def test_own_samples_are_questions_with_few_triples(make, path):
    """Each family's samples load: 60 questions, some without gold, some with several answers."""
    questions = everything(make(path, search=40))
    assert len(questions) == 60
    assert all(12 <= len(question.triples) <= 25 for question in questions)
    assert any(not question.gold for question in questions)
    assert any(len(question.answers) > 1 for question in questions)
    assert len({question.id for question in questions}) == 60


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's file is not there")
def test_papers_file_loads():
    """The paper's 100 records: no triple twice, 17 questions without gold."""
    records = {record["ID"]: record for record in json.loads(PAPER.read_text("utf-8"))}
    questions = everything(cwq(PAPER))
    assert len(questions) == 100
    assert sum(not question.gold for question in questions) == 17
    for question in questions:
        assert len(set(question.triples)) == len(question.triples) > 0
        crucial = {shown(triple) for triple in records[question.id]["crucial_triples"]}
        assert gold_of(question) == crucial
        assert len(question.triples) <= 100 + len(crucial)
        related = {shown(triple) for triple in records[question.id]["gt_triples"]}
        assert not (set(question.triples) - crucial) & related


def test_candidates_are_gold_and_the_first_others():
    """Others come in the file's order, once each, without those that lead to the answer too."""
    question = only(listed())
    assert gold_of(question) == {"(Nile, river.mouth, Mediterranean Sea)"}
    assert sorted(question.triples) == [
        "(Cairo, city.country, Egypt)",
        "(Nile, river.city, Cairo)",
        "(Nile, river.city, Khartoum)",
        "(Nile, river.mouth, Mediterranean Sea)",
    ]
    assert sorted(only(listed(), candidates=2).triples) == sorted(question.triples)[1:]


def test_names_are_shown_on_one_line():
    """Line ends within a name do not break the numbered list."""
    record = listed(**{"2hop_triples": [["Nile", "river.city", "Old\nCairo "]]})
    assert "(Nile, river.city, Old Cairo)" in only(record).triples


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"answer": "Delta"}, ("Delta",)),
        ({"answer": ["Delta", "delta", "Delta"]}, ("Delta", "delta")),
        (
            {
                "answer": [],
                "Parses": [
                    {"Answers": [{"EntityName": "Delta", "AnswerArgument": "m.01"}]},
                    {"Answers": []},
                    {
                        "Answers": [
                            {"EntityName": None, "AnswerArgument": "1869"},
                            {"EntityName": "Delta", "AnswerArgument": "m.01"},
                        ]
                    },
                ],
            },
            ("Delta", "1869"),
        ),
    ],
)
def test_all_answers_are_accepted(fields, answers):
    """A list's, and those of all of WebQSP's parses, by name where there is one."""
    assert only(listed(**fields)).answers == answers


@pytest.mark.parametrize(("make", "path"), OWN)
def test_order_is_a_function_of_seed_and_question(make, path):
    """Same seed, same order, however many records there are; another seed, another order."""
    records = json.loads(path.read_text("utf-8"))
    first = {q.id: q for q in everything(make(records, search=8, seed=3))}
    fewer = {q.id: q for q in everything(make(records[5:], search=2, seed=3))}
    other = {q.id: q for q in everything(make(records, search=8, seed=4))}
    assert all(first[name] == question for name, question in fewer.items())
    assert sum(first[name].triples != question.triples for name, question in other.items()) > 50
    assert all(gold_of(first[name]) == gold_of(question) for name, question in other.items())
    alike = {only({**records[0], "ID": n, "QuestionId": n}).triples for n in range(5)}
    assert len(alike) == 5


@pytest.mark.parametrize(("make", "path"), OWN)
def test_gold_numbers_point_at_gold_triples(make, path):
    """Gold numbers ascend, are in range, and name the crucial triples and no other."""
    for number, record in enumerate(json.loads(path.read_text("utf-8"))):
        question = only(record)
        assert gold_of(question) == {shown(triple) for triple in record["crucial_triples"]}
        assert list(question.gold) == sorted(set(question.gold)), number
        assert len(set(question.triples)) == len(question.triples)


@pytest.mark.parametrize(("make", "path"), OWN)
def test_prompts_show_what_they_should(make, path):
    """Every candidate once to choose from, the chosen ones alone to answer from, no answer."""
    benchmark = make(path, search=8)
    retrieval, answer = benchmark.pipeline.programs
    for question in everything(benchmark):
        state = State(question)
        asked = "\n".join(message.content for message in retrieval.messages(state))
        for number, triple in enumerate(question.triples, 1):
            assert asked.count(triple) == 1
            assert f"\n[{number}] {triple}\n" in asked
        chosen = retrieval.parse("Answer: [2, 3]", state)
        written = answer.messages(state.after("retrieval", chosen))
        text = "\n".join(message.content for message in written)
        assert [triple in text for triple in question.triples] == [
            number in (2, 3) for number in range(1, len(question.triples) + 1)
        ]
        for stage, prompt in (("retrieval", asked), ("answer", text)):
            assert [s for s, mark in stage_instructions(benchmark).items() if mark in prompt] == [
                stage
            ]
            assert quoted_text(question) in prompt


@pytest.mark.parametrize(("make", "path"), OWN)
def test_search_and_held_out_share_no_question(make, path):
    """No question to search on is held out."""
    benchmark = make(path, search=10)
    assert len(benchmark.search) == 10
    assert not {q.question for q in benchmark.search} & {q.question for q in benchmark.held_out}


def test_default_budgets_are_the_papers():
    """One sample of the largest model in each stage: 520.67 for CWQ, 474 for WebQSP."""
    assert round(cwq(CWQ, search=8).task.budget, 2) == 520.67
    assert round(web_qsp(WEB_QSP, search=8).task.budget, 2) == 474.00
    assert cwq(CWQ, search=8, budget=300).task.budget == 300


CHAIN = [("a", "r", "b"), ("b", "r", "c"), ("c", "r", "d"), ("d", "r", "e"), ("e", "r", "f")]
SQUARE = [("a", "up", "b"), ("c", "up", "b"), ("a", "down", "d"), ("d", "down", "c")]
PARALLEL = [("a", "r", "b"), ("b", "also", "a"), ("b", "loop", "b"), ("b", "r", "c")]


@pytest.mark.parametrize(
    ("graph", "asked", "answers", "gold"),
    [
        (CHAIN, ["a"], ["c"], CHAIN[:2]),
        (CHAIN, ["e"], ["a"], CHAIN[:4]),  # against the arrows, four hops
        (CHAIN, ["a"], ["f"], []),  # five hops are too far
        (CHAIN, ["a"], ["a"], []),
        (CHAIN, ["a"], ["elsewhere"], []),
        (CHAIN, ["elsewhere"], ["a"], []),
        (CHAIN, [], [], []),
        (CHAIN, ["a", "f"], ["c", "e"], CHAIN),
        (CHAIN, ["b", "elsewhere"], ["c", "f"], CHAIN[1:]),
        (SQUARE, ["a"], ["c"], SQUARE),  # two shortest paths
        ([*SQUARE, ("c", "r", "a")], ["a"], ["c"], [("c", "r", "a")]),
        (PARALLEL, ["a"], ["b"], PARALLEL[:2]),  # a path each; the loop is on none
    ],
)
def test_hub_gold_is_what_lies_on_shortest_paths(graph, asked, answers, gold):
    """All triples of all shortest undirected paths of four hops at most, and no other."""
    question = only(graphed(graph, asked, answers))
    assert gold_of(question) == {shown(triple) for triple in gold}
    assert set(question.triples) == {shown(triple) for triple in graph}


def walks(graph, start, end):
    """Return the triples of all shortest walks of at most four hops, by trying every walk."""
    ends = {start: [()]}
    for _ in range(4):
        if end in ends:
            break
        further = {}
        for triple in graph:
            for here, there in (triple[::2], triple[::-2]):
                further.setdefault(there, []).extend((*w, triple) for w in ends.get(here, ()))
        ends = {there: found for there, found in further.items() if found}
    return {triple for walk in ends.get(end, ()) for triple in walk}


@pytest.mark.parametrize("seed", range(25))
def test_hub_gold_agrees_with_trying_every_walk(seed):
    """On random graphs, with two entities to start from and two to reach."""
    rng = random.Random(seed)
    names = "abcdefghij"
    graph = sorted({(rng.choice(names), rng.choice("rs"), rng.choice(names)) for _ in range(11)})
    asked, answers = rng.sample(names, 2), rng.sample(names, 2)
    question = only(graphed(graph, asked, answers))
    found = {triple for one in asked for other in answers for triple in walks(graph, one, other)}
    assert gold_of(question) == {shown(triple) for triple in found}


def test_hub_candidates_are_the_nearest():
    """Beside the gold ones, triples come breadth first, those out of reach last."""
    graph = [
        ("x", "r", "y"),
        ("b", "loop", "b"),
        ("c", "r", "z"),
        ("b", "r", "k"),
        *CHAIN[:2],
        ("a", "r", "j"),
    ]
    for count, others in enumerate(
        (
            ["(a, r, j)"],
            ["(b, loop, b)"],
            ["(b, r, k)"],
            ["(b, r, c)"],
            ["(c, r, z)"],
            ["(x, r, y)"],
        ),
        1,
    ):
        question = only(graphed(graph, ["a"], ["b"]), candidates=count)
        assert set(others) < set(question.triples)
        assert len(question.triples) == count + 1


PARSES = [{"Answers": [{"AnswerType": "Entity"}]}]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            listed(question=None),
            r"Record 0: field 'question' or 'RawQuestion' must be a non-empty string",
        ),
        (listed(answer=[]), r"Record 0: the answers in `answer` .*remove the record"),
        (listed(answer=[" "]), r"Record 0: the answers in `answer` .*remove the record"),
        (
            listed(answer=[1869]),
            r"Record 0: the answers in `answer` must be a non-empty string .*got \[1869\]",
        ),
        (
            listed(answer=None),
            r"Record 0: the answers in `answer` must be a non-empty string .*got None",
        ),
        (
            listed(answer=None, Parses=[{"Answers": []}]),
            r"Record 0: the answers in `Parses` must .*got \[\].*remove the record",
        ),
        (listed(answer=None, Parses=PARSES), r"Record 0: `Parses` must be a list of objects"),
        (listed(answer=None, Parses=7), r"Record 0: `Parses` must be a list of objects.*got 7"),
        (
            listed(crucial_triples=[["a", "r", "b"], ["a", 2, "b"]]),
            r"Record 0: `crucial_triples\[1\]` must be three strings, .*got \['a', 2, 'b'\]",
        ),
        (
            listed(crucial_triples="(a, r, b)"),
            r"Record 0: `crucial_triples` must be a list of triples .*got '\(a, r, b\)'",
        ),
        (listed(gt_triples=[["a", "b"]]), r"Record 0: `gt_triples\[0\]` must be three strings"),
        (listed(**{"2hop_triples": ["abc"]}), r"Record 0: `2hop_triples\[0\]` must .*got 'abc'"),
        (listed(**{"2hop_triples": None}), r"Record 0: `2hop_triples` must be a list .*got None"),
        (
            {"question": "Who?", "answer": "me"},
            r"Record 0 has no field `crucial_triples`.*or with `gr",
        ),
        (graphed(CHAIN, "a", ["b"]), r"Record 0: `q_entity` must be a list of entities .*got 'a'"),
        (
            graphed(CHAIN, ["a"], [3]),
            r"Record 0: `a_entity` must be a list of entities .*got \[3\]",
        ),
        (graphed([("a", "b")], ["a"], ["b"]), r"Record 0: `graph\[0\]` must be three strings"),
    ],
)
def test_bad_records_are_refused_at_once(record, says):
    """The message names the record, the field, and what to give."""
    with pytest.raises(DataError, match=says):
        only(record)


def test_a_record_lacks_a_column():
    """A missing list of triples is named, with the record's number and the fields there are."""
    record = listed(ID="two", question="Where else?")
    del record["gt_triples"]
    with pytest.raises(
        DataError, match=r"Record 1 has no field `gt_triples`, only .*2hop_triples"
    ):
        cwq([listed(), record], search=1)


def test_a_data_set_of_the_hub_is_asked_for_as_told(data_sets):
    """Name, split and revision reach the library."""
    data_sets.records = [graphed(CHAIN, ["a"], ["c"])]
    cwq("hf:a/b", search=1)
    web_qsp("hf:a/b:c", search=1, split="train", revision="v1")
    assert data_sets.asked == [
        ("a/b", None, {"split": "test", "revision": None}),
        ("a/b", "c", {"split": "train", "revision": "v1"}),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metric": "accuracy"}, "`metric` must be one of exact match, .*got 'accuracy'"),
        ({"candidates": 0}, "`candidates` must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, says):
    """The message names the argument and its value."""
    with pytest.raises(DataError, match=says):
        only(listed(), **options)


@pytest.mark.parametrize(("make", "path"), OWN)
@pytest.mark.parametrize("competence", [1.0, 0.0])
def test_known_competence_is_what_is_measured(served, make, path, competence):
    """Models that are always right make 1 in every score, models that never are make 0."""
    benchmark = make(json.loads(path.read_text("utf-8"))[::4], search=15, **ONE_MODEL_EACH)
    with benchmark.objective(served(as_competent(benchmark, competence))) as objective:
        found = objective.evaluate(allocated(benchmark, 2))
    assert found.mean == found.metrics["exact match"] == competence
    assert found.metrics["SQuAD F1"] == competence
    assert found.failed == found.malformed == 0
    if competence:
        assert found.metrics["retrieval F1"] == 1
    else:
        assert found.metrics["retrieval F1"] < 0.7
    assert found.metrics["ids out of range"] == found.metrics["ids repeated"] == 0
    for name in ("RoG hit", "Hits@1", "ToG match", "GoG match"):
        assert found.metrics[name] == competence


class Script:
    """Answers by question and stage; triples in a reply stand for their numbers."""

    def __init__(self, replies, questions):
        self._replies = {q.question: replies[q.id] for q in questions}
        self._numbers = {
            q.question: {triple: str(n) for n, triple in enumerate(q.triples, 1)}
            for q in questions
        }

    async def complete(self, request, *, seed):
        prompt = request.messages[-1].content
        question = next(q for q in self._replies if f"Question: {q}\n" in prompt)
        retrieval, answer = self._replies[question]
        text = retrieval if "Which facts are needed" in prompt else answer
        for triple, number in self._numbers[question].items():
            text = text.replace(triple, number)
        return Completion(text, Usage(50, 5))


def test_scripted_replies_score_what_was_counted_by_hand(served):
    """The metrics of four questions equal the means computed by hand."""
    a, b, c, d = (["x", "r", name] for name in "abcd")
    told = {"gt_triples": [a, b], "2hop_triples": [a, a, b, c, d]}
    records = [
        listed(ID="1", question="Q1?", answer=["The Blue Whale"], crucial_triples=[a, b], **told),
        listed(
            ID="2",
            question="Q2?",
            answer=["Lake Victoria", "Victoria Nyanza"],
            crucial_triples=[b],
            **told,
        ),
        listed(ID="3", question="Q3?", answer=["Rome"], crucial_triples=[], **told),
        listed(ID="4", question="Q4?", answer=["New York"], crucial_triples=[a, b], **told),
    ]
    replies = {
        # Two of three are gold: F1 2 * 2 / (3 + 2) = 0.8. Equal after normalization.
        "1": (
            "(x, r, d) and 7 look good.\nAnswer: [(x, r, a), (x, r, b), (x, r, c)]",
            "Answer: blue whale.",
        ),
        # One gold, named twice, and two numbers of nothing: F1 1. Two of four words, two of two:
        # token F1 2 * 2 / (4 + 2) = 2/3; contained.
        "2": ("Answer: [(x, r, b), (x, r, b), 99, 0]", "Hm.\n**Answer:** Lake Victoria in Africa"),
        # Rightly none: F1 1. No answer that could be read: 0.
        "3": ("Answer: none", "I do not know."),
        # No list that could be read: F1 0. Two of three words, two of two: 4 / 5; contained.
        "4": ("It must be [1]", "Answer: Boston\nNo.\nAnswer: New York City"),
    }
    benchmark = triple_benchmark("test", records, search=4, **ONE_MODEL_EACH)
    script = Script(replies, benchmark.search)
    places = served({READER.name: script, WRITER.name: script})
    with benchmark.objective(places) as objective:
        found = objective.evaluate(allocated(benchmark))
    assert found.outcomes == {"1": 1, "2": 0, "3": 0, "4": 0}
    expected = {
        "exact match": 1 / 4,
        "SQuAD F1": (1 + 2 / 3 + 0 + 4 / 5) / 4,
        "answer contained": 3 / 4,
        "retrieval F1": (0.8 + 1 + 1 + 0) / 4,
        "ids out of range": 2 / 4,
        "ids repeated": 1 / 4,
        "replies read in part": 0,
        # One of one, one of two, none, none ("New York City" is another entity).
        "answer-set F1": 1 / 4,
        "Hits@1": 1 / 4,
        # Accepted answers in the text: one of one, one of two, none, one of one.
        "RoG hit": 3 / 4,
        "RoG F1": (1 + 2 / 3 + 0 + 1) / 4,
        # As texts: "blue whale." is not part of "The Blue Whale".
        "ToG match": 2 / 4,
        "GoG match": 2 / 4,
    }
    assert found.metrics == pytest.approx(expected)
    assert (found.failed, found.malformed) == (0, 2)


@pytest.mark.parametrize("metric", ["exact match", "SQuAD F1", "answer contained"])
def test_the_outcome_is_the_metric_that_was_chosen(metric):
    """The maximized metric is the task's `metric`."""
    benchmark = cwq(CWQ, search=8, metric=metric, fusion=False)
    with benchmark.objective(simulated_models(benchmark)) as objective:
        found = objective.evaluate(allocated(benchmark, 3))
    assert benchmark.task.metric == metric
    assert found.mean == pytest.approx(found.metrics[metric])


@pytest.mark.parametrize(("make", "path"), OWN)
def test_a_search_runs_through(make, path):
    """Six trials of the sampler on the samples, then the winner on held-out questions."""
    benchmark = make(path, search=40)
    with benchmark.objective(simulated_models(benchmark)) as objective:
        study = optuna.create_study(
            direction="maximize", sampler=AgentTTSSampler(benchmark.task, seed=0)
        )
        study.optimize(objective, n_trials=6)
        held_out = objective.evaluate(recommend(study).allocation, benchmark.held_out)
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.COMPLETE] * 6
    assert all("retrieval F1" in trial.user_attrs for trial in study.trials)
    assert 0 <= held_out.mean <= 1
    assert len(held_out.results) == 20
