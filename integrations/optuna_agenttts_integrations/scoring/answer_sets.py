"""Metrics of sets of answers, as evaluations of knowledge-graph question answering compute them.

Gold answers are sets: each has entities, and each entity has the names by which it is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts_integrations.scoring.metrics import normalize_answer, require_collection

AnswerSet = Sequence[Sequence[str]]
"""The entities of a complete answer, each as its accepted names."""


def answer_set_f1(predicted: Sequence[str], golds: Sequence[AnswerSet]) -> float:
    """Compute the F1 of a set of answers, as the evaluation script of WebQSP does.

    The script (eval.py of the data set, Yih et al., ACL 2016) takes the best F1 over the parses of
    a question. It compares Freebase identifiers; names are compared here, after
    `normalize_answer`, so that an answer finds all gold entities of its name.

    Args:
        predicted: The answers.
        golds: The sets of gold answers, one for each parse, at least one.

    Returns:
        0 to 1; 0 without answers, unless a set of gold answers is empty, too.

    Raises:
        ValueError: `golds` is empty, or an argument is a string.
    """
    require_collection("predicted", predicted)
    require_collection("golds", golds)
    if len(golds) == 0:
        raise ValueError("`golds` must have at least one set of answers.")
    answers = list(map(normalize_answer, predicted))
    return max(_set_f1(answers, gold) for gold in golds)


def _set_f1(answers: Sequence[str], gold: AnswerSet) -> float:
    if not answers or not gold:
        return float(not answers and not gold)
    entities = [set(map(normalize_answer, names)) for names in gold]
    accepted, given = set().union(*entities), set(answers)
    found = sum(not given.isdisjoint(names) for names in entities)
    wrong = sum(answer not in accepted for answer in answers)
    return 2 * found / (found + wrong + len(entities)) if found else 0.0


def hits_at_1(predicted: Sequence[str], accepted: Sequence[str]) -> float:
    """Return 1 if the first answer is an accepted one, else 0.

    This is Hits@1 as GraftNet (Sun et al., EMNLP 2018) and NSM (He et al., WSDM 2021) report it
    for the entity that they rank first, with names compared after `normalize_answer`. RoG's number
    of the same name is `rog_hit`.

    Args:
        predicted: The answers, the best one first.
        accepted: All accepted names.

    Raises:
        ValueError: An argument is a string.
    """
    require_collection("predicted", predicted)
    require_collection("accepted", accepted)
    if not predicted:
        return 0.0
    return float(normalize_answer(predicted[0]) in set(map(normalize_answer, accepted)))


def rog_hit(predicted: Sequence[str], accepted: Sequence[str]) -> float:
    """Return 1 if any accepted answer is part of the joined answers, else 0.

    This is what RoG (Luo et al., ICLR 2024; ``eval_hit`` of its evaluate_results.py) reports as
    Hits@1. Parts of words match: "Rome" is part of "Romeo".

    Args:
        predicted: The answers.
        accepted: The accepted answers.

    Raises:
        ValueError: An argument is a string.
    """
    return float(_matched(predicted, accepted) > 0)


def rog_f1(predicted: Sequence[str], accepted: Sequence[str]) -> float:
    """Compute the F1 of RoG (Luo et al., ICLR 2024; ``eval_f1`` of its evaluate_results.py).

    An accepted answer is found if it is part of the joined answers. Recall is the fraction of
    accepted answers that are found, and precision their number per given answer.

    Args:
        predicted: The answers, with repetitions.
        accepted: The accepted answers, at least one.

    Returns:
        0 or more; above 1, as in the script, if one given answer has several accepted ones.

    Raises:
        ValueError: `accepted` is empty, or an argument is a string.
    """
    found = _matched(predicted, accepted)
    if len(accepted) == 0:
        raise ValueError("`accepted` must have at least one answer.")
    if not found:
        return 0.0
    precision, recall = found / len(predicted), found / len(accepted)
    return 2 * precision * recall / (precision + recall)


def _matched(predicted: Sequence[str], accepted: Sequence[str]) -> int:
    require_collection("predicted", predicted)
    require_collection("accepted", accepted)
    if not predicted:
        return 0
    text = normalize_answer(" ".join(predicted))
    return sum(normalize_answer(answer) in text for answer in accepted)


def tog_match(answer: str, accepted: Sequence[str]) -> float:
    """Return 1 if an answer contains an accepted one or is part of one, else 0.

    This is what ToG (Sun et al., ICLR 2024; ``exact_match`` of its eval/utils.py) reports as exact
    match: texts are compared in lower case without blanks, and parts of words match. An answer
    of blanks only is wrong here, right there.

    Args:
        answer: The answer.
        accepted: The accepted answers.

    Raises:
        ValueError: `accepted` is a string.
    """
    require_collection("accepted", accepted)
    return _either_contains(answer.replace(" ", ""), [text.replace(" ", "") for text in accepted])


def gog_match(predicted: Sequence[str], accepted: Sequence[str]) -> float:
    """Return 1 if the joined answers contain an accepted one or are part of one, else 0.

    This is what Generate-on-Graph (Xu et al., EMNLP 2024; ``exact_match`` of its evaluate.py)
    reports as exact match: as `tog_match`, with blanks.

    Args:
        predicted: The answers.
        accepted: The accepted answers.

    Raises:
        ValueError: An argument is a string.
    """
    require_collection("predicted", predicted)
    require_collection("accepted", accepted)
    return _either_contains(" ".join(predicted), accepted)


def _either_contains(answer: str, accepted: Sequence[str]) -> float:
    text = answer.strip().lower()
    golds = [gold.strip().lower() for gold in accepted]
    return float(bool(text) and any(text in gold or gold in text for gold in golds))
