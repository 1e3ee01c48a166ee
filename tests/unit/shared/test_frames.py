"""Frames: however a stream is cut, the same payloads come out; and CPython's own queue reads ours."""

from __future__ import annotations

import multiprocessing
import os
import struct
from multiprocessing.connection import Connection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import MessageError
from shared.messages import FrameReader, queue_frame
from tests.support.waiting import IN_VAIN_S


def frame(payload: bytes) -> bytes:
    """A payload as `Connection.send_bytes` writes it."""
    return struct.pack("!i", len(payload)) + payload


@given(payloads=st.lists(st.binary(max_size=40)), data=st.data())
def test_any_split_of_the_stream_gives_the_same_payloads(payloads: list[bytes], data: st.DataObject) -> None:
    """It does not matter where one read ends and the next begins."""
    stream = b"".join(map(frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reader = FrameReader(40)
    assert [payload for piece in pieces for payload in reader.feed(piece)] == payloads


@given(payload=st.binary(min_size=1, max_size=40), missing=st.integers(1, 44))
def test_half_a_message_gives_nothing(payload: bytes, missing: int) -> None:
    """A writer that dies in the middle of a message has sent nothing."""
    stream = frame(payload)
    assert list(FrameReader(100).feed(stream[: max(0, len(stream) - missing)])) == []


def test_a_message_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    """The limit is exact, and checked by the length alone, before anything is buffered."""
    assert list(FrameReader(10).feed(frame(b"x" * 10))) == [b"x" * 10]
    with pytest.raises(MessageError, match="11 bytes"):
        list(FrameReader(10).feed(struct.pack("!i", 11)))


@pytest.mark.parametrize("length", [-1, -2, -(2**31), 2**31 - 1])
def test_a_length_that_cannot_be_is_refused(length: int) -> None:
    """Negative lengths (CPython's mark for messages over 2 GiB) and huge ones are errors."""
    with pytest.raises(MessageError):
        list(FrameReader(1_000_000).feed(struct.pack("!i", length)))


def test_good_messages_before_a_bad_length_are_delivered() -> None:
    """Messages that were complete before the error count."""
    reader = FrameReader(10).feed(frame(b"good") + struct.pack("!i", -5))
    assert next(reader) == b"good"
    with pytest.raises(MessageError):
        next(reader)


@given(payload=st.binary())
def test_the_reader_understands_what_a_connection_sends(payload: bytes) -> None:
    """CPython's own `send_bytes` writes what the reader reads."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with receiving, sending:
        sending.send_bytes(payload)
        assert list(FrameReader(1_000).feed(os.read(receiving.fileno(), 65_536))) == [payload]


def test_a_connection_understands_a_message_over_16_kib() -> None:
    """CPython writes large messages in two pieces; the framing is the same."""
    payload = os.urandom(20_000)
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with receiving, sending:
        sending.send_bytes(payload)
        data = os.read(receiving.fileno(), 65_536)
        data += b"" if len(data) == len(frame(payload)) else os.read(receiving.fileno(), 65_536)
        assert data == frame(payload)


@pytest.mark.parametrize("size_bytes", [0, 1, 255, 256, 20_000])
def test_a_real_queue_reads_a_frame_written_into_its_pipe(size_bytes: int) -> None:
    """`multiprocessing.Queue.get` returns a message that was never `put`."""
    payload = os.urandom(size_bytes)
    queue = multiprocessing.get_context("fork").Queue()
    writer: Connection = queue._writer  # type: ignore[attr-defined] # noqa: SLF001 - the pipe is what this is about
    os.write(writer.fileno(), queue_frame(payload) + queue_frame(b"next"))
    # `get` releases a slot that no `put` has taken; worker/pipes.py handles that, a plain queue has slots to spare.
    queue._sem.acquire()  # type: ignore[attr-defined] # noqa: SLF001 - as `put` would
    assert queue.get(timeout=IN_VAIN_S) == payload
    queue._sem.acquire()  # type: ignore[attr-defined] # noqa: SLF001 - as `put` would
    assert queue.get(timeout=IN_VAIN_S) == b"next"
    queue.close()
