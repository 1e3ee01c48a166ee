"""Who may run jobs: clients with one of the API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.api import bearer
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["Authorization"]


class Authorization:
    """Admits clients with one of the keys, or everybody if there are no keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._hashes = [bearer.hash_of(key) for key in keys]

    def replace(self, keys: tuple[str, ...]) -> None:
        """Let in who has one of these keys, from the next request on."""
        self._hashes = [bearer.hash_of(key) for key in keys]

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return len(self._hashes)

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
        given = bearer.sent_with(scope)
        if given is None or bearer.find(given, self._hashes) is None:
            raise RequestError(Code.UNAUTHORIZED, "send `Authorization: Bearer <key>` with a valid key")
        return given
