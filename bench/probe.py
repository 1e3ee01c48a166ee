"""`python -m bench.probe URL`: send a request every 5 ms until standard input ends, then print how long each took.

Times are counted from when the request was due, not from when it was sent: an event loop that is blocked for 100 ms
delays twenty requests, and all twenty count. Each request is `[due, seconds]`; `due` is a monotonic time.

It runs in a process of its own, with a high priority if that is allowed, so that it sees only the proxy's delay.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from typing import Final
from urllib.parse import urlsplit

from bench.wire import MessageReader, request

_INTERVAL_S: Final = 0.005
_PRIORITY: Final = -15


def probe(url: str) -> list[tuple[float, float]]:
    """Send requests until standard input ends."""
    parts = urlsplit(url)
    data = request("GET", parts.netloc, parts.path)
    times: list[tuple[float, float]] = []
    connection: socket.socket | None = None
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        if connection is None:
            connection = socket.create_connection((parts.hostname or "", parts.port or 80))
        connection.sendall(data)
        if _closes(connection):
            connection.close()
            connection = None
        times.append((due, time.monotonic() - due))
        due += _INTERVAL_S
    return times


def _closes(connection: socket.socket) -> bool:
    """Read one answer; return whether the connection ends with it."""
    reader = MessageReader()
    while True:
        data = connection.recv(65_536)
        if not data:
            raise ConnectionResetError("closed without an answer")
        for message in reader.feed(data):
            return message.close


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    print(json.dumps(probe(sys.argv[1])))
