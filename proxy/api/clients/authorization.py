"""Who may run jobs: clients with one of the API keys."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from proxy.http.asgi import header
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["Authorization"]


class Authorization:
    """Admits clients with one of the keys, or everybody if there are no keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._hashes = [_hash(key) for key in keys]

    def replace(self, keys: tuple[str, ...]) -> None:
        """Let in who has one of these keys, from the next request on."""
        self._hashes = [_hash(key) for key in keys]

    @property
    def holders(self) -> tuple[bytes, ...]:
        """What `check` may return."""
        return tuple(self._hashes) or (b"",)

    def check(self, scope: Scope) -> bytes:
        """Return the hash of the client's key; empty if there are no keys.

        Raises:
            RequestError: the request has no known key.
        """
        if not self._hashes:
            return b""
        scheme, _, key = header(scope, b"authorization").partition(" ")
        given = _hash(key.strip())
        # Every key is compared, each in constant time, so that the time reveals nothing about any of them.
        known = [hmac.compare_digest(given, wanted) for wanted in self._hashes]
        if scheme.lower() != "bearer" or not any(known):
            raise RequestError(Code.UNAUTHORIZED, "send `Authorization: Bearer <key>` with a valid key")
        return given


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
