"""Which job gets which worker when, with a fork server that creates pipes instead of processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import proxy.workers.supply
from proxy.workers.pool import Pool
from proxy.workers.worker import Worker
from shared.errors import AdmissionError, Code
from shared.messages import Log, encode, frame
from tests.support.fork_server import FakeForkServer
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.waiting import IN_VAIN_S, eventually


class Stage:
    """A pool with its fake fork servers."""

    def __init__(self, pool: Pool, servers: list[FakeForkServer], signals: list[tuple[int, int]]) -> None:
        self.pool = pool
        self.servers = servers
        #: What was sent to which process.
        self.signals = signals

    @property
    def server(self) -> FakeForkServer:
        """The current fork server."""
        return self.servers[-1]


Make = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def stages(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Creates pools; ends them after the test."""
    made: list[Stage] = []
    signals: list[tuple[int, int]] = []
    # A worker here has no process that could be signalled.
    monkeypatch.setattr(Worker, "_signal", lambda worker, number: signals.append((worker.pid, number)))

    async def make(*, spares: int = 0, max_jobs: int = 1) -> Stage:
        servers: list[FakeForkServer] = []
        kind = type("Fake", (FakeForkServer,), {"made": servers})
        monkeypatch.setattr(proxy.workers.supply, "ForkServer", kind)
        pool = Pool(config=b"", spares=spares, max_jobs=max_jobs, max_body_bytes=1_000)
        await pool.start()
        made.append(Stage(pool, servers, signals))
        return made[-1]

    yield make
    for stage in made:
        for server in stage.servers:
            for pid in list(server.alive):
                server.ends(pid, 0)
        await stage.pool.stop()


async def test_the_spares_are_asked_for_at_the_start_and_kept(stages: Make) -> None:
    """Exactly the missing ones, a little later, whatever happens to the existing ones."""
    stage = await stages(spares=3)
    assert stage.server.requests == [3]
    stage.server.answers()
    taken = await stage.pool.request()
    assert stage.server.requests == [3]
    await eventually(lambda: stage.server.requests == [3, 1])
    stage.server.answers()
    stage.pool.release(taken, reusable=True)  # its only job: it exits, and is not replaced
    stage.server.ends(taken.pid, 0)
    await time_passes(1)
    assert stage.server.requests == [3, 1]
    stage.server.ends(stage.pool.status().workers[0].pid)
    await eventually(lambda: stage.server.requests == [3, 1, 1])


async def test_a_burst_is_served_in_arrival_order(stages: Make) -> None:
    """One worker is requested for each queued job, and the spares a little later; first come, first served."""
    stage = await stages(spares=2)
    stage.server.answers()
    tickets = [stage.pool.request() for _ in range(6)]
    assert [ticket.done() for ticket in tickets] == [True, True, False, False, False, False]
    assert stage.server.asked == 4
    for served in range(3, 7):
        stage.server.answers(1)
        assert [ticket.done() for ticket in tickets] == [True] * served + [False] * (6 - served)
    assert len({ticket.result().pid for ticket in tickets}) == 6
    assert stage.server.asked == 0
    await eventually(lambda: stage.server.asked == 2)
    stage.server.answers()
    assert len(stage.pool.status().workers) == 8


@pytest.mark.parametrize(("spares", "enough_for"), [(1, 0), (2, 1), (8, 4), (12, 8)])
async def test_spares_are_replaced_at_once_where_few_are_left(stages: Make, spares: int, enough_for: int) -> None:
    """Their replacement comes a little later, so that it does not compete with these jobs."""
    stage = await stages(spares=spares)
    stage.server.answers()
    for _ in range(enough_for):
        stage.pool.request()
    assert stage.server.requests == [spares]
    stage.pool.request()
    assert stage.server.asked == min(spares, 8) - (spares - enough_for - 1)
    tickets = [stage.pool.request() for _ in range(spares - enough_for)]
    assert [ticket.done() for ticket in tickets] == [True] * (len(tickets) - 1) + [False]
    assert stage.server.asked == min(spares, 8), "the last one takes one of them, to be replaced later"
    stage.server.answers(1)
    assert tickets[-1].done()
    await eventually(lambda: stage.server.asked == spares)


async def test_a_burst_is_followed_by_all_the_spares_that_are_missing(stages: Make) -> None:
    """Together, and once; even while more jobs come."""
    stage = await stages(spares=12)
    stage.server.answers()
    for taken in (3, 1):
        before = len(stage.server.requests)
        for _ in range(taken):
            stage.pool.request()
        await eventually(lambda: stage.server.asked == taken)  # noqa: B023 - awaited before it changes
        assert stage.server.requests[before:] == [taken]
        stage.server.answers()
    assert [one.state for one in stage.pool.status().workers].count("spare") == 16


async def test_nobody_overtakes_a_job_that_queues(stages: Make) -> None:
    """A released worker goes to the first in the queue, not to the next request."""
    stage = await stages(max_jobs=0)
    first = stage.pool.request()
    stage.server.answers(1)
    worker = first.result()
    second, third = stage.pool.request(), stage.pool.request()
    stage.pool.release(worker, reusable=True)
    assert second.result() is worker
    assert not third.done()


async def test_a_ticket_that_is_given_back_is_nobodys(stages: Make) -> None:
    """The worker that was started for it serves the next job."""
    stage = await stages()
    first, second = stage.pool.request(), stage.pool.request()
    stage.pool.withdraw(first)
    assert first.cancelled()
    third = stage.pool.request()
    assert stage.server.asked == 2, "the one for the first is not needed any more"
    stage.server.answers(2)
    assert second.done()
    assert third.done()


async def test_tickets_of_jobs_that_have_ended_are_no_trouble_as_a_fork_fails(stages: Make) -> None:
    """A job that was cancelled, or is too late, gives its ticket back a moment later."""
    stage = await stages()
    cancelled, late, queued = (stage.pool.request() for _ in range(3))
    cancelled.cancel()
    stage.server.fails()
    stage.pool.withdraw(cancelled)
    stage.pool.withdraw(late)
    with pytest.raises(AdmissionError, match="out of cheese"):
        queued.result()


async def test_a_worker_that_comes_as_its_ticket_is_given_back_serves_somebody_else(stages: Make) -> None:
    """The race of a deadline with a worker: the worker is not lost."""
    stage = await stages()
    first, second = stage.pool.request(), stage.pool.request()
    stage.server.answers(1)
    worker = first.result()
    stage.pool.withdraw(first)
    assert second.result() is worker


async def test_a_cancelled_ticket_takes_no_worker(stages: Make) -> None:
    """A job that was cancelled while it queued is skipped."""
    stage = await stages()
    first, second = stage.pool.request(), stage.pool.request()
    first.cancel()
    stage.server.answers(1)
    assert second.done()
    stage.pool.withdraw(first)


@pytest.mark.parametrize(("max_jobs", "served"), [(1, 1), (3, 3), (0, 5)])
async def test_a_worker_is_used_as_often_as_it_may(stages: Make, max_jobs: int, served: int) -> None:
    """0: no limit."""
    stage = await stages(max_jobs=max_jobs)
    pids = []
    for _ in range(5):
        ticket = stage.pool.request()
        if not ticket.done():
            stage.server.answers(1)
        pids.append(ticket.result().pid)
        stage.pool.release(ticket.result(), reusable=True)
        assert ticket.result().stopping is (pids.count(pids[-1]) == max_jobs)
    assert pids[:served] == [pids[0]] * served
    assert pids[0] not in pids[served:]


async def test_each_job_of_a_worker_may_send_lines_for_the_log(stages: Make) -> None:
    """One that logs a little about each job is not killed in the middle of one that is not to blame."""
    stage = await stages(max_jobs=0)
    line = encode(Log(level="error", event="unhandled exception in a worker"))
    first = stage.pool.request()
    stage.server.answers(1)
    worker = first.result()
    (_, _, outbox) = stage.server.alive[worker.pid]
    for jobs_done in range(3):
        for sent in range(1_000):
            os.write(outbox, frame(line))
            if sent % 100 == 0:
                await nothing_moves()
        await nothing_moves()
        assert (worker.lines, worker.stopping) == (1_000, False), jobs_done
        stage.pool.release(worker, reusable=True)
        assert stage.pool.request().result() is worker


async def test_a_worker_that_is_not_reusable_is_never_offered_again(stages: Make) -> None:
    """Whatever the limit."""
    stage = await stages(max_jobs=0)
    first = stage.pool.request()
    stage.server.answers(1)
    stage.pool.release(first.result(), reusable=False)
    second = stage.pool.request()
    assert not second.done()
    assert stage.signals == [(first.result().pid, signal.SIGTERM)]
    assert stage.pool.status().counts.stopped == 1


@pytest.mark.parametrize("reusable", [False, True])
async def test_a_worker_that_was_killed_is_never_offered_again(stages: Make, *, reusable: bool) -> None:
    """Though its job may have succeeded: the callback may have come at the same moment."""
    stage = await stages(max_jobs=0)
    first = stage.pool.request()
    stage.server.answers(1)
    stage.pool.kill(first.result())
    assert stage.signals == [(first.result().pid, signal.SIGKILL)]
    stage.pool.release(first.result(), reusable=reusable)
    assert not stage.pool.request().done()
    assert stage.pool.status().counts.stopped == 1


async def test_a_worker_that_died_as_its_job_ended_is_never_offered_again(stages: Make) -> None:
    """It has done its work."""
    stage = await stages(max_jobs=0)
    first = stage.pool.request()
    stage.server.answers(1)
    stage.server.ends(first.result().pid, -9)
    stage.pool.release(first.result(), reusable=True)
    assert not stage.pool.request().done()


async def test_a_fork_that_fails_refuses_whoever_queues_and_one_that_works_ends_the_hold(
    stages: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`no-worker` at once; while on hold, one worker is tried now and then; then everything works again by itself."""
    monkeypatch.setattr(proxy.workers.supply, "_RETRY_S", 0.01)
    stage = await stages(spares=1)
    stage.server.answers()
    taken, queued = stage.pool.request(), stage.pool.request()
    assert taken.done()
    stage.server.fails()
    for ticket in (queued, stage.pool.request()):
        with pytest.raises(AdmissionError, match="out of cheese") as caught:
            ticket.result()
        assert caught.value.code is Code.NO_WORKER
    assert "out of cheese" in stage.pool.on_hold
    before = len(stage.server.requests)
    stage.server.asked = 0
    stage.pool._supply._starting = 0  # noqa: SLF001 - the other requests count as failed, too
    await eventually(lambda: len(stage.server.requests) > before)
    assert stage.server.requests[before:] == [1]
    stage.server.answers(1)
    assert not stage.pool.on_hold
    assert stage.pool.request().done()


async def test_the_spares_are_made_again_after_a_hold(stages: Make) -> None:
    """Though no job comes."""
    stage = await stages(spares=3)
    for _ in range(3):
        stage.server.fails()
    await eventually(lambda: stage.server.requests == [3, 1])
    stage.server.answers()
    await eventually(lambda: stage.server.requests == [3, 1, 2])


async def test_a_spare_that_dies_is_told_to_the_supply(stages: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them are a storm (test_supply.py); each is replaced."""
    monkeypatch.setattr(proxy.workers.supply, "_RETRY_S", 0.01)
    stage = await stages(spares=2)
    for death in range(30):
        assert not stage.pool.on_hold, death
        stage.server.answers()
        stage.server.ends(next(iter(stage.server.alive)))
    assert "30 spare workers died" in stage.pool.on_hold
    assert stage.pool.status().counts.spares_died == 30


async def test_a_spare_whose_outbox_ends_first_is_told_to_the_supply(stages: Make) -> None:
    """As it does when a process ends: the kernel closes its pipes before it reports the end."""
    stage = await stages(spares=1)
    stage.server.answers()
    (pid,) = stage.server.alive
    os.close(stage.server.alive[pid].pop())
    await eventually(lambda: stage.pool.status().workers[0].state == "stopping")
    stage.server.ends(pid, -9)
    assert stage.pool.status().counts.spares_died == 1


async def test_a_spare_that_is_left_over_does_not_count_as_dead(stages: Make) -> None:
    """It exits because it was told to."""
    stage = await stages()
    ticket = stage.pool.request()
    stage.pool.withdraw(ticket)
    stage.server.answers()
    (worker,) = stage.pool.status().workers
    await eventually(lambda: stage.pool.status().workers[0].state == "stopping")
    stage.server.ends(worker.pid, 0)
    assert not stage.pool.status().workers
    assert stage.pool.status().counts.spares_died == 0


async def test_a_worker_that_dies_at_its_job_is_no_storm(stages: Make) -> None:
    """The job is to blame."""
    stage = await stages()
    for _ in range(40):
        ticket = stage.pool.request()
        stage.server.answers(1)
        ticket.result().handler = _Deaf()
        stage.server.ends(ticket.result().pid, -11)
    assert not stage.pool.on_hold
    assert stage.pool.status().counts.spares_died == 0


async def test_a_lost_fork_server_is_replaced_and_its_workers_live_on(
    stages: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue waits for the new one; the workers of the old one are used."""
    monkeypatch.setattr(proxy.workers.supply, "_RESTART_S", 0.01)
    stage = await stages(max_jobs=0)
    first = stage.pool.request()
    stage.server.answers(1)
    queued = stage.pool.request()
    stage.server.listener.on_lost()
    assert 0 in stage.pool.pids
    await eventually(lambda: len(stage.servers) == 2)
    await eventually(lambda: stage.server.asked == 1)
    stage.pool.release(first.result(), reusable=True)
    assert queued.result() is first.result()


async def test_surplus_workers_go_after_a_while(stages: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a burst of reused workers only the spares are kept, plus those that still get jobs now and then."""
    monkeypatch.setattr(proxy.workers.pool, "_SURPLUS_S", 0.2)
    stage = await stages(spares=1, max_jobs=0)
    tickets = [stage.pool.request() for _ in range(5)]
    stage.server.answers()
    for ticket in tickets:
        stage.pool.release(ticket.result(), reusable=True)
    last = tickets[-1].result().pid

    def staying() -> list[int]:
        again = [stage.pool.request() for _ in range(2)]
        for ticket in reversed(again):
            stage.pool.release(ticket.result(), reusable=True)
        return _staying(stage)

    await eventually(lambda: len(staying()) == 2)
    assert last in staying()
    await eventually(lambda: len(_staying(stage)) == 1)


async def test_surplus_workers_without_a_job_go_soon(stages: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job was refused meanwhile. One that had a job stays longer, because more may come."""
    monkeypatch.setattr(proxy.workers.pool, "_UNUSED_S", 0.02)
    stage = await stages(spares=1, max_jobs=0)
    used = [stage.pool.request() for _ in range(3)]
    stage.server.answers()
    for ticket in used:
        stage.pool.release(ticket.result(), reusable=True)
    busy = [stage.pool.request() for _ in stage.pool.status().workers]
    unwanted = [stage.pool.request() for _ in range(4)]
    for ticket in unwanted:
        stage.pool.withdraw(ticket)
    stage.server.answers()
    for ticket in busy:
        stage.pool.release(ticket.result(), reusable=True)

    assert len(_staying(stage)) > len(busy)
    await eventually(lambda: len(_staying(stage)) == len(busy))
    assert {ticket.result().pid for ticket in busy} == set(_staying(stage))


async def test_the_status_says_what_each_worker_does(stages: Make) -> None:
    """Which workers have a job, and which one; the number in each state, and the counts."""
    stage = await stages(spares=2, max_jobs=0)
    stage.server.answers()
    ticket = stage.pool.request()
    ticket.result().handler = _Deaf()
    status = stage.pool.status()
    assert {worker.pid: (worker.state, worker.job_id) for worker in status.workers} == {
        pid: ("waiting", "job") if pid == ticket.result().pid else ("spare", None) for pid in stage.server.alive
    }
    assert status.by_state == {"spare": 1, "assigned": 0, "submitting": 0, "waiting": 1, "asking": 0, "stopping": 0}
    stage.pool.release(ticket.result(), reusable=True)
    assert stage.pool.status().by_state["spare"] == 2
    assert (status.counts.started, status.counts.reused) == (2, 0)
    assert stage.pool.status().counts.reused == 1
    stage.pool.release(stage.pool.request().result(), reusable=False)
    assert stage.pool.status().by_state["stopping"] == 1


async def test_a_pool_that_stops_refuses_who_queues_and_waits_for_its_workers(stages: Make) -> None:
    """`shutting-down`; no process is left, and a late worker is stopped at once."""
    stage = await stages(spares=2)
    stage.server.answers()
    tickets = [stage.pool.request() for _ in range(3)]
    await asyncio.wait_for(stage.pool.stop(), IN_VAIN_S)
    with pytest.raises(AdmissionError) as caught:
        tickets[2].result()
    assert caught.value.code is Code.SHUTTING_DOWN
    assert stage.pool.status().workers == ()
    assert stage.server.stopped
    assert stage.pool.status().counts.spares_died == 0
    stage.server.answers(1)
    assert stage.pool.status().workers[0].state == "stopping"


def _staying(stage: Stage) -> list[int]:
    """The workers that were not told to exit."""
    return [worker.pid for worker in stage.pool.status().workers if worker.state != "stopping"]


class _Deaf:
    """A handler that ignores everything."""

    job_id = "job"
    state_name = "waiting"

    def on_message(self, message: object) -> None:
        """Do nothing."""

    def on_death(self, reason: str) -> None:
        """Do nothing."""


async def test_a_pool_that_stops_ends_the_workers_of_a_lost_fork_server(stages: Make) -> None:
    """The one that replaced it does not know them."""
    stage = await stages(spares=2)
    stage.server.answers()
    pids = list(stage.server.alive)
    stage.server.listener.on_lost()
    await eventually(lambda: len(stage.servers) == 2)
    stopping = asyncio.create_task(stage.pool.stop())
    await eventually(lambda: (pids[1], signal.SIGKILL) in stage.signals)
    assert stage.signals[:2] == [(pid, signal.SIGTERM) for pid in pids]
    for pid in pids:
        await nothing_moves()
        assert not stopping.done()
        stage.servers[0].ends(pid, -9)
    await stopping
    assert stage.pool.status().counts.spares_died == 0


async def test_a_pool_that_never_had_a_worker_stops(stages: Make) -> None:
    """It waits for none."""
    stage = await stages()
    await stage.pool.stop()
    assert stage.server.stopped


async def test_a_pool_has_begun_when_it_has_a_worker_unless_none_is_kept(stages: Make) -> None:
    """Before that, a service manager is not told that the proxy is ready."""
    assert (await stages()).pool.has_begun
    stage = await stages(spares=1)
    assert not stage.pool.has_begun
    stage.server.answers()
    assert stage.pool.has_begun
