"""How messages are told apart in a pipe: the framing of `multiprocessing.connection.Connection`, read and written here
without its blocking calls.

`Connection.recv` blocks on a half-written message, and `Connection.send` on a full pipe, even where `poll` said yes.
The front end may do neither, so it writes frames into non-blocking pipes and cuts them out of what it reads.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from typing import Final

from shared.errors import MessageError

__all__ = ["FrameReader", "frame", "queue_frame"]

#: CPython's `Connection._send_bytes`: a signed length in network order, for payloads below 2 GiB.
_LENGTH: Final = struct.Struct("!i")


def frame(payload: bytes) -> bytes:
    """Return what `Connection.send_bytes(payload)` would write into its pipe."""
    return _LENGTH.pack(len(payload)) + payload


def queue_frame(payload: bytes) -> bytes:
    """Return what `multiprocessing.Queue.put(payload)` would write into the queue's pipe."""
    return frame(pickle.dumps(payload, protocol=pickle.HIGHEST_PROTOCOL))


class FrameReader:
    """Cuts a stream of bytes into the payloads of its frames."""

    def __init__(self, max_bytes: int) -> None:
        """Refuse payloads over `max_bytes`."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each payload that `data` completes.

        Raises:
            MessageError: a frame announces a length that is negative or over the cap.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, at)
                if not 0 <= length <= self._max_bytes:
                    raise MessageError(f"a message of {length} bytes")
                end = at + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                payload = bytes(self._buffer[at + _LENGTH.size : end])
                at = end
                yield payload
        finally:
            del self._buffer[:at]
