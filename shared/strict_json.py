"""JSON as RFC 8259 defines it: whatever the standard module wrongly accepts or crashes on becomes one error.

The standard module accepts NaN, lone surrogates and UTF-16, and raises RecursionError for deep nesting and a plain
ValueError for numbers of thousands of digits. Front end and workers use this file instead to parse untrusted JSON.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from json.decoder import scanstring  # type: ignore[attr-defined] # public by name, missing in typeshed
from typing import Any, Final, NoReturn

from shared.errors import StrictJSONError

__all__ = ["check_encoding", "loads", "members_of", "object_members", "object_of", "text_at"]

_SPACE: Final = re.compile(r"[ \t\n\r]*")
#: An escape that may be half of a surrogate pair; only then is the expensive check needed.
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_constant(name: str) -> NoReturn:
    raise StrictJSONError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


#: Encodings that are often sent instead of UTF-8, by their first bytes.
_OTHERS: Final = (
    (b"\x1f\x8b", "gzip without a `Content-Encoding` that says so"),
    (b"\xff\xfe", "UTF-16 or UTF-32"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
#: The first characters of JSON, which are ASCII, in UTF-16 or UTF-32 without a byte order mark.
_WIDE: Final = re.compile(rb"\0{0,3}[\t\n\r -~]\0")


def loads(data: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the value of `data`, which is UTF-8 JSON.

    Raises:
        StrictJSONError: not UTF-8, not JSON, NaN or Infinity, a lone surrogate, too many levels, or too many digits.
    """
    text = _text(data)
    try:
        value = _DECODER.decode(text)
        _check_surrogates(text, value)
    except (ValueError, RecursionError) as exc:
        raise StrictJSONError(_reason(exc)) from exc
    return value


def object_members(data: bytes) -> dict[str, str]:
    """Return the members of the JSON object `data`: each name with the exact text of its value.

    The text is kept because parsing and writing would change numbers: 1e400 becomes Infinity, 0.10 becomes 0.1.

    Raises:
        StrictJSONError: as `loads`, or not an object, or a duplicate name, because readers may not agree which counts.
    """
    text = _text(data)
    try:
        members = _members(text)
    except (ValueError, RecursionError) as exc:
        raise StrictJSONError(_reason(exc)) from exc
    return members


def _members(text: str) -> dict[str, str]:
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        _DECODER.decode(text)  # says what is wrong if it is not JSON at all
        raise StrictJSONError("it is not a JSON object")
    members: dict[str, str] = {}
    values: list[Any] = []
    at = _skip(text, at + 1)
    if text[at : at + 1] != "}":
        while True:
            at = _member(text, at, members, values)
            if text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
    if text[at : at + 1] != "}":
        raise StrictJSONError(f"expected a comma or a closing brace at character {at}")
    at = _skip(text, at + 1)
    if at != len(text):
        raise StrictJSONError(f"unexpected text at character {at}")
    _check_surrogates(text, [list(members), values])
    return members


def _member(text: str, at: int, members: dict[str, str], values: list[Any]) -> int:
    """Read one member at `at` into `members` and `values`; return where the text continues."""
    if text[at : at + 1] != '"':
        raise StrictJSONError(f"expected a name in quotes at character {at}")
    name, at = scanstring(text, at + 1, True)  # noqa: FBT003 - strict; C signature
    at = _skip(text, at)
    if text[at : at + 1] != ":":
        raise StrictJSONError(f"expected a colon at character {at}")
    start = _skip(text, at + 1)
    value, end = _DECODER.raw_decode(text, start)
    if name in members:
        raise StrictJSONError("an object has a duplicate name")
    members[name] = text[start:end]
    values.append(value)
    return _skip(text, end)


def _text(data: bytes) -> str:
    if data.startswith(codecs.BOM_UTF8):
        raise StrictJSONError("it begins with a byte order mark")
    for beginning, what in _OTHERS:
        if data.startswith(beginning):
            raise StrictJSONError(f"it is {what}, and not UTF-8")
    if _WIDE.match(data):
        raise StrictJSONError("it is UTF-16 or UTF-32, and not UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise StrictJSONError(f"it is not UTF-8 (byte {exc.start})") from exc


def check_encoding(data: bytes) -> None:
    """Raise StrictJSONError if `data` is not UTF-8 without a byte order mark; the message names its encoding."""
    _text(data)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _check_surrogates(text: str, value: object) -> None:
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode("utf-8")


def _reason(exc: ValueError | RecursionError) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deep"
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg.removesuffix(' at')} at character {exc.pos}" if exc.doc.strip() else "it is empty"
    if isinstance(exc, UnicodeEncodeError):
        return "it holds a lone surrogate"
    return "a number has too many digits"


# --- objects as the exact texts of their members: parsing and writing would change numbers ----------------------------


def members_of(text: str) -> dict[str, str]:
    """Return the members of the JSON object `text`, each with the exact text of its value. Raises StrictJSONError."""
    return object_members(text.encode())


def object_of(members: Mapping[str, str]) -> str:
    """Return the JSON object with these members."""
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in members.items()) + "}"


def text_at(text: str, path: tuple[str, ...]) -> str | None:
    """Return the text of the member at `path` in the JSON object `text`, or None if there is none."""
    try:
        for name in path:
            members = members_of(text)
            if name not in members:
                return None
            text = members[name]
    except StrictJSONError:
        return None  # not an object, or one with a duplicate name
    return text
