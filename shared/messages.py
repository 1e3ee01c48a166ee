"""The messages between the front end, the fork server and the workers, their encoding, and their frames in a pipe.

A message is one line of JSON, followed by bytes for the two that carry others' bodies. No message from a worker is ever
unpickled: a reader trusts nothing but the length, which it limits. Messages are named tuples, because several are made
for each job: a frozen dataclass takes longer.

Every message about a job carries its id, so that a worker that serves several jobs, one after the other, can never take
a callback for an earlier one, and the front end never mistakes old messages for new ones.

In a pipe, messages are told apart by the framing of `multiprocessing.connection.Connection`, without its blocking
calls: `recv` blocks on a half-written message, and `send` on a full pipe, even where `poll` said yes. The front end may
do neither, so it writes frames into non-blocking pipes and cuts them out of what it reads.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple, get_type_hints

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
    "FrameReader",
    "FromForkServer",
    "FromWorker",
    "Log",
    "MayRetry",
    "Progress",
    "Retry",
    "ToWorker",
    "Told",
    "decode_fork",
    "decode_from_fork_server",
    "decode_from_worker",
    "decode_to_worker",
    "encode",
    "frame",
    "queue_frame",
]

#: The most workers in one `Forked`.
WORKERS_AT_ONCE: Final = 4
#: CPython's `Connection._send_bytes`: a signed length in network order, for payloads below 2 GiB.
_LENGTH: Final = struct.Struct("!i")


# --- front end -> worker ---------------------------------------------------------------------------------------------


class Assign(NamedTuple):
    """Take this job."""

    job_id: str
    #: The callback address of the job; its token is a secret.
    callback_url: str
    #: When the answer is due, by the machine's monotonic clock, in seconds.
    deadline: float
    #: The client's W3C trace context, passed on to the job server; empty if none.
    traceparent: str = ""
    tracestate: str = ""
    #: The job server's profile; empty: the first one.
    profile: str = ""
    #: What follows the route in the client's path.
    path: str = ""
    #: What is passed on of the client's query.
    query: str = ""
    #: The media type of the body; empty: JSON.
    content_type: str = ""
    #: The client's job. The members of a JSON object keep their exact text, without those that the profile overwrites.
    body: bytes = b""


class Ask(NamedTuple):
    """Call the job server about a job, which need not be this worker's own, and report the answer."""

    job_id: str
    #: As in `Assign`.
    profile: str
    #: `outcome`: whether the job is over, and its result; `status`: only whether it is over; `cancel`: end it.
    call: str
    #: The values of the profile's placeholders for this job, without the secrets: a JSON object.
    values: str
    #: As in `Assign`.
    deadline: float


class Callback(NamedTuple):
    """The job server called back; the callback is recorded, and stays in the front end."""

    job_id: str


class Retry(NamedTuple):
    """The submission may be retried: nothing has been heard of the job since it was refused."""

    job_id: str


# --- worker -> front end ---------------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """The job's state changed."""

    job_id: str
    event: Event
    #: The outputs of the reply to the submission, if it was read, by the profile's names: later calls need them.
    outputs: dict[str, str] = {}  # noqa: RUF012 - nobody modifies it


class MayRetry(NamedTuple):
    """The submission was refused, and the pause is over: the worker waits for `Retry` before it submits again."""

    job_id: str


class Told(NamedTuple):
    """The job server's answer to a call; or its reply to the submission, if that says that the job is over."""

    job_id: str
    #: As in `Ask`; `submit`: the reply.
    call: str
    #: A verdict's kind (shared/job_server/verdict.py); `cancelled`; or `unavailable`: there is no valid answer.
    kind: str
    #: The job's state according to the answer.
    state: str = ""
    #: The reason of a failure, or why there is no answer.
    error: str = ""
    #: Of the client's result; empty: JSON.
    content_type: str = ""
    #: How long to wait before the next call, in seconds, if the answer asks for that (Retry-After).
    pause_s: float = 0.0
    body: bytes = b""


class Answered(NamedTuple):
    """The job is finished: the worker got the callback, and has nothing left to do."""

    job_id: str


class Failure(NamedTuple):
    """The job is finished: it failed before any callback."""

    job_id: str
    code: Code
    detail: str


class Log(NamedTuple):
    """A line for the log; the front end writes it, so that there is one log and one format."""

    level: str
    event: str
    job_id: str = ""
    #: The place in the code, if it is about an exception.
    at: str = ""


# --- front end -> fork server -> front end ---------------------------------------------------------------------------


class Fork(NamedTuple):
    """Start this many workers."""

    workers: int


class Forked(NamedTuple):
    """Workers have started; the pidfd, inbox write end and outbox read end of each come with this message, in this
    order.
    """

    pids: list[int]


class ForkFailed(NamedTuple):
    """A worker could not be started."""

    reason: str


class Exited(NamedTuple):
    """A worker exited and was reaped: negative for a signal, otherwise the exit code."""

    pid: int
    status: int


ToWorker = Assign | Ask | Callback | Retry
FromWorker = Progress | MayRetry | Told | Answered | Failure | Log
FromForkServer = Forked | ForkFailed | Exited


def _by_name(*kinds: type[Any]) -> dict[str, type[Any]]:
    return {kind.__name__: kind for kind in kinds}


_TO_WORKER: Final = _by_name(Assign, Ask, Callback, Retry)
_FROM_WORKER: Final = _by_name(Progress, MayRetry, Told, Answered, Failure, Log)
_TO_FORK_SERVER: Final = _by_name(Fork)
_FROM_FORK_SERVER: Final = _by_name(Forked, ForkFailed, Exited)
_KINDS: Final = _TO_WORKER | _FROM_WORKER | _TO_FORK_SERVER | _FROM_FORK_SERVER
#: Messages whose last field is bytes, which follow the line.
_WITH_BODY: Final = frozenset({Assign, Told})
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
_DECODER: Final = json.JSONDecoder()


def encode(message: ToWorker | FromWorker | FromForkServer | Fork) -> bytes:
    """Return `message` as bytes."""
    name = type(message).__name__
    if isinstance(message, Assign | Told):
        return b"%b\n%b" % (_ENCODER.encode((name, *message[:-1])).encode(), message.body)
    return _ENCODER.encode((name, *message)).encode()


def _decode(kinds: dict[str, type[Any]], data: bytes) -> Any:  # noqa: ANN401 - as many types as messages
    """Return a message of one of these kinds. Raises MessageError if it is not one."""
    line, newline, body = data.partition(b"\n")
    try:
        name, *values = _DECODER.decode(line.decode())
        kind = kinds[name]
        if [type(value) for value in values] != _TYPES[kind] or (kind in _WITH_BODY) is not bool(newline):
            raise TypeError(name)  # noqa: TRY301 - like the functions below
        for place, made in _MADE[kind]:
            values[place] = made(values[place])
        return kind(*values, body) if newline else kind(*values)
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise MessageError("bytes that are no message") from exc


#: Each returns the message that has these bytes, and raises MessageError if it is none of those that may come that way.
decode_to_worker: Final[Callable[[bytes], ToWorker]] = partial(_decode, _TO_WORKER)
decode_from_worker: Final[Callable[[bytes], FromWorker]] = partial(_decode, _FROM_WORKER)
decode_fork: Final[Callable[[bytes], Fork]] = partial(_decode, _TO_FORK_SERVER)
decode_from_fork_server: Final[Callable[[bytes], FromForkServer]] = partial(_decode, _FROM_FORK_SERVER)


def _integers(values: list[Any]) -> list[int]:
    if any(type(value) is not int for value in values):
        raise TypeError
    return values


def _texts(values: dict[str, Any]) -> dict[str, str]:
    if any(type(value) is not str for value in values.values()):
        raise TypeError
    return values


#: Field types that JSON lacks or has less exactly: the JSON type, and a function that converts it or raises.
_OTHERS: Final[dict[Any, tuple[type[Any], Callable[[Any], Any]]]] = {
    Event: (str, Event),
    Code: (str, Code),
    list[int]: (list, _integers),
    dict[str, str]: (dict, _texts),
}
_FIELDS: Final = {
    kind: [wanted for name, wanted in get_type_hints(kind).items() if name != "body"] for kind in _KINDS.values()
}
_TYPES: Final = {
    kind: [_OTHERS[wanted][0] if wanted in _OTHERS else wanted for wanted in wanteds]
    for kind, wanteds in _FIELDS.items()
}
_MADE: Final = {
    kind: [(place, _OTHERS[wanted][1]) for place, wanted in enumerate(wanteds) if wanted in _OTHERS]
    for kind, wanteds in _FIELDS.items()
}


# --- in a pipe -------------------------------------------------------------------------------------------------------


def frame(payload: bytes) -> bytes:
    """Return the bytes that `Connection.send_bytes(payload)` would write into its pipe."""
    return _LENGTH.pack(len(payload)) + payload


def queue_frame(payload: bytes) -> bytes:
    """Return the bytes that `multiprocessing.Queue.put(payload)` would write into the queue's pipe."""
    return frame(pickle.dumps(payload, protocol=pickle.HIGHEST_PROTOCOL))


class FrameReader:
    """Cuts a stream of bytes into the payloads of its frames."""

    def __init__(self, max_bytes: int) -> None:
        """Refuse payloads over `max_bytes`."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each payload that `data` completes.

        Raises:
            MessageError: a frame announces a length that is negative or over the limit.
        """
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, at)
                if not 0 <= length <= self._max_bytes:
                    raise MessageError(f"a message of {length} bytes")
                end = at + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                payload = bytes(self._buffer[at + _LENGTH.size : end])
                at = end
                yield payload
        finally:
            del self._buffer[:at]
