"""The front end of the contenders that start a process for each request; they differ in how they start it."""

from __future__ import annotations

import multiprocessing
import secrets
from collections.abc import Awaitable, Callable
from multiprocessing.context import BaseContext
from multiprocessing.queues import Queue
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from bench.contenders.serving import callback_base, serve

__all__ = ["run"]


def run(
    run_job: Callable[[dict[str, Any], Queue[bytes]], Awaitable[bytes]], context: BaseContext | None = None
) -> None:
    """Serve; `run_job` takes a job and its inbox and returns the body of the callback."""
    context = context or multiprocessing.get_context()
    inboxes: dict[str, Queue[bytes]] = {}

    async def queue_job(request: Request) -> Response:
        job = await request.json()
        token = secrets.token_urlsafe(32)
        inbox: Queue[bytes] = context.Queue()
        inboxes[token] = inbox
        try:
            job |= {"wait": False, "callback": f"{callback_base()}/{token}"}
            return Response(await run_job(job, inbox), media_type="application/json")
        finally:
            del inboxes[token]
            inbox.close()

    async def callback(request: Request) -> Response:
        inbox = inboxes.get(request.path_params["token"])
        if inbox is None:
            return PlainTextResponse("", 404)
        inbox.put(await request.body())
        return JSONResponse({"status": "accepted"})

    routes = [
        Route("/queueJob", queue_job, methods=["POST"]),
        Route("/callback/{token}", callback, methods=["POST"]),
    ]
    serve(Starlette(routes=routes))
