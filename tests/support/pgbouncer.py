"""PgBouncer in front of a database."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cluster.processes import reserve
from tests.support.gateways import accepts
from tests.support.waiting import eventually_blocking

__all__ = ["PROGRAM", "running"]

#: None: it is not installed.
PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def running(server_port: int, mode: str, folder: Path) -> Iterator[int]:
    """Start one that forwards to the server on this port, with this `pool_mode`; yield its port."""
    reservation = reserve()
    port = reservation.getsockname()[1]
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server_port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\n",
        encoding="ascii",
    )
    # It refuses to run as root; it reads its settings before it changes its user.
    as_user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (folder / "pgbouncer.log").open("wb") as output:
        process = subprocess.Popen([PROGRAM or "", "-q", *as_user, str(settings)], stdout=output, stderr=output)
    try:
        eventually_blocking(lambda: process.poll() is not None or accepts(port))
        assert process.poll() is None, (folder / "pgbouncer.log").read_text(encoding="utf-8")
        yield port
    finally:
        process.terminate()
        process.wait(10)
        reservation.close()
