"""L1 to L5, and C6: clients and callers that leave, half leave, do not read, stall, or come in thousands."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos
from tests.chaos.support.http2 import HTTP2
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy
from tests.chaos.support.raw import request
from tests.support.http import new_ref
from tests.support.waiting import eventually

_STALL_S = 10.0
_STREAMS = 3_000
_HEAD = b"POST /queueJob HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("way", ["reset", "close"])
async def test_l1_client_that_leaves_while_it_waits(chaos: Chaos, way: str) -> None:
    """Its job runs to its end all the same, and its place is free again."""
    refs = [new_ref() for _ in range(5)]
    for ref in refs:
        raw = await chaos.raw()
        await raw.send_job(account=ref, ref=ref, duration=0.3)
        await chaos.submission(ref)
        getattr(raw, way)()
    chaos.abandoned += len(refs)
    await eventually(lambda: chaos.ended_well(len(refs)))
    for ref in refs:
        story = await chaos.story(ref)
        assert [call["status"] for call in story["callbacks"]] == [200]
    assert not [line for line in chaos.proxy.stderr if "never retrieved" in line]


async def test_l2_client_that_closes_its_sending_half(chaos: Chaos) -> None:
    """It still gets its result."""
    raw = await chaos.raw()
    await raw.send_job(account="l2", ref="l2", duration=0.3)
    raw.writer.write_eof()
    answer, _ = await raw.until_closed(TIMEOUT_S + 1)
    raw.close()
    chaos.abandoned += 1
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["state"] == "completed"


async def test_l3_client_that_never_reads_its_answer(chaos: Chaos) -> None:
    """Its answer of 900 KiB goes nowhere, but its worker and its place are free by D + 1, and its connection soon."""
    raw = await chaos.raw(receive_bytes=4096)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a read transport as well
    begun = time.monotonic()
    await raw.send_job(account="l3", ref="l3", fault="big-result")
    chaos.abandoned += 1
    await eventually(lambda: chaos.ended_well(1))
    assert time.monotonic() - begun < TIMEOUT_S + 1
    await eventually(lambda: not chaos.proxy.serves(raw), _STALL_S + 3)
    raw.reset()


async def test_l3_client_that_pipelines_and_closes(chaos: Chaos) -> None:
    """Of ten requests in one go the first is a job; when the client has left, nothing is left of any."""
    refs = [new_ref() for _ in range(10)]
    raw = await chaos.raw(len(refs))
    bodies = [json.dumps({"account": ref, "ref": ref, "duration": 0.1}).encode() for ref in refs]
    begun = time.monotonic()
    await raw.send(b"".join(request("/queueJob", body) for body in bodies))
    await chaos.submission(refs[0])
    raw.close()
    await eventually(lambda: chaos.ended_well(1))
    assert time.monotonic() - begun < TIMEOUT_S + 1
    # Each request that was begun is a job that ends; how many were depends on when the close was seen.
    await eventually(lambda: not chaos.proxy.serves(raw))
    await chaos.forget_abandoned(len(refs))


async def test_l4_and_c6_headers_and_bodies_that_stall(chaos: Chaos) -> None:
    """Headers that do not come: closed within 6 s. A body that stalls, of a job or of a callback: 408 within 10 s."""
    job = asyncio.ensure_future(chaos.job(fault="never", ref="c6"))
    callback = (await chaos.callback_url("c6")).removeprefix(chaos.proxy.url)
    stalls = {
        "nothing": (b"", 6.0, b""),
        "half a line": (b"POST /queu", 6.0, b""),
        "half the headers": (b"POST /queueJob HTTP/1.1\r\nHost: x\r\n", 6.0, b""),
        "half a body": (request("/queueJob", b'{"acc', length=100), _STALL_S, b"HTTP/1.1 408 "),
        "half a chunk": (
            _HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{",
            _STALL_S,
            b"HTTP/1.1 408 ",
        ),
        "half a callback": (request(callback, b'{"sta', length=100), _STALL_S, b"HTTP/1.1 408 "),
    }

    async def stall(name: str) -> None:
        data, limit_s, begins = stalls[name]
        raw = await chaos.raw()
        await raw.send(data)
        answer, took_s = await raw.until_closed(limit_s + 2)
        raw.close()
        assert took_s < limit_s, name
        assert answer.startswith(begins), name
        assert b'"code": "request-timeout"' in answer or not begins

    await asyncio.gather(*map(stall, stalls))
    assert (await job).code == "deadline-exceeded"  # a callback that stalls is no callback


@pytest.fixture
def small_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy that admits few jobs."""
    with start_proxy(MAX_JOBS="20", WORKER_SPARES="2") as proxy:
        yield proxy


async def test_l5_thousands_of_http2_streams_reset_at_once(
    small_proxy: FaultyProxy, job_server: JobServerProcess
) -> None:
    """Over any number of streams no more workers are made than jobs are admitted, and then it is as before."""
    async with Chaos(small_proxy, job_server, canaries=False, lag_s=0.5) as chaos:
        workers = []
        chaos.unheard = _STREAMS
        async with HTTP2(small_proxy.url) as client:
            for n in range(_STREAMS):
                ref = new_ref()
                body = json.dumps({"account": ref, "ref": ref, "fault": "never"}).encode()
                await client.post_and_reset("/queueJob", body)
                if not n % 100:
                    workers.append(len(await chaos.workers()))
            workers.append(len(await chaos.workers()))
            assert client.connections <= 4, "broken more often than after each 1,000 requests"
        assert max(workers) <= 20 + 2
        await eventually(lambda: _idle(chaos), TIMEOUT_S + 3)
        assert (await chaos.job()).status == 200
        # An answer for a stream that was reset is given up after 10 s, and then its connection goes as well.
        await eventually(lambda: small_proxy.connections() <= chaos.connections_before, _STALL_S + 3)
        await chaos.forget_abandoned(_STREAMS)


async def _idle(chaos: Chaos) -> bool:
    return all(worker["state"] == "spare" for worker in await chaos.workers())
