"""One job in flight."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from shared import lifecycle
from shared.errors import Code
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.jobs.recorder import Entry

__all__ = ["Job", "OnEvent", "new_id", "new_token", "token_hash"]

#: Of the events of one job so many are kept: more than any sound worker reports.
_MAX_LIFE: Final = 500

OnEvent = Callable[["Job", Event], None]


def new_id() -> str:
    """Return a job id that nobody can guess: 128 bits, hexadecimal."""
    return secrets.token_hex(16)


def new_token() -> str:
    """Return a callback token: 256 bits, URL-safe."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """Return what is stored and looked up instead of a token: no stored value opens a callback route."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


async def _nothing() -> None:
    """Do what has to be done where nothing has."""


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One client request on its way to an outcome; lives in the front end until then."""

    #: The client's JSON object: every member in its exact text, without `wait` and `callback`.
    body: bytes
    #: The instant of the monotonic clock by which the client has its answer, in seconds.
    deadline: float
    #: Unguessable, the client's name for the job.
    id: str = field(default_factory=new_id)
    #: The unguessable part of the callback URL; never logged.
    token: str = field(default_factory=new_token, repr=False)
    #: What the token is known by; made from it unless given.
    token_hash: bytes = b""
    #: What the client's idempotency key is known by (None: no key), and the hash of the body that came with it.
    key: bytes | None = None
    fingerprint: bytes = b""
    #: W3C trace context from the client, passed on; empty if none.
    traceparent: str = ""
    tracestate: str = ""
    #: The job's span while it is traced (proxy/observe/tracing.py).
    span: object | None = field(default=None, repr=False)
    #: Hears every event, once the state has changed.
    on_event: OnEvent | None = None
    #: What the store knows of it; None: it is not remembered.
    entry: Entry | None = None
    #: To be awaited before anything that could submit the job gets it. Raises AdmissionError: it must not be submitted.
    before_assign: Callable[[], Awaitable[None]] = _nothing
    #: Left open by an earlier front end: it may have been submitted, and is not submitted again.
    adopted: bool = False
    state: State = State.ACCEPTED
    #: The worker that has or had the job; 0: none yet, or not a local process.
    worker_pid: int = 0
    #: state -> when it was first reached, monotonic seconds.
    reached: dict[State, float] = field(default_factory=lambda: {State.ACCEPTED: time.monotonic()})
    #: Everything that happened, in order: when (monotonic seconds), and what.
    life: list[tuple[float, Event]] = field(default_factory=list)
    #: Set once, with the first callback's body.
    callback: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    #: Set once, with the outcome.
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    #: Set when somebody cancels the job.
    cancelled: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.token_hash = self.token_hash or token_hash(self.token)

    @property
    def submitted(self) -> Submitted:
        """Whether the job server has the job, as far as is known now; not for a finished job."""
        return lifecycle.submitted(self.state)

    def advance(self, event: Event) -> None:
        """Take `event`; this is the one place where a job's state changes.

        Raises:
            IllegalEventError: the table has no such event for the state; nothing changed.
        """
        self.state = lifecycle.advance(self.state, event)
        now = time.monotonic()
        self.reached.setdefault(self.state, now)
        if len(self.life) < _MAX_LIFE:
            self.life.append((now, event))
        if self.on_event is not None:
            self.on_event(self, event)

    def failure(self, code: Code, detail: str, *, result: bytes | None = None) -> Failed:
        """Return the failure `code` with what the state says about the job server."""
        return Failed(code=code, detail=detail, submitted=self.submitted, result=result)
