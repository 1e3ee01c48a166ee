"""The faulty replies of the fault table.

Those that are valid HTTP are aiohttp responses. The others write to the transport themselves and
return `_AlreadySent`, so that aiohttp sends nothing itself.
"""

import asyncio
import functools
import socket
import struct
import zlib
from typing import Final, assert_never

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from jobserver.faults import Reply
from jobserver.protocol import Submission, encode

_JSON: Final = "application/json"
_CHUNK_BYTES: Final = 64 * 1024


class _AlreadySent(web.StreamResponse):
    """A response that aiohttp need not send: it was written directly, or there is none."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send no headers."""
        del request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no body."""


def document(body: bytes) -> web.Response:
    """Return a JSON reply that the protocol allows."""
    return web.Response(body=body, content_type=_JSON)


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON reply that says what went wrong."""
    body = encode({"state": "error", "error": message})
    return web.Response(status=status, body=body, content_type=_JSON, headers=headers)


def refusal(submission: Submission) -> web.Response:
    """Return the reply that asks the client to retry later."""
    return problem(submission.status, "come again", {"Retry-After": submission.retry_after})


def no_reply() -> web.StreamResponse:
    """Return the response that makes aiohttp send nothing and close the connection."""
    response = _AlreadySent()
    response.force_close()
    return response


async def faulty_reply(  # noqa: C901, PLR0911, PLR0912 - one case for each row of the table
    request: web.Request, submission: Submission, body: bytes
) -> web.StreamResponse:
    """Return or write the reply that the fault asks for; `body` is the right one.

    Raises ConnectionResetError if the client has disconnected.
    """
    match submission.fault.reply:
        case Reply.NORMAL | Reply.REFUSE_FIRST:
            return document(body)
        case Reply.REFUSE:
            return refusal(submission)
        case Reply.ERROR:
            return problem(submission.status, f"the job asked for a {submission.status}")
        case Reply.DROP:
            return _close(request)
        case Reply.RESET:
            return _reset(request)
        case Reply.HANG:
            await asyncio.get_running_loop().create_future()
            raise AssertionError
        case Reply.SLOW:
            return await _slow(request, body, submission.delay_s)
        case Reply.GARBAGE:
            return document(b"<html><body>It works!</body></html>")
        case Reply.WRONG_STATE:
            return document(encode({"state": "sleeping", "id": 42}))
        case Reply.SHORT_BODY:
            return _write(request, _head(len(body) + 1000) + body)
        case Reply.ENDLESS_BODY:
            return await _endless(request)
        case Reply.GZIP_BOMB:
            bomb = await asyncio.to_thread(gzip_bomb, submission.size_bytes)
            return web.Response(body=bomb, content_type=_JSON, headers={"Content-Encoding": "gzip"})
        case Reply.MANY_HEADERS:
            extra = b"".join(b"X-Header-%d: %d\r\n" % (n, n) for n in range(submission.times))
            return _write(request, _head(len(body), extra) + body)
        case Reply.DEEP_JSON:
            return document(b"[" * submission.times + b"]" * submission.times)
        case Reply.REDIRECT:
            return web.Response(status=submission.status, headers={"Location": "/elsewhere"})
        case never:
            assert_never(never)


def _transport(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError
    return transport


def _head(length_bytes: int, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n" % (
        extra,
        length_bytes,
    )


def _close(request: web.Request) -> web.StreamResponse:
    """Close the connection once everything has been sent."""
    _transport(request).close()
    return no_reply()


def _write(request: web.Request, data: bytes) -> web.StreamResponse:
    _transport(request).write(data)
    return _close(request)


def _reset(request: web.Request) -> web.StreamResponse:
    """Close with a lingering time of zero: the kernel then sends RST instead of FIN."""
    transport = _transport(request)
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    return no_reply()


async def _slow(request: web.Request, body: bytes, pause_s: float) -> web.StreamResponse:
    """Send the whole reply, including the status line, one byte at a time."""
    reply = _head(len(body)) + body
    for at in range(len(reply)):
        _transport(request).write(reply[at : at + 1])
        await asyncio.sleep(pause_s)
    return _close(request)


async def _endless(request: web.Request) -> web.StreamResponse:
    """Send white space, which may precede any JSON, until the client gives up."""
    response = web.StreamResponse(headers={"Content-Type": _JSON})
    await response.prepare(request)
    chunk = b" " * _CHUNK_BYTES
    while True:
        await response.write(chunk)
        # A write that does not have to wait does not yield to other tasks.
        await asyncio.sleep(0)


@functools.lru_cache(maxsize=4)
def gzip_bomb(size_bytes: int) -> bytes:
    """Return a valid gzip stream that inflates to `size_bytes` zeros, rounded up to a whole MiB.

    A block that was deflated after a full flush does not depend on those before it, so the stream is
    one block repeated, without deflating hundreds of MiB.
    """
    mib = bytes(1024 * 1024)
    blocks = -(-size_bytes // len(mib))
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = deflate.compress(mib) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(blocks):
        checksum = zlib.crc32(mib, checksum)
    head = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x02\xff"
    tail = struct.pack("<II", checksum, blocks * len(mib) & 0xFFFFFFFF)
    return head + block * blocks + deflate.flush() + tail
