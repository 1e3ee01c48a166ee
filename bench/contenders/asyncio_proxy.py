"""A proxy without isolation: one asyncio process, the same parts (Starlette, Hypercorn, aiohttp), the same protocol."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bench.contenders.serving import callback_base, serve

waiting: dict[str, asyncio.Future[bytes]] = {}
sessions: list[aiohttp.ClientSession] = []


async def queue_job(request: Request) -> Response:
    """Submit the job and wait for its callback."""
    job = await request.json()
    token = secrets.token_urlsafe(32)
    result = waiting[token] = asyncio.get_running_loop().create_future()
    try:
        job |= {"wait": False, "callback": f"{callback_base()}/{token}"}
        async with sessions[0].post(os.environ["JOB_SERVER_URL"], data=json.dumps(job)) as reply:
            await reply.read()
        return Response(await asyncio.wait_for(result, 30), media_type="application/json")
    finally:
        del waiting[token]


async def callback(request: Request) -> Response:
    """Pass a result to the request that waits for it."""
    result = waiting.get(request.path_params["token"])
    if result is None:
        return PlainTextResponse("", 404)
    if not result.done():
        result.set_result(await request.body())
    return JSONResponse({"status": "accepted"})


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Keep one client session; unless KEEP_ALIVE is set, connections to the job server close after the reply."""
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(force_close="KEEP_ALIVE" not in os.environ, limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        sessions.append(session)
        yield


if __name__ == "__main__":
    routes = [
        Route("/queueJob", queue_job, methods=["POST"]),
        Route("/callback/{token}", callback, methods=["POST"]),
    ]
    serve(Starlette(routes=routes, lifespan=lifespan))
