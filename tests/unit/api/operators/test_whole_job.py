"""Everything about one job: in flight, recently finished, and after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from proxy.api.operators.whole_job import of_past
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Failed
from tests.support.records import finished
from tests.support.runners import SUBMIT
from tests.support.whole_app import DONE, WholeApp

_BODY = b'{"account": "acme", "card": "4111111111111111"}'


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """The whole application, recording bodies."""
    whole = WholeApp(monkeypatch, RECORD_BODIES="1000")
    yield whole
    await whole.close()


@pytest.fixture
async def after(monkeypatch: pytest.MonkeyPatch, app: WholeApp) -> AsyncIterator[WholeApp]:
    """The application after a restart, with the same store."""
    whole = WholeApp(monkeypatch, app.store, RECORD_BODIES="1000")
    yield whole
    await whole.close()


async def test_a_restart_forgets_nothing_of_a_job_but_its_delivery(app: WholeApp, after: WholeApp) -> None:
    """The delivery comes after the last write."""
    job = await app.begun(*SUBMIT, body=_BODY)
    job.learn({"id": "theirs-7"})
    job.progress("busy")
    in_flight = (await app.ask_admin("GET", f"/jobs/{job.id}")).document
    assert in_flight["progress"] == {"state": "busy", "count": 1}
    assert in_flight["outcome"] is None
    assert in_flight["received"] is None
    await app.call_back(job)
    await job.outcome

    here = (await app.ask_admin("GET", f"/jobs/{job.id}")).document
    there = (await after.ask_admin("GET", f"/jobs/{job.id}")).document
    assert list(here) == list(there)
    assert [what for _, what in there["events"]] == [what for _, what in here["events"]][:-1]
    assert [name for name, _ in there["phases"]] == [name for name, _ in here["phases"]][:-1]
    for name in set(here) - {"events", "phases", "total_ms"}:
        assert here[name] == there[name], name
    assert there["remote_id"] == "theirs-7"
    assert there["attempts"] == {"workers": 1, "workers_lost": [], "submissions": 1, "refused": 0}
    assert json.loads(there["sent"]["body"])["card"] == "***"
    assert there["received"]["bytes"] == len(DONE)
    assert there["recorded"]


async def test_no_body_is_recorded_or_shown_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `RECORD_BODIES`, which is the default."""
    whole = WholeApp(monkeypatch)
    job = await whole.begun(*SUBMIT, body=_BODY)
    await whole.call_back(job)
    await job.outcome
    assert job.recorder.record.sent is None
    found = (await whole.ask_admin("GET", f"/jobs/{job.id}")).document
    assert (found["sent"], found["received"]) == (None, None)
    await whole.close()


async def test_who_cancelled_a_job_is_on_record(app: WholeApp, after: WholeApp) -> None:
    """With the words of the canceller."""
    job = await app.begun(*SUBMIT)
    app.parts.core.dispatcher.cancel(job.id, by="operator ann")
    await job.outcome
    found = (await after.ask_admin("GET", f"/jobs/{job.id}")).document
    assert (found["cancelled_by"], found["code"]) == ("operator ann", "cancelled")
    assert found["events"][-1][1] == "finish"
    listed = (await after.ask_admin("GET", "/jobs?cancelled_by=any")).document["jobs"]
    assert [one["job_id"] for one in listed] == [job.id]


async def test_a_job_says_what_its_client_and_its_job_server_were_told(after: WholeApp) -> None:
    """The status, refused callbacks, and the first answer before a late result."""
    now = time.time()
    rejected = Failed(
        code=Code.JOB_REJECTED, detail="the job server answered 422: no such plan", submitted=Submitted.NO
    )
    late = finished(
        accepted_at=now - 9, failure=rejected, refused=2, refusal="it is not JSON", duplicates=1, key=b"k" * 32
    )
    await after.store.put(late)
    found = (await after.ask_admin("GET", f"/jobs/{late.id}")).document
    assert (found["remote_status"], found["has_key"], found["late"]) == (422, True, True)
    assert found["callbacks"] == {
        "accepted": 1, "early": 0, "late": 1, "duplicate": 1, "refused": 2, "last_refusal": "it is not JSON",
    }  # fmt: skip
    assert found["earlier_answer"] == {"code": "job-rejected", "detail": rejected.detail, "submitted": "no"}
    assert (found["events"], found["phases"], found["sent"]) == ([], [], None)


async def test_one_of_the_last_jobs_is_shown_while_the_store_cannot_be_read(app: WholeApp) -> None:
    """With what this process knows."""
    job = await app.begun(*SUBMIT)
    await app.call_back(job)
    await job.outcome
    whole = (await app.ask_admin("GET", f"/jobs/{job.id}")).document
    app.store.failing = True
    found = (await app.ask_admin("GET", f"/jobs/{job.id}")).document
    assert found.keys() == whole.keys()
    assert (found["outcome"], found["recorded"]) == ("succeeded", False)
    assert found["events"] == whole["events"]


async def test_what_another_instance_recorded_of_a_job_counts_if_it_is_more(app: WholeApp) -> None:
    """The job was taken over here when most had happened."""
    job = await app.begun(*SUBMIT, body=_BODY)
    await app.call_back(job)
    await job.outcome
    past, record = app.parts.core.observers.history.by_id(job.id), await app.store.by_id(job.id)
    assert past is not None
    assert record is not None

    shown = of_past(msgspec.structs.replace(past, life=[], phases={}), record, None)

    assert shown["events"]
    assert shown["attempts"] == {"workers": 1, "workers_lost": [], "submissions": 1, "refused": 0}
