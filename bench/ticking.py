"""`python -m bench.ticking`: the proxy, with a timer that records the lag of its event loop every 5 ms.

The lag of the loop itself cannot be measured from outside, because a request that is sent while others queue also waits
for those. Each record is a line, `due lag`, both in seconds of the monotonic clock, in the file that LAG_FILE names.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import uvloop

from proxy.run.groundwork import lay_groundwork
from proxy.run.process import FrontEnd
from shared.settings import load

__all__ = ["main"]

_INTERVAL_S: Final = 0.005


class _Ticking(FrontEnd):
    async def run(self) -> None:
        """Serve, and run the timer."""
        self._file = os.open(os.environ["LAG_FILE"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._tick(asyncio.get_running_loop().time())
        await super().run()

    def _tick(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        os.write(self._file, f"{due:.6f} {loop.time() - due:.6f}\n".encode())
        due = max(due + _INTERVAL_S, loop.time())
        loop.call_at(due, self._tick, due)


def main() -> None:
    """Run until the process is ended."""
    settings = load(env_file=Path(__file__).resolve().parent.parent / ".env")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Ticking(lay_groundwork(settings)).run())


if __name__ == "__main__":
    main()
