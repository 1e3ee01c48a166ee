"""The life of one job: every state, every event, and what each state says about the submission.

Theory of operation
-------------------
A job moves through five states::

    ACCEPTED -> ASSIGNED -> SUBMITTING -> WAITING -> FINISHED

* ACCEPTED    the client's request was read and admitted; no worker has it yet.
* ASSIGNED    a worker has it; that worker has sent nothing that could start the job.
* SUBMITTING  there is a connection to the job server, and the submission may have been sent.
* WAITING     the job server certainly has it: its reply was read, or a callback for this job arrived.
* FINISHED    the outcome is known and never changes again.

Eight events move it. Two go back. ``REFUSED``: it is certain that the job server did not start the job (refused
connection, 4xx, 429, 503 with Retry-After), so the job is where it was before the attempt. ``WORKER_LOST``: the worker
is gone and had sent nothing, so another one may get the job.

Events come from two sources: the worker (``CONNECTED``, ``REFUSED``, ``REPLY_READ``) and the callback route
(``PROGRESS``, ``CALLBACK``). Their messages are not ordered, so a callback may be seen before earlier messages of the
worker are read. A callback is proof: from then on the job is WAITING, and late messages of the worker do not change
that.

What a failure says about the submission follows from the state alone (`submitted`), so no other code decides it.

This file does no I/O, knows no clock and imports nothing of the project. Everything that logs, counts or stores a job's
progress depends on `advance`; the diagram in docs/architecture.md is generated from `TABLE`.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["IN_FLIGHT", "TABLE", "Event", "IllegalEventError", "State", "Submitted", "advance", "submitted"]


class State(StrEnum):
    """The state of a job."""

    ACCEPTED = "accepted"
    ASSIGNED = "assigned"
    SUBMITTING = "submitting"
    WAITING = "waiting"
    FINISHED = "finished"


#: The states of a job in flight, in their order.
IN_FLIGHT: Final = tuple(state for state in State if state is not State.FINISHED)


class Event(StrEnum):
    """What can happen to a job."""

    #: A worker got the job.
    ASSIGN = "assign"
    #: That worker died before it sent anything that could start the job; another one may get the job.
    WORKER_LOST = "worker-lost"
    #: The worker has a connection to the job server and is about to send the submission.
    CONNECTED = "connected"
    #: This attempt at a submission certainly did not start the job.
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
    """Whether the job was submitted to the job server: what a client must know before it retries."""

    NO = "no"
    UNKNOWN = "unknown"
    YES = "yes"


class IllegalEventError(Exception):
    """An event that the table does not have for this state; the state does not change."""

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
    """Return what a failure in `state` says about the submission.

    Raises:
        ValueError: the job is finished; its outcome has the answer.
    """
    try:
        return _SUBMITTED[state]
    except KeyError:
        raise ValueError(f"a job that is {state} has its answer in its outcome") from None
