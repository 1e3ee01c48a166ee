"""What the headers of a client's request say: whether it may ask, the key of its job, and how long it waits.

- `Authorization` has one of the API keys, if there are any.
- `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header) has the client's key for a job; its hash is stored.
- `Prefer` (RFC 7240) says how long the client is willing to wait for its answer.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from proxy.api import bearer
from proxy.http.asgi import headers_of
from shared.errors import Code, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Scope

__all__ = ["Authorization", "Preference", "hash_of_key", "key_of", "preference"]

_KEY_CHARACTERS: Final = 255
#: An RFC 8941 string: printable ASCII in quotes, with \" and \\ for these two.
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
#: What many clients send instead, such as a UUID: no quotes, and no character with a special meaning.
_BARE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:/@=-]+")
_ESCAPED: Final = re.compile(r"\\(.)")
#: A run of other characters, a quoted string, or a separator; one of them always matches, and only in one way. So the
#: time grows linearly with the header's length.
_PIECE: Final = re.compile(r'[^",;]++|"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[,;]', re.DOTALL)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
#: A longer `Prefer` header is ignored.
_PREFER_CHARACTERS: Final = 255
_MAX_WAIT_DIGITS: Final = 9


class Authorization:
    """Admits clients with one of the keys, or all clients if there are no keys."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._hashes = [bearer.hash_of(key) for key in keys]

    def replace(self, keys: tuple[str, ...]) -> None:
        """Admit clients with one of these keys, from the next request on."""
        self._hashes = [bearer.hash_of(key) for key in keys]

    @property
    def keys(self) -> int:
        """The number of keys."""
        return len(self._hashes)

    @property
    def holders(self) -> tuple[bytes, ...]:
        """The possible results of `check`."""
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


def key_of(scope: Scope, holder: bytes) -> bytes | None:
    """Return the hash under which the request's idempotency key is stored, or None if it has none.

    Keys of one `holder` of an API key are separate from those of all others. Only the hash is stored, not the key.

    Raises:
        RequestError: the header is not an idempotency key.
    """
    given = headers_of(scope, b"idempotency-key")
    if not given:
        return None
    key = _key_in(given[0].strip(" \t")) if len(given) == 1 else ""
    if not 0 < len(key) <= _KEY_CHARACTERS:
        raise RequestError(
            Code.INVALID_REQUEST,
            f'the `Idempotency-Key` is not a string in quotes, like "8e03978e", of 1 to {_KEY_CHARACTERS} characters',
            fate_known=True,  # no job can have been started with an invalid key
        )
    return hash_of_key(holder, key)


def hash_of_key(holder: bytes, key: str) -> bytes:
    """Return the stored form of the key, which is ASCII."""
    return hashlib.sha256(holder + b"\0" + key.encode("ascii")).digest()


def _key_in(text: str) -> str:
    quoted = _STRING.fullmatch(text)
    if quoted is not None:
        return _ESCAPED.sub(r"\1", quoted[1])
    return text if _BARE.fullmatch(text) else ""


class Preference(Struct, frozen=True, kw_only=True):
    """What a client prefers."""

    #: Seconds after which the client wants an answer, even if it is only a 202; None: the final answer.
    wait_s: int | None = None
    respond_async: bool = False

    @property
    def limit_s(self) -> int | None:
        """How long to wait for the outcome, in seconds; None: until there is one."""
        return 0 if self.respond_async and self.wait_s is None else self.wait_s

    @property
    def applied(self) -> bytes:
        """The value of `Preference-Applied`; empty if nothing was preferred."""
        words = ["respond-async"] if self.respond_async else []
        if self.wait_s is not None:
            words.append(f"wait={self.wait_s}")
        return ", ".join(words).encode()


def preference(scope: Scope, *, asynchronous: bool = False) -> Preference:
    """Return what the request prefers; `asynchronous`: its body also asks not to wait.

    Unknown and invalid preferences are ignored (RFC 7240). The first of each name counts.
    """
    found: dict[str, str] = {}
    for text in headers_of(scope, b"prefer"):
        if len(text) <= _PREFER_CHARACTERS:
            for preferred, wanted in _preferences(text):
                found.setdefault(preferred, wanted)
    wait = found.get("wait", "")
    good = wait.isascii() and wait.isdecimal() and len(wait) <= _MAX_WAIT_DIGITS
    return Preference(wait_s=int(wait) if good else None, respond_async=asynchronous or "respond-async" in found)


def _preferences(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each preference, in lower case, and its value, without quotes and parameters."""
    for element in _elements(text):
        name, _, value = element.partition("=")
        if _NAME.fullmatch(name.strip()):
            yield name.strip().lower(), value.strip().strip('"')


def _elements(text: str) -> Iterator[str]:
    """Yield the part of each list element before its first semicolon."""
    element, in_parameters = "", False
    for piece in _PIECE.findall(text):
        if piece == ",":
            yield element
            element, in_parameters = "", False
        elif piece == ";":
            in_parameters = True
        elif not in_parameters:
            element += piece
    yield element
