"""Operators' queries about many jobs, read from a request's parameters or a command's options."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from proxy.api.clients.request_headers import hash_of_key
from proxy.api.operators.parameters import number, single_values
from proxy.store.query import JobQuery, Position, Sort
from shared.errors import Code, ParameterError
from shared.lifecycle import IN_FLIGHT, State, Submitted

__all__ = ["FILTERS", "LABEL", "Asked", "age_of", "cursor_of", "filters_of", "read"]

#: The prefix of a label's name.
LABEL: Final = "label."
_LIMIT: Final = 50
_MOST: Final = 500
_AGE: Final = re.compile(r"([0-9]{1,9})([smhd]?)")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
#: An earlier Unix time is a mistake: digits are missing.
_FIRST: Final = 1_000_000_000.0
#: A later one is, too, and so is a duration as long as that.
_BEYOND: Final = 4 * _FIRST
_STATES: Final = {
    str(state): frozenset({state}) for state in (State.ACCEPTED, State.SUBMITTING, State.WAITING, State.FINISHED)
} | {"open": frozenset(IN_FLIGHT)}
_CODES: Final = frozenset(str(code) for code in Code)
_TIMES: Final = "takes a time such as 2026-11-26T00:00:00Z, Unix seconds, an age (90s, 15m, 2h, 7d), or midnight"
#: The parameters that select jobs, with what each takes; in addition to label.NAME.
FILTERS: Final = {
    "since": "ended at this time or later: RFC 3339, Unix seconds, an age (90s, 15m, 2h, 7d), or midnight",
    "until": "ended before this time",
    "state": "accepted, submitting, waiting, finished, or open (all but finished)",
    "outcome": "succeeded or failed: the answer that the client got",
    "code": "codes of failures",
    "submitted": "no, unknown, yes",
    "key": "the idempotency key that came with the job",
    "profile": "names of profiles",
    "instance": "names or ids of instances",
    "worker": "how the job's worker died, such as SIGKILL; any",
    "cancelled_by": "who cancelled the job; any",
    "q": "the beginning of an id (at least 6 characters), or a part of a job's texts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for a list of jobs."""

    query: JobQuery
    sort: Sort
    #: None: not given.
    limit: int | None
    after: Position | None
    #: Whether to count as well.
    counts: bool

    @property
    def page_limit(self) -> int:
        """How many jobs a page has."""
        return _LIMIT if self.limit is None else self.limit


def read(pairs: Iterable[tuple[str, str]], holders: Sequence[bytes], now: float | None = None) -> Asked:
    """Return the parsed request; `holders`: those of the API keys, each of whom has idempotency keys of their own.

    Raises:
        ParameterError: a parameter is unknown, or its value is invalid.
    """
    given = single_values(pairs, (*FILTERS, "sort", "limit", "after", "counts"), LABEL)
    sort = Sort(_one_of(given, "sort", [str(sort) for sort in Sort]) or Sort.NEWEST)
    after = _position(given["after"], sort) if given.get("after") else None
    counts = _one_of(given, "counts", ["yes", "no"]) or ("no" if after else "yes")
    return Asked(
        query=filters_of(given, holders, time.time() if now is None else now),
        sort=sort,
        limit=number(given, "limit", _MOST),
        after=after,
        counts=counts == "yes",
    )


def filters_of(given: dict[str, str], holders: Sequence[bytes], now: float) -> JobQuery:
    """Return the query that selects the jobs. Raises ParameterError."""
    outcome = _one_of(given, "outcome", ["succeeded", "failed"])
    query = JobQuery(
        since=_time(given, "since", now),
        until=_time(given, "until", now),
        states=frozenset().union(*(_STATES[name] for name in _several_of(given, "state", sorted(_STATES)))),
        failed=None if not outcome else outcome == "failed",
        codes=frozenset(_several_of(given, "code", sorted(_CODES))),
        submitted=frozenset(map(Submitted, _several_of(given, "submitted", [str(word) for word in Submitted]))),
        labels={name.removeprefix(LABEL): value for name, value in given.items() if name.startswith(LABEL)},
        keys=_key_hashes(given, holders),
        profiles=frozenset(_several(given, "profile")),
        instances=frozenset(_several(given, "instance")),
        worker_end=given.get("worker", ""),
        cancelled_by=given.get("cancelled_by", ""),
        text=given.get("q", "").strip(),
    )
    if query.since is not None and query.until is not None and query.since >= query.until:
        raise ParameterError("until", "`until` is not after `since`")
    return query


def _key_hashes(given: dict[str, str], holders: Sequence[bytes]) -> frozenset[bytes]:
    key = given.get("key", "")
    if not key.isascii():
        raise ParameterError("key", "`key` is not an idempotency key: it is not ASCII")
    return frozenset(hash_of_key(holder, key) for holder in holders) if key else frozenset()


def _several(given: dict[str, str], name: str) -> list[str]:
    return [value for part in given.get(name, "").split(",") if (value := part.strip())]


def _several_of(given: dict[str, str], name: str, known: Sequence[str]) -> list[str]:
    values = _several(given, name)
    for value in values:
        if value not in known:
            raise ParameterError(name, f"`{name}` is {value!r}, takes {', '.join(known)}")
    return values


def _one_of(given: dict[str, str], name: str, known: Sequence[str]) -> str:
    value = given.get(name, "")
    if value and value not in known:
        raise ParameterError(name, f"`{name}` is {value!r}, takes {', '.join(known)}")
    return value


def _time(given: dict[str, str], name: str, now: float) -> float | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    age_s = None if text.isdigit() else age_of(text)
    if age_s is not None:
        return max(0.0, now - age_s)  # databases have no times that are much earlier
    if text == "midnight":
        return time.mktime((*time.localtime(now)[:3], 0, 0, 0, 0, 0, -1))  # the clock may have been changed since
    try:
        if re.fullmatch(r"\d+(\.\d*)?", text):
            found = float(text)
        else:
            at = datetime.fromisoformat(text)
            found = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        found = 0.0
    if not _FIRST <= found < _BEYOND:
        raise ParameterError(name, f"`{name}` is {text!r}, {_TIMES}")
    return found


def age_of(text: str) -> float | None:
    """Return the seconds of an age such as `15m`, or of a whole number; None: it is neither."""
    age = _AGE.fullmatch(text)
    return float(int(age[1]) * _UNIT_S[age[2] or "s"]) if age is not None else None


def cursor_of(position: Position, sort: Sort) -> str:
    """Return a position as a value of `after`."""
    written = json.dumps([sort, *dataclasses.astuple(position)], separators=(",", ":"))
    return base64.urlsafe_b64encode(written.encode()).decode().rstrip("=")


def _position(cursor: str, sort: Sort) -> Position:
    try:
        read: Any = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        written_for, is_open, at, number, seen_to = read
        sound = [type(one) for one in (is_open, at, number, seen_to)] == [bool, float, int, float]
        sound = sound and abs(number) < 2**63 and abs(at) < _BEYOND and abs(seen_to) < _BEYOND  # which NaN is not
    except (ValueError, TypeError, binascii.Error):
        raise _no_cursor() from None
    if not sound:
        raise _no_cursor()
    if written_for != sort:
        raise ParameterError("after", f"`after` is of a list with the sort {written_for}, and this one has {sort}")
    return Position(is_open=is_open, at=at, number=number, seen_to=seen_to)


def _no_cursor() -> ParameterError:
    return ParameterError("after", "`after` is not what an earlier page gave as `next`")
