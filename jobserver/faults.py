"""Every fault a job can ask for by its `fault` field, in one table.

A fault changes up to three things: the reply to the submission, whether the job runs at all, and
what is sent to the callback. `replies.py` and `callbacks.py` implement the table.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Reply(Enum):
    """What the client gets instead of the reply to its submission."""

    NORMAL = auto()
    REFUSE_FIRST = auto()
    REFUSE = auto()
    ERROR = auto()
    DROP = auto()
    RESET = auto()
    HANG = auto()
    SLOW = auto()
    GARBAGE = auto()
    WRONG_STATE = auto()
    SHORT_BODY = auto()
    ENDLESS_BODY = auto()
    GZIP_BOMB = auto()
    MANY_HEADERS = auto()
    DEEP_JSON = auto()
    REDIRECT = auto()


class Calls(Enum):
    """What is sent to the callback of an asynchronous job, and when."""

    ONCE = auto()
    BEFORE_REPLY = auto()
    LATE = auto()
    NEVER = auto()
    TWICE = auto()
    MANY = auto()
    FORGED_FIRST = auto()
    GARBAGE_FIRST = auto()
    HUGE_FIRST = auto()
    STALLED_FIRST = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row of the table."""

    #: The text in `--help`.
    summary: str
    reply: Reply = Reply.NORMAL
    calls: Calls = Calls.ONCE
    #: Whether the job runs, unless the job's own `run` field decides.
    runs: bool = True
    #: The `state` of the completed document.
    state: str = "completed"
    #: The status of a reply that is not a success; the job's `status` field may choose another.
    status: int = 200
    #: Statuses the job's `status` field may choose from.
    statuses: range | tuple[int, ...] = ()
    #: The default of the job's `bytes` field; 0: the fault does not use it.
    size_bytes: int = 0
    #: The default of the job's `delay` field, in seconds.
    delay_s: float = 0.0
    #: The default of the job's `times` field.
    times: int = 1
    #: The completed document is padded to `bytes`.
    pads_result: bool = False

    @property
    def replies_well(self) -> bool:
        """Whether an accepted submission gets the reply of the protocol."""
        return self.reply in {Reply.NORMAL, Reply.REFUSE_FIRST}

    @property
    def rejects(self) -> bool:
        """Whether the reply says for certain that the job does not run."""
        return self.reply is Reply.ERROR and self.status < 500  # noqa: PLR2004 - 4xx


_MIB: Final = 1024 * 1024

FAULTS: Final[dict[str, Fault]] = {
    "none": Fault(summary="no fault"),
    # The callback and its moment.
    "early": Fault(
        summary="the callback is sent, and answered, before the reply to the submission",
        calls=Calls.BEFORE_REPLY,
    ),
    "late": Fault(
        summary="the result comes `delay` seconds (60) after the job was accepted",
        calls=Calls.LATE,
        delay_s=60.0,
    ),
    "never": Fault(summary="the job is accepted, the result never comes", calls=Calls.NEVER),
    "duplicate": Fault(summary="the callback is sent twice", calls=Calls.TWICE),
    "many": Fault(summary="the callback is sent `times` (100) times at once", calls=Calls.MANY, times=100),
    "forged": Fault(summary="a callback with a wrong token first, then the right one", calls=Calls.FORGED_FIRST),
    "garbage-callback": Fault(
        summary="a callback that is not JSON first, then the right one", calls=Calls.GARBAGE_FIRST
    ),
    "huge-callback": Fault(
        summary="a callback of `bytes` (2 MiB) first, then the right one",
        calls=Calls.HUGE_FIRST,
        size_bytes=2 * _MIB,
    ),
    "slow-callback-body": Fault(
        summary="a callback whose body stalls for `delay` seconds (20) first, then the right one",
        calls=Calls.STALLED_FIRST,
        delay_s=20.0,
    ),
    # The result.
    "failed": Fault(summary="the job ends with state failed", state="failed"),
    "error": Fault(summary="the job ends with state error", state="error"),
    "big-result": Fault(summary="the result is padded to `bytes` (900 KiB)", size_bytes=900 * 1024, pads_result=True),
    # Refusals: the job certainly does not run.
    "refuse": Fault(summary="503 with Retry-After, every time", reply=Reply.REFUSE, runs=False, status=503),
    "refuse-first": Fault(
        summary="503 with Retry-After the first `times` (1) times, then as usual",
        reply=Reply.REFUSE_FIRST,
        status=503,
    ),
    "rate-limit": Fault(
        summary="429 with Retry-After the first `times` (1) times, then as usual",
        reply=Reply.REFUSE_FIRST,
        status=429,
    ),
    "reject": Fault(
        summary="400, or the 4xx in `status`",
        reply=Reply.ERROR,
        runs=False,
        status=400,
        statuses=range(400, 500),
    ),
    # Replies that do not tell whether the job runs; it does not, unless `run` is true.
    "server-error": Fault(
        summary="500, or the 5xx in `status`",
        reply=Reply.ERROR,
        runs=False,
        status=500,
        statuses=range(500, 600),
    ),
    "unavailable": Fault(summary="503 without Retry-After", reply=Reply.ERROR, runs=False, status=503),
    "drop": Fault(summary="the connection is closed without a reply", reply=Reply.DROP, runs=False),
    "drop-but-run": Fault(summary="the connection is closed without a reply, but the job runs", reply=Reply.DROP),
    "reset": Fault(summary="the connection is reset without a reply", reply=Reply.RESET, runs=False),
    "hang": Fault(summary="no reply, ever; the connection stays open", reply=Reply.HANG, runs=False),
    "slow-reply": Fault(
        summary="the reply is sent one byte every `delay` seconds (1); the job starts after the last byte",
        reply=Reply.SLOW,
        delay_s=1.0,
    ),
    "garbage": Fault(summary="200 with a body that is not JSON", reply=Reply.GARBAGE, runs=False),
    "wrong-state": Fault(
        summary="200 with JSON that does not follow the protocol", reply=Reply.WRONG_STATE, runs=False
    ),
    "short-body": Fault(
        summary="200 with a body that ends before its Content-Length", reply=Reply.SHORT_BODY, runs=False
    ),
    "endless-body": Fault(summary="200 with a body that never ends", reply=Reply.ENDLESS_BODY, runs=False),
    "gzip-bomb": Fault(
        summary="200 with a small gzip body that decompresses to `bytes` (256 MiB)",
        reply=Reply.GZIP_BOMB,
        runs=False,
        size_bytes=256 * _MIB,
    ),
    "many-headers": Fault(
        summary="200 with `times` (100,000) headers", reply=Reply.MANY_HEADERS, runs=False, times=100_000
    ),
    "deep-json": Fault(
        summary="200 with `times` (100,000) nested brackets", reply=Reply.DEEP_JSON, runs=False, times=100_000
    ),
    "redirect": Fault(
        summary="307 (or `status` 301, 302, 308) to /elsewhere, which counts its visitors",
        reply=Reply.REDIRECT,
        runs=False,
        status=307,
        statuses=(301, 302, 307, 308),
    ),
}

NO_FAULT: Final = FAULTS["none"]
