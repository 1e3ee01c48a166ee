"""Sends callbacks: the right one, and the wrong ones that a fault asks for."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Final, assert_never

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

from jobserver.faults import Calls
from jobserver.ledger import Ledger
from jobserver.options import Options
from jobserver.protocol import Submission

#: The timeout of one callback, whatever the receiver does.
_TIMEOUT_S: Final = 30.0
#: Callbacks in progress at the same time.
_CONNECTIONS: Final = 1000
#: Shorter than a receiver's usual 5 s, so that an idle connection is not used while the receiver closes it:
#: a callback lost that way would look like the receiver's fault.
_KEEPALIVE_S: Final = 2.0
_LARGE_BYTES: Final = 64 * 1024
_JSON: Final = {"Content-Type": "application/json"}


class CallbackSender:
    """Sends callbacks over one shared connection pool and records each in the ledger."""

    def __init__(self, options: Options, ledger: Ledger) -> None:
        """Open the pool; an event loop must be running."""
        self._options = options
        self._ledger = ledger
        self._session = ClientSession(
            connector=TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S, ssl=False),
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=_TIMEOUT_S),
            headers=_JSON | {"User-Agent": "jobserver", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._session.close()

    async def send(self, job_id: str, submission: Submission, result: bytes) -> None:
        """Send what the job's fault requires; return when the last callback is finished."""
        url = submission.callback
        if url is None:
            return
        match submission.fault.calls:
            case Calls.ONCE | Calls.BEFORE_REPLY | Calls.LATE:
                pass
            case Calls.NEVER:
                return
            case Calls.TWICE:
                await self._send_result(job_id, url, result)
            case Calls.MANY:
                sends = (self._send_result(job_id, url, result) for _ in range(submission.times))
                await asyncio.gather(*sends)
                return
            case Calls.FORGED_FIRST:
                await self._attempt(job_id, forged(url), result, kind="forged")
            case Calls.GARBAGE_FIRST:
                await self._attempt(job_id, url, b"<html>not JSON</html>", kind="garbage")
            case Calls.HUGE_FIRST:
                body = b'{"state": "completed", "padding": "' + b"x" * submission.size_bytes + b'"}'
                await self._attempt(job_id, url, body, kind="huge")
            case Calls.STALLED_FIRST:
                await self._stall(job_id, url, result, submission.delay_s)
            case never:
                assert_never(never)
        await self._send_result(job_id, url, result)

    async def _send_result(self, job_id: str, url: str, result: bytes) -> None:
        attempts = 1 + self._options.callback_retries
        for attempt in range(1, attempts + 1):
            if await self._attempt(job_id, url, result, kind="result", attempt=attempt):
                return
            if attempt < attempts:
                await asyncio.sleep(self._options.callback_retry_pause_s)

    async def _stall(self, job_id: str, url: str, result: bytes, stall_s: float) -> None:
        """Promise a whole body, send half of it, and wait for the receiver to give up."""

        async def half() -> AsyncIterator[bytes]:
            yield result[: len(result) // 2]
            await asyncio.get_running_loop().create_future()

        await self._attempt(
            job_id,
            url,
            half(),
            kind="stalled",
            headers={"Content-Length": str(len(result))},
            timeout_s=stall_s,
        )

    async def _attempt(
        self,
        job_id: str,
        url: str,
        body: bytes | AsyncIterator[bytes],
        *,
        kind: str,
        attempt: int = 1,
        headers: dict[str, str] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> bool:
        """Send one callback; return whether it was answered 2xx."""
        begun = time.monotonic()
        status = error = None
        try:
            async with self._session.post(
                URL(url, encoded=True),
                # aiohttp sends a file in pieces, but bytes in one go, which would block the loop.
                data=BytesIO(body) if isinstance(body, bytes) and len(body) > _LARGE_BYTES else body,
                headers=headers,
                allow_redirects=False,
                timeout=ClientTimeout(total=timeout_s),
            ) as response:
                status = response.status
                # Read to the end, so that the connection can be used again.
                await response.read()
        except TimeoutError:
            error = "timeout"
        except (ClientError, OSError, ValueError) as exc:
            error = f"{type(exc).__name__}: {exc}"
        took_s = time.monotonic() - begun
        self._ledger.callback(job_id, url, kind=kind, attempt=attempt, status=status, error=error, took_s=took_s)
        return status is not None and status // 100 == 2  # noqa: PLR2004 - 2xx


def forged(url: str) -> str:
    """Return the address with its last segment replaced by another token of the same length."""
    base, slash, token = url.rpartition("/")
    wrong = secrets.token_urlsafe(len(token))[: len(token)]
    return f"{base}{slash}{wrong}"
