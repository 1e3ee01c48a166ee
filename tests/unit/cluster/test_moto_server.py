"""The stand-in for Amazon SQS."""

from __future__ import annotations

from threading import RLock
from types import SimpleNamespace

from cluster.moto_server import locked, polling


def test_a_message_is_deleted_while_no_other_thread_changes_the_queue() -> None:
    """Otherwise deleted messages come back, as two deletions run at once."""
    lock = RLock()
    alone = []

    def delete(_queue: object, handle: str) -> None:
        alone.append((handle, "owner=0 " not in repr(lock)))

    locked(delete)(SimpleNamespace(_messages_lock=lock), "handle")
    assert alone == [("handle", True)]
    assert "owner=0 " in repr(lock)


def test_a_receiver_at_a_fifo_queue_gets_what_becomes_free_while_it_waits() -> None:
    """Moto itself would look at the groups as they were when it came."""
    waits = []

    def receive(_backend: object, _name: str, _count: int, wait_s: int) -> list[str]:
        waits.append(wait_s)
        return ["free"] if len(waits) == 3 else []

    for fifo in (True, False):
        backend = SimpleNamespace(get_queue=lambda _, fifo=fifo: SimpleNamespace(fifo_queue=fifo))
        found = polling(receive)(backend, "queue", 1, 20)
        assert found == (["free"] if fifo else [])
    assert waits == [0, 0, 0, 20]
