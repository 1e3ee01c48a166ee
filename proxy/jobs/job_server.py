"""A job server as the front end knows it: its profile's compiled rules, by the profile's name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from shared.job_server.callbacks import Callbacks
from shared.job_server.calls import Call
from shared.job_server.client_jobs import ClientJobs
from shared.job_server.documents import document_of
from shared.job_server.placeholders import UnfilledError, fill_quoted, names_in
from shared.job_server.verification import Verifier

if TYPE_CHECKING:
    from proxy.jobs.job import Job
    from proxy.store.record import Record
    from shared.worker_config import JobServer

__all__ = ["ServedJobServer", "ServedJobServers"]


class ServedJobServer:
    """One job server."""

    def __init__(self, job_server: JobServer, labels: Sequence[str] = ()) -> None:
        """`labels`: the members by which people recognise a job."""
        profile = job_server.profile
        self.name = profile.name
        self.profile = profile
        #: Replaced at a reload if some are from files.
        self.secrets = job_server.secrets
        self.has_secret_files = bool(job_server.secret_files)
        self.client_jobs = ClientJobs(profile.submit, labels)
        self.callbacks = Callbacks(profile.callback)
        #: What callbacks are answered instead of a word of ours, and its media type; None: nothing else.
        self.answer = _answer(profile.callback.answer) if profile.callback.answer else None
        self.verifier = None if profile.verify is None else Verifier(profile.verify)
        #: What may follow the token in a callback URL: the names of `{callback_url/NAME}`, or nothing.
        self.routes = {"", *(name.partition("/")[2] for name in names_in(asdict(profile.submit)))}
        sections = {"status": profile.status, "result": profile.result, "cancel": profile.cancel}
        #: Whether a job's calls need a path after the route.
        parts = [part for part in (profile.server, profile.submit, *sections.values()) if part is not None]
        self.needs_path = any("path" in names_in(asdict(part)) for part in parts)
        #: Whether it is put into a header or a form's field, which a line break could end.
        self.path_in_field = any("path" in names_in((part.headers, getattr(part, "form", {}))) for part in parts)
        #: The names that each call needs and only the job server provides.
        self._needs = {
            call: Call(job_server.url, profile.server, section).needs
            for call, section in sections.items()
            if section is not None
        }
        if profile.result is not None and profile.status is not None:
            self._needs["result"] -= profile.status.outputs.keys()

    @property
    def can_be_asked(self) -> bool:
        """Whether there is a call for the outcome of a job."""
        return "status" in self._needs or "result" in self._needs

    def page_of(self, record: Record) -> str:
        """Return the URL of a job's page at the job server; empty: there is none, or none yet."""
        with contextlib.suppress(UnfilledError):
            return fill_quoted(self.profile.server.page, {"job_id": record.id, **record.outputs})
        return ""

    def can_ask(self, record: Record) -> bool:
        """Return whether the outcome of this job can be asked for now."""
        calls = [call for call in ("status", "result") if call in self._needs]
        return bool(calls) and all(self._needs[call] <= record.outputs.keys() for call in calls)

    @property
    def has_cancel(self) -> bool:
        """Whether there is a call that cancels a job."""
        return "cancel" in self._needs

    def can_cancel(self, outputs: Mapping[str, str]) -> bool:
        """Return whether a job with these outputs can be cancelled at the job server."""
        needs = self._needs.get("cancel")
        return needs is not None and needs <= outputs.keys()


def _answer(text: str) -> tuple[bytes, bytes]:
    is_json = document_of(text.encode()).is_json
    return text.encode(), b"application/json" if is_json else b"text/plain; charset=utf-8"


class ServedJobServers:
    """All served job servers, at least one; the first is used for requests that name none."""

    def __init__(self, job_servers: Sequence[JobServer], labels: Sequence[str] = ()) -> None:
        """`labels`: the members by which people recognise a job."""
        self._all = [ServedJobServer(one, labels) for one in job_servers]
        self._by_name = {one.name: one for one in self._all}
        self.first = self._all[0]

    def __iter__(self) -> Iterator[ServedJobServer]:
        return iter(self._all)

    def by_name(self, name: str) -> ServedJobServer | None:
        """Return the job server of the profile with this name."""
        return self._by_name.get(name)

    def of(self, found: Job | Record) -> ServedJobServer | None:
        """Return the job server of a job; None: it is no longer served, and no other one knows the job.

        A job without a profile is from before there were profiles.
        """
        return self._by_name.get(found.profile) if found.profile else self.first
