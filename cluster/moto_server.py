"""moto's server, with a lock that it lacks: `python -m cluster.moto_server`, with the same options.

A deletion makes the list of messages anew. Without the lock, two at once bring a deleted message back, and one that is
sent meanwhile may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.server import main
from moto.sqs.models import Queue

__all__ = ["locked"]


def locked(method: Callable[..., None]) -> Callable[..., None]:
    """Return a queue's `method`, run with the lock that sending and receiving take."""

    def run(queue: Any, *arguments: Any) -> None:  # noqa: ANN401 - moto's own
        with queue._messages_lock:  # noqa: SLF001 - there is no other
            method(queue, *arguments)

    return run


if __name__ == "__main__":
    Queue.delete_message = locked(Queue.delete_message)  # type: ignore[method-assign]
    main()
