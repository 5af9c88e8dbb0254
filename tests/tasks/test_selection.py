"""What a reply chooses: ids from its last list, and from nowhere else."""

import json
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
    ("text", "ids"),
    [
        ("Answer: 1, 3", (1, 3)),
        ("Answer: 1 and 3", (1, 3)),
        ("Answer: (1) and (3)", (1, 3)),
        ("Answer: (1, 3)", (1, 3)),
        ("Answer: {1, 3}", (1, 3)),
        ("Answer: Passages 1 and 3", (1, 3)),
        ("Answer: passages 1, 3, and 5.", (1, 3, 5)),
        ("Answer: Passage 1, Passage 3", (1, 3)),
        ("Answer: Passages 1 and 3 are relevant.", (1, 3)),
        ("Answer: #1, #3", (1, 3)),
        ("Answer: No. 3", (3,)),
        ("Answer:\n- 1\n- 3", (1, 3)),
        ("Answer:\n* Passage 1\n* Passage 3", (1, 3)),
        ("Answer:\n\u2022 [1]\n\u2022 [3]", (1, 3)),
        ("Answer:\n1\n3", (1, 3)),
        ("Answer:\n- [1] (Nile, river.mouth, Sea)\n- [3] (a, r, b)", (1, 3)),
        ("Answer:\n[1] (Nile, river.mouth, Sea)\n[3] (a, r, b)", (1, 3)),
        ("Answer: [1] (Nile, r, 12), [3] (a, b, c)", (1, 3)),
        ("Answer:\n1. [4]\n2. [7]", (4, 7)),
        ("Answer:\n1. Passage 4\n2. Passage 7", (4, 7)),
        ("Answer:\n4. (a, r, b)\n7. (a, r, c)", (4, 7)),
        ("Answer: 3-5", (3, 4, 5)),
        ("Answer: 3 to 5 and 8", (3, 4, 5, 8)),
        ("Answer: Passages 3\u20135", (3, 4, 5)),
        ("Answer: [3]-[5]", (3, 4, 5)),
        ("Answer: triples 3 through 5", (3, 4, 5)),
        ('{"answer": [1, 3]}', (1, 3)),
        ('{"reasoning": "because of [9]", "answer": [1, 3]}', (1, 3)),
        ('```json\n{"selected_ids": [1, 3]}\n```', (1, 3)),
        ('{"ids": ["1", "3"]}', (1, 3)),
        ('{"passages": [{"id": 1, "text": "x, 7"}, {"id": 3, "text": "y"}]}', (1, 3)),
        ('Answer: [{"id": 1, "text": "x"}, {"id": 3, "text": "y"}]', (1, 3)),
        ('Answer:\n```json\n[\n  {"id": 1},\n  {"id": 3}\n]\n```', (1, 3)),
        ('{\n  "answer": [\n    1,\n    3\n  ]\n}', (1, 3)),
        ('Answer: {"ids": [1, 3]}', (1, 3)),
        ('Answer:\n```json\n{\n  "answer": [1, 3]\n}\n```\nDone.', (1, 3)),
        ('Answer: {"answer": "none"}', ()),
        ('Sure!\n{"reason": "x", "facts": [1, 3]}', (1, 3)),
        ("**Answer: 1, 3**", (1, 3)),
        ("**Answer**: **1**, **3**", (1, 3)),
        ("### Answer\n[1, 3]", (1, 3)),
        ("## Final Answer\n\n1, 3", (1, 3)),
        ("**Answer**\n- 1\n- 3", (1, 3)),
        ("The answer is: [1, 3]", (1, 3)),
        ("The final answer is: 1, 3", (1, 3)),
        ("Hence $\\boxed{1, 3}$.", (1, 3)),
        ("Answer: $\\boxed{[1, 3]}$", (1, 3)),
        ("\\boxed{\\{1, 3\\}}", (1, 3)),
        ("\\[ \\boxed{\\text{Answer: } [1, 3]} \\]", (1, 3)),
        ("\\boxed{1} and \\boxed{3}", (1, 3)),
        ("\\boxed{\\text{none}}", ()),
        ("Answer: \\boxed{1,3}", (1, 3)),
        ("<think>Passages [9] [8]. Answer: [7]</think>\nAnswer: 1, 3", (1, 3)),
        ("<think>hm [7]</think>[1, 3]", (1, 3)),
        ("Let me see [7] and 8.\n</think>\n\nAnswer: [1, 3]", (1, 3)),
        ("[1, 3]", (1, 3)),
        ("1, 3", (1, 3)),
        ("Passages 1 and 3", (1, 3)),
        ("Passages [1] and [3].", (1, 3)),
        ("[1] [3]", (1, 3)),
        ("None", ()),
        ("none.", ()),
        ("- [1]\n- [3]", (1, 3)),
        ("Selected facts: [1, 3]", (1, 3)),
        ("Answer: The relevant passages are 1 and 3.", (1, 3)),
        ("Answer: The needed facts are [1, 3].", (1, 3)),
        ("Answer:\n- 1\n\n- 3", (1, 3)),
        ("Answer: 1, 3\n\n1. It says so.\n2. And this.", (1, 3)),
        ("Answer: 3\n\n1998 was a year", (3,)),
        ('{"selected": [1, 3], "why": "7"}', (1, 3)),
        ('{"passageIds": [1, 3]}', (1, 3)),
        ("Answer: [1]: (a, r, b)\n[3]: (c, r, d)", (1, 3)),
        ("Relevant passages: 1, 3", (1, 3)),
        ("Selected knowledge triplets: [1] <a, r, b>\n[3] <a, r, c>", (1, 3)),
        ("The relevant facts are: 1 and 3", (1, 3)),
        ("They say 7 things.\n\n[1, 3]", (1, 3)),
        ("Answer: 1\u30013", (1, 3)),
        ("Answer: \u30101\u3011\u30103\u3011", (1, 3)),
        ("Answer: \u30101\u2020source\u3011\u30103\u2020source\u3011", (1, 3)),
        ("Answer: no relevant facts", ()),
        ("Answer: No passages.", ()),
        ("Answer: N/A", ()),
        ('{"answer": []}', ()),
        ('{"answer": "none"}', ()),
        ('{"answer": null}', ()),
        ('{"answer": "1, 3"}', (1, 3)),
        ("Answer: 1; 3", (1, 3)),
        ("Answer: 1 / 3", (1, 3)),
        ("Answer: 1 & 3", (1, 3)),
        ("Answer: 1 3", (1, 3)),
        ("Answer: [1,3], because they name him.", (1, 3)),
        ("Answer: `1`, `3`", (1, 3)),
        ("Answer: [Fact 1, Fact 3]", (1, 3)),
        ("Answer: [#1, #3]", (1, 3)),
        ("Answer: [Fact1, fact_3]", (1, 3)),
        ("Answer: T1, T3", (1, 3)),
        ("Answer: both 1 and 3", (1, 3)),
        ("Answer: passages numbered 1 and 3", (1, 3)),
        ("Answer: [1], [3], etc.", (1, 3)),
        ("Answer: 1 | 3", (1, 3)),
        ("Answer: <1><3>", (1, 3)),
        ("<answer>[1, 3]</answer>", (1, 3)),
        ("ids = [1, 3]", (1, 3)),
        ("Answer \u2192 [1, 3]", (1, 3)),
        ("Therefore, the answer is [1, 3].", (1, 3)),
        ("Answer: {}", ()),
        ("Answer: [3 through 5]", (3, 4, 5)),
        ("Answer: id 1, id 3", (1, 3)),
        ("Answer: <1>, <3>", (1, 3)),
        ("> Answer: [1, 3]", (1, 3)),
        ("1. Answer: [1, 3]", (1, 3)),
        ("Answer: [1, 3]\n\nNote: I ignored [9].", (1, 3)),
        ("Answer: 3", (3,)),
        ("Answer: 1, 3.\n\nThese facts say that in 1998 he moved.", (1, 3)),
        ("Answer: [1, 3]\nExplanation: 7 is wrong", (1, 3)),
        ("Answer: [**1**, **3**]", (1, 3)),
        ("Answer: **[1]**, **[3]**", (1, 3)),
        ("Answer: *1* and *3*", (1, 3)),
        ("Answer:\n1) [1]\n2) [3]", (1, 3)),
        ("Answer:\n(1)\n(3)", (1, 3)),
        ("Answer:\n- Fact 1: (a, r, b)\n- Fact 3: (c, r, d)", (1, 3)),
        ("Answer: Facts [1] and [3]", (1, 3)),
        ("Answer: Facts 1-3, 7", (1, 2, 3, 7)),
        ("Answer: 1,3", (1, 3)),
        ("Answer:1,3", (1, 3)),
        ("Answer: 1, 3,", (1, 3)),
        ("Answer: (1), (3)", (1, 3)),
        ("Answer: [1, 3] \u2705", (1, 3)),
        ("Answer:\n- **[1]** The river\n- **[3]** The sea", (1, 3)),
        ("\u7b54\u6848\uff1a[1]\u548c[3]", (1, 3)),
        ("\u6700\u7ec8\u7b54\u6848: \u300c1\u300d\u3001\u300c3\u300d", (1, 3)),
        ("Answer: \u65e0", ()),
        ("Answer: 1~3", (1, 2, 3)),
        ("Answer: [1.0, 3.0]", (1, 3)),
        ('{"answer": [1.0, 3.0]}', (1, 3)),
        ("Answer: \\(1, 3\\)", (1, 3)),
        ('{"thought": "In 1998", "output": [1, 3]}', (1, 3)),
        ("The needed passages are 1 and 3.", (1, 3)),
        ("None of the above.", ()),
        ("Answer: There are no relevant passages.", ()),
        (
            "Answer:\n| # | Passage | why |\n|---|:-:|---|\n| 1 | [1] | x |\n| 2 | [3] | 7 |",
            (1, 3),
        ),
        ("| **Fact ID** | why |\n| --- | --- |\n| 1 | 9 |\n| 3 | x |", (1, 3)),
    ],
)
def test_lists_are_read_in_the_forms_that_models_write(text, ids):
    """Without brackets, in bullets, as JSON, boxed, after other labels, or alone."""
    assert parse_selection(text, 100) == Selection(ids)


@pytest.mark.parametrize(
    "text",
    [
        "In 1998 he wrote 3 books.",
        "Facts [3] and [7] show that he lived.",
        "I choose [1, 3] of them, as the answer is [unknown].",
        "Answer: [1:3]",
        "Answer: most of 12",
        "Facts: [3] and [7] show that he lived.",
        "Answer: the following facts are new: [1, 3]",
        "The 3 passages 1 and 2 say so",
        "Answer: 12 Angry Men",
        "Answer: 1998 was the year",
        "Answer: 3.5",
        "Answer: 50%",
        "Answer: The 3rd man",
        "Answer: 3 passages help",
        "I need 1, 3 and more.",
        "There are 100 facts",
        "Answer:\n1. First, he was born\n2. Then he died",
        "It was 1998\n[citation needed]",
        "1. He was born in 1998\n2. He died",
        "Answer: I would pick 3 or 4",
        "Answer: about 3",
        "Step 3: look at 4",
        "Question 3: [4] says",
        "Answer: Paris (2, 3)",
        "Answer:\n| id |\n| 1 |",
        "Answer:\n| year | name |\n|---|---|\n| 19 | x |",
        '{"why": "In 1998", "years": [1998, "or so"]}',
        "None of the 3 above.",
        "They are 1 and 3.",
        "answer: [1, 3",
    ],
)
def test_numbers_in_prose_are_no_ids(text):
    assert parse_selection(text, 100) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: [3, the other one]", Selection((3,), 1, 0, 1)),
        ("Answer: [3, 4.5]", Selection((3,), 1, 0, 1)),
        ("Answer:\n- 3\n- 4 or so", Selection((3,), 0, 0, 1)),
        ("Answer: [3, 7]\n(9) says so", Selection((3, 7), 0, 0, 1)),
        ("Answer: [4] and [99] is about his mother", Selection((4,), 0, 0, 1)),
        ("Answer: [3] och [7]", Selection((3,), 0, 0, 1)),
        ("Answer: 3: the film; 7: its director", Selection((3,), 0, 0, 1)),
        ("Answer: [3], because of the film; [7], its director", Selection((3,), 0, 0, 1)),
        ('{"ids": [3, {"name": "x"}]}', Selection((3,), 0, 0, 1)),
        ("Answer: [3, 200]", Selection((3,), 1, 0, 0)),
        ("Answer: [3]", Selection((3,), 0, 0, 0)),
    ],
)
def test_a_list_read_in_part_is_counted(text, expected):
    """Entries that cannot be read count, not numbers without a candidate."""
    assert parse_selection(text, 100) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is in [3].",
        "I think Answer: [3]",
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
        ("Answer: [0, -3, 3.5, 101, 7]", Selection((7,), 4, 0, 1)),
        ("Answer: [7, 7, 7, 100]", Selection((7, 100), 0, 2)),
        ("Answer: [3-5, 4]", Selection((3, 4, 5), 0, 1)),
        ("Answer: [99-102]", Selection((99, 100), 1, 0)),
        ("Answer: [5-3]", Selection((3, 5), 0, 0)),
        ("Answer: [Paris, 7]", Selection((7,), 1, 0, 1)),
        (f"Answer: [{HUGE}, 7]", Selection((7,), 1, 0)),
        (f"Answer: [{HUGE}-{HUGE}]", Selection((), 2, 0)),
    ):
        assert parse_selection(text, 100) == expected


def bullets(ids):
    return "\n" + "\n".join(f"- {number}" for number in ids)


FORMS = [
    lambda ids: ", ".join(map(str, ids)),
    lambda ids: " and ".join(f"({number})" for number in ids),
    lambda ids: "Passages " + ", ".join(map(str, ids)) + ".",
    lambda ids: ", ".join(f"**[{number}]**" for number in ids),
    lambda ids: "; ".join(f"Fact {number} (a, r, b)" for number in ids),
    lambda ids: f"$\\boxed{{{', '.join(map(str, ids))}}}$",
    lambda ids: json.dumps([{"id": number, "text": "7 of 9"} for number in ids]),
    bullets,
    lambda ids: "\n" + "\n".join(f"{n}. [{number}]" for n, number in enumerate(ids, 1)),
    lambda ids: "\n" + "\n".join(f"[{number}] (a, r, {number})" for number in ids),
]


@pytest.mark.parametrize("form", FORMS)
@given(ids=IDS.filter(bool), thoughts=st.text(alphabet="[]0123456789, .aZ()\n-"))
def test_any_ids_are_read_in_any_form(form, ids, thoughts):
    """Whatever numbers the thoughts before them have."""
    text = f"<think>{thoughts}</think>I see {thoughts}\nAnswer: {form(ids)}"
    assert parse_selection(text, 100) == Selection(tuple(ids))


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
    started = time.process_time()
    parse_selection(text, 100)
    parse_answer(text, None)
    assert time.process_time() - started < 1.0


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
        ("The answer is: Paris", "Paris"),
        ('{"answer": "Paris"}', "Paris"),
        ('```json\n{\n  "answer": "The \\"City\\"",\n  "why": "x"\n}\n```', 'The "City"'),
        ('Answer: "Paris"', '"Paris"'),
        ('{"why": "It says so.", "answer": "Paris"}', "Paris"),
        ('Answer: {"answer": "Paris"}', "Paris"),
        ('{"answer": 1869}', "1869"),
        ('{"answer": true, "why": "x"}', "true"),
        ("Answer: {a, b}", "{a, b}"),
        ("The final answer is: **Paris**", "Paris"),
        ("1. Answer: Paris", "Paris"),
        ("<think>x</think><answer>Paris</answer>", "Paris"),
        ("It is his town.\n\n### Answer\nParis", "Paris"),
        ("Thus \\(\\boxed{\\text{New York}}\\).", "New York"),
        ("Answer: $\\boxed{Paris}$", "Paris"),
        ("\\boxed{Answer: Paris}", "Paris"),
        ("Answer: 12:30", "12:30"),
        ("Therefore, the answer is **Paris**.", "Paris"),
        ("So the answer is: Paris", "Paris"),
        ("Answer: The answer is Paris.", "Paris"),
        ("\u7b54\u6848\uff1aParis", "Paris"),
        ("[ANSWER]Paris[/ANSWER]", "Paris"),
        ("Answer:\n1. Paris", "Paris"),
        ("{'thought': 'x', 'answer': 'Paris'}", "Paris"),
        ('{"answer": "a draft", "final_answer": "Paris"}', "Paris"),
        ('{"answer": {"name": "Paris", "id": 7}}', "Paris"),
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
    samples = [
        Selection((1, 2), 1, 0, 1),
        Selection((2,), 0, 2, 1),
        Selection((3,)),
        Selection(()),
    ]
    assert selection_vote(0.5)(samples) == Selection((2,), 1, 2, 2)
    assert selection_vote(0.01)(samples) == Selection((1, 2, 3), 1, 2, 2)
    assert selection_vote(1.0)(samples) == Selection((), 1, 2, 2)
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
