"""The callback routes: where a job server reports on a job.

The token proves who may call, so every token that is not ours gets the same answer, byte for byte, before anything of
the body is read. A profile may require an additional proof. If a job server has one URL for all jobs, that proof is all
there is.

An accepted callback is answered 200 with a small body: some job servers consider nothing else a success, and some stop
using a URL that answers otherwise.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from proxy.api.stray_callbacks import NO_ROUTE, StrayCallbacks
from proxy.api.threads import in_thread
from proxy.http.asgi import Bodies, ClientGoneError, header, headers_of, send_response
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import token_hash
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError, StrictJSONError
from shared.job_server.callbacks import Received
from shared.job_server.calls import bytes_without_secrets, without_secrets
from shared.job_server.documents import TooLargeError, inflate, kept_content_type
from shared.job_server.verdict import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.types import Receive, Scope, Send

    from proxy.jobs.callback_intake import CallbackIntake
    from proxy.jobs.job_server import ServedJobServer, ServedJobServers
    from proxy.jobs.named_callbacks import NamedCallbacks
    from shared.job_server.verdict import Verdict

__all__ = ["HERE", "CallbackRoute"]

_T = TypeVar("_T")

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
_NOT_SERVED: Final = "the profile of its job is not served any more, and another one cannot read it"
_BROKEN_OFF: Final = "its sender left before all of it had come"
#: What is longer is cut: a challenge is a short random text.
_MOST_CHALLENGE: Final = 1_000
#: No browser takes a stranger's text for a page.
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")


class CallbackRoute:
    """`POST` or `PUT /callback/<token>`, also with a name after that, and the fixed URLs of profiles."""

    def __init__(
        self,
        callback_intake: CallbackIntake,
        named_callbacks: NamedCallbacks,
        job_servers: ServedJobServers,
        *,
        url: str,
        max_body_bytes: int,
        max_jobs: int,
    ) -> None:
        """`url` is where the job server reaches the route, without a token."""
        self._url = url
        self._callback_intake = callback_intake
        self._counts = callback_intake.counts
        self._named_callbacks = named_callbacks
        self._job_servers = job_servers
        self._max_body_bytes = max_body_bytes
        self._max_jobs = max_jobs
        self._in_threads = 0
        # Room for all at once: each job in flight may have the largest result, and not every job server retries.
        self._bodies = Bodies(max_body_bytes, max_jobs * max_body_bytes)
        #: What may follow a token, for any job server.
        self._routes = {""}.union(*(one.routes for one in job_servers))
        self._stray = StrayCallbacks(callback_intake)
        #: By the last part of their paths.
        self._fixed = {
            one.profile.callback.path.rpartition("/")[2]: one for one in job_servers if one.profile.callback.path
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept a callback; answer a mere check of the URL without revealing anything about the token."""
        token = scope["path_params"]["token"]
        server = self._fixed.get(token)
        if scope["method"] in {"GET", "HEAD"} and not await self._is_read(scope, token):
            await self._look(scope, send)
            return
        if server is not None:
            await self._fixed_url(scope, receive, send, server)
            return
        hashed = token_hash(token)
        found = await self._callback_intake.find(hashed)
        if found is None:
            self._counts[CallbackFate.UNKNOWN] += 1
            await self._stray.note(scope["path"], NO_ROUTE, unless=token, counted=True)
            raise RequestError(Code.NOT_FOUND, "there is no such callback")
        server = self._job_servers.of(found)
        if server is None or scope["path_params"].get("route", "") not in server.routes:
            await self._refuse(hashed, _NOT_SERVED if server is None else NO_ROUTE)
            raise RequestError(Code.NOT_FOUND, "there is no such callback")
        try:
            received, raw = await self._receive(scope, receive)
            self._verify(server, token, received, raw, {"callback_token": token, "job_id": found.id})
            callback = await self._read(server, received)
        except (RequestError, AdmissionError) as exc:
            self._counts[_fate_of(exc)] += 1
            await self._refuse(hashed, exc.detail, counted=True)
            raise
        except ClientGoneError:
            await self._refuse(hashed, _BROKEN_OFF, counted=True)  # counted as such: its fate is reported to nobody
            raise
        fate = await self._callback_intake.take(hashed, *callback)
        await _send_answer(scope, send, server, _ANSWERS[fate])

    async def _is_read(self, scope: Scope, token: str) -> bool:
        """Return whether a GET or HEAD is more than a look: some job servers call back, or test their URL, by GET."""
        if scope["method"] == "HEAD" or not scope["query_string"]:
            return False
        server = self._fixed.get(token)
        if server is None and any(one.profile.callback.get for one in self._job_servers):
            found = await self._callback_intake.find(token_hash(token))
            server = None if found is None else self._job_servers.of(found)
        return server is not None and bool(server.profile.callback.get or server.profile.callback.challenge)

    async def _look(self, scope: Scope, send: Send) -> None:
        """Answer a check of the URL. A query is more than that: some job servers report the end of a job with one."""
        if scope["path_params"].get("route", "") not in self._routes:
            raise RequestError(Code.NOT_FOUND, "there is no such callback")
        if scope["query_string"] and scope["method"] == "GET":
            await self._stray.note(scope["path_params"]["token"], _AS_GET, counted=True)
        await send_response(scope, send, 200, HERE, b"application/json")

    async def _refuse(self, hashed: bytes, reason: str, *, counted: bool = False) -> None:
        with contextlib.suppress(StoreUnavailableError):  # the sender gets the reason anyway
            await self._callback_intake.refuse(hashed, reason, counted=counted)

    async def _fixed_url(self, scope: Scope, receive: Receive, send: Send, server: ServedJobServer) -> None:
        """Accept a callback that names its job itself."""
        name, callback = "", None
        try:
            received, raw = await self._receive(scope, receive)
            if challenge := await self._challenge(server, received):
                await send_response(scope, send, 200, challenge, b"text/plain; charset=utf-8", [_NO_SNIFF])
                return
            if received.method == "GET" and not server.profile.callback.get:
                await self._look(scope, send)
                return
            try:
                self._verify(server, scope["path_params"]["token"], received, raw, {})
            except RequestError as exc:
                await self._refuse_named(server, received, exc.detail)
                raise
            name = await self._named(server, received)
            found = await self._named_callbacks.find(server, name) if name else None
            if found is not None:
                callback = (found.token_hash, *await self._read(server, received))
        except (RequestError, AdmissionError) as exc:
            self._counts[_fate_of(exc)] += 1
            if name:
                with contextlib.suppress(StoreUnavailableError):  # the sender gets the reason anyway
                    await self._named_callbacks.refuse(server, name, exc.detail)
            raise
        if callback is None:
            self._counts[CallbackFate.UNKNOWN] += 1
            answer = _NOBODYS
        else:
            answer = _ANSWERS[await self._callback_intake.take(*callback)]
        await _send_answer(scope, send, server, answer)

    async def _refuse_named(self, server: ServedJobServer, received: Received, reason: str) -> None:
        # The sender gets the reason anyway.
        with contextlib.suppress(RequestError, AdmissionError, StoreUnavailableError):
            name = await self._named(server, received)
            if name:
                await self._named_callbacks.refuse(server, name, reason)

    async def _named(self, server: ServedJobServer, received: Received) -> str:
        """Return the job's name in a callback; empty if it has none. Raises RequestError."""
        try:
            return await self._result_of(server.callbacks.correlation, received, server)
        except StrictJSONError as exc:
            raise RequestError(Code.INVALID_REQUEST, f"the callback is not JSON: {exc}") from exc

    async def _challenge(self, server: ServedJobServer, received: Received) -> bytes:
        """Return what a job server that tests its URL wants to get back; empty: it does not test it."""
        if not server.profile.callback.challenge:
            return b""
        found = await self._result_of(server.callbacks.challenge, received, server)
        return found[:_MOST_CHALLENGE].encode("utf-8", "replace")

    async def _receive(self, scope: Scope, receive: Receive) -> tuple[Received, bytes]:
        """Return the callback, inflated if it was gzip, and the body as it came. Raises RequestError."""
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
        return received, raw

    def _verify(
        self, server: ServedJobServer, token: str, received: Received, raw: bytes, values: dict[str, str]
    ) -> None:
        """Raise RequestError unless the callback has the proof that its profile requires, if any."""
        verifier, now = server.verifier, time.time()
        if verifier is None:
            return
        url = "/".join(filter(None, (self._url, token, received.route)))
        url += f"?{received.query}" if received.query else ""
        if not verifier.is_genuine(received, raw, {**server.secrets, **values, "url": url}, now):
            lack = verifier.lack(received, now)
            words = "the callback does not prove that it is the job server's"
            raise RequestError(Code.UNAUTHORIZED, f"{words}: {lack}" if lack else words)

    async def _result_of(self, read: Callable[[Received], _T], received: Received, server: ServedJobServer) -> _T:
        """Return what `read` finds in a callback; in a thread if that may take long, so that the event loop goes on.

        Raises AdmissionError: as many callbacks as there may be jobs are being read, or wait for a thread.
        """
        if not server.callbacks.takes_long(received):
            return read(received)
        if self._in_threads >= self._max_jobs:
            raise AdmissionError(Code.OVERLOADED, "too many large callbacks are being read")
        self._in_threads += 1
        try:
            return await in_thread(read, received)
        finally:
            self._in_threads -= 1

    def _inflated(self, scope: Scope, raw: bytes) -> bytes:
        if not raw.startswith(_GZIP) and all(name != b"content-encoding" for name, _ in scope["headers"]):
            return raw
        codings = ",".join(headers_of(scope, b"content-encoding"))
        headers = {"content-encoding": codings, "content-type": header(scope, b"content-type")}
        return inflate(raw, headers, self._max_body_bytes)

    async def _read(self, server: ServedJobServer, received: Received) -> tuple[bytes, Verdict, str]:
        """Return what the client gets of a callback, its verdict, and its media type."""
        try:
            verdict = await self._result_of(server.callbacks.read, received, server)
        except StrictJSONError as exc:
            raise RequestError(Code.INVALID_REQUEST, f"the callback is not JSON: {exc}") from exc
        if verdict.kind is not Kind.SUCCEEDED and server.secrets:
            return _without_secrets(verdict, received.body, server.secrets.values())
        if verdict.result is not None:
            return verdict.result, verdict, ""
        content_type = ""
        if verdict.kind is Kind.SUCCEEDED and not server.profile.callback.json_only:
            content_type = kept_content_type(received.header(b"content-type"), received.body)
        return received.body, verdict, content_type


async def _send_answer(scope: Scope, send: Send, server: ServedJobServer, word: bytes) -> None:
    body, media_type = server.answer or (word, b"application/json")
    await send_response(scope, send, 200, body, media_type)


def _without_secrets(verdict: Verdict, body: bytes, secrets: Collection[str]) -> tuple[bytes, Verdict, str]:
    """Return what the client may see of a callback that is no success, if it quotes the profile's secrets."""
    shown = replace(
        verdict, state=without_secrets(verdict.state, secrets), error=without_secrets(verdict.error, secrets)
    )
    return bytes_without_secrets(body if verdict.result is None else verdict.result, secrets), shown, ""


def _fate_of(refusal: RequestError | AdmissionError) -> CallbackFate:
    return CallbackFate.FORGED if refusal.code is Code.UNAUTHORIZED else CallbackFate.REFUSED
