"""The list of jobs for operators, across restarts: a page as JSON, or all of it as lines of JSON."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from proxy.api.operators.job_documents import line, page_document
from proxy.api.operators.job_filters import Asked, cursor_of, read
from proxy.api.operators.parameters import parameters
from proxy.http.asgi import NO_STORE, SlowClientError, header, note_cut_off, send_json
from proxy.store.query import Sort
from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from starlette.types import Scope, Send

    from proxy.api.clients.request_headers import Authorization
    from proxy.jobs.in_flight import InFlight
    from proxy.store.protocol import JobStore

__all__ = ["ListJobs"]

_LINES: Final = "application/x-ndjson"
#: How many lines are sent at a time.
_AT_ONCE: Final = 200
#: How many are read at a time: for each page of the slowest, all jobs are looked at.
_READ: Final = {Sort.NEWEST: _AT_ONCE, Sort.OLDEST: _AT_ONCE, Sort.SLOWEST: 2_000}


class ListJobs:
    """`GET /jobs`: the matching jobs, page by page, with counts; or all of them, one per line."""

    def __init__(
        self, in_flight: InFlight, store: JobStore, authorization: Authorization, closed: asyncio.Event
    ) -> None:
        """When `closed` is set, the proxy waits only a moment for answers in progress."""
        self._closed = closed
        self._in_flight = in_flight
        self._store = store
        self._authorization = authorization

    async def __call__(self, scope: Scope, _receive: object, send: Send) -> None:
        """Answer with the jobs."""
        pairs = parameters(scope)
        asked = read(pairs, self._authorization.holders)
        if _LINES in header(scope, b"accept").lower():
            await self._send_lines(scope, send, asked)
            return
        document = await self._page(asked)
        headers = []
        if document["next"]:
            rest = [(name, value) for name, value in pairs if name != "after"]
            target = f"{scope['root_path']}/jobs?{urlencode([*rest, ('after', document['next'])])}"
            headers.append((b"link", f'<{target}>; rel="next"'.encode("ascii")))
        await send_json(scope, send, document, headers=headers)

    async def _page(self, asked: Asked) -> dict[str, Any]:
        page = await self._store.jobs(asked.query, sort=asked.sort, limit=asked.page_limit, after=asked.after)
        counts = await self._store.counts(asked.query) if asked.counts else None
        now = time.time()
        lines = [line(record, now, self._in_flight.by_id(record.id)) for record in page.records]
        return page_document(lines, page, asked.sort, counts)

    async def _send_lines(self, scope: Scope, send: Send, asked: Asked) -> None:
        lines = self._lines(asked)
        first = await anext(lines)  # errors are reported before the answer starts
        headers = [(b"content-type", _LINES.encode()), NO_STORE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent_bytes = 0
        try:
            if scope["method"] != "HEAD":
                await send({"type": "http.response.body", "body": first, "more_body": True})
                sent_bytes = len(first)
                async for piece in lines:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    sent_bytes += len(piece)
            await send({"type": "http.response.body", "body": b""})
        except SlowClientError:
            note_cut_off(scope, 200, sent_bytes)
            raise

    async def _lines(self, asked: Asked) -> AsyncIterator[bytes]:
        """Yield the lines page by page; if there are more, a last line says where to continue."""
        left, after, begun = asked.limit, asked.after, False
        while True:
            size = _READ[asked.sort] if left is None else min(left, _READ[asked.sort])
            try:
                page = await self._store.jobs(asked.query, sort=asked.sort, limit=size, after=after)
            except StoreUnavailableError as exc:
                if not begun or after is None:
                    raise
                yield _encoded({"next": cursor_of(after, asked.sort), "detail": str(exc)})
                return
            now, begun = time.time(), True
            left = None if left is None else left - len(page.records)
            for start in range(0, max(1, len(page.records)), _AT_ONCE):
                part = page.records[start : start + _AT_ONCE]
                yield b"".join(_encoded(line(record, now, self._in_flight.by_id(record.id))) for record in part)
            if page.next is None:
                if page.looked_at is not None:
                    yield _encoded({"searched_to": page.searched_to, "looked_at": page.looked_at})
                return
            if self._closed.is_set():
                yield _encoded({"next": cursor_of(page.next, asked.sort), "detail": "the proxy is shutting down"})
                return
            if left == 0:
                yield _encoded({"next": cursor_of(page.next, asked.sort)})
                return
            after = page.next


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
