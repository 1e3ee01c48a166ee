"""Whether the job server can be reached: a connection and, for https, a TLS handshake; nothing is sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Final
from urllib.parse import urljoin, urlsplit

from proxy.run.http_probe import probe
from shared.errors import SettingsError
from shared.job_server.addresses import origin
from shared.job_server.tls import tls_trouble, trusting
from shared.shown_urls import shown

__all__ = ["check_trust", "is_loopback", "is_loopback_host", "path_trouble", "reach", "reason_of"]

_NOTHING_THERE: Final = frozenset({404, 410})
_REDIRECTS: Final = frozenset({301, 302, 307, 308})


def is_loopback(url: str) -> bool:
    """Return whether the address is this machine's own, judging by its text."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Return whether a host, without brackets, is this machine's own, judging by its text."""
    return host in {"localhost", "::1"} or host.startswith("127.")


async def reach(url: str, timeout_s: float, cafile: str = "") -> str:
    """Connect to `url`'s host and close the connection; return why that failed, or an empty string.

    With https, this includes the TLS handshake; `cafile` has authorities to trust besides the system's.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.to_thread(_connect, url, timeout_s, cafile)
    except (OSError, ValueError) as exc:  # ValueError: an impossible name
        return reason_of(exc, timeout_s)
    return ""


def _connect(url: str, timeout_s: float, cafile: str) -> None:
    # Not with the event loop: where no thread can be started for the name's look-up, uvloop aborts the process.
    scheme, host, port = origin(url)
    context = trusting(cafile) if scheme == "https" else None
    with socket.create_connection((host, port), timeout_s) as connection:
        if context is not None:
            with context.wrap_socket(connection, server_hostname=host) as tls, contextlib.suppress(OSError):
                tls.unwrap()


async def path_trouble(url: str, timeout_s: float, cafile: str = "", *, is_complete: bool = True) -> str:
    """Ask what is at `url` (OPTIONS, which submits nothing); return the problem, or an empty string.

    If it is not `is_complete`, paths are appended to it, and only a redirect to another server is a problem.
    """
    try:
        answer = await probe("OPTIONS", url, timeout_s, trusting(cafile) if url.startswith("https:") else None)
    except ssl.SSLError as exc:  # with TLS 1.3, a refusal arrives after the handshake
        return f"ends each connection: {tls_trouble(exc)}"
    except OSError:
        return ""  # a server may accept only submissions
    target = _target(url, answer.location) if answer.status in _REDIRECTS else ""
    if target and (is_complete or origin(target) != origin(url)):
        return f"redirects to {shown(target)}, which is not followed; is that what JOB_SERVER_URL should be?"
    if is_complete and answer.status in _NOTHING_THERE:
        return f"answers {answer.status} at this path, as if there were nothing; is JOB_SERVER_URL complete?"
    return ""


def _target(url: str, location: str) -> str:
    """Return where a redirect leads; empty if that is no URL."""
    try:
        target = urljoin(url, location)
    except ValueError:
        return ""
    return target if target.isprintable() and target.startswith(("http://", "https://")) else ""


def check_trust(cafile: str) -> None:
    """Read the file of JOB_SERVER_CAFILE.

    Raises:
        SettingsError: there are no certificates in it.
    """
    try:
        trusting(cafile)
    except OSError as exc:
        raise SettingsError(f"JOB_SERVER_CAFILE: got {cafile!r}, takes a file with CA certificates, PEM") from exc


def reason_of(exc: OSError | ValueError, timeout_s: float) -> str:
    """Return why there is no connection, in words."""
    match exc:
        case TimeoutError():
            return f"no connection within {timeout_s:g} s"
        case socket.gaierror() | UnicodeError():
            return "its name cannot be resolved"
        case ssl.SSLError():
            return tls_trouble(exc)
        case OSError() if exc.errno:
            return os.strerror(exc.errno).lower()
        case ConnectionError():  # raised by asyncio: the connection closed during the handshake
            return tls_trouble(exc)
        case _:
            return str(exc) or "the connection failed"
