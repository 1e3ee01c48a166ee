"""The cost of starting and ending a worker process, in three ways.

Each process runs one job against a listener that answers at once, and then ends. The CPU is that of everything but the
listener: this process, the fork server, and the children. The figures are for docs/decisions/0001.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn

from bench.processes import cpu_s, descendants, stat_fields
from shared.job_server import loader
from shared.messages import Answered, Assign, Callback, Fork, Forked, FrameReader, Progress, encode, queue_frame
from shared.messages import decode_from_fork_server as heard
from shared.messages import decode_from_worker as said
from shared.worker_config import JobServer, WorkerConfig

__all__ = ["answer_for_ever", "main"]

_JOBS: Final = 60
_REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\nConnection: close\r\n\r\n"
    b'{"state":"running"}'
)


def main() -> None:
    """Measure and print."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    # Started before the measurement, and not counted.
    command = [sys.executable, "-m", "bench.starts", str(listener.fileno())]
    answering = subprocess.Popen(command, pass_fds=[listener.fileno()])
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/start"
    try:
        _time("our fork server", _OurForkServer(url), answering.pid)
        _time("standard forkserver", _Standard("forkserver", url), answering.pid)
        _time("spawn", _Standard("spawn", url), answering.pid, jobs=8)
    finally:
        answering.kill()
        answering.wait()


def _time(name: str, start: Callable[[], None], left_out: int, jobs: int = _JOBS) -> None:
    for _ in range(3):
        start()
    rounds = []
    for _ in range(5):
        began, cpu, faults = time.monotonic(), _cpu_s(left_out), _page_faults()
        for _ in range(jobs):
            start()
        rounds.append(
            (
                (_cpu_s(left_out) - cpu) / jobs * 1e3,
                (time.monotonic() - began) / jobs * 1e3,
                (_page_faults() - faults) // jobs,
            )
        )
    cpu_ms, wall_ms, faults_each = min(rounds)
    print(
        f"{name:24} {cpu_ms:7.2f} ms CPU  {wall_ms:7.2f} ms  {faults_each:6} page faults  a job"
        f" (best of {len(rounds)} rounds of {jobs})"
    )


def _config(url: str) -> WorkerConfig:
    return WorkerConfig(
        job_servers=(JobServer(url=url, profile=loader.load("spreedly")),),
        max_body_bytes=1 << 20,
        submit_retries=0,
        lost_reply_wait_s=1,
        max_jobs=1,
    )


class _OurForkServer:
    def __init__(self, url: str) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "worker", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._channel.send(_config(url).encode())

    def __call__(self) -> None:
        self._channel.send(encode(Fork(workers=1)))
        data, fds, _, _ = socket.recv_fds(self._channel, 65_536, 3)
        if not isinstance(heard(data), Forked):
            raise SystemExit(data.decode())
        _, inbox, outbox = fds
        _serve(lambda frame: os.write(inbox, frame), lambda: os.read(outbox, 65_536))
        self._channel.recv(65_536)  # reaped
        for fd in fds:
            os.close(fd)


class _Standard:
    """A process of `multiprocessing`, with a queue and a pipe, as in its documentation."""

    def __init__(self, method: str, url: str) -> None:
        self._context: Any = multiprocessing.get_context(method)
        self._url = url
        if method == "forkserver":
            multiprocessing.set_forkserver_preload(["bench.starts.ways", "worker.main", "worker.job_client"])

    def __call__(self) -> None:
        inbox = self._context.Queue()
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_standard_worker, args=(inbox, theirs, self._url))
        process.start()
        theirs.close()
        frames = iter(ours.recv_bytes, None)
        _put(inbox, encode(_assign()))
        for payload in frames:
            message = said(payload)
            if isinstance(message, Progress) and message.event == "reply-read":
                _put(inbox, encode(Callback(job_id="j")))
            if isinstance(message, Answered):
                break
        process.join()
        process.close()
        inbox.close()
        inbox.join_thread()
        ours.close()


def _put(inbox: multiprocessing.queues.Queue[bytes], data: bytes) -> None:
    inbox.put(data)


def _standard_worker(inbox: multiprocessing.queues.Queue[bytes], outbox: Connection, url: str) -> None:
    from worker.job_client import JobServers  # noqa: PLC0415

    config = _config(url)
    inbox.get()

    async def serve() -> None:
        client = JobServers(config).client("")
        never = asyncio.Event().wait  # there is only one attempt
        await client.submit(
            _assign(), lambda event: outbox.send_bytes(encode(Progress(job_id="j", event=event))), never
        )

    asyncio.run(serve())
    outbox.send_bytes(b'["Progress","j","reply-read",{}]')
    inbox.get()
    outbox.send_bytes(encode(Answered(job_id="j")))
    os._exit(0)


def _serve(write: Callable[[bytes], int], read: Callable[[], bytes]) -> None:
    write(queue_frame(encode(_assign())))
    reader = FrameReader(1 << 20)
    while True:
        for payload in reader.feed(read()):
            message = said(payload)
            if isinstance(message, Progress) and message.event == "reply-read":
                write(queue_frame(encode(Callback(job_id="j"))))
            if isinstance(message, Answered):
                return


def _assign() -> Assign:
    return Assign(job_id="j", callback_url="http://x/", deadline=time.monotonic() + 30, body=b'{"account":"x"}')


def answer_for_ever(listener: socket.socket) -> NoReturn:
    """Run the listener: answer every submission that the job runs."""
    while True:
        connection, _ = listener.accept()
        data = b""
        while not data.endswith(b"}"):
            data += connection.recv(65_536)
        connection.sendall(_REPLY)
        connection.close()


def _cpu_s(left_out: int) -> float:
    """Return the CPU of this process, its descendants and all reaped children, without the process `left_out`."""
    return cpu_s(os.getpid()) - cpu_s(left_out)


def _page_faults() -> int:
    """Return the minor page faults of the reaped children; they do not depend on other load."""
    helpers = [os.getpid(), *descendants(os.getpid())]
    return sum(int(fields[8]) for fields in map(stat_fields, helpers) if fields)
