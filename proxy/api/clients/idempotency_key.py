"""The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header), and the hash that a key is stored as."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from proxy.http.asgi import header
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Scope


__all__ = ["hash_of_key", "key_of"]

_MAX_CHARACTERS: Final = 255
#: An RFC 8941 string: printable ASCII in quotes, with \" and \\ for these two.
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
#: What many clients send instead, such as a UUID: no quotes, and no character with another meaning.
_BARE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:/@=-]+")
_ESCAPED: Final = re.compile(r"\\(.)")


def key_of(scope: Scope, holder: bytes) -> bytes | None:
    """Return the hash that the request's idempotency key is stored as, or None if it has none.

    Keys of one `holder` of an API key are separate from those of all others. Only the hash is stored, not the key.

    Raises:
        RequestError: the header is not an idempotency key.
    """
    given = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if not given:
        return None
    key = _parse(header(scope, b"idempotency-key").strip(" \t")) if len(given) == 1 else ""
    if not 0 < len(key) <= _MAX_CHARACTERS:
        raise RequestError(
            Code.INVALID_REQUEST,
            f'the `Idempotency-Key` is not a string in quotes, like "8e03978e", of 1 to {_MAX_CHARACTERS} characters',
            fate_known=True,  # no job can have been started with an invalid key
        )
    return hash_of_key(holder, key)


def hash_of_key(holder: bytes, key: str) -> bytes:
    """Return what the key is stored as; it is ASCII."""
    return hashlib.sha256(holder + b"\0" + key.encode("ascii")).digest()


def _parse(text: str) -> str:
    quoted = _STRING.fullmatch(text)
    if quoted is not None:
        return _ESCAPED.sub(r"\1", quoted[1])
    return text if _BARE.fullmatch(text) else ""
