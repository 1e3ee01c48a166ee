"""Records of jobs that never were."""

from __future__ import annotations

import hashlib
import itertools
import time
from typing import Any, Final

from proxy.store.record import Record
from shared.lifecycle import State

__all__ = ["a_record", "finished"]

_numbers: Final = itertools.count(1)


def a_record(**members: Any) -> Record:
    """Return the record of a job that was just accepted, except for `members`."""
    number = next(_numbers)
    now = time.time()
    usual: dict[str, Any] = {
        "id": f"{number:032x}",
        "token_hash": hashlib.sha256(b"token %d" % number).digest(),
        "state": State.ACCEPTED,
        "accepted_at": now,
        "deadline_at": now + 30,
    }
    return Record(**(usual | members))


def finished(**members: Any) -> Record:
    """Return the record of a job whose callback has come, except for `members`."""
    usual: dict[str, Any] = {
        "state": State.FINISHED,
        "finished_at": time.time(),
        "callback": b'{"state": "completed"}',
    }
    return a_record(**(usual | members))
