"""Operators' queries about many jobs, in the form of a request."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from proxy.api.clients.request_headers import hash_of_key
from proxy.api.operators.job_filters import FILTERS, Asked, cursor_of, read
from proxy.store.query import JobQuery, Position, Sort
from shared.errors import Code, ParameterError
from shared.lifecycle import State, Submitted

_NOW = 1_764_115_200.0


def asked(*pairs: tuple[str, str]) -> Asked:
    """Return the parsed request of these parameters."""
    return read(pairs, [b"one", b"two"], _NOW)


def test_nothing_said_means_all_jobs() -> None:
    """The newest first, with counts."""
    assert asked() == Asked(query=JobQuery(), sort=Sort.NEWEST, limit=None, after=None, counts=True)
    assert asked().page_limit == 50
    assert asked(*((name, "") for name in FILTERS)) == asked()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-11-26T00:00:00Z", _NOW),
        ("2025-11-26T01:00:00+01:00", _NOW),
        ("2025-11-26", _NOW),
        ("1764115200.5", _NOW + 0.5),
        ("90s", _NOW - 90),
        ("15m", _NOW - 900),
        ("2h", _NOW - 7_200),
        ("7d", _NOW - 604_800),
        ("999999999d", 0.0),
    ],
)
def test_a_time_is_said_in_several_ways(text: str, expected: float) -> None:
    """As a time, or as an age."""
    assert asked(("since", text)).query.since == expected
    assert asked(("until", text)).query.until == expected


def test_midnight_is_the_last_one_here() -> None:
    """In the time zone of this machine."""
    since = asked(("since", "midnight")).query.since
    assert since is not None
    assert _NOW - 86_400 - 3_600 <= since <= _NOW
    assert datetime.fromtimestamp(since, UTC).astimezone().strftime("%H:%M:%S.%f") == "00:00:00.000000"


@pytest.fixture
def with_summer_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone with summer time for this process."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("with_summer_time")
@pytest.mark.parametrize(
    ("now", "midnight"),
    [
        ("2026-03-29T12:00:00+02:00", "2026-03-29T00:00:00+01:00"),
        ("2026-10-25T12:00:00+01:00", "2026-10-25T00:00:00+02:00"),
    ],
)
def test_midnight_is_right_when_summer_time_begins_and_ends(now: str, midnight: str) -> None:
    """The clock was changed after it."""
    since = read([("since", "midnight")], [], datetime.fromisoformat(now).timestamp()).query.since
    assert since == datetime.fromisoformat(midnight).timestamp()


def test_each_filter_is_read() -> None:
    """Several values are separated by commas; a key is hashed for each holder of an API key."""
    query = asked(
        ("state", "open, finished"),
        ("outcome", "failed"),
        ("code", "worker-died,deadline-exceeded"),
        ("submitted", "no,unknown"),
        ("label.account", "a,b"),
        ("label.team", "7"),
        ("key", "order-7"),
        ("profile", "cog,spreedly"),
        ("instance", "a"),
        ("worker", "any"),
        ("cancelled_by", "operator ann"),
        ("q", " out of memory "),
    ).query
    assert query == JobQuery(
        states=frozenset(State),
        failed=True,
        codes=frozenset({"worker-died", "deadline-exceeded"}),
        submitted=frozenset({Submitted.NO, Submitted.UNKNOWN}),
        labels={"account": "a,b", "team": "7"},
        keys=frozenset({hash_of_key(b"one", "order-7"), hash_of_key(b"two", "order-7")}),
        profiles=frozenset({"cog", "spreedly"}),
        instances=frozenset({"a"}),
        worker_end="any",
        cancelled_by="operator ann",
        text="out of memory",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("since", "26.11."),
        ("since", "12"),
        ("until", "yesterday"),
        ("until", "99999999999999"),
        ("since", "nan"),
        ("state", "assigned"),
        ("state", "open,nowhere"),
        ("outcome", "bad"),
        ("code", "404"),
        ("submitted", "maybe"),
        ("key", "schl\u00fcssel"),
        ("sort", "fastest"),
        ("limit", "0"),
        ("limit", "501"),
        ("limit", "-1"),
        ("limit", "\u0663"),
        ("counts", "1"),
        ("after", "!"),
        ("q", "\0"),
        ("profile", "a\0b"),
        ("instance", "\0"),
        ("q", "m\udcfcller"),
        ("q", "x" * 301),
        ("label.", "x"),
        ("stat", "open"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_name(name: str, value: str) -> None:
    """The error says what is accepted."""
    with pytest.raises(ParameterError, match=f"`{name}`") as caught:
        asked((name, value))
    assert (caught.value.parameter, caught.value.code) == (name, Code.INVALID_REQUEST)


@pytest.mark.parametrize(
    "written",
    [
        b"[1]",
        b'["newest",false,1.0,1]',
        b'["newest",0,1.0,1,1.0]',
        b'["newest",false,1,1,1.0]',
        b'["newest",false,1.0,true,1.0]',
        b'["newest",false,1.0,1,1]',
        b'["newest",false,1.0,%d,1.0]' % 2**63,
        b'["newest",false,NaN,1,1.0]',
        b'["newest",false,1.0,1,NaN]',
        b'["newest",false,Infinity,1,1.0]',
        b'["newest",false,1.0,1,Infinity]',
        b'["newest",false,-1e30,1,1.0]',
        b'["newest",false,1.0,1,-1e30]',
    ],
)
def test_a_position_that_no_page_has_is_told(written: bytes) -> None:
    """Nobody can have it from here, and not every database takes these numbers."""
    with pytest.raises(ParameterError, match="`after` is not what an earlier page gave"):
        asked(("after", base64.urlsafe_b64encode(written).decode()))
    assert asked(("after", base64.urlsafe_b64encode(b'["newest",false,1.0,1,1.0]').decode())).after is not None


def test_a_value_may_be_as_long_as_the_pages_make_it() -> None:
    """static/patterns.js has the same limit."""
    assert asked(("q", "x" * 300)).query.text == "x" * 300


def test_a_label_may_have_a_nul_character() -> None:
    """A job's JSON can have one, and the dashboard links its labels."""
    assert asked(("label.a\0", "b\0")).query.labels == {"a\0": "b\0"}


def test_a_range_that_is_none_is_told() -> None:
    """Its end is before its start."""
    with pytest.raises(ParameterError, match="`until` is not after `since`"):
        asked(("since", "1h"), ("until", "2h"))


def test_a_parameter_is_given_once() -> None:
    """Otherwise it would be ambiguous."""
    with pytest.raises(ParameterError, match="`state` is given twice"):
        asked(("state", "open"), ("state", "finished"))


@pytest.mark.parametrize("sort", Sort)
def test_a_cursor_leads_back_to_its_position(sort: Sort) -> None:
    """Exactly; and only in a list with the same sort. A further page has no counts by default."""
    position = Position(is_open=False, at=1_764_115_200.123456, number=-1, seen_to=1_764_115_100.5)
    again = asked(("sort", sort), ("after", cursor_of(position, sort)))
    assert (again.after, again.counts) == (position, False)
    other = Sort.OLDEST if sort is Sort.NEWEST else Sort.NEWEST
    with pytest.raises(ParameterError, match=f"`after` is of a list with the sort {sort}"):
        asked(("sort", other), ("after", cursor_of(position, sort)))
