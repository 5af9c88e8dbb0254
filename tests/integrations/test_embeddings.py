"""Embedders: over HTTP on this machine, through a store, and by hashed words."""

import asyncio
import copy
import json
import math
import pickle
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
from huggingface_hub.inference._providers import PROVIDERS, _common, hf_inference

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import ChatError, ChatRefusedError, ChatUnavailableError, RetryPolicy
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.calls import huggingface_embedder
from optuna_agenttts_integrations.calls.embeddings import (
    Embedder,
    HashingEmbedder,
    HuggingFaceEmbedder,
    StoredEmbedder,
)
from optuna_agenttts_integrations.exceptions import PipelineError, StoreError
from optuna_agenttts_integrations.scoring.metrics import cosine

KEY = "a-key.of-my_own/server+77"
TOKEN = "hf_TheTokenOfTheUser123456"


def numbers(text):
    """Return the vector that the test server returns for a text."""
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


def good(body, headers):
    """Answer in OpenAI's format, in reverse order."""
    data = [{"index": i, "embedding": numbers(text)} for i, text in enumerate(body["input"])]
    return 200, {"object": "list", "data": data[::-1], "model": body["model"]}


class Server:
    """Server of embeddings with a scripted behavior per request; the last one repeats."""

    def __init__(self, *behaviours):
        self.behaviours = list(behaviours or (good,))
        self.requests = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                entry = {"status": "live", "providerId": "o/m", "task": "feature-extraction"}
                info = {
                    "id": "o/m",
                    "pipeline_tag": "feature-extraction",
                    "inferenceProviderMapping": {"hf-inference": entry},
                }
                content = json.dumps(info).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((self.path, headers, body))
                behave = (
                    server.behaviours.pop(0)
                    if len(server.behaviours) > 1
                    else server.behaviours[0]
                )
                status, reply, *more = behave(body, headers)
                content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                for name, value in more[0].items() if more else ():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # Some tests let a client time out.
        self._server.handle_error = lambda request, address: None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def embed(embedder, *texts):
    return asyncio.run(embedder.embed(texts))


@pytest.fixture(autouse=True)
def _users_token(monkeypatch, tmp_path):
    """Log the user in to Hugging Face."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def test_texts_come_back_in_their_order_and_in_batches():
    """Vectors are in the order of the texts for any order of replies and batches."""
    texts = [f"text {'x' * (i % 7)} {i}" for i in range(70)]
    with Server() as server:
        found = embed(HuggingFaceEmbedder("m", base_url=server.url), *texts)
    assert found == [numbers(text) for text in texts]
    assert sorted(len(body["input"]) for _, _, body in server.requests) == [6, 32, 32]
    assert {body["model"] for _, _, body in server.requests} == {"m"}


def test_no_texts_need_no_request():
    """An empty list returns an empty list."""
    with Server() as server:
        assert embed(HuggingFaceEmbedder("m", base_url=server.url)) == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("ending", "path"),
    [
        ("", "/v1/embeddings"),
        ("/", "/v1/embeddings"),
        ("/v1", "/v1/embeddings"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/there", "/there/v1/embeddings"),
        ("/v1?version=2", "/v1/embeddings?version=2"),
    ],
)
def test_the_url_may_end_anywhere(ending, path):
    """Root, /v1 and the full path are equivalent; a query is kept."""
    with Server() as server:
        embed(HuggingFaceEmbedder("m", base_url=server.url + ending), "a")
    assert server.requests[0][0] == path


def test_the_users_token_is_sent_to_hugging_face_only(monkeypatch):
    """Other servers get no token, and local requests go through no proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Server() as server:
        embed(HuggingFaceEmbedder("m", base_url=server.url), "a")
    assert "authorization" not in server.requests[0][1]
    assert TOKEN not in str(server.requests)


def test_a_key_is_sent_and_never_shown():
    """The header has the key; errors, texts and pickles do not."""

    def echo(body, headers):
        return 403, {"error": f"no access with {headers['authorization']}"}

    with Server(echo) as server:
        embedder = HuggingFaceEmbedder("m", base_url=server.url, api_key=KEY)
        with pytest.raises(ChatRefusedError) as caught:
            embed(embedder, "a")
        assert server.requests[0][1]["authorization"] == f"Bearer {KEY}"
        assert KEY not in str(caught.value) + repr(embedder) + embedder.identity
        assert caught.value.kind == "HTTP 403"
        assert KEY.encode() not in pickle.dumps(embedder)
        with pytest.raises(ChatRefusedError, match="not pickled"):
            embed(pickle.loads(pickle.dumps(embedder)), "a")
        assert len(server.requests) == 1
        server.behaviours = [good]
        assert embed(copy.deepcopy(embedder), "a") == [numbers("a")]
        assert server.requests[1][1]["authorization"] == f"Bearer {KEY}"


def test_a_truncated_error_shows_no_part_of_a_key():
    """Keys are redacted before a reply is truncated for a message."""

    def echo(body, headers):
        return 403, b"x" * 180 + headers["authorization"].split()[1].encode()

    with Server(echo) as server, pytest.raises(ChatRefusedError) as caught:
        embed(HuggingFaceEmbedder("m", base_url=server.url, api_key=KEY), "a")
    assert KEY[:8] not in str(caught.value)


def test_redirects_are_not_followed():
    """A redirect could take key and texts elsewhere."""
    with (
        Server() as elsewhere,
        Server(lambda body, headers: (307, b"", {"location": elsewhere.url})) as server,
    ):
        with pytest.raises(ChatRefusedError, match="307"):
            embed(HuggingFaceEmbedder("m", base_url=server.url, api_key=KEY), "a")
        assert elsewhere.requests == []


def entries(*vectors):
    return {"data": [{"embedding": vector} for vector in vectors]}


@pytest.mark.parametrize(
    "reply",
    [
        [],
        {},
        {"data": None},
        {"data": [1, 2]},
        {"data": [{"vector": [1.0]}, {"vector": [1.0]}]},
        entries([1.0]),
        entries([1.0], [2.0], [3.0]),
        entries([1.0, 2.0], [1.0]),
        entries([], []),
        entries([1.0], ["2"]),
        entries([1.0], [True]),
        entries([1.0], [None]),
        entries([1.0], [[2.0]]),
        entries([1.0], "AAAA"),
        b'{"data": [{"embedding": [NaN]}, {"embedding": [1.0]}]}',
        b'{"data": [{"embedding": [1e999]}, {"embedding": [1.0]}]}',
        b'{"data": [{"embedding": [1' + b"0" * 400 + b']}, {"embedding": [1.0]}]}',
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]}]},
        {"data": [{"index": 1, "embedding": [1.0]}, {"index": 2, "embedding": [2.0]}]},
        {"data": [{"index": False, "embedding": [1.0]}, {"index": True, "embedding": [2.0]}]},
        {"data": [{"index": "a", "embedding": [1.0]}, {"index": None, "embedding": [2.0]}]},
    ],
)
def test_bad_replies_are_named_errors(reply):
    """A reply without one finite vector per text is an error that may be retried."""
    with (
        Server(lambda body, headers: (200, reply)) as server,
        pytest.raises(ChatUnavailableError) as caught,
    ):
        embed(HuggingFaceEmbedder("m", base_url=server.url), "a", "b")
    assert caught.value.kind == "no embeddings"


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        ({"error": {"message": "Insufficient credits", "code": 402}}, "HTTP 402", "credits"),
        ({"error": "Slow down", "code": 429}, "HTTP 429", "Slow down"),
        *((page, "no JSON", "no valid") for page in (b"", b"<html>Log in</html>", b"[" * 100_000)),
    ],
)
def test_errors_and_pages_with_status_200_count_by_their_own_code(reply, kind, words):
    """As those of chat completions do; a page is that of a proxy."""
    with (
        Server(lambda body, headers: (200, reply)) as server,
        pytest.raises(ChatError, match=words) as caught,
    ):
        embed(HuggingFaceEmbedder("m", base_url=server.url), "a")
    assert caught.value.kind == kind


def test_batches_of_different_lengths_are_refused():
    """Vectors of all batches must have one length."""
    replies = [entries([1.0]), entries([1.0, 2.0])]
    with (
        Server(*[lambda body, headers, reply=reply: (200, reply) for reply in replies]) as server,
        pytest.raises(ChatUnavailableError, match="different lengths"),
    ):
        embed(HuggingFaceEmbedder("m", base_url=server.url, batch=1), "a", "b")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, ChatRefusedError) for status in (400, 401, 413)),
        *((status, ChatUnavailableError) for status in (429, 500, 503)),
    ],
)
def test_statuses_are_errors_of_the_port(status, error):
    """The error type distinguishes statuses that may be retried."""
    with (
        Server(lambda body, headers: (status, {"error": "no"}, {"retry-after": "3"})) as server,
        pytest.raises(error) as caught,
    ):
        embed(HuggingFaceEmbedder("m", base_url=server.url), "a")
    assert caught.value.kind == f"HTTP {status}"
    assert caught.value.retry_after == (3 if error is ChatUnavailableError else None)


def test_long_late_and_missing_replies(monkeypatch):
    """Long or late replies and unreachable servers are named errors."""
    monkeypatch.setattr(huggingface_embedder, "_MAX_REPLY_BYTES", 1000)
    with Server(lambda body, headers: (200, b" " * 2000)) as server:
        with pytest.raises(ChatUnavailableError, match="longer than 1000 bytes"):
            embed(HuggingFaceEmbedder("m", base_url=server.url), "a")
        waiting = threading.Event()
        server.behaviours = [lambda body, headers: (waiting.wait(5), good(body, headers))[1]]
        with pytest.raises(ChatUnavailableError, match=r"no reply within 0.1 s"):
            embed(HuggingFaceEmbedder("m", base_url=server.url, timeout=0.1), "a")
        waiting.set()
    with pytest.raises(ChatUnavailableError, match="Connect"):
        embed(HuggingFaceEmbedder("m", base_url=server.url), "a")


def test_texts_may_be_truncated():
    """Only the beginning of a long text is sent, and the identity names the limit."""
    with Server() as server:
        cut = HuggingFaceEmbedder("m", base_url=server.url, max_characters=3)
        assert embed(cut, "abcdef") == [numbers("abc")]
        assert cut.identity != HuggingFaceEmbedder("m", base_url=server.url).identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "`model` is ''"),
        ({"model": "http://u:secret@127.0.0.1"}, "URL only as `base_url`"),
        ({"base_url": "nowhere"}, "`base_url` must be"),
        ({"base_url": "http://u:secret@127.0.0.1"}, "user name or password"),
        ({"timeout": 0}, "`timeout`.* got 0"),
        ({"concurrency": 0}, "`concurrency`.* got 0"),
        ({"batch": 0}, "`batch`.* got 0"),
        ({"max_characters": 0}, "`max_characters`.* got 0"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    """Errors name arguments and values, without secrets."""
    with pytest.raises(AgentTTSError, match=message) as caught:
        HuggingFaceEmbedder(**{"model": "m", **options})
    assert "secret" not in str(caught.value)


@pytest.fixture
def hub(monkeypatch):
    """Redirect hosts, and nothing else, of huggingface_hub to this machine."""
    constants, extract = huggingface_hub.constants, PROVIDERS["hf-inference"]["feature-extraction"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with Server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(extract, "base_url", f"{server.url}/hf-inference")
        cached = (_common._fetch_inference_provider_mapping, hf_inference._check_supported_task)
        for function in cached:
            function.cache_clear()
        yield server
        for function in cached:
            function.cache_clear()


def test_models_of_the_hub_are_called_with_the_users_token(hub):
    """Without a URL, the provider of feature extraction is called, with headers of the user."""
    hub.behaviours[:] = [lambda body, headers: (200, [[1, 2], [3, 4]])]
    embedder = HuggingFaceEmbedder("o/m", timeout=7, headers={"X-Team": "search"})
    assert embed(embedder, "a", "b") == [[1, 2], [3, 4]]
    ((path, headers, sent),) = hub.requests
    assert path == "/hf-inference/models/o/m/pipeline/feature-extraction"
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["x-team"] == "search"
    assert sent == {"inputs": ["a", "b"]}


@pytest.mark.parametrize(
    ("status", "reply", "error"),
    [
        (503, f"you sent {TOKEN}", ChatUnavailableError),
        (404, f"you sent {TOKEN}", ChatRefusedError),
        (200, b"<html>", ChatUnavailableError),
        (200, [[[0.0] * 3] * 5], ChatRefusedError),
        (200, [[0.0] * 3] * 2, ChatUnavailableError),
        (200, [0.0] * 3, ChatUnavailableError),
        (200, [[math.nan]], ChatUnavailableError),
        (200, {"data": [{"embedding": None}]}, ChatUnavailableError),
    ],
)
def test_errors_of_the_hub_are_chat_errors(hub, status, reply, error):
    """Statuses and invalid results are named errors without the token."""
    hub.behaviours[:] = [lambda body, headers: (status, reply)]
    with pytest.raises(error) as caught:
        embed(HuggingFaceEmbedder("o/m"), "a")
    assert TOKEN not in str(caught.value)


def test_the_hub_is_not_called_offline(hub, monkeypatch):
    """`HF_HUB_OFFLINE` is obeyed."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ChatRefusedError, match="HF_HUB_OFFLINE"):
        embed(HuggingFaceEmbedder("o/m"), "a")


def stored(server, store, **options):
    return StoredEmbedder(HuggingFaceEmbedder("m", base_url=server.url), store, **options)


def test_stored_texts_are_not_embedded_again(tmp_path):
    """Equal texts are sent once, and a second run sends only new texts."""
    path = tmp_path / "store.db"
    with Server() as server:
        store = CompletionStore(path)
        first = embed(stored(server, store), "a", "bb", "a")
        store.close()
        assert [body["input"] for _, _, body in server.requests] == [["a", "bb"]]
        store = CompletionStore(path)
        assert embed(stored(server, store, replay=True), "a", "bb", "a") == first
        assert len(server.requests) == 1
        assert embed(stored(server, store), "bb", "ccc") == [numbers("bb"), numbers("ccc")]
        assert server.requests[1][2]["input"] == ["ccc"]
        held = [(h.model, h.samples, h.prompt_tokens) for h in store.holdings()]
        # A token is four characters, rounded for each text: 0.25, 0.5 and 0.75.
        assert held == [("m", 3, 1)]
        store.close()
    assert first == [numbers("a"), numbers("bb"), numbers("a")]


def test_vectors_survive_the_store_to_the_last_digit():
    """Any float is read as it was stored."""
    rng = random.Random(1)
    vector = [rng.uniform(-1, 1) * 10 ** rng.randint(-300, 300) for _ in range(200)]
    with Server(lambda body, headers: (200, entries(vector))) as server:
        store = CompletionStore()
        assert embed(stored(server, store), "a") == [vector]
        assert embed(stored(server, store), "a") == [vector]


def test_vectors_are_stored_by_server_and_model():
    """Two embedders never share vectors."""
    store = CompletionStore()
    with Server() as server:
        for embedder in (
            HuggingFaceEmbedder("m", base_url=server.url),
            HuggingFaceEmbedder("n", base_url=server.url),
            HuggingFaceEmbedder("m", base_url=server.url + "/other"),
        ):
            embed(StoredEmbedder(embedder, store), "a")
    assert len(server.requests) == 3


def test_temporary_failures_are_retried():
    """Retries follow the policy; refusals are not retried."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    options = {"policy": RetryPolicy(attempts=3), "sleep": sleep}
    with Server(
        lambda body, headers: (503, b""), lambda body, headers: (503, b""), good
    ) as server:
        assert embed(stored(server, CompletionStore(), **options), "a") == [numbers("a")]
        assert (len(server.requests), len(waits)) == (3, 2)
        server.behaviours = [lambda body, headers: (401, b"")]
        with pytest.raises(ChatRefusedError):
            embed(stored(server, CompletionStore(), **options), "a")
        assert len(server.requests) == 4


def test_a_replay_makes_no_call():
    """Missing vectors are an error."""
    with Server() as server, pytest.raises(StoreError, match="lacks the vectors of 1 texts"):
        embed(stored(server, CompletionStore(), replay=True), "a")
    assert server.requests == []


def test_unpaired_surrogates_are_embedded():
    """JSON can encode them, UTF-8 cannot."""
    with Server() as server:
        assert len(embed(stored(server, CompletionStore()), "a\ud800b")) == 1


def test_hashed_words_are_unit_vectors_similar_by_words():
    """Words and parts of identifiers count, in any case, and nothing else."""
    embedder = HashingEmbedder()
    one, other, third, none = embed(
        embedder, "word count of HTTP pages", "wordCount(http_pages) = OF", "1234 5678", " ;-"
    )
    assert math.hypot(*one) == pytest.approx(1)
    assert cosine(one, other) == pytest.approx(1)
    assert cosine(one, third) == 0
    assert none == [0.0] * 256
    assert len(embed(HashingEmbedder(7), "a")[0]) == 7
    with pytest.raises(AgentTTSError, match="`dimensions` must be at least 1, got 0"):
        HashingEmbedder(0)


def test_all_embedders_follow_the_protocol():
    """Callers need only the protocol."""
    hashing = HashingEmbedder()
    for embedder in (
        hashing,
        HuggingFaceEmbedder("m"),
        StoredEmbedder(hashing, CompletionStore()),
    ):
        assert isinstance(embedder, Embedder)
        assert embedder.identity


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5])
def test_a_wrong_number_of_vectors_is_an_error_and_nothing_is_stored(count):
    """The error names the embedder and both numbers; a later correct call works."""

    class Wrong(HashingEmbedder):
        async def embed(self, texts):
            return (await super().embed([*texts, *texts]))[: self.count]

    embedder, store = Wrong(), CompletionStore()
    stored = StoredEmbedder(embedder, store)
    embedder.count = count
    with pytest.raises(PipelineError, match=rf"Wrong .* 3 texts, got {count}"):
        asyncio.run(stored.embed(["a", "b", "c"]))
    assert len(store) == 0
    embedder.count = 3
    assert len(asyncio.run(stored.embed(["a", "b", "c"]))) == len(store) == 3
