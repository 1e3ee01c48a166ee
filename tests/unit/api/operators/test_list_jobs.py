"""The list of jobs for operators, over the whole application."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs
from starlette.types import Message

from proxy.http.asgi import SlowClientError
from proxy.jobs import recorder
from proxy.store.query import JobPage
from proxy.store.record import Record
from shared.errors import Code
from shared.lifecycle import State, Submitted
from shared.outcome import Failed
from tests.support.asgi import request_scope
from tests.support.http import problem
from tests.support.records import finished
from tests.support.runners import SUBMIT
from tests.support.waiting import eventually
from tests.support.whole_app import WholeApp

_LINES = {"Accept": "application/x-ndjson"}


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """The whole application."""
    whole = WholeApp(monkeypatch)
    yield whole
    await whole.close()


async def _remember(app: WholeApp, count: int) -> list[str]:
    """Record jobs from before the start; return their ids, newest first; every other one failed."""
    now = time.time()
    lost = Failed(code=Code.WORKER_DIED, detail="it was killed by SIGKILL", submitted=Submitted.UNKNOWN)
    ids = []
    for number in range(count):
        members: dict[str, Any] = {"callback": None, "failure": lost, "worker_end": "SIGKILL"} if number % 2 else {}
        record: Record = finished(
            finished_at=now - number - 1, accepted_at=now - number - 3, labels={"account": "acme"}, **members
        )
        await app.store.put(record)
        ids.append(record.id)
    return ids


async def test_pages_lead_from_one_to_the_next(app: WholeApp) -> None:
    """By a member, and by a link with the same parameters."""
    ids = await _remember(app, 5)
    first = await app.ask_admin("GET", "/jobs?limit=2&label.account=acme&q=&since=1h")
    assert [job["job_id"] for job in first.document["jobs"]] == ids[:2]
    assert first.document["counts"]["total"] == 5
    assert first.document["counts"]["labels"] == {"account": {"acme": 5}}
    assert (first.document["complete"], first.document["searched_to"]) == (True, None)
    link = first.headers["Link"]
    assert link.startswith("</jobs?limit=2&label.account=acme&q=&since=1h&after=")
    assert link.endswith('>; rel="next"')

    second = await app.ask_admin("GET", link[1:].partition(">")[0])
    assert [job["job_id"] for job in second.document["jobs"]] == ids[2:4]
    assert second.document["counts"] is None
    last = await app.ask_admin("GET", f"/jobs?limit=2&after={second.document['next']}")
    assert [job["job_id"] for job in last.document["jobs"]] == ids[4:]
    assert last.document["next"] is None
    assert "Link" not in last.headers


async def test_a_line_says_what_the_client_was_told(app: WholeApp) -> None:
    """And what the job server said, and how the worker ended."""
    ids = await _remember(app, 2)
    (job,) = (await app.ask_admin("GET", "/jobs?outcome=failed&counts=no")).document["jobs"]
    assert job["job_id"] == ids[1]
    assert job | {"accepted_at": 0, "deadline_at": 0, "finished_at": 0} == {
        "job_id": ids[1],
        "state": "finished",
        "outcome": "worker-died",
        "code": "worker-died",
        "submitted": "unknown",
        "late": False,
        "detail": "it was killed by SIGKILL",
        "error": None,
        "accepted_at": 0,
        "deadline_at": 0,
        "finished_at": 0,
        "total_ms": 2000.0,
        "labels": {"account": "acme"},
        "profile": "",
        "remote_id": None,
        "instance": None,
        "worker_end": "SIGKILL",
        "cancelled_by": None,
    }


async def test_no_job_took_less_than_no_time(app: WholeApp) -> None:
    """The wall clock was set back by an hour meanwhile, or since."""
    now = time.time()
    lost = Failed(code=Code.WORKER_DIED, detail="it was killed by SIGKILL", submitted=Submitted.UNKNOWN)
    trail = '{"events":[[0.5,"assign"],[30.0,"finish"]],"pid":7}'
    record = finished(accepted_at=now + 3600, finished_at=now, callback=None, failure=lost, trail=trail)
    await app.store.put(record)
    job = await app.begun(*SUBMIT)
    job.recorder.record = structs.replace(job.recorder.record, accepted_at=now + 3600)
    await app.store.put(job.recorder.record)

    lines = (await app.ask_admin("GET", "/jobs")).document["jobs"]
    whole = [(await app.ask_admin("GET", f"/jobs/{one.id}")).document for one in (record, job)]
    patterns = (await app.ask_admin("GET", "/jobs/patterns")).document
    assert [shown["total_ms"] for shown in [*lines, *whole]] == [0] * 4
    assert set(patterns["phases"]["quantiles_ms"]["total"].values()) == {0}
    await app.call_back(job)
    await job.outcome


async def test_a_job_in_flight_is_shown_as_it_is_now(app: WholeApp) -> None:
    """Its record may be behind."""
    job = await app.begun(*SUBMIT, body=b'{"account": "acme"}')
    (shown,) = (await app.ask_admin("GET", "/jobs?state=open")).document["jobs"]
    assert (shown["job_id"], shown["state"], shown["outcome"]) == (job.id, str(job.state), None)
    assert shown["submitted"] == str(job.submitted)
    await app.call_back(job)
    await job.outcome
    assert (await app.ask_admin("GET", "/jobs?state=open")).document["jobs"] == []
    (shown,) = (await app.ask_admin("GET", "/jobs?state=finished")).document["jobs"]
    assert (shown["job_id"], shown["outcome"], shown["submitted"]) == (job.id, "succeeded", "yes")


async def test_a_job_has_no_outcome_before_its_client_has(app: WholeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may be on record already, or be about to be recorded: it has not succeeded because it is finished."""
    called_back, failing = [await app.waiting() for _ in range(2)]
    await called_back.recorder.callback(b"{}", failed=True, early=False, error="out of memory")
    recording: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(app.store, "put", lambda *_, **__: recording)
    monkeypatch.setattr(recorder, "_PATIENCE_S", 600.0)
    app.stepped.tell(failing, Code.WORKER_DIED)
    await eventually(lambda: failing.state is State.FINISHED)

    page = (await app.ask_admin("GET", "/jobs")).document
    shown = {job["job_id"]: job for job in page["jobs"]}
    whole = (await app.ask_admin("GET", f"/jobs/{called_back.id}")).document
    ended = [job.outcome.done() for job in (called_back, failing)]
    recording.set_result(None)

    assert ended == [False, False]
    for job in (shown[called_back.id], shown[failing.id], whole):
        ends = ("outcome", "code", "detail", "error", "finished_at")
        assert [job[name] for name in ends] == [None, None, "", None, None]


async def test_all_jobs_are_sent_as_lines(app: WholeApp) -> None:
    """More than fit on a page; or as many as requested, and where to continue."""
    ids = await _remember(app, 450)
    answer = await app.ask_admin("GET", "/jobs", headers=_LINES)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["job_id"] for line in lines] == ids

    *some, more = [
        json.loads(line) for line in (await app.ask_admin("GET", "/jobs?limit=3", headers=_LINES)).body.splitlines()
    ]
    assert [line["job_id"] for line in some] == ids[:3]
    rest = (await app.ask_admin("GET", f"/jobs?after={more['next']}", headers=_LINES)).body.splitlines()
    assert [json.loads(line)["job_id"] for line in rest] == ids[3:]
    nothing = await app.ask_admin("GET", "/jobs?code=no-worker", headers=_LINES)
    assert (nothing.status, nothing.body) == (200, b"")


async def test_lines_that_are_read_while_the_proxy_stops_say_where_to_continue(app: WholeApp) -> None:
    """It would cut them off."""
    ids = await _remember(app, 450)
    app.parts.operators.snapshots.closed.set()
    answer = await app.ask_admin("GET", "/jobs", headers=_LINES)
    *some, more = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["job_id"] for line in some] == ids[:200]
    assert more["detail"] == "the proxy is shutting down"
    rest = (await app.ask_admin("GET", f"/jobs?limit=250&after={more['next']}", headers=_LINES)).body.splitlines()
    assert [json.loads(line)["job_id"] for line in rest[:200]] == ids[200:400]


async def test_lines_that_are_read_too_slowly_are_logged(app: WholeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their reader only sees that its connection broke."""
    logged: list[dict[str, object]] = []
    monkeypatch.setattr("proxy.log.event", lambda _level, what, **fields: logged.append({"event": what, **fields}))
    await _remember(app, 450)
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        if len(sent) == 2:
            raise SlowClientError
        sent.append(message.get("body", b""))

    await app.parts.operators.app(request_scope("GET", "/jobs", headers=_LINES), _nothing, send)
    assert logged == [
        {
            "event": "an answer was cut off: its client reads too slowly",
            "route": "/jobs",
            "status": 200,
            "job_id": None,
            "sent_bytes": len(sent[1]),
            "body_bytes": None,
        }
    ]


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize("headers", [{}, _LINES], ids=["page", "lines"])
async def test_a_bad_parameter_is_named(app: WholeApp, headers: dict[str, str]) -> None:
    """In a problem document, in words and as a member."""
    answer = await app.ask_admin("GET", "/jobs?state=nowhere", headers=headers)
    found = problem(answer, "invalid-request", 400)
    assert found["parameter"] == "state"
    assert found["detail"] == "`state` is 'nowhere', takes accepted, finished, open, submitting, waiting"
    assert problem(await app.ask_admin("GET", "/jobs?q=%ff"), "invalid-request", 400)["parameter"] == ""


@pytest.mark.parametrize("headers", [{}, _LINES], ids=["page", "lines"])
async def test_a_journal_that_cannot_be_read_is_told(app: WholeApp, headers: dict[str, str]) -> None:
    """Before the answer starts."""
    app.store.failing = True
    problem(await app.ask_admin("GET", "/jobs", headers=headers), "journal-unavailable", 503)


async def test_clients_cannot_list_jobs(app: WholeApp) -> None:
    """On their address, this path means something else."""
    await _remember(app, 1)
    problem(await app.ask("GET", "/jobs"), "not-found", 404)


async def test_the_slowest_of_a_part_are_said_to_be_that(app: WholeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of how many, and since when: on a page, in lines, and in the patterns."""

    async def part(*_: object, **__: object) -> JobPage:
        return JobPage(records=[finished()], next=None, searched_to=1_795_709_149.0, looked_at=3_000)

    monkeypatch.setattr(app.store, "jobs", part)
    page = (await app.ask_admin("GET", "/jobs?sort=slowest")).document
    assert (page["complete"], page["searched_to"], page["looked_at"]) == (False, 1_795_709_149.0, 3_000)
    lines = await app.ask_admin("GET", "/jobs?sort=slowest", headers={"Accept": "application/x-ndjson"})
    assert json.loads(lines.body.splitlines()[-1]) == {"searched_to": 1_795_709_149.0, "looked_at": 3_000}
    patterns = (await app.ask_admin("GET", "/jobs/patterns")).document
    assert (patterns["slowest_complete"], patterns["slowest_to"], patterns["slowest_of"]) == (
        False, 1_795_709_149.0, 3_000
    )  # fmt: skip


async def test_the_slowest_are_read_in_large_parts(app: WholeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each part, all jobs are looked at."""
    ids = await _remember(app, 450)
    asked, jobs = list[int](), app.store.jobs

    async def counted(*given: Any, limit: int, **more: Any) -> JobPage:
        asked.append(limit)
        return await jobs(*given, limit=limit, **more)

    monkeypatch.setattr(app.store, "jobs", counted)
    lines = (await app.ask_admin("GET", "/jobs?sort=slowest", headers=_LINES)).body.splitlines()
    assert sorted(json.loads(line)["job_id"] for line in lines) == sorted(ids)
    assert asked == [2_000]
