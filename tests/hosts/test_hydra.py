"""Searches by Hydra's Optuna sweeper, with ranges in YAML."""

import os
import subprocess
import sys

import optuna
import pytest
from hosts_support import NAMES, compare, params_of

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")

pytestmark = pytest.mark.hosts
PROGRAM = """
import hydra
from hosts_support import score
from omegaconf import OmegaConf


@hydra.main(
    version_base=None,
    config_path=".",
    config_name="config",
    execution_whitelist=["hosts_support.make_sampler"],
)
def main(config):
    params = {name: OmegaConf.select(config, name) for name in config.swept}
    return score(params, config.pattern)


main()
"""
CONFIG = """
defaults:
  - _self_
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: searches

pattern: "PATTERN"
swept: NAMES
retrieval: {model: small-7B, samples: 1}
answer: {model: small-7B, samples: 1}
stages: {retrieval: {model: small-7B, samples: 1}, answer: {model: small-7B, samples: 1}}

hydra:
  sweeper:
    direction: maximize
    n_jobs: 1
    params:
"""
SAMPLER = """
_target_: hosts_support.make_sampler
name: TPE
names: "PATTERN"
"""


@pytest.mark.parametrize("names", [NAMES, "stages.{stage}.{part}"])
def test_sweeper(names, tmp_path):
    """The three searches compare as stated, wherever stages are in the configuration."""
    ranges = {
        names.format(stage=stage, part=part): values
        for stage in ("retrieval", "answer")
        for part, values in (("model", "choice(small-7B, large-72B)"), ("samples", "range(1, 9)"))
    }
    params = "".join(f"      {name}: {values}\n" for name, values in ranges.items())
    config = CONFIG.replace("PATTERN", names).replace("NAMES", str(list(ranges)))
    group = tmp_path / "hydra" / "sweeper" / "sampler"
    group.mkdir(parents=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "config.yaml").write_text(config + params)
    (group / "searches.yaml").write_text(SAMPLER.replace("PATTERN", names))

    def search(name, n_trials):
        storage = f"sqlite:///{tmp_path}/{name}.db"
        sweep = [
            f"hydra.sweeper.{key}={value}"
            for key, value in (
                ("n_trials", n_trials),
                ("storage", storage),
                ("study_name", name),
                ("sampler.name", name),
            )
        ]
        subprocess.run(
            [sys.executable, "program.py", "--multirun", *sweep],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
        )
        return params_of(optuna.load_study(study_name=name, storage=storage))

    compare(search, names=names)
