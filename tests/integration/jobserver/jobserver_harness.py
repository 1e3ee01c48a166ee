"""A job server and a receiver of its callbacks, both real HTTP servers on 127.0.0.1."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import ClientResponse, ClientSession, web
from aiohttp.test_utils import TestServer

from jobserver.app import LEDGER
from jobserver.ledger import CallbackEntry, Ledger
from jobserver.options import Options


@dataclass
class Receiver:
    """Takes callbacks and remembers them."""

    #: Statuses of the next answers to callbacks; afterwards 200.
    statuses: list[int] = field(default_factory=list)
    #: The path, the body and the time of each complete callback.
    received: list[tuple[str, bytes, float]] = field(default_factory=list)
    content_types: list[str] = field(default_factory=list)
    base: str = ""
    #: Called when a callback has arrived.
    on_callback: Callable[[], object] = bool

    async def take(self, request: web.Request) -> web.Response:
        """Handle the callback route."""
        raw = await request.read()
        self.on_callback()
        self.content_types.append(request.content_type)
        self.received.append((request.match_info["token"], raw, time.monotonic()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    def url(self, job: str = "job") -> str:
        """Return the callback address with this end."""
        return f"{self.base}/callback/{job}"

    def documents(self, job: str = "job") -> list[dict[str, Any]]:
        """Return the parsed callbacks of a job."""
        return [json.loads(raw) for path, raw, _ in self.received if path == job]


@dataclass
class Harness:
    """A running job server, with a client for it."""

    server: TestServer
    client: ClientSession
    receiver: Receiver
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def close(self) -> None:
        """Close the bare sockets."""
        for writer in self.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    @property
    def ledger(self) -> Ledger:
        """The job server's ledger."""
        return self.server.app[LEDGER]

    @property
    def url(self) -> str:
        """Where jobs are submitted."""
        return str(self.server.make_url("/start"))

    @property
    def callbacks(self) -> list[CallbackEntry]:
        """The callbacks in the ledger."""
        return list(self.ledger.callbacks)

    async def submit(self, **fields: object) -> ClientResponse:
        """Submit an asynchronous job over a connection of its own, and read the reply."""
        job = {"account": "a", "wait": False, "callback": self.receiver.url()} | fields
        async with self.client.post(self.url, json=job, allow_redirects=False) as response:
            await response.read()
            return response

    async def raw(self, **fields: object) -> bytes:
        """Submit an asynchronous job over a bare socket, and return everything sent until the server closes it."""
        job = {"account": "a", "wait": False, "callback": self.receiver.url()} | fields
        reader, _ = await self.send(job)
        return await reader.read()

    async def send(self, job: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a submission over a bare socket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self.writers.append(writer)
        writer.write(request_bytes(job))
        return reader, writer


def request_bytes(job: dict[str, object]) -> bytes:
    """Return a submission as sent over the wire."""
    body = json.dumps(job).encode()
    return b"POST /start HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class MakeHarness(Protocol):
    """The type of the fixture `job_server`."""

    def __call__(self, options: Options | None = None) -> Awaitable[Harness]:
        """Start a job server."""
        ...
