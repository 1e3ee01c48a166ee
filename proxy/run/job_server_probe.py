"""Whether the job server can be reached: a connection and, for https, a TLS handshake; nothing is sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

__all__ = ["is_loopback", "reach", "shown"]

_PORTS: Final = {"http": 80, "https": 443}


def shown(url: str) -> str:
    """Return `url` for a person, without a user name, a password or a query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_loopback(url: str) -> bool:
    """Return whether the address is this machine's own, judging by its text."""
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


async def reach(url: str, timeout_s: float) -> str:
    """Connect to `url`'s host and close the connection; return why that failed, or an empty string."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(timeout_s):
            context = ssl.create_default_context() if parts.scheme == "https" else None
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, ValueError) as exc:  # ValueError: an impossible name
        return _reason(exc, timeout_s)
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            await writer.wait_closed()
    return ""


def _reason(exc: OSError | ValueError, timeout_s: float) -> str:
    match exc:
        case TimeoutError():
            return f"no connection within {timeout_s:g} s"
        case socket.gaierror() | UnicodeError():
            return "its name cannot be resolved"
        case ssl.SSLCertVerificationError():
            return f"its certificate was not accepted: {exc.verify_message}"
        case ssl.SSLError():
            return f"the TLS handshake failed: {exc.reason or 'no reason given'}"
        case OSError() if exc.errno:
            return os.strerror(exc.errno).lower()
        case _:
            return "the connection failed"
