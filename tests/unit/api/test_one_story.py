"""Everything that can be asked about jobs tells one story, after random requests, callbacks and events.

Clients' answers, status documents and results; operators' pages, lists in each order and with each filter, counts,
patterns, metrics and the live page: at the only instance, or at each of two that share a store.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from proxy.jobs.job import Job
from shared.errors import Code
from shared.lifecycle import Event, State
from shared.outcome import Failed
from tests.support.failing_store import FailingStore
from tests.support.http import Answer
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, Order, Step
from tests.support.shared_store import Member, SharedStore
from tests.support.whole_app import JSON_TYPE, WholeApp

STEPS: Final = 12
MAX_JOBS: Final = "5"
HOST: Final = {"Host": "127.0.0.1"}
#: How far a new job gets at once; and what an open one may do next, by its state.
BEGINNINGS: Final = ((), (Step.QUEUE,), SUBMIT[:1], SUBMIT[:3], SUBMIT, SUBMIT)
NEXT: Final = {
    State.ACCEPTED: [Step.QUEUE, Step.ASSIGN],
    State.ASSIGNED: [Step.CONNECT],
    State.SUBMITTING: [Step.REPLY, Step.REFUSE],
}
ENDS: Final[list[Order]] = [Code.WORKER_DIED, Code.JOB_REJECTED, Code.JOB_SERVER_UNAVAILABLE, ZeroDivisionError()]
CALLBACKS: Final = [
    b'{"state": "completed", "id": "r1"}',
    b'{"state": "completed", "n": 1.10}',
    b'{"state": "failed", "error": "it is full"}',
    b'{"state": "running", "id": "r2"}',
    b"{",
]
#: What a client's and an operator's document of a job have in common.
SAME: Final = ("state", "submitted", "late", "labels", "profile")


@dataclass(eq=False)
class Seen:
    """A job, and what was said about it."""

    job: Job
    body: bytes
    key: str
    #: The final answers to the requests that posted or joined it.
    told: list[Answer] = field(default_factory=list)
    #: The answers to its callbacks.
    fates: Counter[str] = field(default_factory=Counter)
    #: Whether the job server has said how it calls the job.
    is_named: bool = False


class Story:
    """Lets things happen at random, and compares what is said about them."""

    def __init__(self, apps: list[WholeApp], seed: int) -> None:
        self.apps = apps
        self.random = random.Random(seed)
        self.seen: dict[str, Seen] = {}
        self.requests: list[asyncio.Task[None]] = []

    # --- what happens ------------------------------------------------------------------------------------------------

    async def go_on(self) -> None:
        """Let one thing happen."""
        happening: list[Callable[[], Coroutine[Any, Any, None]]] = [
            *[self.post] * 4, *[self.move] * 3, *[self.call_back] * 5, self.cancel, self.wait,
        ]  # fmt: skip
        await self.random.choice(happening)()
        await nothing_moves()
        for request in [request for request in self.requests if request.done()]:
            self.requests.remove(request)
            request.result()

    async def post(self) -> None:
        """With or without a key, anywhere; the client waits or not."""
        app, key = self.random.choice(self.apps), self.random.choice(["", "", "a", "b"])
        headers = {"Prefer": self.random.choice(["wait=60", "wait=1", "respond-async"])}
        body = b'{"account": "%s"}' % self.random.choice([b"x", b"y"])
        known = set(app.parts.core.in_flight)
        self.start(self._post(app, body, headers | ({"Idempotency-Key": key} if key else {})))
        await nothing_moves()
        for job in set(app.parts.core.in_flight) - known:
            self.seen[job.id] = Seen(job, body, key)
            app.stepped.tell(job, *self.random.choice(BEGINNINGS))

    async def _post(self, app: WholeApp, body: bytes, headers: dict[str, str]) -> None:
        answer = await app.post(body, headers)
        if answer.status in {200, 500}:
            self.seen[answer.headers["Job-Id"]].told.append(answer)

    async def move(self) -> None:
        """A runner goes on, or gives up."""
        flying = [(app, job) for app in self.apps for job in app.parts.core.in_flight]
        if flying:
            app, job = self.random.choice(flying)
            steps = NEXT.get(job.state)
            if steps and self.random.random() < 0.7:
                step = self.random.choice(steps)
                app.stepped.tell(job, *([Step.RECORD] if step is Step.CONNECT else []), step)
            else:
                app.stepped.tell(job, self.random.choice(ENDS))

    async def call_back(self) -> None:
        """Of any job that the job server may know, at any time, to any instance; perhaps twice at once."""
        known = [seen for seen in self.seen.values() if any(what is Event.CONNECTED for _, what in seen.job.life)]
        if known:
            seen, body = self.random.choice(known), self.random.choice(CALLBACKS)
            for _ in range(self.random.choice([1, 1, 2])):
                self.start(self._call_back(self.random.choice(self.apps), seen, body))

    async def _call_back(self, app: WholeApp, seen: Seen, body: bytes) -> None:
        answer = await app.ask("POST", f"/callback/{seen.job.token}", body=body, headers=JSON_TYPE)
        seen.fates[str(answer.document["status"])] += 1
        seen.is_named |= b"id" in body and answer.document["status"] in {"accepted", "late"}

    async def cancel(self) -> None:
        """By a client, anywhere."""
        if self.seen:
            path = f"/jobs/{self.random.choice(list(self.seen))}"
            answer = await self.random.choice(self.apps).ask("DELETE", path)
            assert answer.document["state"] == "finished"

    async def wait(self) -> None:
        """A client's patience, or a deadline, may be over."""
        await time_passes(self.random.choice([0.5, 1.5, 31.0]))

    def start(self, request: Coroutine[Any, Any, None]) -> None:
        """Send a request whose answer may take long."""
        self.requests.append(asyncio.create_task(request))

    async def end(self) -> None:
        """Let all deadlines pass; nobody is left without an answer."""
        await time_passes(61)
        for request in self.requests:
            assert request.done()
            request.result()

    # --- what is said ------------------------------------------------------------------------------------------------

    async def compare(self) -> None:
        """Ask everything, everywhere."""
        for app in self.apps:
            for job in app.parts.core.in_flight:  # lists need not have those whose ids nobody knows
                await job.recorder.soon_stored()
        for app in self.apps:
            lines = await self._lines(app, "")
            assert sorted(line["job_id"] for line in lines) == sorted(self.seen)
            for line in lines:
                await self._compare_job(app, line, self.seen[line["job_id"]])
            await self._compare_lists(app, lines)
            await self._compare_figures(app, lines)

    async def _compare_job(self, app: WholeApp, line: dict[str, Any], seen: Seen) -> None:
        status = (await app.ask("GET", f"/jobs/{seen.job.id}")).document
        result = await app.ask("GET", f"/jobs/{seen.job.id}/result")
        whole = (await self._ask(app, f"/jobs/{seen.job.id}")).document
        assert {name: whole[name] for name in line if name != "total_ms"} == {
            name: value for name, value in line.items() if name != "total_ms"
        }
        assert [status[name] for name in SAME] == [line[name] for name in SAME]
        assert status["remote"].get("id") == line["remote_id"]
        assert line["remote_id"] or not seen.is_named
        assert status["callbacks"].items() <= whole["callbacks"].items()
        assert status["earlier_answer"] == whole["earlier_answer"]
        assert (result.status == 202) == (status["state"] != "finished") == (line["outcome"] is None)
        assert seen.fates["late"] == status["callbacks"]["late"]
        assert seen.fates["late"] + seen.fates["accepted"] == status["callbacks"]["accepted"]
        assert seen.fates["duplicate"] == status["callbacks"]["duplicate"]
        if result.status != 202:
            self._compare_end(status, result, line, seen)
            self._compare_course(whole, seen)
            await self._compare_replay(app, status, result, seen)

    def _compare_end(self, status: dict[str, Any], result: Answer, line: dict[str, Any], seen: Seen) -> None:
        """The result is the outcome in the status document; and what clients were told, unless it came late."""
        said = ("code", "detail", "submitted")
        if status["outcome"] == "succeeded":
            assert (result.status, status["code"], status["submitted"]) == (200, None, "yes")
        else:
            assert [result.document[name] for name in said] == [status[name] for name in said]
        assert line["code"] == (status["earlier_answer"] or status)["code"]
        assert line["outcome"] == (line["code"] or "succeeded")
        for told in seen.told:
            if told.status == 200 or not status["late"]:
                assert _without_fate(told) == _without_fate(result)
            elif told.body != result.body:
                assert [told.document[name] for name in said[:2]] == [
                    status["earlier_answer"][name] for name in said[:2]
                ]
            if told.status != 200 and told.document["submitted"] == "no":
                assert status["submitted"] == "no" or seen.fates.total()

    def _compare_course(self, whole: dict[str, Any], seen: Seen) -> None:
        """The phases and the attempts are known, or they are not shown."""
        names = [what for _, what in whole["events"]]
        assert names.count("connected") == whole["attempts"]["submissions"]
        if whole["phases"]:
            submissions = sum(what is Event.CONNECTED for _, what in seen.job.life)
            assert (whole["attempts"]["submissions"], names.count("finish") <= 1) == (submissions, True)
            assert sum(took for _, took in whole["phases"]) == pytest.approx(whole["total_ms"], abs=1)

    async def _compare_replay(self, app: WholeApp, status: dict[str, Any], result: Answer, seen: Seen) -> None:
        """The key of a job that ended and was or may have been submitted gets the job's answer."""
        if seen.key and status["submitted"] != "no":
            answer = await app.post(seen.body, {"Idempotency-Key": seen.key, "Prefer": "respond-async"})
            assert (answer.status, answer.body, answer.headers["Job-Id"]) == (result.status, result.body, seen.job.id)
            assert answer.headers["Idempotent-Replayed"] == "true"

    async def _compare_lists(self, app: WholeApp, lines: list[dict[str, Any]]) -> None:
        ids = [line["job_id"] for line in lines]
        ended = [line for line in lines if line["state"] == "finished"]
        limit = self.random.choice([1, 2, 3])
        assert await self._pages(app, "newest", limit) == ids
        assert await self._pages(app, "oldest", limit) == ids[::-1]
        assert sorted(await self._pages(app, "slowest", limit)) == sorted(line["job_id"] for line in ended)
        filters: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
            ("state=open", lambda line: line["state"] != "finished"),
            ("state=finished", lambda line: line["state"] == "finished"),
            ("outcome=failed", lambda line: line["code"]),
            ("outcome=succeeded", lambda line: line["outcome"] == "succeeded"),
            ("code=worker-died,cancelled", lambda line: line["code"] in {"worker-died", "cancelled"}),
            ("state=finished&submitted=yes", lambda line: (line["state"], line["submitted"]) == ("finished", "yes")),
            ("label.account=x", lambda line: line["labels"]["account"] == "x"),
            ("key=a", lambda line: self.seen[line["job_id"]].key == "a"),
            ("cancelled_by=any", lambda line: line["cancelled_by"]),
            ("q=it+is+full", lambda line: line["error"] == "it is full"),
        ]
        for query, is_meant in self.random.sample(filters, 4):
            found = [line["job_id"] for line in await self._lines(app, query)]
            assert found == [line["job_id"] for line in lines if is_meant(line)], query

    async def _compare_figures(self, app: WholeApp, lines: list[dict[str, Any]]) -> None:
        ended = [line for line in lines if line["state"] == "finished"]
        failed = Counter(line["code"] for line in ended if line["code"])
        counts = (await self._ask(app, "/jobs")).document["counts"]
        assert (counts["total"], counts["code"]) == (len(lines), failed)
        assert counts["state"].get("finished", 0) == len(ended)
        patterns = (await self._ask(app, "/jobs/patterns")).document
        assert (patterns["jobs"], sum(patterns["over_time"]["failed"])) == (len(ended), failed.total())
        assert sum(group["count"] for group in patterns["failures"]) == failed.total()
        fates = sum((seen.fates for seen in self.seen.values()), Counter())
        metrics = [(await self._ask(each, "/metrics")).body.decode() for each in self.apps]
        for kind in ("accepted", "late", "duplicate", "progress"):
            assert sum(_metric(text, f'callbacks_total{{kind="{kind}"}}') for text in metrics) == fates[kind], kind
        outcomes = [seen.job.outcome.result() for seen in self.seen.values() if seen.job.outcome.done()]
        assert len(outcomes) == len(ended) == sum(_metric(text, r"jobs_total{.*}") for text in metrics)
        assert sum(isinstance(outcome, Failed) for outcome in outcomes) == failed.total()
        by_id = {line["job_id"]: line for line in lines}
        for failure in json.loads(app.parts.operators.snapshots.first())["failures"]:
            line = by_id[failure["job_id"]]
            said = ("outcome", "detail", "submitted")
            assert [failure[name] for name in said] == [line[name] for name in said]

    async def _ask(self, app: WholeApp, path: str, **headers: str) -> Answer:
        answer = await app.ask_admin("GET", path, headers=HOST | headers)
        assert answer.status == 200, answer
        return answer

    async def _lines(self, app: WholeApp, query: str) -> list[dict[str, Any]]:
        answer = await self._ask(app, f"/jobs?{query}", Accept="application/x-ndjson")
        return [json.loads(line) for line in answer.body.splitlines()]

    async def _pages(self, app: WholeApp, sort: str, limit: int) -> list[str]:
        found, after = [], ""
        while True:
            page = (await self._ask(app, f"/jobs?sort={sort}&limit={limit}{after}")).document
            found += [line["job_id"] for line in page["jobs"]]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"


def _without_fate(answer: Answer) -> object:
    """Return the body of an answer, in which a callback after the end may change only `submitted`."""
    if answer.status == 200:
        return answer.body
    return {name: value for name, value in answer.document.items() if name not in {"submitted", "retry_safe"}}


def _metric(text: str, name: str) -> float:
    """Return the sum of the values of a metric."""
    pattern = name if ".*" in name else re.escape(name)
    return sum(float(value) for value in re.findall(rf"^async_job_proxy_{pattern} (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("instances", [1, 2])
async def test_all_answers_agree(monkeypatch: pytest.MonkeyPatch, instances: int, seed: int) -> None:
    """After each thing that happens, and at the end."""
    shared = SharedStore()
    members = [Member(shared, name) for name in ("east", "west")]
    apps = [WholeApp(monkeypatch, FailingStore(one), peers=one, MAX_JOBS=MAX_JOBS) for one in members]
    if instances == 1:
        apps = [WholeApp(monkeypatch, MAX_JOBS=MAX_JOBS)]
    story = Story(apps, seed)
    for _ in range(STEPS):
        await story.go_on()
        await story.compare()
    await story.end()
    await story.compare()
    assert all(seen.job.outcome.done() for seen in story.seen.values())
    for app in apps:
        await app.close()
