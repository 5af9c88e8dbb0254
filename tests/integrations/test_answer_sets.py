"""Metrics of sets of answers, compared with the values of the official scripts."""

import pytest

from optuna_agenttts_integrations.scoring.answer_sets import (
    answer_set_f1,
    gog_match,
    hits_at_1,
    rog_f1,
    rog_hit,
    tog_match,
)

# Answers, gold answers of each parse, and the values of WebQSP's eval.py (F1), RoG's
# evaluate_results.py (F1 and hit) and of the exact match of ToG's eval/utils.py and of
# Generate-on-Graph's evaluate.py. The latter four get the gold answers of all parses.
OFFICIAL = [
    (["Lake Victoria"], [["Lake Victoria"]], (1.0, 1.0, 1.0, 1.0, 1.0)),
    (["Rome"], [["Romeo"]], (0.0, 0, 0.0, 1.0, 1.0)),
    (["Romeo"], [["Rome"]], (0.0, 1.0, 1.0, 1.0, 1.0)),
    (["New York"], [["York", "New York"]], (0.666667, 1.333333, 1.0, 1.0, 1.0)),
    (["Lake Victoria", "Lake Tana"], [["Lake Victoria"]], (0.666667, 0.666667, 1.0, 1.0, 1.0)),
    (["Lake Victoria"], [["Lake Victoria", "Lake Tana"]], (0.666667, 0.666667, 1.0, 1.0, 1.0)),
    (["Lake Victoria", "Rome"], [["Lake Tana"], ["Rome", "Lake Tana"]], (0.5, 0.5, 1.0, 1.0, 1.0)),
    (["Victoria"], [["Lake Victoria", "Victoria"], ["Victoria"]], (1.0, 0.666667, 1.0, 1.0, 1.0)),
    (["Rome", "Rome"], [["Rome"]], (1.0, 0.666667, 1.0, 1.0, 1.0)),
    (["NewYork"], [["New York"]], (0.0, 0, 0.0, 1.0, 0.0)),
    (["I do not know"], [["Rome"]], (0.0, 0, 0.0, 0.0, 0.0)),
    (
        ["Rome", "York", "a river"],
        [["Romeo", "The Nile", "a river", "Lake Victoria"]],
        (0.285714, 0.285714, 1.0, 1.0, 1.0),
    ),
    (["Lake Tana", "York"], [["Saint-Denis", "1869-10-02"], ["U.S."]], (0.0, 0, 0.0, 0.0, 0.0)),
    (
        ["Lake Victoria", "Rome"],
        [["New York", "Victoria", "Saint-Denis", "Rome"]],
        (0.333333, 0.666667, 1.0, 1.0, 1.0),
    ),
    (["Victoria"], [["Victoria", "Lake Victoria"], ["The Nile"]], (0.666667, 0.5, 1.0, 1.0, 1.0)),
    (
        ["Victoria", "Romeo"],
        [["The Nile", "1869-10-02", "a river"], ["Victoria", "Rome"]],
        (0.5, 0.571429, 1.0, 1.0, 1.0),
    ),
    (
        ["Saint-Denis", "New York"],
        [["Saint-Denis", "Victoria", "Rome"]],
        (0.4, 0.4, 1.0, 1.0, 1.0),
    ),
    (
        ["Lake Tana", "York", "New York"],
        [["Lake Tana", "New York", "York"]],
        (1.0, 1.0, 1.0, 1.0, 1.0),
    ),
    (
        ["Hugo Chávez", "Rome", "York"],
        [["Hugo Chávez", "Rome", "Victoria", "Lake Victoria"]],
        (0.571429, 0.571429, 1.0, 1.0, 1.0),
    ),
    (
        ["Lake Victoria", "Rome", "York"],
        [["1869-10-02"], ["York", "Saint-Denis", "U.S.", "Lake Victoria"]],
        (0.571429, 0.5, 1.0, 1.0, 1.0),
    ),
    (["Lake Victoria", "Rome", "Victoria", "U.S."], [["Romeo"]], (0.0, 0, 0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(("answers", "golds", "values"), OFFICIAL)
def test_values_are_those_of_the_official_scripts(answers, golds, values):
    accepted = list(dict.fromkeys(answer for gold in golds for answer in gold))
    found = (
        answer_set_f1(answers, [[(name,) for name in gold] for gold in golds]),
        rog_f1(answers, accepted),
        rog_hit(answers, accepted),
        tog_match(" ".join(answers), accepted),
        gog_match(answers, accepted),
    )
    assert found == pytest.approx(values, abs=1e-6)


def test_names_are_normalized_where_webqsp_compares_identifiers():
    gold = [[("The Nile", "Nile River"), ("U.S.",)]]
    assert answer_set_f1(["nile", "US"], gold) == 1
    assert answer_set_f1(["Nile River", "the nile"], gold) == pytest.approx(2 / 3)
    assert answer_set_f1(["nile", "nile"], gold) == pytest.approx(2 / 3)
    assert answer_set_f1(["nile", "rome", "Rome"], gold) == pytest.approx(2 / 5)
    assert answer_set_f1(["nile"], [[("Nile",), ("Nile",)]]) == 1


def test_the_best_parse_counts():
    assert answer_set_f1(["a1"], [[("b1",)], [("a1",)]]) == 1
    assert answer_set_f1(["a1"], [[("b1",)], [("a1",), ("c1",)]]) == pytest.approx(2 / 3)


def test_hits_at_1_is_about_the_first_answer():
    assert hits_at_1(["the Nile", "Rome"], ["Nile"]) == 1
    assert hits_at_1(["Rome", "the Nile"], ["Nile"]) == 0
    assert hits_at_1([], ["Nile"]) == 0


def test_no_answer_is_wrong():
    """Also where ToG's and Generate-on-Graph's scripts find the empty text in any answer."""
    assert answer_set_f1([], [[("Nile",)]]) == rog_f1([], ["Nile"]) == rog_hit([], ["Nile"]) == 0
    assert tog_match(" ", ["Nile"]) == gog_match([], ["Nile"]) == gog_match([""], ["Nile"]) == 0


@pytest.mark.parametrize(
    "compute",
    [
        lambda: answer_set_f1("Nile", [[("Nile",)]]),
        lambda: answer_set_f1(["Nile"], []),
        lambda: rog_f1(["Nile"], []),
        lambda: rog_hit(["Nile"], "Nile"),
        lambda: tog_match("Nile", "Nile"),
        lambda: gog_match("Nile", ["Nile"]),
        lambda: hits_at_1("Nile", ["Nile"]),
    ],
)
def test_strings_and_empty_gold_answers_are_refused(compute):
    with pytest.raises(ValueError, match="must"):
        compute()
