"""How long a client is willing to wait for its answer: the `Prefer` header (RFC 7240)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Scope

__all__ = ["Preference", "preference"]

#: A run of what separates nothing, a quoted string, or a separator; one of them fits wherever a header goes on, and
#: none of them can be read in two ways. So the time taken grows with the header's length and not faster.
_PIECE: Final = re.compile(r'[^",;]++|"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[,;]', re.DOTALL)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_MAX_DIGITS: Final = 9
#: Longer headers are ignored: nobody has so many preferences.
_MAX_CHARACTERS: Final = 255


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
    for name, value in scope["headers"]:
        if name == b"prefer" and len(value) <= _MAX_CHARACTERS:
            for preferred, wanted in _preferences(value.decode("latin-1")):
                found.setdefault(preferred, wanted)
    wait = found.get("wait", "")
    good = wait.isascii() and wait.isdecimal() and len(wait) <= _MAX_DIGITS
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
