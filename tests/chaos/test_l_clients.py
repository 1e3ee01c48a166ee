"""L1 to L5, and C6: clients and callers that leave, half-close, do not read, stall, or come in thousands."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos
from tests.chaos.support.http2 import opening
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy
from tests.chaos.support.raw import request
from tests.support.http import new_ref
from tests.support.waiting import eventually

_STALL_S = 10.0
_CONNECTIONS = 3_000
_TLS = Path(__file__).parents[1] / "support" / "tls"
_HEAD = b"POST /queueJob HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("way", ["reset", "close"])
async def test_l1_client_that_leaves_while_it_waits(chaos: Chaos, way: str) -> None:
    """Its job still runs to its end, and its place is free again."""
    refs = [new_ref() for _ in range(5)]
    for ref in refs:
        raw = await chaos.raw()
        await raw.send_job(account=ref, ref=ref, duration=0.3)
        await chaos.submission(ref)
        getattr(raw, way)()
    chaos.abandoned += len(refs)
    await eventually(lambda: chaos.has_ended(*refs))
    for ref in refs:
        story = await chaos.story(ref)
        assert [call["status"] for call in story["callbacks"]] == [200]
    assert not [line for line in chaos.proxy.stderr if "never retrieved" in line]


async def test_l2_client_that_closes_its_sending_half(chaos: Chaos) -> None:
    """It still gets its result."""
    raw = await chaos.raw()
    await raw.send_job(account="l2", ref="l2", duration=0.3)
    raw.writer.write_eof()
    answer = await raw.until_closed(TIMEOUT_S + 1)
    raw.close()
    chaos.abandoned += 1
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["state"] == "completed"


async def test_l3_client_that_never_reads_its_answer(chaos: Chaos) -> None:
    """Its answer of 900 KiB goes nowhere, but its worker and its place are free by D + 1, its connection soon after."""
    raw = await chaos.raw(receive_bytes=4096)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a read transport as well
    watch = chaos.proxy.stopwatch()
    await raw.send_job(account="l3", ref="l3", fault="big-result")
    chaos.abandoned += 1
    await eventually(lambda: chaos.has_ended("l3"), TIMEOUT_S + 1, watch)
    await eventually(lambda: not chaos.proxy.serves(raw), TIMEOUT_S + _STALL_S + 3, watch, every_s=0.1)
    raw.reset()


async def test_l3_client_that_pipelines_and_closes(chaos: Chaos) -> None:
    """Of ten requests sent at once the first is a job; after the client has left, nothing is left of any of them."""
    refs = [new_ref() for _ in range(10)]
    raw = await chaos.raw(len(refs))
    bodies = [json.dumps({"account": ref, "ref": ref, "duration": 0.1}).encode() for ref in refs]
    watch = chaos.proxy.stopwatch()
    await raw.send(b"".join(request("/queueJob", body) for body in bodies))
    await chaos.submission(refs[0])
    raw.close()
    await eventually(lambda: chaos.has_ended(refs[0]), TIMEOUT_S + 1, watch)
    # Each request that was begun is a job that ends; how many were begun depends on when the close was seen.
    await eventually(lambda: not chaos.proxy.serves(raw))
    await chaos.forget_abandoned(len(refs))


@pytest.mark.hasty
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
        answer = await raw.until_closed(limit_s)
        raw.close()
        assert answer.startswith(begins), name
        assert b'"code": "request-timeout"' in answer or not begins

    await asyncio.gather(*map(stall, stalls))
    assert (await job).code == "deadline-exceeded"  # a callback that stalls does not count


@pytest.fixture
def tls_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy that speaks TLS."""
    with start_proxy(TLS_CERTFILE=str(_TLS / "cert.pem"), TLS_KEYFILE=str(_TLS / "key.pem")) as proxy:
        yield proxy


@pytest.fixture
def small_proxy(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy that admits few jobs."""
    with start_proxy(MAX_JOBS="20", WORKER_SPARES="2", hasty=True) as proxy:
        yield proxy


async def test_l5_http2_with_prior_knowledge_is_refused(chaos: Chaos) -> None:
    """The refusal in HTTP/1.1 says which protocol is spoken, and its request makes no job."""
    raw = await chaos.raw()
    await raw.send(opening("/queueJob", json.dumps({"account": "l5"}).encode()))
    answer = await raw.until_closed(6)
    raw.close()
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert b'"code": "http-version-not-supported"' in answer


async def test_l5_tls_offers_http_1_alone(tls_proxy: FaultyProxy) -> None:
    """A client that could speak HTTP/2 is served in HTTP/1.1, even if it offers nothing else."""
    for offered in (["h2", "http/1.1"], ["h2"]):
        await _is_served(tls_proxy, offered)


async def _is_served(tls_proxy: FaultyProxy, offered: list[str]) -> None:
    context = ssl.create_default_context(cafile=str(_TLS / "cert.pem"))
    context.check_hostname = False
    context.set_alpn_protocols(offered)
    address = urlsplit(tls_proxy.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() in {"http/1.1", None}
    writer.write(request("/queueJob", b'{"account": "l5"}'))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()


async def test_l5_thousands_of_connections_reset_at_once(
    small_proxy: FaultyProxy, job_server: JobServerProcess
) -> None:
    """However many come, there are never more workers than admitted jobs, and afterwards all is as before."""
    async with Chaos(small_proxy, job_server, canaries=False) as chaos:
        chaos.unheard = math.inf
        _open_and_reset(chaos, _CONNECTIONS // 10)  # what it allocates for so many connections is no leak
        await eventually(lambda: _idle(chaos), TIMEOUT_S + 3, small_proxy.stopwatch())
        before = small_proxy.memory_bytes()
        workers = []
        for _ in range(10):
            _open_and_reset(chaos, _CONNECTIONS // 10)
            workers.append(len(await chaos.workers()))
        assert max(workers) <= 20 + 2
        await eventually(lambda: _idle(chaos), TIMEOUT_S + 3, small_proxy.stopwatch())
        assert (await chaos.job()).status == 200
        await eventually(lambda: small_proxy.connections() <= chaos.connections_before)
        assert small_proxy.memory_bytes() - before < 8 * 1024 * 1024
        await chaos.forget_abandoned(2 * _CONNECTIONS)


def _open_and_reset(chaos: Chaos, count: int) -> None:
    """Open this many connections at once, half of them for HTTP/2; send a job on each, and reset it."""
    address = urlsplit(chaos.proxy.url)
    http2 = opening("/queueJob", b'{"account": "http2", "fault": "never"}')
    connections = [socket.create_connection((address.hostname, address.port)) for _ in range(count)]
    for number, connection in enumerate(connections):
        ref = new_ref()
        body = json.dumps({"account": ref, "ref": ref, "fault": "never"}).encode()
        connection.sendall(http2 if number % 2 else request("/queueJob", body))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the kernel sends RST
        connection.close()


async def _idle(chaos: Chaos) -> bool:
    return all(worker["state"] == "spare" for worker in await chaos.workers())
