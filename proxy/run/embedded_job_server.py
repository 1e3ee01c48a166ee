"""The embedded job server: a separate process, used if no job server is configured."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from proxy.http.listening import address, bind
from proxy.workers.environment import child_environment

__all__ = ["EmbeddedJobServer"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_LEAVE_S: Final = 1.0


class EmbeddedJobServer:
    """Starts `python -m jobserver`; it exits when its standard input, a pipe from here, closes for any reason."""

    def __init__(self) -> None:
        """Start the process. It inherits its listening socket, so its address is known before it has loaded."""
        with bind("JOB_SERVER_URL", "127.0.0.1", 0) as listener:
            self.url = f"{address(listener)}/start"
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    sys.executable,
                    "-m",
                    "jobserver",
                    "--fd",
                    str(listener.fileno()),
                    "--announce",
                    "--hide-ledger",
                    "--exit-with-parent",
                ],
                cwd=_ROOT,
                pass_fds=(listener.fileno(),),
                stdin=subprocess.PIPE,
                env=child_environment(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    async def stop(self) -> None:
        """Stop the process; kill it if it does not exit in time."""
        import asyncio  # noqa: PLC0415 - this file is loaded before it (groundwork.py)

        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, _LEAVE_S)
        if self._process.poll() is None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
