"""The life of one job: every state, every event, and what each says about the job server.

Theory of operation
-------------------
A job moves through five states::

    ACCEPTED -> ASSIGNED -> SUBMITTING -> WAITING -> FINISHED

* ACCEPTED    the client's request was read and admitted; no worker has it yet.
* ASSIGNED    a worker has it; nothing that could start the job has left that worker.
* SUBMITTING  a connection to the job server stands and the submission may be on its way.
* WAITING     the job server has it for certain: its reply was read, or a callback for this job was seen.
* FINISHED    the outcome is known and never changes again.

Eight events move it. Two go back. ``REFUSED``: the job server said, beyond doubt, that it did not start the job
(refused connection, 4xx, 429, 503 with Retry-After), so the job is where it was before the attempt. ``WORKER_LOST``:
the worker is gone and nothing had left it, so another one may have the job.

Two processes report events: the worker (``CONNECTED``, ``REFUSED``, ``REPLY_READ``) and the callback route
(``PROGRESS``, ``CALLBACK``). Nothing orders their messages, so a callback may be seen before the worker's earlier news
is read. A callback is proof: from then on the job is WAITING and late news from the worker cannot lower that.

What a failure tells the caller follows from the state alone (`submitted`), which is why no other code decides it.

This file does no I/O, knows no clock and imports nothing of the project. Everything that logs, counts or stores a job's
progress depends on `advance`; the diagram in docs/architecture.md is generated from `TABLE`.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["TABLE", "Event", "IllegalEventError", "State", "Submitted", "advance", "submitted"]


class State(StrEnum):
    """Where a job is."""

    ACCEPTED = "accepted"
    ASSIGNED = "assigned"
    SUBMITTING = "submitting"
    WAITING = "waiting"
    FINISHED = "finished"


class Event(StrEnum):
    """What can happen to a job."""

    #: A worker got the job.
    ASSIGN = "assign"
    #: That worker died before anything that could start the job had left it; another one may get the job.
    WORKER_LOST = "worker-lost"
    #: The worker has a connection to the job server and is about to write the submission to it.
    CONNECTED = "connected"
    #: This attempt at a submission certainly started nothing.
    REFUSED = "refused"
    #: The job server's reply was read and says that the job runs.
    REPLY_READ = "reply-read"
    #: A callback with this job's token arrived, and says that the job is not finished.
    PROGRESS = "progress"
    #: A callback with this job's token arrived.
    CALLBACK = "callback"
    #: The outcome is known.
    FINISH = "finish"


class Submitted(StrEnum):
    """Whether the job server was given the job: what a client must know before it retries."""

    NO = "no"
    UNKNOWN = "unknown"
    YES = "yes"


class IllegalEventError(Exception):
    """An event that the table does not have for this state; the state stays as it was."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a job that is {state} cannot take the event {event}")
        self.state = state
        self.event = event


#: state -> event -> next state. What is not here cannot happen.
TABLE: Final = MappingProxyType(
    {
        State.ACCEPTED: MappingProxyType(
            {
                Event.ASSIGN: State.ASSIGNED,
                Event.PROGRESS: State.WAITING,
                Event.CALLBACK: State.WAITING,
                Event.FINISH: State.FINISHED,
            }
        ),
        State.ASSIGNED: MappingProxyType(
            {
                Event.WORKER_LOST: State.ACCEPTED,
                Event.CONNECTED: State.SUBMITTING,
                Event.REFUSED: State.ASSIGNED,
                Event.PROGRESS: State.WAITING,
                Event.CALLBACK: State.WAITING,
                Event.FINISH: State.FINISHED,
            }
        ),
        State.SUBMITTING: MappingProxyType(
            {
                Event.REFUSED: State.ASSIGNED,
                Event.REPLY_READ: State.WAITING,
                Event.PROGRESS: State.WAITING,
                Event.CALLBACK: State.WAITING,
                Event.FINISH: State.FINISHED,
            }
        ),
        State.WAITING: MappingProxyType(
            {
                Event.CONNECTED: State.WAITING,
                Event.REFUSED: State.WAITING,
                Event.REPLY_READ: State.WAITING,
                Event.PROGRESS: State.WAITING,
                Event.CALLBACK: State.WAITING,
                Event.FINISH: State.FINISHED,
            }
        ),
        State.FINISHED: MappingProxyType({}),
    }
)

_SUBMITTED: Final = MappingProxyType(
    {
        State.ACCEPTED: Submitted.NO,
        State.ASSIGNED: Submitted.NO,
        State.SUBMITTING: Submitted.UNKNOWN,
        State.WAITING: Submitted.YES,
    }
)


def advance(state: State, event: Event) -> State:
    """Return the state that follows `state` on `event`.

    Raises:
        IllegalEventError: the table has no such event for this state.
    """
    try:
        return TABLE[state][event]
    except KeyError:
        raise IllegalEventError(state, event) from None


def submitted(state: State) -> Submitted:
    """Return what a failure in `state` says about the job server.

    Raises:
        ValueError: the job is finished; its outcome carries the answer.
    """
    try:
        return _SUBMITTED[state]
    except KeyError:
        raise ValueError(f"a job that is {state} has its answer in its outcome") from None
