"""SIGHUP: reloads certificates, keys and secrets in files, without an interruption. All else needs a restart.

If something cannot be read or is invalid, nothing changes and an error is logged: a reload must never stop a proxy that
serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from proxy import log
from proxy.http.listening import check_certificate
from shared.errors import SettingsError
from shared.job_server import loader

if TYPE_CHECKING:
    from proxy.api.clients.request_headers import Authorization
    from proxy.api.operators.access.gate import Gate
    from proxy.http.server import Listener
    from proxy.jobs.job_server import ServedJobServer
    from proxy.run.service_manager import ServiceManager
    from shared.settings import Settings

__all__ = ["Reload"]

_RELOADED: Final = frozenset(
    {"admin_keys", "admin_keys_file", "api_keys", "api_keys_file", "tls_certfile", "tls_keyfile"}
)


class Reload:
    """Reads the settings again and applies those that can be applied."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        authorization: Authorization,
        gate: Gate,
        listeners: Collection[Listener],
        service_manager: ServiceManager,
        on_reloaded: Callable[[Settings], None] = lambda _: None,
        job_servers: Iterable[ServedJobServer] = (),
    ) -> None:
        """`settings` are those in effect; `read` returns the current ones, or raises SettingsError.

        `on_reloaded` gets them once they are applied. The secrets of `job_servers` are reloaded if they are in files.
        """
        self._with_files = [one for one in job_servers if one.has_secret_files]
        self._on_reloaded = on_reloaded
        self._settings = settings
        self._read = read
        self._authorization = authorization
        self._gate = gate
        self._listeners = listeners
        self._service_manager = service_manager
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        """Start a reload; if one is in progress, start another one after it, since it may have read old values."""
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._is_wanted:
            self._is_wanted = False
            self._service_manager.reloading()
            try:
                await self._reload()
            finally:
                self._service_manager.reloaded()

    async def _reload(self) -> None:
        try:
            fresh, secrets = await asyncio.to_thread(self._look)
            for listener in self._listeners:
                listener.reload_certificate(fresh.tls_certfile, fresh.tls_keyfile)
        # OSError: a file was replaced between the check and its use. RuntimeError: no thread can be started.
        except (SettingsError, OSError, RuntimeError) as exc:
            log.event("error", "the reload failed, and nothing was changed", reason="; ".join(str(exc).splitlines()))
            return
        self._authorization.replace(fresh.api_keys)
        self._gate.replace(fresh.admin_keys)
        for server, values in zip(self._with_files, secrets, strict=True):
            server.secrets = values
        self._on_reloaded(fresh)
        changed = [f.name for f in fields(fresh) if getattr(fresh, f.name) != getattr(self._settings, f.name)]
        log.event(
            "info",
            "reloaded certificate and keys",
            api_keys=len(fresh.api_keys),
            admin_keys=len(fresh.admin_keys),
            tls=bool(fresh.tls_certfile),
            needs_restart=[name.upper() for name in changed if name not in _RELOADED],
        )

    def _look(self) -> tuple[Settings, list[dict[str, str]]]:
        """Return the current settings and secrets. Raises SettingsError if a running proxy cannot apply them."""
        fresh = self._read()
        check_certificate(fresh)
        if bool(fresh.tls_certfile) is not bool(self._settings.tls_certfile):
            raise SettingsError("TLS_CERTFILE, TLS_KEYFILE: TLS cannot be switched on or off without a restart")
        if self._authorization.keys and not fresh.api_keys:
            raise SettingsError("API_KEYS: the proxy cannot be opened to everybody without a restart")
        if self._gate.is_guarded and not fresh.admin_keys and not self._settings.admin_user_header:
            raise SettingsError("ADMIN_KEYS: the admin address cannot be opened to everybody without a restart")
        return fresh, [loader.secrets_of(one.profile) for one in self._with_files]
