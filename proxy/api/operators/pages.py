"""The operators' pages: HTML, one stylesheet and small scripts, served from static/.

There is no build step. Each page is a file; `static/layout.js` adds what all pages have in common. All addresses in
them are relative, so that they also work below a gateway's prefix.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.routing import Route

from proxy.http.asgi import headers_of, send_response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["StaticFile", "routes"]

_STATIC: Final = Path(__file__).resolve().parent / "static"
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}


class StaticFile:
    """`GET /` and `GET /<page>.html` and `GET /static/<name>`: the operators' pages, their style and scripts."""

    def __init__(self, name: str) -> None:
        path = _STATIC / name
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._etag = f'"{hashlib.sha256(self._body).hexdigest()[:32]}"'
        # A browser revalidates each time, so that it never mixes old and new files after an upgrade.
        self._headers = ((b"cache-control", b"no-cache"), (b"etag", self._etag.encode()))

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the file, or 304 if the browser has it already."""
        tags = ",".join(headers_of(scope, b"if-none-match")).split(",")  # a list, or `*` (RFC 9110, 13.1.2)
        if not any(tag.strip().removeprefix("W/") in {"*", self._etag} for tag in tags):
            await send_response(scope, send, 200, self._body, self._type, self._headers)
            return
        fields = [(b"content-length", b"%d" % len(self._body)), *self._headers]  # of the file that the browser has
        await send({"type": "http.response.start", "status": 304, "headers": fields})
        await send({"type": "http.response.body", "body": b""})


def routes() -> list[Route]:
    """Return the routes of the pages and their files."""
    pages = sorted(path.name for path in _STATIC.glob("*.html") if path.name != "index.html")
    files = sorted(path.name for path in _STATIC.iterdir() if path.suffix != ".html")
    return [
        Route("/", StaticFile("index.html"), methods=["GET"]),
        *(Route(f"/{name}", StaticFile(name), methods=["GET"]) for name in pages),
        *(Route(f"/static/{name}", StaticFile(name), methods=["GET"]) for name in files),
    ]
