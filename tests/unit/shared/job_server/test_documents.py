"""Documents: what a body means, and that none becomes larger than allowed."""

from __future__ import annotations

import gzip
import sys

import pytest

from shared.errors import Code, RequestError
from shared.job_server.documents import TooLargeError, document_of, fields_of_query, inflate, kept_content_type

LATIN_1 = "application/json; charset=iso-8859-1"
URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "content_type", "expected", "is_json"),
    [
        (b'{"a": 1}', "application/json", {"a": 1}, True),
        (b'{"a": 1}', "text/plain", {"a": 1}, True),
        (b'{"a": 1}', "", {"a": 1}, True),
        (b'{"a": "b&c=d"}', URLENCODED, {"a": "b&c=d"}, True),
        (b" \r\n[1]", "multipart/form-data; boundary=b", [1], True),
        (b"null", "application/json", None, True),
        (b"a=1&b=%7B%22c%22%3A2%7D&a=3", f"{URLENCODED}; charset=utf-8", {"a": "1", "b": {"c": 2}}, False),
        (b"{a}=1", URLENCODED, {"{a}": "1"}, False),
        (b"1", URLENCODED, {"1": ""}, False),
        (b"", "application/json", None, False),
        (b"%PDF", "application/pdf", None, False),
        (b'{"a": NaN}', "application/json", None, False),
        (b"not a form", "multipart/form-data; boundary=b", {}, False),
    ],
)
def test_a_body_means_json_or_a_form_or_nothing(
    body: bytes, content_type: str, expected: object, *, is_json: bool
) -> None:
    """JSON whatever its type says, because some senders send no type, and curl calls everything a form."""
    assert document_of(body, content_type) == (expected, is_json)


def test_the_fields_of_a_multipart_form_are_read_but_not_its_files() -> None:
    """Transloadit sends its document in one of them."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="transloadit"\r\n\r\n{"ok": "DONE"}\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nxyz\r\n--b--\r\n'
    )
    assert document_of(body, "multipart/form-data; boundary=b").value == {"transloadit": {"ok": "DONE"}}


@pytest.mark.parametrize(
    ("disposition", "content_type"),
    [
        (b'form-data; name="a"', "multipart/form-data; boundary=b"),
        (b"form-data;name=a", 'multipart/form-data;charset="x;\\"";Boundary="b"'),
        (b'form-data; x="; name=b"; Name="\\a"; name="b"', "multipart/form-data; boundary=b; boundary=c"),
        (b'form-data; name="a"; x*0*; "', 'multipart/form-data; boundary=b; x*0*; "'),
    ],
)
def test_the_parameters_of_a_form_are_read_whatever_else_is_there(disposition: bytes, content_type: str) -> None:
    """Whatever is in a header: anybody can send one."""
    head = b"Content-Type: text/plain\r\ncontent-disposition:" + disposition
    assert document_of(b"--b\r\n" + head + b"\r\n\r\n1\r\n2\r\n--b--\r\n", content_type).value == {"a": "1\r\n2"}


@pytest.mark.parametrize(
    "hostile",
    [
        b"--b\r\n\r\n" * 20_000,
        b"--b\r\nContent-Disposition: form-data" + b"; name=a" * 20_000 + b"\r\n\r\n1\r\n",
        b"--b\r\n" + b"a:b\r\n" * 20_000,
        b'--b\r\nContent-Disposition: form-data; name="b"\r\n\r\n1\r\n' * 20_000,
    ],
    ids=["parts", "parameters", "headers", "fields"],
)
def test_no_form_takes_long(hostile: bytes) -> None:
    """The event loop waits for it: 1 MiB of one of these once took seconds."""
    body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' + hostile + b"--b--\r\n"
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        document = document_of(body, "multipart/form-data; boundary=b")
    finally:
        sys.setprofile(None)
    assert document.value["a"] == "1"
    assert calls < 50_000


def test_a_query_with_too_many_fields_has_none() -> None:
    """Instead of taking long."""
    assert fields_of_query("&".join(["a=1"] * 2_000)) == {}


BODY = b'{"a": 1}' * 100
PACKED = gzip.compress(BODY, mtime=0)  # a time in it would make the test's name differ between processes


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (PACKED, {"content-encoding": "gzip"}, BODY),
        (PACKED, {"content-encoding": " GZIP"}, BODY),
        (PACKED, {"content-type": "application/json"}, BODY),
        (PACKED, {}, BODY),
        (PACKED, {"content-type": "application/gzip"}, PACKED),
        (BODY, {}, BODY),
        (BODY, {"content-encoding": "gzip"}, BODY),
        (b"\x1f\x8bnot gzip", {}, b"\x1f\x8bnot gzip"),
        (b"", {"content-encoding": "gzip"}, b""),
    ],
)
def test_gzip_is_inflated(body: bytes, headers: dict[str, str], expected: bytes) -> None:
    """By its header or its first bytes, unless a gzip file itself is meant."""
    assert inflate(body, headers, 10_000) == expected


_GZIP = gzip.compress(b'{"a": 1}')


@pytest.mark.parametrize("coding", ["gzip", "X-GZIP", "identity, gzip", "gzip,"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (_GZIP, b'{"a": 1}'),
        (gzip.compress(b'{"a"') + gzip.compress(b": 1}"), b'{"a": 1}'),
        (_GZIP + bytes(100), b'{"a": 1}'),
        (b'{"a": 1}', b'{"a": 1}'),
        (b"", b""),
    ],
    ids=["one member", "two members", "padded", "not compressed", "nothing"],
)
def test_gzip_is_inflated_to_its_end(coding: str, body: bytes, expected: bytes) -> None:
    """Completely, or not at all: half a result would be mistaken for a whole one."""
    assert inflate(body, {"content-encoding": coding}, 10_000) == expected


@pytest.mark.parametrize(
    "body",
    [_GZIP[:-1], _GZIP[:-8], _GZIP[:12], _GZIP[:-8] + bytes(8), _GZIP + b"more", _GZIP + _GZIP[:5], _GZIP * 100],
    ids=["a byte short", "no trailer", "a head", "wrong sum", "garbage behind", "half a member", "too many members"],
)
def test_half_a_gzip_body_is_refused_where_it_is_called_one(body: bytes) -> None:
    """Otherwise it stays as it is, and its reader finds invalid JSON."""
    with pytest.raises(RequestError) as refusal:
        inflate(body, {"content-encoding": "gzip"}, 10_000)
    assert refusal.value.code is Code.INVALID_REQUEST
    assert inflate(body, {}, 10_000) == body


@pytest.mark.parametrize("coding", ["br", "Deflate", "zstd", "gzip, gzip", "br, gzip", "compress"])
def test_another_coding_is_refused_by_its_name(coding: str) -> None:
    """Otherwise its bytes would be passed on as a result that nobody can read."""
    with pytest.raises(RequestError) as refusal:
        inflate(b"\x8b\x02", {"content-encoding": coding}, 10_000)
    assert refusal.value.code is Code.UNSUPPORTED_MEDIA_TYPE
    assert inflate(b"{}", {"content-encoding": "utf-8"}, 10_000) == b"{}", "which is no coding"


def test_a_bomb_is_not_inflated() -> None:
    """However small it is."""
    with pytest.raises(TooLargeError):
        inflate(gzip.compress(bytes(10_000_000)), {}, 9_999_999)
    assert len(inflate(gzip.compress(bytes(1_000)), {}, 1_000)) == 1_000


@pytest.mark.parametrize(
    ("content_type", "body", "kept"),
    [
        ("application/json", b"{}", ""),
        ("application/json; charset=utf-8", '{"a": "é"}'.encode(), ""),
        (LATIN_1, '{"a": "é"}'.encode("latin-1"), LATIN_1),
        (LATIN_1, '{"a": "é"}'.encode(), ""),  # it is not what it says
        ("application/json", b'{"a": "\xe9"}', ""),
        ("text/csv", b"a;b", "text/csv"),
        ("nonsense", b"", "application/octet-stream"),
        ("", b"", ""),
    ],
)
def test_the_type_of_a_result_is_kept_unless_it_is_json(content_type: str, body: bytes, kept: str) -> None:
    """Readers take JSON for UTF-8, unless something else is said."""
    assert kept_content_type(content_type, body) == kept
