"""The playground: its problems, its models, and the measured grid."""

from dataclasses import replace

import numpy as np
import pytest

from optuna_agenttts_integrations import MultiStageObjective
from optuna_agenttts_integrations.playground import make_objective, make_problems, make_task
from optuna_agenttts_integrations.playground.grid import PATH, load_grid
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    WEIGHTS,
    load,
    make_endpoints,
    make_pipeline,
)
from optuna_agenttts_integrations.playground.problems import (
    BELONGS,
    CONCEPTS,
    TITLES,
    answer_prompt,
    parse_answer,
    parse_retrieval,
    retrieval_prompt,
)
from optuna_agenttts_integrations.playground.vocabulary import ANSWER, RETRIEVAL

SPLITS = ("validation", "search", "test")
NAMES = RETRIEVERS + ANSWERERS


def follow(problem, lines):
    """Work out a problem from the contents of some lines; None if one is missing."""
    known = dict(problem.contents[line].split(" = ") for line in lines)

    def value(words):
        first = words[0]
        if not first.isdigit():
            if first not in known:
                raise KeyError(first)
            first = value(known[first].split())
        if len(words) == 1:
            return int(first)
        return eval(f"{first} {words[1]} {words[2]}") % 10

    return str(value(problem.question.split()))


def test_splits_are_fixed_and_disjoint():
    """The same problems every time, and none in two splits."""
    first = {split: make_problems(split, 200) for split in SPLITS}
    assert first["test"] == make_problems("test", 200)
    assert first["test"][:50] == make_problems("test", 50)
    contents = [(p.titles, p.concept) for split in SPLITS for p in first[split]]
    assert len(set(contents)) == 600


@pytest.mark.parametrize("split", SPLITS)
def test_relevant_lines_are_what_the_answer_needs(split):
    """The answer follows from the relevant lines, and from none less."""
    for problem in make_problems(split, 60):
        assert follow(problem, problem.relevant) == problem.answer
        for dropped in problem.relevant:
            with pytest.raises(KeyError):
                follow(problem, set(problem.relevant) - {dropped})


def test_relevant_lines_are_those_that_belong_to_the_concept():
    """Which lines matter stands in the table alone."""
    for problem in make_problems("search", 60):
        row = BELONGS[CONCEPTS.index(problem.concept)]
        belonging = [i for i, t in enumerate(problem.titles) if row[TITLES.index(t)]]
        assert tuple(belonging) == problem.relevant


def test_prompts_are_in_the_models_language():
    """Every prompt can be encoded, and decoding gives it back."""
    for problem in make_problems("search", 60):
        for vocabulary, prompt in (
            (RETRIEVAL, retrieval_prompt(problem.titles, problem.concept)),
            (ANSWER, answer_prompt(problem.contents, problem.question)),
        ):
            assert vocabulary.decode(vocabulary.encode(prompt)) == prompt


def test_unknown_words_are_named():
    """A prompt in another language is refused by name."""
    with pytest.raises(ValueError, match="'Bonjour'"):
        RETRIEVAL.encode("1 bak Bonjour")


@pytest.mark.parametrize(
    ("reply", "lines"),
    [("b c", (1, 2)), ("c b b", (1, 2)), ("z", None), ("", None), ("z a 7", (0,))],
)
def test_retrieval_replies_are_read_strictly(reply, lines):
    """Titles of the problem count, once each; nothing else does."""
    assert parse_retrieval(reply, ("a", "b", "c")) == lines


@pytest.mark.parametrize(
    ("reply", "answer"),
    [("2 * 1 = 2 ; 2 - 6 = 6 .", "6"), ("2 =", None), ("", None), (". 3", "3")],
)
def test_answers_are_read_strictly(reply, answer):
    """The last word counts if it is a digit."""
    assert parse_answer(reply) == answer


@pytest.mark.parametrize("name", NAMES)
def test_logits_match_transformers(name):
    """The forward pass is that of `transformers`, to 1e-4."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        WEIGHTS / name, dtype=torch.float32
    )
    model = load(name)
    tokens = np.random.default_rng(0).integers(0, reference.config.vocab_size, (3, 40))
    with torch.no_grad():
        expected = reference(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(model.logits(tokens), expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_names_tell_sizes(name):
    """A model's name is its number of parameters, in thousands."""
    thousands = int(name.split("-")[1].removesuffix("k"))
    assert load(name).parameters == pytest.approx(1000 * thousands, abs=1000)


def test_later_tokens_do_not_reach_back():
    """Attention is causal."""
    model, tokens = load(NAMES[0]), np.arange(3, 23)[None]
    changed = tokens.copy()
    changed[0, 12] += 1
    difference = np.abs(model.logits(tokens) - model.logits(changed)).max(axis=-1)[0]
    assert (difference[:12] == 0).all()
    assert (difference[12:] > 0).all()


def test_greedy_replies_take_the_likeliest_token_each_time():
    """Decoding with a cache is the same as computing everything anew."""
    model = load("answerer-22k")
    for problem in make_problems("validation", 5):
        contents = [problem.contents[line] for line in problem.relevant]
        tokens = ANSWER.encode(answer_prompt(contents, problem.question))
        (reply,) = model.generate(
            [(tokens, 1)], temperature=0, max_new_tokens=20, stop_token=ANSWER.end
        )
        expected = list(tokens)
        for _ in range(20):
            token = int(model.logits(np.array([expected]))[0, -1].argmax())
            if token == ANSWER.end:
                break
            expected.append(token)
        assert tokens + reply == expected


def test_a_sample_does_not_depend_on_its_batch():
    """The same prompt and seed give the same reply, alone and among others."""
    model = load("answerer-13k")
    prompts = [
        ANSWER.encode(answer_prompt(p.contents[: 1 + i % 4], p.question))
        for i, p in enumerate(make_problems("validation", 12))
    ]
    asked = [(prompt, seed) for prompt in prompts for seed in (1, 2, 3)]

    def generate(requests):
        return model.generate(requests, temperature=0.9, max_new_tokens=20, stop_token=ANSWER.end)

    assert generate(asked) == [generate([one])[0] for one in asked]


def test_too_long_prompts_are_refused():
    """A prompt that leaves no room for its reply is an error, not nonsense."""
    with pytest.raises(ValueError, match="128"):
        load(NAMES[0]).generate([([3] * 125, 1)], temperature=1, max_new_tokens=8, stop_token=1)


def test_declared_token_lengths_are_the_measured_ones():
    """The task declares the lengths of prompts and replies to within 15 %."""
    task, pipeline = make_task(budget=1e6), make_pipeline()
    # The mean is over a known number of replies.
    stages = [replace(stage, enough=None) for stage in pipeline.stages]
    objective = MultiStageObjective(
        replace(pipeline, stages=stages),
        make_problems("validation", 100),
        task=task,
        endpoints=make_endpoints(),
        measure_after=None,
    )
    with objective:
        once = {"retrieval": ("retriever-96k", 3), "answer": ("answerer-22k", 1)}
        more = {"retrieval": ("retriever-96k", 3), "answer": ("answerer-22k", 11)}
        first, second = objective.evaluate(once), objective.evaluate(more)
    objective.store.close()
    answer, retrieval = task.stages[1], task.stages[0]
    assert second.generated_tokens / 1000 == pytest.approx(answer.generation_tokens, rel=0.15)
    assert second.prompt_tokens / 1000 == pytest.approx(answer.prompt_tokens, rel=0.15)
    replies = (first.generated_tokens - second.generated_tokens / 10) / 300
    assert replies == pytest.approx(retrieval.generation_tokens, rel=0.15)


def test_live_runs_agree_with_the_grid():
    """The pipeline, run live, gives exactly the outcomes of the measured grid."""
    grid, task = load_grid(), make_task(budget=1e6)
    objective = make_objective(problems=make_problems("test", 25), task=task)
    with objective:
        for choices in ([(2, 1), (0, 1)], [(1, 7), (1, 4)], [(0, 30), (2, 2)]):
            outcomes = objective.evaluate(task.allocation(choices)).outcomes
            array = np.array([choices])
            expected = grid.outcomes(array[..., 0], array[..., 1])[0, :25]
            assert [outcomes[f"test-{i}"] for i in range(25)] == expected.tolist()
    objective.store.close()


def test_what_is_shipped_is_small():
    """Weights under 10 MB, the grid under 1 MB."""
    weights = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert weights < 10e6
    assert PATH.stat().st_size < 1e6
