"""The members of a cluster besides its database: the instances, the job server, and nginx in front of the instances."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cluster import nginx
from cluster.processes import reserve, start

__all__ = ["ClusterError", "Instance", "Member", "gateway", "job_server"]

_ROOT: Final = Path(__file__).resolve().parent.parent
_START_S: Final = 60.0
_LOOK_S: Final = 0.02


class ClusterError(Exception):
    """The cluster cannot run; the message says why."""


class Member:
    """A process of the cluster, on an address that it keeps when it is restarted."""

    def __init__(
        self, name: str, command: list[str], folder: Path, environ: Mapping[str, str], *, port: socket.socket
    ) -> None:
        """`port` is reserved for it. When this process ends, it gets the signal `end`."""
        self.name = name
        self.log = folder / f"{name.replace(' ', '-')}.log"
        self._command = command
        self._environ = environ
        self._reservation = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{port.getsockname()[1]}"
        #: The signal that ends it; it must also end its children.
        self.end = signal.SIGKILL

    @property
    def pid(self) -> int:
        """The id of its process, or of the last one. 0: it was never started."""
        return 0 if self._process is None else self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit code of its last process (negative: a signal); None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start its process; do not wait for it."""
        self._process = start(self._command, self.log, self._environ, end=self.end)

    def wait_until(self, path: str = "") -> None:
        """Wait until it accepts connections or, with a `path`, answers 200 there. Raises ClusterError."""
        ready: Callable[[], bool] = self._accepts if not path else lambda: self._answers(path)
        give_up = time.monotonic() + _START_S
        while not ready():
            if self.ended is not None or time.monotonic() > give_up:
                raise ClusterError(f"{self.name} does not start; its last words: {self.last_words}")
            time.sleep(_LOOK_S)

    @property
    def last_words(self) -> str:
        """The end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace").strip() if self.log.exists() else ""
        return text[-500:] or "none"

    def signal(self, number: int) -> None:
        """Send its process a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of its process; return whether it has ended."""
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return False
        return True

    def close(self) -> None:
        """End it at once, and release its port."""
        self.signal(self.end)
        if not self.wait(_START_S):
            self.signal(signal.SIGKILL)
            self.wait()
        self._reservation.close()

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self._reservation.getsockname()) == 0

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=1) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)  # noqa: PLR2004 - OK
        except (OSError, urllib.error.URLError):
            return False


class Instance(Member):
    """One instance of the proxy: `python run.py`, whose child processes end with it, however it ends."""

    def __init__(
        self, number: int, folder: Path, settings: Mapping[str, str], *, port: int = 0, admin: int = 0
    ) -> None:
        """`number` counts from one. `settings`: by the names of the variables. Raises OSError: a port is in use."""
        listen = reserve(port)
        try:
            self._admin = reserve(admin)
        except OSError:
            listen.close()
            raise
        #: The address of its dashboard.
        self.admin = f"http://127.0.0.1:{self._admin.getsockname()[1]}"
        ours = {
            "HOST": "127.0.0.1",
            "PORT": str(listen.getsockname()[1]),
            "ADMIN_HOST": "127.0.0.1",
            "ADMIN_PORT": str(self._admin.getsockname()[1]),
            "CALLBACK_HOST": "",
            "CALLBACK_PORT": "",
            "TLS_CERTFILE": "",  # nginx is before it
            "TLS_KEYFILE": "",
            "INSTANCE_NAME": f"instance-{number}",
        }
        command = [sys.executable, str(_ROOT / "run.py")]
        environ = {**os.environ, **settings, **ours}
        super().__init__(f"instance {number}", command, folder, environ, port=listen)

    def close(self) -> None:
        """End it at once, and release its ports."""
        super().close()
        self._admin.close()


def job_server(folder: Path, *, port: int = 0, duration_s: float = 0.5) -> Member:
    """Return a job server for all instances; it retries callbacks that got no 2xx for half a minute."""
    reservation = reserve(port)
    number = str(reservation.getsockname()[1])
    arguments = ["--port", number, "--duration", str(duration_s), "--callback-retries", "150"]
    environ = {**os.environ, "PYTHONPATH": str(_ROOT)}
    return Member("job server", [sys.executable, "-m", "jobserver", *arguments], folder, environ, port=reservation)


def gateway(folder: Path, instances: list[Instance], port: socket.socket) -> Member:
    """Return the nginx in front of the instances, with the configuration of deploy/."""
    place = folder / "nginx"
    place.mkdir(mode=0o700)
    upstreams = [instance.url.removeprefix("http://") for instance in instances]
    command = nginx.command(place, port.getsockname()[1], upstreams)
    member = Member("nginx", command, folder, os.environ, port=port)
    # It has a child that would survive a SIGKILL of its parent.
    member.end = signal.SIGTERM
    return member
