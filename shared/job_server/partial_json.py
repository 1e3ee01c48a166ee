"""Partial reading of JSON: all of a document is checked, and only the members that somebody asks for are made.

A callback may be a megabyte. To read it with the standard module takes up to 50 ms, in which the event loop does
nothing else; nearly all of that goes into objects that nobody looks at. msgspec passes over what it is not asked for,
and checks it on the way: 1 to 4 ms. It is not quite as strict as this project is, so whatever it might let through goes
to strict_json, which decides.

The front end's alone: a worker would carry the library for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from shared import strict_json

__all__ = ["PartialReader"]

#: An escape that is half of a surrogate pair, and two that are a whole one, in a text without escaped backslashes.
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_ESCAPED_BACKSLASH: Final = b"\\\\u"
#: More digits in a row than Python makes a number of; digits are zeros here, and all else is a space.
_DIGITS: Final = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_TOO_MANY_DIGITS: Final = b"0" * 4301


class PartialReader:
    """Reads some members of an object."""

    def __init__(self, names: Iterable[str]) -> None:
        """Read the members called `names`, each as a whole, and make nothing else of the document."""
        self._names = {f"f{n}": name for n, name in enumerate(dict.fromkeys(names))}
        fields = [(field, Any, None) for field in self._names]
        self._object = msgspec.json.Decoder(msgspec.defstruct("Seen", fields, rename=self._names, gc=False))
        self._other = msgspec.json.Decoder(msgspec.Raw)

    def read(self, data: bytes) -> dict[str, Any] | None:
        """Return the object's members that were asked for, null where it has none; None: it is no object.

        Raises:
            StrictJSONError: as `strict_json.loads`, for the whole of the document.
        """
        try:
            data.decode("utf-8")
            if not _may_be_lax(data):
                if data.lstrip(b" \t\n\r")[:1] != b"{":
                    self._other.decode(data)
                    return None
                seen = self._object.decode(data)
                return {name: getattr(seen, field) for field, name in self._names.items()}
        except (ValueError, RecursionError):
            pass
        document = strict_json.loads(data)
        return {name: document.get(name) for name in self._names.values()} if isinstance(document, dict) else None


def _may_be_lax(data: bytes) -> bool:
    """Return whether the document holds something that msgspec passes over where this project does not."""
    if _TOO_MANY_DIGITS in data.translate(_DIGITS):
        return True
    if _HALF.search(data) is None:
        return False
    return _ESCAPED_BACKSLASH in data or _HALF.search(_PAIR.sub(b"", data)) is not None
