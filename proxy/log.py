"""The log: structlog, one line per event; readable on a terminal, JSON otherwise.

A thread writes the lines from a bounded queue: a reader that stops reading, or a full disk, may cost lines (they are
counted), but never blocks the event loop. This file knows nothing about jobs: the lines about jobs and workers are in
log_lines.py of their folders.

No line contains a token, a key or a body. No value can look like another line: JSON and the console format both escape
what is not printable.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import sys
import threading
import time
from typing import Any, Final, TextIO

import structlog

from proxy.log_counts import LogCounts
from shared.stack import origin

__all__ = [
    "LEVELS",
    "LineWriter",
    "configure",
    "counts",
    "dropped_lines",
    "event",
    "exception_fields",
    "on_thread_error",
    "shown",
]

_MAX_LINES: Final = 10_000
#: How many lines are written at once.
_BATCH: Final = 500
#: How long lines are collected before they are written.
_GATHER_S: Final = 0.02
#: How much is logged of what others say.
_SHOWN: Final = 1_000
#: A callback token, or anything as long in the same alphabet.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{40,}")
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineWriter:
    """Writes lines in its own thread; drops them while the output blocks."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        #: How many lines were dropped.
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
        """Wait for lines; return them, and whether they are the last."""
        lines: list[str] = []
        while (line := self._lines.get()) is not None:
            if not lines:
                time.sleep(_GATHER_S)  # waking up for each line would take the GIL from the event loop
            lines.append(line)
            if len(lines) == _BATCH or self._lines.empty():
                return lines, False
        return lines, True

    def _write(self, lines: list[str]) -> None:
        try:
            self._output.write("\n".join(lines) + "\n")
            self._output.flush()
        except (OSError, ValueError):  # nowhere to write to; the proxy continues without a log
            self.dropped += len(lines)


def configure(log_format: str, level: str, output: TextIO = sys.stderr) -> LineWriter:
    """Configure the log; return its writer, to be closed at the end."""
    console = log_format == "console" or (log_format == "auto" and output.isatty())
    renderers: list[Any] = [_escape, structlog.dev.ConsoleRenderer(colors=output.isatty())] if console else [_json]
    writer = LineWriter(output)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: writer,
    )
    _current.log = structlog.get_logger().bind()
    _current.writer = writer
    _current.level = LEVELS[level]
    logging.getLogger().addHandler(_libraries)  # added once, even if this is called several times
    return writer


def dropped_lines() -> int:
    """Return how many lines were lost because their output was blocked."""
    return _current.writer.dropped if _current.writer is not None else 0


class _Current:
    """The logger and its writer: bound once, because binding costs more than writing."""

    log: Any = structlog.get_logger()
    writer: LineWriter | None = None
    level: int = 0


_current: Final = _Current()
#: How often each line was logged.
counts: Final = LogCounts()


_encoder: Final = json.JSONEncoder(default=str)


def _json(_logger: object, _method: str, fields: structlog.typing.EventDict) -> str:
    return _encoder.encode(fields)


def _escape(_logger: object, _method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape whatever could move a terminal's cursor or look like another line; JSON does that by itself."""
    return {name: _visible(value) for name, value in fields.items()}


def _visible(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(text: str) -> str:
    """Return what others say as it may be logged: shortened, and without anything that could be a token."""
    return _TOKEN.sub("\u2026", text)[:_SHOWN]


class _Libraries(logging.Handler):
    """Logs messages of libraries in this log's format."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log only a record's message, without anything that could be a token."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        try:
            words = shown(" ".join(record.getMessage().split()))
        except Exception as exc:  # noqa: BLE001 - the library's mistake, and no reason to fail
            words = type(exc).__qualname__
        event(level, "a library reports", source=record.name, text=words)


_libraries: Final = _Libraries(logging.WARNING)


def exception_fields(exc: BaseException | None) -> dict[str, str]:
    """Return a line's fields for an unexpected exception: its type, and where it was raised; never its message."""
    return {"kind": type(exc).__qualname__} | ({"at": origin(exc)} if exc is not None else {})


def on_thread_error(args: threading.ExceptHookArgs) -> None:
    """Log an exception that would otherwise be a traceback on stderr, including the exception's message."""
    thread = args.thread.name if args.thread is not None else ""
    event("error", "unhandled exception in a thread", thread=thread, **exception_fields(args.exc_value))


def event(level: str, what: str, **fields: object) -> None:
    """Log one event."""
    if LEVELS[level] >= _current.level:
        counts.add(level, what)
    getattr(_current.log, level)(what, **fields)
