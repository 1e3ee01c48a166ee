"""The log: structlog, one line an event; readable on a terminal, JSON elsewhere.

Lines are written by a thread from a bounded queue: a reader of our output that stops reading, or a full disk, may cost
lines (their number is logged when it is over), but never stops the event loop.
"""

from __future__ import annotations

import queue
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

from shared.lifecycle import State
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.job import Job
    from proxy.workers import Worker
    from shared.messages import Log

__all__ = ["LineWriter", "configure", "event", "job_line", "worker_line"]

_MAX_LINES: Final = 10_000
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineWriter:
    """Writes lines from a thread of its own; drops them while the output takes none."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_LINES)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Write `line`, soon."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    debug = info = warning = error = critical = msg

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for at most `timeout_s`."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._output.write(line + "\n")
                if self._lines.empty():
                    self._output.flush()
            except (OSError, ValueError):  # nowhere to write to; the proxy goes on without a log
                self.dropped += 1


def configure(log_format: str, level: str, output: TextIO = sys.stderr) -> LineWriter:
    """Set the log up; return its writer, to be closed at the end."""
    console = log_format == "console" or (log_format == "auto" and output.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=output.isatty()) if console else structlog.processors.JSONRenderer()
    )
    writer = LineWriter(output)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    return writer


_log: Any = structlog.get_logger()


def event(level: str, what: str, **fields: object) -> None:
    """Log one event."""
    getattr(_log, level)(what, **fields)


def worker_line(worker: Worker, line: Log) -> None:
    """Log what a worker has to say."""
    level = line.level if line.level in _LEVELS else "error"
    event(level, line.event, worker_pid=worker.pid, job_id=line.job_id)


def job_line(job: Job, outcome: Outcome) -> None:
    """Log a job's end: one line a job."""
    accepted = job.reached[State.ACCEPTED]
    times = {f"{state}_ms": round((at - accepted) * 1000, 1) for state, at in job.reached.items() if at != accepted}
    if isinstance(outcome, Failed):
        event(
            "warning",
            "job failed",
            job_id=job.id,
            worker_pid=job.worker_pid,
            code=str(outcome.code),
            submitted=str(outcome.submitted),
            detail=outcome.detail,
            **times,
        )
    else:
        event("info", "job succeeded", job_id=job.id, worker_pid=job.worker_pid, submitted="yes", **times)
