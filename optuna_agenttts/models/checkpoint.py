"""Size and context length of a model from the folder of its checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import parse_local_safetensors_file_metadata

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.untrusted import as_count, as_mapping, as_number, decode_json

_logger = logging.getLogger(__name__)

_MAX_JSON_BYTES = 50_000_000
"""Maximum length of a JSON file; chosen by hand, far above those in use."""

PACKED = frozenset({"I16", "I32", "U8", "U16", "U32"})
"""Dtypes that pack several quantized weights into one element (GPTQ, AWQ, bitsandbytes, MLX)."""
_DENSE = ("llama", "mistral", "qwen2", "qwen3")
_DIMENSIONS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about a model; None if unknown.

    Args:
        parameters: Number of parameters, such as ``7e9``, of a mixture of experts those that are
            active per token.
        input_price: USD per million input tokens.
        output_price: USD per million output tokens.
        context_length: Maximum length of prompt and reply together, in tokens.
        source: Sources of size and prices, for people.
    """

    parameters: float | None = None
    input_price: float | None = None
    output_price: float | None = None
    context_length: int | None = None
    source: str = "nothing found"


def local_facts(folder: str | os.PathLike[str]) -> Facts:
    """Read facts from a checkpoint's folder, without loading weights or running code.

    The size is the number of elements in the headers of the safetensors files, without the idle
    experts of a mixture. If these files are missing or hold quantized weights, it is computed from
    config.json for dense decoders of type llama, mistral, qwen2 or qwen3.

    Args:
        folder: Folder with config.json, ``*.safetensors``, or both, in the Hub's layout.

    Returns:
        Size and context length; None if unknown.

    Raises:
        AgentTTSError: The folder does not exist, or one of these files is damaged.
    """
    path = Path(folder)
    if not path.is_dir():
        raise AgentTTSError(f"`folder` must be the folder of a checkpoint, got {str(folder)!r}.")
    config = _read_json(path / "config.json") if (path / "config.json").is_file() else {}
    parameters, source = _dense_parameters(config), "config.json"
    stored, packed = _stored(path)
    quantized = packed or "quantization_config" in config
    if stored is not None and not (packed if parameters is None else quantized):
        parameters, source = active_parameters(config, stored), "safetensors header"
    elif packed and parameters is None:
        _logger.warning(
            "%s: size unknown: its weights are packed; set `Model(..., parameters=...)`.", path
        )
    return Facts(
        parameters=parameters,
        context_length=as_count(config.get("max_position_embeddings")),
        source="nothing found" if parameters is None else source,
    )


def is_checkpoint(name: str) -> bool:
    """Return whether a name is the path of a folder with a checkpoint."""
    return os.path.isdir(name) and (
        Path(name, "config.json").is_file() or any(Path(name).glob("*.safetensors"))
    )


def _damaged(file: Path, reason: str) -> AgentTTSError:
    return AgentTTSError(
        f"{file} is damaged ({reason}): download the checkpoint again, with `git lfs pull` if it "
        "was cloned."
    )


def _unreadable(file: Path, error: OSError) -> AgentTTSError:
    return AgentTTSError(f"{file} cannot be read ({type(error).__name__}): check its permissions.")


def _read_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file."""
    try:
        with file.open("rb") as stream:
            values = decode_json(stream.read(_MAX_JSON_BYTES))
    except OSError as error:
        raise _unreadable(file, error) from None
    if not isinstance(values, dict):
        raise _damaged(file, "not a JSON object")
    return values


def _stored(folder: Path) -> tuple[float | None, bool]:
    """Return the number of elements in the weights' files, and whether any are packed."""
    index = folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    if index.is_file():
        # The folder may hold the same weights a second time, in files the index does not list.
        names = as_mapping(_read_json(index).get("weight_map")).values()
        if not names or not all(isinstance(n, str) and n == Path(n).name for n in names):
            raise _damaged(index, "no `weight_map` with names of files")
        files = sorted({folder / name for name in names})
    elif whole.is_file():
        files = [whole]
    else:
        files = sorted(f for f in folder.glob("*.safetensors") if f.name[:8] != "adapter_")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        _logger.warning(
            "%s: %s is missing: the size is computed from config.json, if possible.",
            folder,
            missing[0],
        )
        return None, False
    sizes: dict[str, int] = {}
    dtypes: set[str] = set()
    for file in files:
        for name, (dtype, size) in _tensors(file).items():
            sizes[name] = size
            dtypes.add(dtype)
    return as_number(sum(sizes.values())), not PACKED.isdisjoint(dtypes)


def _tensors(file: Path) -> dict[str, tuple[str, int]]:
    """Read dtype and number of elements of each tensor from a safetensors file's header."""
    try:
        found = parse_local_safetensors_file_metadata(file).tensors
        if any(type(n) is not int or n < 0 for tensor in found.values() for n in tensor.shape):
            raise ValueError("a tensor has no shape")
        return {name: (str(t.dtype), t.parameter_count) for name, t in found.items()}
    except OSError as error:
        raise _unreadable(file, error) from None
    # The library raises errors of several kinds for headers with an unexpected structure.
    except Exception as error:
        raise _damaged(file, type(error).__name__) from None


def active_parameters(config: Mapping[str, Any], total: float) -> float | None:
    """Return the parameters that one token uses.

    Of a mixture of experts, the experts that a token does not use are left out: matrices of a
    gated MLP, in the layers that have experts. Within a tenth of the published numbers for
    Mixtral, Qwen3, DeepSeek-V3 and Llama 4.

    Args:
        config: Content of config.json.
        total: Number of all parameters.

    Returns:
        The number, `total` for dense models; None if it is unknown.
    """
    config = as_mapping(config.get("text_config")) or config

    def number(*names: str, default: int = 0) -> int:
        given = (config.get(name) for name in names)
        return next((n for n in given if type(n) is int and n > 0), default)

    experts = number("num_experts", "num_local_experts", "n_routed_experts")
    if experts <= 1:
        return total
    used = number("num_experts_per_tok", "experts_per_token")
    layers = number("num_hidden_layers") + number("num_nextn_predict_layers")
    layers -= number("first_k_dense_replace")
    layers //= number("interleave_moe_layer_step", "decoder_sparse_step", default=1)
    width = number("moe_intermediate_size", "intermediate_size")
    idle = layers * (experts - used) * 3 * number("hidden_size") * width
    return total - idle if used and 0 < idle < total else None


def _dense_parameters(config: Mapping[str, Any]) -> float | None:
    """Compute a dense decoder's number of parameters from its dimensions; None if unknown.

    Counts the embedding, layers (attention, gated MLP, two norms), the last norm, and the output
    matrix unless tied to the embedding, as in transformers 5.24 for all four types.
    """
    kind = config.get("model_type")
    known = [n for n in (config.get(d) for d in _DIMENSIONS) if type(n) is int and n > 0]
    if kind not in _DENSE or len(known) < len(_DIMENSIONS):
        return None
    vocabulary, hidden, inner, layers, heads = known
    # Default of transformers for llama; for the other types it has been 8 or 32.
    key_heads = config.get("num_key_value_heads", heads if kind == "llama" else None)
    width = config.get("head_dim") or (128 if kind == "qwen3" else hidden // heads)
    if not all(type(n) is int and n > 0 for n in (key_heads, width)):
        return None
    queries, keys = heads * width, key_heads * width
    layer = 2 * hidden * (queries + keys) + 3 * hidden * inner + 2 * hidden
    if kind == "qwen2":
        layer += queries + 2 * keys
    elif kind != "mistral" and config.get("attention_bias") is True:
        layer += queries + 2 * keys + hidden
    if kind == "llama" and config.get("mlp_bias") is True:
        layer += 2 * inner + hidden
    if kind == "qwen3":
        layer += 2 * width
    matrices = 1 if config.get("tie_word_embeddings") is True else 2
    return as_number(matrices * vocabulary * hidden + layers * layer + hidden)
