"""Groups of failures, and where the time goes, over the whole application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed
from tests.support.http import problem
from tests.support.records import finished
from tests.support.runners import SUBMIT
from tests.support.whole_app import WholeApp


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """The whole application."""
    whole = WholeApp(monkeypatch)
    yield whole
    await whole.close()


async def test_patterns_say_what_failed_and_where_the_time_went(app: WholeApp) -> None:
    """Of the last day by default."""
    now = time.time()
    failure = Failed(code=Code.JOB_REJECTED, detail="the job server answered 422", submitted=Submitted.NO)
    for ago in (60, 120):
        record = finished(accepted_at=now - ago - 2, finished_at=now - ago, callback=None, failure=failure)
        await app.store.put(record)
    job = await app.begun(*SUBMIT, body=b'{"account": "acme"}')
    await app.call_back(job)
    await job.outcome

    found = (await app.ask_admin("GET", "/jobs/patterns?q=")).document
    assert found["until"] - found["since"] == pytest.approx(86_400, abs=1)
    assert (found["buckets"], found["bucket_s"]) == (48, 1_800.0)
    assert (found["jobs"], found["complete"], found["failures_complete"]) == (3, True, True)
    assert (sum(found["over_time"]["ended"]), sum(found["over_time"]["failed"])) == (3, 2)
    (group,) = found["failures"]
    assert found["by"] == "account"
    assert (group["code"], group["words"], group["count"]) == ("job-rejected", "the job server answered #", 2)
    assert (len(group["over_time"]), sum(group["over_time"])) == (48, 2)
    assert [one["job_id"] for one in found["slowest"]][-1] == job.id
    assert (found["phases"]["jobs"], found["phases"]["sampled"]) == (1, False)
    assert set(found["phases"]["quantiles_ms"]) == {"queue", "start", "submission", "job", "total"}
    for counts in found["phases"]["histogram"]["counts"].values():
        assert len(counts) == len(found["phases"]["histogram"]["edges_ms"]) + 1
    assert len(found["latency"]["counts"]) == 48


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("bucket=soon", "bucket"),
        ("bucket=0", "bucket"),
        ("since=7d&bucket=1m", "bucket"),
        ("sort=newest", "sort"),
        ("until=7d&since=2d", "until"),
        ("since=3000000000", "since"),
    ],
)
async def test_what_makes_no_pattern_is_told(app: WholeApp, parameters: str, name: str) -> None:
    """With the name of the parameter."""
    found = problem(await app.ask_admin("GET", f"/jobs/patterns?{parameters}"), "invalid-request", 400)
    assert found["parameter"] == name


@pytest.mark.parametrize(("since", "status"), [("200m", 200), ("201m", 400)])
async def test_there_are_so_many_buckets_at_most(app: WholeApp, since: str, status: int) -> None:
    """The browser draws each one."""
    assert (await app.ask_admin("GET", f"/jobs/patterns?since={since}&bucket=1m")).status == status


async def test_a_journal_that_cannot_be_read_is_told(app: WholeApp) -> None:
    """Then there are no patterns."""
    app.store.failing = True
    problem(await app.ask_admin("GET", "/jobs/patterns"), "journal-unavailable", 503)
