"""Certificates, proxies and headers."""

import asyncio
import pickle
import ssl
import subprocess

import pytest
from llm_support import AdversarialServer, ask, body, echo_auth_error

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import ChatError, ChatRefusedError, HuggingFaceChat
from optuna_agenttts.llm.wire import chat_url, models_url
from optuna_agenttts.models.hub import Hub

SECRET = "0123456789abcdef-azure"


def run(chat, use=None):
    async def work():
        try:
            return await (use(chat) if use else chat.complete(ask(), seed=5))
        finally:
            await chat.aclose()

    return asyncio.run(work())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Make a certificate for this machine that no system trusts."""
    folder = tmp_path_factory.mktemp("tls")
    key, path = folder / "key.pem", folder / "certificate.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(path), "-subj", "/CN=localhost", "-addext", names]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return path


@pytest.fixture
def https(certificate):
    """Serve over TLS: a proxy in front of the server of the other tests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with AdversarialServer() as server:
        port = int(server.url.rpartition(":")[2])

        async def pump(reader, writer):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def forward(reader, writer):
            there = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(
                pump(reader, there[1]), pump(there[0], writer), return_exceptions=True
            )

        loop = server._loop
        listening = loop.run(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context))
        yield f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        loop.run(_close(listening))


async def _close(server):
    server.close()


def test_certificates_of_the_environment_and_of_an_argument_hold_on_this_machine(
    https, certificate, monkeypatch
):
    """A certificate is refused unless the user trusts it, in any of the ways there are."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(ChatError) as caught:
        run(HuggingFaceChat("m", base_url=https))
    assert caught.value.kind == "untrusted certificate"
    assert caught.value.permanent
    assert "`verify=`" in str(caught.value)
    context = ssl.create_default_context(cafile=certificate)
    for verify in (str(certificate), certificate, context, False):
        assert run(HuggingFaceChat("m", base_url=https, verify=verify)).text == "hi there"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert run(HuggingFaceChat("m", base_url=https)).text == "hi there"
    assert run(HuggingFaceChat("m", base_url=https), HuggingFaceChat.healthy)


def test_certificates_of_the_environment_hold_for_a_mirror_of_the_hub(
    https, certificate, monkeypatch, caplog
):
    """On this machine, too."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    Hub(endpoint=https, router=https).facts("a/b")
    assert "untrusted certificate" in caplog.text
    caplog.clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    Hub(endpoint=https, router=https).facts("a/b")
    assert "HTTP 404" in caplog.text


def test_certificates_that_cannot_be_read_are_a_refusal(tmp_path, monkeypatch):
    """It is said at once; nothing is waited for, and nothing stays open."""
    (tmp_path / "no.pem").write_text("no certificate")
    with AdversarialServer() as server:
        secure = server.url.replace("http:", "https:")
        with pytest.raises(ChatRefusedError, match="certificates"):
            run(HuggingFaceChat("m", base_url=secure, verify=str(tmp_path / "no.pem")))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        with pytest.raises(ChatRefusedError, match="certificates"):
            run(HuggingFaceChat("m", base_url=secure))
        assert not server.requests
        # Without TLS, they do not matter.
        assert run(HuggingFaceChat("m", base_url=server.url)).text == "hi there"


def test_a_certificate_that_is_not_there_is_named():
    """A wrong path is an error of the argument, not of the server."""
    with pytest.raises(AgentTTSError, match="verify"):
        HuggingFaceChat("m", base_url="https://127.0.0.1", verify="/no/such/file.pem")


@pytest.mark.parametrize(
    ("proxy", "message"), [("socks5://127.0.0.1:9", "socks"), ("nonsense://x", "prox")]
)
def test_a_proxy_that_cannot_be_used_is_a_refusal_with_what_to_do(proxy, message, monkeypatch):
    """It is said at once: time does not mend it. Servers on this machine need no proxy."""
    if proxy.startswith("socks"):
        try:
            import socksio  # noqa: F401

            pytest.skip("SOCKS proxies are supported here")
        except ImportError:
            pass
    for name in ("ALL_PROXY", "HTTP_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(ChatRefusedError, match=message):
        run(HuggingFaceChat("m", base_url="http://server.invalid"))
    with AdversarialServer() as server:
        assert run(HuggingFaceChat("m", base_url=server.url)).text == "hi there"


def azure():
    """Return the headers of Azure."""
    return {"api-key": SECRET}


def test_headers_are_sent_with_each_request_and_no_key_is_made_up():
    """Calls and the server's pages get them; names are in any case."""
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url, headers={"API-Key": SECRET})
        run(chat)
        run(chat, HuggingFaceChat.listing)
        seen = [r.headers for r in server.requests]
    assert [h["api-key"] for h in seen] == [SECRET] * 2
    assert all("authorization" not in h for h in seen)


def test_a_header_of_the_user_goes_before_that_of_the_key():
    """`Authorization` may be of another kind than a bearer token."""
    with AdversarialServer() as server:
        headers = {"Authorization": "Basic abcdefghijkl"}
        run(HuggingFaceChat("m", base_url=server.url, api_key="key", headers=headers))
        assert server.requests[0].headers["authorization"] == "Basic abcdefghijkl"


def test_secret_headers_stay_out_of_messages_and_pickles():
    """As keys do; a function is pickled in the place of its result."""
    with AdversarialServer(body({"error": f"no access with {SECRET}"}, 401)) as server:
        for headers in ({"api-key": SECRET}, azure):
            chat = HuggingFaceChat("m", base_url=server.url, headers=headers)
            assert SECRET.encode() not in pickle.dumps(chat)
            with pytest.raises(ChatRefusedError) as caught:
                run(chat)
            assert SECRET not in str(caught.value)
            other = pickle.loads(pickle.dumps(chat))
            with pytest.raises(ChatRefusedError, match="401" if callable(headers) else "pickled"):
                run(other)


@pytest.mark.parametrize(
    "headers", [{"a b": "x"}, {"a": "x\ny"}, {"a": 3}, ["a"], lambda: {"": ""}, lambda: 1 / 0]
)
def test_invalid_headers_are_a_refusal(headers):
    """They are named before anything is sent."""
    with AdversarialServer(echo_auth_error(400)) as server:
        with pytest.raises(ChatRefusedError, match="header"):
            run(HuggingFaceChat("m", base_url=server.url, headers=headers))
        assert not server.requests


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("http://h", "/v1"),
        ("http://h/prefix", "/prefix/v1"),
        ("http://h/v1beta/openai/", "/v1beta/openai"),
        ("http://h/api/paas/v4", "/api/paas/v4"),
        ("http://h/api/v3", "/api/v3"),
        ("http://h/openai/v1?api-version=1", "/openai/v1"),
        ("http://h/openai/deployments/gpt?api-version=1", "/openai/deployments/gpt"),
    ],
)
def test_roots_of_apis_are_completed(base_url, path):
    """A path with a version is that of an API; a query is kept."""
    query = base_url.partition("?")[1:]
    assert chat_url(base_url) == f"http://h{path}/chat/completions{''.join(query)}"
    assert models_url(base_url) == f"http://h{path}/models{''.join(query)}"
