"""Outages, which time mends, and errors that it does not, as real connections show them."""

import asyncio
import json
import random
import socket
import ssl
import struct
import threading

import httpx2
import pytest
from llm_support import ask

from optuna_agenttts.llm import (
    ChatError,
    ChatUnavailableError,
    CircuitBreaker,
    HuggingFaceChat,
    RetryingChatModel,
    RetryPolicy,
    examine,
)
from optuna_agenttts.llm.error_replies import http_error
from optuna_agenttts.llm.outages import connection_error, is_outage, note_answer
from optuna_agenttts.support.plain import one_line

PATIENT = RetryPolicy(attempts=3, base=0.5, longest=15, patience=600)
REPLY = json.dumps(
    {
        "choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    }
).encode()


def patience(error):
    """Seconds of waits that a call gets that keeps failing so."""
    waited, rng = 0.0, random.Random(0)
    for attempt in range(1, 10_000):
        wait = PATIENT.wait(error, attempt, rng, waited)
        if wait is None:
            return waited
        waited += wait
    raise AssertionError("no end")


def call(chat):
    """Call once; returns the completion or the error."""

    async def work():
        try:
            return await chat.complete(ask(), seed=1)
        except ChatError as error:
            return error
        finally:
            await chat.aclose()

    return asyncio.run(work())


class Listener:
    """Server of bytes: `reply` is sent to each connection; None resets it."""

    def __init__(self, reply, port=0):
        self.reply = reply
        self.socket = socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                taken, _ = self.socket.accept()
            except OSError:
                return
            with taken:
                taken.recv(1 << 16)
                if self.reply is None:
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    taken.sendall(self.reply)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Close the port."""
        # Shutting down wakes the thread in `accept`.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def http(status, content=b"", headers="", length=None):
    """Return the bytes of a reply."""
    length = len(content) if length is None else length
    head = f"HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    return head.encode() + content


def closed_port():
    """Return a URL at which nobody has ever listened."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


HTML = b"<html><body>Bad gateway</body></html>"
OUTAGES = {
    "reset": None,
    "closed without a byte": b"",
    "half of the head": b"HTTP/1.1 200 O",
    "half of the body": http(200, REPLY[:20], length=len(REPLY)),
    "a body without its length, cut": b"HTTP/1.1 200 x\r\nconnection: close\r\n\r\n" + REPLY[:20],
    "a page for a reply": http(200, HTML, "content-type: text/html\r\n"),
    **{f"HTTP {status}": http(status, HTML) for status in (500, 502, 503, 504, 520, 522, 524)},
    "HTTP 529": http(529, b'{"error": {"type": "overloaded_error"}}'),
}


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_is_waited_for_as_long_as_the_patience(name):
    """Whatever a broken server, a tunnel or a proxy sends, its calls are repeated for minutes."""
    with Listener(OUTAGES[name]) as server:
        error = call(HuggingFaceChat("m", base_url=server.url, timeout=5))
    assert isinstance(error, ChatUnavailableError)
    assert patience(error) == pytest.approx(600)


def test_a_server_that_closes_its_port_is_waited_for_if_it_has_answered_or_may_be_starting():
    """A restart is an outage; a port where nothing has ever answered is a wrong port."""
    with Listener(http(200, REPLY)) as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=5)
        assert call(chat).text == "fine"
    down = call(chat)
    assert down.kind == "ConnectError"
    assert patience(down) == pytest.approx(600)
    # Also for another model of the server.
    assert is_outage(call(HuggingFaceChat("other", base_url=server.url)))

    url = closed_port()
    never = call(HuggingFaceChat("m", base_url=url))
    assert patience(never) == 0
    assert "verify host and port" in str(never)
    assert "`starting=True`" in str(never)
    assert patience(call(HuggingFaceChat("m", base_url=url, starting=True))) > 599


def test_a_tunnel_that_resets_and_then_closes_is_one_outage():
    """A connection that was accepted shows that a server is meant to be there."""
    with Listener(None) as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=5)
        assert call(chat).kind == "ReadError"
    assert patience(call(chat)) > 599


def raised(cause, kind=httpx2.ConnectError):
    """Build an exception of the HTTP library with its cause, as anyio wraps it."""
    error = kind(str(cause))
    error.__cause__ = OSError("All connection attempts failed")
    error.__cause__.__cause__ = cause
    return error


def test_an_unknown_host_is_an_outage_only_if_it_has_answered_before():
    """Resolvers fail at times, but a name that never had a server is a typing error."""
    error = call(HuggingFaceChat("m", base_url="http://gpu-typo.invalid:8000", timeout=30))
    assert error.kind == "unknown host"
    assert patience(error) == 0
    assert "host name" in str(error)
    for code in (socket.EAI_AGAIN, socket.EAI_NONAME):
        gone = raised(socket.gaierror(code, "?"))
        assert not is_outage(connection_error(gone, f"m at new{-code}.test"))
        note_answer(f"other at new{-code}.test")
        assert is_outage(connection_error(gone, f"m at new{-code}.test"))


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(
    ("cause", "outage"),
    [
        (ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), False),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), False),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
    ],
)
def test_certificates_do_not_mend_but_cut_handshakes_do(cause, outage, answered):
    """Nobody trusts a certificate by waiting; a handshake that is cut is a restart."""
    where = f"m at tls{cause.errno}{type(cause).__name__}{answered}.test"
    if answered:
        note_answer(where)
    error = connection_error(raised(cause), where)
    assert is_outage(error) == outage


@pytest.mark.parametrize("status", [403, 407])
def test_refusals_of_a_proxy_are_not_waited_for(status, monkeypatch):
    """Neither as the reply to CONNECT, nor as that to a plain request; the remedy names it."""
    with Listener(http(status, b"<html>denied</html>")) as proxy:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("no_proxy", "")
        tunnelled = call(HuggingFaceChat("m", base_url="https://models.test", timeout=5))
        plain = call(HuggingFaceChat("m", base_url="http://models.test", timeout=5))
    assert patience(tunnelled) == patience(plain) == 0
    assert "HTTPS_PROXY" in str(tunnelled)
    if status == 407:
        assert "HTTPS_PROXY" in str(plain)


NO_QUOTA = [
    (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}),
    (429, {"error": {"type": "exceeded_current_quota_error", "message": "check your account"}}),
    (429, {"error": {"code": "billing_hard_limit_reached", "message": "Billing hard limit"}}),
    (429, {"error": {"code": "1113", "message": "Insufficient balance or no resource package."}}),
    (429, "Your team has used all available credits or reached its monthly spending limit."),
    (400, {"error": {"message": "Your credit balance is too low to access the API."}}),
    (403, {"error": "You have exceeded your monthly included credits"}),
    (429, {"error": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits"}}),
    (429, {"message": "Requests per day limit exceeded - too many requests sent."}),
    (400, {"error": {"code": "Arrearage", "message": "Access denied"}}),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}),
    (412, {"error": {"message": "Account suspended, possibly due to unpaid invoices"}}),
    (
        429,
        [
            {
                "error": {
                    "message": "You exceeded your current quota. Please retry in 35s.",
                    "details": [
                        {"retryDelay": "35s"},
                        {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}]},
                    ],
                }
            }
        ],
    ),
]
RATE_LIMITS = [
    {"error": {"message": "Rate limit reached for requests", "code": "rate_limit_exceeded"}},
    {"error": {"message": "Limit 6000 tokens. Need more tokens? See /settings/billing"}},
    {"error": {"message": "Limit of tokens per day (TPD) 100000. Please try again in 7m12s."}},
    {
        "error": {
            "message": "You exceeded your current quota, please check your plan and billing "
            "details.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"retryDelay": "35s"}],
        }
    },
    "Too many requests",
    "",
]


@pytest.mark.parametrize(("status", "body"), NO_QUOTA)
def test_a_user_without_credit_is_not_waited_for(status, body):
    """It fails at once, with the server's words and the remedy."""
    text = body if isinstance(body, str) else json.dumps(body)
    error = http_error(status, {}, text, "m at h")
    assert (error.kind, error.permanent, patience(error)) == ("no quota", True, 0)
    assert one_line(text, 20)[:-1] in str(error)
    assert str(error).endswith(
        "Add credits or raise the spending limit of the account, or bill another one."
    )


@pytest.mark.parametrize("body", RATE_LIMITS)
@pytest.mark.parametrize("headers", [{}, {"retry-after": "7"}])
def test_a_limit_of_the_rate_is_waited_for(body, headers):
    """Also where a provider calls it a quota."""
    text = body if isinstance(body, str) else json.dumps(body)
    assert patience(http_error(429, headers, text, "m at h")) >= 600


def doctor(chat):
    """Return the findings that are errors."""

    async def work():
        try:
            return await examine(chat, subject="s", model="m")
        finally:
            await chat.aclose()

    return [finding for finding in asyncio.run(work()) if finding.level == "error"]


def test_the_doctor_fails_on_what_time_does_not_mend():
    """Each is an error, with the remedy on its own line, once."""
    quota = json.dumps(NO_QUOTA[0][1]).encode()
    with Listener(http(429, quota)) as server:
        (finding,) = doctor(HuggingFaceChat("m", base_url=server.url))
        assert "Add credits" in finding.remedy
        assert "Add credits" not in finding.message
    for url, remedy in [
        (closed_port(), "host and port"),
        ("http://gpu-typo.invalid:8000", "host name"),
    ]:
        (finding,) = doctor(HuggingFaceChat("m", base_url=url))
        assert remedy in finding.remedy
        assert remedy not in finding.message


@pytest.mark.parametrize("reply", [http(429, json.dumps(NO_QUOTA[0][1]).encode()), http(401)])
def test_the_agent_asks_once_where_asking_again_is_of_no_use(reply):
    """One call is made, and later ones say why they are not."""
    with Listener(reply) as server:
        inner = HuggingFaceChat("m", base_url=server.url)
        chat = RetryingChatModel(inner, breaker=CircuitBreaker())
        first, second = call(chat), call(chat)
    assert chat.calls == 1
    assert second.kind == "circuit open"
    assert str(second).startswith(str(first))
