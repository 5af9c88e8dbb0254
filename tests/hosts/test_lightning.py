"""Searches whose objective trains with Lightning, with `PyTorchLightningPruningCallback`."""

import logging

import optuna
import pytest
from hosts_support import compare, make_sampler, params_of, score, suggest

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning.pytorch")
integration = pytest.importorskip("optuna_integration")

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]


class Model(lightning.LightningModule):
    """One weight; validation logs the score of the trial's parameters."""

    def __init__(self, params):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.value = score(params)

    def training_step(self, batch, index):
        return (self.weight.sum() - batch.sum()) ** 2

    def validation_step(self, batch, index):
        self.log("score", self.value)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(trial):
    """Train for one epoch and return what was logged."""
    data = torch.utils.data.DataLoader(torch.zeros(2, 1))
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[integration.PyTorchLightningPruningCallback(trial, monitor="score")],
    )
    trainer.fit(Model(suggest(trial)), data, data)
    return trainer.callback_metrics["score"].item()


def test_lightning():
    """The three searches compare as stated, with the default pruner."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def search(name, n_trials):
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name))
        study.optimize(train, n_trials=n_trials)
        return params_of(study)

    compare(search, n_trials=12)
