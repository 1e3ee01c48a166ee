"""What the front end, the fork server and the workers say to each other, and how it looks as bytes.

A message is one line of JSON, then, for the two that carry others' bytes, those bytes as they are. No message from
a worker is ever unpickled: whoever reads one trusts nothing but its length, which the reader caps.

Every message about a job carries its id, so that a worker that serves several jobs, one after the other, can never take
a callback meant for an earlier one, and the front end never takes old news for new.
"""

from __future__ import annotations

import json
import operator
from dataclasses import dataclass, fields
from typing import Any, Final

from shared.errors import Code, MessageError
from shared.lifecycle import Event

__all__ = [
    "WORKERS_AT_ONCE",
    "Answered",
    "Ask",
    "Assign",
    "Callback",
    "Exited",
    "Failure",
    "Fork",
    "ForkFailed",
    "Forked",
    "FromForkServer",
    "FromWorker",
    "Log",
    "Outputs",
    "Progress",
    "ToWorker",
    "Told",
    "decode_fork",
    "decode_from_fork_server",
    "decode_from_worker",
    "decode_to_worker",
    "encode",
]

#: So many workers `Forked` speaks of at most.
WORKERS_AT_ONCE: Final = 4


# --- front end -> worker ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """Take this job."""

    job_id: str
    #: Where the job server is to call; the token in it is a secret.
    callback_url: str
    #: When the answer is due: an instant of the machine's monotonic clock, in seconds.
    deadline: float
    #: The client's W3C trace context, passed on to the job server; empty if none.
    traceparent: str = ""
    tracestate: str = ""
    #: The job server's profile; empty: the first one.
    profile: str = ""
    #: What the client's path has beyond the route.
    path: str = ""
    #: The media type of the body; empty: JSON.
    content_type: str = ""
    #: The client's job. A JSON object has every member in its exact text, without those that the profile overwrites.
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Make a call to the job server about a job, which need not be this worker's own, and tell what it answered."""

    job_id: str
    #: As in `Assign`.
    profile: str
    #: `outcome`: whether the job is over, and its result; `status`: only the former; `cancel`: end it.
    call: str
    #: What the profile's placeholders stand for in this job, less the secrets: a JSON object.
    values: str
    #: As in `Assign`.
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """The job server called back; the callback is recorded, and stays in the front end."""

    job_id: str


# --- worker -> front end ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The job's state changed."""

    job_id: str
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The job server's reply to the submission named what later calls need."""

    job_id: str
    #: By the profile's names: a JSON object.
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the job server answered to a call; or its reply to the submission, where that says that the job is over."""

    job_id: str
    #: As in `Ask`; `submit`: the reply.
    call: str
    #: A verdict's kind (shared/job_server/verdict.py); `cancelled`; or `unavailable`: there is no sound answer.
    kind: str
    #: What the answer names as the job's state.
    state: str = ""
    #: The reason of a failure, or why there is no answer.
    error: str = ""
    #: What the client gets; empty: JSON.
    content_type: str = ""
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The job is finished: the worker was told of the callback, and has nothing left to do."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The job is finished: it failed before any callback."""

    job_id: str
    code: Code
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A line for the log; the front end writes it, so that there is one log and one format."""

    level: str
    event: str
    job_id: str = ""
    #: Where in the code, if it is about an exception.
    at: str = ""


# --- front end -> fork server -> front end ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Start this many workers."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """Workers have started; the pidfd, inbox write end and outbox read end of each come with this message, in this
    order.
    """

    pids: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkFailed:
    """A worker could not be started."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """A worker exited and was reaped: negative for a signal, otherwise the exit code."""

    pid: int
    status: int


ToWorker = Assign | Ask | Callback
FromWorker = Progress | Outputs | Told | Answered | Failure | Log
FromForkServer = Forked | ForkFailed | Exited


def _by_name(*kinds: type[Any]) -> dict[str, type[Any]]:
    return {kind.__name__: kind for kind in kinds}


_TO_WORKER: Final = _by_name(Assign, Ask, Callback)
_FROM_WORKER: Final = _by_name(Progress, Outputs, Told, Answered, Failure, Log)
_FORK: Final = _by_name(Fork)
_FROM_FORK_SERVER: Final = _by_name(Forked, ForkFailed, Exited)
_KINDS: Final = _TO_WORKER | _FROM_WORKER | _FORK | _FROM_FORK_SERVER
_NAMES: Final = {kind: tuple(f.name for f in fields(kind) if f.name != "body") for kind in _KINDS.values()}
#: The name of a kind, and the values of its fields but the body.
_VALUES: Final = {kind: operator.attrgetter("__class__.__name__", *names) for kind, names in _NAMES.items()}
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
_DECODER: Final = json.JSONDecoder()
#: The types of the fields that are not strings; annotations are text, so they are listed once here.
_CHECKS: Final[dict[str, type[Any]]] = {"int": int, "float": float, "bool": bool, "str": str}
_TYPES: Final = {kind: {f.name: str(f.type) for f in fields(kind)} for kind in _KINDS.values()}


def encode(message: ToWorker | FromWorker | FromForkServer | Fork) -> bytes:
    """Return `message` as bytes."""
    line = _ENCODER.encode(_VALUES[type(message)](message)).encode()
    return b"%b\n%b" % (line, message.body) if isinstance(message, Assign | Told) else line


def decode_to_worker(data: bytes) -> ToWorker:
    """Return a message from the front end to a worker. Raises MessageError if it is not one."""
    message: ToWorker = _decode(data, _TO_WORKER)
    return message


def decode_from_worker(data: bytes) -> FromWorker:
    """Return a message from a worker. Raises MessageError if it is not one."""
    message: FromWorker = _decode(data, _FROM_WORKER)
    return message


def decode_fork(data: bytes) -> Fork:
    """Return a message from the front end to the fork server. Raises MessageError if it is not one."""
    message: Fork = _decode(data, _FORK)
    return message


def decode_from_fork_server(data: bytes) -> FromForkServer:
    """Return a message from the fork server. Raises MessageError if it is not one."""
    message: FromForkServer = _decode(data, _FROM_FORK_SERVER)
    return message


def _decode(data: bytes, kinds: dict[str, type[Any]]) -> Any:  # noqa: ANN401 - as many types as messages
    line, newline, body = data.partition(b"\n")
    try:
        name, *values = _DECODER.decode(line.decode())
        kind = kinds[name]
        members = _checked(kind, dict(zip(_NAMES[kind], values, strict=True)))
        # A body that should not be there, or one that is missing, is a TypeError.
        return kind(**members, body=body) if newline else kind(**members)
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise MessageError("bytes that are no message") from exc


def _checked(kind: type[Any], members: dict[str, Any]) -> dict[str, Any]:
    types = _TYPES[kind]
    for name, value in members.items():
        match types[name]:
            case "Event":
                members[name] = Event(value)
            case "Code":
                members[name] = Code(value)
            case "list[int]":
                if type(value) is not list or any(type(item) is not int for item in value):
                    raise TypeError(name)
            case wanted if type(value) is not _CHECKS[wanted]:
                raise TypeError(name)
    return members
