"""Results are shown in notebooks as HTML: names stay text, and numbers have their units."""

import dataclasses
from html.parser import HTMLParser
from xml.etree import ElementTree

import optuna
import pytest

import optuna_agenttts as core
import optuna_agenttts_integrations as integrations
from optuna_agenttts import llm
from optuna_agenttts.report.summary import Summary, summarize
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts_integrations.inspection.records import (
    InspectedReply,
    InspectedRequest,
    InspectedStage,
)

NAME = "<img src=x onerror=alert(1)> \"q\" 'a' & | `x` 👩‍👧 " + "m" * 200
UNIT = "<u>$</u>"


class Read(HTMLParser):
    """Text and tags of HTML."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.text, self.tags = "", set()
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


STAGE = core.Stage(
    NAME.replace(".", ""),
    models=[core.Model(NAME, input_price=1.0, output_price=2.0)],
    prompt_tokens=100,
    generation_tokens=50,
    description=NAME,
)
TASK = core.Task(
    name=NAME, stages=[STAGE], cost=core.PriceCost(), budget=1, metric=NAME, description=NAME
)
ALLOCATION = core.Allocation({NAME: core.StageAllocation(NAME, 3)})
TIE = core.Tie(ALLOCATION, 0.61, 1.5, 0.01, 50)
UNDECIDED = core.Undecided(ALLOCATION, 0.6, 1.25, 0.1, 50, 400)
RECOMMENDATION = core.Recommendation(
    params={NAME: 3},
    allocation=ALLOCATION,
    value=0.62,
    interval=(0.55, 0.68),
    cost=2.5,
    unit=UNIT,
    ties=(TIE,),
    undecided=(UNDECIDED,) * 5,
    margin=0.05,
    trials=9,
    failed=(3,),
    outliers=((4, 1e9),),
    known=7,
)
STANDING = core.Standing({}, ALLOCATION, 2.5, 0.5, 50, -0.1, (-0.2, 0.01), 1)
CONFIRMATION = core.Confirmation(RECOMMENDATION, (STANDING,), 50, 2, 90, 80.0, UNIT, NAME)
POINT = core.FrontierPoint({}, ALLOCATION, 0.5, (0.4, 0.6), 1.25, {UNIT: 7.5}, True, 50, 0.01, 50)
ROUND = core.Round(
    number=2,
    guidelines=(NAME,),
    candidates=(Proposal({NAME: NAME}, NAME),),
    model=NAME,
    cost=0.25,
    problems={NAME: 2},
    error=NAME,
    verdicts=(core.Verdict(NAME, "models", "contradicts", NAME),),
)
RESULT = integrations.InstanceResult(1.0, True, metrics={NAME: 0.5})
EVALUATION = integrations.Evaluation(
    {NAME: RESULT, "q2": integrations.InstanceResult(0.0, False)},
    1.5,
    comparison=integrations.Comparison(0.1, (-0.1, 0.2), 0.05, 2),
    metric=NAME,
    unit=UNIT,
)
REPLIES = tuple(InspectedReply(i, text, value=NAME) for i, text in enumerate((NAME, NAME, None)))
REQUEST = InspectedRequest("samples", (llm.Message("user", NAME),), REPLIES)
INSPECTED = InspectedStage(NAME, "ran", NAME, 3, (REQUEST,), result=NAME, joined_by="vote")
BASELINE = integrations.InstanceInspection(NAME, NAME, outcome=0.25, stages=(INSPECTED,))
INSTANCE = integrations.InstanceInspection(
    NAME, NAME, outcome=0.75, stages=(INSPECTED,), notes=(NAME,), baseline=BASELINE
)


def summary():
    """Return the summary of a study whose names are hostile, of a sampler that is not ours."""
    study = optuna.create_study(
        study_name=NAME, direction="maximize", sampler=optuna.samplers.RandomSampler(0)
    )
    planned = dataclasses.asdict(ROUND)
    core.storage.write_study_value(study._storage, study._study_id, "agenttts:round:2", planned)

    def objective(trial):
        samples = TASK.suggest(trial)[STAGE.name].samples
        outcomes = [float(step % 100 < samples) for step in range(30)]
        for step, outcome in enumerate(outcomes):
            trial.report(outcome, step)
        return sum(outcomes) / len(outcomes)

    study.optimize(objective, n_trials=4)
    return summarize(study)


SHOWN = {
    "Allocation": ALLOCATION,
    "Comparison": EVALUATION.comparison,
    "Confirmation": CONFIRMATION,
    "Evaluation": EVALUATION,
    "Frontier": core.Frontier((POINT,), UNIT, 2.0, (NAME,), True, 0.05, 50),
    "FrontierPoint": POINT,
    "InstanceInspection": INSTANCE,
    "Recommendation": RECOMMENDATION,
    "Report": llm.Report((llm.Finding(NAME, NAME, "error", NAME, NAME),)),
    "Round": ROUND,
    "SearchResult": core.SearchResult(RECOMMENDATION, CONFIRMATION, 9, (), (), 99, 90.0, UNIT),
    "Summary": summary(),
    "Task": TASK,
    "TrialInspection": integrations.TrialInspection(NAME, (INSTANCE,), (NAME,), NAME),
}
NAMELESS = {"Comparison"}


def test_every_view_is_tested():
    modules = (core, integrations, llm)
    public = {name: getattr(module, name) for module in modules for name in module.__all__}
    public["Summary"] = Summary
    assert {name for name, value in public.items() if hasattr(value, "_repr_html_")} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_names_stay_text(name):
    shown = SHOWN[name]._repr_html_()

    read = Read(shown)
    assert not read.tags & {"img", "u"}
    assert NAME in " ".join(read.text.split()) or name in NAMELESS
    # Well formed, within any page.
    ElementTree.fromstring(f"<div>{shown}</div>")


@pytest.mark.parametrize(
    ("name", "texts"),
    {
        "Task": ["1 USD per instance", "(USD)", "0.0002"],
        "Allocation": ["samples", "3"],
        "Recommendation": [
            f"cost per instance ({UNIT})",
            *("0.62", "0.550 to 0.680", "2.5", "loses < 0.01"),
            *("(50 so far)", "2 more are undecided", "Trials failed: 3."),
        ],
        "Confirmation": ["-0.10 (-0.20 to +0.01)", f"80 {UNIT}", "left out after look 1"],
        "SearchResult": ["0.550 to 0.680", "the search ran 9 trials", f"90 {UNIT}"],
        "Frontier": [f"cost per instance ({UNIT})", "0.400 to 0.600", "1.25", "7.5"],
        "Round": ["Round 2", "0.25 in the unit of the task", "contradicts"],
        "Evaluation": ["95 % interval", f"0 {UNIT}", "1.5 s", "p = 0.05", "2 of 2 instances"],
        "Report": ["FAIL"],
        "Summary": [
            *("1 USD per instance", "4 complete", "30", "What matters", "What it cost"),
            *("Which instances fail", "Guidelines of the agent", "higher is better"),
        ],
        "InstanceInspection": ["outcome 0.75", "outcome 0.25", "replies 0-1", "not in the store"],
        "TrialInspection": ["0.75", "0.25", "baseline"],
    }.items(),
)
def test_numbers_are_shown_with_units(name, texts):
    read = Read(SHOWN[name]._repr_html_())

    assert not [text for text in texts if text not in read.text]


def test_an_interval_that_is_not_known_is_said_to_be_missing():
    without = core.Recommendation({}, ALLOCATION, 0.5, None, 1.0, "", (), (), 0.0, 1)

    assert "No interval" in without._repr_html_()
    assert "No interval" in str(without)


def test_nothing_is_shown_of_nothing():
    assert "No instance" in integrations.Evaluation({}, 1.0)._repr_html_()
    assert "Nothing was checked" in llm.Report()._repr_html_()
    assert "trial 0" in integrations.TrialInspection("trial 0", ())._repr_html_()


def test_an_allocation_is_a_dictionary():
    assert dict(ALLOCATION) == ALLOCATION
    assert repr(ALLOCATION) == repr(dict(ALLOCATION))
    assert ALLOCATION[NAME].samples == 3
