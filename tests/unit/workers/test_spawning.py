"""A fork server's process is started with what it needs, and a failed start leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from typing import cast

import pytest

from proxy.workers import fork_server_client, spawning
from proxy.workers.fork_server_client import ForkServer, Listener
from tests.support.descriptors import descriptors

_SPEAKER = """
import os, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
channel.send(b"heard " + channel.recv(100))
sys.stderr.write("a word")
sys.stderr.flush()
sys.stdout.write(" of a library")
"""


def test_a_process_reads_its_configuration_first_and_its_output_comes_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The configuration was sent before the process could read it."""
    monkeypatch.setattr(spawning, "COMMAND", (sys.executable, "-c", _SPEAKER))
    before = descriptors()
    process, channel, stderr_fd = spawning.spawn(b"the settings")
    assert not channel.getblocking()
    assert not os.get_blocking(stderr_fd)
    process.wait()
    assert channel.recv(100) == b"heard the settings"
    assert os.read(stderr_fd, 100) == b"a word of a library"
    assert os.read(stderr_fd, 100) == b""
    channel.close()
    os.close(stderr_fd)
    assert descriptors() <= before


def test_a_configuration_may_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a socket has room for by default; one for which the kernel never has room is named."""
    speaker = _SPEAKER.replace("channel.recv(100)", "b'%d' % len(channel.recv(1_000_000))")
    monkeypatch.setattr(spawning, "COMMAND", (sys.executable, "-c", speaker))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as usual:
        size = usual.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) + 1_000
    process, channel, stderr_fd = spawning.spawn(b"x" * size)
    process.wait()
    assert channel.recv(100) == b"heard %d" % size
    channel.close()
    os.close(stderr_fd)
    before = descriptors()
    with pytest.raises(OSError, match=r"the profiles are too large: workers would have to be sent 500000000 bytes \("):
        spawning.spawn(bytes(500_000_000))
    assert descriptors() <= before


def test_a_start_that_fails_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the socket nor of the pipe."""
    monkeypatch.setattr(spawning, "COMMAND", ("/nonexistent",))
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        spawning.spawn(b"")
    assert descriptors() <= before


def test_a_start_for_which_there_is_no_thread_fails_and_is_not_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process limit counts threads, too; the supply tries again."""
    made: list[bytes] = []
    monkeypatch.setattr(fork_server_client, "spawn", made.append)

    async def start() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", _no_thread)
            with pytest.raises(OSError, match="no thread can be started"):
                await ForkServer(b"", cast("Listener", None)).start()
        await asyncio.to_thread(int)

    asyncio.run(start())
    assert made == []


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
