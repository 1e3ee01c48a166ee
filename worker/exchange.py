"""Exchanges with job servers: a request, its complete answer, and the connections in between.

Redirects are not followed, and compressed answers are not requested; a compressed answer is still inflated, up to the
same size. The caller limits how long an exchange may take.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp.helpers import BasicAuth
from yarl import URL

from shared.errors import BadReplyError, RequestError
from shared.job_server.documents import TooLargeError, inflate, inflate_beginning
from shared.job_server.tls import trusting
from worker.connection import Address, Connection

if TYPE_CHECKING:
    from ssl import SSLContext

    from shared.errors import JobServerError
    from shared.job_server.calls import Request

__all__ = ["Answer", "Exchange", "Refusal"]

CheckStatus = Callable[[int, Mapping[str, str]], "Refusal | None"]
#: How much of a job server's reason for a refusal is read, and for how long.
_REASON_BYTES: Final = 4_096
_REASON_S: Final = 1.0

#: The defaults for requests without such a header.
_HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "async-job-proxy",
}
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
#: How long a connection may be idle and be used again. Many servers close one after 5 s, and gateways forget one. A
#: request that is sent just then, or after that, is lost, and nobody knows whether it arrived.
_IDLE_S: Final = 4.0
#: A URL that is sent as it is: a signature in it may be of its text.
_ENCODED: Final = re.compile(r"[!-~]*")
#: No profile has more fixed URLs than this; others differ for every job.
_MOST_ROUTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refusing status says, and what the body adds."""

    error: JobServerError
    #: Returns the reason as one text for people, from the first bytes of the body; empty if they do not say.
    reason: Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class _Route:
    """What all requests to one URL need."""

    address: Address
    line: bytes
    headers: Mapping[str, str]


class Exchange:
    """Makes requests, one at a time or several at once."""

    def __init__(self, *, keep_alive: bool, max_body_bytes: int, cafile: str = "") -> None:
        """With `keep_alive`, connections are reused; otherwise each ends with its answer.

        `cafile` contains authorities that are trusted in addition to the system's.
        """
        self._keep_alive = keep_alive
        self.max_body_bytes = max_body_bytes
        self._cafile = cafile
        self._tls: SSLContext | None = None
        self._headers = _HEADERS if keep_alive else {**_HEADERS, "Connection": "close"}
        self._addresses: dict[str, Address] = {}
        self._routes: dict[str, _Route] = {}
        #: Each connection that can be used again, and since when.
        self._idle: dict[Address, list[tuple[Connection, float]]] = {}

    def close(self) -> None:
        """Close the connections that were kept open."""
        for idle in self._idle.values():
            while idle:
                idle.pop()[0].close()

    def prepare(self, method: str, url: str) -> _Route:
        """Return what requests to `url` need; preparing it before the fork saves each worker the cost."""
        route = self._routes.get(method + url)
        if route is None:
            route = self._route(method, URL(url, encoded=_ENCODED.fullmatch(url) is not None))
            if len(self._routes) < _MOST_ROUTES:
                self._routes[method + url] = route
        return route

    async def make(
        self,
        request: Request,
        *,
        headers: Mapping[str, str] | None = None,
        on_connected: Callable[[], None] | None = None,
        check_status: CheckStatus | None = None,
    ) -> Answer:
        """Send `request`, with additional `headers`, and return the answer. Nothing is ever sent twice.

        `on_connected` is called before the first byte is sent. `check_status` may return a refusal: then only the
        beginning of the body is read, for the reason.

        Raises:
            JobServerError: there is no valid answer.
        """
        route = self.prepare(request.method, request.url)
        data = b"%b%b\r\n%b" % (route.line, _fields(request, route.headers, headers or {}), request.body)
        connection = self._take(route.address) or await route.address.connect()
        try:
            if on_connected is not None:
                on_connected()
            status, received = await connection.request(data)
            refusal = check_status(status, received) if check_status is not None else None
            if refusal is not None:
                beginning = await connection.beginning(_REASON_BYTES, _REASON_S)
                coding = received.get("Content-Encoding", "")
                raise refusal.error.because(refusal.reason(inflate_beginning(beginning, coding, _REASON_BYTES)))
            body = await connection.read()
            if "Content-Encoding" in received:
                body = self._inflated(body, ",".join(received.getall("Content-Encoding")))
            return Answer(status=status, headers=received, body=body)
        finally:
            if self._keep_alive and connection.is_reusable:
                self._idle.setdefault(route.address, []).append((connection, time.monotonic()))
            else:
                connection.close()

    def _inflated(self, body: bytes, coding: str) -> bytes:
        try:
            return inflate(body, {"content-encoding": coding}, self.max_body_bytes)
        except TooLargeError as exc:
            raise BadReplyError(f"the job server's reply is too large: {exc}") from exc
        except RequestError as exc:
            raise BadReplyError(f"the job server's reply cannot be read: {exc.detail}") from exc

    def _take(self, address: Address) -> Connection | None:
        """Return a kept connection that is still open, and was not idle for long."""
        idle = self._idle.get(address, [])
        while idle:
            connection, since = idle.pop()
            if connection.is_reusable and time.monotonic() - since < _IDLE_S:
                return connection
            connection.close()
        return None

    def _route(self, method: str, url: URL) -> _Route:
        origin = str(url.origin())
        address = self._addresses.get(origin)
        if address is None:
            trust = self._trust if url.scheme == "https" else None
            address = Address(url.raw_host or "", url.port or 0, trust=trust, cap_bytes=self.max_body_bytes)
            self._addresses[origin] = address
        headers = {"Host": url.host_port_subcomponent or "", **self._headers}
        user = BasicAuth.from_url(url, encoding="utf-8")
        if user is not None:
            headers["Authorization"] = user.encode()
        if url.scheme == "https":
            self._trust()  # the slow part is done before the fork
        return _Route(address, f"{method} {url.raw_path_qs} HTTP/1.1\r\n".encode(), headers)

    def _trust(self) -> SSLContext:
        """Return the current TLS context: the file may have been replaced, and the new one may be half written."""
        try:
            self._tls = trusting(self._cafile)
        except OSError:
            if self._tls is None:
                raise
        return self._tls


def _fields(request: Request, usual: Mapping[str, str], more: Mapping[str, str]) -> bytes:
    """Return the header fields as sent; a request's own come before the defaults."""
    given = {**more, **request.headers}
    if request.body or request.method not in _WITHOUT_BODY:
        given["Content-Length"] = str(len(request.body))
    names = {name.lower() for name in given}
    if not request.body:
        names.add("content-type")  # some frameworks refuse an empty body that is called JSON
    lines = [f"{name}: {value}\r\n" for name, value in usual.items() if name.lower() not in names]
    lines += [f"{name}: {value}\r\n" for name, value in given.items()]
    if not all(line[:-2].isprintable() for line in lines):
        raise ValueError("a header field that could be read as more than one")
    return "".join(lines).encode()
