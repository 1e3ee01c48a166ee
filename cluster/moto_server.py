"""moto's server without two of its bugs: `python -m cluster.moto_server`, with the same options.

A deletion makes the list of messages anew. Without a lock, two at once bring a deleted message back, and one that is
sent meanwhile may be lost.

A receiver that waits at a FIFO queue does not notice that a group's message was deleted and the next one is free, and
uses a whole CPU while it waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["locked", "polling"]

#: How often to look at a FIFO queue.
_LOOK_S: Final = 0.05


def locked(method: Callable[..., None]) -> Callable[..., None]:
    """Return a queue's `method`, run with the lock that sending and receiving take."""

    def run(queue: Any, *arguments: Any) -> None:  # noqa: ANN401 - moto's own
        with queue._messages_lock:  # noqa: SLF001 - there is no other
            method(queue, *arguments)

    return run


def polling(receive: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Return a backend's `receive_message`, which waits at a FIFO queue by looking again and again."""

    def run(backend: Any, queue_name: str, count: int, wait_s: int, *arguments: Any) -> list[Any]:  # noqa: ANN401 - moto's own
        if not backend.get_queue(queue_name).fifo_queue:
            return receive(backend, queue_name, count, wait_s, *arguments)
        end = time.monotonic() + wait_s
        while not (found := receive(backend, queue_name, count, 0, *arguments)) and time.monotonic() < end:
            time.sleep(_LOOK_S)
        return found

    return run


if __name__ == "__main__":
    from moto.server import main
    from moto.sqs.models import Queue, SQSBackend

    SQSBackend.receive_message = polling(SQSBackend.receive_message)  # type: ignore[method-assign]
    Queue.delete_message = locked(Queue.delete_message)  # type: ignore[method-assign]
    main()
