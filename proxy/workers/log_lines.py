"""Log lines about workers, and log messages from workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy import log
from shared.lifecycle import State

if TYPE_CHECKING:
    from proxy.workers.worker import Worker
    from shared.messages import Log

__all__ = ["worker_line"]

#: How many characters of a worker's message are logged.
_MAX_WORDS: Final = 1_000


def worker_line(worker: Worker, line: Log) -> None:
    """Log a message of a worker."""
    level = line.level if line.level in log.LEVELS else "error"
    fields: dict[str, object] = {"worker_pid": worker.pid}
    if line.job_id:
        handler = worker.handler
        at_it = handler is not None and handler.job_id == line.job_id
        fields |= {"job_id": line.job_id, "state": handler.state_name if handler and at_it else str(State.FINISHED)}
    if line.at:
        fields["at"] = line.at[:_MAX_WORDS]
    log.event(level, line.event[:_MAX_WORDS], source="worker", **fields)
