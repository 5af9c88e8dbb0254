"""A direction that contradicts the metric's name is warned about before the first trial."""

import itertools
import logging

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task, recommend
from optuna_agenttts.task.direction import _HIGHER, _LOWER, implied_sign

WORDS = [*_HIGHER.split(), *_LOWER.split()]
HIGHER = (
    "accuracy",
    "exact match",
    "exact_match",
    "ExactMatch",
    "EM",
    "F1",
    "token F1",
    "node F1",
    "macro-F1",
    "eval/accuracy",
    "eval_f1",
    "answer F1 of two hops",
    "acc_norm",
    "pass@1",
    "pass@k",
    "pass^3",
    "recall@5",
    "hits@10",
    "nDCG@10",
    "top-1 accuracy",
    "ROUGE-L",
    "rougeLsum",
    "BLEU-4",
    "task success rate",
    "score",
    "mean score",
    "LLM judge score",
    "reward",
    "executability",
    "quality",
    "log likelihood",
    "true positive rate",
    "neg_mean_squared_error",
    "neg_log_loss",
    "negative loss",
    "-loss",
    "1 - error rate",
    "1 - WER",
    "R2",
    "r_squared",
    "fraction correct",
    "F_beta",
    "bleu4",
    "CodeBLEU",
    "mean reciprocal rank",
    "resolve rate",
)
# Metrics of Hugging Face `evaluate`.
HIGHER_OF_EVALUATE = (
    *("accuracy", "bertscore", "bleu", "bleurt", "chrf", "comet", "exact_match", "f1"),
    *("google_bleu", "matthews_correlation", "mauve", "mean_iou", "meteor", "nist_mt"),
    *("pearsonr", "precision", "r_squared", "recall", "roc_auc", "rouge", "sacrebleu", "sari"),
    *("spearmanr", "squad", "squad_v2"),
)
LOWER_OF_EVALUATE = (
    *("brier_score", "cer", "mae", "mape", "mase", "mse", "perplexity", "smape", "ter", "wer"),
    "toxicity",
)
UNKNOWN_OF_EVALUATE = (
    *("character", "charcut_mt", "code_eval", "competition_math", "confusion_matrix", "coval"),
    *("cuad", "frugalscore", "glue", "honest", "label_distribution", "mahalanobis", "poseval"),
    *("regard", "rl_reliability", "seqeval", "super_glue", "text_duplicates", "trec_eval"),
    *("wiki_split", "word_count", "word_length", "xnli", "xtreme_s"),
)
LOWER = (
    "loss",
    "eval_loss",
    "error rate",
    "top-5 error",
    "word error rate",
    "perplexity",
    "p95 latency",
    "cost per question",
    "RMSE",
    "mean squared error",
    "negative log likelihood",
    "NLL",
    "cross-entropy",
    "log_loss",
    "false positive rate",
    "miss rate",
    "1 - accuracy",
    "1-F1",
    "100 - accuracy",
    "-accuracy",
    "negative reward",
    "not correct",
    "edit distance",
    "KL divergence",
    "regret",
    "hallucination rate",
    "toxicity score",
    "bits per byte",
    "time to first token",
    "TTFT",
    "FPR",
    "duration",
    "misclassification rate",
    "exact_mismatch",
)
UNKNOWN = (
    "",
    "objective",
    "value",
    "unknown tools",
    "rate",
    "steps",
    "tokens",
    "risk score",
    "anomaly score",
    "quality/cost",
    "accuracy - latency",
    "accuracy per dollar of cost",
    "accuracy loss",
    "error detection rate",
    "hallucination detection accuracy",
    "cost-effectiveness",
    "win/loss ratio",
    "F1 on negative examples",
    "attack success rate",
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *zip(HIGHER + HIGHER_OF_EVALUATE, itertools.repeat(1)),
        *zip(LOWER + LOWER_OF_EVALUATE, itertools.repeat(-1)),
        *zip(UNKNOWN + UNKNOWN_OF_EVALUATE, itertools.repeat(0)),
    ],
)
def test_names_of_metrics_are_read(name, expected):
    """Known ones imply a direction; unknown and contradictory ones none."""
    assert implied_sign(name) == expected


def test_no_word_implies_both_directions():
    """The tables are disjoint, and each word alone implies a direction."""
    assert len(WORDS) == len(set(WORDS))
    assert all(implied_sign(word) for word in WORDS)


@given(st.sampled_from(WORDS), st.sampled_from(["negative {}", "neg_{}", "1 - {}", "-{}"]))
def test_a_negation_reverses_the_direction(word, negation):
    """Whatever the metric."""
    assert implied_sign(negation.format(word)) == -implied_sign(word)


@given(st.text())
def test_every_name_is_read(name):
    """No name is an error."""
    assert implied_sign(name) in (-1, 0, 1)


def make_task(metric):
    """Return a small task with a metric."""
    models = [Model("7B", parameters=7e9), Model("70B", parameters=7e10)]
    stage = Stage("a", models=models, prompt_tokens=500, generation_tokens=50)
    return Task(name="t", stages=[stage], metric=metric)


def warnings_of(caplog):
    """Return the warnings of a direction."""
    return [r for r in caplog.records if "looks for the worst allocation" in r.getMessage()]


@pytest.mark.parametrize(
    ("metric", "direction", "remedy"),
    [("accuracy", "minimize", "maximize"), ("error rate", "maximize", "minimize")],
)
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "tpe"])
def test_a_contradiction_is_told_once_before_the_first_score(
    metric, direction, remedy, ours, caplog
):
    """With any sampler; `recommend` does not repeat it in the same process."""
    task = make_task(metric)
    sampler = AgentTTSSampler(task) if ours else optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction=direction, sampler=sampler)

    def score(trial):
        if ours:
            assert len(warnings_of(caplog)) == 1
        samples = task.suggest(trial)["a"].samples
        assert len(warnings_of(caplog)) == 1
        return 1 / samples

    study.optimize(score, n_trials=3)
    recommend(study)
    (record,) = warnings_of(caplog)
    assert record.levelno == logging.WARNING
    assert f'create_study(direction="{remedy}")' in record.getMessage()
    assert repr(metric) in record.getMessage()
    assert ("Optuna's default" in record.getMessage()) == (direction == "minimize")


def test_recommendations_of_other_processes_are_warned_about(caplog):
    """`recommend` may be all that a process does."""
    task = make_task("exact match")
    study = optuna.create_study()
    study.add_trial(
        optuna.trial.create_trial(
            value=0.5,
            params=task.params({"a": ("7B", 1)}),
            distributions={
                "a.model": optuna.distributions.CategoricalDistribution(["7B", "70B"]),
                "a.samples": optuna.distributions.IntDistribution(1, 8),
            },
        )
    )
    for _ in range(2):
        recommend(study, task)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(
    ("metric", "directions"),
    [
        ("accuracy", ["maximize"]),
        ("error rate", ["minimize"]),
        ("unheard of", ["minimize"]),
        ("unheard of", ["maximize"]),
        ("", ["minimize"]),
        ("accuracy", ["minimize", "minimize"]),
    ],
)
def test_other_studies_are_not(metric, directions, caplog):
    """Nothing is said where the direction may be right."""
    task = make_task(metric)
    study = optuna.create_study(directions=directions, sampler=AgentTTSSampler(task))
    study.optimize(
        lambda trial: [1 / task.suggest(trial)["a"].samples] * len(directions), n_trials=2
    )
    assert not warnings_of(caplog)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_name_may_be_the_studys(caplog):
    """`Study.set_metric_names` names the metric of a task without one."""
    task = make_task("")
    study = optuna.create_study(sampler=AgentTTSSampler(task))
    study.set_metric_names(["accuracy"])
    study.ask()
    assert len(warnings_of(caplog)) == 1
