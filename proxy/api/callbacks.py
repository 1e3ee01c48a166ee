"""The callback routes: where a job server reports on a job.

Who may call is told by the token, so every token that is not one of ours gets the same answer to the byte, before
anything of the body is read. A profile may ask for a proof besides. Where a job server knows one URL for all jobs, that
proof is all there is.

Whatever is taken is answered 200 with a small body: some job servers take nothing else for a success, and some give up
a URL that answers otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException

from proxy.http.asgi import Bodies, ClientGoneError, header, headers_of, send_response
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import token_hash
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError, StrictJSONError
from shared.job_server.callbacks import Received
from shared.job_server.documents import TooLargeError, inflate, kept_content_type
from shared.job_server.verdict import Kind

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from starlette.types import Receive, Scope, Send

    from proxy.jobs.callback_intake import CallbackIntake
    from proxy.jobs.job_server import ServedJobServer, ServedJobServers
    from shared.job_server.verdict import Verdict

__all__ = ["HERE", "CallbackRoute", "StrayCallbacks"]

_ANSWERS: Final = {
    CallbackFate.ACCEPTED: b'{"status": "accepted"}',
    CallbackFate.PROGRESS: b'{"status": "progress"}',
    CallbackFate.DUPLICATE: b'{"status": "duplicate"}',
    CallbackFate.LATE: b'{"status": "late"}',
}
#: The answer to a request that only checks whether the route exists.
HERE: Final = b'{"status": "here"}'
#: The answer at a URL that gets the callbacks of all jobs of a job server, including those that are not ours.
_NOBODYS: Final = b'{"status": "unknown"}'
_AS_GET: Final = "it came as GET, which ends no job"
_GZIP: Final = b"\x1f\x8b"
_NO_ROUTE: Final = "it came to a path that is no route"
_BROKEN_OFF: Final = "its sender left before all of it had come"
#: Methods of those who only look.
_LOOKING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
#: Notes that may be under way at a time, of requests whose connections may be closed already.
_MOST_NOTED: Final = 100
#: Where a path may have a callback token, which has 43 characters.
_TOKEN: Final = re.compile(r"(?<![\w-])([\w-]{43})(?![\w-])", re.ASCII)


class CallbackRoute:
    """`POST` or `PUT /callback/<token>`, also with a name after that, and the fixed URLs of profiles."""

    def __init__(
        self, callback_intake: CallbackIntake, job_servers: ServedJobServers, *, max_body_bytes: int, max_jobs: int
    ) -> None:
        self._callback_intake = callback_intake
        self._job_servers = job_servers
        self._max_body_bytes = max_body_bytes
        # Room for all at once: each job in flight may have the largest result, and not every job server sends it twice.
        self._bodies = Bodies(max_body_bytes, max_jobs * max_body_bytes)
        #: What may come after a token, with any job server.
        self._routes = {""}.union(*(one.routes for one in job_servers))
        self._stray = StrayCallbacks(callback_intake)
        #: By the last part of their paths.
        self._fixed = {
            one.profile.callback.path.rpartition("/")[2]: one for one in job_servers if one.profile.callback.path
        }

    @property
    def counts(self) -> Counter[str]:
        """How many callbacks of which `CallbackFate`."""
        return self._callback_intake.counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a callback; to whoever only looks, say that callbacks are taken here, and nothing of the token."""
        if scope["method"] in {"GET", "HEAD"}:
            await self._look(scope, send)
            return
        token = scope["path_params"]["token"]
        server = self._fixed.get(token)
        if server is not None:
            await self._fixed_url(scope, receive, send, server)
            return
        hashed = token_hash(token)
        found = await self._callback_intake.find(hashed)
        server = None if found is None else self._job_servers.of(found.profile)
        if found is None or server is None or scope["path_params"].get("route", "") not in server.routes:
            self.counts[CallbackFate.UNKNOWN] += 1
            if found is not None:
                await self._refuse(hashed, _NO_ROUTE)
            else:
                await self._stray.note(scope["path"], _NO_ROUTE, unless=token, counted=True)
            raise RequestError(Code.NOT_FOUND, "there is no such callback")
        try:
            received = await self._receive(scope, receive, server, {"callback_token": token, "job_id": found.id})
            callback = self._read(server, received)
        except (RequestError, AdmissionError) as exc:
            await self._refuse(hashed, exc.detail)
            raise
        except ClientGoneError:
            await self._refuse(hashed, _BROKEN_OFF, counted=True)  # as nothing: nobody is told of its fate
            raise
        fate = await self._callback_intake.take(hashed, *callback)
        await send_response(scope, send, 200, _ANSWERS[fate], b"application/json")

    async def _look(self, scope: Scope, send: Send) -> None:
        """Answer who only looks. A query is more than a look: some job servers say with one how a job ended."""
        if scope["path_params"].get("route", "") not in self._routes:
            raise RequestError(Code.NOT_FOUND, "there is no such callback")
        if scope["query_string"] and scope["method"] == "GET":
            await self._stray.note(scope["path_params"]["token"], _AS_GET, counted=True)
        await send_response(scope, send, 200, HERE, b"application/json")

    async def _refuse(self, hashed: bytes, reason: str, *, counted: bool = False) -> None:
        with contextlib.suppress(StoreUnavailableError):  # the sender hears what is wrong all the same
            await self._callback_intake.refuse(hashed, reason, counted=counted)

    async def _fixed_url(self, scope: Scope, receive: Receive, send: Send, server: ServedJobServer) -> None:
        """Take a callback that says itself which job it is for."""
        try:
            received = await self._receive(scope, receive, server, {})
            name = self._named(server, received)
        except (RequestError, AdmissionError):
            self.counts[CallbackFate.REFUSED] += 1
            raise
        hashed = await self._hash_of_job(server, name)
        if hashed is None:
            self.counts[CallbackFate.UNKNOWN] += 1
            answer = _NOBODYS
        else:
            answer = _ANSWERS[await self._callback_intake.take(hashed, *self._read(server, received))]
        await send_response(scope, send, 200, answer, b"application/json")

    def _named(self, server: ServedJobServer, received: Received) -> str:
        """Return what a callback says that its job is called; empty if nothing. Raises RequestError."""
        try:
            return server.callbacks.correlation(received)
        except StrictJSONError as exc:
            raise RequestError(Code.INVALID_REQUEST, f"the callback is not JSON: {exc}") from exc

    async def _hash_of_job(self, server: ServedJobServer, name: str) -> bytes | None:
        """Return what the token of the job is known by that a callback names, if it is one of ours."""
        output = server.profile.callback.correlate_with
        if not name:
            return None
        if output == "callback_token":
            hashed = token_hash(name)
            return hashed if await self._callback_intake.find(hashed) is not None else None
        job = self._callback_intake.find_named(server.name, output, name)
        return None if job is None else job.token_hash

    async def _receive(
        self, scope: Scope, receive: Receive, server: ServedJobServer, values: dict[str, str]
    ) -> Received:
        """Return the callback, inflated if it was gzip, and proven if the profile wants that. Raises RequestError."""
        try:
            raw = await self._bodies.read(scope, receive)
            body = self._inflated(scope, raw)
        except TooLargeError as exc:
            raise RequestError(Code.PAYLOAD_TOO_LARGE, f"the callback is too large: {exc}") from exc
        received = Received(
            method=scope["method"],
            route=scope["path_params"].get("route", ""),
            query=scope["query_string"].decode("latin-1"),
            headers=scope["headers"],
            body=body,
        )
        verifier = server.verifier
        if verifier is not None and not verifier.is_genuine(received, raw, server.secrets | values, time.time()):
            self.counts[CallbackFate.FORGED] += 1
            raise RequestError(Code.UNAUTHORIZED, "the callback does not prove that it is the job server's")
        return received

    def _inflated(self, scope: Scope, raw: bytes) -> bytes:
        if not raw.startswith(_GZIP) and all(name != b"content-encoding" for name, _ in scope["headers"]):
            return raw
        codings = ",".join(headers_of(scope, b"content-encoding"))
        headers = {"content-encoding": codings, "content-type": header(scope, b"content-type")}
        return inflate(raw, headers, self._max_body_bytes)

    def _read(self, server: ServedJobServer, received: Received) -> tuple[bytes, Verdict, str]:
        """Return what the client gets of a callback, what that says, and its media type."""
        try:
            verdict = server.callbacks.read(received)
        except StrictJSONError as exc:
            raise RequestError(Code.INVALID_REQUEST, f"the callback is not JSON: {exc}") from exc
        if verdict.result is not None:
            return verdict.result, verdict, ""
        content_type = ""
        if verdict.kind is Kind.SUCCEEDED and not server.profile.callback.json_only:
            content_type = kept_content_type(received.header(b"content-type"))
        return received.body, verdict, content_type


class StrayCallbacks:
    """What is at no route, or there with another method, or no valid HTTP: if it is a callback, its job gets to know.

    It is one where `CALLBACK_URL` does not lead to the callback route, or a gateway changes the path. Whoever sent it
    is told the same whether there is such a job or not.
    """

    def __init__(self, callback_intake: CallbackIntake, allowed: Sequence[str] = ()) -> None:
        """`allowed`: the methods of the route; none: there is no route."""
        self._callback_intake = callback_intake
        self._allowed = allowed
        self._noting: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        """Refuse the request."""
        if scope["method"] not in _LOOKING:
            target = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
            await self.note(target, f"it came as {scope['method']}" if self._allowed else _NO_ROUTE)
        if self._allowed:
            raise HTTPException(405, headers={"Allow": ", ".join(self._allowed)})
        raise HTTPException(404)

    def unread(self, line: bytes, reason: str) -> None:
        """Note a request that the application does not get to see, by as much as came of its first line."""
        method, _, target = line.decode("latin-1").partition(" ")
        if method not in _LOOKING and _TOKEN.search(target) and len(self._noting) < _MOST_NOTED:
            task = asyncio.get_running_loop().create_task(self.note(target, reason, counted=True))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)

    async def note(self, target: str, reason: str, *, unless: str = "", counted: bool = False) -> None:
        """Let the job know whose token is in `target`, and is not `unless`, which was looked for already.

        `counted`: it counts as something else than a refused callback.
        """
        token = _TOKEN.search(target)
        if token is not None and token[1] != unless:
            hashed = token_hash(token[1])
            with contextlib.suppress(StoreUnavailableError):
                if await self._callback_intake.find(hashed) is not None:
                    await self._callback_intake.refuse(hashed, reason, counted=counted)
