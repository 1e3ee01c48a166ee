"""A worker's inbox: a `multiprocessing.Queue` of its own, whose other end is the front end's event loop.

`Queue.put` starts a feeder thread in the process that calls it: one thread for each worker, and one that hangs for
ever where the worker is stopped and the message larger than the pipe. So the front end writes the queue's own frames
into its pipe itself, without blocking (shared/frames.py), and the worker gets them from the queue as from any other.
What `put` would have done besides, taking one of the queue's slots, `Inbox.get` does on arrival.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.queues
from typing import TYPE_CHECKING, Any

from shared.messages import Assign, Callback, decode_to_worker

__all__ = ["Inbox", "Post"]


if TYPE_CHECKING:
    _Queue = multiprocessing.queues.Queue[bytes]
else:  # generic for the type checker only, before Python 3.12
    _Queue = multiprocessing.queues.Queue


class Inbox(_Queue):
    """A queue with one reader, the worker, and one writer that is not `put`."""

    _reader: Any
    _writer: Any
    _sem: Any

    def __init__(self) -> None:
        """Make the queue; must run in the process that forks the worker."""
        super().__init__(ctx=multiprocessing.get_context("fork"))

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:  # noqa: FBT001, FBT002 - as in Queue
        """Return the next message's bytes; raise EOFError when the front end is gone."""
        self._sem.acquire(False)  # noqa: FBT003 - the slot that `put` would have taken; `Queue.get` gives it back
        return super().get(block, timeout)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a message comes."""
        fd: int = self._reader.fileno()
        return fd

    def writer_fileno(self) -> int:
        """Return the descriptor of the writing end, which the front end gets."""
        fd: int = self._writer.fileno()
        return fd

    def close_writer(self) -> None:
        """Close this process's copy of the writing end, so that the front end's end is noticed."""
        self._writer.close()

    def close_reader(self) -> None:
        """Close this process's copy of the reading end, so that the worker's end is noticed."""
        self._reader.close()


class Post:
    """Sorts what arrives in the inbox: one assignment at a time, and the callback for that very job."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._assignment: asyncio.Future[Assign] = self._loop.create_future()
        self._callback: asyncio.Future[bytes] = self._loop.create_future()
        self._job_id = ""
        self._loop.add_reader(inbox.fileno(), self._on_readable)

    async def assignment(self) -> tuple[Assign, asyncio.Future[bytes]]:
        """Wait for a job; return it with the future of its callback's body.

        Both raise EOFError when the front end is gone.
        """
        assign = await self._assignment
        self._assignment = self._loop.create_future()
        return assign, self._callback

    def _on_readable(self) -> None:
        try:
            message = decode_to_worker(self._inbox.get())
        except (EOFError, OSError) as exc:
            self._loop.remove_reader(self._inbox.fileno())
            for future in (self._assignment, self._callback):
                if not future.done():
                    future.set_exception(EOFError("the front end is gone"))
                    future.exception()  # one of the two is awaited; the other's is not an error
            del exc
            return
        match message:
            case Assign():
                self._job_id = message.job_id
                self._callback = self._loop.create_future()
                self._assignment.set_result(message)
            case Callback():
                # A callback for a job this worker had earlier, or a second one, concerns nobody here.
                if message.job_id == self._job_id and not self._callback.done():
                    self._callback.set_result(message.body)
