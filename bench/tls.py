"""The cost of TLS to the job server per job, with workers that keep their connection and with those that do not."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.contenders.table import Contender
from bench.job_server import TLS
from bench.load import Client, send, send_job
from bench.measures import Tls, percentile
from bench.processes import cpu_s
from bench.profile import profile_with
from bench.session import Session

__all__ = ["run_tls"]

_JOBS: Final = 150
#: The only difference between the two profiles.
_KEEP_ALIVE: Final = ("false", "true")


async def run_tls(session: Session, contenders: Sequence[Contender]) -> list[Tls]:
    """Send jobs one after the other, to each contender of this project, with each value of `keep_alive`."""
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for contender in contenders:
            for keep_alive in _KEEP_ALIVE:
                async with session.attempt(f"keep_alive = {keep_alive}  {contender.name}"):
                    profile = profile_with(Path(folder), keep_alive)
                    result = await _measure(session, contender, profile, keep_alive=keep_alive == "true")
                    session.say(f"{result.handshakes} handshakes for {result.jobs} jobs, p50 {result.p50_ms:.1f} ms")
                    results.append(result)
    return results


async def _measure(session: Session, contender: Contender, profile: Path, *, keep_alive: bool) -> Tls:
    settings = {
        "PROFILE": str(profile),
        "JOB_SERVER_URL": f"https://127.0.0.1:{(await _listener(session))['port']}/start",
        "JOB_SERVER_CAFILE": str(TLS / "cert.pem"),
        "WORKER_SPARES": "1",
    }
    async with session.running(contender, settings) as proxy:
        client = Client(proxy.url)
        before, used_s = (await _listener(session))["opened"], cpu_s(proxy.pid)
        added_ms = []
        for _ in range(_JOBS):
            answer = await send_job(client, proxy.url, {"account": "example"})
            added_ms.append(answer.latency_s * 1000 - json.loads(answer.body)["took_ms"])
            await asyncio.sleep(0.01)  # until a spare is ready, or the worker is back
        opened, used_s = (await _listener(session))["opened"] - before, cpu_s(proxy.pid) - used_s
        client.close()
    return Tls(
        contender=contender.name,
        keep_alive=keep_alive,
        jobs=_JOBS,
        handshakes=opened,
        p50_ms=percentile(added_ms, 50),
        p99_ms=percentile(added_ms, 99),
        cpu_ms_per_job=used_s * 1000 / _JOBS,
    )


async def _listener(session: Session) -> dict[str, int]:
    """Return the job server's port for TLS, and the number of connections there so far."""
    found: dict[str, int] = json.loads(await send("GET", f"{session.job_server.url}/tls"))
    return found
