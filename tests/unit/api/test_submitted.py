"""No answer ever says `submitted: no` of a job that was or may have been submitted.

A client that reads `no` submits its job again, and the job would run twice. So this calls every route, with every kind
of request about a job, at every moment of the job's life and after it, combined with other faults.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from starlette.routing import Route
from starlette.types import ASGIApp

from proxy.api.submitted import submitted_of
from proxy.jobs.job import Job, new_id, new_token
from proxy.store.memory import MemoryStore
from shared.errors import AdmissionError, Code, RequestError
from shared.lifecycle import Submitted
from shared.outcome import Failed
from tests.support.asgi import request_scope, sent_by
from tests.support.failing_store import FailingStore
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.runners import SUBMIT, Step
from tests.support.whole_app import JSON_TYPE, WholeApp

API_KEY: Final = {"Authorization": "Bearer secret"}
#: Headers of the dashboard, which other routes ignore.
HEADERS: Final = API_KEY | {"X-Requested-By": "dashboard", "Origin": "http://127.0.0.1", "Host": "127.0.0.1"}


class BrokenStore(FailingStore):
    """A store with a bug, when the test says so."""

    broken = False

    async def _ask(self) -> None:
        if self.broken:
            raise TypeError
        await super()._ask()


class App(WholeApp):
    """A front end that requires API keys, and begins each job with its own idempotency key."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.memory = MemoryStore(3600)
        self.broken_store = BrokenStore(self.memory)
        settings: dict[str, Any] = {"API_KEYS": "secret", "MAX_JOBS": "10000", "MAX_BODY_BYTES": "1024"}
        super().__init__(patch, self.broken_store, **settings)
        #: Another instance, which shares the store.
        self.other = WholeApp(patch, FailingStore(self.memory), **settings)
        self._numbers = itertools.count()
        #: The idempotency key of the newest job, as a header.
        self.key: dict[str, str] = {}

    async def close(self) -> None:
        """End both."""
        await super().close()
        await self.other.close()

    async def begin(self, *steps: Step, other: bool = False) -> Job:
        """Begin a job, here or at the other instance, and let it run these steps."""
        self.key = {"Idempotency-Key": f"key-{next(self._numbers)}"}
        return await (self.other if other else self).begun(*steps, headers=self.key | API_KEY)

    async def failed(self, job: Job, code: Code, submitted: Submitted) -> Job:
        """Let the runner report this failure."""
        self.stepped.tell(job, Failed(code=code, detail="because", submitted=submitted))
        await job.outcome
        return job


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two instances, one of which gets the requests."""
    app = App(monkeypatch)
    yield app
    await app.close()


# --- moments: each is one of a job that was submitted, or may have been ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The names of a forgotten job."""

    id: str
    token: str


async def under_way(app: App) -> Job:
    """The submission is on its way."""
    return await app.begin(*SUBMIT[:3])


async def waiting(app: App) -> Job:
    """The job server has it."""
    return await app.begin(*SUBMIT)


async def called_back(app: App) -> Job:
    """The callback is here before anything else is known; the store is recording it."""
    job = await app.begin(*SUBMIT[:2])
    app.store.hanging = True
    calling = asyncio.create_task(app.call_back(job))
    await nothing_moves()
    assert not calling.done()
    return job


async def ending(app: App) -> Job:
    """Its end is being recorded."""
    job = await app.begin(*SUBMIT)
    app.store.hanging = True
    app.parts.core.dispatcher.cancel(job.id)
    await nothing_moves()
    return job


async def succeeded(app: App) -> Job:
    """It has ended."""
    job = await app.begin(*SUBMIT)
    await app.call_back(job)
    await job.outcome
    return job


async def failed(app: App) -> Job:
    """It has ended, and its callback reported a failure."""
    job = await app.begin(*SUBMIT)
    await app.call_back(job, b'{"state": "failed"}')
    await job.outcome
    return job


async def overdue(app: App) -> Job:
    """Its deadline has passed."""
    job = await app.begin(*SUBMIT)
    await job.outcome
    return job


async def lost(app: App) -> Job:
    """Its worker died, and it is unknown at which moment."""
    return await app.failed(await app.begin(*SUBMIT[:3]), Code.WORKER_DIED, Submitted.UNKNOWN)


async def refused_and_run(app: App) -> Job:
    """The job server refused it, but calls back."""
    job = await app.failed(await app.begin(*SUBMIT[:3], Step.REFUSE), Code.JOB_REJECTED, Submitted.NO)
    await app.call_back(job)
    return job


async def refused_and_running(app: App) -> Job:
    """The job server refused it, and then reports that it is running."""
    job = await app.failed(await app.begin(*SUBMIT[:3], Step.REFUSE), Code.JOB_REJECTED, Submitted.NO)
    await app.call_back(job, b'{"state": "running"}')
    return job


async def refused_and_called_in_vain(app: App) -> Job:
    """The job server refused it, and then calls back with invalid JSON."""
    job = await app.failed(await app.begin(*SUBMIT[:3], Step.REFUSE), Code.JOB_REJECTED, Submitted.NO)
    assert (await app.call_back(job, b"{")).status == 400
    return job


async def busy_and_called_in_vain(app: App) -> Job:
    """The job server was busy, and calls back with invalid JSON before the next attempt."""
    job = await app.begin(*SUBMIT[:3], Step.REFUSE)
    assert (await app.call_back(job, b"{")).status == 400
    return job


async def refused_and_running_while_that_is_recorded(app: App) -> Job:
    """The job server refused it, and reports that it is running before its end is recorded."""
    job = await app.begin(*SUBMIT[:3], Step.REFUSE)
    app.store.hanging = True
    app.stepped.tell(job, Failed(code=Code.JOB_REJECTED, detail="because", submitted=Submitted.NO))
    await nothing_moves()
    assert (await app.call_back(job, b'{"state": "running"}')).status == 200
    return job


async def refused_and_run_while_that_is_recorded(app: App) -> Job:
    """The job server refused it, and calls back before its end is recorded."""
    job = await app.begin(*SUBMIT[:3], Step.REFUSE)
    app.store.hanging = True
    app.stepped.tell(job, Failed(code=Code.JOB_REJECTED, detail="because", submitted=Submitted.NO))
    await nothing_moves()
    calling = asyncio.create_task(app.call_back(job))
    await nothing_moves()
    assert not calling.done()
    return job


async def a_bug(app: App) -> Job:
    """The runner raised an unexpected exception."""
    job = await app.begin(*SUBMIT[:3])
    app.stepped.tell(job, ZeroDivisionError())
    await job.outcome
    return job


async def elsewhere(app: App) -> Job:
    """It runs at another instance; only its record is here."""
    return await app.begin(*SUBMIT, other=True)


async def elsewhere_under_way(app: App) -> Job:
    """The same, and its `submitted` is unknown."""
    return await app.begin(*SUBMIT[:3], other=True)


async def forgotten(app: App) -> Forgotten:
    """RESULT_TTL is over, or an older journal was restored. Its key is free again."""
    app.key = {}
    return Forgotten(new_id(), new_token())


async def forgotten_early(app: App) -> Forgotten:
    """There was no room to remember it for its whole time, and the client still has its key."""
    app.store.memory = MemoryStore(3600, lost_before=time.time())
    app.key = {"Idempotency-Key": f"key-{new_id()}"}
    return Forgotten(new_id(), new_token())


MOMENTS: Final = (
    under_way, waiting, called_back, ending, succeeded, failed, overdue, lost, refused_and_run, a_bug, elsewhere,
    elsewhere_under_way, forgotten,
)  # fmt: skip
#: Moments of a job that seemed not to be submitted.
PROVEN: Final = (
    refused_and_running, refused_and_called_in_vain, busy_and_called_in_vain,
    refused_and_running_while_that_is_recorded, refused_and_run_while_that_is_recorded,
)  # fmt: skip


# --- circumstances ---------------------------------------------------------------------------------------------------


def all_is_well(app: App) -> None:
    """Nothing else is wrong."""
    app.parts.core.dispatcher.draining = False
    app.parts.core.dispatcher.pause.end("")
    app.headroom.short_of = ""
    app.store.failing = app.store.hanging = app.broken_store.broken = False
    app.parts.core.authorization.replace(("secret",))


def shutting_down(app: App) -> None:
    """The proxy is draining."""
    app.parts.core.dispatcher.draining = True


def paused(app: App) -> None:
    """An operator wants no new jobs for now."""
    app.parts.core.dispatcher.pause.begin("anna", "")


def short_of_memory(app: App) -> None:
    """The machine has no room."""
    app.headroom.short_of = "memory"


def short_of_descriptors(app: App) -> None:
    """No client may hold a connection."""
    app.headroom.short_of = "file descriptors"


def the_store_fails(app: App) -> None:
    """Nothing can be recorded or found."""
    app.store.hanging = False
    app.store.failing = True


def the_store_has_a_bug(app: App) -> None:
    """Every call raises an unexpected exception."""
    app.store.hanging = False
    app.broken_store.broken = True


def the_api_key_has_changed(app: App) -> None:
    """The client's key is no longer valid."""
    app.parts.core.authorization.replace(("another",))


CIRCUMSTANCES: Final = (
    all_is_well, shutting_down, paused, short_of_memory, the_store_fails, the_store_has_a_bug, the_api_key_has_changed,
)  # fmt: skip


#: All moments under all circumstances; for a few moments, only some circumstances matter.
CASES: Final = (
    *itertools.product(MOMENTS, CIRCUMSTANCES),
    *itertools.product(PROVEN, (all_is_well,)),
    *itertools.product((forgotten_early,), CIRCUMSTANCES[1:]),  # if all is well, the key begins another job
    *itertools.product((waiting, elsewhere, succeeded), (short_of_descriptors,)),
)


# --- requests --------------------------------------------------------------------------------------------------------

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: The variants of a request: headers, and a body.
WITHOUT_BODY: Final[tuple[tuple[Mapping[str, str], bytes], ...]] = (({}, b""), ({"Prefer": "wait=0"}, b""))
WITH_BODY: Final[tuple[tuple[Mapping[str, str], bytes], ...]] = (
    *WITHOUT_BODY,
    (JSON_TYPE, b"{}"),
    (JSON_TYPE | {"Prefer": "wait=0"}, b"{}"),
    (JSON_TYPE, b'{"state": "running"}'),
    (JSON_TYPE, b"{"),
    (JSON_TYPE | {"Content-Length": "2000"}, b"{}"),
    (JSON_TYPE, b" " * 2_000),
    ({"Content-Type": "text/plain"}, b"{}"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that is about a job: by an id or a token in its path, or by an idempotency key."""

    app: ASGIApp
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    #: Whether a route takes it. If not, it is refused before it can change anything.
    is_taken: bool = True

    @property
    def needs_key(self) -> bool:
        """Whether only the key identifies the job."""
        return not names_a_job(self.path)


def names_a_job(path: str) -> bool:
    """Return whether a route's path has a parameter that identifies a job."""
    return "{id}" in path or "{token}" in path


def requests_about_a_job(app: App) -> Iterator[Request]:
    """Yield all of them, for every route of every listener."""
    known_routes: list[Route] = []  # of another listener: to be reached here as well, by one variant of each method
    for listener, routes in app.routes:
        known = set()  # a path may have several routes
        taken = {(route.path, method) for route in routes for method in route.methods or METHODS}
        for route, method in itertools.product(routes, METHODS):
            if not names_a_job(route.path) and method != "POST":
                continue
            if route.path.startswith("/intake/"):  # these would change the circumstances of all later requests
                continue
            is_taken = (route.path, method) in taken
            if not is_taken:
                ways = WITHOUT_BODY[:1]  # headers do not matter if the method is refused
            else:
                ways = WITH_BODY if method in {"POST", "PUT"} and route.methods else WITHOUT_BODY
                ways = ways[:1] if route in known_routes else ways
            for headers, body in ways:
                way = (method, route.path, *headers.items(), body)
                if way not in known:
                    known.add(way)
                    yield Request(
                        app=listener,
                        method=method,
                        path=route.path,
                        headers=HEADERS | dict(headers),
                        body=body,
                        is_taken=is_taken,
                    )
        known_routes += routes
    for path in ("/jobs/{id}/nowhere", "/callback/{token}/nowhere", "/job/{id}/result", "/jobs?message={id}", "/{id}"):
        yield Request(app=app.parts.public, method="GET", path=path, headers=HEADERS, body=b"")


async def documents_of(app: App, requests: Sequence[Request], job: Job | Forgotten) -> list[dict[str, Any]]:
    """Return the documents that answer simultaneous requests about `job`. A hanging store continues after a while."""
    sending = [asyncio.create_task(_document_of(app, request, job)) for request in requests]
    await time_passes(2)
    app.store.hanging = False
    return await asyncio.gather(*sending)


async def _document_of(app: App, request: Request, job: Job | Forgotten) -> dict[str, Any]:
    path = request.path.replace("{id}", job.id).replace("{token}", job.token)
    headers = {**request.headers, **(app.key if request.needs_key else {})}
    _, *rest = await sent_by(request.app, request_scope(request.method, path, headers=headers), request.body)
    try:
        document = json.loads(b"".join(message["body"] for message in rest))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def says_no(document: Mapping[str, Any]) -> bool:
    """Return whether a client that reads this would submit its job again."""
    return document.get("submitted") == "no" or document.get("retry_safe") is True


@pytest.mark.parametrize(("moment", "circumstance"), CASES, ids=lambda function: function.__name__)
async def test_no_answer_says_no_of_a_job_that_may_have_been_submitted(
    app: App, moment: Callable[[App], Awaitable[Job | Forgotten]], circumstance: Callable[[App], None]
) -> None:
    """Each request is sent about a new job at that moment; those that no route takes, about the same one."""
    requests = list(requests_about_a_job(app))
    together = [[request] for request in requests if request.is_taken]
    together.append([request for request in requests if not request.is_taken])
    asked, wrong = 0, []
    for group in together:
        job = await moment(app)
        about_it = [request for request in group if app.key or not request.needs_key]
        circumstance(app)
        documents = await documents_of(app, about_it, job)
        for request, document in zip(about_it, documents, strict=True):
            bug = document.get("code") == "internal-error" and circumstance is not the_store_has_a_bug
            if says_no(document) or (bug and moment is not a_bug):
                wrong.append((request.method, request.path, dict(request.headers), request.body[:20], document))
        all_is_well(app)
        asked += len(about_it)
    assert asked > 50
    assert not wrong


async def test_an_answer_says_no_of_a_job_that_was_certainly_not_submitted(app: App) -> None:
    """Otherwise the test above would pass if no answer ever said `no`."""
    job = await app.begin()
    documents = []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/result")):
        answer = await app.ask(method, f"/jobs/{job.id}{path}", headers=API_KEY)
        documents.append(answer.document)
    for refused in (shutting_down, the_store_fails):
        refused(app)
        documents.append((await app.post(headers=API_KEY)).document)
        all_is_well(app)

    assert [says_no(document) for document in documents] == [True] * 5


@pytest.mark.parametrize(
    ("prefix", "path", "submitted"),
    [
        ("/jobs", "/queueJob", "no"),
        ("/callback", "/start", "no"),
        ("/jobs", "/queueJob/jenkins", "no"),
        ("", "/queueJob/jenkins/jobs", "no"),
        ("", "/queueJob/jenkins/a/callback/b", "no"),
        ("/queueJob", "/jobs/4711/stop", "unknown"),
        ("/start", "/callback/token", "unknown"),
        ("", "//jobs/4711/stop", "unknown"),
    ],
)
def test_what_is_said_of_a_job_follows_from_the_route_alone(prefix: str, path: str, submitted: str) -> None:
    """Not from a gateway's prefix, nor from a path at the job server."""
    scope = request_scope("POST", prefix + path, root_path=prefix)

    assert submitted_of(RequestError(Code.INVALID_REQUEST, "no job"), scope) == submitted


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "get", "post"])
def test_only_the_method_of_new_jobs_says_no(method: str) -> None:
    """A request with another one may be about a job that was submitted before."""
    scope = request_scope(method, "/queueJob")

    assert submitted_of(AdmissionError(Code.OVERLOADED, "full"), scope) is Submitted.UNKNOWN
