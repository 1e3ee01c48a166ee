"""Posting jobs and reading answers."""

from __future__ import annotations

import itertools
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout, TCPConnector

from tests.support.waiting import IN_VAIN_S

__all__ = ["Answer", "fetch", "new_ref", "over_tls", "post_job", "problem"]

_numbers: Final = itertools.count(1)
_MEMBERS: Final = {"type", "title", "status", "detail", "code", "job_id", "submitted", "retry_safe"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:  # noqa: ANN401 - any JSON
        """The body, parsed."""
        return json.loads(self.body)


def new_ref() -> str:
    """Return a unique name for a job."""
    return f"job-{os.getpid()}-{next(_numbers)}"


def over_tls(context: ssl.SSLContext) -> ClientSession:
    """Return a client that speaks TLS.

    It keeps its connections, and aborts them when it is closed. One that is closed after its answer, as those of the
    fixture `client`, waits for the server to do the same; if the event loop ends first, it stays open, and a later test
    is blamed for it.
    """
    return ClientSession(connector=TCPConnector(ssl=context), timeout=ClientTimeout(total=30 + IN_VAIN_S))


async def fetch(session: ClientSession, method: str, url: str, **options: Any) -> Answer:
    """Send a request, with `options` for aiohttp; return the complete answer."""
    async with session.request(method, url, allow_redirects=False, **options) as response:
        return Answer(response.status, response.headers.copy(), await response.read())


async def post_job(
    session: ClientSession, url: str, *, headers: Mapping[str, str] | None = None, **fields: object
) -> Answer:
    """Post a job to `url` and return the answer.

    A job without an `account` gets a unique one, because the job server serves one connection at a time per account.
    The default of its `ref`, its name in the ledger, is the same.
    """
    ref = new_ref()
    job = {"account": str(fields.get("ref", ref)), "ref": ref, **fields}
    return await fetch(session, "POST", url, json=job, headers=headers)


def problem(answer: Answer, code: str, status: int, submitted: str | None = None) -> dict[str, Any]:
    """Check that an answer is the problem `code`, complete and consistent; return its document."""
    document: dict[str, Any] = answer.document
    assert (document["code"], answer.status) == (code, status), document
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert document.keys() - {"result"} >= _MEMBERS
    assert document["status"] == status
    assert document["type"] == f"/problems/{code}"
    assert document["title"]
    assert document["detail"]
    assert document["submitted"] in {"no", "unknown", "yes"}
    assert document["retry_safe"] is (document["submitted"] == "no")
    if code != "job-rejected":  # its detail is the job server's
        assert ("Retry-After" in answer.headers) is (status in {429, 503})
    if document["job_id"] is not None:
        assert answer.headers["Job-Id"] == document["job_id"]
    if submitted is not None:
        assert document["submitted"] == submitted, document
    return document
