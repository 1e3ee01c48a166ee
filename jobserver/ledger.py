"""The record of what the job server received and sent, for tests and for users.

The ledger is kept in memory, has a limit, and is cheap to write: text is decoded and fields are parsed when it is read,
not when a job arrives.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

#: Only this much of a longer body is kept.
BODY_LIMIT_BYTES: Final = 64 * 1024
#: The total size of the bodies that are kept; beyond it, the oldest submissions are dropped.
BODIES_LIMIT_BYTES: Final = 64 * 1024 * 1024

#: The request headers that say how the client behaves.
KEPT_HEADERS: Final = ("accept-encoding", "connection", "content-type", "traceparent", "tracestate", "user-agent")


@dataclass(slots=True, kw_only=True)
class SubmissionEntry:
    """One submission as it was received, and its result."""

    n: int
    #: Seconds since the ledger began.
    at_s: float
    raw: bytes
    raw_bytes: int
    headers: dict[str, str]
    account: str | None = None
    ref: str | None = None
    callback: str | None = None
    fault: str | None = None
    #: The answer said for certain that the job does not run.
    refused: bool = False
    #: The status of the reply; None: there was none, or it was not a valid one.
    status: int | None = None
    #: The id of the job; None: it was never accepted.
    id: str | None = None
    #: Whether the job was started.
    ran: bool = False
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry as it is shown, with the body parsed."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "raw"}
        try:
            shown["raw"] = self.raw.decode("utf-8")
        except UnicodeDecodeError:
            shown["raw"] = self.raw.decode("latin-1")
        shown["truncated"] = self.raw_bytes > len(self.raw)
        try:
            shown["body"] = json.loads(self.raw)
        except (ValueError, RecursionError):
            shown["body"] = None
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackEntry:
    """One attempt to send a callback, and how it ended."""

    #: The id of the job.
    id: str
    callback: str
    #: `result` is the real one; others: `forged`, `garbage`, `huge`, `stalled`.
    kind: str
    attempt: int
    #: The status of the answer; None: there was none.
    status: int | None
    error: str | None
    #: Seconds since the ledger began, when the attempt ended.
    at_s: float
    took_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the entry as it is shown."""
        return {name: getattr(self, name) for name in self.__slots__}


_Entry = TypeVar("_Entry")


@dataclass(slots=True)
class Ledger:
    """Submissions, callbacks and counts. Not thread-safe."""

    limit: int = 100_000
    submissions: deque[SubmissionEntry] = field(default_factory=deque)
    callbacks: deque[CallbackEntry] = field(default_factory=deque)
    #: Requests that followed a redirect.
    elsewhere: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    started_at: float = field(default_factory=time.monotonic)
    _kept_bytes: int = 0

    def clear(self) -> None:
        """Forget everything and start counting from one again."""
        self.submissions.clear()
        self.callbacks.clear()
        self.counts.clear()
        self.faults.clear()
        self.elsewhere = 0
        self._kept_bytes = 0

    def submission(self, raw: bytes, headers: Mapping[str, str]) -> SubmissionEntry:
        """Record a submission; the caller fills in its result."""
        self.counts["submissions"] += 1
        entry = SubmissionEntry(
            n=self.counts["submissions"],
            at_s=self._now_s(),
            raw=raw[:BODY_LIMIT_BYTES],
            raw_bytes=len(raw),
            headers={name: headers[name] for name in KEPT_HEADERS if name in headers},
        )
        self.submissions.append(entry)
        self._kept_bytes += len(entry.raw)
        while len(self.submissions) > self.limit or self._kept_bytes > BODIES_LIMIT_BYTES:
            self._kept_bytes -= len(self.submissions.popleft().raw)
            self.counts["submissions_dropped"] += 1
        return entry

    def started(self, entry: SubmissionEntry) -> None:
        """Record that the job of this submission was started."""
        entry.ran = True
        self.counts["started"] += 1

    def refused(self, entry: SubmissionEntry, error: str | None = None) -> None:
        """Record that the client was told that its job does not run."""
        entry.refused = True
        entry.error = error
        self.counts["refused"] += 1

    def callback(
        self,
        job_id: str,
        callback: str,
        *,
        kind: str,
        attempt: int,
        status: int | None,
        error: str | None,
        took_s: float,
    ) -> None:
        """Record how an attempt to send a callback ended."""
        self.counts["callbacks"] += 1
        accepted = status is not None and status // 100 == 2  # noqa: PLR2004 - 2xx
        self.counts["callbacks_accepted" if accepted else "callbacks_not_accepted"] += 1
        self.callbacks.append(
            CallbackEntry(
                id=job_id,
                callback=callback,
                kind=kind,
                attempt=attempt,
                status=status,
                error=error,
                at_s=self._now_s(),
                took_s=round(took_s, 6),
            )
        )
        if len(self.callbacks) > self.limit:
            self.callbacks.popleft()
            self.counts["callbacks_dropped"] += 1

    def submitted_twice(self) -> list[str]:
        """Return the jobs with more than one submission that was not refused, by `ref` or callback.

        Only the submissions that are still kept can be counted. A job with both names counts once for each.
        """
        seen: Counter[str] = Counter()
        for entry in self.submissions:
            if not entry.refused:
                names = {name for name in (entry.ref, entry.callback) if name is not None}
                seen.update(names)
        return [name for name, times in seen.items() if times > 1]

    def summary(self) -> dict[str, Any]:
        """Return the counts; they also cover what has been dropped from the lists."""
        names = (
            "submissions",
            "refused",
            "started",
            "left_queue",
            "submissions_dropped",
            "callbacks",
            "callbacks_accepted",
            "callbacks_not_accepted",
            "callbacks_dropped",
        )
        return {name: self.counts[name] for name in names} | {
            "elsewhere": self.elsewhere,
            "submitted_twice": len(self.submitted_twice()),
            "by_fault": dict(self.faults),
        }

    def as_json(self, last: int | None = None) -> dict[str, Any]:
        """Return everything, or the last entries of each list."""
        return {
            "submissions": [entry.as_json() for entry in _last(self.submissions, last)],
            "callbacks": [entry.as_json() for entry in _last(self.callbacks, last)],
            "elsewhere": self.elsewhere,
            "summary": self.summary(),
        }

    def _now_s(self) -> float:
        return round(time.monotonic() - self.started_at, 6)


def _last(entries: deque[_Entry], count: int | None) -> list[_Entry]:
    return list(entries) if count is None else list(entries)[max(0, len(entries) - count) :]
