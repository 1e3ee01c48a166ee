"""Several workers are handed over at a time: each gets its own ends, and none gets those of another."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from textwrap import dedent

import psutil
import pytest

from proxy.workers import fork_server_client, spawning
from proxy.workers.fork_server_client import ForkServer
from shared.job_server import loader
from shared.messages import WORKERS_AT_ONCE
from shared.worker_config import JobServer, WorkerConfig
from tests.support.descriptors import descriptors
from tests.support.waiting import eventually

_CONFIG = WorkerConfig(
    job_servers=(JobServer(url="http://127.0.0.1:9/start", profile=loader.load("spreedly")),),
    max_body_bytes=1 << 20,
    submit_retries=0,
    lost_reply_wait_s=1,
    max_jobs=1,
)


class Heard:
    """What the fork server's listener was told; holds the received ends."""

    def __init__(self) -> None:
        self.forked: dict[int, tuple[int, int, int]] = {}
        self.failed: list[str] = []
        self.exited: dict[int, int] = {}
        self.lost = 0

    def on_forked(self, pid: int, pidfd: int, inbox_fd: int, outbox_fd: int) -> None:
        """Note the worker."""
        self.forked[pid] = (pidfd, inbox_fd, outbox_fd)

    def on_fork_failed(self, reason: str) -> None:
        """Note why."""
        self.failed.append(reason)

    def on_exited(self, pid: int, status: int) -> None:
        """Note the status."""
        self.exited[pid] = status

    def on_lost(self) -> None:
        """Note the loss."""
        self.lost += 1

    def close(self) -> None:
        """Close every end."""
        for fds in self.forked.values():
            for fd in fds:
                os.close(fd)


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    """The fork server's listener."""
    heard = Heard()
    yield heard
    heard.close()


async def test_each_worker_has_its_own_ends_and_none_of_its_siblings(heard: Heard) -> None:
    """A worker exits without its inbox's writing end: no sibling of the same batch has a copy of it."""
    fork_server = ForkServer(_CONFIG.encode(), heard)
    await fork_server.start()
    try:
        wanted = 2 * WORKERS_AT_ONCE + 1
        fork_server.fork(wanted)
        await eventually(lambda: len(heard.forked) == wanted)
        for pid in list(heard.forked):
            pidfd, inbox_fd, outbox_fd = heard.forked.pop(pid)
            os.close(inbox_fd)
            await eventually(partial(heard.exited.__contains__, pid))
            assert heard.exited[pid] == 0
            assert os.read(outbox_fd, 1) == b""
            os.close(pidfd)
            os.close(outbox_fd)
            assert len(heard.exited) == wanted - len(heard.forked)
    finally:
        await fork_server.stop()
    assert heard.failed == []


async def test_a_fork_server_reads_all_of_a_long_configuration(heard: Heard) -> None:
    """A profile can contain a whole workflow."""
    profile = replace(_CONFIG.job_servers[0].profile, description="x" * 150_000)
    long = replace(_CONFIG, job_servers=(JobServer(url="http://127.0.0.1:9/start", profile=profile),))
    fork_server = ForkServer(long.encode(), heard)
    await fork_server.start()
    try:
        fork_server.fork(1)
        await eventually(lambda: bool(heard.forked) or heard.lost)
        assert not heard.lost
    finally:
        await fork_server.stop()


async def test_a_fork_server_that_cannot_be_killed_is_lost(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that hangs in the kernel: its user does not wait for its end, and hears of it once."""
    fork_server = ForkServer(_CONFIG.encode(), heard)
    await fork_server.start()
    with monkeypatch.context() as unkillable:
        unkillable.setattr(signal, "pidfd_send_signal", lambda *_: None)
        os.kill(fork_server.pid, signal.SIGSTOP)
        fork_server.fork(1)
        await eventually(lambda: heard.lost == 1)
    fork_server.fork(1)
    await fork_server.stop()
    assert not psutil.pid_exists(fork_server.pid)
    assert (heard.lost, heard.forked) == (1, {})


async def test_a_fork_server_may_take_long_to_start(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an emulated machine: if it was killed for that, so would be the next one. After that, it must not hang."""
    monkeypatch.setattr(fork_server_client, "_LOOK_S", 0.001)
    monkeypatch.setattr(fork_server_client, "_START_LOOKS", 100_000)
    monkeypatch.setattr(spawning, "COMMAND", (sys.executable, "-c", _speaker(9)))
    fork_server = ForkServer(_CONFIG.encode(), heard)
    await fork_server.start()
    try:
        fork_server.fork(3)
        await eventually(lambda: bool(heard.forked) or heard.lost)
        assert not heard.lost
        fork_server.fork(1)
        await eventually(lambda: heard.lost)
    finally:
        await fork_server.stop()


async def test_a_fork_server_that_cannot_be_asked_is_lost_at_once(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may have no memory for the request; those who wait for a worker must not wait for this one."""
    monkeypatch.setattr(fork_server_client, "_PATIENCE_LOOKS", 1_000_000)
    fork_server = ForkServer(_CONFIG.encode(), heard)
    await fork_server.start()

    def no_memory(_socket: socket.socket, _data: bytes) -> int:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    try:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "send", no_memory)
            fork_server.fork(1)
            await eventually(lambda: heard.lost)
    finally:
        await fork_server.stop()
    assert heard.forked == {}


async def test_what_a_fork_server_cannot_be_asked_now_it_is_asked_when_it_can(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all workers that were requested meanwhile; and nothing waits for its socket after that."""
    fork_server = ForkServer(_CONFIG.encode(), heard)
    await fork_server.start()
    send, asked, is_free = socket.socket.send, list[socket.socket](), asyncio.Event()

    def busy(channel: socket.socket, data: bytes) -> int:
        if channel.type is socket.SOCK_SEQPACKET:
            asked.append(channel)
            if not is_free.is_set():
                raise BlockingIOError
        return send(channel, data)

    monkeypatch.setattr(socket.socket, "send", busy)
    try:
        fork_server.fork(1)
        await eventually(lambda: asked)
        fork_server.fork(2)
        is_free.set()
        await eventually(lambda: len(heard.forked) == 3 or heard.lost)
        assert not heard.lost
        assert not asyncio.get_running_loop().remove_writer(asked[0])
    finally:
        await fork_server.stop()


async def test_a_fork_server_that_cannot_fork_owes_nothing(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has answered: otherwise it would be killed after some seconds."""
    cannot = dedent("""
        import socket, sys
        from shared.messages import ForkFailed, encode
        channel = socket.socket(fileno=int(sys.argv[1]))
        while channel.recv(65536):
            channel.send(encode(ForkFailed(reason="out of cheese")))
    """)
    monkeypatch.setattr(spawning, "COMMAND", (sys.executable, "-c", cannot))
    fork_server = ForkServer(_CONFIG.encode(), heard)
    await fork_server.start()
    try:
        fork_server.fork(1)
        await eventually(lambda: len(heard.failed) == 2)  # it takes its configuration for a request as well
        assert fork_server._owed == 0  # noqa: SLF001 - see above
        assert not heard.lost
    finally:
        await fork_server.stop()


@pytest.mark.parametrize(("fds", "forked"), [(9, 3), (8, 2), (7, 2), (3, 1), (2, 0), (0, 0), (11, 3)])
async def test_a_worker_of_which_an_end_is_missing_counts_as_not_made(
    heard: Heard, monkeypatch: pytest.MonkeyPatch, fds: int, forked: int
) -> None:
    """Complete workers are used; of incomplete ones every descriptor is closed, and the waiting caller is told."""
    before = descriptors()
    monkeypatch.setattr(spawning, "COMMAND", (sys.executable, "-c", _speaker(fds)))
    fork_server = ForkServer(_CONFIG.encode(), heard)
    await fork_server.start()
    try:
        fork_server.fork(3)
        await eventually(lambda: len(heard.forked) + len(heard.failed) == 3)
        assert list(heard.forked) == [101, 102, 103][:forked]
        assert heard.failed == ["Too many open files"] * (3 - forked)
    finally:
        await fork_server.stop()
    assert len(descriptors() - before) == 3 * forked


def _speaker(fds: int) -> str:
    """Return a fork server's program that claims three workers and sends this many descriptors."""
    return dedent(f"""
        import os, socket, sys
        from shared.messages import Forked, encode
        channel = socket.socket(fileno=int(sys.argv[1]))
        channel.recv(65536), channel.recv(65536)
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range({fds})]
        message = encode(Forked(pids=[101, 102, 103]))
        socket.send_fds(channel, [message], fds) if fds else channel.send(message)
        while channel.recv(65536):  # it hangs: further requests are not answered
            pass
    """)
