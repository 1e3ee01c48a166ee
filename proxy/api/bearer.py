"""Keys that are sent as `Authorization: Bearer KEY`: stored as hashes, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.http.asgi import header

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["find", "hash_of", "sent_with"]


def hash_of(key: str) -> bytes:
    """Return the hash by which a key is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def sent_with(scope: Scope) -> bytes | None:
    """Return the hash of a request's key; None: it has none."""
    scheme, _, key = header(scope, b"authorization").partition(" ")
    return hash_of(key.strip()) if scheme.lower() == "bearer" else None


def find(given: bytes, known: Sequence[bytes]) -> int | None:
    """Return the index of this hash among the `known` ones; None: it is none of them.

    All are compared, each in constant time, so that the time reveals nothing about any of them.
    """
    alike = [hmac.compare_digest(given, one) for one in known]
    return alike.index(True) if any(alike) else None
