"""Applications that do not behave as Hypercorn expects.

- A body's pieces go to the application through a queue of ten places. If an application answers without reading the
  body, the next piece waits forever, and with it the connection; or the application waits itself, to leave the message
  that the stream is closed. messages.py is a queue whose reader may leave.
- Hypercorn's own answer for an application that ended without an answer is empty.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.protocol import events
from hypercorn.protocol.h11 import STREAM_ID
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream

from proxy import log
from proxy.http import problems
from proxy.http.asgi import ClientGoneError
from proxy.http.hypercorn_fixes.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

    from proxy.http.hypercorn_fixes.config import ServerConfig

__all__ = ["Stream", "Tasks"]


class Tasks(TaskGroup):
    """The tasks of a connection."""

    #: Those of its current or last request.
    messages: Messages | None = None

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for one request; return the function that adds messages to its queue."""
        messages = self.messages = Messages(cast("dict[str, Any]", scope), cast("ServerConfig", config).connections)

        async def run() -> None:
            try:
                await app(scope, messages.get, send, _no_threads, _no_threads)
            except Exception as exc:  # noqa: BLE001 - the request ends, the proxy does not
                log.event("error", "unhandled exception in a request", **log.exception_fields(exc))
            finally:
                messages.leave()
                with contextlib.suppress(ClientGoneError):
                    await send(None)

        self.spawn(run)
        return messages.put


def _no_threads(*_: object) -> None:
    raise NotImplementedError  # for WSGI applications only


class Stream(HTTPStream):
    """One request and its answer."""

    async def _send_error_response(self, _status_code: int) -> None:
        """Answer for an application that ended without an answer."""
        connections = cast("ServerConfig", self.config).connections
        problem = problems.unanswered(closing=connections.closing)
        connections.refused(problem, self.client)
        await self.send(events.Response(stream_id=STREAM_ID, headers=problem.fields, status_code=problem.status))
        if self.scope["method"] != "HEAD":
            await self.send(events.Body(stream_id=STREAM_ID, data=problem.body))
        await self.send(events.EndBody(stream_id=STREAM_ID))
        self.state = ASGIHTTPState.CLOSED
