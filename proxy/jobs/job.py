"""One job in flight."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from proxy.jobs.trail import trail_of
from shared import lifecycle
from shared.errors import Code
from shared.job_server.callback_tokens import bytes_without_tokens
from shared.job_server.documents import kept_content_type
from shared.job_server.verdict import FINAL, Kind
from shared.lifecycle import Event, State, Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from proxy.jobs.recorder import Recorder
    from proxy.store.record import Record
    from shared.messages import Told

__all__ = ["BY_CLIENT", "Job", "cancelled_by", "is_id", "new_id", "new_token", "token_hash"]

#: Who cancels a job if no operator does.
BY_CLIENT: Final = "its client"
_BY_ANOTHER: Final = "another instance"
_ID: Final = re.compile(r"[0-9a-f]{32}")

#: How many events of one job are kept, more than any healthy worker reports; the end is always kept.
_MAX_LIFE: Final = 500
_ENDS: Final = frozenset({Event.CALLBACK, Event.FINISH})
#: The maximum length that is kept of what a job server says about an unfinished job.
_MAX_PROGRESS_BYTES: Final = 16_384
#: Ends the detail of a failure whose job has its callback all the same.
_KEPT: Final = "; the callback has come and is kept as the job's result: GET /jobs/<job_id>/result"
#: How long to read what arrived while this process stood still; no longer than the deadline's timer was late.
_CATCH_UP_S: Final = 3.0


def new_id(beginning: str = "") -> str:
    """Return an unguessable job id: 128 bits, hexadecimal; only 64 of them random if it needs a `beginning`."""
    return (beginning or secrets.token_hex(8)) + secrets.token_hex(8)


def is_id(text: str) -> bool:
    """Return whether a job may have this id. Not every store can be asked for any other text."""
    return _ID.fullmatch(text) is not None


def new_token() -> str:
    """Return a callback token: 256 bits, URL-safe."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """Return the hash that is stored and looked up instead of a token: no stored value gives access to a callback
    route.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def cancelled_by(by: str) -> str:
    """Return who cancelled a job, as told to clients: an operator's name is only in the record."""
    return f"the job was cancelled by {by if by in {BY_CLIENT, _BY_ANOTHER} else 'an operator'}"


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One client request until it has an outcome; lives in the front end."""

    #: The client's job: a JSON object has every member in its exact text, without those that the profile overwrites.
    body: bytes
    #: The media type of the body; empty: JSON.
    content_type: str = ""
    #: What is passed on of the client's query.
    query: str = ""
    #: When the client must have its answer, in seconds of the monotonic clock.
    deadline: float
    #: Records what happens to the job, and holds its record.
    recorder: Recorder
    #: The unguessable part of the callback URL; never logged. Empty if only its hash is known.
    token: str = field(default="", repr=False)
    #: W3C trace context from the client, passed on; empty if none.
    traceparent: str = ""
    tracestate: str = ""
    #: The job's span while it is traced (proxy/observe/tracing.py).
    span: object | None = field(default=None, repr=False)
    #: Whether the job server can be told to end the job, as far as is known.
    is_cancellable: bool = False
    #: Left open by an earlier front end: it may have been submitted, and is not submitted again.
    adopted: bool = False
    state: State = State.ACCEPTED
    #: The state that the job server named last, truncated; empty: none yet.
    remote_state: str = ""
    #: The last thing that it said before the end, if short, and how often it said something.
    last_progress: bytes = b""
    progress_count: int = 0
    #: Why its last callback, and its last answer to a call, say nothing; empty if they do.
    unread: str = ""
    unanswered: str = ""
    #: How often the job server has said that there is an outcome to ask for.
    notifications: int = 0
    #: Set with everything that happens.
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    #: The worker that has or had the job; 0: none yet, or not a local process.
    worker_pid: int = 0
    #: How the job's lost workers ended, and how often the job server was asked: by the call and its outcome.
    workers_lost: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    #: state -> when it was first reached, monotonic seconds.
    reached: dict[State, float] = field(default_factory=lambda: {State.ACCEPTED: time.monotonic()})
    #: Everything that happened, in order: when (monotonic seconds), and what.
    life: list[tuple[float, Event]] = field(default_factory=list)
    #: Done when the first callback has come, which may not be recorded yet.
    arrival: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    #: Done when it is recorded.
    callback: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    #: Set once, with the outcome.
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    #: Set when the job has to end at once: with who cancelled it, or because its end is recorded elsewhere.
    cancelled: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def id(self) -> str:
        """The client's name for the job; unguessable."""
        return self.recorder.record.id

    @property
    def token_hash(self) -> bytes:
        """The hash of the callback token."""
        return self.recorder.record.token_hash

    @property
    def key(self) -> bytes | None:
        """The hash of the client's idempotency key; None if it sent none."""
        return self.recorder.record.key

    @property
    def fingerprint(self) -> bytes:
        """The hash of the body that came with the key."""
        return self.recorder.record.fingerprint

    @property
    def profile(self) -> str:
        """The name of the job server's profile."""
        return self.recorder.record.profile

    @property
    def submitted(self) -> Submitted:
        """Whether the job server has the job, as far as is known."""
        if self.recorder.called_back or self.state is State.FINISHED:  # a callback is proof even before it is recorded
            return self.recorder.record.submitted
        return lifecycle.submitted(self.state)

    async def until_deadline(self, *ends: asyncio.Future[Any]) -> None:
        """Wait for one of `ends`, until the deadline at most.

        If this process stood still then, what arrived meanwhile is read first: the event loop runs the timers that are
        due before it reads anything, so the deadline would always be first.
        """
        left_s = max(0.0, self.deadline - time.monotonic())
        await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        late_s = time.monotonic() - self.deadline
        if late_s > 0 and not any(end.done() for end in ends):
            await asyncio.wait(ends, timeout=min(late_s, _CATCH_UP_S), return_when=asyncio.FIRST_COMPLETED)

    def advance(self, event: Event) -> None:
        """Apply `event`; this is the only place where a job's state changes.

        Raises:
            IllegalEventError: the table has no such event for the state; nothing changed.
        """
        self.state = lifecycle.advance(self.state, event)
        now = time.monotonic()
        self.reached.setdefault(self.state, now)
        if len(self.life) < _MAX_LIFE or event in _ENDS:
            self.life.append((now, event))
        self.changed.set()

    def arrive(self) -> None:
        """Note that the callback has come: the job's runner may prepare for its end."""
        if not self.arrival.done():
            self.arrival.set_result(None)

    def call_back(self) -> None:
        """Note that the callback is recorded; the job's runner continues. Ignored once the job is finished."""
        if self.state is not State.FINISHED and not self.callback.done():
            self.advance(Event.CALLBACK)
            self.arrive()
            self.callback.set_result(None)

    def hear(self, record: Record) -> None:
        """Take the job's record, whoever wrote it: a callback, another end, or that it goes on."""
        if record.callback is not None:
            self.recorder.callback_elsewhere(record)
            self.call_back()
        elif record.state is State.FINISHED:
            self.recorder.ended_elsewhere(record)
            if self.state is not State.FINISHED and not self.cancelled.done():
                self.cancelled.set_result(_BY_ANOTHER)
        else:
            self.changed.set()
            self.recorder.waits_elsewhere(record)
            if record.state is State.WAITING and self.state not in {State.WAITING, State.FINISHED}:
                self.advance(Event.PROGRESS)

    def progress(self, state: str, body: bytes = b"", outputs: Mapping[str, str] | None = None) -> None:
        """Note that the job server has the job and says that it is in `state`. Ignored once the job is over."""
        if self.callback.done() or not self.proven():
            return
        self.remote_state = state
        self.progress_count += 1
        if body:
            self.last_progress = body if len(body) <= _MAX_PROGRESS_BYTES else b""
        self.learn(outputs or {})

    def proven(self) -> bool:
        """Note that a callback came, whatever it says: the job server has the job. Return whether the job goes on."""
        goes_on = self.state is not State.FINISHED
        if goes_on and not self.callback.done():
            self.advance(Event.PROGRESS)
        self.recorder.proven()
        return goes_on

    def learn(self, outputs: Mapping[str, str]) -> None:
        """Take a callback's outputs; those of the reply to the submission take precedence."""
        known = self.recorder.record.outputs
        merged = {**outputs, **known}
        if merged != known:
            self.recorder.outputs(merged)
            self.changed.set()

    def without_token(self, body: bytes) -> bytes:
        """Return a job server's message without the callback token, which some repeat: the client must not see it."""
        body = bytes_without_tokens(body)  # only the hash of an adopted job's token is known
        return body.replace(self.token.encode(), b"***") if self.token else body

    def lose_worker(self, end: str) -> None:
        """Note how the worker that had the job ended."""
        self.workers_lost.append(end)
        self.recorder.worker_lost(end)

    def notify(self) -> None:
        """Note that the job server has said that there is an outcome to ask for."""
        self.notifications += 1
        self.changed.set()

    def ended_by_answer(self, told: Told) -> bool:
        """Take an answer that says how the job ended, as if it were the callback; return whether it does.

        The first such answer counts.
        """
        if told.kind not in FINAL:
            return False
        if not self.callback.done() and self.state is not State.FINISHED and not self.recorder.called_back:
            self.recorder.callback(
                self.without_token(told.body) if told.kind == Kind.FAILED else told.body,
                failed=told.kind == Kind.FAILED,
                early=False,
                content_type=kept_content_type(told.content_type, told.body),
                error=told.error,
                trail=trail_of(self, Event.CALLBACK),
            )
            self.call_back()
        return True

    def failure(self, code: Code, detail: str) -> Failed:
        """Return the failure `code`, with `submitted` according to the state. It says so if the callback has come."""
        kept = _KEPT if self.recorder.called_back else ""
        return Failed(code=code, detail=detail + kept, submitted=self.submitted)

    def heard_instead(self) -> str:
        """Return what to tell a client whose job timed out: the callbacks that came but did not count as its end.

        A state that the profile does not know is progress: it may be the end under another name.
        """
        record, heard = self.recorder.record, ""
        if self.progress_count:
            state = self.without_token(self.remote_state.encode("utf-8", "backslashreplace")).decode()
            heard = f"; the job server's reports taken as progress: {self.progress_count}"
            heard += f", the last one with the state {state!r}" if state else ", the last one without a state"
        heard += "".join(f"; {reason}" for reason in (self.unread, self.unanswered) if reason)
        if record.refused:
            heard += f"; callbacks refused: {record.refused}, the last one because {record.refusal}"
        return heard

    def cancellation(self) -> Failed:
        """Return the outcome of the job if it is cancelled."""
        told = "is told" if self.is_cancellable else "was not told: it has no call for that, or has not named the job"
        return self.failure(Code.CANCELLED, f"{cancelled_by(self.cancelled.result())}; the job server {told}")
