"""The playground's models in Hugging Face form, so that other servers can serve the same weights.

The formats are those that `transformers` 5.24 and `tokenizers` 0.23 read; neither is needed to
write them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    TEMPERATURE,
    WEIGHTS,
)
from optuna_agenttts_integrations.playground.problems import END
from optuna_agenttts_integrations.playground.vocabulary import ANSWER, RETRIEVAL, Vocabulary

_UNKNOWN = "<unknown>"
"""In no vocabulary on purpose: a word that a model never saw is then an error of `tokenizers`, as
it is of `Vocabulary.encode`, and not some other word."""


def export_hugging_face(name: str, folder: str | Path) -> Path:
    """Write one of the playground's models, with its tokenizer, in Hugging Face form.

    The weights are copied as they are (float16) and declared to be computed in float32, so that
    logits agree with the playground's to 1e-4. The tokenizer agrees with `Vocabulary`; its chat
    template is the last message and nothing around it. By default tokens are sampled from all of
    the distribution at the pipeline's temperature, until the end of the reply.

    ``transformers serve``, started in the folder's parent without a model's name, serves the
    model by the folder's name; a folder named as the model is needs no renaming anywhere.

    Args:
        name: The model's name, such as ``"answerer-22k"``.
        folder: Where to write. Made if it is missing; files of the same names are replaced.

    Returns:
        The folder.

    Raises:
        PipelineError: The name is unknown.
    """
    known = (*RETRIEVERS, *ANSWERERS)
    if name not in known:
        raise PipelineError(f"`name` is {name!r}: give one of {', '.join(known)}.")
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
        # `transformers` keeps the 50 likeliest tokens unless told otherwise.
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
    }


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Any]:
    """A tokenizer of words between blanks; without a decoder, words are joined by blanks."""
    end = {
        "id": vocabulary.end,
        "content": END,
        "single_word": True,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        # Servers leave special tokens out of replies.
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
        # No `pad_token`: it would be special, and the playground shows this word in replies.
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": positions,
        "chat_template": "{{ messages[-1]['content'] }}",
    }
