"""`python run.py --check`: try everything that a start needs, and report each result on a line.

Unlike a start, it does not stop at the first problem, so that all of them can be fixed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.api.operators import certificates
from proxy.jobs.headroom import Headroom
from proxy.run import profile_report
from proxy.run.callback_probe import Leads, StandIn, where_it_leads
from proxy.run.claims import bind_all, callback_url, urls_of
from proxy.run.embedded_job_server import EmbeddedJobServer
from proxy.run.findings import Verdict
from proxy.run.job_server_probe import check_trust, is_loopback_host, path_trouble, reach
from proxy.run.job_servers import address_of, worker_config
from proxy.run.journal_check import journal_findings
from proxy.run.look_around import callback_caveats, callback_doubt
from proxy.sqs.queues import doubts, look_up
from proxy.sqs.service import connect
from proxy.workers.pool import Pool
from shared.errors import QueueError, SettingsError
from shared.job_server import loader
from shared.settings import load, misspelt
from shared.shown_urls import shown
from shared.worker_config import JobServer

if TYPE_CHECKING:
    from shared.job_server.profile import Profile
    from shared.settings import Settings

__all__ = ["Check", "descriptors_needed"]

_TIMEOUT_S: Final = 5.0
_LOOK_S: Final = 0.01
#: A job in flight: pidfd, inbox and outbox of its worker, and the client's connection. A callback brings one more.
_FDS_PER_JOB: Final = 5
_FDS_BESIDES: Final = 100


_CALLBACK_VERDICTS: Final = {
    Leads.TO_THE_ROUTE: Verdict.OK,
    Leads.TO_ANOTHER_PATH: Verdict.FAILED,
    Leads.ELSEWHERE: Verdict.WARNING,
    Leads.NOWHERE: Verdict.WARNING,
}


def descriptors_needed(settings: Settings) -> int:
    """Return how many file descriptors the front end may need at once."""
    return _FDS_PER_JOB * (settings.max_jobs + settings.worker_spares) + _FDS_BESIDES


class Check:
    """One run of all checks."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._failed = False
        #: The profiles that could be loaded.
        self._profiles: list[Profile] = []

    async def run(self) -> int:
        """Run all checks; return the exit code: 0 if the proxy can start and submit jobs, else 1."""
        writer = log.configure(self._settings.log_format, self._settings.log_level)
        try:
            await self._check_all()
        finally:
            writer.close()
        return int(self._failed)

    async def _check_all(self) -> None:
        self._settings_fit()
        names = self._settings.profile.split(",")
        self._profiles = [profile for name in names if (profile := self._profile(name.strip()))]
        servers = list(self._addressed(self._profiles))
        if servers and not self._settings.job_server_url:
            self._settings = replace(self._settings, job_server_url=servers[0].url)
        self._keys()
        await self._listen()
        await self._queue()
        for verdict, words in await journal_findings(self._settings):
            self._found(verdict, "journal", words)
        self._descriptors()
        if self._settings.job_server_url:
            await self._submit(self._settings.job_server_url, servers)
        elif servers:
            embedded = EmbeddedJobServer()
            try:
                await self._submit(embedded.url, servers)
            finally:
                await embedded.stop()

    def _addressed(self, profiles: list[Profile]) -> Iterator[JobServer]:
        """Yield the job servers that have an address, or are to be the embedded one; report the others."""
        for i, profile in enumerate(profiles):
            try:
                yield JobServer(url=address_of(profile, profiles[:i], self._settings), profile=profile)
            except SettingsError as exc:
                self._found(Verdict.FAILED, "job server", str(exc))

    async def _submit(self, url: str, servers: list[JobServer]) -> None:
        """Report what would be sent, and check the job servers that would get it; `url` is that of the embedded one."""
        try:
            if self._settings.job_server_cafile:
                check_trust(self._settings.job_server_cafile)
        except SettingsError as exc:  # then no worker would start either
            self._found(Verdict.FAILED, "job server", str(exc))
            return
        if not servers:
            await self._job_server(url, is_complete=False)
        servers = [replace(one, url=one.url or url) for one in servers]
        for server in servers:
            for line in profile_report.submissions(server.profile, server.url):
                self._found(Verdict.OK, "submission", line)
            await self._job_server(server.url, is_complete=not server.profile.submit.url)
        if servers and not any(profile_report.unfit_secrets(one.profile) for one in servers):
            await self._worker(tuple(servers))

    def _found(self, verdict: Verdict, what: str, words: str) -> None:
        self._failed = self._failed or verdict is Verdict.FAILED
        self._say(f"{verdict:<5}{what:<13}{words}")

    def _settings_fit(self) -> None:
        plain = load({})
        names = [field.name for field in fields(self._settings)]
        changed = [name.upper() for name in names if getattr(self._settings, name) != getattr(plain, name)]
        words = f"not at their defaults: {', '.join(changed)}" if changed else "all at their defaults"
        self._found(Verdict.OK, "settings", words)
        for name, meant in misspelt().items():
            self._found(Verdict.WARNING, "settings", f"{name} in the environment does nothing; did you mean {meant}?")

    def _keys(self) -> None:
        if self._settings.port is not None:
            self._client_keys()
        if self._settings.admin_port is not None:
            self._admin_keys()

    def _client_keys(self) -> None:
        settings = self._settings
        if settings.api_keys:
            self._found(Verdict.OK, "keys", f"clients must send one of {len(settings.api_keys)} keys")
        elif is_loopback_host(settings.host):
            self._found(Verdict.OK, "keys", "none needed, and only this machine can connect")
        else:
            words = "none needed: anybody who can reach HOST, PORT can run jobs; set API_KEYS"
            self._found(Verdict.WARNING, "keys", words)

    def _admin_keys(self) -> None:
        settings = self._settings
        if settings.admin_keys or settings.admin_user_header:
            known = [f"one of {len(settings.admin_keys)} keys"] if settings.admin_keys else []
            known += [f"named in {settings.admin_user_header}"] if settings.admin_user_header else []
            self._found(Verdict.OK, "admin keys", f"operators are known by {', or '.join(known)}")
        elif is_loopback_host(settings.admin_host):
            self._found(Verdict.OK, "admin keys", "none needed, and only this machine can connect")
        else:
            words = "none needed: anybody who can reach ADMIN_HOST, ADMIN_PORT can stop jobs; set ADMIN_KEYS"
            self._found(Verdict.WARNING, "admin keys", words)

    async def _listen(self) -> None:
        try:
            sockets = bind_all(self._settings)
        except SettingsError as exc:
            for line in str(exc).splitlines():
                self._found(Verdict.FAILED, "listen", line)
            if self._settings.callback_url:
                await self._callbacks(self._settings.callback_url)
            return
        certfile = self._settings.tls_certfile
        if certfile and (trouble := certificates.shown("TLS_CERTFILE", certfile)["trouble"]):
            self._found(Verdict.WARNING, "certificate", f"TLS_CERTFILE: {certfile!r}: {trouble}")
        urls = urls_of(self._settings, sockets)
        for name, url in urls.items():
            self._found(Verdict.OK, "listen", f"{url} ({name})")
        async with StandIn(sockets.pop("callback" if "callback" in sockets else "public"), self._settings):
            await self._callbacks(callback_url(self._settings, urls))
        for listener in sockets.values():
            listener.close()

    async def _callbacks(self, url: str) -> None:
        """Report where callbacks would go; whether the job server can reach that is known only once a job has run."""
        configured = [self._settings.job_server_url] if self._settings.job_server_url else []
        doubt = callback_doubt(url, configured)
        if doubt:
            self._found(Verdict.WARNING, "callbacks", f"{shown(url)} {doubt}; set CALLBACK_URL")
        else:
            leads, words = await where_it_leads(url, _TIMEOUT_S)
            said = f"{shown(url)} {words}" if words else f"{shown(url)}/<token>"
            self._found(_CALLBACK_VERDICTS[leads], "callbacks", said)
            caveats = callback_caveats(url, configured)
            if caveats:
                words = f"{shown(url)} is one that many job servers refuse to call: {caveats}"
                self._found(Verdict.WARNING, "refusals", words)
        for callback in (one.callback for one in self._profiles if one.callback.path):
            fixed = shown(url).removesuffix("/callback") + callback.path
            self._found(Verdict.OK, "fixed URL", f"the job server's configuration is to have {fixed}")

    async def _queue(self) -> None:
        """Check the queues that the settings name."""
        settings = self._settings
        if not settings.sqs_queue_url:
            return
        try:
            async with connect(settings.sqs_queue_url) as service:
                queues = await look_up(service, settings)
        except QueueError as exc:
            self._found(Verdict.FAILED, "queue", str(exc))
            return
        self._found(Verdict.OK, "queue", settings.sqs_queue_url)
        if queues.dead is not None:
            words = f"after {queues.jobs.max_receives} deliveries: {queues.dead.url}"
            self._found(Verdict.OK, "dead letters", words)
        for queue in queues.allowed.values():
            self._found(Verdict.OK, "replies", queue.url)
        for words in doubts(queues, settings):
            self._found(Verdict.WARNING, "queue", words)

    def _profile(self, name: str) -> Profile | None:
        try:
            profile = loader.load(name)
        except SettingsError as exc:
            self._found(Verdict.FAILED, "profile", str(exc))
            return None
        words = f"{profile.name}: {profile.description}; {profile_report.tried(profile)}"
        self._found(Verdict.OK, "profile", words)
        for line in profile_report.unfit_secrets(profile).splitlines():
            self._found(Verdict.FAILED, "profile", line)
        for doubt in (profile_report.doubt, profile_report.missing_name, profile_report.early_loss):
            if words := doubt(profile):
                self._found(Verdict.WARNING, "profile", words)
        read, wrong = profile_report.sample_findings(profile, "http://job-server/start")
        for line in wrong:
            self._found(Verdict.FAILED, "samples", line)
        for line in () if wrong else profile_report.unfound(profile):
            self._found(Verdict.WARNING, "samples", f"{profile.name}: {line}")
        if not profile.sample:
            words = f"{profile.name} has none, so nothing shows what is sent and how answers are read"
            self._found(Verdict.WARNING, "samples", words)
        elif read:
            self._found(Verdict.OK, "samples", f"read as expected: {read}")
        return profile

    def _descriptors(self) -> None:
        _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        settings = self._settings
        needed = descriptors_needed(settings)
        if limit != resource.RLIM_INFINITY and limit < needed:
            words = (
                f"the limit is {limit}, MAX_JOBS and WORKER_SPARES may need {needed}; some jobs will be answered 503"
            )
            self._found(Verdict.WARNING, "descriptors", words)
        else:
            self._found(Verdict.OK, "descriptors", f"the limit is {limit}, {needed} may be needed")

    async def _job_server(self, url: str, *, is_complete: bool) -> None:
        """Check that the job server can be reached, and what is at `url`, to which paths may be appended."""
        which = shown(url) if self._settings.job_server_url else f"embedded, {url}"
        cafile = self._settings.job_server_cafile
        started = time.monotonic()
        reason = await reach(url, _TIMEOUT_S, cafile)
        took_ms = _ms(started)
        doubt = "" if reason else await path_trouble(url, _TIMEOUT_S, cafile, is_complete=is_complete)
        if reason:
            self._found(Verdict.FAILED, "job server", f"{which}: {reason}")
        elif doubt:
            self._found(Verdict.WARNING, "job server", f"{which} {doubt}")
        else:
            self._found(Verdict.OK, "job server", f"{which}: connected in {took_ms} ms")

    async def _worker(self, job_servers: tuple[JobServer, ...]) -> None:
        settings = self._settings
        pool = Pool(
            config=worker_config(settings, job_servers).encode(),
            spares=1,
            max_jobs=settings.worker_max_jobs,
            max_body_bytes=settings.max_body_bytes,
        )
        started = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await pool.start()
                while not pool.status().workers and not pool.on_hold:  # noqa: ASYNC110 - polling is fine for a single check
                    await asyncio.sleep(_LOOK_S)
            reason = pool.on_hold
        except (OSError, TimeoutError) as exc:
            reason = str(exc) or f"none within {_TIMEOUT_S:g} s"
        if reason:
            self._found(Verdict.FAILED, "worker", reason)
        elif short_of := Headroom().look():
            words = f"started, but the machine is short of {short_of}: new jobs would be refused"
            self._found(Verdict.FAILED, "worker", words)
        else:
            self._found(Verdict.OK, "worker", f"started in {_ms(started)} ms")
        with contextlib.suppress(TimeoutError):
            await pool.stop()


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
