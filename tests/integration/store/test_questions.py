"""What every kind of store answers about many jobs: memory, a file, a database."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.store.patterns import EDGES_MS, Grid
from proxy.store.protocol import JobStore, TakenError
from proxy.store.query import ANY, JobQuery, Limits, Position, Sort
from proxy.store.record import Record
from shared.errors import Code
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.records import a_record, finished
from tests.support.stores import MakeStore, alike, of

_HOUR = 3600.0


def _failure(code: Code = Code.WORKER_DIED, submitted: Submitted = Submitted.UNKNOWN, detail: str = "") -> Failed:
    return Failed(code=code, detail=detail or "the worker with pid 7 did not finish the job", submitted=submitted)


def _ended(ago_s: float, took_s: float = 1.0, **members: Any) -> Record:
    """Return the record of a job that ended this long ago."""
    now = time.time()
    return finished(accepted_at=now - ago_s - took_s, finished_at=now - ago_s, **members)


async def _ids(store: JobStore, sort: Sort = Sort.NEWEST, size: int = 2, **members: Any) -> list[str]:
    """Return the ids of all matching jobs, asked for page by page."""
    found: list[str] = []
    after: Position | None = None
    while True:
        page = await store.jobs(JobQuery(**members), sort=sort, limit=size, after=after)
        assert len(page.records) <= size
        found += [record.id for record in page.records]
        after = page.next
        if after is None:
            return found


async def _put(store: JobStore, *records: Record) -> list[Record]:
    own = [of(store, record) for record in records]
    for record in own:
        await store.put(replace(record, state=State.SUBMITTING, finished_at=None, callback=None, failure=None))
        await store.put(record)
    return own


async def test_jobs_are_listed_in_each_order(store: JobStore) -> None:
    """Page by page, each once; open jobs count as the newest."""
    slow, quick, usual = await _put(store, _ended(30, 9.0), _ended(10, 0.5), _ended(20, 2.0))
    earlier, later = a_record(accepted_at=time.time() - 5), a_record(state=State.WAITING)
    await _put(store, earlier, later)

    newest = [later.id, earlier.id, quick.id, usual.id, slow.id]
    for sort in (Sort.NEWEST, Sort.OLDEST):
        assert (await store.jobs(JobQuery(), sort=sort, limit=5)).next is None, "there are no more"
    for size in (1, 2, 3, 50):
        assert await _ids(store, size=size) == newest
        assert await _ids(store, Sort.OLDEST, size=size) == newest[::-1]
        assert await _ids(store, Sort.SLOWEST, size=size) == [slow.id, usual.id, quick.id]


async def test_jobs_that_ended_at_the_same_time_are_each_listed_once(store: JobStore) -> None:
    """However small the pages are."""
    at = time.time() - 60
    same = await _put(store, *(finished(accepted_at=at - 1, finished_at=at) for _ in range(7)))

    for sort in Sort:
        found = await _ids(store, sort, size=3)
        assert sorted(found) == sorted(record.id for record in same), sort


async def test_a_job_that_ends_between_two_pages_is_not_missed(store: JobStore) -> None:
    """The oldest first: it moves from the open jobs, which come last, to the ended ones, which have been listed."""
    (ended,) = await _put(store, _ended(60))
    now = time.time()
    records = [of(store, a_record(accepted_at=now - 30 + number)) for number in range(4)]
    for record in records:
        await store.put(record)
    begun = of(store, a_record(accepted_at=now))

    first = await store.jobs(JobQuery(), sort=Sort.OLDEST, limit=2)
    second = await store.jobs(JobQuery(), sort=Sort.OLDEST, limit=1, after=first.next)
    for record in (records[0], records[2]):
        done = {"state": State.FINISHED, "finished_at": time.time(), "callback": b"{}"}
        await store.put(replace(record, **done))
    await store.put(begun)
    third = await store.jobs(JobQuery(), sort=Sort.OLDEST, limit=1, after=second.next)
    last = await store.jobs(JobQuery(), sort=Sort.OLDEST, limit=9, after=third.next)

    pages = [[record.id for record in page.records] for page in (first, second, third, last)]
    assert pages == [[ended.id, records[0].id], [records[1].id], [records[2].id], [records[3].id, begun.id]]
    assert (third.records[0].state, last.next) == (State.FINISHED, None)
    still_open = await store.jobs(
        JobQuery(states=frozenset({State.ACCEPTED})), sort=Sort.OLDEST, limit=9, after=first.next
    )
    assert [record.id for record in still_open.records] == [records[1].id, records[3].id, begun.id]


@pytest.mark.parametrize("sort", [Sort.NEWEST, Sort.OLDEST])
async def test_a_range_of_time_holds_for_each_part_of_the_jobs(store: JobStore, sort: Sort) -> None:
    """However many parts a page is made of. A job of which more is recorded after its end is listed once."""
    records = await _put(store, *(_ended(600 - 60 * n, labels={"odd": str(n % 2)}) for n in range(10)))
    with contextlib.suppress(TakenError):  # a shared store notes it instead
        await store.put(replace(records[5], duplicates=1))
    query = JobQuery(since=records[2].finished_at, until=records[8].finished_at, labels={"odd": "1"})

    page = await store.jobs(query, sort=sort, limit=9, limits=Limits(seconds=60.0, part=2))

    expected = [records[number].id for number in (3, 5, 7)]
    assert [record.id for record in page.records] == (expected if sort is Sort.OLDEST else expected[::-1])


async def test_a_range_of_time_is_that_of_the_ends(store: JobStore) -> None:
    """The range includes its beginning but not its end; an open job is in every range that reaches to now."""
    now = time.time()
    old, new = await _put(store, _ended(1_800), _ended(60))
    (is_open,) = await _put(store, a_record())

    assert await _ids(store, since=now - 600) == [is_open.id, new.id]
    assert await _ids(store, until=now - 600) == [old.id]
    assert (await store.counts(JobQuery(until=now - 600))).total == 1
    grid = Grid(since=now - 3_000, bucket_s=300.0, buckets=10)
    assert (await store.patterns(JobQuery(), grid, "")).jobs == 2
    assert (await store.patterns(JobQuery(until=now - 600), grid, "")).jobs == 1
    assert (await store.patterns(JobQuery(since=now - 600), grid, "")).jobs == 1
    assert await _ids(store, since=now - 3_000, until=now - 600) == [old.id]
    assert await _ids(store, since=now - 30, until=now + 100) == [is_open.id]


async def test_each_filter_finds_what_is_meant_and_nothing_else(store: JobStore) -> None:
    """Alone and together with others."""
    lost = _ended(50, callback=None, failure=_failure(), worker_end="SIGKILL", labels={"account": "a", "n": "1"})
    no = _ended(40, callback=None, failure=_failure(Code.NO_WORKER, Submitted.NO), labels={"account": "b"})
    stopped = _ended(
        35,
        callback=None,
        failure=_failure(Code.CANCELLED, Submitted.YES, "the job was cancelled by ann"),
        cancelled_by="operator ann",
    )
    says = _ended(30, says_failed=True, error="Out of M\u00e9mory 100%", profile="cog", outputs={"id": "theirs-7"})
    good = _ended(20, key=b"k" * 32, profile="cog", labels={"account": "a"}, outputs={"n": "1", "account": "b"})
    late = _ended(10, failure=_failure(Code.DEADLINE_EXCEEDED, Submitted.YES))
    waits = a_record(state=State.WAITING, accepted_at=time.time() - 1, labels={"account": 'q"\u00e9'})
    lost, no, stopped, says, good, late, waits = await _put(store, lost, no, stopped, says, good, late, waits)

    everything = [waits, late, good, says, stopped, no, lost]
    expected: list[tuple[dict[str, Any], list[Record]]] = [
        ({}, everything),
        ({"states": {State.WAITING, State.ACCEPTED}}, [waits]),
        ({"states": {State.FINISHED}}, everything[1:]),
        ({"failed": True}, [late, says, stopped, no, lost]),
        ({"failed": False}, [good]),
        ({"codes": {"worker-died", "job-failed"}}, [says, lost]),
        ({"codes": {"worker-died"}, "failed": False}, []),
        ({"submitted": {Submitted.NO}}, [no]),
        ({"submitted": {Submitted.UNKNOWN, Submitted.NO}}, [no, lost]),
        ({"labels": {"account": "a"}}, [good, lost]),
        ({"labels": {"account": "a", "n": "1"}}, [lost]),
        ({"labels": {"n": "1"}}, [lost]),
        ({"labels": {"account": "b"}}, [no]),
        ({"labels": {"account": "A"}}, []),
        ({"labels": {"account": 'q"\u00e9'}}, [waits]),
        ({"keys": {b"k" * 32, b"l" * 32}}, [good]),
        ({"keys": {b"l" * 32}}, []),
        ({"profiles": {"cog"}}, [good, says]),
        ({"profiles": {"cog"}, "failed": True}, [says]),
        ({"worker_end": "SIGKILL"}, [lost]),
        ({"worker_end": ANY}, [lost]),
        ({"cancelled_by": "operator ann"}, [stopped]),
        ({"cancelled_by": ANY, "failed": True}, [stopped]),
        ({"text": "m\u00e9mory 100%"}, [says]),
        ({"text": "THEIRS-"}, [says]),
        ({"text": "cancelled by ANN"}, [stopped]),
        ({"text": "m_mory"}, []),
        ({"text": 'Q"\u00e9'}, [waits]),
    ]
    for members, wanted in expected:
        query: dict[str, Any] = {
            name: frozenset(value) if isinstance(value, set) else value for name, value in members.items()
        }
        assert await _ids(store, **query) == [record.id for record in wanted], members
        counted = await store.counts(JobQuery(**query))
        assert (counted.total, counted.counted_to) == (len(wanted), None), members


async def test_a_text_is_looked_for_in_what_was_said_only(store: JobStore) -> None:
    """Not in the names of labels and outputs, nor in other members of the record."""
    await _put(
        store, _ended(5, labels={"account": "a"}, outputs={"path": "b"}, content_type="text/plain", refusal="no")
    )

    for text in ("account", "path", "plain", '", "', "no"):
        assert await _ids(store, text=text) == [], text


async def test_a_job_is_found_by_how_its_id_begins(store: JobStore) -> None:
    """From six characters on; jobs that contain it elsewhere are not found then."""
    one = _ended(5, id="abcdef" + "0" * 26, outputs={"id": "123456"})
    other = _ended(3, id="123456" + "0" * 26)
    is_open = a_record(id="abcdef" + "1" * 26)
    await _put(store, one, other, is_open)

    assert await _ids(store, text="abcdef") == [is_open.id, one.id]
    assert await _ids(store, text="abcde") == []


@pytest.mark.parametrize(
    ("said", "other"),
    [
        ("M\u00dcller", "M\u00c4ller"),
        ("\u0418\u0432\u0430\u043d", "\u0418\u0432\u0430"),
        ("\u00c9[a-z]*?]", "\u00c9b12]"),
        ("\u00e9\\u00dc_%!", "\u00e9\\u00dcxyz!"),
    ],
)
async def test_a_text_is_found_in_either_case(store: JobStore, said: str, other: str) -> None:
    """Not only letters of ASCII, wherever it is said; other letters are others."""

    def jobs(text: str) -> list[Record]:
        return [
            _ended(40, labels={"n": f"of {text}"}),
            _ended(30, outputs={"n": f"{text} 1"}),
            _ended(20, says_failed=True, error=f"of {text}"),
            _ended(10, callback=None, failure=_failure(detail=f"{text} 1")),
        ]

    found = await _put(store, *jobs(said))
    await _put(store, *jobs(other))
    for text in (said, said.lower(), said.upper()):
        assert sorted(await _ids(store, text=text)) == sorted(record.id for record in found)


async def test_a_label_with_a_nul_character_is_found(store: JobStore) -> None:
    """A job's JSON can have one."""
    one, _, _ = await _put(store, *(_ended(10, labels={"account": value}) for value in ("a\0b", "a", "a\0")))
    assert await _ids(store, labels={"account": "a\0b"}) == [one.id]


async def test_a_reason_with_half_of_a_character_hides_no_other(store: JobStore) -> None:
    """A database cannot store it; it becomes its escape."""
    await _put(store, *(_ended(10, says_failed=True, error=error) for error in ("no \ud800", "other")))
    found = await store.patterns(JobQuery(), Grid(since=time.time() - 1_000, bucket_s=100.0, buckets=10), "")
    assert len(found.failures) == 2


async def test_a_line_has_everything_but_the_bodies(store: JobStore) -> None:
    """The line says whether there are bodies."""
    (record,) = await _put(
        store, _ended(5, callback=b"x" * 100_000, sent=b"y" * 100, trail="{}", labels={"account": "a"}, error="why")
    )
    page = await store.jobs(JobQuery(), sort=Sort.NEWEST, limit=5)

    assert alike(page.records[0], replace(record, callback=b"", sent=b""))
    assert page.records[0].outcome is not None
    assert alike(await store.by_id(record.id), record)


async def test_jobs_are_counted_by_what_they_can_be_asked_for(store: JobStore) -> None:
    """Each facet separately."""
    await _put(
        store,
        _ended(9, labels={"account": "a"}, profile="cog"),
        _ended(8, labels={"account": "a"}, profile="cog"),
        _ended(7, callback=None, failure=_failure(), worker_end="SIGKILL", labels={"account": "b"}),
        a_record(state=State.WAITING),
    )
    counted = await store.counts(JobQuery())

    assert counted.total == 4
    assert counted.facets() == {
        "state": {"finished": 3, "waiting": 1},
        "outcome": {"succeeded": 2, "failed": 1},
        "code": {"worker-died": 1},
        "submitted": {"yes": 3, "unknown": 1},
        "profile": {"cog": 2},
        "instance": {},
        "worker": {"SIGKILL": 1},
        "cancelled_by": {},
    }
    assert counted.label_facets() == {"account": {"a": 2, "b": 1}}


async def test_a_job_that_is_forgotten_is_not_listed(make_store: MakeStore) -> None:
    """Whether or not it was deleted yet."""
    store = await make_store(60)
    await _put(store, _ended(30))
    if not hasattr(store, "_finished"):  # memory counts from when it was told of the end
        await _put(store, _ended(90))

    assert len(await _ids(store)) == 1
    assert len(await _ids(store, since=1.0)) == 1
    assert (await store.counts(JobQuery())).total == 1


@pytest.mark.parametrize("sort", [Sort.NEWEST, Sort.OLDEST])
async def test_a_search_that_takes_long_says_how_far_it_came_and_goes_on(make_store: MakeStore, sort: Sort) -> None:
    """Page after page, until all jobs were looked at; a store that looks at all of them at once is allowed, too."""
    store = await make_store(_HOUR)
    records = await _put(store, *(_ended(60 - n, labels={"n": str(n)}) for n in range(25)))
    hurry = Limits(seconds=0.0, part=4, counted=4)
    found: list[str] = []
    after, pages = None, 0
    while pages == 0 or after is not None:
        page = await store.jobs(JobQuery(labels={"n": "3"}), sort=sort, limit=2, after=after, limits=hurry)
        found += [record.id for record in page.records]
        after, pages = page.next, pages + 1
        assert (page.searched_to is None) or after is not None
    assert found == [records[3].id]
    assert pages == 1 if hasattr(store, "_finished") else pages > 2
    counted = await store.counts(JobQuery(), limits=hurry)
    assert counted.total == 25 if counted.counted_to is None else counted.total < 25


async def test_the_slowest_are_those_of_as_many_jobs_as_are_said(make_store: MakeStore) -> None:
    """The newest jobs, of which all matches are sorted; a store may look at all of them at once."""
    store = await make_store(_HOUR)
    records = await _put(store, *(_ended(60 - n, 30.0 - n, labels={"n": str(n % 2)}) for n in range(12)))
    hurry = Limits(seconds=0.0, part=4)

    page = await store.jobs(JobQuery(), sort=Sort.SLOWEST, limit=2, limits=hurry)
    some = await store.jobs(JobQuery(labels={"n": "0"}), sort=Sort.SLOWEST, limit=2, limits=hurry)
    every = await store.jobs(JobQuery(), sort=Sort.SLOWEST, limit=2)

    assert [record.id for record in every.records] == [record.id for record in records[:2]]
    assert (every.looked_at, every.searched_to) == (None, None)
    if page.looked_at is not None:
        assert page.looked_at == some.looked_at == 4
        assert page.searched_to == pytest.approx(records[8].finished_at, abs=1)
        assert [record.id for record in page.records] == [record.id for record in records[8:10]]
        assert [record.id for record in some.records] == [records[8].id, records[10].id]
    assert (page.looked_at is None) is (page.searched_to is None) is hasattr(store, "_finished")


async def test_no_failure_is_lost_among_many_kinds(store: JobStore) -> None:
    """Each has another message; those of one code are counted as well."""
    words = [f"{letters} is gone" for letters in map("".join, itertools.product("abcdefghijklm", repeat=3))]
    others = [_ended(60, callback=None, failure=_failure(Code.JOB_REJECTED, detail=text)) for text in words]
    for record in others:
        store.put(of(store, record))
    await store.put(of(store, _ended(60, callback=None, failure=_failure())))

    found = await store.patterns(JobQuery(), Grid(since=time.time() - 1_000, bucket_s=100.0, buckets=10), "")
    assert found.failures_to is None
    counts: Counter[str] = Counter()
    for (failure, _, _), group in found.failures.items():
        counts[failure] += group.count
    assert counts == {"worker-died": 1, "job-rejected": len(words)}


async def test_what_failures_have_in_common_is_counted(store: JobStore) -> None:
    """By code, by message without its variable parts, and by a label; over time, for one of these."""
    now = time.time()
    grid = Grid(since=now - 1_000, bucket_s=100.0, buckets=10)
    died = [
        _ended(ago, callback=None, failure=_failure(detail=f"pid {pid} died"), labels={"account": "a", "n": str(pid)})
        for ago, pid in ((950, 7), (150, 4711), (50, 12))
    ]
    other = _ended(50, callback=None, failure=_failure(detail="pid 9 died"), labels={"account": "b"})
    says = _ended(250, says_failed=True, error="quota of 7f3e2a19-11aa exceeded")
    await _put(store, *died, other, says, _ended(45, 35.0), _ended(2_000), a_record())

    found = await store.patterns(JobQuery(), grid, "account")
    assert (found.jobs, found.searched_to, found.failures_to) == (6, None, None)
    assert found.ended == [1, 0, 0, 0, 0, 0, 0, 1, 1, 3]
    assert found.failed == [1, 0, 0, 0, 0, 0, 0, 1, 1, 2]
    assert sum(map(sum, found.latency)) == 6
    assert found.latency[9][EDGES_MS.index(50_000)] == 1
    assert {alike: group.count for alike, group in found.failures.items()} == {
        ("worker-died", "pid # died", "a"): 3,
        ("worker-died", "pid # died", "b"): 1,
        ("job-failed", "quota of # exceeded", ""): 1,
    }
    group = found.failures["worker-died", "pid # died", "a"]
    assert dict(group.over_time) == {0: 1, 8: 1, 9: 1}
    assert (group.submitted, group.example) == ({"unknown": 3}, died[2].id)
    assert group.last_at - group.first_at == pytest.approx(900, abs=30)

    assert (await store.patterns(JobQuery(failed=False), grid, "")).failures == {}
    assert (await store.patterns(JobQuery(labels={"account": "b"}), grid, "")).jobs == 1
    hurry = Limits(seconds=0.0, part=2)
    some = await store.patterns(JobQuery(), grid, "", limits=hurry)
    assert some.jobs == 6 if some.searched_to is None else some.jobs < 6
