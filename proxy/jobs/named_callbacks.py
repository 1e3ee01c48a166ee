"""Callbacks at a job server's fixed URL: which job one is for, which it names itself.

Its name may be the job server's, which is known only from the reply to the submission, and the callback may come first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from proxy.jobs.job import is_id, token_hash
from proxy.store.names import Output
from shared.errors import StoreUnavailableError

if TYPE_CHECKING:
    from proxy.jobs.callback_intake import CallbackIntake
    from proxy.jobs.in_flight import InFlight
    from proxy.jobs.job import Job
    from proxy.jobs.job_server import ServedJobServer, ServedJobServers
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["NamedCallbacks"]

#: Among how many of the newest jobs one is looked for by the job server's name for it, and how long that may take,
#: together with the searches before it.
_SEARCHED: Final = 10_000
_SEARCH_S: Final = 5.0
#: How many names are remembered that no job had.
_MAX_EARLY: Final = 1_000


class NamedCallbacks:
    """Finds the jobs of callbacks by their names."""

    def __init__(
        self, callback_intake: CallbackIntake, in_flight: InFlight, store: JobStore, job_servers: ServedJobServers
    ) -> None:
        self._callback_intake = callback_intake
        self._in_flight = in_flight
        self._store = store
        self._job_servers = job_servers
        #: Names that no job of a profile had when their callbacks came; the newest last.
        self._early: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._searching = asyncio.Lock()

    async def find(self, server: ServedJobServer, name: str, *, search: bool = True) -> Job | Record | None:
        """Return the job of this job server that a callback at its fixed URL names, in flight or remembered.

        If there is none, it may become known later, unless the job server uses names of ours. Without `search`, a job
        with a name of the job server's is found only if it is in flight here.

        Raises:
            StoreUnavailableError: it cannot be determined now whether the job is remembered.
        """
        output = server.profile.callback.correlate_with
        if output == "callback_token":
            found = await self._callback_intake.find(token_hash(name))
        elif output in {"job_id", "job_uuid"}:
            found = await self._with_id(name.replace("-", "").lower())
        else:
            found = self._called_here(server, output, name)
            if found is None and search:
                found = await self._called(server, output, name)
        return found if found is not None and self._job_servers.of(found) is server else None

    async def refuse(self, server: ServedJobServer, name: str, reason: str) -> None:
        """Note that a callback was refused, which is already counted, at the job that it names.

        Anybody may have sent it: it proves nothing unless it has the token, and is worth no search.

        Raises:
            StoreUnavailableError: it cannot be determined now whether the job is remembered.
        """
        found = await self.find(server, name, search=False)
        if found is not None:
            has_token = server.profile.callback.correlate_with == "callback_token"
            await self._callback_intake.refuse(found.token_hash, reason, counted=True, proves=has_token)

    def came_early(self, profile: str, name: str) -> bool:
        """Return whether a callback with this name came before its job had the name, and forget the name."""
        return self._early.pop((profile, name), False)

    async def _with_id(self, job_id: str) -> Job | Record | None:
        if not is_id(job_id):
            return None
        with self._callback_intake.counted():
            return self._in_flight.by_id(job_id) or await self._store.by_id(job_id)

    def _called_here(self, server: ServedJobServer, output: str, name: str) -> Job | None:
        called = (job for job in self._in_flight if job.recorder.record.outputs.get(output) == name)
        return next((job for job in called if self._job_servers.of(job) is server), None)

    async def _called(self, server: ServedJobServer, output: str, name: str) -> Record | None:
        if not name.isprintable():  # not every database takes it
            return None
        self._keep(server.name, name)  # before the search, during which its job may get the name
        # Of another instance, or finished. Others may use the job server too: not for long, and one search at a time.
        with self._callback_intake.counted():
            try:
                async with asyncio.timeout(_SEARCH_S), self._searching:
                    called = Output(profile=server.name, name=output, value=name)
                    record = await self._store.by_name(called, among=_SEARCHED)
            except TimeoutError as exc:
                raise StoreUnavailableError("the search for the callback's job takes too long") from exc
        if record is not None:
            self.came_early(server.name, name)
        return record

    def _keep(self, profile: str, name: str) -> None:
        self._early[profile, name] = True
        self._early.move_to_end((profile, name))
        if len(self._early) > _MAX_EARLY:
            self._early.popitem(last=False)
