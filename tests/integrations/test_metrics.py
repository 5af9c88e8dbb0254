"""Metrics, against values computed by hand and identities."""

import json
import math
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts_integrations.scoring.code_metrics import completeness
from optuna_agenttts_integrations.scoring.metrics import (
    contains_answer,
    cosine,
    exact_match,
    hotpot_f1,
    normalize_answer,
    rouge_l,
    set_f1,
    token_f1,
)
from optuna_agenttts_integrations.scoring.tool_metrics import (
    argument_f1,
    argument_name_f1,
    node_f1,
)

words = st.lists(st.sampled_from(["the", "a", "New", "york", "City.", "1969", "!", "\u00e9tat"]))
texts = words.map(" ".join) | st.text(max_size=20)
ids = st.lists(st.integers(0, 6))
names = st.sampled_from(["get_news", "Get News", "send_mail", "book", ""])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=5,
)
calls = st.lists(
    st.fixed_dictionaries(
        {"tool": names},
        optional={
            "arguments": st.none()
            | st.dictionaries(names, values, max_size=3)
            | st.lists(values | st.fixed_dictionaries({"name": names, "value": values}))
        },
    ),
    max_size=4,
)


def call(tool, arguments=None):
    return {"tool": tool, "arguments": arguments}


# Answers


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Beatles!", "beatles"),
        ("an apple\na day", "apple day"),
        ("U.S.", "us"),
        ("mother-in-law", "motherinlaw"),
        ("theatre, Athens", "theatre athens"),
        ("a an the .,;", ""),
        ("S\u00e3o Paulo", "s\u00e3o paulo"),
        ("\u6771\u4eac \u00c9tat", "\u6771\u4eac \u00e9tat"),
    ],
)
def test_answers_are_normalized_as_in_squad(text, normalized):
    """Lower case, no ASCII punctuation, no articles, single blanks; other scripts are kept."""
    assert normalize_answer(text) == normalized


@given(texts)
def test_normalizing_twice_changes_nothing(text):
    """Normalization is idempotent."""
    assert normalize_answer(normalize_answer(text)) == normalize_answer(text)


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1", "contained"),
    [
        ("The Paris.", ["paris"], 1, 1, 1),
        ("Paris, France", ["Paris"], 0, 2 / 3, 1),
        ("Paris, France", ["Lyon", "Paris", "france paris"], 0, 1, 1),
        ("Paris", ["Paris, France"], 0, 2 / 3, 0),
        ("New York City", ["new jersey"], 0, 2 / 5, 0),
        ("York New", ["New York"], 0, 1, 0),
        ("new big york", ["New York"], 0, 4 / 5, 0),
        ("Parisian", ["Paris"], 0, 0, 0),
        ("12", ["1"], 0, 0, 0),
        ("ha ha ha", ["ha ha"], 0, 4 / 5, 1),
        ("the", ["an"], 1, 1, 1),
        ("", ["Paris"], 0, 0, 0),
        ("Paris", ["the"], 0, 0, 0),
        ("Paris", ["the", "Paris"], 1, 1, 1),
    ],
)
def test_answers_score_as_computed_by_hand(answer, accepted, exact, f1, contained):
    """Each metric uses the best accepted answer."""
    assert exact_match(answer, accepted) == exact
    assert token_f1(answer, accepted) == pytest.approx(f1)
    assert contains_answer(answer, accepted) == contained


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_an_exact_answer_is_the_best_by_every_measure(answer, accepted):
    """An exact match is contained and has F1 1; the order of accepted answers does not count."""
    exact, f1 = exact_match(answer, accepted), token_f1(answer, accepted)
    contained = contains_answer(answer, accepted)
    assert exact <= contained <= 1
    assert exact <= f1 <= 1
    assert f1 >= 0
    assert contained == 0 or f1 > 0
    assert exact_match(answer, [answer, *accepted]) == token_f1(answer, [*accepted, answer]) == 1
    assert token_f1(answer, accepted[::-1]) == f1
    assert token_f1(answer, accepted[:1]) == token_f1(accepted[0], [answer])


def test_answers_score_as_by_the_official_scripts():
    """On answers with aliases, numbers, accents, and yes or no.

    Columns: answer, accepted answers, exact match and F1 of 2wikimultihop_evaluate_v1.1.py, whose
    F1 is that of hotpot_evaluate_v1.py, and F1 of SQuAD's evaluate-v1.1.py.
    """
    rows = json.loads(Path(__file__).with_name("official_answer_scores.json").read_text("utf-8"))
    assert len(rows) > 300
    for answer, accepted, exact, hotpot, squad in rows:
        assert exact_match(answer, accepted) == exact
        assert hotpot_f1(answer, accepted) == pytest.approx(hotpot, abs=1e-6), (answer, accepted)
        # SQuAD 2.0 differs from v1.1 for texts without words.
        if any(normalize_answer(text) for text in (answer, *accepted)):
            assert token_f1(answer, accepted) == pytest.approx(squad, abs=1e-6), (answer, accepted)


@given(texts, st.lists(texts, min_size=1, max_size=3))
def test_yes_and_no_are_right_or_wrong_as_a_whole(answer, accepted):
    """HotpotQA's F1 is SQuAD's, or less because of a yes, a no, or no words."""
    assert hotpot_f1(answer, accepted) <= token_f1(answer, accepted)
    closed = [text for text in accepted if text in ("yes", "no", "noanswer")]
    if (
        not closed
        and answer not in ("yes", "no", "noanswer")
        and all(map(normalize_answer, accepted))
    ):
        assert hotpot_f1(answer, accepted) == token_f1(answer, accepted)
    assert hotpot_f1("no", ["no one"]) == hotpot_f1("yes it is", ["yes"]) == 0


@pytest.mark.parametrize("measure", [exact_match, token_f1, hotpot_f1, contains_answer])
@pytest.mark.parametrize("accepted", ["Paris", []])
def test_accepted_answers_are_a_nonempty_list(measure, accepted):
    """A string would be split into letters, and an empty list matches nothing."""
    with pytest.raises(ValueError, match="accepted"):
        measure("Paris", accepted)


# Sets


@pytest.mark.parametrize(
    ("predicted", "gold", "f1"),
    [
        ([1, 2, 3], [2, 3, 4, 5], 4 / 7),
        ([1, 1, 1], [1], 1),
        ([], [], 1),
        ([], [1], 0),
        ([1], [], 0),
        (["a"], ["b"], 0),
    ],
)
def test_sets_score_as_computed_by_hand(predicted, gold, f1):
    """F1 is twice the common IDs over all IDs, each counted once."""
    assert set_f1(iter(predicted), iter(gold)) == pytest.approx(f1)


@given(ids, ids)
def test_f1_of_sets_is_the_harmonic_mean(predicted, gold):
    """It is symmetric, 1 for equal sets, and the harmonic mean of precision and recall."""
    f1 = set_f1(predicted, gold)
    assert f1 == set_f1(gold[::-1], predicted * 2)
    assert set_f1(predicted, predicted) == 1
    common = len(set(predicted) & set(gold))
    if common:
        precision, recall = common / len(set(predicted)), common / len(set(gold))
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert f1 == (not predicted and not gold)


@pytest.mark.parametrize("measure", [set_f1, node_f1])
def test_a_string_is_not_a_set(measure):
    """It would be split into letters."""
    with pytest.raises(ValueError, match="predicted"):
        measure("d1", ["d1"])
    with pytest.raises(ValueError, match="gold"):
        measure(["d1"], "d1")


# ROUGE-L


def naive_rouge(predicted, reference):
    """Compute ROUGE-L of two lists of tokens from the table of all prefixes."""
    above = [0] * (len(reference) + 1)
    for token in predicted:
        row = [0]
        for index, other in enumerate(reference):
            row.append(above[index] + 1 if token == other else max(row[-1], above[index + 1]))
        above = row
    if not above[-1]:
        return 0.0
    precision, recall = above[-1] / len(predicted), above[-1] / len(reference)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("predicted", "reference", "score"),
    [
        # Lin 2004, section 3.1: 3/4 and 2/4 with beta = 1.
        ("police killed the gunman", "police kill the gunman", 3 / 4),
        ("the gunman kill police", "police kill the gunman", 2 / 4),
        ("the cat sat on the mat", "the cat was on a mat", 2 / 3),
        ("Step 1: call the_tool", "call tool (step 1)", 4 / 9),
        ("one two", "ONE, two!", 1),
        ("one", "one two three", 1 / 2),
        ("", "", 0),
        ("one", "", 0),
        ("?!", "one", 0),
        ("\u6771\u4eac", "\u6771\u4eac", 0),
    ],
)
def test_rouge_scores_as_computed_by_hand(predicted, reference, score):
    """Tokens are runs of a-z and 0-9; the third and fourth are rouge-score's values too."""
    assert rouge_l(predicted, reference) == pytest.approx(score)


def test_rouge_agrees_with_the_table_of_prefixes():
    """The bit-parallel length is that of dynamic programming, in small and large vocabularies."""
    rng = random.Random(0)
    for _ in range(400):
        vocabulary = [f"w{i}" for i in range(rng.choice([1, 2, 4, 30]))]
        left, right = (rng.choices(vocabulary, k=rng.randrange(80)) for _ in range(2))
        assert rouge_l(" ".join(left), " ".join(right)) == pytest.approx(naive_rouge(left, right))


@given(texts, texts)
def test_rouge_is_symmetric_and_bounded(left, right):
    """With beta = 1 it is symmetric, within 0 and 1, and 1 for equal texts that have tokens."""
    assert 0 <= rouge_l(left, right) == rouge_l(right, left) <= 1
    assert rouge_l(left + " x", left + " x") == 1


def test_rouge_is_fast_enough_for_long_texts():
    """Two texts of 5,000 tokens take less than a second."""
    rng = random.Random(0)
    left, right = (" ".join(str(rng.randrange(50)) for _ in range(5000)) for _ in range(2))
    start = time.process_time()
    assert 0 < rouge_l(left, right) < 1
    assert time.process_time() - start < 1


# Tool calls


@pytest.mark.parametrize(
    ("predicted", "gold", "f1"),
    [
        (["get_news", "Send  Mail"], ["send_mail", "get news"], 1),
        (["a", "b", "b"], ["b", "c", "d"], 2 / 5),
        ([], [], 1),
        (["a"], [], 0),
    ],
)
def test_tools_score_as_computed_by_hand(predicted, gold, f1):
    """Names are compared with blanks for underscores, regardless of case, as sets."""
    assert node_f1(predicted, gold) == pytest.approx(f1)


GOLD = [
    call("book_flight", {"from": "Oslo", "seats": 2, "extras": {"meal": True, "bags": [1, 2]}}),
    call("get_news"),
]


@pytest.mark.parametrize(
    ("predicted", "f1", "name_f1"),
    [
        (GOLD, 1, 1),
        (GOLD[::-1] + GOLD, 1, 1),
        ([], 0, 0),
        ([GOLD[1]], 2 / 5, 2 / 5),
        ([call("get_news", {}), call("Book Flight")], 2 / 6, 2 / 6),
        ([call("book_flight", {"From": " 'oslo' ", "seats": "2.0"})], 4 / 6, 4 / 6),
        ([call("book_flight", {"from": "Rome", "seats": True})], 0, 4 / 6),
        ([call("book_flight", {"extras": {"bags": [1.0, 2], "meal": True}})], 2 / 5, 2 / 5),
        ([call("book_flight", {"extras": {"bags": [2, 1], "meal": True}})], 0, 2 / 5),
        ([call("book_train", {"from": "Oslo"})], 0, 0),
        ([call("book_flight", [{"name": "from", "value": "OSLO"}, "Oslo"])], 2 / 6, 2 / 6),
    ],
)
def test_arguments_score_as_computed_by_hand(predicted, f1, name_f1):
    """The right calls have three triples for a flight and one for the news."""
    assert argument_f1(predicted, GOLD) == pytest.approx(f1)
    assert argument_name_f1(predicted, GOLD) == pytest.approx(name_f1)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (2, 2.0, True),
        (2, "2", True),
        (2000, "2e3", True),
        (0.0, -0.0, True),
        (0.1, "0.10", True),
        (2**53, 2**53 + 1, False),
        (math.nan, math.nan, True),
        (math.inf, -math.inf, False),
        ("007", 7, False),
        ("1e99999999999999999999", "1E99999999999999999999", True),
        (1, True, False),
        (0, False, False),
        ("true", True, False),
        (None, "None", False),
        (None, "", False),
        (None, False, False),
        ("New  York ", "'new york'", True),
        ('"', '""', False),
        ("don't", "dont", False),
        ([1, [2]], (1, ("2",)), True),
        ([1, 2], [2, 1], False),
        ({"a": 1, "B": None}, {"b": None, "a": "1"}, True),
        ([], {}, False),
        (["a"], "a", False),
    ],
)
def test_values_are_equal_by_meaning(left, right, same):
    """Texts regardless of case, blanks and quotes; numbers by value; booleans apart."""
    assert argument_f1([call("t", {"x": left})], [call("t", {"x": right})]) == same


def test_the_forms_of_arguments_are_equal():
    """A mapping and a list of names and values are one; plain values have no name."""
    listed = [{"name": "To", "value": "Ann"}, {"name": "copy_to", "value": "Bob"}]
    mapped = {"copy to": "bob", "to": "ann"}
    assert argument_f1([call("mail", listed)], [call("mail", mapped)]) == 1
    plain = [call("crop", ["cat.jpg", "<node-0>"])]
    assert argument_f1(plain, [call("crop", ["<node-0>", "cat.jpg"])]) == 1
    assert argument_f1(plain, [call("crop", ["cat.jpg"])]) == pytest.approx(2 / 3)
    assert argument_name_f1(plain, [call("crop", ["dog.jpg"])]) == 1
    assert argument_f1([{"tool": "t"}], [call("t", [])]) == 1


@given(calls, calls, st.randoms(use_true_random=False))
def test_order_of_calls_and_arguments_makes_no_difference(predicted, gold, rng):
    """F1 of arguments is symmetric, bounded, 1 for equal calls, and blind to order."""
    f1 = argument_f1(predicted, gold)
    shuffled = [dict(reversed(item.items())) for item in rng.sample(predicted, len(predicted))]
    for item in shuffled:
        arguments = item.get("arguments")
        if isinstance(arguments, dict):
            item["arguments"] = dict(reversed(arguments.items()))
        elif arguments:
            item["arguments"] = arguments[::-1]
    assert f1 == argument_f1(shuffled, gold) == argument_f1(gold, predicted)
    assert argument_f1(predicted, shuffled) == 1
    assert 0 <= f1 <= 1
    names_f1 = argument_name_f1(predicted, gold)
    assert names_f1 == argument_name_f1(gold, shuffled)
    tools = [[item["tool"] for item in part] for part in (predicted, gold)]
    assert (f1 > 0) <= (names_f1 > 0) <= (node_f1(*tools) > 0)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("get_news", "not a mapping"),
        ({"arguments": {}}, "'tool' is not a string"),
        ({"tool": 3}, "'tool' is not a string"),
        (call("t", "x"), "neither a mapping nor a list"),
        (call("t", 0), "neither a mapping nor a list"),
        (call("t", {1: "x"}), "name 1 is not a string"),
        (call("t", [{"name": None, "value": 1}]), "name None is not a string"),
        (call("t", {"x": b"bytes"}), "bytes is not a JSON value"),
    ],
)
def test_malformed_calls_are_errors(item, reason):
    """The error has the position of the call and the reason."""
    with pytest.raises(ValueError, match=rf"`predicted\[1\]`.*{reason}"):
        argument_f1([call("t"), item], [])
    with pytest.raises(ValueError, match=rf"`gold\[0\]`.*{reason}"):
        argument_name_f1([], [item])


def test_deep_nesting_is_an_error():
    """A value nested thousands deep does not exceed the recursion limit."""
    value = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        argument_f1([call("t", {"x": value})], [])


# Cosine


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([1, 0], [0, 2], 0),
        ([1, 2], [2, 4], 1),
        ([1, 2], [-1, -2], -1),
        ([3, 4], [4, 3], 24 / 25),
        ([1, 1], [1, 0], math.sqrt(0.5)),
        ([0, 0], [1, 2], 0),
        ([], [], 0),
        ([1e300, 1e300], [1e-300, 0], math.sqrt(0.5)),
    ],
)
def test_cosines_are_as_computed_by_hand(a, b, value):
    """Lengths do not matter, however large or small."""
    assert cosine(a, b) == pytest.approx(value, abs=1e-15)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, finite), max_size=6))
def test_cosine_is_symmetric_odd_and_bounded(pairs):
    """Negating one vector changes the sign; a vector is parallel to itself."""
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    assert -1 <= cosine(a, b) == cosine(b, a) <= 1
    assert cosine([-x for x in a], b) == -cosine(a, b)
    assert cosine(a, a) == pytest.approx(float(any(a)))


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([1.0], [1.0, 2.0], "same length, got 1 and 2"),
        ([math.nan], [1.0], "`a`"),
        ([1.0], [math.inf], "`b`"),
        ([[1.0]], [[1.0]], "`a`"),
    ],
)
def test_vectors_are_flat_finite_and_of_equal_length(a, b, reason):
    """Other vectors are rejected."""
    with pytest.raises(ValueError, match=reason):
        cosine(a, b)


# Programs

FINISHED = [
    "print('pass the salt, TODO')",
    "try:\n    x = 1\nexcept KeyError:\n    pass\n",
    "class BoardError(Exception):\n    pass\n",
    "class BoardError(Exception):\n    '''A board.'''\n",
    "class Base(DeclarativeBase): ...\n",
    "def f():\n    '''Doc.'''\n    return 1\n",
    "def f():\n    return None\n",
    "def f(x):\n    if x:\n        return 1\n    raise NotImplementedError\n",
    "from abc import ABC, abstractmethod\n"
    "class A(ABC):\n    @abstractmethod\n    def f(self):\n        '''Doc.'''\n        ...\n",
    "class A(abc.ABC):\n    @property\n    @abc.abstractmethod\n    def f(self): pass\n",
    "import typing\nclass P(typing.Protocol[T]):\n    async def f(self) -> int: ...\n",
    "@overload\ndef f(x: int) -> int: ...\ndef f(x): return x\n",
    "x = 1  # Adds an item to the todo list.\n",
    "x = 1  # todo items by day\n",
    "x = 1  # Opens the page of the todo (and closes it).\n",
    "x = 1  # a mask such as 1234-XXX\n",
    "x = 1  # looks like XXX-XX-1234\n",
    "# implemented with care, see below; where is it?\nx = 1\n",
    "import re\nre.compile('\\d')\n",
    "x = 1\r\ny = 2\r\n",
    "def f():\r    if 1:\r        return 1\r    return 2\r",
    "x = '# TODO'\n",
]

UNFINISHED = [
    "",
    " \n\n",
    "# nothing but a comment\n",
    "'''Nothing but a docstring.'''\n",
    "pass",
    "def f(:\n",
    "```python\nx = 1\n```",
    "x = '\0'",
    "\ud800",
    "x = " + "-" * 100_000 + "1",
    "def f():\n    pass\n",
    "async def f():\n    '''Doc.'''\n",
    "def f(): ...\n",
    "def f():\n    '''Doc.'''\n    raise NotImplementedError\n",
    "def f():\n    raise NotImplementedError('later')\n",
    "class A:\n    x = 1\n    def f(self):\n        pass\n",
    "class A(Exception):\n    def f(self):\n        pass\n",
    "class A:\n    pass\n",
    "def f():\n    def g(): pass\n    return g\n",
    "class P(Protocol):\n    def f(self): ...\nclass A(P):\n    def f(self): ...\n",
    "x = 1  # TODO\n",
    "x = 1  # TODO: more\n",
    "x = 1  #TODO(me) more\n",
    "x = 1  # todo: more\n",
    "x = 1  # see FIXME below\n",
    "x = 1  # XXX, wrong\n",
    "x = 1  # fixme later\n",
    "# Your code here\nx = 1\n",
    "# Your logic goes here\nx = 1\n",
    "# Implement the game logic here.\nx = 1\n",
    "x = 1\r# TODO\r",
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("code", FINISHED)
def test_finished_programs_are_complete(code):
    """Similar-looking code is not a placeholder, and warnings of the source are suppressed."""
    assert completeness(code) == 1.0


@pytest.mark.parametrize("code", UNFINISHED)
def test_placeholders_make_a_program_incomplete(code):
    """Stubs, reminders, empty source and syntax errors score 0."""
    assert completeness(code) == 0.0


@settings(max_examples=50)
@given(st.sampled_from(FINISHED), st.sampled_from(FINISHED), st.sampled_from(UNFINISHED[10:]))
def test_one_placeholder_is_enough(first, second, stub):
    """Two complete programs together are complete, unless a stub is added."""
    assert completeness(f"{first}\n{second}") == 1.0
    assert completeness(f"{first}\n{stub}\n{second}") == 0.0


@given(st.text(max_size=30))
def test_any_text_has_a_completeness(text):
    """It raises for no text."""
    assert completeness(text) in (0.0, 1.0)
