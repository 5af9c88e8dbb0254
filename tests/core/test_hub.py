"""Facts about models from a stand-in for the Hub and its router."""

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
from core_support import MIXTRAL
from huggingface_hub import constants
from huggingface_hub.utils import _http
from safetensors.numpy import save_file

from optuna_agenttts import AgentTTSError, Model, TaskError
from optuna_agenttts.models.checkpoint import Facts
from optuna_agenttts.models.hub import Hub, describe_model

MODEL = "Qwen/Qwen3-8B"
SIZE = f"/api/models/{MODEL}"
PRICES = "/v1/models"
TOKEN = "hf_" + "secret" * 5


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
        save_file({"a": np.zeros((3, 5))}, tmp_path / "model.safetensors")
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
