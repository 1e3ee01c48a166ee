"""Which job server a job is for, retries of a submission, and `Retry-After`."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import JobServerError, RejectedError, UnavailableError
from shared.job_server import loader
from shared.job_server.profile import Profile
from shared.lifecycle import Event
from shared.messages import Assign
from shared.worker_config import JobServer, WorkerConfig
from worker import exchange, job_client
from worker.connection import Address, Connection
from worker.job_client import JobClient, JobServers, retry_after_s

_RUNNING: Final = b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"state":"running"}'
_BUSY: Final = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
_DAY_S: Final = 86_400


class _Server:
    """Answers each attempt with what the test says: bytes, or an error instead of a connection."""

    def __init__(self, replies: Sequence[bytes | JobServerError]) -> None:
        self._replies = iter(replies)
        self.requests: list[bytes] = []

    async def connect(self) -> Connection:
        """Connect, or fail."""
        reply = next(self._replies)
        if isinstance(reply, JobServerError):
            raise reply
        connection = Connection(asyncio.get_running_loop(), 1_000)
        connection.connection_made(_Transport(connection, reply, self.requests.append))
        return connection


class _Transport(asyncio.Transport):
    """Answers what is written."""

    def __init__(self, connection: Connection, reply: bytes, hear: Callable[[bytes], None]) -> None:
        super().__init__()
        self._connection = connection
        self._reply = reply
        self._hear = hear

    def write(self, data: Any) -> None:  # noqa: ANN401 - as in asyncio
        """Read a request and answer it."""
        self._hear(data)
        self._connection.data_received(self._reply)
        self._connection.connection_lost(None)

    def abort(self) -> None:
        """Do nothing."""


async def _at_once() -> None:
    """Allow a retry at once."""


def _client(
    replies: Sequence[bytes | JobServerError], *, retries: int, profile: Profile | None = None
) -> tuple[JobClient, _Server]:
    job_server = JobServer(url="http://127.0.0.1:9/start", profile=profile or loader.load("spreedly"))
    config = WorkerConfig(
        job_servers=(job_server,), max_body_bytes=1_000, submit_retries=retries, lost_reply_wait_s=0, max_jobs=1
    )
    client = JobClient(config, job_server)
    server = _Server(replies)
    route = client.exchange.prepare("POST", job_server.url)
    object.__setattr__(route, "address", cast("Address", server))  # the only thing that is not real here
    return client, server


def _job(**named: Any) -> Assign:
    fields = {"job_id": "j", "callback_url": "http://x/t", "body": b'{"account":"x"}'} | named
    return Assign(deadline=time.monotonic() + 20, **fields)


def _refused() -> UnavailableError:
    return UnavailableError("nobody there", refused=True, retryable=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "_PAUSE_S", 0.0)


async def test_what_certainly_started_nothing_is_sent_again() -> None:
    """Each attempt and each refusal is reported, in order."""
    client, server = _client([_refused(), _BUSY, _RUNNING], retries=3)
    events: list[Event] = []
    await client.submit(_job(), events.append, _at_once)
    assert events == [Event.REFUSED, Event.CONNECTED, Event.REFUSED, Event.CONNECTED]
    assert server.requests[0] == server.requests[1]


async def test_nothing_is_sent_again_before_it_may_be() -> None:
    """The job server may have the job after all, whatever it answered."""
    client, server = _client([_BUSY, _RUNNING], retries=3)
    asked, may = asyncio.Event(), asyncio.Event()

    async def before_retry() -> None:
        asked.set()
        await may.wait()

    submission = asyncio.ensure_future(client.submit(_job(), lambda _: None, before_retry))
    await asked.wait()
    assert len(server.requests) == 1
    may.set()
    await submission
    assert len(server.requests) == 2


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_there_are_no_more_retries_than_allowed(retries: int) -> None:
    """Then the last error counts."""
    client, _ = _client([_refused()] * 5, retries=retries)
    events: list[Event] = []
    with pytest.raises(UnavailableError, match="nobody there"):
        await client.submit(_job(), events.append, _at_once)
    assert events == [Event.REFUSED] * (retries + 1)


@pytest.mark.parametrize(
    ("reply", "events"),
    [
        (UnavailableError("the connection broke", lost_reply=True), []),
        (UnavailableError("no TLS", refused=True), [Event.REFUSED]),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", [Event.CONNECTED]),
        (b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n", [Event.CONNECTED, Event.REFUSED]),
        (b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n", [Event.CONNECTED]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", [Event.CONNECTED]),
        (b"HTTP/1.1 200 OK\r\n", [Event.CONNECTED]),
    ],
    ids=repr,
)
async def test_nothing_else_is_sent_again(reply: bytes | JobServerError, events: list[Event]) -> None:
    """A retry might start a second job, or change nothing; only what proves that nothing was started is a refusal."""
    client, _ = _client([reply, _RUNNING], retries=3)
    reported: list[Event] = []
    with pytest.raises(JobServerError):
        await client.submit(_job(), reported.append, _at_once)
    assert reported == events


async def test_the_pause_before_a_retry_doubles_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many retries there are; the job server may ask for a longer one, but not for a shorter one."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(job_client, "_PAUSE_S", 0.5)
    monkeypatch.setattr(job_client, "_random", SimpleNamespace(uniform=lambda _, most: most))
    monkeypatch.setattr(asyncio, "sleep", pause)
    asked = [b"HTTP/1.1 429 Later\r\nRetry-After: %d\r\nContent-Length: 0\r\n\r\n" % seconds for seconds in (7, 1)]
    replies = [*[_BUSY] * 4, *asked, *[_BUSY] * 1_100, _RUNNING]
    client, _ = _client(replies, retries=len(replies))
    await client.submit(_job(), lambda _: None, _at_once)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 7.0, *[5.0] * 1_101]


def _answer(status: int, body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *headers, b"", body])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (_answer(422, b'{"error": "no such account"}'), "422: no such account"),
        (_answer(404, b'{"error": {"message": "no\\n\\u001b[31msuch"}}'), "404: no [31msuch"),
        (_answer(500, b"out of\r\n paper"), "500: out of paper"),
        (_answer(400, b"<html>Bad Request</html>"), "400"),
        (_answer(400, b"\x1f\x8b\x08\x00"), "400"),
        (_answer(400, b""), "400"),
        (_answer(400, b"[1, 2]"), "400: [1, 2]"),
        (_answer(422, b'\xef\xbb\xbf{"error": "no such account"}'), "422: no such account"),
        (_answer(422, '{"error": "gesperrt für Süd"}'.encode("latin-1")), "422: gesperrt für Süd"),
        (_answer(422, '{"error": "no such account"}'.encode("utf-16")), "422: no such account"),
        (_answer(422, gzip.compress(b'{"error": "no"}', mtime=0), b"Content-Encoding: gzip"), "422: no"),
        (_answer(422, bytes(range(256))), "422"),
        (
            _answer(400, b"cannot call /callback/the-token, nor log in with s3cr3t"),
            "400: cannot call /callback/***, nor log in with ***",
        ),
        (_answer(400, b"x" * 900), f"400: {'x' * 500}…"),
        (_answer(503, b"full", b"Retry-After: 3"), "503 and asks to wait 3 s: full"),
        (b"HTTP/1.1 422 X\r\nContent-Length: 100\r\n\r\nhalf", "422: half"),
        (_answer(502, b"<html><head><TITLE>502 Bad\nGateway</TITLE></head>"), "502: 502 Bad Gateway"),
        (
            _answer(400, b'<!DOCTYPE html><title lang="en">Plain HTTP to an HTTPS port'),
            "400: Plain HTTP to an HTTPS port",
        ),
        (_answer(404, b"<html><title/><h1>no</h1>"), "404"),
        (_answer(404, b"<html><h1>no</h1>"), "404"),
        (_answer(308, b""), "308, a redirect, which is not followed"),
    ],
)
async def test_a_refusal_has_the_job_servers_own_words(reply: bytes, said: str) -> None:
    """If they can be read: without secrets, and truncated if they are long."""
    client, _ = _client([reply], retries=0)
    client.job_server.secrets["env:KEY"] = "s3cr3t"
    with pytest.raises(RejectedError) as caught:
        await client.submit(_job(callback_url="http://x/callback/the-token"), lambda _: None, _at_once)
    assert caught.value.detail == f"the job server answered {said}"


async def test_a_failure_in_the_reply_repeats_no_secret() -> None:
    """Neither its reason nor its body."""
    spreedly = loader.load("spreedly")
    submit = replace(spreedly.submit, succeeded=("completed",), failed=("failed",), error="body.why")
    client, _ = _client(
        [_answer(200, b'{"state": "failed", "why": "bad s3cr3t"}')], retries=0, profile=replace(spreedly, submit=submit)
    )
    client.job_server.secrets["env:KEY"] = "s3cr3t"
    reply = await client.submit(_job(), lambda _: None, _at_once)
    assert reply.verdict is not None
    assert (reply.verdict.error, reply.body) == ("bad ***", b'{"state": "failed", "why": "bad ***"}')


async def test_words_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the refusal matters."""
    monkeypatch.setattr(exchange, "_REASON_S", 0.01)
    client, server = _client([b"HTTP/1.1 422 X\r\nContent-Length: 100\r\n\r\nhalf"], retries=0)
    monkeypatch.setattr(Connection, "connection_lost", lambda *_: None)
    with pytest.raises(RejectedError) as caught:
        await client.submit(_job(), lambda _: None, _at_once)
    assert (caught.value.detail, caught.value.refused) == ("the job server answered 422: half", True)
    assert len(server.requests) == 1


async def test_a_header_of_a_reply_may_be_long() -> None:
    """Job servers put tokens and policies into one."""
    long = _RUNNING.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 9_000 + b"\r\n\r\n")
    client, _ = _client([long], retries=0)
    await client.submit(_job(), lambda _: None, _at_once)


async def test_a_job_server_that_is_often_busy_is_asked_until_the_deadline() -> None:
    """If the profile says how to recognise that it is busy, the limit of retries does not apply."""
    spreedly = loader.load("spreedly")
    profile = replace(spreedly, submit=replace(spreedly.submit, busy=(429,)))
    client, server = _client([*[_BUSY] * 50, _RUNNING], retries=1, profile=profile)
    await client.submit(_job(), lambda _: None, _at_once)
    assert len(server.requests) == 51


async def test_nothing_is_waited_for_beyond_the_deadline() -> None:
    """If a job server asks for an hour, its refusal is the answer at once."""
    later = b"HTTP/1.1 503 Later\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"
    client, _ = _client([later, _RUNNING], retries=3)
    with pytest.raises(RejectedError) as caught:
        await client.submit(_job(), lambda _: None, _at_once)
    assert caught.value.retry_after_s == 3600


async def test_a_trace_context_is_passed_on_where_it_can_be_one() -> None:
    """One that would be another header is dropped, and the job continues."""
    trace = {"traceparent": "00-abc-def-01", "tracestate": "a=b\r\nX-Evil: 1"}
    client, server = _client([_RUNNING], retries=0)
    await client.submit(_job(**trace), lambda _: None, _at_once)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert b"traceparent: 00-abc-def-01" in head.splitlines()
    assert b"evil" not in head.lower()
    assert f"Content-Length: {len(body)}".encode() in head.splitlines()


@pytest.mark.parametrize(
    ("value", "pause_s"),
    [
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("7", 7),
        (" 120 ", 120),
        ("9" * 400, _DAY_S),
        ("Fri, 31 Dec 9999 23:59:59 GMT", _DAY_S),
        ("Fri, 31 Dec 9999 23:59:59 -2300", _DAY_S),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +9999999999999999999", None),
    ],
)
def test_a_pause_is_asked_for_in_seconds_or_by_a_date(value: str, pause_s: float | None) -> None:
    """At most a day, and never negative; an invalid value asks for nothing."""
    assert retry_after_s({"Retry-After": value}) == pause_s


def test_a_date_to_come_is_a_pause_until_then() -> None:
    """To the second, which is the precision of a date."""
    pause_s = retry_after_s({"Retry-After": _date(seconds=60)})
    assert pause_s is not None
    assert 55 < pause_s <= 60


@pytest.mark.parametrize("ahead_s", [-7200, 0, 7200])
def test_a_date_counts_from_the_date_of_the_answer(ahead_s: int) -> None:
    """The job server's clock may be wrong, or this machine's: the jobs would wait in vain, or use up their retries."""
    assert retry_after_s({"Retry-After": _date(seconds=ahead_s + 60), "Date": _date(seconds=ahead_s)}) in {59, 60, 61}


def test_a_date_that_is_none_does_not_count() -> None:
    """Nor does one without a `Retry-After`."""
    pause_s = retry_after_s({"Retry-After": _date(seconds=60), "Date": "now"})
    assert pause_s is not None
    assert 55 < pause_s <= 60
    assert retry_after_s({"Date": _date()}) is None


def _date(**ahead: float) -> str:
    """Return an HTTP date."""
    return format_datetime(datetime.now(UTC) + timedelta(**ahead), usegmt=True)


_DATE_PARTS: Final = st.sampled_from(
    ["Mon", ",", " ", "1", "31", "Feb", "Dec", "0", "9999", "10000", ":", "23", "59", "-"]
)


@given(st.text() | st.lists(_DATE_PARTS, max_size=20).map("".join) | st.datetimes().map(format_datetime))
@example("Fri, 31 Dec 9999 23:59:59 GMT")
def test_any_retry_after_is_a_pause_or_none(value: str) -> None:
    """No header can crash a worker."""
    pause_s = retry_after_s({"Retry-After": value, "Date": value})
    assert pause_s is None or 0 <= pause_s <= _DAY_S


_LINES: Final = st.sampled_from(["Retry-After", "Content-Type", "Location", "Set-Cookie", "X"]).flatmap(
    lambda name: st.text(st.characters(exclude_characters="\r\n\x00", max_codepoint=255), max_size=30).map(
        lambda value: f"{name}: {value}\r\n".encode("latin-1")
    )
)
_BODIES: Final = (
    st.binary(max_size=60)
    | st.sampled_from([b'{"state":"running"}', b"[" * 2_000, b'{"state":1e999}', b'"\\ud800"', b"\xef\xbb\xbf{}"])
    | st.recursive(
        st.sampled_from(["null", "1", '"running"', "NaN", "-0", "1e400"]),
        lambda inner: st.lists(inner, max_size=3).map(lambda items: '{"state":[' + ",".join(items) + "]}"),
        max_leaves=4,
    ).map(str.encode)
)


@given(st.integers(100, 999), st.lists(_LINES, max_size=4), _BODIES)
def test_whatever_a_job_server_answers_is_a_job_that_runs_or_an_error_of_ours(
    status: int, lines: list[bytes], body: bytes
) -> None:
    """Any status, headers and body: a client always gets an answer, and a true one."""
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n".encode()
    error = asyncio.run(_submission(head + b"".join(lines) + b"\r\n" + body))
    if error is None:
        assert 200 <= status < 300
        assert b"running" in body
    elif error.refused:
        assert 400 <= status < 500 or status == 503


async def _submission(reply: bytes) -> JobServerError | None:
    client, _ = _client([reply], retries=0)
    try:
        await client.submit(_job(), lambda _: None, _at_once)
    except JobServerError as exc:
        return exc
    return None


def test_each_job_server_is_prepared_once_and_before_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker prepared it after the fork, each job would pay for it; no name means the first one."""
    made: list[str] = []

    def make(config: WorkerConfig, job_server: JobServer) -> JobClient:
        made.append(job_server.profile.name)
        return JobClient(config, job_server)

    monkeypatch.setattr(job_client, "JobClient", make)
    names = ["spreedly", "cog"]
    servers = tuple(JobServer(url="http://127.0.0.1:9/", profile=loader.load(name)) for name in names)
    all_of_them = JobServers(
        WorkerConfig(job_servers=servers, max_body_bytes=1_000, submit_retries=0, lost_reply_wait_s=0, max_jobs=1)
    )

    clients = [all_of_them.client(name) for name in (*names, "")]

    assert made == names
    assert [client.job_server for client in clients] == [*servers, servers[0]]
