"""`GET /house`: the version, the settings, and the state of what the proxy depends on."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from proxy import log
from proxy.api.operators import certificates
from proxy.api.threads import in_thread
from proxy.http.asgi import send_json
from proxy.log_counts import SECONDS
from shared.errors import StoreUnavailableError
from shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from proxy.api.operators.intake import IntakeView
    from proxy.jobs.in_flight import InFlight
    from proxy.observe.observers import Observers
    from proxy.store.protocol import JobStore
    from shared.settings import Given

__all__ = ["House"]

_LINES: Final = 30
#: The setting whose file is used as it was at the last reload; others are read when they are needed.
_RELOADED: Final = "TLS_CERTFILE"


class House:
    """`GET /house`: version, settings in force, job servers, journal, instances, certificates, and the log's lines."""

    def __init__(
        self,
        *,
        store: JobStore,
        job_servers: Mapping[str, str],
        observers: Observers,
        in_flight: InFlight,
        intake: IntakeView,
        files: Mapping[str, str],
        keys: Callable[[], Mapping[str, int]],
        instance: str = "",
    ) -> None:
        """`job_servers`: their addresses by profile, without secrets; `files`: those of certificates by setting.

        `keys` returns the current number of keys, by setting. `instance`: this instance's name, if there may be others.
        """
        self._store = store
        self._job_servers = job_servers
        self._health = observers.job_servers
        self._in_flight = in_flight
        self._intake = intake
        self._files = {setting: path for setting, path in files.items() if path}
        self._used = ""
        self._metrics = observers.metrics
        self.reloaded(files[_RELOADED])
        self._keys = keys
        self._instance = instance
        self._started_at = round(time.time(), 3)
        #: The settings as given at the start; set by the front end.
        self.given: Sequence[Given] = ()

    def reloaded(self, certfile: str) -> None:
        """Note that this certificate is used from now on."""
        if certfile:
            self._files[_RELOADED], self._used = certfile, certificates.digest(certfile)
            ends_at = certificates.shown(_RELOADED, certfile)["ends_at"]
            self._metrics.certificate_is_used(math.nan if ends_at is None else ends_at)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer with the description."""
        await send_json(scope, send, await self._shown())

    async def _shown(self) -> dict[str, Any]:
        journal, instances = await self._of_store()
        return {
            "version": VERSION,
            "python": platform.python_version(),
            "pid": os.getpid(),
            "instance": self._instance,
            "started_at": self._started_at,
            "now": round(time.time(), 3),
            "settings": self._settings(),
            "job_servers": self._of_job_servers(),
            "journal": journal,
            "instances": instances,
            "certificates": await in_thread(self._certificates),
            "intake": self._intake.shown(),
            "log": _of_log(),
        }

    def _settings(self) -> list[dict[str, Any]]:
        counts = {name: f"({count} key{'s' * (count > 1)})" if count else "" for name, count in self._keys().items()}
        return [
            {"name": it.name, "value": counts.get(it.name, it.value), "source": it.source, "secret": it.secret}
            for it in self.given
        ]

    def _of_job_servers(self) -> list[dict[str, Any]]:
        health = self._health.shown(self._in_flight)
        return [{"profile": name, "url": url, **asdict(health[name])} for name, url in self._job_servers.items()]

    async def _of_store(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        trouble = self._store.trouble
        try:
            about = await self._store.about()
        except StoreUnavailableError as exc:
            unknown = {"kind": self._store.kind, "place": "", "size_bytes": None, "oldest_at": None}
            return unknown | {"trouble": trouble or str(exc)}, []
        journal = {
            "kind": self._store.kind,
            "place": about.place,
            "size_bytes": about.size_bytes,
            "oldest_at": about.oldest_at,
            "trouble": trouble,
        }
        return journal, [asdict(instance) for instance in about.instances]

    def _certificates(self) -> list[dict[str, Any]]:
        return [
            certificates.shown(setting, path, used=self._used)
            if setting == _RELOADED
            else certificates.shown(setting, path, each_alone=True)
            for setting, path in self._files.items()
        ]


def _of_log() -> dict[str, Any]:
    lines, unlisted = log.counts.most(_LINES)
    return {
        "seconds": SECONDS,
        "events": [{"level": level, "event": what, "count": count} for level, what, count in lines],
        "unlisted": unlisted,
        "dropped": log.dropped_lines(),
    }
