"""What a message's bytes mean to an expression: JSON, or the fields of a form; anything else is null."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from shared import strict_json
from shared.errors import Code, ProxyError, RequestError, StrictJSONError

__all__ = [
    "FORMS",
    "Document",
    "TooLargeError",
    "codings_of",
    "document_of",
    "fields_of_query",
    "inflate",
    "inflate_beginning",
    "kept_content_type",
    "media_type_of",
    "parameters_of",
    "why_not_json",
]

_GZIP: Final = b"\x1f\x8b"
#: How to request the gzip format from zlib.
_GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
#: A gzip file may consist of several members; each costs a copy of the rest.
_MAX_MEMBERS: Final = 16
#: The other codings registered with IANA. Anything else is not a coding, and is ignored.
_OTHER_CODINGS: Final = frozenset({"br", "compress", "dcb", "dcz", "deflate", "x-compress", "zstd"})
#: Media types of files that are themselves gzip, not only compressed for transfer.
_GZIP_FILES: Final = frozenset({"application/gzip", "application/x-gzip", "application/octet-stream"})
#: Media types of forms.
FORMS: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
#: How JSON begins that senders such as curl call a form.
_OBJECT_OR_LIST: Final = re.compile(rb"[ \t\r\n]*[{\[]")
_MAX_FIELDS: Final = 1_000
#: The head of a part of a multipart form has a few short lines.
_MAX_HEAD_BYTES: Final = 4_096
_DISPOSITION: Final = re.compile(rb"\r\ncontent-disposition[ \t]*+:([^\r\n]*+)", re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*+([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))')
_ESCAPED: Final = re.compile(r"\\(.)")
#: The parameters of a part that is a file.
_FILE: Final = frozenset({"filename", "filename*"})
_MAX_TYPE_CHARACTERS: Final = 200
#: A larger callback is not examined again.
_SMALL_BYTES: Final = 65_536


class Document(NamedTuple):
    """What an expression sees of a body."""

    #: JSON's value, a form's fields, or null.
    value: Any
    #: Whether the body is JSON: otherwise it cannot be a part of JSON as it is.
    is_json: bool


class TooLargeError(ProxyError):
    """The inflated body would be larger than allowed."""


def media_type_of(content_type: str) -> str:
    """Return the media type that a Content-Type names, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def parameters_of(header: str) -> dict[str, str]:
    """Return the parameters of a header such as Content-Type; their names are in lower case, and the first one counts.

    In linear time, which the standard library's parsers of headers do not take.
    """
    found = (
        (one[1].lower(), one[3] if one[2] is None else _ESCAPED.sub(r"\1", one[2]))
        for one in _PARAMETER.finditer(header)
    )
    return dict(reversed(list(found)))


def kept_content_type(content_type: str, body: bytes) -> str:
    """Return the Content-Type that is kept with a result: empty for JSON, and for a value that is no valid header.

    JSON in another encoding than UTF-8, which readers would take it for, keeps the type that names the encoding.
    """
    is_sound = content_type.isascii() and content_type.isprintable() and len(content_type) <= _MAX_TYPE_CHARACTERS
    if not is_sound or "/" not in content_type:
        return "application/octet-stream" if content_type else ""
    is_json = media_type_of(content_type) == "application/json"
    return "" if is_json and ("charset" not in parameters_of(content_type) or _is_utf8(body)) else content_type


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def document_of(body: bytes, content_type: str = "", parse: Callable[[bytes], Any] = strict_json.loads) -> Document:
    """Return what `body` means to an expression. JSON is read as JSON whatever its media type.

    `parse` reads the JSON; it raises StrictJSONError.
    """
    media_type = media_type_of(content_type)
    if media_type not in FORMS or _OBJECT_OR_LIST.match(body):
        try:  # without contextlib.suppress: three more functions, of which each worker would copy the pages
            return Document(parse(body), is_json=True)
        except StrictJSONError:
            pass
    match media_type:
        case "application/x-www-form-urlencoded":
            fields: Iterable[tuple[str, str]] = fields_of_query(body.decode("utf-8", "replace")).items()
        case "multipart/form-data":
            fields = _fields_of_multipart(body, content_type)
        case _:
            return Document(None, is_json=False)
    return Document(_document_of_fields(fields), is_json=False)


def why_not_json(body: bytes, max_bytes: int = _SMALL_BYTES) -> str:
    """Return why a body is not JSON, for people; empty if it is. A body over `max_bytes` is not examined again."""
    if len(body) > max_bytes:
        return "it is not JSON"
    try:
        strict_json.loads(body)
    except StrictJSONError as exc:
        return str(exc)
    return ""


def fields_of_query(text: str) -> dict[str, str]:
    """Return the fields of a query or a form; of equal names, the first one counts."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        return {}
    return dict(reversed(pairs))


def codings_of(content_encoding: str) -> list[str]:
    """Return the content codings that a header names, in lower case; `identity` and empty elements do not count."""
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    return [coding for coding in codings if coding not in {"", "identity"}]


def inflate(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """Return `body`, inflated if it is gzip. The names in `headers` are in lower case.

    Raises:
        TooLargeError: it would be larger than `max_bytes`.
        RequestError: it is compressed in another way, or the compressed data are incomplete.
    """
    codings = codings_of(headers.get("content-encoding", ""))
    if not _OTHER_CODINGS.isdisjoint(codings) or len(codings) > 1:
        raise RequestError(Code.UNSUPPORTED_MEDIA_TYPE, "the `Content-Encoding` is neither gzip nor identity")
    is_declared = codings in (["gzip"], ["x-gzip"])
    is_meant = is_declared or not (
        headers.get("content-encoding") or media_type_of(headers.get("content-type", "")) in _GZIP_FILES
    )
    if not is_meant or not body.startswith(_GZIP):
        return body
    try:
        return _inflate_members(body, max_bytes)
    except (zlib.error, EOFError):
        if is_declared:
            raise RequestError(Code.INVALID_REQUEST, "the body is damaged, or incomplete: it is not gzip") from None
        return body  # it only looked like gzip; the expressions find nothing in it


def inflate_beginning(body: bytes, coding: str, max_bytes: int) -> bytes:
    """Return the beginning of `body`, which may be truncated, inflated if its `Content-Encoding` says gzip."""
    if coding.strip().lower() not in {"gzip", "x-gzip"}:
        return body
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(_GZIP_WBITS).decompress(body, max_bytes)
    return body


def _inflate_members(body: bytes, max_bytes: int) -> bytes:
    """Inflate the members of a gzip file (RFC 1952, 2.2); zeros may follow. Raises zlib.error, EOFError."""
    inflated = b""
    for _ in range(_MAX_MEMBERS):
        inflater = zlib.decompressobj(_GZIP_WBITS)
        inflated += inflater.decompress(body, max_bytes + 1 - len(inflated))
        if len(inflated) > max_bytes:
            raise TooLargeError(f"inflated, it is larger than {max_bytes} bytes")
        if not inflater.eof:
            raise EOFError
        body = inflater.unused_data
        if not body.rstrip(b"\0"):
            return inflated
    raise EOFError


def _json_or_null(body: bytes) -> Any:  # noqa: ANN401 - JSON is what it is
    try:
        return strict_json.loads(body)
    except StrictJSONError:
        return None


def _document_of_fields(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return a form's fields; those that hold a JSON object or list are parsed."""
    document: dict[str, Any] = {}
    for name, text in fields:
        parsed = _json_or_null(text.encode()) if text[:1] in {"{", "["} else None
        document.setdefault(name, text if parsed is None else parsed)
    return document


def _fields_of_multipart(body: bytes, content_type: str) -> Iterator[tuple[str, str]]:
    """Yield the fields of a multipart form, except files (RFC 7578); none if it is not one."""
    boundary = parameters_of(content_type).get("boundary")
    parts = (b"\r\n" + body).split(f"\r\n--{boundary}".encode(), _MAX_FIELDS + 1) if boundary else []
    for part in parts[1 : _MAX_FIELDS + 1]:
        head, _, value = part.partition(b"\r\n\r\n")
        disposition = _DISPOSITION.search(head[:_MAX_HEAD_BYTES])
        parameters = parameters_of(disposition[1].decode("utf-8", "replace")) if disposition else {}
        if "name" in parameters and _FILE.isdisjoint(parameters):
            yield parameters["name"], value.decode("utf-8", "replace")
