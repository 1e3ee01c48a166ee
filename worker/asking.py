"""Calls to the job server about a job: its status, its result, its cancellation. Each of them gets an answer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from shared.errors import JobServerError
from shared.job_server.calls import Call, bytes_without_secrets, without_secrets
from shared.job_server.placeholders import UnfilledError
from shared.job_server.polls import Results, Statuses
from shared.job_server.verdict import Kind
from shared.messages import Ask, Told
from worker.job_client import current_secrets, retry_after_s

if TYPE_CHECKING:
    from shared.job_server.verdict import Verdict
    from shared.worker_config import JobServer
    from worker.exchange import Answer, Exchange

__all__ = ["Asker"]

#: A call, and the reader of its answers.
_Question = tuple[Call, Statuses | Results]


class Asker:
    """Asks one job server about jobs. Everything has to be finished by the request's deadline."""

    def __init__(self, job_server: JobServer, exchange: Exchange) -> None:
        profile, url, server = job_server.profile, job_server.url, job_server.profile.server
        self._job_server = job_server
        self._exchange = exchange
        self._cancel = None if profile.cancel is None else Call(url, server, profile.cancel)
        self._status: _Question | None = None
        self._result: _Question | None = None
        if profile.status is not None:
            self._status = Call(url, server, profile.status), Statuses(profile.status)
        if profile.result is not None:
            self._result = Call(url, server, profile.result), Results(profile.result)

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
                        return _told_verdict(ask, *await self._ask(self._status, values))
                    case _:
                        return _told_verdict(ask, *await self._ask_for_outcome(values))
        except TimeoutError:
            return _unavailable(ask, "the job server did not answer in time")
        except JobServerError as exc:
            return _unavailable(ask, exc.detail)
        except UnfilledError as exc:
            return _unavailable(ask, f"the call cannot be made: {exc}")

    async def _tell_cancelled(self, ask: Ask, values: dict[str, str]) -> Told:
        if self._cancel is None:
            raise UnfilledError("the profile has no such call")
        answer = await self._exchange.make(self._cancel.request(values))
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP's own
            return _unavailable(ask, f"the job server answered {answer.status}")
        return Told(job_id=ask.job_id, call=ask.call, kind="cancelled")

    async def _ask_for_outcome(self, values: dict[str, str]) -> tuple[Verdict, Answer]:
        """Ask for the job's status; after a success, fetch the result if that is a separate call."""
        if self._status is not None:
            verdict, answer = await self._ask(self._status, values)
            if verdict.kind is not Kind.SUCCEEDED or self._result is None:
                return verdict, answer
            values = {**verdict.outputs, **values}
        return await self._ask(self._result, values)

    async def _ask(self, question: _Question | None, values: dict[str, str]) -> tuple[Verdict, Answer]:
        if question is None:
            raise UnfilledError("the profile has no such call")
        call, reader = question
        answer = await self._exchange.make(call.request(values))
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return reader.read(answer.status, headers, answer.body), answer


def _told_verdict(ask: Ask, verdict: Verdict, answer: Answer) -> Told:
    is_final = verdict.kind is not Kind.PROGRESS
    return Told(
        job_id=ask.job_id,
        call=ask.call,
        kind=verdict.kind,
        state=verdict.state,
        error=verdict.error,
        content_type=answer.headers.get("Content-Type", "") if is_final and verdict.result is None else "",
        pause_s=retry_after_s(answer.headers) or 0.0,
        body=(answer.body if verdict.result is None else verdict.result) if is_final else b"",
    )


def _unavailable(ask: Ask, reason: str) -> Told:
    return Told(job_id=ask.job_id, call=ask.call, kind="unavailable", error=reason)
