"""One exchange with a job server: a connection, a request, the whole of its answer; foreign errors end here.

The job server may be hostile or broken: redirects are not followed, compressed answers not asked for and not inflated,
and the answer is capped. How long it may take is up to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from shared.errors import BadReplyError
from shared.job_server.tls import trusting
from worker.foreign_errors import translate

if TYPE_CHECKING:
    from aiohttp.connector import Connection

    from shared.job_server.calls import Request

__all__ = ["Answer", "Exchange"]

CheckStatus = Callable[[int, Mapping[str, str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Connector(aiohttp.TCPConnector):
    """Says when a connection stands, before anything is written to it."""

    on_connected: Callable[[], None] = staticmethod(lambda: None)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        self.on_connected()
        return connection


class Exchange:
    """Makes requests, one at a time, or several where nobody needs to know when one is connected."""

    def __init__(self, *, keep_alive: bool, max_body_bytes: int, cafile: str = "") -> None:
        """Make the client; must run inside an event loop.

        With `keep_alive` a connection is used again; else it ends with the answer, as a job server may serve one at a
        time. `cafile` has authorities that may vouch for it, besides the system's.
        """
        self._max_body_bytes = max_body_bytes
        trust = trusting(cafile) if cafile else True  # aiohttp's own context has the system's authorities
        self._connector = _Connector(force_close=not keep_alive, limit=0, use_dns_cache=False, ssl=trust)
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "async-job-proxy",
        }
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept"),
            headers=headers if keep_alive else {**headers, "Connection": "close"},
        )
        # After a connection that breaks, aiohttp sends again what HTTP calls idempotent: PUT, by which some job servers
        # are given their jobs. There is no public switch.
        self._session._retry_connection = False  # noqa: SLF001

    async def close(self) -> None:
        """Close what is left open."""
        await self._session.close()

    async def make(
        self,
        request: Request,
        *,
        headers: Mapping[str, str] | None = None,
        on_connected: Callable[[], None] | None = None,
        check_status: CheckStatus | None = None,
    ) -> Answer:
        """Make `request`, with `headers` more; return the answer.

        `on_connected` is called before the first byte leaves. `check_status` may raise before the body is read.

        Raises:
            JobServerError: there is no sound answer.
            TimeoutError: the caller's time is over.
        """
        if on_connected is not None:
            self._connector.on_connected = on_connected
        try:
            async with self._session.request(
                request.method,
                URL(request.url),
                data=request.body,
                headers={**headers, **request.headers} if headers else request.headers,
                allow_redirects=False,
            ) as response:
                if check_status is not None:
                    check_status(response.status, response.headers)
                return Answer(status=response.status, headers=response.headers, body=await self._read(response))
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            if isinstance(exc, TimeoutError) and not isinstance(exc, aiohttp.ClientError):
                raise
            raise translate(exc) from exc

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        cap_bytes = self._max_body_bytes
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > cap_bytes:
                raise BadReplyError(f"the job server's reply is larger than {cap_bytes} bytes")
        return bytes(body)
