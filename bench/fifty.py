"""50 jobs of 0.5 s at once: with the benchmark's load and job server, and with the project's own, like a user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence

from bench.contenders.table import Contender
from bench.load import Load, LoadError, fire
from bench.measures import Fifty
from bench.session import Proxy, Session

__all__ = ["AS_A_USER", "WITH_SPARES", "run_fifty"]

#: The variant with more spares than jobs.
WITH_SPARES = "fresh, 64 spares"
#: The variant with `python -m jobclient` and the embedded job server, which serves one connection at a time.
AS_A_USER = "jobclient"


async def run_fifty(session: Session, contenders: Sequence[Contender], *, times: int) -> list[Fifty]:
    """Measure each contender, then our proxy with a fresh process per job as a user sees it; `times` times in turns."""
    results: list[Fifty] = []
    async with contextlib.AsyncExitStack() as stack:
        proxies: dict[str, Proxy] = {}
        for contender in contenders:
            proxies[contender.name] = await stack.enter_async_context(session.running(contender))
            if contender.name == "fresh":
                spares = {"WORKER_SPARES": "64"}
                proxies[WITH_SPARES] = await stack.enter_async_context(session.running(contender, spares))
        for number in range(times):
            async with session.attempt(f"50 jobs {number + 1}/{times}"):
                for way, proxy in proxies.items():
                    await session.settle()
                    load = await fire(proxy.url, jobs=50, document={"account": "example", "duration": 0.5})
                    results.append(Fifty(way=way, total_s=load.took_s, submitted_s=_last_submission_s(load)))
                session.say("  ".join(f"{one.way} {one.total_s:.3f}" for one in results[-len(proxies) :]) + " s")
    for contender in [one for one in contenders if one.name == "fresh"]:
        async with (
            session.attempt("50 jobs  job client"),
            session.running(contender, {"JOB_SERVER_URL": ""}) as proxy,
        ):
            totals = []
            for _ in range(times):
                await session.settle()
                totals.append(await _job_client(proxy.url))
            session.say("  ".join(f"{total_s:.3f}" for total_s in totals) + " s")
            results += [Fifty(way=AS_A_USER, total_s=total_s) for total_s in totals]
    return results


def _last_submission_s(load: Load) -> float:
    """Return when the last job had reached the job server, which has the same clock as we."""
    return max(float(json.loads(answer.body)["submitted_at"]) for answer in load.answers) - load.started


async def _job_client(url: str) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "jobclient", url, "--json", stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    output, _ = await process.communicate()
    report = json.loads(output)
    if not report["passed"]:
        raise LoadError(f"the job client did not pass: {output.decode()}")
    return float(report["total_s"])
