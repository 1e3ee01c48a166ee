"""HTTP abuse from outside, with the tools of abusers, slowhttptest and wrk, and with random bytes.

Each is limited in time and goes to 127.0.0.1 only. Canaries run meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.support.harness import Chaos
from tests.chaos.support.processes import FaultyProxy, JobServerProcess, StartProxy
from tests.chaos.support.raw import connect, request
from tests.support.waiting import eventually

_FUZZ_REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1000"))
_DESCRIPTORS = 500
#: What unfinished bodies may hold together.
_BODIES_BYTES = 64 * 1024 * 1024
#: Another transfer coding, another version: 5xx, but not failures.
_NOT_SPOKEN = (b"HTTP/1.1 501 ", b"HTTP/1.1 505 ")
_SEED = int(os.environ.get("FUZZ_SEED", "0")) or secrets.randbits(32)


async def run(chaos: Chaos, tool: str, *arguments: str) -> str:
    """Run a tool to its end and return its output. Skip the test, with a reason, if it is not installed."""
    chaos.unheard = math.inf
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (.ci/run installs it)")
    process = await asyncio.create_subprocess_exec(
        tool, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(40):
        output, _ = await process.communicate()
    return output.decode(errors="replace")


@pytest.mark.parametrize(
    "kind",
    [("-H",), ("-B", "-s", "8192"), ("-X", "-w", "1", "-y", "2", "-z", "1")],
    ids=["slow-headers", "slow-body", "slow-read"],
)
async def test_abuse_by_slowhttptest(chaos: Chaos, kind: tuple[str, ...]) -> None:
    """Hundreds of slow connections: others are served throughout, and every slow one is closed."""
    options = ("-c", "150", "-r", "100", "-i", "1", "-l", "3", "-x", "10", "-p", "3")
    output = await run(chaos, "slowhttptest", *kind, *options, "-u", chaos.proxy.queue_job)
    assert "Exit status" in output, output[-500:]
    await eventually(lambda: chaos.proxy.connections() <= chaos.connections_before + 3, every_s=0.1)


async def test_abuse_by_wrk(chaos: Chaos, tmp_path: Path) -> None:
    """Connections that pipeline nonsense at full speed: each request gets an answer, and jobs succeed in between."""
    script = tmp_path / "nonsense.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.body = "{not json"\nwrk.headers["Content-Type"] = "application/json"\n'
        "local one\ninit = function() one = wrk.format() .. wrk.format() .. wrk.format() end\n"
        "request = function() return one end\n"
    )
    chaos.lag_s = 0.5  # both cores are fully busy
    output = await run(chaos, "wrk", "-t1", "-c8", "-d2s", "-s", str(script), chaos.proxy.queue_job)
    assert "Non-2xx" in output, output


@pytest.fixture(scope="module")
def few_descriptors(start_proxy: StartProxy) -> Iterator[FaultyProxy]:
    """A proxy with few descriptors."""
    with start_proxy(prefix=["prlimit", f"--nofile={_DESCRIPTORS}:{_DESCRIPTORS}"]) as proxy:
        yield proxy


@pytest.mark.xdist_group("few descriptors")
@pytest.mark.parametrize("data", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["silent", "used"])
async def test_abuse_by_idle_connections(
    few_descriptors: FaultyProxy, job_server: JobServerProcess, data: bytes
) -> None:
    """More than there are descriptors: jobs and their callbacks are served, and the connections are closed."""
    async with Chaos(few_descriptors, job_server) as chaos:
        chaos.unheard = math.inf
        idle = []
        for _ in range(2 * _DESCRIPTORS):
            idle.append(await connect(few_descriptors.url, few_descriptors.pid))
            idle[-1].writer.write(data)
        assert [reply.status for reply in await asyncio.gather(*(chaos.job() for _ in range(10)))] == [200] * 10
        await eventually(
            lambda: few_descriptors.connections() <= _DESCRIPTORS // 2 + chaos.connections_before, every_s=0.1
        )
        for raw in idle:
            raw.reset()
        await eventually(lambda: few_descriptors.connections() <= chaos.connections_before + 3, every_s=0.1)


async def test_abuse_by_unfinished_bodies(chaos: Chaos) -> None:
    """Hundreds of nearly complete bodies: their total is limited, and others are served meanwhile."""
    chaos.unheard = math.inf
    chaos.lag_s = 0.2  # the sender uses a whole core
    before = chaos.proxy.memory_bytes()
    unfinished = [await connect(chaos.proxy.url, chaos.proxy.pid) for _ in range(200)]
    body = b'{"account": "' + b"x" * 900_000
    data = request("/queueJob", body, length=1_000_000)
    sending = [asyncio.ensure_future(raw.send(data)) for raw in unfinished]
    await asyncio.wait(sending)
    assert (await chaos.job()).status == 200
    assert chaos.proxy.memory_bytes() - before < 2 * _BODIES_BYTES
    answers = await asyncio.gather(*(raw.until_closed(15) for raw in unfinished))
    statuses = Counter(answer[9:12] for answer in answers)
    assert set(statuses) <= {b"503", b"408"}
    assert statuses[b"408"] * len(body) <= _BODIES_BYTES
    for raw in unfinished:
        raw.close()


async def test_abuse_by_huge_headers_and_broken_requests(chaos: Chaos) -> None:
    """Endless headers, ten thousand headers, two lengths, no length, bare NUL: 4xx or closed; 505 for HTTP/2."""
    head = b"POST /queueJob HTTP/1.1\r\nHost: x\r\n"
    attacks = {
        "a header of 1 MiB": head + b"X: " + b"x" * 1_048_576 + b"\r\n\r\n",
        "10,000 headers": head + b"".join(b"X-%d: 1\r\n" % n for n in range(10_000)) + b"\r\n",
        "two lengths": head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        "length and chunked": head + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "negative length": head + b"Content-Length: -1\r\n\r\n",
        "huge length": request("/queueJob", b"{", length=10**30),
        "bad chunk": head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "NUL": b"\x00" * 100 + b"\r\n\r\n",
        "a path of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "not UTF-8": b"POST /\xff\xfe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        "h2 and nonsense": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200,
        "upgrade": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    }

    async def attack(name: str) -> None:
        raw = await chaos.raw()
        try:
            await raw.send(attacks[name])
            raw.writer.write_eof()
            answer = await raw.until_closed(12)
        except (ConnectionError, OSError):
            answer = b""
        finally:
            raw.close()
        status = answer.partition(b" ")[2][:3]
        allowed = b"505" if name == "h2 and nonsense" else b"4"
        assert not status or not answer.startswith(b"HTTP/1.") or status.startswith(allowed), (name, answer[:200])

    await asyncio.gather(*map(attack, attacks))


async def test_fuzz_of_the_callback_route(chaos: Chaos) -> None:
    """Random broken requests, FUZZ_REQUESTS of them: the proxy never fails, and the job keeps waiting.

    FUZZ_SEED repeats them.
    """
    rng = random.Random(_SEED)
    chaos.timeout_s = 20
    sent = 0
    while sent < _FUZZ_REQUESTS:
        ref = f"fuzz-{_SEED}-{sent}"
        job = asyncio.ensure_future(chaos.job(fault="never", ref=ref))
        path = (await chaos.callback_url(ref)).removeprefix(chaos.proxy.url)
        done_by = time.monotonic() + 1.0
        while sent < _FUZZ_REQUESTS and time.monotonic() < done_by:
            batch = [_mutant(rng, path) for _ in range(10)]
            answers = await asyncio.gather(*(_send(chaos, data) for data in batch))
            sent += len(batch)
            for data, answer in zip(batch, answers, strict=True):
                failed = answer.startswith(b"HTTP/1.1 5") and not answer.startswith(_NOT_SPOKEN)
                assert not failed, (f"FUZZ_SEED={_SEED}", data[:300], answer[:300])
        if not job.done():  # none of them was JSON under the right token
            await chaos.call_back(f"{chaos.proxy.url}{path}")
        assert (await job).code in {None, "deadline-exceeded"}, f"FUZZ_SEED={_SEED}"


def _mutant(rng: random.Random, path: str) -> bytes:
    """Return a callback that is broken somewhere."""
    body = rng.choice(
        [b'{"state": "completed"', b"\xff\xfe{", b'{"a": NaN}', b"[" * rng.randrange(2_000), rng.randbytes(50)]
    )
    data = bytearray(request(path, body, length=rng.choice([None, None, 0, len(body) - 1, 5])))
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randrange(20)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(20))
            case _:
                data[at:at] = rng.choice([b"\r\n", b"\r\n\r\n", b"\x00", b"Content-Length: 7\r\n", b"%0d%0a"])
    return bytes(data)


async def _send(chaos: Chaos, data: bytes) -> bytes:
    raw = await chaos.raw()
    try:
        await raw.send(data)
        raw.writer.write_eof()
        answer = await raw.until_closed(12)
    except (ConnectionError, OSError):
        return b""
    finally:
        raw.close()
    return answer
