"""A listener with an application that echoes, and clients that write bytes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.http.asgi import Bodies, ClientGoneError, Guard, lost_of, send_response
from proxy.http.connections import Room
from proxy.http.fast.exchange import Exchange
from proxy.http.listening import bind
from proxy.http.problems import Problem
from proxy.http.server import Listener
from proxy.http.time_limits import Limits
from tests.support.waiting import IN_VAIN_S

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from shared.errors import Code

__all__ = ["MAX_BYTES", "Client", "Echo", "Server", "post", "problem", "serving", "statuses", "tls_context"]

#: The largest body that the echo accepts.
MAX_BYTES: Final = 200_000
_TLS: Final = Path(__file__).parent / "tls"


@dataclass
class Echo:
    """An application that echoes requests."""

    seen: list[str] = field(default_factory=list)
    #: Requests for `/wait` are answered when this is set.
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    #: The answer to `/large`.
    large: bytes = b""
    #: Reads the requests' bodies.
    bodies: Bodies = field(default_factory=lambda: Bodies(MAX_BYTES))
    #: Requests that were not Hypercorn's.
    fast: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            return
        self.seen.append(scope["path"])
        self.fast += isinstance(getattr(receive, "__self__", None), Exchange)
        match scope["path"]:
            case "/unread":
                await send_response(scope, send, 404, b"{}", b"application/json")
            case "/large":
                await send_response(scope, send, 200, self.large, b"application/json")
            case "/bare" | "/bug":
                headers = [(b"x", b"a\r\nb: c")] if scope["path"] == "/bug" else []
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
            case "/nothing":
                pass
            case "/half":
                headers = [(b"content-length", b"10")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
            case "/stream":
                await self._stream(receive, send)
            case "/lost":
                lost = lost_of(scope)
                assert lost is not None
                await lost
                self.seen.append("gone")
                raise ClientGoneError
            case "/endless":
                await self._endless(send)
            case _:
                await self._echo(scope, receive, send)

    async def _echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self.bodies.read(scope, receive)
        if scope["path"] == "/wait":
            await self.go_on.wait()
        hosts = [str(value, "latin-1") for name, value in scope["headers"] if name == b"host"]
        said = {
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "body": body.decode("latin-1"),
            "hosts": hosts,
        }
        await send_response(scope, send, 200, json.dumps(said).encode(), b"application/json")

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.seen.append("gone")

    async def _endless(self, send: Send) -> None:
        """Send as long as somebody reads, without looking at what the client says."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"more", "more_body": True})
                await asyncio.sleep(0)
        except ClientGoneError:
            self.seen.append("gone")
            raise


@dataclass
class Client:
    """The client's end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Read one answer that has a length; return its status, head and body."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), IN_VAIN_S)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split(b" ")[1]), head.lower(), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Read until the other side closes."""
        data = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(IN_VAIN_S):
                while more := await self.reader.read(65_536):
                    data += more
        return data

    async def ask(self, *pieces: bytes, end: bool = False) -> bytes:
        """Write each of `pieces` separately, then, with `end`, EOF; return everything until the server closes."""
        with suppress(OSError):  # already closed: shutdown(2) fails with ENOTCONN, which is not a ConnectionError
            for piece in pieces:
                self.writer.write(piece)
                await self.writer.drain()
                await asyncio.sleep(0)  # the server shares this loop: let it read
            if end:
                self.writer.write_eof()
        return await self.rest()

    def stop_reading(self) -> None:
        """Stop reading from the socket."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a read transport as well


@dataclass
class Server:
    """A listener, and what its application saw."""

    sock: socket.socket
    echo: Echo
    listener: Listener
    #: Whether requests may be served by the fast path, without Hypercorn.
    fast: bool
    #: The codes of requests that the application did not see, or did not answer.
    refused: list[Code]
    #: As much as came of their first lines.
    lines: list[bytes]
    #: The details of their answers.
    details: list[str]
    clients: list[Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port: int = self.sock.getsockname()[1]

    @property
    def has_stopped(self) -> bool:
        """Whether the listening socket is closed, and so are the connections without a request."""
        return self.sock.fileno() < 0

    async def connect(self, context: ssl.SSLContext | None = None) -> Client:
        """Return a connection to it, which is closed at the end of the test."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=context))
        self.clients.append(client)
        return client

    async def ask(self, *pieces: bytes, end: bool = True) -> bytes:
        """On a new connection, write each of `pieces` separately, then EOF; return everything that comes."""
        client = await self.connect()
        try:
            return await client.ask(*pieces, end=end)
        finally:
            client.writer.close()
            if error := client.reader.exception():  # the reader keeps it, and its traceback leads back to the reader
                error.__traceback__ = None


@asynccontextmanager
async def serving(
    *, fast: bool, limits: Limits | None = None, room: Room | None = None, tls: bool = False
) -> AsyncIterator[Server]:
    """Serve the echo within the block."""
    sock = bind("HOST, PORT", "127.0.0.1", 0)
    sock.setblocking(False)
    echo = Echo()
    refused: list[Code] = []
    lines: list[bytes] = []
    details: list[str] = []

    def on_refused(problem: Problem, line: bytes) -> None:
        refused.append(problem.code)
        lines.append(line)
        details.append(problem.detail)

    listener = Listener(
        sock,
        Guard(echo),
        limits=limits or Limits(),
        room=room,
        on_refused=on_refused,
        fast=fast,
        certfile=str(_TLS / "cert.pem") if tls else "",
        keyfile=str(_TLS / "key.pem") if tls else "",
    )
    listener.start()
    try:
        server = Server(sock, echo, listener, fast, refused, lines, details)
        yield server
        for client in server.clients:
            client.writer.transport.abort()
    finally:
        echo.go_on.set()
        listener.stop()
        await listener.stopped()


def tls_context() -> ssl.SSLContext:
    """Return a context for a client that trusts the certificate of the tests."""
    context = ssl.create_default_context(cafile=str(_TLS / "cert.pem"))
    context.check_hostname = False
    return context


def post(path: str, body: bytes = b"", *fields: bytes) -> bytes:
    """Return a plain request."""
    lines = b"".join(b"%b\r\n" % line for line in fields)
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b" % (path.encode(), len(body), lines, body)


def statuses(data: bytes) -> list[int]:
    """Return the statuses of the answers in `data`."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def problem(data: bytes) -> dict[str, Any]:
    """Return the problem document that is the last answer in `data`."""
    head, _, body = data.rpartition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    document: dict[str, Any] = json.loads(body)
    return document
