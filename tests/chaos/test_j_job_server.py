"""J1 to J5: a job server that cannot be reached, does not answer, refuses, answers nonsense, or redirects.

Faults of the wire come from the fault proxy, per submission (`wire`); those of the job server from its own faults.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos.support.fault_proxy import FaultProxy
from tests.chaos.support.harness import TIMEOUT_S, Chaos, Reply
from tests.chaos.support.processes import JobServerProcess
from tests.support.waiting import eventually

Fields = dict[str, object]


@pytest.fixture
async def wire(job_server: JobServerProcess) -> AsyncIterator[FaultProxy]:
    """A fault proxy before the job server."""
    address = urlsplit(job_server.url)
    assert address.hostname is not None
    assert address.port is not None
    async with FaultProxy(address.hostname, address.port) as proxy:
        yield proxy


@pytest.fixture
def deaf_url() -> Iterator[str]:
    """The address of a listener with a full queue: the kernel drops connection attempts, so that clients wait."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/start"


@pytest.fixture
def refusing_url() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/start"


async def test_j1_job_server_that_cannot_be_reached(chaos: Chaos, refusing_url: str) -> None:
    """Refused, or a name that does not resolve: `no`, after retries, within 2 s."""
    refused, unnamed = await asyncio.gather(
        chaos.job(chaos_url=refusing_url, chaos="note@p1"),
        chaos.job(chaos_url="http://job-server.invalid/start", chaos="dns-fails@p1"),
    )
    for reply in (refused, unnamed):
        assert reply.summary == (500, "job-server-unavailable", "no")
        assert reply.own_s < 2


@pytest.mark.hasty
async def test_j1_connection_that_is_reset_after_sending(chaos: Chaos, wire: FaultProxy) -> None:
    """Nobody knows whether the submission arrived: `unknown`, within 2 s (LOST_REPLY_WAIT is 0.5 s here)."""
    cases: dict[str, Fields] = {
        "reset before the reply": {"wire": "reset:0"},
        "closed before the reply": {"fault": "drop"},
        "reset by the job server": {"fault": "reset"},
        "half the request arrived": {"wire": "half"},
        "reset within the status line": {"wire": "reset:5", "run": False, "fault": "never"},
    }
    for case, reply in (await _all(chaos, cases, wire)).items():
        assert reply.summary == (500, "job-server-unavailable", "unknown"), case
        assert reply.own_s < 2, case


async def test_j1_callback_after_a_lost_reply_is_the_answer(chaos: Chaos, wire: FaultProxy) -> None:
    """The reply is lost but the job runs: its callback comes within LOST_REPLY_WAIT and proves it."""
    cases: dict[str, Fields] = {
        "dropped, but runs": {"fault": "drop-but-run"},
        "reset in the reply": {"wire": "reset:5"},
        "cut in the reply": {"wire": "cut:5"},
    }
    for case, reply in (await _all(chaos, cases, wire)).items():
        assert reply.status == 200, case


@pytest.mark.hasty
async def test_j2_job_server_that_does_not_answer(chaos: Chaos, wire: FaultProxy, deaf_url: str) -> None:
    """A look-up that hangs, a black hole, silence, a byte a second: the deadline ends each, and the worker goes."""
    cases: dict[str, tuple[Fields, str]] = {
        "look-up hangs": ({"chaos": "dns-hangs@p1", "chaos_url": "http://job-server.invalid/start"}, "no"),
        "no connection": ({"chaos": "note@p1", "chaos_url": deaf_url}, "no"),
        "black hole": ({"chaos": "note@p1", "wire": "black-hole"}, "unknown"),
        "reply swallowed": ({"chaos": "note@p1", "wire": "swallow", "fault": "never"}, "unknown"),
        "silence": ({"chaos": "note@p1", "fault": "hang"}, "unknown"),
        "a byte a second": ({"chaos": "note@p1", "fault": "slow-reply"}, "unknown"),
        "a byte a second, by the wire": ({"chaos": "note@p1", "wire": "drip:1", "fault": "never"}, "unknown"),
    }
    replies = await _all(chaos, {name: fields for name, (fields, _) in cases.items()}, wire)
    for case, reply in replies.items():
        assert reply.summary == (500, "deadline-exceeded", cases[case][1]), case
        is_unsent = reply.document["detail"].endswith("there was no connection to the job server")
        assert is_unsent is (cases[case][1] == "no"), case
        assert reply.took_s > TIMEOUT_S - 0.2, case
    pids = [chaos.proxy.act(reply.ref)["pid"] for reply in replies.values()]
    await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 1, chaos.proxy.stopwatch())


@pytest.mark.parametrize(
    ("code", "submitted", "faults"),
    [
        ("job-rejected", "no", [{"fault": "reject", "status": status} for status in (400, 401, 403, 404, 409, 499)]),
        ("job-rejected", "no", [{"fault": "rate-limit", "times": 100}, {"fault": "refuse"}]),
        ("job-rejected", "unknown", [{"fault": "server-error", "status": status} for status in (500, 502, 504)]),
        ("job-rejected", "unknown", [{"fault": "unavailable"}]),
        ("bad-job-server-reply", "unknown", [{"fault": "garbage"}, {"fault": "wrong-state"}]),
        pytest.param("bad-job-server-reply", "unknown", [{"fault": "short-body"}], marks=pytest.mark.hasty),
    ],
    ids=["4xx", "busy", "5xx", "503", "no-json", "short-body"],
)
async def test_j3_reply_that_is_no_success(
    chaos: Chaos, wire: FaultProxy, code: str, submitted: str, faults: list[Fields]
) -> None:
    """4xx and 429 prove that nothing runs; 5xx and replies outside the protocol prove nothing. One that is cut off is
    lost: the callback could still come (LOST_REPLY_WAIT is 0.5 s here).
    """
    replies = await _all(chaos, {str(fields): fields for fields in faults}, wire)
    for case, reply in replies.items():
        assert reply.summary == (500, code, submitted), case


async def test_j4_reply_that_is_meant_to_fill_memory(chaos: Chaos) -> None:
    """Endless, compressed, with 100,000 headers or as many brackets: refused; the worker grows by less than 64 MiB."""
    names = ("endless-body", "gzip-bomb", "many-headers", "deep-json", "garbage")
    replies = await asyncio.gather(*(chaos.job(fault=name, chaos="measure@p1") for name in names))
    peaks = []
    for name, reply in zip(names, replies, strict=True):
        assert reply.summary == (500, "bad-job-server-reply", "unknown"), name
        peaks.append(max(act.get("peak_bytes", 0) for act in chaos.proxy.acts_of(reply.ref)))
    plain = peaks.pop()
    assert plain > 0
    assert max(peaks) - plain < 64 * 1024 * 1024


async def test_j5_redirect_is_not_followed(chaos: Chaos) -> None:
    """Whatever the kind of redirect, the other address is never called."""
    replies = await asyncio.gather(*(chaos.job(fault="redirect", status=status) for status in (301, 302, 307, 308)))
    assert {(reply.status, reply.code) for reply in replies} == {(500, "job-rejected")}
    assert (await chaos.ledger())["elsewhere"] == 0


async def _all(chaos: Chaos, cases: dict[str, Fields], wire: FaultProxy) -> dict[str, Reply]:
    """Run all cases at once; those that name a fault of the wire go through the fault proxy."""
    through = {
        name: {"chaos_url": wire.url, **fields} if "wire" in fields else fields for name, fields in cases.items()
    }
    replies = await asyncio.gather(*(chaos.job(**fields) for fields in through.values()))
    return dict(zip(through, replies, strict=True))
