"""How long a client is willing to wait for its answer: the `Prefer` header (RFC 7240)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["Preference", "preference"]

_NAME: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_WORD: Final = rf"\s*=\s*(?:{_NAME}|{_QUOTED})?"
#: One preference, with its parameters, and what separates it from the next.
_PREFERENCE: Final = re.compile(
    rf"\s*(?P<name>{_NAME})(?P<value>{_WORD})?(?:\s*;\s*(?:{_NAME}(?:{_WORD})?)?)*\s*(?:,|$)"
)
_MAX_DIGITS: Final = 9
#: Longer headers are passed over: reading spaces again and again is all they are good for.
_MAX_CHARACTERS: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """What a client prefers."""

    #: Seconds after which it wants an answer, be it that there is none yet; None: when there is one.
    wait_s: int | None = None
    respond_async: bool = False

    @property
    def limit_s(self) -> int | None:
        """How long to wait for the outcome, in seconds; None: for as long as it takes."""
        return 0 if self.respond_async and self.wait_s is None else self.wait_s

    @property
    def applied(self) -> bytes:
        """The value of `Preference-Applied`; empty if nothing was preferred."""
        words = ["respond-async"] if self.respond_async else []
        if self.wait_s is not None:
            words.append(f"wait={self.wait_s}")
        return ", ".join(words).encode()


def preference(scope: Scope, *, asynchronous: bool = False) -> Preference:
    """Return what the request prefers; `asynchronous`: it also asks in its body not to be kept waiting.

    A preference that is unknown or makes no sense is passed over, as RFC 7240 has it. The first of each name counts.
    """
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name == b"prefer" and len(value) <= _MAX_CHARACTERS:
            _read(value.decode("latin-1"), found)
    wait = found.get("wait", "")
    good = wait.isascii() and wait.isdecimal() and len(wait) <= _MAX_DIGITS
    return Preference(wait_s=int(wait) if good else None, respond_async=asynchronous or "respond-async" in found)


def _read(text: str, found: dict[str, str]) -> None:
    at = 0
    while at < len(text):
        match = _PREFERENCE.match(text, at)
        if match is None:
            return
        value = (match["value"] or "").strip().removeprefix("=").strip()
        found.setdefault(match["name"].lower(), value.strip('"'))
        at = match.end()
