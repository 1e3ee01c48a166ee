"""Calls to the job server about a job: its status, its result, its cancellation. Each of them gets an answer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, assert_never

from shared.errors import JobServerError
from shared.job_server.calls import Call, bytes_without_secrets, without_secrets
from shared.job_server.documents import document_of
from shared.job_server.placeholders import UnfilledError
from shared.job_server.polls import FetchedKind, Results, Statuses
from shared.job_server.verdict import Kind, text_as_json
from shared.messages import Ask, Told
from worker.job_client import current_secrets, retry_after_s

if TYPE_CHECKING:
    from shared.job_server.verdict import Verdict
    from shared.worker_config import JobServer
    from worker.exchange import Answer, Exchange

__all__ = ["Asker"]


class Asker:
    """Asks one job server about jobs. Everything has to be finished by the request's deadline."""

    def __init__(self, job_server: JobServer, exchange: Exchange) -> None:
        profile, url, server = job_server.profile, job_server.url, job_server.profile.server
        self._job_server = job_server
        self._exchange = exchange
        self._status = None if profile.status is None else Call(url, server, profile.status)
        self._result = None if profile.result is None else Call(url, server, profile.result)
        self._cancel = None if profile.cancel is None else Call(url, server, profile.cancel)
        self._statuses = None if profile.status is None else Statuses(profile.status)
        self._results = None if profile.result is None else Results(profile.result)

    async def tell(self, ask: Ask) -> Told:
        """Make the call or calls and return the result. Never raises."""
        secrets = current_secrets(self._job_server)
        told = await self._told(ask, secrets | json.loads(ask.values))
        if len(told.body) > self._exchange.max_body_bytes:  # an expression may repeat parts, or add spaces
            return _unavailable(ask, f"the result is larger than {self._exchange.max_body_bytes} bytes")
        if told.kind == Kind.SUCCEEDED:
            return told
        return told._replace(
            state=without_secrets(told.state, secrets.values()),
            error=without_secrets(told.error, secrets.values()),
            body=bytes_without_secrets(told.body, secrets.values()),
        )

    async def _told(self, ask: Ask, values: dict[str, str]) -> Told:
        try:
            async with asyncio.timeout(ask.deadline - time.monotonic()):
                match ask.call:
                    case "cancel":
                        return await self._tell_cancelled(ask, values)
                    case "status":
                        return _told_verdict(ask, *await self._ask_status(values))
                    case _:
                        return await self._tell_outcome(ask, values)
        except TimeoutError:
            return _unavailable(ask, "the job server did not answer in time")
        except JobServerError as exc:
            return _unavailable(ask, exc.detail)
        except UnfilledError as exc:
            return _unavailable(ask, f"the call cannot be made: {exc}")

    async def _tell_cancelled(self, ask: Ask, values: dict[str, str]) -> Told:
        answer = await self._make(self._cancel, values)
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP's own
            return _unavailable(ask, f"the job server answered {answer.status}")
        return Told(job_id=ask.job_id, call=ask.call, kind="cancelled", body=b"")

    async def _tell_outcome(self, ask: Ask, values: dict[str, str]) -> Told:
        """Ask for the job's status; after a success, fetch the result if that is a separate call."""
        if self._statuses is not None:
            verdict, answer = await self._ask_status(values)
            if verdict.kind is not Kind.SUCCEEDED or self._results is None:
                return _told_verdict(ask, verdict, answer)
            values = {**verdict.outputs, **values}
        return await self._tell_result(ask, values)

    async def _ask_status(self, values: dict[str, str]) -> tuple[Verdict, Answer]:
        answer = await self._make(self._status, values)
        if self._statuses is None:
            raise UnfilledError("the profile has no [status]")
        return self._statuses.read(answer.status, _lower(answer), answer.body), answer

    async def _tell_result(self, ask: Ask, values: dict[str, str]) -> Told:
        answer = await self._make(self._result, values)
        if self._results is None:
            raise UnfilledError("the profile has no [result]")
        fetched = self._results.read(answer.status, _lower(answer), answer.body)
        body = answer.body if fetched.result is None else fetched.result
        content_type = _content_type(answer) if fetched.result is None else ""
        match fetched.kind:
            case FetchedKind.READY:
                kind = Kind.SUCCEEDED
            case FetchedKind.FAILED:
                kind = Kind.FAILED
                body = answer.body if document_of(answer.body).is_json else text_as_json(answer.body)
            case FetchedKind.NOT_YET:
                return Told(
                    job_id=ask.job_id,
                    call=ask.call,
                    kind=Kind.PROGRESS,
                    error=fetched.error,
                    pause_s=_pause_s(answer),
                    body=b"",
                )
            case never:
                assert_never(never)
        return Told(
            job_id=ask.job_id, call=ask.call, kind=kind, error=fetched.error, content_type=content_type, body=body
        )

    async def _make(self, call: Call | None, values: dict[str, str]) -> Answer:
        if call is None:
            raise UnfilledError("the profile has no such call")
        return await self._exchange.make(call.request(values))


def _told_verdict(ask: Ask, verdict: Verdict, answer: Answer) -> Told:
    is_final = verdict.kind is not Kind.PROGRESS
    return Told(
        job_id=ask.job_id,
        call=ask.call,
        kind=verdict.kind,
        state=verdict.state,
        error=verdict.error,
        content_type=_content_type(answer) if is_final and verdict.result is None else "",
        pause_s=_pause_s(answer),
        body=(answer.body if verdict.result is None else verdict.result) if is_final else b"",
    )


def _unavailable(ask: Ask, reason: str) -> Told:
    return Told(job_id=ask.job_id, call=ask.call, kind="unavailable", error=reason, body=b"")


def _pause_s(answer: Answer) -> float:
    """Return how long an answer asks to wait before the next call."""
    return retry_after_s(answer.headers.get("Retry-After", "")) or 0.0


def _content_type(answer: Answer) -> str:
    return answer.headers.get("Content-Type", "")


def _lower(answer: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}
