"""Messages between the processes, to bytes and back; everything else is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any, Final, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import messages
from shared.errors import Code, MessageError
from shared.lifecycle import Event
from shared.messages import (
    Answered,
    Ask,
    Assign,
    Callback,
    Exited,
    Failure,
    Fork,
    Forked,
    ForkFailed,
    FromForkServer,
    FromWorker,
    Log,
    MayRetry,
    Progress,
    Retry,
    Told,
    ToWorker,
    decode_fork,
    decode_from_fork_server,
    decode_from_worker,
    decode_to_worker,
    encode,
)

Decoder = Callable[[bytes], object]

_TEXT: Final = st.text()
_KINDS: Final[dict[type[Any], tuple[Decoder, st.SearchStrategy[Any]]]] = {
    Assign: (
        decode_to_worker,
        st.builds(
            Assign,
            job_id=_TEXT,
            callback_url=_TEXT,
            deadline=st.floats(allow_nan=False, allow_infinity=False),
            traceparent=_TEXT,
            tracestate=_TEXT,
            profile=_TEXT,
            path=_TEXT,
            content_type=_TEXT,
            body=st.binary(),
        ),
    ),
    Ask: (
        decode_to_worker,
        st.builds(
            Ask,
            job_id=_TEXT,
            profile=_TEXT,
            call=_TEXT,
            values=_TEXT,
            deadline=st.floats(allow_nan=False, allow_infinity=False),
        ),
    ),
    Told: (
        decode_from_worker,
        st.builds(
            Told,
            job_id=_TEXT,
            call=_TEXT,
            kind=_TEXT,
            state=_TEXT,
            error=_TEXT,
            content_type=_TEXT,
            pause_s=st.floats(allow_nan=False),
            body=st.binary(),
        ),
    ),
    Callback: (decode_to_worker, st.builds(Callback, job_id=_TEXT)),
    Retry: (decode_to_worker, st.builds(Retry, job_id=_TEXT)),
    MayRetry: (decode_from_worker, st.builds(MayRetry, job_id=_TEXT)),
    Progress: (
        decode_from_worker,
        st.builds(Progress, job_id=_TEXT, event=st.sampled_from(Event), outputs=st.dictionaries(_TEXT, _TEXT)),
    ),
    Answered: (decode_from_worker, st.builds(Answered, job_id=_TEXT)),
    Failure: (decode_from_worker, st.builds(Failure, job_id=_TEXT, code=st.sampled_from(Code), detail=_TEXT)),
    Log: (decode_from_worker, st.builds(Log, level=_TEXT, event=_TEXT, job_id=_TEXT, at=_TEXT)),
    Fork: (decode_fork, st.builds(Fork, workers=st.integers())),
    Forked: (decode_from_fork_server, st.builds(Forked, pids=st.lists(st.integers()))),
    ForkFailed: (decode_from_fork_server, st.builds(ForkFailed, reason=_TEXT)),
    Exited: (decode_from_fork_server, st.builds(Exited, pid=st.integers(), status=st.integers())),
}
_DECODERS: Final = (decode_to_worker, decode_from_worker, decode_fork, decode_from_fork_server)
_ANY: Final = st.one_of(*(strategy for _, strategy in _KINDS.values()))


def test_every_kind_of_message_is_tested_here() -> None:
    """A message that is added to a union must be added to these tests."""
    unions = {*get_args(ToWorker), *get_args(FromWorker), *get_args(FromForkServer), Fork}
    assert unions == set(_KINDS)
    offered = [getattr(messages, name) for name in messages.__all__]
    assert {it for it in offered if isinstance(it, type) and issubclass(it, tuple)} == set(_KINDS)


@given(message=_ANY)
def test_a_message_survives_the_way_through_bytes(message: Any) -> None:  # noqa: ANN401 - ten types
    """The decoded message is equal, including the body."""
    decode, _ = _KINDS[type(message)]
    decoded = decode(encode(message))
    assert decoded == message
    assert type(decoded) is type(message)


@given(message=_ANY)
def test_a_message_in_the_wrong_direction_is_refused(message: Any) -> None:  # noqa: ANN401 - ten types
    """No side accepts a message that only the other side may send."""
    right, _ = _KINDS[type(message)]
    for decode in _DECODERS:
        if decode is not right:
            with pytest.raises(MessageError):
                decode(encode(message))


@given(data=st.binary())
def test_garbage_is_no_message(data: bytes) -> None:
    """Random bytes raise MessageError on either side."""
    for decode in _DECODERS:
        with pytest.raises(MessageError):
            decode(data)


_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(name=st.sampled_from([kind.__name__ for kind in _KINDS]), values=st.lists(_JSON), body=st.none() | st.binary())
def test_a_message_with_wrong_values_is_refused_or_is_the_message_it_says(
    name: str, values: list[Any], body: bytes | None
) -> None:
    """Whatever follows a known name, the result is a well-typed message or MessageError."""
    data = json.dumps([name, *values]).encode() + (b"" if body is None else b"\n" + body)
    for decode in _DECODERS:
        try:
            message = decode(data)
        except MessageError:
            continue
        assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b'["Nothing"]',
        b'["Answered","j",true]',  # the body is missing
        b'["Answered","j",1]\nbody',  # 1 is not true
        b'["Answered","j"]\nbody',
        b'["Answered","j",true,"more"]\nbody',
        b'["Progress","j","assign",{}]\nbody',  # a body for a message without one
        b'["Progress","j","dance",{}]',
        b'["Progress","j","assign"]',
        b'["Progress","j","assign",{"a":1}]',
        b'["Failure","j","no-such-code","d"]',
        b'["Failure",1,"worker-died","d"]',
        b'["Progress",["j"],"assign",{}]',
        b"[" * 100_000,
        b'["Log",' + b"9" * 5_000 + b',"e","j"]',
        pickle.dumps(Progress(job_id="j", event=Event.ASSIGN)),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_almost_a_message_is_refused(data: bytes) -> None:
    """Wrong counts, wrong types, wrong names, depth, digits, and a pickle: MessageError, never anything else."""
    with pytest.raises(MessageError):
        decode_from_worker(data)


def test_a_body_keeps_its_line_breaks_and_odd_bytes() -> None:
    """A body is everything after the first line, unchanged."""
    body = b'\n\n{"a": 1}\r\n\x00\xff\n'
    assign = Assign(job_id="j", callback_url="http://x", deadline=1.0, body=body)
    assert decode_to_worker(encode(assign)) == assign


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_a_message_cannot_be_changed(kind: type[Any]) -> None:
    """Messages are tuples; a body, which is not among the values of the line, comes last."""
    assert issubclass(kind, tuple)
    assert "body" not in vars(kind)["_fields"][:-1]
