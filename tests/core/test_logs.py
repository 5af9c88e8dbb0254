"""What changes a search or its numbers is visible without configuration, once."""

import io
import logging
import pickle
import subprocess
import sys

import optuna
import pytest
from core_support import objective, wiki_task
from optuna.samplers import PartialFixedSampler, TPESampler

import optuna_agenttts_integrations  # noqa: F401 - configures its logger
from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    ScriptedChatModel,
    Stage,
    StopAtSpend,
    StopWhenExhausted,
    StopWhenSettled,
    Task,
)
from optuna_agenttts.llm.port import ChatUnavailableError
from optuna_agenttts.report.callbacks import planners_of

MODELS = ["Qwen2.5-7B", "Qwen2.5-72B"]


class WithoutPytest(list):
    """Handlers of a logger to which pytest, which configures `logging`, cannot add its own."""

    def append(self, handler):
        """Add a handler."""
        if not type(handler).__module__.startswith("_pytest"):
            super().append(handler)


@pytest.fixture
def terminal(monkeypatch):
    """Return the lines of a terminal on which a program shows Optuna's log as it is by default."""
    text, logger = io.StringIO(), logging.getLogger("optuna")
    handler = logging.StreamHandler(text)
    logger.addHandler(handler)
    monkeypatch.setattr(logging.getLogger(), "handlers", WithoutPytest())
    optuna.logging.set_verbosity(optuna.logging.INFO)
    yield lambda: [
        line
        for line in text.getvalue().splitlines()
        if not (line.startswith("A new study") or " finished with value" in line)
    ]
    logger.removeHandler(handler)


def small_task(**options):
    """Return a task of one stage with two models."""
    models = [Model("7B", parameters=7e9), Model("70B", parameters=7e10)]
    stage = Stage("a", models=models, prompt_tokens=500, generation_tokens=50)
    return Task(name="t", stages=[stage], **options)


def search(task, trials=8, **options):
    """Run a search of a task."""
    callbacks, n_jobs = options.pop("callbacks", None), options.pop("n_jobs", 1)
    options = {"direction": "maximize", "sampler": AgentTTSSampler(task)} | options
    study = optuna.create_study(**options)
    study.optimize(
        lambda trial: 0.6 if task.suggest(trial)["a"].model == "7B" else 0.8,
        n_trials=trials,
        callbacks=callbacks,
        n_jobs=n_jobs,
    )
    return study


class TestVisibility:
    """Where lines are shown."""

    def test_warnings_and_information_are_shown_and_details_are_not(self, terminal):
        """INFO and above, of both packages."""
        for package in ("optuna_agenttts", "optuna_agenttts_integrations"):
            logger = logging.getLogger(f"{package}.some.module")
            logger.debug("detail")
            logger.info("information of %s", package)
            logger.warning("warning of %s", package)
            assert terminal()[-2:] == [f"information of {package}", f"warning of {package}"]
        assert len(terminal()) == 4

    @pytest.mark.parametrize("least", [logging.WARNING, logging.ERROR])
    def test_the_verbosity_of_optuna_applies(self, terminal, least):
        """Lines below it are hidden."""
        optuna.logging.set_verbosity(least)
        levels = [logging.INFO, logging.WARNING, logging.ERROR]
        for level in levels:
            logging.getLogger("optuna_agenttts.x").log(level, "%d", level)
        assert terminal() == [str(level) for level in levels if level >= least]

    @pytest.mark.parametrize("name", ["", "optuna_agenttts", "optuna_agenttts.x"])
    def test_handlers_of_the_program_get_each_line_instead(self, terminal, name):
        """No line is shown twice, whether the root logger or the package's has the handler."""
        own, logger = io.StringIO(), logging.getLogger(name)
        handler = logging.StreamHandler(own)
        logger.addHandler(handler)
        try:
            logging.getLogger("optuna_agenttts.x").info("line")
        finally:
            logger.removeHandler(handler)
        assert own.getvalue() == "line\n"
        assert terminal() == []

    @pytest.mark.slow
    def test_the_root_logger_is_left_alone(self):
        """Importing the package configures its own loggers only, and prints nothing."""
        program = (
            "import logging; root = logging.getLogger(); before = root.level, list(root.handlers);"
            "import optuna_agenttts, optuna_agenttts_integrations;"
            "assert (root.level, root.handlers) == before"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_an_ordinary_search_says_nothing(self, terminal):
        """There is nothing to say if all goes as asked."""
        task = small_task(metric="accuracy")
        study = search(task, 12)
        optuna.create_study(sampler=study.sampler)
        assert terminal() == []


class TestStopping:
    """Callbacks that stop a search name themselves and the reason."""

    @pytest.mark.parametrize(
        ("callback", "reason"),
        [
            (StopWhenSettled, "all scores are equal"),
            (lambda: StopAtSpend(100), "limit of 100 reference samples"),
            (StopWhenExhausted, "every allocation within the budget"),
        ],
        ids=["settled", "spend", "exhausted"],
    )
    def test_each_stop_is_logged_once(self, terminal, callback, reason):
        """Also when the search goes on and is stopped again."""
        callback = callback()
        task = small_task(budget=40)
        study = search(task, 60, callbacks=[callback])
        assert len(study.trials) < 60
        (line,) = [line for line in terminal() if " stops study " in line]
        assert line.startswith(f"{type(callback).__name__} stops study {study.study_name!r}")
        assert reason in line
        study.optimize(
            lambda trial: 0.6 if task.suggest(trial) else 0.0, n_trials=1, callbacks=[callback]
        )
        assert len([line for line in terminal() if " stops study " in line]) == 2

    def test_a_callback_without_effect_says_so(self, terminal):
        """`StopWhenExhausted` cannot stop a study without stages."""
        study = optuna.create_study(sampler=TPESampler(seed=0))
        study.optimize(
            lambda trial: trial.suggest_float("x", 0, 1),
            n_trials=3,
            callbacks=[StopWhenExhausted()],
        )
        (line,) = terminal()
        assert line.startswith("StopWhenExhausted does not stop")

    @pytest.mark.parametrize("factor", [1.0, 100.0])
    def test_the_default_gain_follows_the_scale_of_the_metric(self, factor):
        """A metric from 0 to 100 settles as one from 0 to 1 does."""
        task = wiki_task()
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
        study.optimize(
            lambda trial: factor * objective(trial),
            n_trials=60,
            callbacks=[StopWhenSettled(trials=1)],
        )
        assert len(study.trials) < 60

    def test_the_planners_of_the_sampler_decide(self):
        """Its insights and experience count, also inside another sampler."""
        task = small_task()
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            sampler = AgentTTSSampler(task, prior_insights=(2,), experience=[search(task, 3)])
        wrapped = PartialFixedSampler({"a.samples": 1}, sampler)
        for each in (sampler, wrapped, pickle.loads(pickle.dumps(sampler))):
            planner = planners_of(each).get(task)
            assert planner.insights == (2,)
            assert len(planner._experience.scores) == 3
        assert planners_of(TPESampler()) is None

    def test_callbacks_are_pickled_with_their_arguments(self, terminal):
        """Before and after their use."""
        callback = StopWhenSettled(trials=2)
        for _ in range(2):
            study = search(small_task(), 60, callbacks=[pickle.loads(pickle.dumps(callback))])
            assert len(study.trials) < 60
            search(small_task(), 60, callbacks=[callback])


class TestNames:
    """Parameters that are planned have certain names."""

    def run(self, names, choices=MODELS, trials=3, **options):
        """Run a search whose parameters have these names."""
        model, samples = names
        study = optuna.create_study(sampler=AgentTTSSampler(seed=0, **options))

        def score(trial):
            trial.suggest_categorical(model, choices)
            return trial.suggest_int(samples, 1, 4)

        study.optimize(score, n_trials=trials)

    @pytest.mark.parametrize(
        "names", [("retrieve_model", "retrieve_samples"), ("a.model", "a.n"), ("llm", "n")]
    )
    def test_stages_of_other_names_are_warned_about(self, terminal, names):
        """The line has the parameters, the reason and the names that are recognized."""
        self.run(names)
        (line,) = terminal()
        assert all(repr(name) in line for name in names)
        assert "'<stage>.model'" in line
        assert "recognise=" in line

    def test_what_is_recognized_or_not_to_be_is_not(self, terminal):
        """One line names the stages; with `recognise=False` there is none."""
        self.run(("retrieve_model", "n"), recognise=False)
        assert terminal() == []
        self.run(("a.model", "a.samples"))
        (line,) = terminal()
        assert "plans the stages that it recognized" in line

    def test_programs_without_language_models_get_one_line(self, terminal):
        """It is no warning: TPE is what the program may want."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.run(("optimizer", "layers"), ["adam", "sgd"])
        assert terminal() == []
        optuna.logging.set_verbosity(optuna.logging.INFO)
        self.run(("optimizer", "layers"), ["adam", "sgd"])
        assert len(terminal()) == 1

    def test_an_objective_that_ignores_the_task_is_warned_about(self, terminal):
        """The sampler has a task, but no parameter of the objective belongs to it."""
        self.run(("retrieve_model", "retrieve_samples"), task=small_task())
        (line,) = terminal()
        assert "nothing is planned" in line
        assert "task.suggest(trial)" in line


class TestAgent:
    """Rounds that are late or fail."""

    def test_an_agent_that_fails_is_reported_for_each_study(self, terminal):
        """Not only for the first study of a sampler."""
        chat = ScriptedChatModel(lambda _: ChatUnavailableError("down", kind="HTTP 503"))
        task = small_task(metric="accuracy")
        for name in ("first", "second"):
            sampler = AgentTTSSampler(task, llm=chat, llm_timeout=0.3)
            search(task, 8, sampler=sampler, study_name=name)
            sampler._scheduler.wait(optuna.create_study())
            lines = [line for line in terminal() if f"Study '{name}', agent scripted" in line]
            assert lines
            assert len(lines) == len(set(lines))

    def test_an_agent_that_cannot_be_used_is_reported(self, terminal):
        """Searches without stages do not ask it about several objectives."""
        chat = ScriptedChatModel(lambda _: "{}")
        study = optuna.create_study(
            directions=["maximize", "minimize"], sampler=AgentTTSSampler(llm=chat, seed=0)
        )
        study.optimize(lambda t: (t.suggest_float("x", 0, 1), 0.0), n_trials=3)
        (line,) = terminal()
        assert "2 objectives and no stages: no agent is asked" in line
