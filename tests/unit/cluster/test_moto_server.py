"""The stand-in for Amazon SQS."""

from __future__ import annotations

from threading import RLock
from types import SimpleNamespace

from cluster.moto_server import locked


def test_a_message_is_deleted_while_no_other_thread_changes_the_queue() -> None:
    """Otherwise deleted messages come back, as two deletions run at once."""
    lock = RLock()
    alone = []

    def delete(_queue: object, handle: str) -> None:
        alone.append((handle, "owner=0 " not in repr(lock)))

    locked(delete)(SimpleNamespace(_messages_lock=lock), "handle")
    assert alone == [("handle", True)]
    assert "owner=0 " in repr(lock)
