"""The embedded job server's application, served inside the test by pytest-aiohttp's `aiohttp_server`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp.test_utils import TestServer

from jobserver.app import LEDGER
from jobserver.ledger import CallbackEntry, Ledger, SubmissionEntry

__all__ = ["JobServer", "close_listener", "end", "rounds"]

#: Iterations of the event loop until the server has an accepted connection, and until an aborted one is closed.
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class JobServer:
    """A running job server, and what it received."""

    server: TestServer

    @property
    def url(self) -> str:
        """The value of JOB_SERVER_URL."""
        return str(self.server.make_url("/start"))

    @property
    def ledger(self) -> Ledger:
        """Every submission and callback."""
        return self.server.app[LEDGER]

    def submissions(self, ref: str) -> list[SubmissionEntry]:
        """Return the submissions of the job with this `ref`, oldest first."""
        return [entry for entry in self.ledger.submissions if entry.ref == ref]

    def submission(self, ref: str) -> SubmissionEntry:
        """Return the only submission of the job with this `ref`."""
        (entry,) = self.submissions(ref)
        return entry

    def started(self, ref: str) -> list[SubmissionEntry]:
        """Return the submissions of this job that were not refused: at most one is allowed."""
        return [entry for entry in self.submissions(ref) if not entry.refused]

    def callback_url(self, ref: str) -> str:
        """Return the callback URL of this job."""
        url = self.submissions(ref)[-1].callback
        assert url is not None
        return url

    def callbacks(self, ref: str, kind: str = "result") -> list[CallbackEntry]:
        """Return the callbacks sent for this job, oldest first."""
        ids = {entry.id for entry in self.submissions(ref)}
        return [entry for entry in self.ledger.callbacks if entry.id in ids and entry.kind == kind]

    def sent(self, ref: str) -> dict[str, Any]:
        """Return the submission's body, parsed."""
        document: dict[str, Any] = json.loads(self.submission(ref).raw)
        return document


async def end(server: TestServer) -> None:
    """Accept no more connections, and abort the open ones: a connection with unsent bytes would stay open."""
    assert server.runner is not None
    for site in list(server.runner.sites):
        listener = site._server  # noqa: SLF001 - aiohttp does not show it
        if isinstance(listener, asyncio.Server):
            await close_listener(listener)
        await site.stop()
    await rounds()
    handlers = server.runner.server.connections if server.runner.server is not None else []
    for handler in handlers:
        if handler.transport is not None:
            handler.transport.abort()
    await rounds()


async def close_listener(listener: asyncio.Server) -> None:
    """Accept no more connections; those that were accepted have begun.

    asyncio loses one that it accepts while its server is closed: the connection is neither served nor closed.
    """
    for listening in listener.sockets:
        asyncio.get_running_loop().remove_reader(listening)
    await rounds()
    listener.close()


async def rounds() -> None:
    """Let the event loop begin, or close, the connections that it has accepted, or aborted."""
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
