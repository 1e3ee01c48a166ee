"""For no shipped profile, `submitted: no` is said of a job that its job server calls back about.

Job servers differ in how they refuse a job, say that they are busy, and call back: with a thin notification, at one URL
for all jobs, with a proof. In any case, a callback for a job that seemed not to be submitted proves that it was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest

from jobserver.stand_in.callbacks import proof
from proxy.jobs.job import Job, new_id
from shared.errors import Code
from shared.job_server import loader
from shared.job_server.profile import Profile, Sample
from shared.lifecycle import Submitted
from shared.outcome import Failed
from shared.worker_config import JobServer
from tests.support.http import Answer
from tests.support.jumping_loop import nothing_moves
from tests.support.profiles import shipped_profiles
from tests.support.runners import SUBMIT, Step
from tests.support.whole_app import WholeApp

SECRET: Final = "whsec_c2VjcmV0"
#: A callback that no job server sends.
BROKEN: Final = Sample(kind="callback", body="{", expect="refused")


class App(WholeApp):
    """A front end with one job server."""

    def __init__(self, patch: pytest.MonkeyPatch, profile: Profile) -> None:
        self.profile = profile
        self.secrets = dict.fromkeys(loader.secret_names(profile), SECRET)
        server = JobServer(url="http://job-server", profile=profile, secrets=self.secrets)
        super().__init__(patch, job_server=server)
        #: The idempotency key of the newest job.
        self.key = ""

    async def posted(self, **headers: str) -> Answer:
        """Post the job of the profile's sample."""
        sample = next(one for one in self.profile.sample if one.kind == "job")
        path = f"/queueJob/{self.profile.name}" + (f"/{sample.path}" if sample.path else "")
        content_type = sample.headers.get("content-type", "application/json")
        return await self.post(
            sample.body.encode(), {"Content-Type": content_type, **headers, "Idempotency-Key": self.key}, path
        )

    async def begin(self, *steps: Step) -> Job:
        """Begin a job and let it run these steps."""
        self.key = new_id()
        posting = asyncio.create_task(self.posted(Prefer="respond-async"))
        await nothing_moves()
        job = self.job
        self.stepped.tell(job, *steps)
        assert (await posting).status == 202
        await nothing_moves()
        return job

    async def called_back(self, job: Job, sample: Sample, *, forged: bool = False) -> Answer:
        """Send the job server's callback: a sample."""
        values = {"callback_token": job.token, "job_id": job.id, **self.secrets}
        body = sample.body.replace("TOKEN", job.token).encode()
        headers = {"Content-Type": "application/json"} | {
            name.title(): text.replace("TOKEN", job.token) for name, text in sample.headers.items()
        }
        path = self.profile.callback.path or f"/callback/{job.token}" + (f"/{sample.route}" if sample.route else "")
        path += f"?{sample.query}" if sample.query else ""
        headers |= {} if forged else proof(self.profile, body, values)
        return await self.ask(sample.method, path, body=body, headers=headers)

    async def said(self, job: Job) -> list[dict[str, Any]]:
        """Return all documents that clients get about the job, and would get with its key."""
        answers = [await self.ask("GET", f"/jobs/{job.id}"), await self.ask("GET", f"/jobs/{job.id}/result")]
        answers.append(await self.posted(Prefer="wait=0"))
        answers.append(await self.ask("DELETE", f"/jobs/{job.id}"))
        answers.append(await self.ask("GET", f"/jobs/{job.id}/result"))
        return [json.loads(answer.body) for answer in answers if answer.status != 200 or b'"submitted"' in answer.body]


@pytest.fixture(params=shipped_profiles(), ids=lambda profile: profile.name)
async def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """A front end for each profile."""
    app = App(monkeypatch, request.param)
    yield app
    await app.close()


def callbacks(profile: Profile) -> list[Sample]:
    """Return the callbacks of a profile's job server, and an invalid one."""
    return [*(sample for sample in profile.sample if sample.kind == "callback"), BROKEN]


def names_its_job(profile: Profile, sample: Sample) -> bool:
    """Return whether a callback identifies its job even if the job server seems to have refused the job.

    At one URL for all jobs, callbacks name the job by something that only an accepting reply could have said.
    """
    if not profile.callback.path:
        return True
    return sample is not BROKEN and profile.callback.correlate_with == "callback_token"


async def refused(app: App) -> Job:
    """The job server has refused it, or was busy until the deadline."""
    job = await app.begin(*SUBMIT[:3], Step.REFUSE)
    app.stepped.tell(job, Failed(code=Code.JOB_REJECTED, detail="because", submitted=Submitted.NO))
    await job.outcome
    return job


async def busy(app: App) -> Job:
    """The job server was busy, and the submission will be retried."""
    return await app.begin(*SUBMIT[:3], Step.REFUSE)


@pytest.mark.parametrize("moment", [refused, busy], ids=lambda function: function.__name__)
async def test_a_callback_proves_that_the_job_server_has_the_job(
    app: App, moment: Callable[[App], Awaitable[Job]]
) -> None:
    """Of any kind, with or without a result, even one that cannot be read."""
    for number, sample in enumerate(callbacks(app.profile)):
        job = await moment(app)
        assert job.submitted is Submitted.NO
        answer = await app.called_back(job, sample)
        if not names_its_job(app.profile, sample):
            assert answer.document.get("status", "") != "accepted"
            app.parts.core.dispatcher.cancel(job.id)
            await job.outcome
            continue
        assert answer.status in {200, 400}, (sample, answer)
        documents = await app.said(job)
        assert documents, sample
        assert not [one for one in documents if one.get("submitted") == "no" or one.get("retry_safe")], sample
        assert app.stepped.ran.count(job.id) == 1
        assert len(app.stepped.ran) == number + 1, "and it is not run again under its key"
        await job.outcome


async def test_a_callback_without_its_proof_never_makes_it_less(app: App) -> None:
    """The sender knows the token, which only a submission could have told it."""
    for sample in callbacks(app.profile):
        job = await app.begin(*SUBMIT)
        if app.profile.verify is not None:
            assert (await app.called_back(job, sample, forged=True)).status == 401
        assert job.submitted is Submitted.YES
        app.parts.core.dispatcher.cancel(job.id)
        await job.outcome


async def test_a_callback_shows_no_secret_of_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers quote the key that they do not accept; a result is the job's own."""
    app = App(monkeypatch, loader.load("luma"))
    for state, shown in (("dreaming", "***"), ("failed", "***"), ("completed", SECRET)):
        job = await app.begin(*SUBMIT)
        body = json.dumps({"state": state, "failure_reason": f"bad key {SECRET}"})
        sample = Sample(kind="callback", body=body)
        assert (await app.called_back(job, sample)).status == 200
        answer = await app.ask("GET", f"/jobs/{job.id}" + ("" if state == "dreaming" else "/result"))
        assert f"bad key {shown}".encode() in answer.body
        app.parts.core.dispatcher.cancel(job.id)
        await job.outcome
    await app.close()
