"""The front end process from start to end: order of the start, signals, draining.

Sockets and processes exist already (proxy/run/groundwork.py); this file's imports load while those processes load.

Shutdown, on the first SIGTERM or SIGINT: for DRAIN_DELAY, the proxy is not ready but still accepts jobs; then new jobs
are refused. Jobs in flight continue, and so does the listener that their callbacks need. When the last one has its
outcome, the listeners close, and the workers and the fork server exit. A second signal ends everything at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from proxy import log
from proxy.run.banner import banner
from proxy.run.claims import callback_url, speaks_tls, urls_of
from proxy.run.preflight import no_traceback
from proxy.run.reload import Reload
from proxy.run.service_manager import ServiceManager
from proxy.run.signals import Signals
from proxy.run.stall_watch import StallWatch
from proxy.store.memory import MemoryStore
from proxy.store.protocol import JobStore, Peers
from proxy.workers.orphans import become_subreaper, reap_orphans
from proxy.workers.pool import Pool
from shared.database_url import is_database
from shared.settings import load, misspelt
from shared.shown_urls import shown
from shared.version import VERSION, commit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.http.server import Listener
    from proxy.run.groundwork import Groundwork
    from proxy.run.queue_entrance import QueueEntrance
    from proxy.run.wiring import App
    from proxy.sqs.service import QueueService
    from proxy.store.journal.file import JournalFile
    from shared.settings import Given, Settings

__all__ = ["HARD_STOP_S", "FrontEnd"]

#: How long after the job timeout the process aborts the remaining work.
HARD_STOP_S: Final = 4.0
#: How long the other processes may take to exit after that; some seconds more than they need.
_LEAVE_S: Final = 10.0
#: The exit code after a failure; 2 would be a start that is impossible.
_FAILED: Final = 1
#: New container objects until a collection of the youngest generation; CPython's default is 700. Few enough that the
#: event loop is not blocked for long even if all of them are garbage: 20,000 took up to 94 ms.
_GC_THRESHOLD: Final = 5_000


class FrontEnd:
    """One run of the proxy."""

    def __init__(
        self, groundwork: Groundwork, read: Callable[[], Settings] = load, given: Sequence[Given] = ()
    ) -> None:
        """`read` returns the current settings on SIGHUP; `given`: the settings as given, to be shown to people."""
        self._given = given
        self._groundwork = groundwork
        self._read = read
        self._settings = groundwork.settings
        self._embedded = groundwork.embedded
        self._queue = _queue_entrance(self._settings) if self._settings.sqs_queue_url else None
        self._pool: Pool | None = None
        self._log: log.LineWriter | None = None
        self._urls = urls_of(self._settings, groundwork.sockets)
        self._callback_url = callback_url(self._settings, self._urls)
        self._stopping = asyncio.Event()
        self._stopped_by = signal.SIGTERM
        self._exit_code = 0
        self._stall_watch = StallWatch()
        self._service_manager = ServiceManager()
        self._reload: Reload | None = None

    async def run(self) -> None:
        """Serve until a signal comes, then end the process.

        Raises:
            SettingsError: the start is impossible.
        """
        with no_traceback():
            app, listeners = await self._start()
        looking = asyncio.create_task(self._look_around())
        await self._stopping.wait()
        self._service_manager.stopping(self._end_s())
        looking.cancel()
        await self._let_balancers_notice(app)
        await self._drain(app, listeners)
        await self._leave(self._exit_code)

    def abandon(self) -> None:
        """Write and close the files after a start that is impossible; the other processes end with this one."""
        if self._log is not None:
            self._log.close(0.2)
        if self._groundwork.journal is not None:
            self._groundwork.journal.close()

    async def _look_around(self) -> None:
        from proxy.run.look_around import look_around  # noqa: PLC0415 - not needed before everything serves

        embedded = self._embedded.url if self._embedded else ""
        configured = [one.url for one in self._groundwork.job_servers if one.url != embedded]
        if configured or self._settings.callback_url:
            await look_around(self._callback_url, configured, self._settings.job_server_cafile)

    async def _start(self) -> tuple[App, dict[str, Listener]]:
        settings = self._settings
        self._log = log.configure(settings.log_format, settings.log_level)
        threading.excepthook = log.on_thread_error
        become_subreaper()
        Signals(self._on_stop, self._on_reload, self._exit).watch()
        reap_orphans(asyncio.get_running_loop(), self._children)
        queue_service = await self._queue.open() if self._queue else None
        store, peers = await _open_store(settings, self._groundwork.journal)
        pool = await self._start_workers()
        app = await self._create_app(pool, store, peers, queue_service)
        listeners = _listen(settings, self._groundwork.sockets, app, self._on_listener_failed)
        app.operators.drain.begin = lambda: self._on_drain(app)
        app.operators.house.given = self._given
        self._reload = Reload(
            self._settings,
            self._read,
            app.core.authorization,
            app.operators.gate,
            listeners.values(),
            self._service_manager,
            lambda fresh: app.operators.house.reloaded(fresh.tls_certfile),
            app.core.served,
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # blocked since groundwork.py
        _tune_garbage_collection()
        self._stall_watch.start()
        _warn_of_misspelt()
        self._service_manager.inform(lambda: pool.has_begun, lambda: _status(app))
        self._announce()
        if self._queue is not None:
            self._queue.start(app.consumer)
        return app, listeners

    async def _start_workers(self) -> Pool:
        settings = self._settings
        self._pool = Pool(
            config=self._groundwork.config,
            spares=settings.worker_spares,
            max_jobs=settings.worker_max_jobs,
            max_body_bytes=settings.max_body_bytes,
        )
        await self._pool.start(self._groundwork.fork_server)
        return self._pool

    async def _create_app(
        self, pool: Pool, store: JobStore, peers: Peers | None, queue_service: QueueService | None
    ) -> App:
        from proxy.run.wiring import create_app  # noqa: PLC0415 - heavy: loaded while the other processes load

        app = create_app(
            self._settings,
            self._groundwork.job_servers,
            pool=pool,
            store=store,
            callback_url=self._callback_url,
            peers=peers,
            queue_service=queue_service,
        )
        await app.core.dispatcher.restore()  # before anything is accepted: a callback has to find its job
        await app.core.observers.history.restore(store)
        return app

    def _announce(self) -> None:
        """Print and log that the proxy serves."""
        settings, first = self._settings, self._groundwork.job_servers[0].url
        others = {one.profile.name: shown(one.url) for one in self._groundwork.job_servers[1:]}
        called = replace(settings, job_server_url=first)
        _say(banner(called, self._urls, self._embedded.url if self._embedded else "", others))
        log.event(
            "info",
            "listening",
            **self._urls,
            job_server="embedded" if self._embedded else shown(first),
            **({"other_job_servers": others} if others else {}),
            api_keys=len(settings.api_keys),
            admin_keys=len(settings.admin_keys),
            version=VERSION,
            commit=commit(),
            pid=os.getpid(),
        )

    # --- shutdown ----------------------------------------------------------------------------------------------------

    def _children(self) -> set[int]:
        """Return the processes whose exits the pool handles."""
        return self._pool.pids if self._pool else {self._groundwork.fork_server.process.pid}

    def _on_stop(self, number: signal.Signals) -> None:
        self._stopped_by = number
        self._stopping.set()

    def _on_listener_failed(self) -> None:
        """End, because nothing arrives any more; a service manager starts the proxy again."""
        self._exit_code = _FAILED
        self._on_stop(signal.SIGTERM)

    def _on_drain(self, app: App) -> None:
        app.core.ready.leaving = True  # now, so that the answer to the drain request shows it
        self._on_stop(signal.SIGTERM)

    def _on_reload(self) -> None:
        if self._reload is not None:  # always so: until then, the signal is blocked
            self._reload()

    async def _let_balancers_notice(self, app: App) -> None:
        """Report not ready for a while, but still accept jobs. Skipped on SIGINT: a person at a terminal waits."""
        if app.consumer is not None:
            app.consumer.stop()  # its messages do not come through a load balancer
        delay_s = self._settings.drain_delay
        if delay_s and self._stopped_by is not signal.SIGINT:
            app.core.ready.leaving = True
            log.event("info", "shutting down soon: not ready, still accepting jobs", delay_s=delay_s)
            await asyncio.sleep(delay_s)
        log.event("info", "shutting down: draining jobs in flight", signal=self._stopped_by.name)

    def _end_s(self) -> float:
        """Return how long the shutdown may take, from the first signal on."""
        return self._settings.drain_delay + self._settings.job_timeout + HARD_STOP_S + self._poll_s + _LEAVE_S

    @property
    def _poll_s(self) -> float:
        """How long a poll of the queue that began before the shutdown may still take."""
        return self._queue.poll_s if self._queue is not None else 0

    async def _drain(self, app: App, listeners: dict[str, Listener]) -> None:
        """Finish the jobs in flight, then close; the public listener closes first if callbacks do not need it."""
        app.core.dispatcher.draining = True
        if "callback" in listeners and "public" in listeners:
            listeners["public"].stop()
        try:
            async with asyncio.timeout(self._settings.job_timeout + HARD_STOP_S + self._poll_s):
                await app.core.dispatcher.drain()
                if app.consumer is not None:
                    await app.consumer.ended()
                app.operators.snapshots.closed.set()
                for listener in listeners.values():
                    listener.stop()
                await asyncio.gather(*(listener.stopped() for listener in listeners.values()))
        except TimeoutError:
            if jobs := len(app.core.in_flight):
                log.event("error", "the drain took too long, and the remaining work was aborted", jobs=jobs)
            else:  # a call to cancel a job that has ended, or the answer to a client that reads slowly
                log.event("warning", "the drain took too long, and calls or connections were cut off")
        await app.core.store.close()
        await app.core.observers.close()

    async def _leave(self, code: int) -> None:
        if self._queue is not None:
            await self._queue.close()
        if self._pool is not None:
            with contextlib.suppress(TimeoutError):
                await self._pool.stop()
        if self._embedded is not None:
            await self._embedded.stop()
        log.event("info", "stopped")
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """End the process; the fork server kills every worker when it notices that this process is gone."""
        self._stall_watch.stop()
        self._service_manager.close()
        if self._log is not None:
            self._log.close(0.2)
        os._exit(code)


def _queue_entrance(settings: Settings) -> QueueEntrance:
    from proxy.run.queue_entrance import QueueEntrance  # noqa: PLC0415 - only if it is used

    return QueueEntrance(settings)


async def _open_store(settings: Settings, journal: JournalFile | None) -> tuple[JobStore, Peers | None]:
    """Return the store, and the same as `Peers` if several instances may share it.

    Raises:
        SettingsError: the database cannot be used.
    """
    if is_database(settings.journal):
        from proxy.store.postgresql.opening import open_store  # noqa: PLC0415 - loads the driver; only if it is used

        shared = await open_store(
            settings.journal,
            ttl_s=settings.result_ttl,
            name=settings.instance_name or socket.gethostname(),
            warn=lambda doubt: log.event("warning", "the database may lose jobs", reason=doubt),
        )
        return shared, shared
    if journal is None:
        return MemoryStore(settings.result_ttl, lost_before=time.time()), None
    from proxy.store.journal.journal import Journal  # noqa: PLC0415 - loads SQLite; only if it is used

    return Journal(journal, ttl_s=settings.result_ttl, max_bytes=settings.journal_max_bytes), None


def _listen(
    settings: Settings, sockets: dict[str, socket.socket], app: App, on_failed: Callable[[], None]
) -> dict[str, Listener]:
    from proxy.http.connections import Room  # noqa: PLC0415 - heavy: loaded while the other processes load
    from proxy.http.server import Listener  # noqa: PLC0415
    from proxy.http.time_limits import Limits  # noqa: PLC0415

    apps = {"public": app.public, "callback": app.callbacks, "admin": app.operators.app}
    limits, room = Limits(keep_alive_s=settings.keep_alive_timeout), Room()
    listeners = {}
    for name, sock in sockets.items():
        tls = speaks_tls(settings, name)
        listeners[name] = Listener(
            sock,
            apps[name],
            limits=limits,
            room=room,
            on_refused=app.refused,
            fast=settings.fast_http,
            certfile=settings.tls_certfile if tls else "",
            keyfile=settings.tls_keyfile if tls else "",
        )
        listeners[name].start(on_failed)
    return listeners


def _status(app: App) -> str:
    """Return the proxy's state in one line, for the service manager's status."""
    refusal = app.core.ready.refusal()
    if refusal is None:
        return "accepting jobs"
    code, detail = refusal
    return f"{code}: {detail}; {len(app.core.in_flight)} jobs in flight"


def _warn_of_misspelt() -> None:
    """Warn of variables whose names are nearly a setting's. No error: other programs may use them."""
    for name, meant in misspelt().items():
        log.event("warning", "a variable of the environment looks like a misspelt setting", variable=name, meant=meant)


def _say(text: str) -> None:
    """Print `text`, which is only information, unless nobody reads: writing to a full pipe would block forever."""
    with contextlib.suppress(OSError):
        if select.select((), (sys.stdout.fileno(),), (), 0)[1]:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


def _tune_garbage_collection() -> None:
    """Begin to collect: nothing of what is loaded so far, and less often than usual, as jobs leave no cycles."""
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    gc.enable()
