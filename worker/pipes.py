"""A worker's two pipes: the inbox, from which it gets its jobs, and the outbox, through which it reports.

The inbox is a separate `multiprocessing.Queue`, whose other end belongs to the front end's event loop.

`Queue.put` starts a feeder thread in the calling process: one for each worker, and one that hangs forever if the worker
is stopped and the message is larger than the pipe. So the front end writes the queue's frames into its pipe itself,
without blocking (shared/messages.py), and the worker reads them from the queue as usual.

A queue has three semaphores, for several readers, several writers and a limit. This one has one reader, one writer and
no limit, so it needs none: a lock is temporarily a name in /dev/shm, and a mapping in every worker; in a queue that is
created before the fork, it would also be shared by all workers.
"""

from __future__ import annotations

import asyncio
import multiprocessing.context
import multiprocessing.queues
import os
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shared.messages import Ask, Assign, Callback, Retry, decode_to_worker, frame

__all__ = ["Inbox", "Outbox", "Post"]


if TYPE_CHECKING:
    _Queue = multiprocessing.queues.Queue[bytes]
else:  # generic only for the type checker before Python 3.12
    _Queue = multiprocessing.queues.Queue


class _NoLocks(multiprocessing.context.ForkContext):
    """Replaces the queue's locks, which are not needed: nobody calls `put`, and `get` is overridden."""

    def Lock(self) -> Any:  # noqa: ANN401, N802 - as in BaseContext
        return None

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: ANN401, ARG002, N802 - as in BaseContext
        return None


class Inbox(_Queue):
    """A queue with one reader, the worker, and one writer, which does not use `put`."""

    _reader: Any
    _writer: Any

    def __init__(self) -> None:
        super().__init__(ctx=_NoLocks())
        self._fd: int = self._reader.fileno()

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:  # noqa: ARG002, FBT001, FBT002 - as in Queue
        """Wait for the next message and return its bytes. Raises EOFError when the front end is gone."""
        # The part of Queue.get between the locks.
        message: bytes = pickle.loads(self._reader.recv_bytes())  # noqa: S301 - from the front end
        return message

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a message arrives."""
        return self._fd

    def writer_fileno(self) -> int:
        """Return the descriptor of the write end."""
        fd: int = self._writer.fileno()
        return fd

    def close_writer(self) -> None:
        """Close the write end, so that the reader sees EOF when the other holder of it is gone."""
        self._writer.close()


class Outbox:
    """The write end of a pipe that the front end reads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor of the write end."""
        return self._fd

    def send_bytes(self, payload: bytes) -> None:
        """Write one message; wait if the pipe is full. Raises BrokenPipeError if the front end is gone."""
        data = frame(payload)
        while data:
            data = data[os.write(self._fd, data) :]


class Post:
    """Sorts what arrives in the inbox: one assignment at a time, and the callback for that same job."""

    def __init__(self, inbox: Inbox, on_ask: Callable[[Ask], None], on_retry: Callable[[Retry], None]) -> None:
        """`on_ask` gets the calls to make in parallel, `on_retry` the permitted retries."""
        self._inbox = inbox
        self._on_ask = on_ask
        self._on_retry = on_retry
        self._loop = asyncio.get_running_loop()
        self._assignment: asyncio.Future[Assign] = self._loop.create_future()
        self._callback: asyncio.Future[None] = self._loop.create_future()
        self._job_id = ""
        self._loop.add_reader(inbox.fileno(), self._on_readable)
        # uvloop makes descriptors that it watches non-blocking. `get` waits for the rest of a message larger than a
        # pipe.
        os.set_blocking(inbox.fileno(), True)

    async def assignment(self) -> tuple[Assign, asyncio.Future[None]]:
        """Wait for a job; return it with the future of its callback.

        Both raise EOFError when the front end is gone.
        """
        assign = await self._assignment
        self._assignment = self._loop.create_future()
        return assign, self._callback

    def _on_readable(self) -> None:
        try:
            message = decode_to_worker(self._inbox.get())
        except (EOFError, OSError):
            self._loop.remove_reader(self._inbox.fileno())
            for future in (self._assignment, self._callback):
                if not future.done():
                    future.set_exception(EOFError("the front end is gone"))
                    future.exception()  # only one of the two is awaited; the other one's exception is expected
            return
        match message:
            case Assign():
                self._job_id = message.job_id
                self._callback = self._loop.create_future()
                self._assignment.set_result(message)
            case Ask():
                self._on_ask(message)
            case Retry():
                self._on_retry(message)
            case Callback():
                # A repeated callback, or one for an earlier job of this worker, is ignored.
                if message.job_id == self._job_id and not self._callback.done():
                    self._callback.set_result(None)
