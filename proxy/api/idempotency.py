"""Idempotency keys (draft-ietf-httpapi-idempotency-key-header): one key, one job, however often it is sent.

A request under a key that is in use joins that job, or gets its outcome again. Only a job that certainly was not
submitted may be begun anew under its key. Between the look into the store and the new job nothing else may begin under
the same key: whoever comes second waits for the first to be through with that.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Final

from proxy.api.http import header
from proxy.job import Job
from proxy.record import Record
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.lifecycle import Submitted
from shared.outcome import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

    from proxy.registry import Registry
    from proxy.store import JobStore

__all__ = ["Keys", "fingerprint", "key_of"]

_MAX_CHARACTERS: Final = 255
#: An RFC 8941 string: printable ASCII in quotes, with \" and \\ for these two.
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
#: What many clients send instead, a UUID say: no quotes, nothing that could mean something else.
_BARE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:/@=-]+")
_ESCAPED: Final = re.compile(r"\\(.)")


def key_of(scope: Scope, holder: bytes) -> bytes | None:
    """Return what the request's idempotency key is remembered by, or None if it has none.

    Keys of one `holder` of an API key are apart from those of all others. A hash is remembered, not the key.

    Raises:
        RequestError: the header is no idempotency key.
    """
    given = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if not given:
        return None
    key = _parse(header(scope, b"idempotency-key").strip(" \t")) if len(given) == 1 else ""
    if not 0 < len(key) <= _MAX_CHARACTERS:
        raise RequestError(
            Code.INVALID_REQUEST,
            f'the `Idempotency-Key` is not a string in quotes, like "8e03978e", of 1 to {_MAX_CHARACTERS} characters',
        )
    return hashlib.sha256(holder + b"\0" + key.encode("ascii")).digest()


def _parse(text: str) -> str:
    quoted = _STRING.fullmatch(text)
    if quoted is not None:
        return _ESCAPED.sub(r"\1", quoted[1])
    return text if _BARE.fullmatch(text) else ""


def fingerprint(body: bytes) -> bytes:
    """Return what a job's body is compared by."""
    return hashlib.sha256(body).digest()


class Keys:
    """Finds the job that belongs to a key, or begins it."""

    def __init__(self, registry: Registry, store: JobStore) -> None:
        self._registry = registry
        self._store = store
        #: Keys that somebody looks for in the store, and what tells that the search is over.
        self._searches: dict[bytes, asyncio.Event] = {}

    async def job(self, key: bytes, printed: bytes, begin: Callable[[], Job]) -> tuple[Job | Record, bool]:
        """Return the job of this key, in flight or finished, and whether it was there before; else `begin` it.

        Raises:
            RequestError: the key was used with another body.
            AdmissionError: nobody can tell now whether the key was used, or `begin` says so.
        """
        while True:
            job = self._registry.by_key(key)
            if job is not None:
                return _same(job, printed), True
            search = self._searches.get(key)
            if search is None:
                break
            await search.wait()
        over = self._searches[key] = asyncio.Event()
        try:
            record = await self._store.by_key(key)
            if record is None or _may_run_again(_same(record, printed)):
                return begin(), False
        except StoreUnavailableError as exc:
            raise AdmissionError(Code.JOURNAL_UNAVAILABLE, str(exc)) from exc
        finally:
            del self._searches[key]
            over.set()
        return record, True


def _same(known: Job | Record, printed: bytes) -> Job | Record:
    if known.fingerprint != printed:
        raise RequestError(Code.IDEMPOTENCY_KEY_REUSED, "this `Idempotency-Key` was used with another body")
    return known


def _may_run_again(known: Job | Record) -> bool:
    outcome = known.outcome
    return isinstance(outcome, Failed) and outcome.submitted is Submitted.NO
