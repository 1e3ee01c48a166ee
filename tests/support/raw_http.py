"""Requests that no HTTP client would send: stalled bodies, endless chunks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

__all__ = ["exchange", "head"]


def head(method: str, url: str, **headers: str) -> bytes:
    """Return a request's head; underscores in the names of `headers` stand for dashes."""
    parts = urlsplit(url)
    lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def exchange(url: str, data: bytes, *, limit_s: float = 20.0) -> tuple[int, bytes]:
    """Write `data` to the server of `url`; return the status and everything that it sends until it closes.

    The status is 0 if nothing comes. Raises TimeoutError if it does not close within `limit_s`.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        with suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        answer = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(limit_s):
                answer = await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return (int(answer.split(b" ", 2)[1]) if answer else 0), answer
