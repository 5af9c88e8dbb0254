"""The direction of a study, compared with what the name of the metric implies.

Optuna minimizes by default. A study of an accuracy that was created without a direction looks for
the worst allocation, and everything that is printed about it is wrong.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from optuna.study import Study, StudyDirection

from optuna_agenttts import storage
from optuna_agenttts.support.logs import is_first

_logger = logging.getLogger(__name__)

_HIGHER = """
    accuracy acc accuracies em exactmatch match matches f1 f2 fscore fmeasure fbeta precision
    recall specificity sensitivity auc auroc auprc roc ap map ndcg mrr hit hits iou miou dice rouge
    rouge1 rouge2 rougel rougelsum bleu sacrebleu meteor chrf bertscore bleurt comet mauve sari
    nist squad codebleu jaccard completeness pass passed passes solved resolved success successes
    successful win wins winrate correct correctness reward rewards utility profit revenue
    throughput likelihood loglikelihood likelihoods kappa agreement correlation pearson pearsonr
    spearman spearmanr matthews mcc r2 rsquared similarity quality helpfulness faithfulness
    groundedness relevance relevancy fluency coherence effectiveness efficiency executability
    satisfaction improvement reduction savings saved avoided detection detected found fixed caught
    recovered corrected handled prevented free
"""
"""Words for which higher values are better. Words such as "reduction" and "detection" are here
because what they qualify is then no reason to expect the opposite."""
_LOWER = """
    loss losses logloss error errors mse rmse mae mape smape mase msle rmsle nll wer cer ter eer
    perplexity ppl crossentropy divergence brier latency runtime delay cost costs price expense
    spend duration ttft fpr fnr ece misclassification mismatch mismatches distance regret failure
    failures failed mistakes violations hallucination hallucinations toxicity inaccuracy incorrect
    wrong dissimilarity disagreement misses timeouts penalty degradation drop decline
"""
"""Words for which lower values are better."""
_PHRASES = {
    r"\bpass (at|hat) \d+|\bpass (at|hat) k\b": "accuracy",
    r"\b(log )?likelihood\b": "likelihood",
    r"\bcross entropy\b": "loss",
    r"\bbits? per (byte|character|token|word)\b|\bbpb\b|\bbpc\b": "loss",
    r"\b(false (positive|negative|alarm|discovery)s?|miss)( rates?)?\b": "error",
    r"\btrue (positive|negative)s?( rates?)?\b": "accuracy",
    r"\b(response|wall|wall clock|running|execution|inference) times?\b": "latency",
    r"\btime to (first )?(token|answer|solution)\b": "latency",
    r"\br (squared|2)\b": "accuracy",
    r"\bf beta\b": "f1",
    r"\bbleu[1-4]\b": "bleu",
    r"\breciprocal ranks?\b": "mrr",
    r"\b(solve|resolve) rate\b": "accuracy",
    # Good for a red team, bad for what it attacks.
    r"\b(attack|jailbreak) success(es)?\b": "attack",
}
"""Terms of several words, each as a word of the tables above."""
_SIGNS = dict.fromkeys(_HIGHER.split(), 1) | dict.fromkeys(_LOWER.split(), -1)
_NEGATIONS = """
    negative neg negated minus inverse inverted not non no without
"""
_BETWEEN = """
    mean median max average avg root squared absolute log binary the of total normalized
"""
"""Words that may stand between a negation and what it negates."""
_NEUTRAL = """
    mean average avg final best overall total eval evaluation val valid validation test dev train
    task answer judge llm model the a of per set held out macro micro weighted score scores
"""
"""Words beside which higher scores are better, as for "mean score", unlike "risk score"."""


def implied_sign(metric: str) -> int:
    """Return +1 if higher values of a metric are better, by its name, and -1 if lower ones are.

    Returns 0 for names that are unknown or contradictory ("accuracy per cost"). A negation
    ("negative log likelihood", "1 - accuracy") reverses the word that follows it.

    Args:
        metric: The name, such as ``"exact match"`` or ``"eval_loss"``.
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", metric).lower()
    reversed_ = re.match(r"\s*(?:(?:1|1\.0+|100 ?%?)\s*[-−–]|[-−–])\s*(?=[a-z(])", name)
    name = " ".join(re.findall(r"[a-z]+\d*|\d+", name.replace("@", " at ")))
    for pattern, word in _PHRASES.items():
        name = re.sub(pattern, word, name)
    words = name.split()
    sign = -1 if reversed_ else 1
    found: set[int] = set()
    for word in words:
        if word in _NEGATIONS.split():
            sign = -sign
        elif word in _SIGNS:
            found.add(sign * _SIGNS[word])
            sign = 1
        elif sign == -1 and not reversed_ and word not in _BETWEEN.split():
            # What is negated is unknown, as in "negative examples".
            return 0
    if not found and {"score", "scores"} & set(words) and set(words) <= set(_NEUTRAL.split()):
        return sign
    return found.pop() if len(found) == 1 else 0


def metric_names_of(study: Study) -> Sequence[str]:
    """Return the names that `Study.set_metric_names` gave, if any."""
    # Not `Study.metric_names`: the studies that `HyperbandPruner` passes to samplers lack it.
    names: Sequence[str] | None = storage.attributes_of(study).get("study:metric_names")
    return names or ()


def warn_of_direction(study: Study, metric: str) -> None:
    """Warn once if a study's direction contradicts its metric.

    Args:
        study: The study.
        metric: Name of its task's metric. If it is empty, the name that
            `Study.set_metric_names` gave is used.
    """
    if not is_first(study, f"direction of {metric}") or len(study.directions) > 1:
        return
    metric = metric or next(iter(metric_names_of(study)), "")
    maximize = study.directions[0] == StudyDirection.MAXIMIZE
    ours, other = ("maximize", "minimize") if maximize else ("minimize", "maximize")
    if implied_sign(metric) != (-1 if maximize else 1):
        return
    _logger.warning(
        "Study %r has direction %r%s, but %s values of its metric %r are better: this search "
        'looks for the worst allocation. Create the study with `create_study(direction="%s")`, or '
        "name a metric that is to be %sd.",
        study.study_name,
        ours,
        "" if maximize else " (Optuna's default)",
        "lower" if maximize else "higher",
        metric,
        other,
        ours,
    )
