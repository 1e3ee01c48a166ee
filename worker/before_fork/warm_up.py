"""Throw-away jobs, served in the fork server before it forks.

Every child then finds its code specialised, its caches filled and its memory touched, which would cost each of them
milliseconds. The job server is a listener of our own; nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shared.errors import ProxyError
from shared.frames import queue_frame
from shared.job_server.profile import Callback as CallbackRules
from shared.job_server.profile import Profile, Submit
from shared.messages import Assign, Callback, encode
from shared.worker_config import JobServer
from worker.inbox import Inbox
from worker.job_servers import JobServers
from worker.main import Worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from shared.worker_config import WorkerConfig

__all__ = ["rehearse"]

_TIMEOUT_S: Final = 5.0
#: What the listener speaks; the code that runs is the same for every profile.
_PROFILE: Final = Profile(
    name="rehearsal",
    submit=Submit(body={"callback": "{callback_url}"}, state="body.state", running=("running",)),
    callback=CallbackRules(json_only=True, state="body.state", succeeded=("completed",)),
)
_REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\nConnection: close\r\n\r\n"
    b'{"state":"running"}'
)


def rehearse(loop: asyncio.AbstractEventLoop, config: WorkerConfig, jobs: int) -> None:
    """Serve `jobs` jobs on `loop`; a failure costs speed, not service, and is only reported."""
    try:
        loop.run_until_complete(asyncio.wait_for(_rehearse(config, jobs), _TIMEOUT_S))
    except (OSError, TimeoutError, ProxyError) as exc:
        sys.stderr.write(f"the fork server could not warm up: {type(exc).__name__}\n")


async def _rehearse(config: WorkerConfig, jobs: int) -> None:
    inbox = Inbox()
    outbox_r, outbox_w = multiprocessing.Pipe(duplex=False)
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    rehearsal = JobServer(url=f"http://{host}:{port}/start", profile=_PROFILE)
    job_servers = JobServers(replace(config, job_servers=(rehearsal,)))
    life = asyncio.ensure_future(Worker(job_servers, outbox_w, 0).serve(inbox))
    for _ in range(jobs):
        await _serve_job(inbox, outbox_r)
    inbox.close_writer()
    with contextlib.suppress(EOFError):
        await life
    await job_servers.close()
    server.close()
    await server.wait_closed()
    for end in (outbox_r, outbox_w):
        end.close()
    inbox.close()


async def _serve_job(inbox: Inbox, outbox_r: Connection) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    job = Assign(job_id="rehearsal", callback_url="http://localhost/", deadline=deadline, body=b'{"account":"none"}')
    os.write(inbox.writer_fileno(), queue_frame(encode(job)))
    await _received(outbox_r, 2)  # connected, reply read
    os.write(inbox.writer_fileno(), queue_frame(encode(Callback(job_id=job.job_id))))
    await _received(outbox_r, 1)  # answered


async def _received(outbox: Connection, count: int) -> None:
    """Read `count` messages without a thread: a process that forks must not have any."""
    for _ in range(count):
        while not outbox.poll():  # noqa: ASYNC110 - a pipe, not an event of ours
            await asyncio.sleep(0.001)
        outbox.recv_bytes()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"}")
    writer.write(_REPLY)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
