"""The benchmark's own HTTP."""

from __future__ import annotations

import pytest

from bench.wire import MessageReader, request, response


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_messages_are_found_however_the_stream_is_cut(size: int) -> None:
    """Two requests arrive in pieces of any size and come out as two messages."""
    stream = request("POST", "h:1", "/start", {"a": 1}) + request("GET", "h:1", "/held")
    reader = MessageReader()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    messages = [message for piece in pieces for message in reader.feed(piece)]
    assert [(message.route, message.body) for message in messages] == [
        (b"POST /start", b'{"a": 1}'),
        (b"GET /held", b""),
    ]


def test_a_response_tells_its_status_and_whether_the_connection_ends() -> None:
    """The load needs both."""
    data = response("200 OK", {}) + response("503 Service Unavailable", {}, close=True)
    messages = list(MessageReader().feed(data))
    assert [(message.status, message.close) for message in messages] == [(200, False), (503, True)]


def test_header_names_are_read_in_any_case() -> None:
    """Proxies write them in lower and in upper case."""
    (message,) = MessageReader().feed(b"HTTP/1.1 200\r\nCONTENT-LENGTH: 2\r\nConnection: Close\r\n\r\nok")
    assert (message.body, message.close) == (b"ok", True)


def test_a_chunked_body_is_refused() -> None:
    """Better no figure than a wrong one."""
    with pytest.raises(ValueError, match="chunked"):
        list(MessageReader().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
