"""The load: a fixed number of clients on kept connections, each with one job at a time. It costs little CPU."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from bench.wire import Message, MessageReader, request

__all__ = ["Answer", "Client", "Load", "LoadError", "fire", "keep_busy", "send", "send_job"]


#: How many connections are opened at the same time.
_CONNECTS: Final = 256


class LoadError(Exception):
    """A job got an unexpected answer; the message has that answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one job was answered."""

    latency_s: float
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load that was served."""

    #: The monotonic time of the first request.
    started: float
    took_s: float
    answers: list[Answer]


class Client(asyncio.Protocol):
    """One connection. Send with `exchange`; reconnects if the server has closed the connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self.host_header = parts.netloc
        self._reader = MessageReader()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Message] | None = None

    async def connect(self) -> None:
        """Open the connection."""
        await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)

    async def exchange(self, data: bytes) -> Message:
        """Send one request, return its response. Raises OSError if the connection breaks."""
        if self._transport is None:
            await self.connect()
        self._waiter = asyncio.get_running_loop().create_future()
        if self._transport is not None:
            self._transport.write(data)
        return await self._waiter

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        self._reader = MessageReader()

    def data_received(self, data: bytes) -> None:
        """Complete the exchange."""
        for message in self._reader.feed(data):
            if message.close:
                self.close()
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the exchange."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionResetError("closed without an answer"))


async def keep_busy(url: str, *, jobs: int, clients: int) -> Load:
    """Run `jobs` jobs of 0 s with `clients` clients; return the figures.

    Raises:
        LoadError: a job failed, or two got the same result.
    """
    left = iter(range(jobs))
    answers: list[Answer] = []
    connections = [Client(url) for _ in range(clients)]
    await asyncio.gather(*(client.connect() for client in connections))
    data = _job(connections[0], url, {"account": "example"})

    async def work(client: Client) -> None:
        for _ in left:
            answer = await _one(client, data)
            answers.append(answer)

    started = time.monotonic()
    await asyncio.gather(*(work(client) for client in connections))
    took_s = time.monotonic() - started
    for client in connections:
        client.close()
    _check_distinct(answers)
    return Load(started=started, took_s=took_s, answers=answers)


async def fire(url: str, *, jobs: int, document: dict[str, object]) -> Load:
    """Send `jobs` jobs at once, each over a connection opened before; return the figures.

    Raises:
        LoadError: a job failed, or two got the same result.
    """
    connections = [Client(url) for _ in range(jobs)]
    try:
        for start in range(0, jobs, _CONNECTS):
            await asyncio.gather(*(client.connect() for client in connections[start : start + _CONNECTS]))
        data = _job(connections[0], url, document)
        started = time.monotonic()
        answers = await asyncio.gather(*(_one(client, data) for client in connections))
        took_s = time.monotonic() - started
    finally:
        for client in connections:
            client.close()
    _check_distinct(answers)
    return Load(started=started, took_s=took_s, answers=answers)


async def send_job(client: Client, url: str, document: dict[str, object]) -> Answer:
    """Send one job over `client`. Raises LoadError if it fails."""
    return await _one(client, _job(client, url, document))


async def send(method: str, url: str) -> bytes:
    """Return the body of the answer to a request without a body, over a connection of its own."""
    client = Client(url)
    message = await client.exchange(request(method, client.host_header, urlsplit(url).path))
    client.close()
    return message.body


def _job(client: Client, url: str, document: dict[str, object]) -> bytes:
    return request("POST", client.host_header, urlsplit(url).path, document)


async def _one(client: Client, data: bytes) -> Answer:
    started = time.monotonic()
    try:
        message = await client.exchange(data)
    except OSError as exc:
        raise LoadError(f"the connection broke: {exc}") from exc
    if message.status != 200 or b'"completed"' not in message.body:
        raise LoadError(f"{message.start.decode()} {message.body[:500].decode(errors='replace')}")
    return Answer(time.monotonic() - started, message.body)


def _check_distinct(answers: list[Answer]) -> None:
    distinct = len({answer.body for answer in answers})
    if distinct != len(answers):
        raise LoadError(f"{len(answers)} jobs got only {distinct} different results")
