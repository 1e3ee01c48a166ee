"""What becomes of the workers when their fork server or the front end ends, and which fork servers end at all."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from textwrap import dedent

import psutil
import pytest

from proxy.workers import spawning
from shared.job_server import loader
from shared.messages import (
    WORKERS_AT_ONCE,
    Ask,
    Assign,
    Exited,
    Fork,
    Forked,
    FrameReader,
    FromForkServer,
    Log,
    Told,
    decode_from_fork_server,
    decode_from_worker,
    encode,
    queue_frame,
)
from shared.worker_config import JobServer, WorkerConfig
from tests.support.waiting import IN_VAIN_S, eventually_blocking

_CONFIG = WorkerConfig(
    job_servers=(JobServer(url="http://127.0.0.1:9/start", profile=loader.load("spreedly")),),
    max_body_bytes=1 << 20,
    submit_retries=0,
    lost_reply_wait_s=1,
    max_jobs=1,
)


@dataclass
class _Ends:
    """The front end's descriptors of a worker."""

    pidfd: int
    inbox: int
    outbox: int


@dataclass
class _FrontEnd:
    """A front end that reads when the test says so."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    stderr_fd: int
    workers: dict[int, _Ends] = field(default_factory=dict)

    def fork(self, count: int) -> list[int]:
        """Request workers; return their pids."""
        self.channel.send(encode(Fork(workers=count)))
        made: list[int] = []
        while len(made) < count:
            message = self.hear()
            assert isinstance(message, Forked)
            made += message.pids
        return made

    def hear(self) -> FromForkServer:
        """Wait for a message; keep the descriptors that come with it."""
        data, fds, _, _ = socket.recv_fds(self.channel, 65_536, 3 * WORKERS_AT_ONCE)
        message = decode_from_fork_server(data)
        if isinstance(message, Forked):
            for place, pid in enumerate(message.pids[: len(fds) // 3]):
                self.workers[pid] = _Ends(*fds[3 * place : 3 * place + 3])
        return message

    def die(self) -> None:
        """Close everything, the channel first."""
        self.channel.close()
        for ends in self.workers.values():
            for fd in (ends.pidfd, ends.inbox, ends.outbox):
                os.close(fd)
        self.workers.clear()


@contextlib.contextmanager
def _front_end(config: WorkerConfig) -> Iterator[_FrontEnd]:
    front_end = _FrontEnd(*spawning.spawn(config.encode()))
    front_end.channel.settimeout(IN_VAIN_S)
    try:
        yield front_end
    finally:
        front_end.die()
        front_end.process.kill()
        front_end.process.wait()
        os.close(front_end.stderr_fd)


def _answers(ends: _Ends) -> bool:
    """Ask a worker to make a call that fails; return whether it says so."""
    call = Ask(job_id="job", profile="", call="status", values="{}", deadline=time.monotonic() + IN_VAIN_S)
    with contextlib.suppress(BrokenPipeError):
        os.write(ends.inbox, queue_frame(encode(call)))
    data = os.read(ends.outbox, 65_536)
    return bool(data) and isinstance(decode_from_worker(data[4:]), Told)


def _program(patch: str) -> tuple[str, ...]:
    """Return the command of a fork server with a fault."""
    begin = """
        import errno, os, socket, sys
        from worker import __main__ as entry, fork_server
        """
    end = "entry.main(int(sys.argv[1]))"
    return (sys.executable, "-c", "\n".join(map(dedent, (begin, patch, end))))


@pytest.mark.parametrize("end", ["exception", "signal"])
def test_a_fork_server_that_ends_leaves_its_workers(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """An unhandled exception is no other end than a signal; the exception's type and place are on stderr."""
    faulty = """
        fork = fork_server.ForkServer._fork
        def fork_once(self):
            fork(self)
            fork_server.ForkServer._fork = lambda self: 1 / 0
        fork_server.ForkServer._fork = fork_once
        """
    monkeypatch.setattr(spawning, "COMMAND", _program(faulty))
    with _front_end(_CONFIG) as front_end:
        (pid,) = front_end.fork(1)
        if end == "exception":
            front_end.channel.send(encode(Fork(workers=1)))
        else:
            front_end.process.send_signal(signal.SIGTERM)
        assert front_end.process.wait(IN_VAIN_S) == (1 if end == "exception" else -signal.SIGTERM)
        assert _answers(front_end.workers[pid])
        if end == "exception":
            assert os.read(front_end.stderr_fd, 1_000).startswith(b"the fork server ended by ZeroDivisionError at ")


@pytest.mark.parametrize("unread", [False, True])
def test_a_submission_is_finished_though_the_front_end_left_messages_unread(unread: bool) -> None:
    """The kernel reports the end of a front end that had unread messages as an error, which is its end all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(IN_VAIN_S)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/start"
        job_server = JobServer(url=url, profile=loader.load("spreedly"))
        with _front_end(replace(_CONFIG, job_servers=(job_server,), linger_s=IN_VAIN_S)) as front_end:
            worker, spare, dead = front_end.fork(3)
            assign = Assign(
                job_id="job",
                callback_url="http://127.0.0.1:9/callback/token",
                deadline=time.monotonic() + IN_VAIN_S,
                body=b'{"account": "example"}',
            )
            os.write(front_end.workers[worker].inbox, queue_frame(encode(assign)))
            connection, _ = server.accept()
            with connection:
                os.kill(dead, signal.SIGKILL)
                assert select.select([front_end.channel], [], [], IN_VAIN_S)[0]
                if not unread:
                    assert front_end.hear() == Exited(pid=dead, status=-signal.SIGKILL)
                front_end.die()
                # The spare exits only after the channel is closed: who reaps it has noticed the front end's end.
                eventually_blocking(lambda: not psutil.pid_exists(spare))
                assert front_end.process.poll() is None
                connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
                assert front_end.process.wait(IN_VAIN_S) == 0
            assert not psutil.pid_exists(worker)


def test_a_worker_that_ends_by_an_unhandled_exception_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its type and place are in the front end's log, and its exit status is that of an error."""
    faulty = """
        from worker.main import Worker
        Worker.serve = lambda *_: 1 / 0
        """
    monkeypatch.setattr(spawning, "COMMAND", _program(faulty))
    with _front_end(_CONFIG) as front_end:
        (pid,) = front_end.fork(1)
        assert front_end.hear() == Exited(pid=pid, status=1)
        (payload,) = FrameReader(10_000).feed(os.read(front_end.workers[pid].outbox, 10_000))
        line = decode_from_worker(payload)
        assert isinstance(line, Log)
        assert (line.level, line.event) == ("error", "worker ended by ZeroDivisionError")
        assert " <lambda> < worker/main.py:" in line.at


def test_a_worker_whose_descriptors_the_kernel_does_not_pass_on_counts_as_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many may be on their way to a front end that is stopped, and less to one of a user with other programs."""
    faulty = """
        send_fds = socket.send_fds
        def fail(*_):
            socket.send_fds = send_fds
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        socket.send_fds = fail
        """
    monkeypatch.setattr(spawning, "COMMAND", _program(faulty))
    with _front_end(_CONFIG) as front_end:
        lost = front_end.fork(2)
        assert not front_end.workers
        assert {front_end.hear() for _ in lost} == {Exited(pid=pid, status=0) for pid in lost}
        (pid,) = front_end.fork(1)
        assert _answers(front_end.workers[pid])
