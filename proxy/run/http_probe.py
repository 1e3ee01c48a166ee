"""Sends one request to find out what answers at a URL, for checks of the configuration."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Probed", "probe"]

_BODY_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """An answer."""

    status: int
    body: bytes
    #: Where a redirect leads; empty if it names nothing.
    location: str = ""

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document in it; empty if there is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


async def probe(method: str, url: str, timeout_s: float, trust: ssl.SSLContext | None) -> Probed:
    """Send a request without a body and return the answer; `trust` checks the certificate of an https:// address.

    Raises:
        OSError: there was no answer within `timeout_s`, or what came is not HTTP.
    """
    try:
        async with asyncio.timeout(timeout_s + 1):  # resolving the name may take longer, and has no timeout of its own
            return await asyncio.to_thread(_exchange, method, url, timeout_s, trust)
    except (http.client.HTTPException, ValueError) as exc:
        raise OSError(f"the server there does not speak HTTP ({type(exc).__name__})") from exc


def _exchange(method: str, url: str, timeout_s: float, trust: ssl.SSLContext | None) -> Probed:
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=trust)
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    )
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, headers={"User-Agent": "async-job-proxy", "Connection": "close"})
        response = connection.getresponse()
        location = response.getheader("Location", "")
        return Probed(status=response.status, body=response.read(_BODY_BYTES), location=location)
    finally:
        connection.close()
