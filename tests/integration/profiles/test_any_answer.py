"""Job servers that answer anything: no answer triggers a bug in the proxy, and `submitted` is true."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import pytest
from aiohttp import ClientError, ClientSession

from shared.job_server import loader
from shared.job_server.profile import Profile, Sample
from shared.job_server.submissions import Replies, ReplyKind
from tests.support import mutations
from tests.support.http import Answer, fetch
from tests.support.job_server import close_listener, rounds
from tests.support.proxy_process import ProxyProcess
from tests.support.samples import with_wish

#: One of each kind: own callback URLs, a fixed URL, two URLs, thin ones, forms, a status call, a result call, none.
NAMES: Final = ("spreedly", "cog", "a2a", "ogc-processes", "langgraph", "buildbot", "docling-serve", "nodeodm")
_JOBS: Final = 12
#: At most this long before its client has the answer, a job is over.
_MARGIN_S: Final = 0.5
_CALLBACK: Final = re.compile(rb"https?://[^\"\\\s]+/callback/([A-Za-z0-9_-]{40,})((?:/[a-z-]+)?)")
#: Where the job server knows the URL, and is told only the token.
_TOKEN: Final = re.compile(rb'"corr": ?"([A-Za-z0-9_-]{40,})()"')
_WISH: Final = re.compile(rb"stand-in=any-(\d+)")
_REFUSALS: Final = frozenset({ReplyKind.REFUSED, ReplyKind.BUSY})


@dataclass(slots=True)
class Told:
    """What a job server did about one job."""

    replies: list[ReplyKind] = field(default_factory=list)
    #: The `status` in each of the proxy's answers to callbacks, with its time.
    callbacks: list[tuple[float, str]] = field(default_factory=list)
    #: When the client got its answer.
    answered_at: float = 0.0

    @property
    def proven(self) -> bool:
        """Return whether a callback was taken while the job was certainly going on."""
        return any(
            what == "accepted" or (what == "progress" and at < self.answered_at - _MARGIN_S)
            for at, what in self.callbacks
        )


class AnyServer:
    """Answers with mutated samples of a profile, or not at all; calls back with others."""

    def __init__(self, profile: Profile, proxy: ProxyProcess, session: ClientSession) -> None:
        self.told: dict[int, Told] = {}
        self._profile = profile
        self._fixed = proxy.callback + profile.callback.path if profile.callback.path else ""
        self._session = session
        self._chance = random.Random(profile.name)
        self._replies = Replies(profile.submit)
        self._calls: set[asyncio.Task[None]] = set()
        self._connections: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._connections.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            request = head + (await reader.readexactly(int(length[1])) if length else b"")
            writer.write(self._answer(request))
            await writer.drain()
        writer.close()

    async def settle(self) -> None:
        """Wait until every callback has its answer."""
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def end(self, listener: asyncio.Server) -> None:
        """Accept no more connections, and abort the open ones: the proxy may be asking about a job at any moment."""
        await close_listener(listener)
        for connection in self._connections:
            connection.transport.abort()
        await rounds()

    def _answer(self, request: bytes) -> bytes:
        wish = _WISH.search(request)
        if wish is None:
            kind = self._chance.choice(["status", "result"])
            return self._message(self._sample(kind) or self._sample("reply"))[1]
        told = self.told.setdefault(int(wish[1]), Told())
        url = next(filter(None, (one.search(unquote_to_bytes(request)) for one in (_CALLBACK, _TOKEN))), None)
        for _ in range(self._chance.randrange(4)):
            task = asyncio.ensure_future(self._call_back(told, url))
            self._calls.add(task)
        kind, message = self._message(self._sample("reply"))
        told.replies.append(kind)
        return message

    def _sample(self, kind: str) -> Sample | None:
        found = [one for one in self._profile.sample if one.kind == kind]
        return self._chance.choice(found) if found else None

    def _message(self, sample: Sample | None) -> tuple[ReplyKind, bytes]:
        """Return an answer, and what it says if it is a reply; some are truncated or not HTTP at all."""
        chance = self._chance
        if sample is None or chance.random() < 0.05:
            return ReplyKind.BAD, chance.choice([b"", b"nonsense\r\n\r\n", chance.randbytes(50)])
        body, status = mutations.body(sample.body, chance), mutations.status(sample.status, chance)
        headers = {**sample.headers, "content-type": mutations.header(chance)}
        reply = self._replies.read_status(status, retry_after="retry-after" in headers)
        reply = reply or self._replies.read(status, headers, body)
        fields = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        head = f"HTTP/1.1 {status} X\r\n{fields}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        cut = chance.choice([None] * 9 + [-1])
        sent = (head.encode("latin-1", "replace") + body)[:cut]
        return (reply.kind if cut is None or reply.kind in _REFUSALS else ReplyKind.BAD), sent

    async def _call_back(self, told: Told, url: re.Match[bytes] | None) -> None:
        chance = self._chance
        await asyncio.sleep(chance.random() * 0.3)
        sample = self._sample("callback")
        if sample is None or url is None:
            return
        token, base = url[1].decode(), url[0].decode().removesuffix(url[2].decode())
        called = self._fixed or base + (f"/{sample.route}" if sample.route else "")
        body = mutations.body(sample.body, chance).replace(b"TOKEN", token.encode())
        headers = {name: text.replace("TOKEN", token) for name, text in sample.headers.items()}
        with contextlib.suppress(ClientError, ValueError):
            answer = await fetch(
                self._session,
                chance.choice(["POST", "POST", "POST", "PUT", "GET", "HEAD", "DELETE"]),
                called,
                data=body,
                headers={"Content-Type": "application/json"} | headers,
            )
            if answer.status == 200 and answer.body:
                told.callbacks.append((time.monotonic(), str(answer.document["status"])))


def check(answer: Answer, told: Told) -> None:
    """Check one job's answer against what its job server did."""
    if answer.status == 200:
        assert told.replies
        return
    document: dict[str, Any] = answer.document
    assert document["code"] != "internal-error", document
    assert document["code"] != "worker-died", document
    match document["submitted"]:
        case "no":
            assert set(told.replies) <= _REFUSALS, (document, told)
            assert not told.proven, (document, told)
        case "yes":
            assert told.replies, (document, told)
        case _:
            assert told.replies, (document, told)
            assert not told.proven, (document, told)


def _starved(line: dict[str, Any]) -> bool:
    """Return whether this line says that the event loop got no CPU time; no answer can cause that."""
    return bool(line["event"] == "the event loop is blocked" and line["cpu_s"] < line["blocked_s"] / 2)


@pytest.mark.parametrize(
    "name",
    # in the same processes of pytest-xdist as other tests with these proxies
    [pytest.param(name, marks=pytest.mark.xdist_group(f"profiles-{n % 2}")) for n, name in enumerate(NAMES)],
)
async def test_no_answer_is_a_bug_and_submitted_is_true(
    client: ClientSession,
    all_profiles: Callable[[int], ProxyProcess],
    profiles: Mapping[str, Path],
    ports: Mapping[str, int],
    name: str,
) -> None:
    """Twelve jobs at a job server that answers, and calls back, with anything."""
    profile, proxy = loader.load(str(profiles[name])), all_profiles(NAMES.index(name))
    server = AnyServer(profile, proxy, client)
    job = next(sample for sample in profile.sample if sample.kind == "job")
    content_type = job.headers.get("content-type", "application/json")
    url = f"{proxy.queue_job}/{name}" + (f"/{job.path}" if job.path else "")

    async def post(number: int) -> Answer:
        data = with_wish(job, f"any-{number}", content_type)
        answer = await fetch(client, "POST", url, data=data, headers={"Content-Type": content_type})
        server.told.setdefault(number, Told()).answered_at = time.monotonic()
        return answer

    listener = await asyncio.start_server(server.serve, "127.0.0.1", ports[name], limit=2**20)
    try:
        answers = await asyncio.gather(*map(post, range(_JOBS)))
        await server.settle()
    finally:
        await server.end(listener)
    for number, answer in enumerate(answers):
        check(answer, server.told[number])
    assert [line for line in proxy.events if "at" in line and not _starved(line)] == []
