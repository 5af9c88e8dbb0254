"""Facts about models from folders: checkpoints of Transformers and safetensors."""

import json

import numpy as np
import pytest
from core_support import MIXTRAL
from huggingface_hub import parse_local_safetensors_file_metadata
from safetensors.numpy import save_file

from optuna_agenttts import AgentTTSError
from optuna_agenttts.models.checkpoint import Facts, active_parameters, local_facts

LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
CONFIGS = {
    8_030_261_248: LLAMA_8B,
    1_235_814_400: {
        **LLAMA_8B,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    7_615_616_512: {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    8_190_735_360: {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    7_241_732_096: {
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
    },
}
"""Public dimensions of Llama-3.1-8B, Llama-3.2-1B, Qwen2.5-7B, Qwen3-8B and Mistral-7B-v0.1."""
TINY = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


def checkpoint(folder, config=None, **files):
    """Write config.json and safetensors files (a double underscore is a dash) into a folder."""
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name.replace('__', '-')}.safetensors")
    return folder


def weights(dtype=np.float16, **shapes):
    return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}


def header(content):
    """Begin a safetensors file."""
    text = content if isinstance(content, (bytes, str)) else json.dumps(content)
    data = text.encode() if isinstance(text, str) else text
    return len(data).to_bytes(8, "little") + data


MIXTURES = {
    "Mixtral-8x7B": (46.70, 12.9, MIXTRAL),
    "Qwen3-235B-A22B": (
        *(235.09, 22),
        {
            **{"hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536},
            **{"num_hidden_layers": 94, "num_experts": 128, "num_experts_per_tok": 8},
        },
    ),
    "DeepSeek-V3": (
        *(684.53, 37),
        {
            **{"hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048},
            **{"num_hidden_layers": 61, "n_routed_experts": 256, "num_experts_per_tok": 8},
            **{"first_k_dense_replace": 3, "num_nextn_predict_layers": 1},
        },
    ),
    "Llama-4-Maverick": (
        *(401.58, 17),
        {
            "text_config": {
                **{"hidden_size": 5120, "intermediate_size": 8192, "num_hidden_layers": 48},
                **{"num_local_experts": 128, "num_experts_per_tok": 1},
                **{"interleave_moe_layer_step": 2},
            }
        },
    ),
}
"""Total and published active parameters in billions, and public dimensions."""


class TestActiveParameters:
    @pytest.mark.parametrize(("total", "active", "config"), MIXTURES.values(), ids=MIXTURES)
    def test_published_numbers_are_met(self, total, active, config):
        """Dimensions and the total give the parameters of one token."""
        assert active_parameters(config, total * 1e9) == pytest.approx(active * 1e9, rel=0.1)

    def test_idle_experts_of_a_checkpoint_do_not_count(self, tmp_path):
        """Those of its tensors that a token does not use, to the element."""
        tensors = {"embed": np.zeros((100, 16), np.float16)}
        for layer in range(3):
            tensors[f"{layer}.router"] = np.zeros((6, 16), np.float16)
            for expert in range(6):
                for matrix in ("gate", "up", "down"):
                    tensors[f"{layer}.experts.{expert}.{matrix}"] = np.zeros((16, 24), np.float16)
        idle = sum(t.size for n, t in tensors.items() if "experts" in n) * 4 // 6
        config = {
            **{"num_hidden_layers": 3, "hidden_size": 16, "moe_intermediate_size": 24},
            **{"num_experts": 6, "num_experts_per_tok": 2, "model_type": "qwen3_moe"},
        }
        facts = local_facts(checkpoint(tmp_path, config, model=tensors))
        assert facts.parameters == sum(t.size for t in tensors.values()) - idle

    @pytest.mark.parametrize(
        "changes", [{"num_experts_per_tok": None}, {"hidden_size": "4096"}, {"hidden_size": 10**9}]
    )
    def test_a_mixture_that_is_not_understood_has_no_size(self, changes):
        """Its total is not the size that costs follow."""
        assert active_parameters({**MIXTRAL, **changes}, 46.7e9) is None

    @pytest.mark.parametrize("config", [LLAMA_8B, {}, {"num_experts": 0}, {"num_experts": None}])
    def test_a_dense_model_uses_all(self, config):
        """Also if its type knows experts."""
        assert active_parameters(config, 8e9) == 8e9


class TestLocalFacts:
    @pytest.mark.parametrize(("parameters", "config"), CONFIGS.items())
    def test_dimensions_give_the_published_size(self, tmp_path, parameters, config):
        """The formula for dense decoders is exact."""
        facts = local_facts(checkpoint(tmp_path, config))
        assert facts.parameters == parameters
        assert facts.source == "config.json"
        assert facts.context_length == config.get("max_position_embeddings")

    @pytest.mark.parametrize(
        ("parameters", "changes"),
        [
            (251_808, {"model_type": "llama", "attention_bias": True}),
            (252_480, {"model_type": "llama", "mlp_bias": True}),
            (282_048, {"model_type": "llama", "head_dim": 16}),
            (187_616, {"model_type": "qwen2", "tie_word_embeddings": True}),
            (251_616, {"model_type": "qwen2", "attention_bias": True}),
            (251_328, {"model_type": "mistral", "attention_bias": True, "mlp_bias": True}),
            (712_896, {"model_type": "qwen3"}),
            (717_696, {"model_type": "qwen3", "attention_bias": True}),
        ],
    )
    def test_biases_and_norms_count(self, tmp_path, parameters, changes):
        """Sizes equal those of the modules that transformers 5.24 makes of the same config."""
        assert local_facts(checkpoint(tmp_path, {**TINY, **changes})).parameters == parameters

    @pytest.mark.parametrize(
        "changes",
        [
            {"model_type": "mixtral"},
            {"model_type": ["llama"]},
            {"hidden_size": "64"},
            {"hidden_size": -64},
            {"hidden_size": 64.0},
            {"vocab_size": 10**400},
            {"num_hidden_layers": True},
            {"num_key_value_heads": None},
            {"model_type": "mistral", "num_key_value_heads": 0},
            {"head_dim": float("nan")},
            {"num_attention_heads": 128},
        ],
    )
    def test_an_unknown_or_invalid_config_gives_no_size(self, tmp_path, changes):
        """A number is given only if the formula is known to hold."""
        config = {"model_type": "llama", **TINY, **changes, "max_position_embeddings": -1}
        assert local_facts(checkpoint(tmp_path, config)) == Facts()

    def test_headers_are_summed(self, tmp_path):
        """The stored shapes count, scalars and metadata too, and go before the formula."""
        tensors = weights(a=(3, 5), b=(7,), scalar=(), none=(0, 4))
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        checkpoint(tmp_path, {"model_type": "gemma", "max_position_embeddings": 99})
        facts = local_facts(tmp_path)
        assert facts == Facts(
            parameters=3 * 5 + 7 + 1, context_length=99, source="safetensors header"
        )
        other = parse_local_safetensors_file_metadata(tmp_path / "model.safetensors")
        assert facts.parameters == sum(other.parameter_count.values())

    def test_shards_of_the_index_are_summed_once(self, tmp_path):
        """The same weights under other names, as in Mistral's repositories, do not count."""
        shards = {"model__1": weights(a=(4, 4)), "model__2": weights(b=(5,))}
        checkpoint(tmp_path, **shards, consolidated=weights(other=(4, 4)))
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert local_facts(tmp_path).parameters == 16 + 5

    def test_shards_without_an_index_are_summed(self, tmp_path):
        """A tensor that two files hold counts once; adapters are no model."""
        shards = {"x__1": weights(a=(4, 4)), "x__2": weights(a=(4, 4), b=(5,))}
        checkpoint(tmp_path, **shards, adapter_model=weights(lora=(9,)))
        assert local_facts(str(tmp_path)).parameters == 16 + 5

    def test_a_missing_shard_leaves_the_formula(self, tmp_path, caplog):
        """An incomplete download gives no size from the headers."""
        checkpoint(tmp_path, LLAMA_8B, model__1=weights(a=(4, 4)))
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        facts = local_facts(tmp_path)
        assert (facts.parameters, facts.source) == (8_030_261_248, "config.json")
        assert "model-2.safetensors is missing" in caplog.text

    @pytest.mark.parametrize("marked", [True, False])
    def test_packed_weights_leave_the_formula(self, tmp_path, marked):
        """Quantised checkpoints hold fewer elements than the model has parameters."""
        config = {**LLAMA_8B, **({"quantization_config": {"bits": 4}} if marked else {})}
        dtype = np.float16 if marked else np.int32
        checkpoint(tmp_path, config, model=weights(dtype, qweight=(64, 8)))
        assert local_facts(tmp_path).parameters == 8_030_261_248

    def test_packed_weights_without_a_formula_give_no_size(self, tmp_path, caplog):
        """No size is better than one that is several times too small."""
        checkpoint(tmp_path, {"model_type": "new"}, model=weights(np.uint8, w=(64, 8)))
        assert local_facts(tmp_path) == Facts()
        assert "packed" in caplog.text

    def test_quantised_but_not_packed_weights_count(self, tmp_path):
        """Eight bits hold one weight in one element."""
        config = {"model_type": "new", "quantization_config": {"quant_method": "fp8"}}
        checkpoint(tmp_path, config, model=weights(np.int8, w=(64, 8)))
        assert local_facts(tmp_path).parameters == 512

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x01",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            (2**63).to_bytes(8, "little") + b"{}",
            (9).to_bytes(8, "little") + b"{}",
            header("[]"),
            header("{ "),
            header(b"\xff\xfe\xfa\xf9"),
            header("[" * 100_000),
            header({"a": 12}),
            header({"a": {"dtype": 7, "shape": []}}),
            header({"a": {"dtype": "F1", "shape": 12}}),
            header({"a": {"dtype": "F1", "shape": [-1]}}),
            header({"a": {"dtype": "F1", "shape": [1e99]}}),
            header({"a": {"dtype": "F1", "shape": [2**63]}}),
            header({"a": {"dtype": "F1", "shape": ["1"]}}),
            header({"a": {"dtype": "F1", "shape": [1.5]}}),
            header({"a": {"dtype": "F1", "shape": [1] * 65}}),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path, content):
        """The error names the file and the remedy."""
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(AgentTTSError, match=r"model\.safetensors is damaged .*download"):
            local_facts(tmp_path)

    @pytest.mark.parametrize("content", ["", "{", "[]", "<html>", "[" * 100_000])
    @pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
    def test_damaged_json_is_named(self, tmp_path, name, content):
        """The same holds for the JSON files beside the weights."""
        (tmp_path / name).write_text(content)
        with pytest.raises(AgentTTSError, match=f"{name} is damaged .*download"):
            local_facts(tmp_path)

    @pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", 7, None])
    def test_an_index_stays_in_its_folder(self, tmp_path, file):
        """Files elsewhere are not read."""
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": file}}))
        with pytest.raises(AgentTTSError, match=r"index\.json is damaged"):
            local_facts(tmp_path)

    def test_no_folder_is_an_error(self, tmp_path):
        """An empty folder has no facts; a path that is not a folder is an error."""
        assert local_facts(tmp_path) == Facts()
        with pytest.raises(AgentTTSError, match="`folder` must be"):
            local_facts(tmp_path / "nowhere")
