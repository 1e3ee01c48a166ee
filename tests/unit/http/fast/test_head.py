"""The parser of plain heads compared with h11: it may accept less, but must not differ."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.fast.exchange import Request, answer_head, parse

_PLAIN = b"POST /callback/a%20b?c=d HTTP/1.1\r\nHost: proxy\r\nContent-Length: 4\r\n"
#: Appended to each head: enough for its body, and a request that must be found exactly where the body ends.
_NEXT = b"GET /next HTTP/1.1\r\nHost: proxy\r\n\r\n"

#: Heads for request smuggling, and heads that are merely not plain.
NOT_PLAIN = {
    "length and chunks": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
    "chunks, written oddly": b"POST / HTTP/1.1\r\nHost: a\r\ntRANSFER-ENCODING:\tchunked \r\n",
    "another coding": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n",
    "space before the colon": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n",
    "space before a length's colon": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 4\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
    "the same length twice": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n",
    "a list of lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n",
    "negative length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n",
    "length with a plus": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n",
    "length with a line": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n",
    "hexadecimal length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n",
    "length in digits of another script": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ٤\r\n".encode(),
    "no length's digits": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n",
    "length beyond measure": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n",
    "folded line": b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Content-Length: 4\r\n",
    "folded line first": b"POST / HTTP/1.1\r\n Host: a\r\n",
    "bare LF": b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\nContent-Length: 4\r\n",
    "bare LF after the request line": b"POST / HTTP/1.1\nHost: a\r\n",
    "bare CR": b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\rContent-Length: 4\r\n",
    "NUL in a value": b"POST / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n",
    "NUL in a name": b"POST / HTTP/1.1\r\nHost: a\r\nContent\x00-Length: 4\r\n",
    "DEL in a value": b"POST / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n",
    "no name": b"POST / HTTP/1.1\r\nHost: a\r\n: 4\r\n",
    "no colon": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length\r\n",
    "name beyond ASCII": b"POST / HTTP/1.1\r\nHost: a\r\nContent-L\xe9ngth: 4\r\n",
    "no host": b"POST / HTTP/1.1\r\nX: a\r\n",
    "no headers": b"POST / HTTP/1.1\r\n",
    "two hosts": b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    "HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/1.2": b"POST / HTTP/1.2\r\nHost: a\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n",
    "lower-case version": b"POST / http/1.1\r\nHost: a\r\n",
    "two spaces": b"POST  / HTTP/1.1\r\nHost: a\r\n",
    "a tab": b"POST\t/ HTTP/1.1\r\nHost: a\r\n",
    "space in the target": b"POST /a b HTTP/1.1\r\nHost: a\r\n",
    "target beyond ASCII": b"POST /\xff HTTP/1.1\r\nHost: a\r\n",
    "absolute target": b"POST http://b/ HTTP/1.1\r\nHost: a\r\n",
    "a user in the target": b"POST http://a@b/ HTTP/1.1\r\nHost: a\r\n",
    "target for a proxy": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n",
    "lower-case method": b"post / HTTP/1.1\r\nHost: a\r\n",
    "a question before the body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n",
    "another protocol": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    "a header for this connection": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("head", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_what_is_not_plain_is_left_to_hypercorn(head: bytes) -> None:
    """None is accepted here, whether or not h11 then refuses it."""
    assert parse(head) is None


def test_a_plain_head_is_understood() -> None:
    """Names in lower case, values without surrounding space, the length as a number."""
    request = parse(b"POST /a%20b?c=d HTTP/1.1\r\nHost: proxy\r\nX-Y:\t \xe9 z \t\r\nEmpty:\r\ncontent-LENGTH: 012\r\n")
    assert request == Request(
        method="POST",
        target=b"/a%20b?c=d",
        headers=[(b"host", b"proxy"), (b"x-y", b"\xe9 z"), (b"empty", b""), (b"content-length", b"012")],
        length=12,
        keep_alive=True,
    )


@pytest.mark.parametrize(("value", "more"), [("close", False), ("Close", False), ("keep-alive", True)])
def test_the_client_says_whether_more_requests_follow(value: str, more: bool) -> None:
    """`Connection: close` marks the last request."""
    request = parse(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: %b\r\n" % value.encode())
    assert request is not None
    assert request.keep_alive is more


_NAMES = st.sampled_from(
    [b"Host", b"Content-Length", b"content-length ", b"Connection", b"X", b"Accept", b"Transfer-Encoding", b"Ho\tst"]
)
_VALUES = st.one_of(
    st.sampled_from([b"a", b" 4", b"4 ", b"04", b"4,4", b"close", b"keep-alive", b"chunked", b"x\r\n y", b""]),
    st.binary(max_size=8),
)
_LINES = st.lists(st.tuples(_NAMES, _VALUES).map(lambda field: b"%b:%b\r\n" % field), max_size=5).map(b"".join)
_START = st.one_of(
    st.just(b"POST / HTTP/1.1\r\nHost: a\r\n"),
    st.tuples(st.sampled_from([b"GET", b"POST", b"get", b"M-X"]), st.binary(max_size=6)).map(
        lambda parts: b"%b /%b HTTP/1.1\r\n" % parts
    ),
)


@given(_START, _LINES)
def test_a_head_means_what_h11_makes_of_it_or_is_left_to_it(start: bytes, lines: bytes) -> None:
    """Heads made of troublesome parts."""
    agree(start + lines)


@given(st.integers(0, len(_PLAIN)), st.integers(0, 12), st.binary(max_size=12))
def test_a_broken_head_means_what_h11_makes_of_it_or_is_left_to_it(at: int, removed: int, inserted: bytes) -> None:
    """A plain head with some bytes replaced."""
    agree(_PLAIN[:at] + inserted + _PLAIN[at + removed :])


@given(st.binary(max_size=60))
def test_no_bytes_are_too_odd_to_be_looked_at(data: bytes) -> None:
    """Random bytes."""
    agree(data)


def agree(head: bytes) -> None:
    """Check that a head that is accepted means the same to h11, up to the end of the body."""
    request = None if b"\r\n\r\n" in head else parse(head)  # the connection looks for the end before it parses
    if request is None:
        return
    peer = h11.Connection(h11.SERVER)
    body = b"x" * min(request.length, 1000)
    peer.receive_data(head + b"\r\n" + body + _NEXT)
    event = peer.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target, event.http_version) == (request.method, request.target, b"1.1")
    assert list(event.headers) == request.headers
    if request.length > len(body):
        return
    read = b""
    while isinstance(event := peer.next_event(), h11.Data):
        read += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert (read, peer.trailing_data[0]) == (body, _NEXT)
    assert request.keep_alive == (peer.their_state is h11.DONE)


@pytest.mark.parametrize("value", [b"a\r\nX: b", b"a\nX: b", b"a\r", b"\n"])
def test_a_field_of_an_answer_cannot_begin_another(value: bytes) -> None:
    """Bytes from a client or a job server cannot split an answer."""
    with pytest.raises(ValueError, match="line break"):
        answer_head(200, [(b"job-id", value)], close=False)


def test_an_answer_has_a_date_and_says_that_it_is_the_last() -> None:
    """As RFC 9110 requires of a server with a clock."""
    lines = answer_head(404, [(b"content-length", b"0")], close=True).split(b"\r\n")
    assert lines[:3] == [b"HTTP/1.1 404 Not Found", b"content-length: 0", b"connection: close"]
    assert lines[3].startswith(b"date: ")
    assert lines[3].endswith(b" GMT")
    assert lines[4:] == [b"", b""]
