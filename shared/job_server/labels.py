"""Labels: the members of a job by which people recognise it, as they may be logged, recorded and shown.

A value that looks like a secret is never shown: if its member's name says so, or if it contains a card number, a long
random text, a URL with a password or with a parameter whose name says so, or JSON with a member whose name says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["HIDDEN", "Labels", "is_secret_name", "is_secret_value"]

#: Replaces a value that exists but is not shown.
HIDDEN: Final = "(not shown)"
_MAX_CHARACTERS: Final = 100
_SECRET_NAME: Final = re.compile(
    r"pass$|passw(?:or)?d|passphrase|pwd|secret|token|credential|authori[sz]ation|api_?key|private|card|cvv|cvc|\bpan\b|iban|ssn",
    re.IGNORECASE,
)
#: The digits of a card number, with or without groups.
_CARD: Final = re.compile(r"(?:[0-9][ -]?){12,18}[0-9]")
#: A long text without spaces; if it has digits and letters, it is a key, a token or a hash.
_LONG: Final = re.compile(r"[A-Za-z0-9+/=_.~-]{32,}+")
#: A user name and a password in a URL.
_LOGIN: Final = re.compile(r"://[^/?#\s@:]*:[^/?#\s@]+@")
#: The names of parameters in a URL.
_PARAMETER: Final = re.compile(r"[?&]([^?&=#\s]+)=")
#: The names of members in JSON, even if it stands in a text of other JSON.
_MEMBER: Final = re.compile(r'"([^"\\]+)\\*"\s*:')
#: No shorter text contains any of them.
_LEAST_CHARACTERS: Final = 13


class Labels:
    """Reads the labels of a job."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are the members that count as labels."""
        self._names = tuple(names)

    def of(self, members: Mapping[str, str]) -> dict[str, str]:
        """Return the labels in a JSON object, whose `members` have their exact text. Objects and lists do not count."""
        found = {}
        for name in self._names:
            text = members.get(name)
            if text is not None and text[:1] not in {"{", "[", "n"}:
                found[name] = _shown(name, json.loads(text) if text[:1] == '"' else text)
        return found


def _shown(name: str, value: str) -> str:
    beginning = value[: 4 * _MAX_CHARACTERS]
    names = [name, *_MEMBER.findall(beginning)]
    if any(map(is_secret_name, names)) or is_secret_value(beginning):
        return HIDDEN
    return value if len(value) <= _MAX_CHARACTERS else f"{value[:_MAX_CHARACTERS]}…"


def is_secret_name(name: str) -> bool:
    """Return whether a member with this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def is_secret_value(value: str) -> bool:
    """Return whether a value looks like a secret: it has a card number, a long random text, or a URL with a key."""
    if len(value) < _LEAST_CHARACTERS:  # like most values, and a body may have very many
        return False
    if _CARD.search(value) is not None or any(map(_is_random, _LONG.findall(value))):
        return True
    return "://" in value and (_LOGIN.search(value) is not None or any(map(is_secret_name, _PARAMETER.findall(value))))


def _is_random(text: str) -> bool:
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
