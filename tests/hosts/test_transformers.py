"""Searches by the Hugging Face Trainer's `hyperparameter_search`."""

import pytest
from hosts_support import compare, make_sampler, score, suggest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.hosts


class Model(torch.nn.Module):
    """One weight; the loss is the negative score of the trial's parameters."""

    def __init__(self, params):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.value = score(params)

    def forward(self, labels):
        return {"loss": self.weight.sum() ** 2 - self.value, "logits": labels}


def test_trainer(tmp_path):
    """The three searches compare as stated."""

    def search(name, n_trials):
        trials = {}

        def space(trial):
            # Names that are no fields of TrainingArguments reach the program through `model_init`.
            trials[trial.number] = suggest(trial)
            return {}

        def model_init(trial):
            return Model(suggest(trial) if trial is not None else FIRST)

        data = [{"labels": torch.zeros(1)}] * 2
        trainer = transformers.Trainer(
            args=transformers.TrainingArguments(
                str(tmp_path / name),
                max_steps=1,
                report_to=[],
                save_strategy="no",
                eval_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
            ),
            model_init=model_init,
            train_dataset=data,
            eval_dataset=data,
        )
        best = trainer.hyperparameter_search(
            space,
            compute_objective=lambda metrics: -metrics["eval_loss"],
            direction="maximize",
            backend="optuna",
            n_trials=n_trials,
            sampler=make_sampler(name),
        )
        assert best.objective == pytest.approx(max(map(score, trials.values())), abs=1e-3)
        return list(trials.values())

    compare(search, n_trials=12)


FIRST = {
    "retrieval.model": "small-7B",
    "retrieval.samples": 1,
    "answer.model": "small-7B",
    "answer.samples": 1,
}
"""Parameters of the model that the Trainer builds before the first trial."""
