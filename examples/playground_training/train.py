"""Train the playground's models from scratch.

``python examples/playground_training/train.py --out DIR [--only NAME]``

Shows: how the six tiny models were made. The same seed gives the same weights on the same machine;
    checkpoints are chosen by their score on the validation problems.
Needs: PyTorch and transformers: ``pip install ".[transformers]"``.
Takes: some minutes for each model on one CPU core.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from optuna_agenttts_integrations.playground.problems import (
    BELONGS,
    CONCEPTS,
    DIGITS,
    LINES,
    TITLES,
    Problem,
    answer_prompt,
    draw_problem,
    make_problems,
    parse_answer,
    parse_retrieval,
    retrieval_prompt,
)
from optuna_agenttts_integrations.playground.vocabulary import ANSWER, RETRIEVAL, Vocabulary

_logger = logging.getLogger(__name__)

_QUESTIONS = 8
"""Questions per retrieval document."""
_IGNORED = -100
"""Label of tokens without a loss: `torch.nn.functional.cross_entropy`'s ``ignore_index``."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters of one model and its training.

    Args:
        stage: ``"retrieval"`` or ``"answer"``.
        width: Hidden size; the MLP is twice as wide.
        layers: Number of layers.
        rate: Peak learning rate.
        steps: Number of optimizer steps.
        batch: Documents (retrieval) or problems (answer) per step.
        head: Width of an attention head.
    """

    stage: str
    width: int
    layers: int
    rate: float
    steps: int
    batch: int
    head: int = 16


RECIPES = {
    "retriever-9k": Recipe("retrieval", 16, 2, 0.010, 4000, 32),
    "retriever-28k": Recipe("retrieval", 32, 2, 0.010, 4000, 32),
    "retriever-96k": Recipe("retrieval", 64, 2, 0.006, 4000, 32),
    "answerer-13k": Recipe("answer", 24, 2, 0.008, 9000, 64, head=8),
    "answerer-22k": Recipe("answer", 32, 2, 0.006, 9000, 64),
    "answerer-72k": Recipe("answer", 48, 3, 0.006, 9000, 64),
}


@dataclass(frozen=True, slots=True)
class _Batch:
    """Arrays of shape (rows, length); `visible` is the attention mask, (rows, length, length)."""

    tokens: Any
    labels: Any
    positions: Any
    visible: Any


def _retrieval_batches(rng: np.random.Generator, size: int) -> Iterator[_Batch]:
    """Yield documents: ten titles, then questions that do not attend to each other."""
    head = 2 * LINES
    numbers = np.array(RETRIEVAL.encode(" ".join(DIGITS)))
    titles_of = np.array(RETRIEVAL.encode(" ".join(TITLES)))
    concepts_of = np.array(RETRIEVAL.encode(" ".join(CONCEPTS)))
    ask = RETRIEVAL.encode("?")[0]
    length = head + _QUESTIONS * 6
    while True:
        tokens = np.zeros((size, length), dtype=np.int64)
        labels = np.full((size, length), _IGNORED, dtype=np.int64)
        positions = np.zeros((size, length), dtype=np.int64)
        block = np.full((size, length), -1, dtype=np.int64)
        for row in range(size):
            titles = rng.choice(len(TITLES), LINES, replace=False)
            belongs = BELONGS[:, titles]
            concepts = np.flatnonzero(np.isin(belongs.sum(axis=1), (2, 3)))
            tokens[row, 0:head:2], tokens[row, 1:head:2] = numbers, titles_of[titles]
            positions[row, :head] = np.arange(head)
            block[row, :head] = 0
            at = head
            for number, concept in enumerate(rng.permutation(concepts)[:_QUESTIONS], start=1):
                reply = titles_of[titles[belongs[concept]]]
                piece = np.concatenate([[ask, concepts_of[concept]], reply, [RETRIEVAL.end]])
                end = at + len(piece)
                tokens[row, at:end] = piece
                labels[row, at + 2 : end] = piece[2:]
                positions[row, at:end] = head + np.arange(len(piece))
                block[row, at:end] = number
                at = end
        order = np.arange(length)
        visible = (order[:, None] >= order) & (
            (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
        )
        yield _Batch(tokens, labels, positions, visible)


def _noisy_lines(rng: np.random.Generator, problem: Problem) -> list[int]:
    """Return lines as an imperfect retrieval chooses them; in 40 % of calls, the exact ones."""
    lines = set(problem.relevant)
    if rng.random() < 0.6:
        lines = {line for line in lines if rng.random() >= 0.25}
        others = [line for line in range(LINES) if line not in problem.relevant]
        lines |= set(rng.permutation(others)[: rng.integers(0, 4)].tolist())
    return sorted(lines)


def _answer_batches(rng: np.random.Generator, size: int) -> Iterator[_Batch]:
    """Yield problems: the contents of noisily chosen lines, the question and its steps."""
    while True:
        rows = []
        for _ in range(size):
            problem = draw_problem(rng)
            lines = _noisy_lines(rng, problem)
            contents = [problem.contents[line] for line in lines]
            prompt = ANSWER.encode(answer_prompt(contents, problem.question))
            rows.append((prompt, ANSWER.encode(problem.steps)))
        length = max(len(prompt) + len(reply) for prompt, reply in rows)
        tokens = np.zeros((size, length), dtype=np.int64)
        labels = np.full((size, length), _IGNORED, dtype=np.int64)
        for row, (prompt, reply) in enumerate(rows):
            tokens[row, : len(prompt) + len(reply)] = prompt + reply
            labels[row, len(prompt) : len(prompt) + len(reply)] = reply
        order = np.arange(length)
        positions = np.broadcast_to(order, tokens.shape)
        visible = np.repeat((order[:, None] >= order)[None], size, axis=0)
        yield _Batch(tokens, labels, positions.copy(), visible)


def _score(generate: Callable[[list[list[int]]], list[list[int]]], recipe: Recipe) -> float:
    """Return the score of greedy replies on the validation problems, 0 to 1."""
    problems = make_problems("validation", 200)
    if recipe.stage == "retrieval":
        prompts = [RETRIEVAL.encode(retrieval_prompt(p.titles, p.concept)) for p in problems]
        total = 0.0
        for problem, reply in zip(problems, generate(prompts)):
            named = set(parse_retrieval(RETRIEVAL.decode(reply), problem.titles) or ())
            right = len(named & set(problem.relevant))
            total += 2 * right / (len(named) + len(problem.relevant))
        return total / len(problems)
    prompts = [
        ANSWER.encode(answer_prompt([p.contents[i] for i in p.relevant], p.question))
        for p in problems
    ]
    replies = generate(prompts)
    return float(
        np.mean([parse_answer(ANSWER.decode(r)) == p.answer for p, r in zip(problems, replies)])
    )


def train(name: str, out: Path, *, seed: int = 0, scale: float = 1.0) -> float:
    """Train one model and write its best checkpoint in Hugging Face form, in float16.

    Args:
        name: A key of `RECIPES`.
        out: The folder for ``<name>/config.json`` and ``<name>/model.safetensors``.
        seed: Seed of weights and data.
        scale: Factor on the number of steps, for short test runs.

    Returns:
        The checkpoint's score on the validation problems, 0 to 1.
    """
    recipe = RECIPES[name]
    vocabulary: Vocabulary = RETRIEVAL if recipe.stage == "retrieval" else ANSWER
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = LlamaForCausalLM(_config(recipe, vocabulary))
    _logger.info("%s: %d parameters", name, sum(p.numel() for p in model.parameters()))
    steps = max(1, int(recipe.steps * scale))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=steps))
    # Independent of the random streams of `make_problems`.
    rng = np.random.default_rng([seed, 77])
    make = _retrieval_batches if recipe.stage == "retrieval" else _answer_batches
    best, state = -1.0, None
    started = time.process_time()
    for step, batch in enumerate(make(rng, recipe.batch), start=1):
        loss = _loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step == steps or step % max(1, steps // 10) == 0:
            quality = -1.0
            if step == steps or step >= 0.7 * steps:
                quality = _score(partial(_generate, model, vocabulary.end), recipe)
                if quality >= best:
                    best = quality
                    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            _logger.info(
                "%s: step %d, loss %.3f, validation score %.3f, %.0f CPU s",
                name,
                step,
                loss.item(),
                quality,
                time.process_time() - started,
            )
        if step == steps:
            break
    assert state is not None
    _save(model.config, state, out / name)
    return best


def _config(recipe: Recipe, vocabulary: Vocabulary) -> Any:
    """Return the architecture of a model."""
    return LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=recipe.width,
        intermediate_size=2 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.width // recipe.head,
        num_key_value_heads=recipe.width // recipe.head,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=vocabulary.end,
        pad_token_id=0,
        rms_norm_eps=1e-5,
    )


def _rate(step: int, *, steps: int) -> float:
    """Return the factor on the learning rate: warm-up, plateau, linear decay to 3 %."""
    if step < 50:
        return (step + 1) / 50
    return 1.0 if step < 0.4 * steps else 0.03 + 0.97 * (steps - step) / (0.6 * steps)


def _loss(model: Any, batch: _Batch) -> Any:
    """Return the mean cross entropy of the labeled tokens."""
    logits = model(
        input_ids=torch.from_numpy(batch.tokens),
        attention_mask=torch.where(torch.from_numpy(batch.visible)[:, None], 0.0, -1e9),
        position_ids=torch.from_numpy(batch.positions),
    ).logits
    labels = torch.from_numpy(batch.labels)[:, 1:]
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=_IGNORED
    )


def _generate(model: Any, end: int, prompts: list[list[int]]) -> list[list[int]]:
    """Return greedy replies without their end token; empty where a reply does not end."""
    replies = []
    for prompt in prompts:
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            output = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=24,
            )
        reply = output[0, len(prompt) :].tolist()
        replies.append(reply[: reply.index(end)] if end in reply else [])
    return replies


def _save(config: Any, state: Mapping[str, Any], folder: Path) -> None:
    """Write a model in Hugging Face form, in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    # The output layer is the embedding (`tie_word_embeddings`) and is stored once.
    weights = {k: v.half().contiguous() for k, v in state.items() if k != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Train all models, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(RECIPES), action="append")
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in arguments.only or RECIPES:
        train(name, arguments.out, scale=arguments.scale)
    print(f"\nNext:  the weights are in {arguments.out}; measure_grid.py scores the package's")


if __name__ == "__main__":
    main()
