"""`python -m bench.job_server`: a job server that costs little, so that a measurement is about the proxy.

It only speaks the asynchronous form of the protocol. A job is `{"callback": URL, "duration": seconds}`; the default is
0 s. With `"hold": true` it runs until a `POST /release`. The result has the real duration of the job, from the
submission's last byte to the callback's first, as `took_ms`, and the monotonic time of that last byte, as
`submitted_at`; with `"bytes": N` it is about N bytes long. `GET /held` returns the number of held jobs, and the
monotonic time of the `last` submission. `GET /tls` returns the port where the same is served over TLS, and the number
of connections there so far.

Callbacks are sent over at most `_CONNECTIONS` connections, which are kept if the receiver keeps them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from bench.processes import ROOT
from bench.wire import Message, MessageReader, request, response

_CONNECTIONS: Final = 64
#: A certificate for 127.0.0.1 that is its own authority, and its key.
TLS: Final = ROOT / "tests" / "support" / "tls"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A running job."""

    id: str
    callback: str
    started: float
    #: About how long its result is.
    bytes: int


class JobServer:
    """Runs jobs and reports their results."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._held: list[Job] = []
        self._callees: dict[str, Callee] = {}
        #: The port for TLS, and the number of connections there so far.
        self.tls = {"port": 0, "opened": 0}

    def answer(self, message: Message) -> bytes:
        """Return the response to a request."""
        match message.route:
            case b"POST /start":
                return self._start(json.loads(message.body), close=message.close)
            case b"POST /release":
                held, self._held = self._held, []
                for job in held:
                    self._finish(job)
                return response("200 OK", {"released": len(held)}, close=message.close)
            case b"GET /held":
                last = self._held[-1].started if self._held else 0.0
                return response("200 OK", {"held": len(self._held), "last": last}, close=message.close)
            case b"GET /tls":
                return response("200 OK", self.tls, close=message.close)
            case _:
                return response("404 Not Found", {}, close=True)

    def _start(self, document: dict[str, Any], *, close: bool) -> bytes:
        job = Job(
            id=f"{next(self._ids):016x}",
            callback=document["callback"],
            started=time.monotonic(),
            bytes=document.get("bytes", 0),
        )
        if document.get("hold"):
            self._held.append(job)
        else:
            asyncio.get_running_loop().call_later(float(document.get("duration", 0)), self._finish, job)
        return response("200 OK", {"state": "running", "id": job.id}, close=close)

    def _finish(self, job: Job) -> None:
        url = urlsplit(job.callback)
        took_ms = (time.monotonic() - job.started) * 1000
        result: dict[str, object] = {"id": job.id, "state": "completed"}
        result |= {"took_ms": took_ms, "submitted_at": job.started}
        if job.bytes:
            result["rows"] = rows(job.bytes)
        if url.netloc not in self._callees:
            self._callees[url.netloc] = Callee(url.hostname or "", url.port or 80)
        self._callees[url.netloc].post(request("POST", url.netloc, url.path, result))


@cache
def rows(size: int) -> list[dict[str, object]]:
    """Return typical records, together about `size` bytes as JSON."""
    one = {"id": 1_234_567, "name": "example", "amount": 12.5, "paid": True, "tags": ["a", "b"]}
    return [one] * (size // len(json.dumps(one) + ", "))


class Callee:
    """The receiver of callbacks at one address."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._waiting: deque[bytes] = deque()
        self._idle: list[CallbackConnection] = []
        self._open = 0
        self._tasks: set[asyncio.Task[object]] = set()

    def post(self, data: bytes) -> None:
        """Send a request, now or when a connection is free."""
        if self._idle:
            self._idle.pop().send(data)
            return
        self._waiting.append(data)
        if self._open < _CONNECTIONS:
            self._connect()

    def _connect(self) -> None:
        self._open += 1
        loop = asyncio.get_running_loop()
        task: asyncio.Task[object] = loop.create_task(
            loop.create_connection(lambda: CallbackConnection(self.free, self.lost), self._host, self._port)
        )
        self._tasks.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.exception() is not None:  # the proxy is gone, so its jobs do not matter any more
            self._open -= 1
            self._waiting.clear()

    def free(self, connection: CallbackConnection) -> None:
        """Reuse a connection that is ready for a request."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: CallbackConnection, unanswered: bytes) -> None:
        """Note that a connection closed; resend the callback that was not answered."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        if unanswered:
            self._waiting.append(unanswered)
        if self._waiting:
            self._connect()


class CallbackConnection(asyncio.Protocol):
    """One connection to a receiver, one request at a time."""

    _transport: asyncio.Transport

    def __init__(
        self, on_free: Callable[[CallbackConnection], None], on_lost: Callable[[CallbackConnection, bytes], None]
    ) -> None:
        self._on_free = on_free
        self._on_lost = on_lost
        self._reader = MessageReader()
        self._sent = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._on_free(self)

    def send(self, data: bytes) -> None:
        """Send a request."""
        self._sent = data
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Read the answer, whatever it says."""
        for message in self._reader.feed(data):
            self._sent = b""
            if message.close:
                self._transport.close()
            else:
                self._on_free(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Notify the receiver's `Callee`."""
        self._on_lost(self, self._sent)


class Connection(asyncio.Protocol):
    """One connection from a proxy."""

    _transport: asyncio.Transport

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self._reader = MessageReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._server.tls["opened"] += transport.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        """Answer the requests."""
        for message in self._reader.feed(data):
            self._transport.write(self._server.answer(message))
            if message.close:
                self._transport.close()


async def _serve() -> None:
    server = JobServer()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096)
    port = listener.sockets[0].getsockname()[1]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    over_tls = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096, ssl=context)
    server.tls["port"] = over_tls.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
