"""Labels: the members of a job by which people recognise it, as they may be logged, recorded and shown.

A value that looks like a secret is never shown: not what a member's name says is one, not a card number, not a long
random text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["HIDDEN", "Labels", "is_secret_name", "is_secret_value"]

#: Stands for a value that is there and not shown.
HIDDEN: Final = "(not shown)"
_MAX_CHARACTERS: Final = 100
_SECRET_NAME: Final = re.compile(
    r"pass(?:word|wd|phrase)?$|secret|token|credential|authori[sz]ation|api_?key|private|card|cvv|cvc|\bpan\b|iban|ssn",
    re.IGNORECASE,
)
#: Digits as a card has them, in groups or not.
_CARD: Final = re.compile(r"(?:[0-9][ -]?){12,18}[0-9]")
#: A long text without a space; with digits and letters in it: a key, a token, a hash.
_LONG: Final = re.compile(r"[A-Za-z0-9+/=_.~-]{32,}+")
#: No shorter text has either in it.
_LEAST_CHARACTERS: Final = 13


class Labels:
    """Reads the labels of a job."""

    def __init__(self, names: Sequence[str]) -> None:
        """`names`: the members that count."""
        self._names = tuple(names)

    def of(self, members: Mapping[str, str]) -> dict[str, str]:
        """Return the labels in a JSON object, whose `members` have their exact text. Objects and lists are none."""
        found = {}
        for name in self._names:
            text = members.get(name)
            if text is not None and text[:1] not in {"{", "[", "n"}:
                found[name] = _shown(name, json.loads(text) if text[:1] == '"' else text)
        return found


def _shown(name: str, value: str) -> str:
    if is_secret_name(name) or is_secret_value(value[: 4 * _MAX_CHARACTERS]):
        return HIDDEN
    return value if len(value) <= _MAX_CHARACTERS else f"{value[:_MAX_CHARACTERS]}…"


def is_secret_name(name: str) -> bool:
    """Return whether a member with this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def is_secret_value(value: str) -> bool:
    """Return whether a value looks like a secret: it has a card number in it, or a long random text."""
    if len(value) < _LEAST_CHARACTERS:  # as most are, of which a body may have very many
        return False
    return _CARD.search(value) is not None or any(map(_is_random, _LONG.findall(value)))


def _is_random(text: str) -> bool:
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
