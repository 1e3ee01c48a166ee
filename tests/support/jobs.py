"""Jobs for tests, without a client."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from proxy.jobs.entrance import JobRequest
from proxy.jobs.job import Job, new_token, token_hash
from proxy.jobs.recorder import Recorder
from proxy.store.memory import MemoryStore
from proxy.store.protocol import JobStore
from tests.support.records import a_record

__all__ = ["a_job", "a_request"]


def a_job(*, store: JobStore | None = None, timeout_s: float = 30.0, key: bytes | None = None, **members: Any) -> Job:
    """Return a job that was just accepted, except for `members`; needs a running event loop."""
    token = new_token()
    record = a_record(token_hash=token_hash(token), key=key)
    usual: dict[str, Any] = {
        "body": b"{}",
        "deadline": time.monotonic() + timeout_s,
        "token": token,
        "recorder": Recorder(store or MemoryStore(3600), record),
    }
    return Job(**(usual | members))


def a_request(body: bytes = b"{}", key: str | None = None, **members: Any) -> JobRequest:
    """Return a request for a job; `key` is the client's idempotency key."""
    usual: dict[str, Any] = {"body": body, "key": None if key is None else hashlib.sha256(key.encode()).digest()}
    return JobRequest(**(usual | members))
