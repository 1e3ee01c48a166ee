"""The stand-in speaks every shipped profile well enough for the profile's own rules to read it, end to end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, web
from pytest_aiohttp import AiohttpServer

from jobserver.cli import parse_arguments
from jobserver.stand_in.app import STAND_IN, StandIn, create_app
from shared.job_server import loader
from shared.job_server.callbacks import Callbacks, Received
from shared.job_server.calls import Call, Request
from shared.job_server.client_jobs import ClientJobs
from shared.job_server.polls import Results, Statuses
from shared.job_server.profile import Profile
from shared.job_server.submissions import Replies, Reply, ReplyKind, Submissions
from shared.job_server.verdict import Kind
from shared.job_server.verification import Verifier
from tests.support.profiles import shipped_profiles
from tests.support.samples import with_wish
from tests.support.waiting import eventually

#: What no shipped profile has: JSON in a field, outputs that no sample mentions, an id that is a part of a word, and a
#: status call with a body. JOB_SERVER_URL has the path that is in the profile's own address.
OWN = """
name = "own"

[server]
url = "https://own.example/v1"

[submit]
url = "/assemblies"
form = { params = '{"auth": {"key": "public"}, "notify_url": "{callback_url}"}' }
outputs = { id = "body.id" }

[callback]
state = "body.document.state"
succeeded = ["done"]
failed = ["failed"]

[status]
method = "POST"
url = "/status"
body = { of = "{id}", key = "{env:OWN_KEY}" }
state = "body.state"

[[sample]]
kind = "job"
headers = { content-type = "application/x-www-form-urlencoded" }
body = "a=1"
expect = '{"url": "https://own.example/v1/assemblies"}'

[[sample]]
kind = "reply"
body = '{"id": "one"}'
expect = "running"

[[sample]]
kind = "callback"
headers = { content-type = "multipart/form-data; boundary=b" }
body = "--b\\r\\nContent-Disposition: form-data; name=document\\r\\n\\r\\n{\\"state\\": \\"done\\"}\\r\\n--b--\\r\\n"
expect = "succeeded"

[[sample]]
kind = "status"
body = '{"id": "one", "state": "done"}'
expect = "succeeded"

[[sample]]
kind = "status"
body = '{"id": "one", "state": "failed"}'
expect = "failed"
"""

PROFILES = [*shipped_profiles(), loader.parse(OWN)]
pytestmark = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


class Bench:
    """A client that knows nothing but a profile, and a stand-in for its job server."""

    def __init__(
        self,
        profile: Profile,
        session: ClientSession,
        stand_in: StandIn,
        url: str,
        called: str,
        callbacks: list[Received],
    ) -> None:
        self.profile = profile
        self.stand_in = stand_in
        self.session = session
        self.url = url
        self.callbacks = callbacks
        self.values = {
            "callback_url": f"{called}/callback/secret-token",
            "callback_token": "secret-token",
            "job_id": "fedcba9876543210fedcba9876543210",
            "job_uuid": "fedcba98-7654-3210-fedc-ba9876543210",
            **dict.fromkeys(loader.secret_names(profile), "whsec_c2VjcmV0"),
        }

    async def submit(self, wish: str) -> Reply:
        """Submit the job of the first job sample, and return what its reply says."""
        sample = next(sample for sample in self.profile.sample if sample.kind == "job")
        content_type = sample.headers.get("content-type", "application/json")
        job = ClientJobs(self.profile.submit).read(with_wish(sample, wish, content_type), content_type)
        self.values |= {"path": sample.path} if sample.path else {}
        made = Submissions(self.profile, self.url).compose(job.body, self.values, job.content_type)
        if "Content-Type" not in made.headers:
            made = dataclasses.replace(made, headers={**made.headers, "Content-Type": "application/json"})
        status, headers, body = await self.call(made)
        replies = Replies(self.profile.submit)
        reply = replies.read_status(status, retry_after="Retry-After" in headers) or replies.read(status, headers, body)
        self.values |= reply.outputs
        return reply

    async def call(self, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        """Make a call."""
        async with self.session.request(
            request.method, request.url, headers=request.headers, data=request.body or None
        ) as response:
            return response.status, response.headers.copy(), await response.read()

    def can_ask(self, section: str) -> bool:
        """Return whether the profile has this call, and the reply to the submission named everything it needs."""
        rules = getattr(self.profile, section)
        return rules is not None and Call(self.url, self.profile.server, rules).needs <= self.values.keys()

    async def ask(self, section: str) -> tuple[int, Mapping[str, str], bytes]:
        """Make the status, result or cancel call about the last job."""
        call = Call(self.url, self.profile.server, getattr(self.profile, section))
        return await self.call(call.request(self.values))

    def verdicts(self) -> list[Kind]:
        """Return what the received callbacks say."""
        return [Callbacks(self.profile.callback).read(received).kind for received in self.callbacks]

    def genuine(self) -> list[bool]:
        """Return, for each callback, whether it is the job server's own."""
        if self.profile.verify is None:
            return [True] * len(self.callbacks)
        verifier = Verifier(self.profile.verify)
        values = {**self.values, "url": self.values["callback_url"]}
        return [verifier.is_genuine(one, one.body, values, time.time()) for one in self.callbacks]


async def received(request: web.Request) -> Received:
    """Return a callback in the form that the rules expect."""
    return Received(
        method=request.method,
        route=request.match_info.get("route", ""),
        query=request.query_string,
        headers=[(name.lower(), value) for name, value in request.raw_headers],
        body=await request.read(),
    )


@pytest.fixture
async def bench(
    profile: Profile, client: ClientSession, aiohttp_server: AiohttpServer, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """A bench whose stand-in's jobs take no time."""
    for name in loader.secret_names(profile):
        monkeypatch.setenv(name.removeprefix("env:"), "whsec_c2VjcmV0")
    receiver = web.Application()
    callbacks: list[Received] = []

    async def receive(request: web.Request) -> web.Response:
        callbacks.append(await received(request))
        return web.Response()

    receiver.router.add_route("*", "/callback/{token}", receive)
    receiver.router.add_route("*", "/callback/{token}/{route}", receive)
    called = str((await aiohttp_server(receiver)).make_url("/")).rstrip("/")
    app = create_app(profile, duration_s=0, fixed_url=called + profile.callback.path)
    server = await aiohttp_server(app)
    url = str(server.make_url(urlsplit(profile.server.url).path or "/")).rstrip("/")
    return Bench(profile, client, app[STAND_IN], url, called, callbacks)


async def done(bench: Bench) -> None:
    """Wait until the last job is over at the job server."""
    await eventually(lambda: bench.stand_in.jobs[-1].state != "progress")


async def test_a_job_that_succeeds(bench: Bench) -> None:
    """Its reply, its callback with the proof, its status and its result are as the profile says."""
    assert (await bench.submit("succeeded")).kind is ReplyKind.RUNNING
    await eventually(lambda: bool(bench.verdicts()))
    assert bench.verdicts() in ([Kind.SUCCEEDED], [Kind.NOTIFICATION])
    assert bench.genuine() == [True]
    if bench.profile.callback.correlate_with == "callback_token" and bench.profile.callback.path:
        assert Callbacks(bench.profile.callback).correlation(bench.callbacks[0]) == "secret-token"
    elif bench.profile.callback.path:
        name = bench.profile.callback.correlate_with
        assert Callbacks(bench.profile.callback).correlation(bench.callbacks[0]) == bench.values[name]
    if bench.profile.status is not None and bench.can_ask("status"):
        assert Statuses(bench.profile.status).read(*await bench.ask("status")).kind is Kind.SUCCEEDED
    if bench.profile.result is not None:
        assert Results(bench.profile.result).read(*await bench.ask("result")).kind is Kind.SUCCEEDED


async def test_a_job_that_fails(bench: Bench) -> None:
    """By its callback, or by the status call that a notification triggers."""
    await bench.submit("failed")
    await done(bench)
    samples = [one.expect for one in bench.profile.sample if one.kind == "callback"]
    if "failed" in samples:
        await eventually(lambda: bench.verdicts() == [Kind.FAILED])
    if bench.profile.status is not None and bench.can_ask("status"):
        assert Statuses(bench.profile.status).read(*await bench.ask("status")).kind is Kind.FAILED


async def test_a_job_that_is_cancelled(bench: Bench) -> None:
    """It ends at once."""
    await bench.submit("never")
    if not bench.can_ask("cancel"):
        return  # this job server has no such call, or only once it has called back
    status, *_ = await bench.ask("cancel")
    assert status == 200
    assert bench.stand_in.jobs[-1].state == "failed"


async def test_what_goes_wrong_on_request(bench: Bench) -> None:
    """Busy once, refused, an error, a callback that is lost, sent twice, or forged."""
    assert (await bench.submit("busy")).kind is ReplyKind.BUSY
    assert (await bench.submit("busy")).kind is ReplyKind.RUNNING
    assert (await bench.submit("refused")).kind is ReplyKind.REFUSED
    assert (await bench.submit("error")).kind is ReplyKind.ERROR
    await done(bench)
    await eventually(lambda: len(bench.callbacks) == 1)

    await bench.submit("lost")
    await done(bench)
    await bench.submit("twice")
    await eventually(lambda: len(bench.callbacks) == 3)
    assert len(set(bench.verdicts())) == 1

    await bench.submit("forged")
    await eventually(lambda: len(bench.callbacks) == 5)
    assert bench.genuine() == [True, True, True, bench.profile.verify is None, True]


async def test_a_reply_that_is_lost_and_a_callback_that_is_early(bench: Bench) -> None:
    """The job runs in both cases."""
    assert (await bench.submit("early")).kind is ReplyKind.RUNNING
    assert len(bench.callbacks) == 1
    with pytest.raises(Exception, match=r"[Dd]isconnected|reset"):
        await bench.submit("lost-reply")
    await eventually(lambda: len(bench.callbacks) == 2)


def test_the_command_line_takes_a_profile(profile: Profile) -> None:
    """By its name or a path."""
    assert parse_arguments(["--profile", profile.name]).profile == profile.name
