"""The embedded job server: a separate process, used if no job server is configured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from proxy.http.listening import address, bind
from proxy.workers.environment import child_environment

__all__ = ["EmbeddedJobServer"]

_ROOT: Final = Path(__file__).resolve().parents[2]
#: How often to check whether it has exited, and how many checks in a row it may not have.
_LOOK_S: Final = 0.02
_LOOKS: Final = 50


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
        for _ in range(_LOOKS):  # without a thread that waits: at a process limit none could be started
            if self._process.poll() is not None:
                return
            await asyncio.sleep(_LOOK_S)
        self._process.kill()
        self._process.wait()
