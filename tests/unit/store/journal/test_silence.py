"""A disk that hangs: waiting callers get an error, nothing is lost, and answers stay true."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace

from proxy import log
from proxy.jobs.recorder import Recorder
from proxy.store.deeds import Deed
from proxy.store.journal.journal import Journal
from proxy.store.journal.silence import LIMIT_S, Silence
from proxy.store.names import Called
from shared.errors import Code, StoreUnavailableError
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.hanging_file import HangingFile
from tests.support.records import a_record, finished
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import IN_VAIN_S, eventually

#: The limit, plus the confirmation, plus what a busy machine needs.
_SOON_S: Final = 2.0
_REFUSED: Final = "new jobs are refused until the journal can be written"
_OVER: Final = "the journal can be written again"
_LACKS: Final = "the audit list lacks entries, which only the log has"


@pytest.fixture
def file(path: Path) -> HangingFile:
    """The journal's file."""
    return HangingFile(str(path))


@pytest.fixture
async def journal(file: HangingFile) -> AsyncIterator[Journal]:
    """A journal on that file."""
    journal = Journal(file, ttl_s=3600)
    yield journal
    file.go_on()
    await journal.close()


@pytest.fixture
def events() -> Iterator[Callable[[str], int]]:
    """Returns how often an event was logged."""
    output = io.StringIO()
    writer = log.configure("json", "info", output)

    def count(event: str) -> int:
        return [json.loads(line)["event"] for line in output.getvalue().splitlines()].count(event)

    yield count
    writer.close()


async def _fails_soon(waiting: Awaitable[Any]) -> None:
    watch = Stopwatch()
    with pytest.raises(StoreUnavailableError, match="has not answered for 1 s"):
        await waiting
    assert watch.own_s < _SOON_S


async def _silent(journal: Journal, file: HangingFile) -> None:
    """Let the disk hang until that is noticed."""
    file.hang()
    await _fails_soon(journal.put(a_record()))


async def test_whoever_waits_for_a_disk_that_hangs_is_told(journal: Journal, file: HangingFile) -> None:
    """For calls in the thread, and queued calls; later ones fail at once."""
    file.hang()
    first = journal.put(a_record())
    await asyncio.to_thread(file.hangs.wait)
    second = journal.put(a_record())
    look_up = asyncio.ensure_future(journal.by_key(b"k" * 32))

    await asyncio.gather(_fails_soon(first), _fails_soon(second), _fails_soon(look_up))

    assert "has not answered" in journal.trouble
    assert journal.put(a_record()).done()
    watch = Stopwatch()
    finds = (
        journal.by_id("f" * 32),
        journal.by_token(b"t" * 32),
        journal.by_key(b"k" * 32),
        journal.by_name(Called("acme")),
    )
    for find in finds:
        with pytest.raises(StoreUnavailableError):
            await find
    assert watch.own_s < LIMIT_S / 2


async def test_nothing_is_lost_when_the_disk_goes_on(journal: Journal, file: HangingFile) -> None:
    """Neither calls in the thread, nor queued ones, nor later ones; of each job the newest record counts."""
    had, waited, came = a_record(), a_record(), a_record()
    file.hang()
    journal.put(had)
    await asyncio.to_thread(file.hangs.wait)
    journal.put(waited)
    noted = replace(waited, state=State.WAITING)
    journal.note(noted)
    await eventually(lambda: journal.trouble)
    journal.put(came)
    ended = replace(came, state=State.FINISHED, finished_at=time.time(), callback=b"{}")
    journal.put(ended, keep=True)

    file.go_on()
    await eventually(lambda: not journal.trouble)

    assert [await journal.by_id(record.id) for record in (had, waited, came)] == [had, noted, ended]


async def test_the_log_tells_when_it_begins_and_when_it_is_over(
    journal: Journal, file: HangingFile, events: Callable[[str], int]
) -> None:
    """One line each, however many callers wait."""
    file.hang()
    waiting = [journal.put(a_record()) for _ in range(20)]
    await asyncio.wait(waiting)
    for _ in range(20):
        journal.put(a_record())
    await eventually(lambda: events(_REFUSED))
    file.go_on()
    await eventually(lambda: events(_OVER))
    await journal.put(a_record())

    assert (events(_REFUSED), events(_OVER)) == (1, 1)


async def test_a_batch_of_which_parts_are_written_is_waited_for(journal: Journal, file: HangingFile) -> None:
    """However long all of it takes, as with many large results on a machine without a free CPU."""
    begin = file.on_statement

    def slowly() -> None:
        begin()
        time.sleep(LIMIT_S / 4)

    file.on_statement = slowly
    puts = [journal.put(finished(callback=b"x" * 300_000)) for _ in range(6)]
    await asyncio.wait(puts)
    assert [put.exception() for put in puts] == [None] * len(puts)


async def test_a_disk_that_hangs_right_after_it_was_slow_is_noticed(journal: Journal, file: HangingFile) -> None:
    """A batch that was nearly too slow does not hide the next one."""
    file.hang()
    slow = journal.put(a_record())
    await asyncio.sleep(LIMIT_S + 0.05)  # between the first check and the second
    file.go_on()
    await asyncio.wait((slow,))
    file.hang()

    with pytest.raises(StoreUnavailableError, match="has not answered"):
        await asyncio.wait_for(journal.put(a_record()), IN_VAIN_S)


async def test_a_disk_that_hangs_while_nobody_asks_is_noticed(path: Path) -> None:
    """The journal is checked in between; a load balancer learns it before a job comes."""
    file = HangingFile(str(path))
    journal = Journal(file, ttl_s=1)
    file.hang()

    await eventually(lambda: journal.trouble)
    file.go_on()
    await eventually(lambda: not journal.trouble)
    await journal.close()


async def test_a_disk_that_hangs_takes_no_more_memory_than_its_jobs(journal: Journal, file: HangingFile) -> None:
    """A callback that is sent repeatedly waits as one record."""
    await _silent(journal, file)
    record = finished()

    for number in range(1000):
        journal.put(replace(record, duplicates=number))
        with pytest.raises(StoreUnavailableError):
            await journal.by_id(record.id)

    queued = {reading.name: reading.value for reading in journal.readings()}["journal_queue"]
    assert queued <= 2
    file.go_on()
    await eventually(lambda: not journal.trouble)
    assert await journal.by_id(record.id) == replace(record, duplicates=999)


async def test_a_disk_that_hangs_takes_so_much_of_what_operators_did_and_what_it_lacks_is_told(
    journal: Journal, file: HangingFile, events: Callable[[str], int]
) -> None:
    """Repeated failed log-ins do not fill the memory, and do not displace actions."""
    await _silent(journal, file)
    journal.enter(Deed(at=1.0, what="stop"))
    for number in range(1_005):
        journal.enter(Deed(at=float(number), what="failed log-in"))

    queued = {reading.name: reading.value for reading in journal.readings()}["journal_queue"]
    assert 1_001 <= queued <= 1_003
    assert events(_LACKS) == 0
    file.go_on()
    await eventually(lambda: not journal.trouble)
    found = await journal.deeds(5_000, None)
    assert (len(found), found[0].at, found[-1].what) == (1_001, 1_004.0, "stop")
    await eventually(lambda: events(_LACKS) == 1)


async def test_the_jobs_of_an_earlier_run_are_waited_for(path: Path) -> None:
    """A start takes as long as its disk."""
    record = a_record()
    file = HangingFile(str(path))
    file.write([record])
    journal = Journal(file, ttl_s=3600)
    file.hang()
    listing = asyncio.ensure_future(journal.unfinished())
    await eventually(lambda: journal.trouble)
    assert not listing.done()

    file.go_on()

    assert await listing == [record]
    await journal.close()


async def test_an_end_does_not_wait_for_a_disk_that_hangs(
    journal: Journal, file: HangingFile, events: Callable[[str], int]
) -> None:
    """The log says for how many jobs the last record was not written."""
    await _silent(journal, file)
    watch = Stopwatch()

    await journal.close()

    assert watch.own_s < 3
    await eventually(lambda: events("some jobs could not be recorded before the process ended"))


async def test_a_job_that_was_refused_by_silence_stays_refused(journal: Journal, file: HangingFile) -> None:
    """Its client got `no`; the file never says less, and in the end the same. Then its key can be used again."""
    recorder = Recorder(journal, a_record(key=b"k" * 32))
    file.hang()
    with pytest.raises(StoreUnavailableError):
        await recorder.submitting()
    no = Failed(code=Code.JOURNAL_UNAVAILABLE, detail="the disk hangs", submitted=Submitted.NO)
    await recorder.finished(no)
    with pytest.raises(StoreUnavailableError):
        await journal.by_key(b"k" * 32)  # the key is not free before

    file.go_on()
    await eventually(lambda: not journal.trouble)
    found = await journal.by_key(b"k" * 32)

    assert found is not None
    assert found.outcome == no
    written = [record for batch in file.written for record in batch]
    assert [record.state for record in written] == [State.SUBMITTING, State.FINISHED]


async def test_a_callback_that_was_not_recorded_in_time_is_recorded_later(journal: Journal, file: HangingFile) -> None:
    """Its sender was told to retry; when it does, the first one is found."""
    recorder = Recorder(journal, a_record())
    await recorder.submitting()
    file.hang()
    stored = recorder.callback(b'{"state": "completed"}', failed=False, early=False)
    await _fails_soon(stored)
    await _fails_soon(recorder.duplicate())

    file.go_on()
    await eventually(lambda: not journal.trouble)
    await recorder.duplicate()

    found = await journal.by_id(recorder.record.id)
    assert found is not None
    assert (found.callback, found.duplicates) == (b'{"state": "completed"}', 2)


# --- when it counts as silence ----------------------------------------------------------------------------------------


def test_an_idle_thread_is_not_silent() -> None:
    """However long it is idle."""
    silence = Silence()

    for now in (0.0, 10.0, 1000.0):
        silence.look(now, None)
        assert not silence.now


def test_silence_is_looked_at_twice() -> None:
    """A process that was stopped for an hour sees an old batch; a moment later it has read the answer."""
    silence = Silence()
    assert silence.look(0.1, 0.0) == pytest.approx(LIMIT_S - 0.1)

    again_s = silence.look(3600.0, 0.0)
    assert not silence.now
    assert again_s < LIMIT_S

    silence.look(3600.0 + again_s, None)
    assert not silence.now


def test_something_else_that_takes_long_is_looked_at_twice_as_well() -> None:
    """Each batch has its own time."""
    silence = Silence()
    silence.look(LIMIT_S, 0.0)
    silence.look(LIMIT_S + 5, 2.0)
    assert not silence.now

    silence.look(LIMIT_S + 5.1, 2.0)
    assert silence.now


def test_silence_is_over_when_something_else_is_under_way() -> None:
    """Or when it is idle."""
    silence = Silence()
    silence.look(LIMIT_S, 0.0)
    silence.look(LIMIT_S + 0.1, 0.0)
    assert silence.now

    silence.look(LIMIT_S + 0.2, LIMIT_S + 0.15)
    assert not silence.now
