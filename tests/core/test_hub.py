"""Facts about models, from folders and from a stand-in for the Hub and its router."""

import gzip
import json
import logging
import pickle
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import numpy as np
import pytest
from huggingface_hub import constants, parse_local_safetensors_file_metadata
from huggingface_hub.utils import _http
from safetensors.numpy import save_file

from optuna_agenttts import AgentTTSError, Model, TaskError
from optuna_agenttts.models.checkpoint import Facts, active_parameters, local_facts
from optuna_agenttts.models.hub import Hub, describe_model

MODEL = "Qwen/Qwen3-8B"
SIZE = f"/api/models/{MODEL}"
PRICES = "/v1/models"
TOKEN = "hf_" + "secret" * 5

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


MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
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

    @pytest.mark.parametrize("name", ["mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B"])
    @pytest.mark.parametrize("found", [True, False])
    def test_the_hub_lists_totals(self, name, found, caplog):
        """So its config.json is read; without it, the name may state the size."""
        info = {"safetensors": {"total": 46.7e9}, "config": {"model_type": "mixtral"}}
        pages = {f"/api/models/{name}": info, PRICES: PAGES[PRICES]}
        if found:
            pages[f"/{name}/resolve/main/config.json"] = MIXTRAL
        with serving(pages) as server:
            model = describe_model(name, hub=hub_at(server))
        expected = pytest.approx(12.9e9, rel=0.01) if found else Model(name).parameters
        assert model.parameters == expected
        assert ("active experts" in caplog.text) == (not found)


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


class Server(ThreadingHTTPServer):
    """Answers by path, and remembers the requests' paths and headers.

    A page is bytes, JSON values, a pair of a status and headers, or a function of the handler.
    """

    daemon_threads = True

    def __init__(self, pages):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.seen, self.closing = pages, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        page = self.server.pages.get(path, (404, {}))
        if callable(page):
            page(self)
            return
        status, headers = page if isinstance(page, tuple) else (200, {})
        body = b"" if isinstance(page, tuple) else page
        self.answer(
            body if isinstance(body, bytes) else json.dumps(body).encode(), status, headers
        )

    def answer(self, body, status=200, headers=None, length=None):
        self.send_response(status)
        self.send_header("content-length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(pages):
    server = Server(pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def safetensors(total, **parameters):
    return {"id": MODEL, "safetensors": {"parameters": parameters, "total": total}}


def offer(provider, *prices, **more):
    pricing = dict(zip(("input", "output"), prices))
    return {"provider": provider, "status": "live", "pricing": pricing, **more}


def listing(*offers, model=MODEL):
    return {"object": "list", "data": [{"id": model, "providers": list(offers)}]}


PAGES = {
    SIZE: safetensors(8_190_735_360, BF16=8_190_735_360),
    PRICES: listing(
        offer("dear", 1, 2, context_length=100_000),
        offer("groq", 0.3, 0.6, context_length=40_960),
        offer("dead", 0, 0, status="error"),
        offer("silent"),
        offer("cheap-in", 0.1, 3.5),
    ),
}


def hub_at(server, **options):
    return Hub(**{"endpoint": server.url, "router": server.url, "timeout": 5.0, **options})


def drip(handler):
    """Send one byte after the other."""
    handler.answer(b"", length=10_000)
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b" ")


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.closing.wait(0.05):
        handler.wfile.write(b"x")


def endless(handler):
    handler.answer(b"", length=10**12)
    while not handler.server.closing.is_set():
        handler.wfile.write(b" " * 2**20)


def hang(handler):
    handler.server.closing.wait()


def bomb(handler):
    """Compress what was not to be compressed: a small reply may become a large one."""
    content = json.dumps({**PAGES[SIZE], **PAGES[PRICES]}).encode() + b" " * 10_000_000
    handler.answer(gzip.compress(content), headers={"content-encoding": "gzip"})


def cut(handler):
    handler.answer(b'{"data": [', length=1000)


HOSTILE = {
    "html": b"<!doctype html><html>Log in</html>",
    "empty": b"",
    "null": None,
    "list": [[{"safetensors": {"total": 5}}]],
    "string": "total",
    "number": 7,
    "no UTF-8": b'{"data": "\xff\xfe"}',
    "deep": b"[" * 200_000,
    "long number": b'{"data": ' + b"9" * 10_000 + b"}",
    "data is an object": {"data": {"id": MODEL}, "safetensors": []},
    "entries are odd": {"data": [None, 7, [], {"id": [MODEL], "providers": []}, {"id": MODEL}]},
    "offers are odd": listing(None, 7, {}, {"provider": ["groq"]}, offer("")),
    "redirect loop": (307, {"location": SIZE}),
    "senseless redirect": (307, {"location": "http://[nonsense"}),
    "500": (500, {}),
    "429": (429, {"retry-after": "9999"}),
    "204": (204, {}),
    "gzip": bomb,
    "cut": cut,
}


class TestHub:
    def test_size_price_and_context_are_found(self):
        """Size from the Hub, prices and context from the cheapest provider that is live."""
        with serving(PAGES) as server:
            assert hub_at(server).facts(MODEL) == Facts(
                parameters=8_190_735_360,
                input_price=0.3,
                output_price=0.6,
                context_length=40_960,
                source="Hub; prices: router, provider groq",
            )
            assert "expand=safetensors" in server.seen[0][0]

    @pytest.mark.parametrize("suffixed", [True, False])
    def test_a_named_provider_sets_the_price(self, suffixed):
        """By argument or, as in the router's model names, after a colon."""
        name, options = (f"{MODEL}:dear", {}) if suffixed else (MODEL, {"provider": "dear"})
        with serving(PAGES) as server:
            facts = hub_at(server).facts(name, **options)
        assert (facts.input_price, facts.output_price) == (1, 2)
        assert facts.parameters == 8_190_735_360
        assert facts.context_length == 100_000
        assert facts.source == "Hub; prices: router, provider dear"

    def test_hugging_faces_own_choice_is_no_provider(self):
        """Values that let Hugging Face choose select the cheapest provider."""
        with serving(PAGES) as server:
            hub = hub_at(server)
            for name, options in [(f"{MODEL}:fastest", {}), (MODEL, {"provider": "auto"})]:
                assert hub.facts(name, **options).source.endswith("provider groq")

    def test_a_provider_that_does_not_offer_the_model_gives_no_price(self, caplog):
        """The warning, logged once, names those that do."""
        with serving(PAGES) as server:
            hub = hub_at(server)
            facts = [hub.facts(MODEL, provider="gorq") for _ in range(2)]
        assert facts == [Facts(parameters=8_190_735_360, source="Hub")] * 2
        [record] = caplog.records
        assert "'gorq' does not offer it" in record.message
        assert "groq" in record.message

    def test_a_free_model_costs_nothing(self):
        """A price of zero is a price."""
        with serving({**PAGES, PRICES: listing(offer("free", 0, 0.0))}) as server:
            facts = hub_at(server).facts(MODEL)
        assert (facts.input_price, facts.output_price) == (0, 0)

    @pytest.mark.parametrize("price", [-1, "0.5", None, True, [0.5], 10**400])
    def test_an_invalid_price_is_none(self, price):
        """The other price stays, and such an offer is never the cheapest."""
        page = listing(offer("odd", price, 1), offer("sound", 2, 2))
        with serving({**PAGES, PRICES: page}) as server:
            hub = hub_at(server)
            odd = hub.facts(MODEL, provider="odd")
            assert (odd.input_price, odd.output_price) == (None, 1)
            assert hub.facts(MODEL).input_price == 2

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "0", '"8"'])
    def test_numbers_that_are_none_are_dropped(self, number):
        """JSON as Python reads it may hold NaN and infinity."""
        size = b'{"safetensors": {"total": %s}, "gguf": {"context_length": %s}}'
        price = json.dumps(listing(offer("odd", 7, 7, context_length=7)))
        pages = {
            SIZE: size.replace(b"%s", number.encode()),
            PRICES: price.replace("7", number).encode(),
        }
        with serving(pages) as server:
            facts = hub_at(server).facts(MODEL, provider="odd")
        free = 0 if number == "0" else None
        source = "prices: router, provider odd" if free == 0 else "nothing found"
        assert facts == Facts(input_price=free, output_price=free, source=source)

    def test_gguf_tells_size_and_context(self):
        """Repositories of GGUF files have no safetensors."""
        page = {"gguf": {"total": 3_000_000, "context_length": 2048}, "safetensors": None}
        with serving({SIZE: page, PRICES: listing()}) as server:
            facts = hub_at(server).facts(MODEL)
        assert facts == Facts(parameters=3_000_000, context_length=2048, source="Hub")

    def test_packed_weights_give_no_size(self, caplog):
        """The Hub's sum is too small where one element holds several weights."""
        page = safetensors(2_000_000, I32=1_500_000, F16=500_000)
        with serving({**PAGES, SIZE: page}) as server:
            assert hub_at(server).facts(MODEL).parameters is None
        assert "packed" in caplog.text

    def test_the_list_is_fetched_once(self):
        """One object asks the router once, from several threads too, and also if that fails."""
        for pages in (PAGES, {SIZE: PAGES[SIZE]}):
            with serving(pages) as server:
                hub = hub_at(server)
                threads = [threading.Thread(target=hub.facts, args=(MODEL,)) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert sum(path == PRICES for path, _ in server.seen) == 1

    @pytest.mark.parametrize("page", HOSTILE.values(), ids=HOSTILE)
    def test_hostile_replies_give_no_facts(self, page, caplog):
        """From both servers, with a reason in the log, and without an error."""
        with serving({SIZE: page, PRICES: page}) as server:
            assert hub_at(server).facts(MODEL) == Facts()
        assert "size unknown" in caplog.text

    @pytest.mark.parametrize("page", [hang, drip, drip_headers])
    def test_a_slow_server_costs_the_timeout_and_no_more(self, page, caplog):
        """The timeout is for the whole reply; it is logged once for each server."""
        with serving({SIZE: page, PRICES: PAGES[PRICES]}) as server:
            hub = hub_at(server, timeout=0.3)
            start = time.monotonic()
            facts = [hub.facts(MODEL), hub.facts(MODEL)]
            assert time.monotonic() - start < 30
        assert [f.parameters for f in facts] == [None, None]
        assert [f.input_price for f in facts] == [0.3, 0.3]
        assert [r.message for r in caplog.records if "no reply within 0.3 s" in r.message] == [
            f"{MODEL}: size unknown: {server.url[7:]}: no reply within 0.3 s."
        ]

    def test_an_endless_reply_is_cut(self, caplog):
        """Replies are bounded in length."""
        with serving({**PAGES, PRICES: endless}) as server:
            assert hub_at(server).facts(MODEL).source == "Hub"
        assert "longer than" in caplog.text

    def test_a_server_out_of_reach_is_no_error(self, caplog):
        """Nothing listens; that is said once for several models."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            hub = Hub(endpoint=url, router=url)
            assert [hub.facts(MODEL), hub.facts("other/model")] == [Facts(), Facts()]
        assert len(caplog.records) == 1
        assert "ConnectError" in caplog.text

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_unknown_and_gated_models_are_no_error(self, status, caplog):
        """The reason names the model, once for each."""
        with serving({SIZE: (status, {}), PRICES: PAGES[PRICES]}) as server:
            hub = hub_at(server)
            assert {hub.facts(MODEL).source for _ in range(2)} == {"prices: router, provider groq"}
            hub.facts("other/model")
        messages = [r.message for r in caplog.records]
        assert [m.split(":")[0] for m in messages] == [MODEL, "other/model"]
        assert f"HTTP {status}" in messages[0]

    @pytest.mark.parametrize(
        "name",
        ["", "a/b/c", "../x", "a/..", "a b", "http://x/y", "a?b", "a#b", "a:b/c", "a\n", None, 3],
    )
    def test_what_is_no_model_id_is_not_sent(self, name):
        """Nothing but an id becomes part of a URL."""
        with serving(PAGES) as server:
            assert hub_at(server).facts(name) == Facts()
            assert server.seen == []

    @pytest.mark.parametrize(
        "options",
        [
            {"endpoint": "huggingface.co"},
            {"endpoint": None},
            {"router": "https://user:password@host"},
            {"endpoint": "https://host?token=password"},
            {"timeout": 0},
            {"timeout": float("nan")},
            {"timeout": None},
        ],
    )
    def test_invalid_arguments_are_refused(self, options):
        """The error names the argument and holds no secret."""
        with pytest.raises(AgentTTSError, match=f"Hub: `{next(iter(options))}` must be") as caught:
            Hub(**options)
        assert "password" not in str(caught.value)


class TestKeys:
    def test_the_users_token_goes_to_nobody_else(self, monkeypatch, caplog):
        """The token of the environment is sent to Hugging Face only, after any reply or error."""
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        caplog.set_level(logging.DEBUG)
        caplog.set_level(logging.DEBUG, "optuna_agenttts")
        with serving({**PAGES, "/api/models/a/b": (401, {})}) as server:
            hub = hub_at(server)
            assert hub.facts(MODEL).parameters == 8_190_735_360
            hub.facts("a/b")
            hub.facts("c/d", provider="groq")
            assert len(server.seen) == 4
            assert not any("authorization" in headers for _, headers in server.seen)
            assert TOKEN not in repr(server.seen)
        assert TOKEN not in caplog.text

    @pytest.mark.parametrize("as_function", [True, False])
    def test_a_key_that_is_given_goes_to_the_endpoint_only(self, as_function, caplog):
        """The router's list is public."""
        caplog.set_level(logging.DEBUG)
        caplog.set_level(logging.DEBUG, "optuna_agenttts")
        token = (lambda: TOKEN) if as_function else TOKEN
        with serving(PAGES) as endpoint, serving(PAGES) as router:
            hub = Hub(endpoint=endpoint.url, router=router.url, token=token)
            assert hub.facts(MODEL).source == "Hub; prices: router, provider groq"
            assert [h["authorization"] for _, h in endpoint.seen] == [f"Bearer {TOKEN}"]
            assert not any("authorization" in headers for _, headers in router.seen)
        assert TOKEN not in repr(hub)
        assert TOKEN not in caplog.text

    @pytest.mark.parametrize("token", ["line\nbreak", 7, lambda: 1 / 0])
    def test_an_invalid_key_is_no_error(self, token, caplog):
        """The size is unknown, prices are kept, and the reason is logged."""
        with serving(PAGES) as server:
            facts = hub_at(server, token=token).facts(MODEL)
        assert (facts.parameters, facts.input_price) == (None, 0.3)
        assert "key" in caplog.text

    def test_an_unpickled_object_asks_without_a_key(self, caplog):
        """Prices need none; the size of public models does not, either."""
        with serving(PAGES) as server:
            hub = pickle.loads(pickle.dumps(hub_at(server)))
            assert hub.facts(MODEL).source == "Hub; prices: router, provider groq"
            hub = pickle.loads(pickle.dumps(hub_at(server, token=TOKEN)))
            assert hub.facts(MODEL).source == "prices: router, provider groq"
        assert "not pickled" in caplog.text

    def test_redirects_stay_on_the_server(self, caplog):
        """A model's old name leads to the new one; another server is not followed."""
        with serving(PAGES) as other:
            pages = {
                **PAGES,
                "/api/models/old/name": (307, {"location": SIZE}),
                "/api/models/far/away": (307, {"location": other.url + SIZE}),
            }
            with serving(pages) as server:
                hub = hub_at(server, token=TOKEN)
                assert hub.facts("old/name").parameters == 8_190_735_360
                assert hub.facts("far/away").parameters is None
            assert other.seen == []
        assert "another server" in caplog.text


class TestClient:
    def test_the_librarys_client_is_used(self, monkeypatch):
        """So that proxies and certificates that a user sets there are in force."""
        pages = {f"https://huggingface.co{SIZE}": PAGES[SIZE]}
        pages[f"https://router.huggingface.co{PRICES}"] = PAGES[PRICES]
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

        async def answer(request):
            async def body():
                yield json.dumps(pages[str(request.url.copy_with(query=None))]).encode()

            return httpx2.Response(200, content=body())

        transport = httpx2.MockTransport(answer)
        monkeypatch.setattr(
            _http,
            "_GLOBAL_ASYNC_CLIENT_FACTORY",
            lambda: httpx2.AsyncClient(transport=transport),
        )
        assert Hub(token="").facts(MODEL).source == "Hub; prices: router, provider groq"


class TestOffline:
    def test_loopback_is_asked(self, monkeypatch):
        """HF_HUB_OFFLINE is about the network, not about this machine."""
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with serving(PAGES) as server:
            assert hub_at(server).facts(MODEL).parameters == 8_190_735_360

    def test_hugging_face_is_not_asked(self, monkeypatch, caplog):
        """No facts are returned, and the reason is logged."""
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert Hub().facts(MODEL) == Facts()
        assert "HF_HUB_OFFLINE is set, so huggingface.co is not queried" in caplog.text


class TestDescribeModel:
    def test_the_hub_fills_in_what_it_knows(self):
        """The model keeps the name that it was asked by."""
        with serving(PAGES) as server:
            model = describe_model(f"{MODEL}:dear", hub=hub_at(server))
            other = describe_model(MODEL, hub=hub_at(server), provider="groq")
        assert model == Model(
            f"{MODEL}:dear", parameters=8_190_735_360, input_price=1, output_price=2
        )
        assert other.input_price == 0.3

    def test_a_folder_goes_before_the_hub(self, tmp_path):
        """A local checkpoint is not looked up."""
        checkpoint(tmp_path, model=weights(a=(3, 5)))
        with serving(PAGES) as server:
            model = describe_model(str(tmp_path), hub=hub_at(server))
            assert server.seen == []
        assert model == Model(str(tmp_path), parameters=15)

    def test_a_folder_without_a_checkpoint_is_none(self, tmp_path, monkeypatch):
        """A folder that happens to be called like a model does not hide it."""
        (tmp_path / MODEL).mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        with serving(PAGES) as server:
            assert describe_model(MODEL, hub=hub_at(server)).parameters == 8_190_735_360

    def test_the_name_is_the_last_resort(self, caplog, monkeypatch):
        """A guess is logged as one, once; other facts of the Hub stay."""
        monkeypatch.setattr("optuna_agenttts.task.model._assumed", set())
        with serving({PRICES: PAGES[PRICES]}) as server:
            model = describe_model(MODEL, hub=hub_at(server))
        assert model == Model(MODEL, parameters=8e9, input_price=0.3, output_price=0.6)
        Model(MODEL)
        assert caplog.text.count("from the name") == 1

    @pytest.mark.parametrize(
        ("name", "parameters"),
        [
            ("Qwen2.5-7B", 7e9),
            ("gpt", None),
            ("none-0B", None),
            ("x-" + "9" * 400 + "B", None),
        ],
    )
    def test_without_a_hub_nothing_is_looked_up(self, name, parameters, monkeypatch):
        """Not even a socket is made."""
        monkeypatch.setattr(socket, "socket", None)
        assert describe_model(name) == Model(name, parameters=parameters)

    @pytest.mark.parametrize("name", ["", None, 1])
    def test_a_name_is_required(self, name):
        """As for a model."""
        with pytest.raises(TaskError, match="`name` must be"):
            describe_model(name)
