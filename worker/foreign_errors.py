"""Foreign errors become ours: what aiohttp and the system raise says what it means for the submission."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import aiohttp

from shared.errors import BadReplyError, JobServerError, UnavailableError
from shared.job_server.tls import tls_trouble

__all__ = ["translate"]

#: Foreign error -> ours; the first line that fits counts. A test holds that every error of aiohttp's is covered.
_TRANSLATION: Final[tuple[tuple[type[BaseException], Callable[[BaseException], JobServerError]], ...]] = (
    (
        aiohttp.ClientConnectorDNSError,
        lambda _: UnavailableError("the job server's name could not be resolved", refused=True, retryable=True),
    ),
    (
        aiohttp.ClientSSLError,
        lambda exc: UnavailableError(f"no TLS connection to the job server: {tls_trouble(exc)}", refused=True),
    ),
    (
        aiohttp.ClientConnectorError,
        lambda exc: UnavailableError(f"no connection to the job server: {_errno(exc)}", refused=True, retryable=True),
    ),
    (
        aiohttp.InvalidURL,
        lambda _: UnavailableError("the job server's address is not a URL", refused=True),
    ),
    (
        aiohttp.ServerTimeoutError,
        lambda _: UnavailableError("the job server did not answer in time", lost_reply=True),
    ),
    (
        aiohttp.ServerConnectionError,
        lambda _: UnavailableError("the job server closed the connection before its reply", lost_reply=True),
    ),
    (
        aiohttp.ClientOSError,
        lambda exc: UnavailableError(f"the connection to the job server broke: {_errno(exc)}", lost_reply=True),
    ),
    (
        aiohttp.ClientPayloadError,
        lambda _: BadReplyError("the job server's reply was cut off or is malformed"),
    ),
    (
        aiohttp.ClientResponseError,
        lambda _: BadReplyError("the job server's reply is not valid HTTP"),
    ),
    (
        aiohttp.ClientConnectionError,
        lambda _: UnavailableError("the connection to the job server broke", lost_reply=True),
    ),
    (
        aiohttp.ClientError,
        lambda _: BadReplyError("the communication with the job server failed"),
    ),
    (
        OSError,
        lambda exc: UnavailableError(f"the connection to the job server broke: {_errno(exc)}", lost_reply=True),
    ),
    (
        ValueError,
        lambda _: BadReplyError("the job server's reply could not be read"),
    ),
)


def translate(exc: BaseException) -> JobServerError:
    """Return our error for a foreign one."""
    for foreign, ours in _TRANSLATION:
        if isinstance(exc, foreign):
            return ours(exc)
    raise TypeError(type(exc).__name__) from exc


def _errno(exc: BaseException) -> str:
    """Return an OSError's reason without addresses or names."""
    number = getattr(exc, "errno", None)
    return os.strerror(number).lower() if isinstance(number, int) and number > 0 else "unknown reason"
