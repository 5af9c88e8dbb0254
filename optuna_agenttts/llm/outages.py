"""Failures of servers: outages, which time mends, and errors that it does not."""

from __future__ import annotations

import math
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping

from optuna_agenttts.llm.port import ChatError, ChatUnavailableError
from optuna_agenttts.support.plain import one_line

NO_QUOTA, PROXY, OVERLOADED = "no quota", "ProxyError", "overloaded"
_UNKNOWN_HOST, _CERTIFICATE, _NO_TLS = "unknown host", "untrusted certificate", "no TLS"
_CLOSED = "ConnectError"
_KEY = "Check that the API key is set, belongs to this server, and has access to the model."
_QUOTA = "Add credits or raise the spending limit of the account, or bill another one."
_BLOCKED = (
    "Check the proxy and its credentials in HTTPS_PROXY or HTTP_PROXY, or add the server's host "
    "to NO_PROXY."
)
REMEDIES: Mapping[str, str] = {
    NO_QUOTA: _QUOTA,
    "HTTP 401": _KEY,
    "HTTP 402": f"{_QUOTA} At Hugging Face, `bill_to` names an organization.",
    "HTTP 403": _KEY,
    "HTTP 407": _BLOCKED,
    PROXY: _BLOCKED,
    _UNKNOWN_HOST: "Check the URL's host name, and the network.",
    _CERTIFICATE: (
        "Set SSL_CERT_FILE to the certificate of the authority that signed it, or pass it as "
        "`verify=`."
    ),
    _NO_TLS: "Use http:// if the server has no TLS, and check the port.",
    _CLOSED: (
        "Check that the server is running and reachable: verify host and port. If it is starting, "
        "pass `starting=True` to `connect_endpoints`, and it is waited for."
    ),
}
"""Remedy for each kind of failure that waiting does not mend; errors end with it."""

_LOSING = frozenset({"ReadError", "ReadTimeout", "RemoteProtocolError", "DecodingError"})
"""Names of httpx2's errors after a request was sent; importing httpx2 takes longer than Optuna."""
_OVERLOADED = {"HTTP 429", "HTTP 502", "HTTP 503", "HTTP 504", "ConnectTimeout", PROXY}
_OVERLOADED |= {_UNKNOWN_HOST, _CLOSED, OVERLOADED}
_BROKEN = {"HTTP 500", "ReadError", "WriteError", "RemoteProtocolError", "DecodingError"}
_BROKEN |= {"no JSON", "CloseError", "NetworkError"}
_BEHIND_PROXY = re.compile(r"HTTP 5(2\d|30)")
"""Outages by their kind: statuses from 520 on are those of proxies such as Cloudflare's."""

_NO_QUOTA = re.compile(
    r"insufficient[_ ](?:credit|funds|quota|balance)|exceeded your current quota|余额不足|欠费"
    r"|credit balance is too low|balance is insufficient|used all (?:available|your) credits"
    r"|out of credits|(?:monthly|included) credits|spending limit|arrearage|overdue|per.day\b"
    r"|budget has been exceeded|account (?:is |was )?suspended",
    re.I,
)
"""Words of servers whose user has no credit left, or used up the requests of the day."""
_NO_QUOTA_CODE = re.compile(
    r"insufficient_(?:user_)?(?:quota|balance)|billing_(?:hard_limit|not_active)"
    r"|exceeded_current_quota|account_deactivated|PerDay",
    re.I,
)
"""Codes of the same, which count whatever wait the server suggests (Gemini: PerDay)."""
_PASSES = re.compile(r"retry[-_ ]?(?:delay|after|in)|try again in|per.?(?:minute|second)", re.I)
"""Words of a limit that passes: Gemini calls limits per minute a quota."""

_MAX_SERVERS = 1000
"""Servers to remember. Chosen by hand: far above the number of servers of a search."""
_answered: dict[str, float] = {}
"""Monotonic time of the last answer of each server. A closed port, or an unknown name, of a server
that has answered this process is an outage."""


def server_of(where: str) -> str:
    """Return the server in a label such as ``"m at h:8000"``."""
    return where.rpartition(" at ")[2]


def note_answer(where: str) -> None:
    """Record that a server is there: from now on, it is waited for if it is unreachable."""
    server = server_of(where)
    if server in _answered or len(_answered) < _MAX_SERVERS:
        _answered[server] = time.monotonic()


def last_answer(where: str) -> float:
    """Return the monotonic time of a server's last answer; minus infinity if there is none."""
    return _answered.get(server_of(where), -math.inf)


def is_outage(error: ChatError) -> bool:
    """Return whether an error is one of a server that may come back within minutes."""
    return not error.permanent and (error.kind in _OVERLOADED or may_be_the_request(error))


def may_be_the_request(error: ChatError) -> bool:
    """Return whether an outage may also be the fault of the request, if others are answered."""
    return error.kind in _BROKEN or bool(_BEHIND_PROXY.fullmatch(error.kind))


def lacks_quota(status: int, headers: Mapping[str, str], text: str) -> bool:
    """Return whether a server refuses a request because its user has no credit left."""
    if status not in (400, 403, 412, 429):
        return False
    if _NO_QUOTA_CODE.search(text):
        return True
    waits = "retry-after" in {name.lower() for name in headers} or _PASSES.search(text)
    return bool(_NO_QUOTA.search(text)) and not waits


def connection_error(error: Exception, where: str) -> ChatUnavailableError:
    """Build the error of a request that got no reply, for an exception of the HTTP library.

    A host without a name, or a closed port, is an outage if the server has answered before.
    """
    kind, detail, permanent = type(error).__name__, one_line(str(error)), False
    if loses_reply(error):
        note_answer(where)
    known = server_of(where) in _answered
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            kind, permanent = _CERTIFICATE, True
        elif isinstance(cause, ssl.SSLError):
            broken = isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
            kind, permanent = (kind, False) if broken else (_NO_TLS, True)
        elif isinstance(cause, socket.gaierror):
            kind, permanent = _UNKNOWN_HOST, not known
        elif isinstance(cause, OSError) and cause.errno is not None:
            # Connections that are accepted and reset are those of a tunnel or a container's proxy.
            reset = isinstance(cause, (ConnectionResetError, ConnectionAbortedError))
            permanent = kind == _CLOSED and not known and not reset
            detail = one_line(str(cause))
        else:
            continue
        break
    if kind == PROXY:
        # Statuses from 400 to 499 are refusals of the proxy itself.
        permanent = detail.startswith("4") or not known
    message = f"{where}: {kind}: {detail}"
    return ChatUnavailableError(
        f"{message}. {REMEDIES[kind]}" if permanent else message,
        kind=kind,
        lost=loses_reply(error),
        permanent=permanent,
    )


def loses_reply(error: Exception) -> bool:
    """Return whether the server may have processed a request that ended with this error."""
    return any(kind.__name__ in _LOSING for kind in type(error).__mro__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exceptions that led to an exception, itself included."""
    while error is not None:
        yield error
        # Of several addresses of a host, the last one's.
        group = getattr(error, "exceptions", None)
        error = group[-1] if group else error.__cause__ or error.__context__
