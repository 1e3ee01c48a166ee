"""What a gateway says about a request that it passes on: the client's address, the host, the scheme, the path prefix.

Anybody can send these headers. So they count only from peers in TRUSTED_PROXIES, and of several values only the last,
which that peer has added itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from proxy.http.asgi import headers_of

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Forwarded", "comes_from"]

#: A path prefix, without characters that could lead elsewhere or have a meaning in JSON or HTML.
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")
_PREFIX_BYTES: Final = 256


class Forwarded:
    """Lets an application see a request as its client sent it, if a trusted gateway describes it."""

    def __init__(self, app: ASGIApp, trusted: Collection[IPv4Network | IPv6Network]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and comes_from(scope, self._trusted):
            scope = self._as_sent(scope)
        await self._app(scope, receive, send)

    def _as_sent(self, scope: Scope) -> Scope:
        seen = dict(scope)
        seen["gateway"] = scope["client"]
        scheme = _last(scope, b"x-forwarded-proto").lower()
        if scheme in {"http", "https"}:
            seen["scheme"] = scheme
        host = _last(scope, b"x-forwarded-host")
        if _HOST.fullmatch(host):
            others = [field for field in scope["headers"] if field[0] != b"host"]
            seen["headers"] = [(b"host", host.encode()), *others]
        prefix = _last(scope, b"x-forwarded-prefix").rstrip("/")
        if len(prefix) <= _PREFIX_BYTES and _PREFIX.fullmatch(prefix) and not {".", ".."} & set(prefix.split("/")):
            seen["root_path"] = prefix
            seen["path"] = prefix + scope["path"]
        client = self._client(scope)
        if client:
            seen["client"] = (client, 0)
        return seen

    def _client(self, scope: Scope) -> str:
        """Return the client of the first of our gateways: the last address that is not one of theirs."""
        for entry in reversed(",".join(headers_of(scope, b"x-forwarded-for")).split(",")):
            address = _address(entry.strip())
            if address is None:
                return ""
            if not _is_in(address, self._trusted):
                return str(address)
        return ""


def comes_from(scope: Scope, networks: Collection[IPv4Network | IPv6Network]) -> bool:
    """Return whether a request was sent to this proxy from one of the networks, whatever its headers say."""
    peer = scope.get("gateway") or scope.get("client")
    address = _address(str(peer[0])) if peer else None
    return address is not None and _is_in(address, networks)


def _is_in(address: IPv4Address | IPv6Address, networks: Collection[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)


def _last(scope: Scope, name: bytes) -> str:
    return ",".join(headers_of(scope, name)).rpartition(",")[2].strip()


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in `text`, which may include a port; None: there is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
