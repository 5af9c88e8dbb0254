"""Searches by `OptunaSearchCV`, which names parameters as scikit-learn does."""

import optuna
import pytest
from hosts_support import compare, distributions, make_sampler, params_of, score

integration = pytest.importorskip("optuna_integration")
sklearn = pytest.importorskip("sklearn.base")

pytestmark = pytest.mark.hosts
NAMES = "{stage}__{part}"


class Stage(sklearn.BaseEstimator):
    """A stage with a model and a number of samples."""

    def __init__(self, model="small-7B", samples=1):
        self.model, self.samples = model, samples


class Pipeline(sklearn.BaseEstimator):
    """Two stages; nothing is fitted, and the score is a function of their parameters."""

    def __init__(self, retrieval=None, answer=None):
        self.retrieval, self.answer = retrieval or Stage(), answer or Stage()

    def fit(self, X, y=None):
        return self

    def score(self, X, y=None):
        return score(self.get_params(), NAMES)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_search_cv(n_jobs):
    """The three searches compare as stated, with one thread and with two."""

    def search(name, n_trials):
        found = integration.OptunaSearchCV(
            Pipeline(retrieval=Stage(), answer=Stage()),
            distributions(NAMES),
            study=optuna.create_study(direction="maximize", sampler=make_sampler(name, NAMES)),
            n_trials=n_trials,
            n_jobs=n_jobs,
            cv=2,
            random_state=0,
        ).fit([[0.0]] * 4, [0, 1] * 2)
        return params_of(found.study_)

    compare(search, names=NAMES)
