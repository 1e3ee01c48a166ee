"""Shared by the Python contenders: Hypercorn, started from code, on the port that `PORT` names."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import cast

import uvloop
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework
from starlette.applications import Starlette

__all__ = ["callback_base", "serve"]


def callback_base() -> str:
    """Return the address to which a callback token is appended."""
    return f"http://127.0.0.1:{os.environ['PORT']}/callback"


def serve(app: Starlette) -> None:
    """Serve until killed, on uvloop. `PORT=0`: any free port."""
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=4096)
    os.environ["PORT"] = str(listener.getsockname()[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, listener))


async def _serve(app: Starlette, listener: socket.socket) -> None:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = 4096
    config.graceful_timeout = 1
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    print(f"listening on http://127.0.0.1:{os.environ['PORT']}", flush=True)
    # Forked processes would inherit a handler for SIGTERM, with the pipe that wakes this process.
    never = asyncio.Event()
    await hypercorn_serve(cast("ASGIFramework", app), config, shutdown_trigger=never.wait, mode="asgi")
