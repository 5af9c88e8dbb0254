"""Task, pipeline, endpoints and objective of the playground."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from optuna_agenttts import FlopsCost, Model, Stage, Task
from optuna_agenttts.llm import ChatRefusedError, ChatRequest, Completion, Usage
from optuna_agenttts_integrations.calls.batching import BatchingChatModel
from optuna_agenttts_integrations.calls.endpoints import Endpoint
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.objective import MultiStageObjective
from optuna_agenttts_integrations.pipeline.aggregation import majority_vote, union
from optuna_agenttts_integrations.pipeline.stages import (
    Pipeline,
    StageCheck,
    StageProgram,
    State,
)
from optuna_agenttts_integrations.playground.problems import (
    Problem,
    answer_prompt,
    make_problems,
    parse_answer,
    parse_retrieval,
    retrieval_prompt,
)
from optuna_agenttts_integrations.playground.transformer import Transformer
from optuna_agenttts_integrations.playground.vocabulary import ANSWER, RETRIEVAL, Vocabulary

WEIGHTS = Path(__file__).parent / "weights"
RETRIEVERS = ("retriever-9k", "retriever-28k", "retriever-96k")
ANSWERERS = ("answerer-13k", "answerer-22k", "answerer-72k")
MODELS = (*RETRIEVERS, *ANSWERERS)
BUDGET = 60.0
"""Default budget per problem, in samples of the smallest answerer; chosen by hand."""
TEMPERATURE = 0.9
"""Sampling temperature of both stages; chosen by hand."""


@cache
def load(name: str) -> Transformer:
    """Load one of the playground's models; further calls return the same object."""
    return Transformer.load(WEIGHTS / name)


@dataclass(frozen=True, slots=True)
class PlaygroundModel:
    """Batch generation function of one of the playground's models; see `BatchingChatModel`.

    Args:
        name: The model's name.
    """

    name: str

    def __call__(self, requests: Sequence[tuple[ChatRequest, int]]) -> list[Completion]:
        """Generate a completion for each request and seed, in their order.

        Raises:
            ChatRefusedError: A prompt has unknown words or is too long.
        """
        vocabulary = RETRIEVAL if self.name in RETRIEVERS else ANSWER
        groups: defaultdict[tuple[float, int], list[int]] = defaultdict(list)
        for position, (request, _) in enumerate(requests):
            groups[request.temperature, request.max_tokens].append(position)
        completions: dict[int, Completion] = {}
        for (temperature, max_tokens), positions in groups.items():
            prompts = [_tokens(vocabulary, requests[position][0]) for position in positions]
            try:
                replies = load(self.name).generate(
                    [(p, requests[i][1]) for p, i in zip(prompts, positions)],
                    temperature=temperature,
                    max_new_tokens=max_tokens,
                    stop_token=vocabulary.end,
                )
            except ValueError as error:
                raise ChatRefusedError(f"{self.name}: {error}") from error
            for position, prompt, reply in zip(positions, prompts, replies):
                # The end token is generated, too.
                usage = Usage(len(prompt), min(len(reply) + 1, max_tokens))
                reason = "stop" if len(reply) < max_tokens else "length"
                completions[position] = Completion(vocabulary.decode(reply), usage, reason)
        return [completions[position] for position in range(len(requests))]


def _tokens(vocabulary: Vocabulary, request: ChatRequest) -> list[int]:
    try:
        return vocabulary.encode(request.messages[-1].content)
    except ValueError as error:
        raise ChatRefusedError(f"{request.model}: {error}") from error


def make_task(budget: float = BUDGET) -> Task:
    """Create the task: two stages of three models.

    Token lengths are those measured on the validation problems.

    Args:
        budget: Budget per problem, in samples of the smallest answerer.
    """
    return Task(
        name="playground",
        description="Pick the lines that belong to a concept, then do the sum they spell out.",
        stages=[
            Stage(
                "retrieval",
                models=[Model(name, parameters=load(name).parameters) for name in RETRIEVERS],
                prompt_tokens=22,
                generation_tokens=3.8,
                description="Name the titles that belong to a concept; samples are united.",
            ),
            Stage(
                "answer",
                models=[Model(name, parameters=load(name).parameters) for name in ANSWERERS],
                prompt_tokens=18.5,
                generation_tokens=14.8,
                description="Write the steps of the sum; samples vote on the last number.",
            ),
        ],
        budget=budget,
        cost=FlopsCost(
            reference_parameters=load(ANSWERERS[0]).parameters,
            reference_prompt_tokens=0,
            reference_generation_tokens=14.8,
        ),
        metric="exact match",
        metric_range=(0, 1),
    )


def make_pipeline() -> Pipeline:
    """Create the pipeline: union of retrieved lines, majority vote on answers, exact match."""
    return Pipeline(
        stages=[
            StageProgram(
                name="retrieval",
                prompt=_retrieval_prompt,
                parse=_parse_retrieval,
                aggregate=union,
                max_tokens=8,
                temperature=TEMPERATURE,
                check=StageCheck("every relevant line is retrieved", _has_lines),
            ),
            StageProgram(
                name="answer",
                prompt=_answer_prompt,
                parse=_parse_answer,
                aggregate=majority_vote,
                max_tokens=20,
                temperature=TEMPERATURE,
            ),
        ],
        score=_score,
    )


def _has_lines(state: State) -> float:
    return float(set(state.instance.relevant) <= set(state["retrieval"] or ()))


def _retrieval_prompt(state: State) -> str:
    return retrieval_prompt(state.instance.titles, state.instance.concept)


def _parse_retrieval(text: str, state: State) -> tuple[int, ...] | None:
    return parse_retrieval(text, state.instance.titles)


def _parse_answer(text: str, state: State) -> str | None:
    return parse_answer(text)


def _score(state: State) -> float:
    return float(state["answer"] == state.instance.answer)


def _answer_prompt(state: State) -> str:
    problem: Problem = state.instance
    chosen = state["retrieval"] or ()
    return answer_prompt([problem.contents[line] for line in chosen], problem.question)


def make_endpoints() -> dict[str, Endpoint]:
    """Create endpoints that run the playground's models in process."""
    return {
        name: Endpoint(
            chat=BatchingChatModel(PlaygroundModel(name)),
            identity=f"playground:{name}",
            concurrency=4096,  # Chosen by hand: enough for large batches.
        )
        for name in MODELS
    }


def make_objective(
    *,
    problems: Sequence[Problem] | None = None,
    task: Task | None = None,
    store: CompletionStore | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> MultiStageObjective:
    """Create the objective.

    Args:
        problems: The problems. Default: the first 50 of the search split.
        task: The task. Default: `make_task`.
        store: Store of completions; see `MultiStageObjective`.
        seed: Seed of the completions.
        progress: Whether to show a progress bar; see `MultiStageObjective`.
    """
    return MultiStageObjective(
        make_pipeline(),
        make_problems("search", 50) if problems is None else problems,
        task=make_task() if task is None else task,
        endpoints=make_endpoints(),
        store=store,
        seed=seed,
        # The task declares measured token lengths already.
        measure_after=None,
        progress=progress,
    )
