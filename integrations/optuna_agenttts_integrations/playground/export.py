"""Export of the playground's models in Hugging Face format, so that other servers can serve them.

The files are those of `transformers` 5.24 and `tokenizers` 0.23; neither is needed to write them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground.pipeline import (
    MODELS,
    RETRIEVERS,
    TEMPERATURE,
    WEIGHTS,
)
from optuna_agenttts_integrations.playground.problems import END
from optuna_agenttts_integrations.playground.vocabulary import ANSWER, RETRIEVAL, Vocabulary

_UNKNOWN = "<unknown>"
"""Deliberately in no vocabulary, so that unknown words raise an error in `tokenizers`, as in
`Vocabulary.encode`, instead of being replaced."""


def export_hugging_face(name: str, folder: str | Path) -> Path:
    """Write one of the playground's models and its tokenizer in Hugging Face format.

    The float16 weights are copied and declared to be computed in float32, so that logits agree
    with the playground's to 1e-4. The tokenizer agrees with `Vocabulary`; its chat template is the
    bare last message. By default, tokens are sampled from the full distribution at the pipeline's
    temperature until the end token.

    ``transformers serve``, started in the folder's parent without a model name, serves the model
    under the folder's name. Name the folder like the model to use the same name everywhere.

    Args:
        name: The model's name, such as ``"answerer-22k"``.
        folder: The folder to write to. It is created if missing; existing files are replaced.

    Returns:
        The folder.

    Raises:
        PipelineError: The name is unknown.
    """
    if name not in MODELS:
        raise PipelineError(f"`name` must be one of {', '.join(MODELS)}; got {name!r}.")
    vocabulary = RETRIEVAL if name in RETRIEVERS else ANSWER
    config = json.loads((WEIGHTS / name / "config.json").read_text())
    positions = config["max_position_embeddings"]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(WEIGHTS / name / "model.safetensors", folder / "model.safetensors")
    for file, values in {
        "config.json": {**config, "dtype": "float32"},
        "generation_config.json": _generation(config),
        "tokenizer.json": _tokenizer(vocabulary),
        "tokenizer_config.json": _tokenizer_config(positions),
    }.items():
        (folder / file).write_text(json.dumps(values, indent=2) + "\n")
    return folder


def _generation(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "do_sample": True,
        "temperature": TEMPERATURE,
        # The default of `transformers` is the 50 most likely tokens.
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
    }


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a tokenizer that splits at blanks and, without a decoder, joins with blanks."""
    end = {
        "id": vocabulary.end,
        "content": END,
        "single_word": True,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        # Servers omit special tokens from replies.
        "special": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(vocabulary.words)},
            "unk_token": _UNKNOWN,
        },
    }


def _tokenizer_config(positions: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        # No `pad_token`: it would be special, but the playground keeps this word in replies.
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": positions,
        "chat_template": "{{ messages[-1]['content'] }}",
    }
