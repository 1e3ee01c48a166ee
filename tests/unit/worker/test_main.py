"""A worker's outermost layer: whatever a bug raises, the job is answered and the log says where."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.errors import Code, UnavailableError
from shared.lifecycle import Event
from shared.messages import (
    Answered,
    Ask,
    Assign,
    Callback,
    Failure,
    FrameReader,
    FromWorker,
    Log,
    MayRetry,
    Progress,
    Retry,
    Told,
    ToWorker,
    decode_from_worker,
    encode,
    queue_frame,
)
from tests.support.waiting import IN_VAIN_S
from worker.job_client import JobServers
from worker.main import Worker
from worker.pipes import Inbox, Outbox


class _Client:
    """Submits as the test says."""

    def __init__(self, submit: Callable[[Callable[[Event], None]], Any]) -> None:
        self._submit = submit

    async def submit(
        self, _job: Assign, on_event: Callable[[Event], None], before_retry: Callable[[], Awaitable[None]]
    ) -> Any:  # noqa: ANN401 - any result
        """Submit."""
        self.before_retry = before_retry
        return await self._submit(on_event)


class _Stage:
    """A worker and both ends of its pipes."""

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._reports, self._outbox = os.pipe()
        os.set_blocking(self._reports, False)
        self._frames = FrameReader(100_000)
        self.heard: list[FromWorker] = []
        self._life: asyncio.Task[None] | None = None

    def start(
        self,
        submit: Callable[[Callable[[Event], None]], Any],
        *,
        max_jobs: int = 0,
        linger_s: float = 0.0,
        finds_lost_jobs: bool = False,
    ) -> asyncio.Task[None]:
        """Run a worker whose client submits by `submit`, and whose calls all fail."""
        self.client = _Client(submit)
        config = SimpleNamespace(lost_reply_wait_s=0)
        servers = SimpleNamespace(
            client=lambda *_: self.client, asker=_bug, config=config, finds_lost_jobs=lambda _: finds_lost_jobs
        )
        worker = Worker(cast("JobServers", servers), Outbox(self._outbox), max_jobs, linger_s)
        self._life = asyncio.ensure_future(worker.serve(self._inbox))
        return self._life

    def tell(self, message: ToWorker) -> None:
        """Send a message to the worker."""
        os.write(self._inbox.writer_fileno(), queue_frame(encode(message)))

    async def hear(self, kind: type[Any]) -> Any:  # noqa: ANN401 - one of `kind`
        """Wait for the worker's next message of this kind."""
        while True:
            for at, message in enumerate(self.heard):
                if isinstance(message, kind):
                    return self.heard.pop(at)
            try:
                self.heard += [decode_from_worker(one) for one in self._frames.feed(os.read(self._reports, 65_536))]
            except BlockingIOError:
                await asyncio.sleep(0.001)

    def is_watched(self) -> bool:
        """Return whether the worker was still waiting for messages; from now on, it is not."""
        return asyncio.get_running_loop().remove_reader(self._inbox.fileno())

    async def die(self) -> None:
        """Let the front end end, and the worker notice it."""
        self._inbox.close_writer()
        os.close(self._reports)
        self._reports = os.open(os.devnull, os.O_RDONLY)
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Close everything."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
            asyncio.get_running_loop().remove_reader(self._inbox.fileno())
        self._inbox.close_writer()
        self._inbox.close()
        os.close(self._reports)
        os.close(self._outbox)


@pytest.fixture
async def stage() -> AsyncIterator[_Stage]:
    """A stage that is closed at the end of the test."""
    made = _Stage()
    yield made
    await made.close()


async def _never(_: Callable[[Event], None]) -> None:
    """Submit for ever."""
    await asyncio.Event().wait()


def _bug(*_: object) -> Any:  # noqa: ANN401 - it returns nothing
    token = "a-secret-token"
    raise OverflowError(token)


def _job() -> Assign:
    return Assign(job_id="j", callback_url="http://x/t", deadline=time.monotonic() + 20, body=b"{}")


async def test_an_unforeseen_exception_becomes_an_outcome_and_ends_the_worker(stage: _Stage) -> None:
    """The front end adds `submitted`; the worker ends, because it may be in any state after the exception."""

    async def submit(on_event: Callable[[Event], None]) -> None:
        on_event(Event.CONNECTED)
        _bug()

    life = stage.start(submit)
    stage.tell(_job())
    failure = await stage.hear(Failure)
    assert (failure.job_id, failure.code) == ("j", Code.INTERNAL_ERROR)
    assert failure.detail == "unhandled exception in a worker: OverflowError"
    with pytest.raises(OverflowError):
        await life


async def test_a_callback_outweighs_an_exception_of_the_submission(stage: _Stage) -> None:
    """The job gets its result; the log has the exception."""
    called = asyncio.Event()

    async def submit(_: Callable[[Event], None]) -> None:
        try:
            await called.wait()
        finally:
            _bug()

    stage.start(submit)
    stage.tell(_job())
    stage.tell(Callback(job_id="j"))
    assert (await stage.hear(Answered)).job_id == "j"
    line = await stage.hear(Log)
    assert line.event == "unhandled exception in a worker"


async def test_what_is_for_another_job_is_ignored(stage: _Stage) -> None:
    """A reused worker may get a callback, or the permit of a retry, for its former job."""

    async def submit(on_event: Callable[[Event], None]) -> None:
        await stage.client.before_retry()
        on_event(Event.CONNECTED)
        await asyncio.Event().wait()

    async def has_read() -> None:
        """Wait until the worker has read what came before: it answers a call after that."""
        stage.tell(Ask(job_id="j", profile="", call="status", values="{}", deadline=time.monotonic() + 20))
        await stage.hear(Told)

    stage.start(submit)
    stage.tell(_job())
    await stage.hear(MayRetry)
    for message in (Callback(job_id="former"), Retry(job_id="former")):
        stage.tell(message)
        await has_read()
        assert not [one for one in stage.heard if not isinstance(one, Log)]
    stage.tell(Callback(job_id="j"))
    assert (await stage.hear(Answered)).job_id == "j"


async def test_a_call_that_raises_is_answered(stage: _Stage) -> None:
    """The caller does not wait forever, and the log says where it was raised, without the message."""
    stage.start(_never)
    stage.tell(Ask(job_id="j", profile="", call="status", values="{}", deadline=time.monotonic() + 20))
    told = await stage.hear(Told)
    assert (told.kind, told.error) == ("unavailable", "unhandled exception in a worker: OverflowError")
    line = await stage.hear(Log)
    assert (line.level, line.event) == ("error", "unhandled exception in a worker")
    assert line.at.startswith("tests/unit/worker/test_main.py:")
    assert " _bug < worker/main.py:" in line.at
    assert "secret" not in line.at + line.event


async def test_a_submission_is_sent_again_when_the_front_end_lets_it(stage: _Stage) -> None:
    """Permission is requested each time; one for another job has no effect."""

    async def submit(_: Callable[[Event], None]) -> None:
        await stage.client.before_retry()
        await stage.client.before_retry()
        raise UnavailableError("twice", refused=True)

    stage.start(submit)
    stage.tell(_job())
    for _ in range(2):
        assert (await stage.hear(MayRetry)).job_id == "j"
        stage.tell(Retry(job_id="another"))
        stage.tell(Retry(job_id="j"))
    assert (await stage.hear(Failure)).detail == "twice"


@pytest.mark.parametrize("linger_s", [0.0, IN_VAIN_S])
async def test_a_submission_in_progress_outlives_the_front_end_if_it_may(stage: _Stage, linger_s: float) -> None:
    """With a journal, the next front end waits for the job's callback; without one, nobody does."""
    reply, ends = asyncio.Event(), list[str]()

    async def submit(on_event: Callable[[Event], None]) -> None:
        on_event(Event.CONNECTED)
        try:
            await reply.wait()
            on_event(Event.REFUSED)
            ends.append("replied")
        except asyncio.CancelledError:
            ends.append("aborted")
            raise
        raise UnavailableError("no", refused=True)

    life = stage.start(submit, linger_s=linger_s)
    stage.tell(_job())
    await stage.hear(Progress)
    await stage.die()
    assert life.done() is not bool(linger_s)
    assert not stage.is_watched(), "the end of the inbox would be read again and again"
    reply.set()
    with pytest.raises(EOFError):
        await life
    assert ends == ["replied" if linger_s else "aborted"]


@pytest.mark.parametrize("is_found", [False, True])
async def test_a_lost_reply_fails_a_job_unless_the_front_end_can_find_it(stage: _Stage, *, is_found: bool) -> None:
    """Then it asks the job server, and the worker waits for what comes of that."""
    lost = asyncio.Event()

    async def submit(_: Callable[[Event], None]) -> None:
        lost.set()
        raise UnavailableError("it broke", lost_reply=True)

    stage.start(submit, finds_lost_jobs=is_found)
    stage.tell(_job())
    await lost.wait()
    if is_found:
        stage.tell(Callback(job_id="j"))
        await stage.hear(Answered)
        assert not stage.heard
    else:
        assert (await stage.hear(Failure)).detail == "it broke"


async def test_a_callback_ends_a_submission_at_once(stage: _Stage) -> None:
    """The job server may reply only after the job; the time for a front end that is gone is not for this."""
    stage.start(_never, linger_s=IN_VAIN_S)
    stage.tell(_job())
    stage.tell(Callback(job_id="j"))
    assert (await asyncio.wait_for(stage.hear(Answered), IN_VAIN_S / 2)).job_id == "j"


@pytest.mark.parametrize(("max_jobs", "collects"), [(0, True), (2, True), (1, False)])
async def test_a_worker_that_is_used_again_collects_its_garbage(
    stage: _Stage, max_jobs: int, *, collects: bool
) -> None:
    """It is forked with the collection off, and its memory would grow with each job."""
    gc.disable()
    try:
        stage.start(_never, max_jobs=max_jobs)
        await asyncio.sleep(0)
        assert gc.isenabled() is collects
    finally:
        gc.enable()
