"""What a reply chooses: ids from its last answer list, and from nowhere else."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts_integrations.tasks.answering import parse_answer
from optuna_agenttts_integrations.tasks.selection import (
    Selection,
    format_candidates,
    parse_selection,
    selection_vote,
)
from optuna_agenttts_integrations.testing.simulated_replies import (
    selection_answer,
    simulated_selection,
)

HUGE = "9" * 10_000
IDS = st.lists(st.integers(1, 100), unique=True).map(sorted)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Passages [3] and [99] help, 2 more do not.\nAnswer: [4, 31]", (4, 31)),
        ("I think Answer: [99] is wrong.\nAnswer: [4]\nAnswer: [5]", (5,)),
        ("Answer: [4, 31] (passages [98] and [99] are about his mother)", (4, 31)),
        ("Answer: [4] and [99] is about his mother", (4,)),
        ("Answer: [3]\n\n[7] says so.", (3,)),
        ("Answer: [3]\nAnswer: I am not sure", (3,)),
        ("**Answer:** [4]", (4,)),
        ("**Answer: [4]**", (4,)),
        ("__Answer__: **[4]**.", (4,)),
        ("- Answer: `[4]`", (4,)),
        ("Final answer: [4]", (4,)),
        ("answer : [4]\r\n", (4,)),
        ("```\nAnswer: [4]\n```", (4,)),
        ('```json\n{"answer": [4, 31]}\n```', (4, 31)),
        ("Answer:\n[4, 31]", (4, 31)),
        ("Answer: [\n  4,\n  31\n]", (4, 31)),
        ("Answer: [4], [31]", (4, 31)),
        ("Answer: [4] [31]", (4, 31)),
        ("Answer: [4]\nand [31]", (4, 31)),
        ("Answer: [[4], [31]]", (4, 31)),
        ("Answer: [passage 4, Passage 31]", (4, 31)),
        ("Answer: passages [4, 31]", (4, 31)),
        ("Answer: [\"4\", '31']", (4, 31)),
        ("Answer: [4: Kubrick; 31 (of 1928)]", (4, 31)),
        ("Answer: [004 31]", (4, 31)),
        ("Answer: [3-5]", (3, 4, 5)),
        ("Answer: [3\u20135, 8]", (3, 4, 5, 8)),
        ("Answer: [3 to 5]", (3, 4, 5)),
        ("Answer\uff1a\uff3b\uff14\uff0c\uff13\uff11\uff3d", (4, 31)),
        ("Answer: []", ()),
        ("Answer: [none]", ()),
        ("Answer: none", ()),
        ("Answer: **None**.", ()),
        ("Answer: None of [3] and [4] helps", ()),
        ("Answer: [4]\nAnswer: none", ()),
    ],
)
def test_ids_are_those_of_the_last_answer_list(text, ids):
    """Whatever stands around the list, and however it is dressed."""
    assert parse_selection(text, 100) == Selection(ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Passages [3] and [4].",
        "The answer is in [3].",
        "I think Answer: [3]",
        "Answer: 3, 4",
        "Answer: Paris",
        "Answer: [Paris]",
        "Answer: [12 Angry Men]",
        "Answer: [3, 4",
        "Answer: [3, 4\n\nsee [99]",
        "Answer:\n[3] says that [4] is wrong",
        "Answers differ: [3]",
        "Nonetheless: [3]",
    ],
)
def test_replies_without_an_answer_list_are_malformed(text):
    """Numbers in thoughts, cut lists and lists of something else are none."""
    assert parse_selection(text, 100) is None


def test_what_names_no_candidate_or_one_again_is_counted_and_left_out():
    """0, negative numbers, fractions, too large ones, words; the rest is kept."""
    for text, expected in (
        ("Answer: [0, -3, 3.5, 101, 7]", Selection((7,), 4, 0)),
        ("Answer: [7, 7, 7, 100]", Selection((7, 100), 0, 2)),
        ("Answer: [3-5, 4]", Selection((3, 4, 5), 0, 1)),
        ("Answer: [99-102]", Selection((99, 100), 1, 0)),
        ("Answer: [5-3]", Selection((3, 5), 0, 0)),
        ("Answer: [Paris, 7]", Selection((7,), 1, 0)),
        (f"Answer: [{HUGE}, 7]", Selection((7,), 1, 0)),
        (f"Answer: [{HUGE}-{HUGE}]", Selection((), 2, 0)),
    ):
        assert parse_selection(text, 100) == expected


@given(IDS, st.text(), st.text(alphabet="[]0123456789, \n-Passage:*`"))
def test_thoughts_before_the_answer_never_count(ids, thoughts, more):
    """Any text on the lines before the answer list leaves it as it is."""
    text = f"{thoughts}\n{more}\n{selection_answer(ids)}"
    assert parse_selection(text, 100) == Selection(tuple(ids))


@given(st.text(alphabet='Answer: []nof,\n0123456789-.*`{}"'), st.integers(1, 50))
def test_whatever_is_read_names_candidates(text, count):
    """Ids are within range, ascending and none twice; nothing raises."""
    for reply in (text, f"Answer: {text}", f"Answer: [{text}]"):
        found = parse_selection(reply, count)
        if found is not None:
            assert found.ids == tuple(sorted(set(found.ids)))
            assert all(1 <= number <= count for number in found.ids)
            assert found.out_of_range >= 0
            assert found.repeated >= 0


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 20_000,
        "_*" * 10_000,
        "Answer:" * 3_000,
        "\nAnswer:" * 3_000,
        "Answer:" + " \n" * 10_000,
        "Answer: [" + " " * 20_000 + "x]",
        "Answer: [" + "!" * 20_000 + "x]",
        "Answer: " + "[" * 20_000,
        "Answer: " + "[1], " * 5_000 + "x",
        "Answer: [1" + "." * 20_000 + "x]",
        "Answer: [" + "1 " * 10_000 + "]",
    ],
)
def test_long_nonsense_is_read_in_no_time(text):
    """No reply takes time that grows with the square of its length."""
    started = time.perf_counter()
    parse_selection(text, 100)
    parse_answer(text, None)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: Paris", "Paris"),
        ("It is not Rome.\n**Answer:** Rome?\n**Answer: Paris**", "Paris"),
        ("Final Answer: `Paris`", "Paris"),
        ("Answer:\n\nParis\n\nbecause ...", "Paris"),
        ("Answer:\n```\nParis\n```", "Paris"),
        ("Answer:\nAnswer: Paris", "Paris"),
        ("Answer: Paris\nAnswer:", "Paris"),
        ("```\nAnswer: Paris\n```", "Paris"),
        ("Answer\uff1aParis", "Paris"),
        ("Answer: 12:30", "12:30"),
        ("Answer: Ma\u0142gorzata Braunek", "Ma\u0142gorzata Braunek"),
        ("Answer:", None),
        ("Answer: **", None),
        ("The answer: Paris", None),
        ("Paris", None),
        ("", None),
    ],
)
def test_an_answer_is_the_last_answer_line(text, answer):
    """Or the first line below it; without Markdown around it."""
    assert parse_answer(text, None) == answer


def test_vote_keeps_what_enough_samples_choose_and_adds_counts():
    """A half of four samples is two of them."""
    samples = [Selection((1, 2), 1, 0), Selection((2,), 0, 2), Selection((3,)), Selection(())]
    assert selection_vote(0.5)(samples) == Selection((2,), 1, 2)
    assert selection_vote(0.01)(samples) == Selection((1, 2, 3), 1, 2)
    assert selection_vote(1.0)(samples) == Selection((), 1, 2)
    assert selection_vote(0.5)(samples[:1]) == samples[0]
    with pytest.raises(ValueError, match="`threshold` must be above 0 and at most 1, got 0"):
        selection_vote(0)


def test_candidates_are_format_candidates_from_1():
    """One a line."""
    assert format_candidates(["a", "b"]) == "[1] a\n[2] b"
    assert format_candidates([]) == ""


@given(st.integers(1, 30), st.data(), st.integers())
def test_simulated_selections_are_right_or_wrong_as_told(count, data, seed):
    """Right ones are the gold candidates, wrong ones never; both can be read."""
    chosen = data.draw(st.sets(st.integers(1, count), max_size=count))
    gold = tuple(sorted(chosen))
    for right in (True, False):
        text = simulated_selection(gold, count, right, random.Random(seed))
        found = parse_selection(text, count)
        assert found.out_of_range == found.repeated == 0
        assert (found.ids == gold) == right
