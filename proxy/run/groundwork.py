"""First steps of a start: exclusive resources, and the processes that take as long to load as this one.

First the addresses and the journal, so that a resource in use is reported at once; then the embedded job server and the
fork server, which load while the front end does. They start only after this file's imports, so these must be few.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from proxy.run.claims import claim
from proxy.run.embedded_job_server import EmbeddedJobServer
from proxy.run.job_servers import job_servers_of, worker_config
from proxy.workers.spawning import Spawned, spawn

if TYPE_CHECKING:
    import socket

    from proxy.store.journal.file import JournalFile
    from shared.settings import Settings
    from shared.worker_config import JobServer

__all__ = ["Groundwork", "lay_groundwork"]

#: The usual size of a stack. JSON with as many levels as CPython allows takes 1.5 MB of it.
_STACK_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Groundwork:
    """The claimed resources and started processes that a front end needs."""

    settings: Settings
    #: The job servers, with their addresses; the first one may be `embedded`.
    job_servers: tuple[JobServer, ...]
    #: Listening sockets by name: `public`, `callback`, `admin`.
    sockets: dict[str, socket.socket]
    #: The journal, if it is a file.
    journal: JournalFile | None
    #: The configuration that each fork server reads first, and the first fork server.
    config: bytes
    fork_server: Spawned
    #: The embedded job server; None if another one is configured.
    embedded: EmbeddedJobServer | None


def lay_groundwork(settings: Settings) -> Groundwork:
    """Claim exclusive resources and start the processes; these exit by themselves when this one does.

    Raises:
        SettingsError: a profile or a certificate cannot be used, or something is in use or not available.
        OSError: a process cannot be started.
    """
    job_servers = job_servers_of(settings)
    if settings.job_server_cafile:
        from proxy.run.job_server_probe import check_trust  # noqa: PLC0415 - few have one

        check_trust(settings.job_server_cafile)
    _raise_descriptor_limit()
    _widen_stacks()
    signal.signal(signal.SIGTERM, _leave)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # a reload waits until FrontEnd can do it
    sockets, journal = claim(settings)
    embedded = None
    if not job_servers[0].url:
        embedded = EmbeddedJobServer()
        job_servers = (replace(job_servers[0], url=embedded.url), *job_servers[1:])
    config = worker_config(settings, job_servers).encode()
    return Groundwork(
        settings=settings,
        job_servers=job_servers,
        sockets=sockets,
        journal=journal,
        config=config,
        fork_server=spawn(config),
        embedded=embedded,
    )


def _leave(_number: int, _frame: object) -> None:
    """End the process: no job has been accepted yet, and the started processes end by themselves."""
    os._exit(0)


def _raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard one: a job in flight takes several descriptors.

    The usual soft limit of 1,024 is for programs that use select(2).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _widen_stacks() -> None:
    """Give this process, its threads and its children usual stacks, where `ulimit -s`, or musl for threads, has less.

    Deeply nested JSON would end them with SIGSEGV.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < _STACK_BYTES:
        with contextlib.suppress(ValueError, OSError):  # the hard limit is lower
            resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))
    threading.stack_size(_STACK_BYTES)
