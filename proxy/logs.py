"""The log: structlog, one line an event; readable on a terminal, JSON elsewhere.

Lines are written by a thread from a bounded queue: a reader of our output that stops reading, or a full disk, may cost
lines (their number is counted), but never stops the event loop.

No line holds a token, a key or a body. No value can look like another line: JSON escapes what is not printable, and so
does the console.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

from proxy.phases import phases
from shared.lifecycle import Event, State
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.job import Job
    from proxy.workers import Worker
    from shared.messages import Log

__all__ = ["LineWriter", "configure", "dropped_lines", "event", "job_event", "job_line", "worker_line"]

_MAX_LINES: Final = 10_000
#: Lines that are written at once.
_BATCH: Final = 500
#: How long lines are gathered before they are written.
_GATHER_S: Final = 0.02
#: Of what a worker says, at most so many characters are logged.
_MAX_WORDS: Final = 1_000
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineWriter:
    """Writes lines from a thread of its own; drops them while the output takes none."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        #: How many lines were lost.
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Write `line`, soon."""
        if self._lines.qsize() < _MAX_LINES:
            self._lines.put(line)
        else:
            self.dropped += 1

    debug = info = warning = error = critical = msg

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for at most `timeout_s`."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        ended = False
        while not ended:
            lines, ended = self._take()
            if lines:
                self._write(lines)

    def _take(self) -> tuple[list[str], bool]:
        """Wait for lines; return those there are, and whether they are the last."""
        lines: list[str] = []
        while (line := self._lines.get()) is not None:
            if not lines:
                time.sleep(_GATHER_S)  # a wake-up for each line would take the interpreter from the event loop
            lines.append(line)
            if len(lines) == _BATCH or self._lines.empty():
                return lines, False
        return lines, True

    def _write(self, lines: list[str]) -> None:
        try:
            self._output.write("\n".join(lines) + "\n")
            self._output.flush()
        except (OSError, ValueError):  # nowhere to write to; the proxy goes on without a log
            self.dropped += len(lines)


def configure(log_format: str, level: str, output: TextIO = sys.stderr) -> LineWriter:
    """Set the log up; return its writer, to be closed at the end."""
    console = log_format == "console" or (log_format == "auto" and output.isatty())
    renderers: list[Any] = [_escape, structlog.dev.ConsoleRenderer(colors=output.isatty())] if console else [_json]
    writer = LineWriter(output)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: writer,
    )
    _current.log = structlog.get_logger().bind()
    _current.writer = writer
    return writer


def dropped_lines() -> int:
    """Return how many lines were lost because the output did not take them."""
    return _current.writer.dropped if _current.writer is not None else 0


class _Current:
    """Where events go: bound once, as binding costs more than writing."""

    log: Any = structlog.get_logger()
    writer: LineWriter | None = None


_current: Final = _Current()


_encoder: Final = json.JSONEncoder(default=str)


def _json(_logger: object, _method: str, fields: structlog.typing.EventDict) -> str:
    return _encoder.encode(fields)


def _escape(_logger: object, _method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Make what could move a terminal's cursor, or look like another line, visible; JSON does that by itself."""
    return {name: _visible(value) for name, value in fields.items()}


def _visible(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def event(level: str, what: str, **fields: object) -> None:
    """Log one event."""
    getattr(_current.log, level)(what, **fields)


def job_event(level: str, what: str, job: Job, **fields: object) -> None:
    """Log one event in the life of `job`."""
    getattr(_current.log, level)(what, job_id=job.id, worker_pid=job.worker_pid or None, state=job.state, **fields)


def worker_line(worker: Worker, line: Log) -> None:
    """Log what a worker has to say."""
    level = line.level if line.level in _LEVELS else "error"
    fields: dict[str, object] = {"worker_pid": worker.pid}
    if line.job_id:
        handler = worker.handler
        at_it = handler is not None and handler.job_id == line.job_id
        fields |= {"job_id": line.job_id, "state": handler.state_name if handler and at_it else str(State.FINISHED)}
    event(level, line.event[:_MAX_WORDS], source="worker", **fields)


def job_line(job: Job, outcome: Outcome, durations: dict[str, float] | None = None) -> None:
    """Log a job's end: one line a job, with where its time went, in milliseconds. `durations`: phases(job)."""
    finished = job.reached.get(State.FINISHED, time.monotonic())
    spent = phases(job) if durations is None else durations
    fields: dict[str, object] = {f"{phase}_ms": round(duration_s * 1000, 1) for phase, duration_s in spent.items()}
    if job.adopted:
        fields["adopted"] = True
    else:
        fields["total_ms"] = round((finished - job.reached[State.ACCEPTED]) * 1000, 1)
    refusals = sum(1 for _, what in job.life if what is Event.REFUSED)
    if refusals:
        fields["refusals"] = refusals
    if isinstance(outcome, Failed):
        code, submitted = str(outcome.code), str(outcome.submitted)
        job_event("warning", "job failed", job, outcome=code, submitted=submitted, detail=outcome.detail, **fields)
    else:
        job_event("info", "job succeeded", job, outcome="succeeded", submitted="yes", **fields)
