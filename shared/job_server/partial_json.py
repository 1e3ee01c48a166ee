"""Partial reading of JSON: the whole document is validated, but only the requested members are created.

A job or a callback may have a megabyte. The standard module takes 10 ms to 1 s to read it, which blocks the event loop;
nearly all of that creates objects that nobody uses. msgspec skips what is not requested but still validates it: 1 to
4 ms. It is not quite as strict as this project, so additional checks find what it accepts wrongly. What msgspec refuses
is also given to strict_json, if it is small, for the better error message.

For the front end only: workers would load the library for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from shared import strict_json
from shared.errors import StrictJSONError
from shared.job_server.verdict import Part

__all__ = ["MAX_MEMBERS", "ExactPart", "PartialReader", "object_members"]

_T = TypeVar("_T")

#: An escape that is half of a surrogate pair, or two that are a complete pair, in a text without escaped backslashes.
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_ESCAPED_BACKSLASH: Final = b"\\\\"
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
#: Maps digits to zeros and everything else to spaces, to find numbers with more digits than Python converts.
_DIGITS: Final = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_TOO_MANY_DIGITS: Final = b"0" * 4301
#: A whole number with that many digits, outside strings; one with a fraction or an exponent may have any number.
_TOO_LONG: Final = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{4301}[0-9]*+(?![.eE])")


#: The most members of a client's object; each is examined.
MAX_MEMBERS: Final = 1_000
#: Up to this size, strict_json is asked why a document is refused.
_SMALL_BYTES: Final = 65_536
#: How much is kept of a large value in the place of a short text.
_BEGINNING_BYTES: Final = 2_000
_NULL: Final = msgspec.Raw(b"null")
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
#: What comes before a member's value.
_NAME: Final = re.compile(rb'[ \t\n\r]*+("(?:[^"\\]|\\.)*+")[ \t\n\r]*+:[ \t\n\r]*+')
_NEXT: Final = re.compile(rb"[ \t\n\r]*+([,}])")


class PartialReader:
    """Reads some members of an object."""

    def __init__(self, names: Iterable[str], words: Collection[str] = ()) -> None:
        """Read the members called `names` completely, and create nothing else of the document.

        Of a member in `words`, a large value that is not a string is read as a string: the beginning of its text.
        """
        self._names = {f"f{n}": name for n, name in enumerate(dict.fromkeys(names))}
        self._words = frozenset(words)
        fields = [(field, msgspec.Raw, _NULL) for field in self._names]
        self._object = msgspec.json.Decoder(msgspec.defstruct("Seen", fields, rename=self._names, gc=False))
        self._other = msgspec.json.Decoder(msgspec.Raw)

    def read(self, data: bytes) -> dict[str, Any] | None:
        """Return the requested members of the object, null if it lacks one; None: it is not an object.

        Raises:
            StrictJSONError: as in `strict_json.loads`, for the whole document.
        """
        strict_json.check_encoding(data)
        seen: Any = None
        try:
            if data.lstrip(b" \t\n\r")[:1] == b"{":
                seen = self._object.decode(data)
            else:
                self._other.decode(data)
        except (ValueError, RecursionError) as exc:
            if len(data) <= _SMALL_BYTES:
                strict_json.loads(data)
            raise StrictJSONError(_reason(exc)) from exc
        _check_strictly(data)
        if seen is None:
            return None
        return {name: self._value(name, bytes(getattr(seen, field))) for field, name in self._names.items()}

    def _value(self, name: str, text: bytes) -> Any:  # noqa: ANN401 - JSON is what it is
        if name in self._words and len(text) > _SMALL_BYTES and not text.startswith(b'"'):
            return text[:_BEGINNING_BYTES].decode("utf-8", "replace")
        return strict_json.loads(text)


def _check_strictly(data: bytes) -> None:
    """Raise StrictJSONError if a document that msgspec accepts contains something that this project does not accept."""
    if _TOO_MANY_DIGITS in data.translate(_DIGITS) and _TOO_LONG.search(_STRING.sub(b'""', data)):
        raise StrictJSONError("a number has too many digits")
    if _HALF.search(data) is not None and _HALF.search(_PAIR.sub(b"", data.replace(_ESCAPED_BACKSLASH, b" "))):
        raise StrictJSONError("it holds a lone surrogate")


class ExactPart(Part):
    """The part of a message at a path of members, in its exact text, without any objects."""

    def __init__(self, expression: str, path: Sequence[str]) -> None:
        """`path` is below the body; `expression` finds the same in a body that is not JSON."""
        super().__init__(expression)
        kinds = [msgspec.defstruct("Step", [("text", msgspec.Raw, _NULL)], rename={"text": name}) for name in path]
        self._steps = [msgspec.json.Decoder(kind) for kind in kinds]

    def of(self, seen: Mapping[str, Any], body: bytes) -> bytes | None:
        """Return the part; null if there is none."""
        text = body
        try:
            for step in self._steps:
                text = bytes(step.decode(text).text)  # type: ignore[attr-defined] # a member of "Step"
        except (ValueError, RecursionError):  # JSON without it, or no JSON
            return super().of(seen, body) if text is body else b"null"
        return text


def object_members(data: bytes) -> dict[str, str]:
    """Return the members of the JSON object `data`: each name with the exact text of its value.

    Raises:
        StrictJSONError: as `strict_json.object_members`, or there are more than `MAX_MEMBERS`.
    """
    strict_json.check_encoding(data)
    try:
        raw = _MEMBERS.decode(data)
    except (ValueError, RecursionError) as exc:
        if len(data) <= _SMALL_BYTES:
            return _capped(strict_json.object_members(data))
        raise StrictJSONError(_reason(exc)) from exc
    _check_strictly(data)
    members = {name: bytes(value) for name, value in _capped(raw).items()}
    if not _stand_once(data, members):
        raise StrictJSONError("an object has a duplicate name")
    return {name: value.decode() for name, value in members.items()}


def _capped(members: dict[str, _T]) -> dict[str, _T]:
    if len(members) > MAX_MEMBERS:
        raise StrictJSONError(f"it has more than {MAX_MEMBERS} members")
    return members


def _stand_once(data: bytes, members: dict[str, bytes]) -> bool:
    """Return whether the valid object `data` has only these members, each once: of equal names, `members` has just one.

    Goes from member to member: after a repeated name, an earlier value differs from the kept one, or a member is left.
    """
    at = data.index(b"{") + 1
    for _ in members:
        name = _NAME.match(data, at)
        if name is None:
            return False
        value = members[msgspec.json.decode(name[1])]
        following = _NEXT.match(data, name.end() + len(value)) if data.startswith(value, name.end()) else None
        if following is None:
            return False
        at = following.end()
    return data[at - 1 : at] == b"}" if members else True


def _reason(exc: Exception) -> str:
    match exc:
        case RecursionError():
            return "it is nested too deep"
        case msgspec.ValidationError():
            return "it is not a JSON object"
        case _:
            return str(exc)
