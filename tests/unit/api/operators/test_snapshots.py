"""The feed and the history behind the dashboard."""

from __future__ import annotations

import asyncio
import json
import os
import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from starlette.types import Message

from proxy.api.operators import dashboard
from proxy.api.operators.instances import InstancesView
from proxy.api.operators.snapshots import Snapshots
from proxy.http.asgi import ClientGoneError
from proxy.jobs.in_flight import InFlight
from proxy.jobs.job import Job
from proxy.jobs.trail import phases
from proxy.observe.history import SECONDS, History
from proxy.observe.loop_lag import LoopLag
from proxy.observe.observers import Observers
from proxy.store.memory import MemoryStore
from proxy.store.protocol import Reading
from proxy.workers.memory import WorkerMemory, private_bytes
from proxy.workers.status import PoolStatus
from shared.errors import Code
from shared.lifecycle import Event, Submitted
from shared.outcome import Failed, Succeeded
from tests.support.jobs import a_job
from tests.support.waiting import eventually


class _Pool:
    def __init__(self) -> None:
        self.asked = 0
        self.fails = False

    def status(self) -> PoolStatus:
        self.asked += 1
        if self.fails:
            raise ValueError("broken")
        return PoolStatus()


def _feed() -> tuple[Snapshots, _Pool]:
    pool = _Pool()
    feed = Snapshots(
        pool_status=pool.status,
        in_flight=InFlight(),
        observers=Observers(),
        max_jobs=1,
        status=dict,
    )
    return feed, pool


def _ended(history: History, *, failed: bool = False) -> Job:
    job = a_job(body=b"secret")
    job.advance(Event.ASSIGN)
    job.advance(Event.FINISH)
    outcome = Failed(code=Code.WORKER_DIED, detail="gone", submitted=Submitted.NO) if failed else Succeeded(body=b"{}")
    history.job_finished(job, outcome, phases(job))
    return job


async def test_a_snapshot_that_cannot_be_made_is_an_error_for_whoever_waits() -> None:
    """Not an endless wait; and the next one may be made again."""
    feed, pool = _feed()
    feed.watchers = 1
    pool.fails = True
    with pytest.raises(ValueError, match="broken"):
        await feed.next()
    pool.fails = False
    assert json.loads(await feed.next())["accepted"] == 0
    feed.watchers = 0


async def test_nothing_is_computed_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last page is closed, the feed stops; the next one starts it again."""
    monkeypatch.setattr("proxy.api.operators.snapshots._EVERY_S", 0.001)
    feed, pool = _feed()
    feed.watchers = 1
    assert json.loads(await feed.next())["accepted"] == 0
    feed.watchers = 0
    await eventually(lambda: feed._task is not None and feed._task.done())  # noqa: SLF001 - that is the point
    asked = pool.asked
    feed.watchers = 1
    await feed.next()
    assert pool.asked > asked
    feed.watchers = 0
    await eventually(lambda: feed._task is not None and feed._task.done())  # noqa: SLF001 - as above


async def test_everybody_gets_the_same_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pages cost as much as one."""
    monkeypatch.setattr("proxy.api.operators.snapshots._EVERY_S", 0.001)
    feed, pool = _feed()
    feed.watchers = 10
    snapshots = await asyncio.gather(*(feed.next() for _ in range(10)))
    assert len({id(snapshot) for snapshot in snapshots}) == 1
    assert pool.asked == 1
    feed.closed.set()
    await eventually(lambda: feed._task is not None and feed._task.done())  # noqa: SLF001 - as above


async def test_a_job_in_flight_is_shown_with_what_its_job_server_says_of_it() -> None:
    """Its profile, the job server's id, the last progress report and their number; its age, whoever accepted it."""
    in_flight = InFlight()
    feed = Snapshots(pool_status=PoolStatus, in_flight=in_flight, observers=Observers(), max_jobs=1, status=dict)
    quiet, heard = a_job(), a_job()
    for job, profile in ((quiet, "cog"), (heard, "a2a")):
        job.recorder.record = msgspec.structs.replace(job.recorder.record, profile=profile)
        in_flight.add(job)
    heard.recorder.record = msgspec.structs.replace(heard.recorder.record, accepted_at=time.time() - 60)
    heard.progress("working", b"{}", {"id": "t-1"})
    heard.progress("halfway")
    shown = json.loads(feed.first())["oldest"]
    assert [job.pop("age_s") >= least for job, least in zip(shown, (0, 60), strict=True)] == [True, True]
    assert shown == [
        {"job_id": quiet.id, "state": "accepted", "profile": "cog", "remote_id": None, "progress": None},
        {
            "job_id": heard.id,
            "state": "waiting",
            "profile": "a2a",
            "remote_id": "t-1",
            "progress": {"state": "halfway", "count": 2},
        },
    ]


async def test_the_history_has_a_point_for_each_second() -> None:
    """Jobs count in the second of their end; the current second is not shown."""
    now = 1_000.5
    history = History(clock=lambda: now)
    _ended(history)
    _ended(history, failed=True)
    assert history.seconds()[-1][0] == 0
    now = 1_001.1
    points = history.seconds()
    assert len(points) == SECONDS
    assert points[-1][:2] == (2, 1)
    now = 1_001.1 + SECONDS
    assert all(point[0] == 0 for point in history.seconds())


async def test_the_history_is_bounded() -> None:
    """However many jobs end: a limited number is kept, and the oldest are dropped."""
    history = History()
    first = _ended(history, failed=True)
    assert history.by_id(first.id) is not None
    last = [_ended(history, failed=True) for _ in range(2_100)][-1]
    assert history.by_id(first.id) is None
    assert history.by_id(last.id) is not None
    failures = history.failures()
    assert len(failures) == 50
    assert failures[0]["job_id"] == last.id
    assert "secret" not in json.dumps(failures)
    assert last.token not in json.dumps(failures)


async def test_a_busy_second_keeps_a_sample_of_its_durations() -> None:
    """Enough for a percentile; all jobs are counted."""
    now = 1_000.5
    history = History(clock=lambda: now)
    for _ in range(300):
        _ended(history)
    (second,) = vars(history)["_seconds"]
    assert (second.ended, len(second.durations_s)) == (300, 200)


async def test_memory_is_read_a_few_at_a_time_and_forgotten_with_the_worker() -> None:
    """A running process soon has a reading; one that is gone has none."""
    memory = WorkerMemory()
    memory.refresh([os.getpid()])
    await eventually(lambda: (memory.of(os.getpid()) or 0) > 100_000)
    memory.refresh([])
    assert memory.of(os.getpid()) is None
    assert private_bytes(2**22 + 1) is None


async def test_the_memory_of_many_workers_is_read_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes the kernel a millisecond: none is read again before all others, or within some seconds."""
    reading: list[int] = []

    def read_one(pid: int) -> int:
        reading.append(pid)
        return pid

    monkeypatch.setattr("proxy.workers.memory.private_bytes", read_one)
    memory = WorkerMemory()
    for read in (50, 100, 120, 120):
        for _ in range(3):
            memory.refresh(range(1, 121))
        await eventually(lambda: sum(memory.of(pid) == pid for pid in range(1, 121)) == read)  # noqa: B023 - awaited
        assert len(reading) == read
    assert set(reading) == set(range(1, 121))


async def test_a_blocked_event_loop_is_seen() -> None:
    """A blocked loop shows as lag; stopping ends the measurement."""
    heard: list[float] = []
    lag = LoopLag(heard.append)
    lag.start()
    loop = asyncio.get_running_loop()
    due = lag._due  # noqa: SLF001 - to hold the loop up at the right moment
    loop.call_at(due - 0.01, lambda: [None for _ in iter(lambda: loop.time() < due + 0.05, False)])
    await eventually(lambda: heard)
    lag.stop()
    assert heard[0] > 0.03
    assert lag.worst_s >= lag.last_s > 0.03


async def test_a_page_that_takes_nothing_is_let_go_and_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read the events for some time counts as disconnected."""
    monkeypatch.setattr(dashboard, "_PATIENCE_S", 0.01)
    feed, _ = _feed()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ClientGoneError):
        await dashboard.Events(feed)({"type": "http", "method": "GET", "client": ("127.0.0.1", 50_000)}, receive, send)
    assert feed.watchers == 0


async def test_the_other_instances_are_shown_where_there_may_be_any() -> None:
    """How many are alive, the slowest lease, and what they and this one did for each other's jobs."""

    class Store(MemoryStore):
        def readings(self) -> tuple[Reading, ...]:
            return (
                Reading(name="cluster_instances", help="", value=3),
                Reading(name="cluster_slowest_lease_seconds", help="", value=1.26),
                Reading(name="cluster_beat_age_seconds", help="", value=0.4),
            )

    view = InstancesView(
        Store(60),
        cast("Any", SimpleNamespace(taken_over=2)),
        cast("Any", SimpleNamespace(callbacks=7, fenced=1)),
    )
    shown = {"live": 3, "slowest_s": 1.3, "own_s": 0.4, "taken_over": 2, "callbacks": 7, "fenced": 1}
    assert view.shown() == shown
    feed, _ = _feed()
    assert json.loads(feed.first())["instances"] is None
    feed._instances = view.shown  # noqa: SLF001 - all else of it is as in the other tests
    assert json.loads(feed.first())["instances"] == shown
