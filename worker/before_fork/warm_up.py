"""Throw-away jobs, run in the fork server before it forks.

Every child then finds its code specialised, its caches filled and its memory touched; otherwise each would spend
milliseconds on that. The job server is a listener of our own; nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shared.job_server.profile import Callback as CallbackRules
from shared.job_server.profile import Profile, Submit
from shared.lifecycle import Event
from shared.messages import Answered, Assign, Callback, encode, queue_frame
from shared.stack import origin
from shared.worker_config import JobServer
from worker.job_client import JobServers
from worker.main import Worker
from worker.pipes import Inbox, Outbox

if TYPE_CHECKING:
    from shared.worker_config import WorkerConfig

__all__ = ["rehearse"]

#: CPython specialises code after it has run several times; without this, each child would have to do it.
_JOBS: Final = 20
_TIMEOUT_S: Final = 5.0
_READ_BYTES: Final = 65_536
#: The listener's protocol; the same code runs for every profile.
_PROFILE: Final = Profile(
    name="rehearsal",
    submit=Submit(body={"callback": "{callback_url}"}, state="body.state", running=("running",)),
    callback=CallbackRules(json_only=True, state="body.state", succeeded=("completed",)),
)
_REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\nConnection: close\r\n\r\n"
    b'{"state":"running"}'
)


def rehearse(loop: asyncio.AbstractEventLoop, config: WorkerConfig) -> None:
    """Run throw-away jobs on `loop`; a failure only costs speed, and is reported."""
    try:
        loop.run_until_complete(asyncio.wait_for(_rehearse(config), _TIMEOUT_S))
    except Exception as exc:  # noqa: BLE001 - only costs speed
        sys.stderr.write(f"the fork server could not warm up: {type(exc).__qualname__} at {origin(exc)}\n")


async def _rehearse(config: WorkerConfig) -> None:
    inbox = Inbox()
    reports, outbox = os.pipe()
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    rehearsal = JobServer(url=f"http://{host}:{port}/start", profile=_PROFILE)
    job_servers = JobServers(replace(config, job_servers=(rehearsal,)))
    life = asyncio.ensure_future(Worker(job_servers, Outbox(outbox), 0).serve(inbox))
    try:
        for _ in range(_JOBS):
            await _serve_job(inbox.writer_fileno(), reports)
    finally:
        inbox.close_writer()  # ends the worker
        with contextlib.suppress(EOFError):
            await life
        server.close()
        await server.wait_closed()
        os.close(reports)
        os.close(outbox)
        inbox.close()


async def _serve_job(inbox: int, reports: int) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    job = Assign(job_id="rehearsal", callback_url="http://localhost/", deadline=deadline, body=b'{"account":"none"}')
    os.write(inbox, queue_frame(encode(job)))
    await _until(reports, Event.REPLY_READ.encode())
    os.write(inbox, queue_frame(encode(Callback(job_id=job.job_id))))
    await _until(reports, Answered.__name__.encode())


async def _until(reports: int, word: bytes) -> None:
    """Read the worker's reports until it has said `word`."""
    loop = asyncio.get_running_loop()
    said = b""
    while word not in said:
        readable = asyncio.Event()
        loop.add_reader(reports, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(reports)
        said += os.read(reports, _READ_BYTES)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"}")
    writer.write(_REPLY)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
