"""One worker as the front end sees it, with the test's pipes instead of a process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Final

import pytest
import uvloop

from proxy.workers.worker import GRACE_S, Worker
from shared.lifecycle import Event
from shared.messages import Answered, Assign, Callback, FromWorker, Log, Progress, Told, encode
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.waiting import IN_VAIN_S

_MAX_BODY_BYTES: Final = 1_000


class Handler:
    """Records its notifications, in order."""

    job_id = "job"
    state_name = "waiting"

    def __init__(self) -> None:
        self.heard: list[FromWorker | str] = []

    def on_message(self, message: FromWorker) -> None:
        """Record a message."""
        self.heard.append(message)

    def on_death(self, reason: str) -> None:
        """Record the end."""
        self.heard.append(reason)


class Rig:
    """A worker whose process is the test: it writes to `outbox`, reads from `inbox`, and lives as long as `alive`."""

    def __init__(self) -> None:
        pidfd, self.alive = os.pipe()
        self.inbox, inbox_w = os.pipe()
        outbox_r, self.outbox = os.pipe()
        os.set_blocking(self.inbox, False)
        self.exits: list[Worker] = []
        self.logs: list[Log] = []
        self.handler = Handler()
        self.worker = Worker(
            pid=1,
            pidfd=pidfd,
            inbox_fd=inbox_w,
            outbox_fd=outbox_r,
            max_body_bytes=_MAX_BODY_BYTES,
            on_exit=self.exits.append,
            on_log=lambda _, line: self.logs.append(line),
        )
        self.worker.handler = self.handler

    def says(self, *messages: FromWorker) -> None:
        """Write messages like the worker."""
        self.writes(b"".join(frame(encode(message)) for message in messages))

    def writes(self, data: bytes) -> None:
        """Write bytes like the worker."""
        os.write(self.outbox, data)

    def reads(self) -> bytes:
        """Read what is in the worker's inbox."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.inbox, 1 << 20)
        return b""

    def close(self) -> None:
        """Close the worker's side, and report its end."""
        for fd in (self.outbox, self.inbox, self.alive):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.worker.on_status(0)


def frame(payload: bytes) -> bytes:
    """A payload as `Connection.send_bytes` writes it."""
    return struct.pack("!i", len(payload)) + payload


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """A worker for one test; an event loop must be running."""
    made = Rig()
    try:
        yield made
    finally:
        made.close()


ANSWERED: Final = Answered(job_id="job")


async def test_a_message_is_unread_until_the_worker_reads_it() -> None:
    """Whether it is in the pipe, or does not fit in there yet; one that is gone leaves nothing unread."""
    with rig() as rigged:
        seen = [rigged.worker.has_unread]
        rigged.worker.send(Assign(job_id="job", callback_url="http://x", deadline=1.0, body=b"x" * 300_000))
        seen.append(rigged.worker.has_unread)
        while rigged.reads():
            await nothing_moves()
        seen.append(rigged.worker.has_unread)
        rigged.worker.send(Callback(job_id="job"))
        seen.append(rigged.worker.has_unread)
    assert (*seen, rigged.worker.has_unread) == (False, True, False, True, False)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_what_a_worker_wrote_before_its_end_is_heard_before_its_end(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The report of the end may overtake the last messages: these are read first, with every event loop."""

    async def ended_at_once() -> list[FromWorker | str]:
        with rig() as one:
            one.says(ANSWERED)
            one.worker.on_status(0)  # before the loop has checked the pipe
            return one.handler.heard

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(ended_at_once()) == [ANSWERED, "it exited with code 0"]


async def test_half_a_message_before_the_end_is_no_message() -> None:
    """A worker that dies while it writes has sent nothing."""
    with rig() as one:
        one.writes(frame(encode(ANSWERED))[:-1])
        one.worker.on_status(-9)
        assert one.handler.heard == ["it was killed by SIGKILL"]


async def test_the_end_is_reported_once() -> None:
    """However often it is noticed."""
    with rig() as one:
        one.worker.on_ended()
        one.worker.on_status(1)
        one.worker.on_status(1)
        one.worker.on_ended()
        assert one.handler.heard == ["it exited with code 1"]
        assert one.exits == [one.worker]
        assert one.worker.gone


async def test_the_end_closes_all_descriptors() -> None:
    """Each worker has three."""
    with rig() as one:
        one.worker.on_ended()
        one.worker.on_status(1)
        assert os.read(one.inbox, 1) == b"", "nobody else can write there"
        for fd in (one.outbox, one.alive):
            with pytest.raises(BrokenPipeError):
                os.write(fd, b"x")


async def test_a_message_about_another_job_is_old_news() -> None:
    """The current job does not get it; lines for the log are always accepted."""
    with rig() as one:
        line = Log(level="info", event="hello", job_id="former")
        one.says(Progress(job_id="former", event=Event.CONNECTED), line, Progress(job_id="job", event=Event.REFUSED))
        one.worker.on_status(0)
        assert one.handler.heard[:-1] == [Progress(job_id="job", event=Event.REFUSED)]
        assert one.logs == [line]


@pytest.mark.parametrize(
    "nonsense",
    [struct.pack("!i", -1), struct.pack("!i", 1 << 30), frame(b"not a message"), frame(b'["Forked",1]')],
    ids=["negative length", "over the cap", "garbage", "wrong direction"],
)
async def test_nonsense_ends_the_conversation(nonsense: bytes) -> None:
    """Messages before it count, later ones do not, whenever they are read, and the reason is reported."""
    with rig() as one:
        one.writes(frame(encode(Progress(job_id="job", event=Event.CONNECTED))) + nonsense + frame(encode(ANSWERED)))
        one.worker.kill = lambda: None  # type: ignore[method-assign] # its process is this test
        for _ in range(2):
            await nothing_moves()
            one.says(ANSWERED)
        one.worker.on_status(0)
        first, reason = one.handler.heard
        assert first == Progress(job_id="job", event=Event.CONNECTED)
        assert isinstance(reason, str)
        assert reason.endswith("and was killed")


async def test_a_worker_that_never_ends_to_log_is_killed() -> None:
    """It would fill the log, and the event loop would do little else."""
    with rig() as one:
        killed: list[bool] = []
        one.worker.kill = lambda: killed.append(True)  # type: ignore[method-assign] # its process is this test
        line = Log(level="error", event="unhandled exception in a worker")
        for _ in range(101):
            one.says(*[line] * 10)
            await nothing_moves()
        assert (len(one.logs), killed) == (1_000, [True])
        one.worker.on_status(-9)
        assert one.handler.heard == ["it sent more than 1000 lines for the log and was killed"]


async def test_a_full_pipe_never_blocks_and_loses_nothing() -> None:
    """A stopped worker reads nothing; when it continues, all bytes are there, in order."""
    with rig() as one:
        body = b"x" * 300_000
        messages: list[Assign | Callback] = [
            Callback(job_id="job"),
            Assign(job_id="job", callback_url="http://x", deadline=1.0, body=body),
            Assign(job_id="job", callback_url="http://x", deadline=1.0, body=b"last"),
        ]
        for message in messages[:2]:
            one.worker.send(message)
        received = one.reads()
        one.worker.send(messages[2])  # there is room, but others are before it
        async with asyncio.timeout(IN_VAIN_S):
            while not received.endswith(b"last\x94."):
                received += one.reads()
                await nothing_moves()
        for message in messages:
            assert encode(message) in received


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EPIPE])
async def test_a_worker_that_cannot_be_told_is_killed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has no memory for a message, or a library has closed the inbox: it would wait until the deadline."""
    with rig() as one:
        killed: list[bool] = []
        one.worker.kill = lambda: killed.append(True)  # type: ignore[method-assign] # its process is this test

        def fail(_fd: int, _data: bytes) -> int:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            one.worker.send(Callback(job_id="job"))
            await nothing_moves()
        assert killed == [True]


async def test_a_worker_that_is_gone_takes_nothing() -> None:
    """Sending to it is no error: its end is handled elsewhere."""
    with rig() as one:
        one.worker.on_status(-11)
        os.close(one.inbox)
        one.inbox = -1
        one.worker.send(Callback(job_id="job"))
        one.worker.stop()
        one.worker.kill()
        one.worker.retire()
        assert one.handler.heard == ["it was killed by SIGSEGV"]


async def test_a_worker_whose_messages_wait_for_room_leaves_nothing_in_the_event_loop() -> None:
    """The next worker's inbox may get the same number."""
    with rig() as one:
        one.worker.send(Assign(job_id="job", callback_url="http://x", deadline=1.0, body=b"x" * 300_000))
        loop = asyncio.get_running_loop()
        inbox_fd = one.worker._inbox_fd  # noqa: SLF001 - its number
        one.worker.on_status(-9)
        assert not loop.remove_writer(inbox_fd)


async def test_a_body_may_be_as_large_as_the_limit() -> None:
    """The rest of the message does not count."""
    with rig() as one:
        told = Told(job_id="job", call="outcome", kind="succeeded", body=b"x" * _MAX_BODY_BYTES)
        one.says(told)
        one.worker.on_status(0)
        assert one.handler.heard[0] == told


async def test_a_worker_that_does_not_leave_is_told_to_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inbox ends first, which is enough for one that is healthy."""
    signals: list[int] = []
    with rig() as one:
        monkeypatch.setattr(one.worker, "_signal", signals.append)
        one.worker.retire()
        assert one.worker.stopping
        assert os.read(one.inbox, 1) == b""
        for sent in ([], [signal.SIGTERM], [signal.SIGTERM, signal.SIGKILL]):
            assert signals == sent
            await time_passes(GRACE_S)


async def test_a_worker_that_was_reaped_can_be_signalled() -> None:
    """The fork server has reaped it, and its report is on its way."""
    with rig() as one, contextlib.ExitStack() as stack:
        process = subprocess.Popen(["true"])
        pidfd = os.pidfd_open(process.pid)
        stack.callback(os.close, pidfd)
        process.wait()
        real, one.worker._pidfd = one.worker._pidfd, pidfd  # noqa: SLF001 - as if it was the worker's
        one.worker.stop()
        one.worker.kill()
        one.worker._pidfd = real  # noqa: SLF001 - as it was
        assert not one.worker.gone
