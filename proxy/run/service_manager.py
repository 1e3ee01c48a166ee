"""Notifies the service manager of the proxy's state: the protocol of sd_notify(3), as used by systemd and others.

A message is a datagram with lines NAME=value, to the socket that NOTIFY_SOCKET names; without that, nothing is sent.
Own code, because the libraries for it either block while nobody reads the socket, which would block the event loop, or
need a compiler. An error here must not stop or delay anything: it only costs one line in the log.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from proxy import log

__all__ = ["ServiceManager"]

#: How often to check for news, before the proxy is ready and afterwards.
_START_LOOK_S: Final = 0.05
_LOOK_S: Final = 1.0
#: How many messages may wait while nobody reads the socket; beyond that, the oldest are dropped.
_MAX_UNSENT: Final = 16
_STATUS_CHARACTERS: Final = 200


class ServiceManager:
    """The service manager that started this process; none if `environ` names none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        #: A path, or a name in Linux's abstract namespace, which begins with a NUL byte.
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._beat_s = _watchdog_s(environ) / 2 if name else 0.0
        self._unsent: deque[bytes] = deque(maxlen=_MAX_UNSENT)
        #: Opened at the start, because later there may be no descriptor left.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if name else None
        self._is_ready = False
        self._is_stopping = False
        self._has_failed = False
        self._tasks: list[asyncio.Task[None]] = []

    def inform(self, is_ready: Callable[[], bool], status: Callable[[], str]) -> None:
        """From now on send `status` when it changes, READY=1 as soon as `is_ready`, and the watchdog's heartbeats."""
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._report(is_ready, status)), loop.create_task(self._beat())]

    def reloading(self) -> None:
        """Notify of a reload; the time tells systemd (`Type=notify-reload`) which signal it belongs to."""
        if self._is_ready and not self._is_stopping:
            self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Notify that the reload has ended, whether or not it succeeded."""
        if self._is_ready and not self._is_stopping:
            self._say("READY=1")

    def stopping(self, within_s: float) -> None:
        """Notify that draining has begun and may take this long, so that jobs that can finish are not killed."""
        self._is_stopping = True
        self._say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}")

    def close(self) -> None:
        """Stop sending."""
        for task in self._tasks:
            task.cancel()
        if self._socket is not None:
            self._socket.close()

    async def _report(self, is_ready: Callable[[], bool], status: Callable[[], str]) -> None:
        told = ""
        while True:
            now = self._shown(status, told)
            lines = [f"STATUS={now}"] if now != told else []
            if not self._is_ready and not self._is_stopping and is_ready():
                self._is_ready = True
                lines.insert(0, "READY=1")
            self._say(*lines)
            told = now
            await asyncio.sleep(_LOOK_S if self._is_ready else _START_LOOK_S)

    def _shown(self, status: Callable[[], str], told: str) -> str:
        """Return the status as it is shown; `told`, the last one, if a bug of ours prevents that."""
        try:
            return " ".join(status().split())[:_STATUS_CHARACTERS]
        except Exception as exc:  # noqa: BLE001 - the service manager would wait for READY=1 and end the proxy
            if not self._has_failed:
                self._has_failed = True
                log.event("error", "unhandled exception in the service's status", **log.exception_fields(exc))
            return told

    async def _beat(self) -> None:
        """Send the watchdog's heartbeats from the event loop, which proves that it is not blocked."""
        while self._beat_s:
            self._say("WATCHDOG=1")
            await asyncio.sleep(self._beat_s)

    def _say(self, *lines: str) -> None:
        """Send unsent messages, then this one; what the socket has no room for is sent later."""
        if self._socket is None:
            return
        if lines:
            self._unsent.append("\n".join(lines).encode(errors="replace"))
        try:
            while self._unsent:
                self._socket.sendto(self._unsent[0], self._address)
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError as exc:
            self._unsent.clear()
            if not self._has_failed:
                self._has_failed = True
                log.event("warning", "the service manager cannot be notified", reason=str(exc))


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Return how long the service manager waits for a heartbeat; 0: it expects none from this process."""
    usec = environ.get("WATCHDOG_USEC", "")
    is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) / 1e6 if is_meant and usec.isascii() and usec.isdigit() else 0.0
