"""What every kind of store has to do: memory, a file, a database."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.store.deeds import KEPT_MINOR, Deed
from proxy.store.names import Called, Output
from proxy.store.protocol import JobStore
from proxy.store.record import Record
from shared.errors import Code
from shared.lifecycle import State, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.records import a_record, finished
from tests.support.stores import MakeStore, alike, of
from tests.support.waiting import eventually

_FAILURE = Failed(code=Code.DEADLINE_EXCEEDED, detail="no callback came in time", submitted=Submitted.YES)

#: Members of records that have to come back; each test makes its own record, as the deadline is relative to now.
RECORDS: list[dict[str, Any]] = [
    {},
    {"state": State.SUBMITTING},
    {"key": b"k" * 32, "fingerprint": b"f" * 32},
    {"profile": "cog", "outputs": {"id": "7", "path": "a/b", "q": "\"'\n"}},
]
FINISHED: list[dict[str, Any]] = [
    {},
    {"callback": b'{"state": "failed", "n": 1e400}', "says_failed": True, "early": True, "duplicates": 3},
    {"callback": b"\xc3\xa9\x00\xff"},
    {"callback": b""},
    {"callback": b"x" * 1_048_576},
    {"callback": None, "failure": _FAILURE},
    {"failure": _FAILURE},
    {"profile": "gotenberg", "callback": b"%PDF", "content_type": "application/pdf"},
    {"callback": b"{}", "says_failed": True, "error": "out of m\u00e9mory"},
]


@pytest.mark.parametrize(
    ("make", "members"), [(a_record, members) for members in RECORDS] + [(finished, members) for members in FINISHED]
)
async def test_a_record_comes_back_as_it_was(
    store: JobStore, make: Callable[..., Record], members: dict[str, Any]
) -> None:
    """Every member, byte for byte, by every kind of look-up."""
    record = of(store, make(**members))
    await store.put(record)

    assert alike(await store.by_id(record.id), record)
    assert alike(await store.by_token(record.token_hash), record)
    if record.key is not None:
        assert alike(await store.by_key(record.key), record)


async def test_what_was_never_put_is_not_found(store: JobStore) -> None:
    """By no name."""
    await store.put(of(store, a_record()))

    assert await store.by_id("f" * 32) is None
    assert await store.by_token(b"t" * 32) is None
    assert await store.by_key(b"k" * 32) is None


async def test_the_last_job_with_an_id_that_begins_so_is_found(store: JobStore) -> None:
    """In flight or over, and no other, however similar its id is."""
    wanted = "00000000beef0000"
    for beginning in ("00000000beeeffff", "00000000beef0001", wanted[:-1] + "f"):
        await store.put(of(store, a_record(id=beginning + "f" * 16)))
    assert await store.by_beginning(wanted) is None
    first = of(store, finished(id=wanted + "f" * 16))
    await store.put(first)
    assert alike(await store.by_beginning(wanted), first)
    last = of(store, a_record(id=wanted + "0" * 16))
    await store.put(last)
    assert alike(await store.by_beginning(wanted), last)
    over = of(store, finished(id=last.id, token_hash=last.token_hash))
    await store.put(over)
    assert alike(await store.by_beginning(wanted), over)


async def test_what_is_put_is_found_before_it_is_durable(store: JobStore) -> None:
    """A question after a put finds the new record, though nobody has waited for the put."""
    record = of(store, finished())

    store.put(record)

    assert alike(await store.by_id(record.id), record)


async def test_what_is_noted_is_found_at_once(store: JobStore) -> None:
    """It is written later, but can be found before."""
    first = of(store, a_record())
    later = replace(first, state=State.WAITING)
    other = of(store, a_record())
    store.put(first)

    store.note(first)
    store.note(later)
    store.note(other)

    assert alike(await store.by_id(first.id), later)
    assert alike(await store.by_token(other.token_hash), other)


async def test_an_earlier_note_does_not_come_back_over_a_later_record(store: JobStore) -> None:
    """The put record counts, whatever note about the same job came before."""
    first = of(store, a_record())
    store.note(first)

    await store.put(replace(first, duplicates=1))

    assert alike(await store.by_id(first.id), replace(first, duplicates=1))


async def test_the_last_record_of_a_job_counts(store: JobStore) -> None:
    """Each record holds everything that is known."""
    first = of(store, a_record(key=b"k" * 32))
    records = [
        first,
        replace(first, state=State.SUBMITTING),
        replace(first, state=State.WAITING),
        replace(first, state=State.FINISHED, finished_at=first.accepted_at, callback=b"{}"),
    ]

    for record in records:
        store.put(record)

    assert alike(await store.by_id(first.id), records[-1])
    assert alike(await store.by_key(b"k" * 32), records[-1])


async def test_the_end_of_a_job_is_waited_for(store: JobStore) -> None:
    """Whoever records the end; a job that is over need not be waited for."""
    first = of(store, a_record(state=State.SUBMITTING))
    over = replace(first, state=State.FINISHED, finished_at=first.accepted_at, callback=b"{}")
    await store.put(first)
    waiting = asyncio.create_task(store.ended(first.id))
    await store.by_id(first.id)
    assert not waiting.done()

    await store.put(over)

    assert alike(await waiting, over)
    assert alike(await store.ended(first.id), over)


async def test_the_last_job_begun_under_a_key_holds_it(store: JobStore) -> None:
    """Even if the earlier one is recorded again; that one can still be found by its id."""
    earlier = of(
        store, finished(key=b"k" * 32, callback=None, failure=dataclasses.replace(_FAILURE, submitted=Submitted.NO))
    )
    later = of(store, a_record(key=b"k" * 32))

    await store.put(earlier)
    await store.put(later)
    await store.put(replace(earlier, duplicates=1))

    assert alike(await store.by_key(b"k" * 32), later)
    assert alike(await store.by_id(earlier.id), replace(earlier, duplicates=1))


async def test_a_callback_after_the_end_proves_that_the_job_was_submitted(store: JobStore) -> None:
    """Whatever it says: whoever asks for the job, or reuses its key, is told that it may run."""
    refused = Failed(code=Code.JOB_REJECTED, detail="the job server answered 409", submitted=Submitted.NO)
    first = of(store, a_record(key=b"k" * 32, state=State.SUBMITTING))
    over = replace(first, state=State.FINISHED, finished_at=first.accepted_at, failure=refused)
    await store.put(first)
    await store.put(over)
    assert alike(await store.by_id(first.id), over)

    store.note(over.proven())

    proven = replace(over, failure=dataclasses.replace(refused, submitted=Submitted.YES))
    assert alike(await store.by_id(first.id), proven)
    assert alike(await store.by_key(b"k" * 32), proven)


_LABELS = {"account": 'acme "\u00e9" \\ %_', "team": "1"}


@pytest.mark.parametrize("over", [False, True], ids=["open", "finished"])
async def test_a_job_is_found_by_what_people_call_it(store: JobStore, *, over: bool) -> None:
    """A label's value, the job server's id, the beginning of its own id; but nothing else in the record."""
    members = {"id": f"{'a' * 8}{'1' * 24}", "labels": _LABELS, "outputs": {"id": "theirs-7", "path": "a/b"}}
    record = of(store, (finished if over else a_record)(**members))
    await store.put(record)
    await store.put(of(store, finished(callback=b'{"account": "other"}', labels={"account": "other"})))

    for text in (_LABELS["account"], "1", "theirs-7", "a" * 6, "a" * 8, record.id):
        assert alike(await store.by_name(Called(text)), record), text
    for text in ("account", "team", "a/b", "acme", "theirs", "aaaaa", "b" * 8, "", "%", "Theirs-7", "completed"):
        assert await store.by_name(Called(text)) is None, text


async def test_of_several_that_are_called_so_the_newest_is_found(store: JobStore) -> None:
    """However many came since, and even if the older one is recorded again."""
    older = of(store, finished(labels=_LABELS))
    newer = of(store, finished(labels=_LABELS))
    await store.put(older)
    await store.put(newer)
    await asyncio.gather(*(store.put(of(store, finished(labels={"account": "acme"}))) for _ in range(1200)))
    store.note(replace(older, duplicates=1))

    assert alike(await store.by_name(Called("1")), newer)
    assert alike(await store.by_name(Called("1"), among=2_000), newer)
    assert await store.by_name(Called("1"), among=10) is None


async def test_a_job_is_found_by_what_its_job_server_calls_it(store: JobStore) -> None:
    """However many newer jobs have this name of another kind: a label, another output, another job server's."""
    old = of(store, finished(outputs={"id": "7"}))
    job = of(store, finished(profile="a", outputs={"id": "7", "url": "\u00e9"}))
    others = (
        {"profile": "a", "labels": {"id": "7"}},
        {"profile": "a", "outputs": {"path": "7"}},
        {"profile": "a", "outputs": {"id": "77"}},
        {"profile": "b", "outputs": {"id": "7"}},
    )
    for record in (old, job, *(of(store, finished(**members)) for members in others for _ in range(12))):
        await store.put(record)

    assert alike(await store.by_name(Output(profile="a", name="id", value="7")), job)
    assert alike(await store.by_name(Output(profile="a", name="url", value="\u00e9")), job)
    assert alike(await store.by_name(Output(profile="c", name="id", value="7")), old)
    assert await store.by_name(Output(profile="a", name="id", value="")) is None
    assert await store.by_name(Output(profile="a", name="url", value="7")) is None


async def test_what_a_job_is_called_is_known_once_it_is_noted(store: JobStore) -> None:
    """The job server's id is known at once: people ask with it while the job runs."""
    record = of(store, a_record(state=State.SUBMITTING))
    await store.put(record)

    store.note(replace(record, outputs={"id": "theirs-7"}))

    assert alike(await store.by_name(Called("theirs-7")), replace(record, outputs={"id": "theirs-7"}))


async def test_the_last_failures_are_told_newest_first(make_store: MakeStore) -> None:
    """The proxy's own and the job server's, also with a late result; no open job, and no bodies."""
    store, now = await make_store(3600), time.time()
    records = [
        finished(callback=None, failure=_FAILURE, finished_at=now - 40),
        finished(failure=_FAILURE, finished_at=now - 30),
        finished(finished_at=now - 25),
        finished(callback=b'{"state": "failed"}', says_failed=True, finished_at=now - 20),
        finished(callback=b"x" * 100_000, says_failed=True, finished_at=now - 15),
        a_record(),
    ]
    for record in records:
        await store.put(of(store, record))

    found = await store.last_failures(10)

    assert [record.id for record in found] == [records[3].id, records[1].id, records[0].id]
    assert [record.id for record in await store.last_failures(2)] == [records[3].id, records[1].id]
    assert alike(found[0], of(store, records[3]))


async def test_many_jobs_at_once_are_all_remembered(store: JobStore) -> None:
    """Each under its own names."""
    records = [of(store, finished(callback=b"%d" % number)) for number in range(1500)]

    await asyncio.gather(*(store.put(record) for record in records))

    for record in records:
        assert alike(await store.by_id(record.id), record)


async def test_a_finished_job_is_forgotten_when_its_time_is_over(make_store: MakeStore) -> None:
    """By every name."""
    store = await make_store(0.2)
    record = of(store, finished(key=b"k" * 32, labels=_LABELS))

    await store.put(record)
    await eventually(lambda: _is_none(store, record))

    assert await store.by_token(record.token_hash) is None
    assert await store.by_key(b"k" * 32) is None
    assert await store.by_name(Called("1")) is None


async def test_an_open_job_is_never_forgotten(make_store: MakeStore) -> None:
    """However long it takes: only a finished job can expire."""
    store = await make_store(0.2)
    open_job, done = of(store, a_record(accepted_at=1.0)), of(store, finished())

    await store.put(open_job)
    await store.put(done)
    await eventually(lambda: _is_none(store, done))

    assert alike(await store.by_id(open_job.id), open_job)


async def test_a_late_result_does_not_make_a_job_younger(make_store: MakeStore) -> None:
    """It expires by its end."""
    store = await make_store(0.3)
    record = of(store, finished(callback=None, failure=_FAILURE))

    await store.put(record)
    await store.put(replace(record, callback=b"{}"))

    await eventually(lambda: _is_none(store, record))


async def test_a_store_says_of_itself_where_it_is_how_large_and_how_old(store: JobStore) -> None:
    """For operators; the oldest is the job that ended first."""
    assert (await store.about()).oldest_at is None
    await store.put(of(store, a_record()))
    await store.put(of(store, finished(callback=b"x" * 10_000)))
    about = await store.about()
    assert about.size_bytes > 0
    assert about.oldest_at is not None
    assert abs(about.oldest_at - time.time()) < 60
    match store.kind:
        case "postgresql":
            (instance,) = about.instances
            assert (instance.self, instance.beat_s < 60, abs(instance.started_at - time.time()) < 60) == (True,) * 3
        case kind:
            assert kind in {"memory", "sqlite"}
            assert about.instances == ()
    assert bool(about.place) is (store.kind != "memory")


def _deed(what: str = "stop", **members: Any) -> Deed:
    return Deed(at=round(time.time(), 3), what=what, **members)


async def test_what_operators_did_comes_back_newest_first(store: JobStore) -> None:
    """Every member, from any position."""
    first = _deed(
        who="anna", via="session", peer="::1", instance="a", of="b" * 32, outcome="not-found", detail="é\0\n'"
    )
    deeds = [first, *(_deed("pause", who=str(number)) for number in range(4))]
    for deed in deeds:
        store.enter(deed)
    found = await store.deeds(10, None)
    assert [deed.who for deed in found] == ["3", "2", "1", "0", "anna"]
    places = [deed.n for deed in found]
    assert places == sorted(set(places), reverse=True)
    back = found[-1]
    assert abs(back.at - first.at) < 5
    assert replace(back, n=0, at=0.0) in [
        replace(first, at=0.0, detail=detail) for detail in (first.detail, first.detail.replace("\0", "\ufffd"))
    ]
    assert [deed.who for deed in await store.deeds(2, None)] == ["3", "2"]
    assert [deed.who for deed in await store.deeds(2, places[1])] == ["1", "0"]
    assert await store.deeds(2, places[-1]) == []


@pytest.mark.parametrize(("what", "outcome"), [("failed log-in", "unauthorized"), ("pause", "forbidden")])
async def test_what_anybody_can_try_takes_no_room_from_what_was_done(store: JobStore, what: str, outcome: str) -> None:
    """Anybody can fail to log in, or try forbidden things, as often as they like."""
    store.enter(_deed("drain"))
    for number in range(KEPT_MINOR + 50):
        store.enter(_deed(what, outcome=outcome, peer=str(number)))
    found = await store.deeds(2 * KEPT_MINOR, None)
    assert len(found) == KEPT_MINOR + 1
    assert found[-1].what == "drain"
    assert found[0].peer == str(KEPT_MINOR + 49)


async def test_a_store_without_trouble_says_so(store: JobStore) -> None:
    """An empty answer: jobs may come."""
    await store.put(of(store, a_record()))

    assert store.trouble == ""


def test_a_callback_is_the_outcome_whenever_it_came() -> None:
    """In time, late, or as a failure."""
    in_time = finished(callback=b"{}")
    late = finished(callback=b"{}", failure=_FAILURE)
    failed = finished(callback=b'{"state": "failed"}', says_failed=True)

    assert (in_time.outcome, in_time.late) == (Succeeded(body=b"{}"), False)
    assert (late.outcome, late.late) == (Succeeded(body=b"{}"), True)
    assert isinstance(failed.outcome, Failed)
    assert (failed.outcome.code, failed.outcome.result) == (Code.JOB_FAILED, b'{"state": "failed"}')


def test_without_a_callback_the_failure_is_the_outcome() -> None:
    """Without either there is no outcome yet."""
    assert finished(callback=None, failure=_FAILURE).outcome == _FAILURE
    assert a_record().outcome is None


async def _is_none(store: JobStore, record: Record) -> bool:
    return await store.by_id(record.id) is None
