"""The work of the process for one request: submit, wait on the queue, return the result."""

from __future__ import annotations

import asyncio
import json
import os
from multiprocessing.queues import Queue
from typing import Any

import aiohttp

__all__ = ["TIMEOUT_S", "run_job"]

TIMEOUT_S = 30


def run_job(job: dict[str, Any], inbox: Queue[bytes]) -> bytes:
    """Submit `job`, then wait for its callback's body in `inbox`."""
    asyncio.run(_submit(job))
    return inbox.get(timeout=TIMEOUT_S)


async def _submit(job: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json", "Connection": "close"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(os.environ["JOB_SERVER_URL"], data=json.dumps(job)) as reply,
    ):
        await reply.read()
