"""Forms: the names of their fields, adding and removing fields; all others keep their bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final
from urllib.parse import parse_qsl, urlencode

from shared.job_server.documents import media_type_of, parameters_of

__all__ = ["FormError", "field_names", "with_fields", "without_boundary", "without_fields"]

_URLENCODED: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
#: `name=` of a part's Content-Disposition, but not `filename=`.
_NAME: Final = re.compile(rb'[;\s]name\s*=\s*"?([^";\r\n]*)', re.IGNORECASE)
#: `name*=`, which forms do not have (RFC 7578, section 4.2), though some readers take it.
_ENCODED_NAME: Final = re.compile(rb"[;\s]name\s*\*", re.IGNORECASE)

#: Each is examined. Some jobs are thousands of files.
_MAX_PARTS: Final = 10_000


class FormError(ValueError):
    """A body that is not the kind of form that its media type says; the message may be shown to the sender."""


def field_names(body: bytes, content_type: str) -> set[str]:
    """Return the names of a form's fields. Raises FormError."""
    separator, parts = _split(body, content_type)
    return {name for part in parts for name in _names_of(part, separator)}


def without_fields(body: bytes, content_type: str, names: AbstractSet[str]) -> bytes:
    """Return the form without the fields that have one of `names`. Raises FormError."""
    separator, parts = _split(body, content_type)
    return separator.join(part for part in parts if names.isdisjoint(_names_of(part, separator)))


def with_fields(body: bytes, content_type: str, fields: Mapping[str, str]) -> bytes:
    """Return the form with `fields` added. Raises FormError."""
    if media_type_of(content_type) == _URLENCODED:
        return body + (b"&" if body else b"") + urlencode(fields).encode()
    delimiter = _delimiter(body, content_type)
    parts = (
        b'%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (delimiter, name.encode(), value.encode())
        for name, value in fields.items()
    )
    return b"".join(parts) + body


def without_boundary(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Return a form and its media type in a notation that is the same for each boundary of a multipart form.

    Every client chooses a boundary anew for each request. What is no multipart form is returned as it is.
    """
    if media_type_of(content_type) != _MULTIPART:
        return body, content_type
    try:
        delimiter = _delimiter(body, content_type)
    except FormError:
        return body, content_type
    parts = (b"\r\n" + body).split(b"\r\n" + delimiter)
    return b"".join(b"%d:%b" % (len(part), part) for part in parts), _MULTIPART


def _split(body: bytes, content_type: str) -> tuple[bytes, list[bytes]]:
    """Return what separates the fields of a form, and the fields; around those of a multipart form is more."""
    separator = b"&" if media_type_of(content_type) == _URLENCODED else _delimiter(body, content_type)
    parts = body.split(separator)
    if len(parts) > _MAX_PARTS:
        raise FormError(f"it has more than {_MAX_PARTS} fields")
    return separator, parts


def _names_of(part: bytes, separator: bytes) -> set[str]:
    """Return the name of a field; more than one if readers may not agree which it is. Raises FormError."""
    if separator == b"&":
        return {name for name, _ in parse_qsl(part.decode("utf-8", "replace"), keep_blank_values=True)}
    head = part.partition(b"\r\n\r\n")[0]
    if _ENCODED_NAME.search(head):
        raise FormError("a field's name is given as `name*`, which not every reader takes")
    names = {found[1].decode("utf-8", "replace").strip() for found in _NAME.finditer(head)}
    return names | {name.replace("\\", "") for name in names}


def _delimiter(body: bytes, content_type: str) -> bytes:
    """Return the delimiter between the parts of a multipart form (RFC 2046, section 5.1.1)."""
    boundary = parameters_of(content_type).get("boundary")
    delimiter = f"--{boundary}".encode()
    if not boundary or not body.startswith(delimiter):
        raise FormError("it is not a multipart form with the boundary that its Content-Type names")
    return delimiter
