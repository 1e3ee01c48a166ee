"""The HTTP side of the stand-in: submissions, status, result and cancel calls, as the profile defines them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from jobserver.stand_in.callbacks import CallbackSender
from jobserver.stand_in.script import Script, replaced
from jobserver.stand_in.templates import json_or_none, learn, learn_from_path, lower
from jobserver.stand_in.wishes import wish_of
from shared.job_server.addresses import address
from shared.job_server.documents import document_of
from shared.job_server.placeholders import UnfilledError
from shared.job_server.profile import Profile, Sample

__all__ = ["STAND_IN", "StandIn", "StandInJob", "create_app"]

_BODY_LIMIT_BYTES: Final = 64 * 1024 * 1024
_CALLS: Final = ("cancel", "result", "status")


@dataclass(slots=True, kw_only=True)
class StandInJob:
    """An accepted job."""

    number: int
    wish: str
    #: The values of its placeholders: those of the submission, and the outputs of the reply.
    values: dict[str, str]
    #: What to replace in the samples, and by what.
    names: dict[str, str]
    #: progress, succeeded, failed.
    state: str = "progress"
    calls: Counter[str] = field(default_factory=Counter)


class StandIn:
    """One job server."""

    def __init__(self, profile: Profile, *, duration_s: float, fixed_url: str) -> None:
        self._profile = profile
        self._duration_s = duration_s
        self._fixed_url = fixed_url
        #: The path in the profile's own address, which may be in JOB_SERVER_URL as well.
        self._base_path = urlsplit(profile.server.url).path.rstrip("/")
        self.jobs: list[StandInJob] = []
        #: The body and headers of every submission, including refused ones.
        self.submissions: list[tuple[bytes, dict[str, str]]] = []
        self._targets: dict[tuple[str, str, str], list[StandInJob]] = {}
        self._told_busy: Counter[bytes] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sender: CallbackSender
        self._script: Script | None = None

    async def lifespan(self, app: web.Application) -> AsyncIterator[None]:
        """Send callbacks while the application serves; then end all jobs."""
        del app
        self.sender = CallbackSender(self._profile, self._fixed_url)
        yield
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sender.close()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve any request."""
        base_path = self._base_path if f"{request.path}/".startswith(f"{self._base_path}/") else ""
        script = self._script = self._script or Script(self._profile, f"http://{request.host}{base_path}")
        body = await request.read()
        for call in _CALLS:
            job = self._job_for(call, request, body)
            if job is not None:
                job.calls[call] += 1
                return _response(self._answer(call, job))
        values: dict[str, str] = {}
        submit = self._profile.submit
        if request.method == submit.method and self._fits(request.path.removeprefix(base_path), values):
            return await self._submit(script, request, body, values, f"{request.url.origin()}{base_path}")
        return web.json_response({"error": "the profile has no such call"}, status=404)

    def _fits(self, path: str, values: dict[str, str]) -> bool:
        url = self._profile.submit.url
        return not url or learn_from_path(url.partition("?")[0], path, values)

    async def _submit(
        self, script: Script, request: web.Request, body: bytes, values: dict[str, str], base_url: str
    ) -> web.StreamResponse:
        self.submissions.append((body, lower(request.headers)))
        self._learn(request, body, values)
        wish, names = wish_of(body), script.names_for(values)
        if wish == "busy" and not self._told_busy[body]:
            self._told_busy[body] += 1
            return _response(script.reply("busy", names))
        if wish in {"refused", "error"}:
            return _response(script.reply(wish, names))
        job = StandInJob(number=len(self.jobs), wish=wish, values=values, names=names)
        self.jobs.append(job)
        outputs = {name: replaced(text, names) for name, text in script.outputs.items()}
        job.values |= outputs
        self._expect_calls(job, base_url)
        final = script.message("reply", ["succeeded"], names) if wish == "final" else None
        if final is not None:
            job.state = "succeeded"
            return _response(final)
        run = asyncio.create_task(self._run(script, job))
        self._tasks.add(run)
        run.add_done_callback(self._tasks.discard)
        if wish == "early":
            await asyncio.shield(run)
        if wish == "lost-reply" and request.transport is not None:
            request.transport.abort()
        return _response(script.reply("running", names))

    def _learn(self, request: web.Request, body: bytes, values: dict[str, str]) -> None:
        submit = self._profile.submit
        learn(lower(self._profile.server.headers | submit.headers), lower(request.headers), values)
        learn(submit.query, dict(request.query), values)
        document = document_of(body, request.headers.get("Content-Type", "")).value
        learn(submit.body, document, values)
        learn(submit.form, document, values)
        if "callback_url" in values:
            values.setdefault("callback_token", values["callback_url"].rpartition("/")[2])

    def _expect_calls(self, job: StandInJob, base_url: str) -> None:
        for call in _CALLS:
            section = getattr(self._profile, call)
            if section is None:
                continue
            try:
                url = urlsplit(address(base_url, section.url, job.values))
            except UnfilledError:
                continue
            target = (section.method, f"{url.path}?{url.query}" if url.query else url.path, call)
            self._targets.setdefault(target, []).append(job)

    def _job_for(self, call: str, request: web.Request, body: bytes) -> StandInJob | None:
        jobs = self._targets.get((request.method, request.raw_path, call), [])
        section: Any = getattr(self._profile, call)
        template = getattr(section, "body", None)
        if template:
            values: dict[str, str] = {}
            learn(template, json_or_none(body), values)
            jobs = [job for job in jobs if _agrees(job.values, values)]
        return jobs[-1] if jobs else None

    def _answer(self, call: str, job: StandInJob) -> Sample:
        assert self._script is not None  # noqa: S101 - there is a job
        if call == "cancel":
            if job.state == "progress":
                job.state = "failed"
            return Sample(kind="reply", body="{}")
        if call == "status":
            expects = [job.state, "notification"] if job.state != "progress" else ["progress"]
        else:
            expects = ["ready"] if job.state == "succeeded" else ["not-yet"]
        return self._script.message(call, expects, job.names) or Sample(kind="status", status=404, body="{}")

    async def _run(self, script: Script, job: StandInJob) -> None:
        await asyncio.sleep(self._duration_s)
        if job.wish == "progress":
            for sample in script.messages("callback", "progress", job.names):
                await self.sender.send(job.number, sample, job.values)
        while job.wish == "never" and job.state == "progress":  # noqa: ASYNC110 - cancelled by a call
            await asyncio.sleep(0.01)
        if job.state == "progress":
            job.state = "failed" if job.wish in {"failed", "lost-failed"} else "succeeded"
        expects = [job.state, "notification"]
        callback = script.message("callback", expects, job.names)
        if callback is None or job.wish in {"lost", "lost-failed"}:
            return
        if job.wish == "forged":
            await self.sender.send(job.number, callback, job.values, forged=True)
        for _ in range(2 if job.wish == "twice" else 1):
            await self.sender.send(job.number, callback, job.values)


def _agrees(known: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    """Return whether a call may be about a job: what the stand-in does not know, such as a secret, is no matter."""
    return all(known.get(name, value) == value for name, value in asked.items())


def _response(sample: Sample) -> web.Response:
    headers = {"Content-Type": "application/json"} | {name.title(): text for name, text in sample.headers.items()}
    return web.Response(status=sample.status, body=sample.body.encode(), headers=headers)


STAND_IN: Final = web.AppKey("stand_in", StandIn)


def create_app(profile: Profile, *, duration_s: float = 0.5, fixed_url: str = "") -> web.Application:
    """Return a stand-in for the job server of `profile`, itself under `STAND_IN`.

    A job takes `duration_s` seconds. `fixed_url` is the callback URL of a job server whose submissions have none.
    """
    app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
    stand_in = app[STAND_IN] = StandIn(profile, duration_s=duration_s, fixed_url=fixed_url)
    app.cleanup_ctx.append(stand_in.lifespan)
    app.router.add_route("*", "/{path:.*}", stand_in.serve)
    return app
