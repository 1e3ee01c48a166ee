"""`python -m worker FD`: the fork server; started by the front end, of no use by hand."""

from __future__ import annotations

import gc
import socket
import sys

from worker.before_fork.loading import leave_out, load_without_fork_handlers
from worker.kernel import ask_kernel

_CONFIG_BYTES = 65_536


def main(fd: int) -> None:
    """Serve the front end at the other end of the socket `fd`."""
    gc.disable()  # what it frees would leave holes, in which a worker's objects would lie (worker/before_fork/holes.py)
    sys.excepthook = _say
    ask_kernel()
    from shared.worker_config import WorkerConfig  # noqa: PLC0415

    channel = socket.socket(fileno=fd)
    told = channel.recv(_CONFIG_BYTES)
    if not told:  # the front end is gone already
        return
    config = WorkerConfig.decode(told)
    leave_out(tls=config.max_jobs == 1 and not any(one.url.startswith("https:") for one in config.job_servers))
    load_without_fork_handlers()
    from worker.fork_server import main as serve  # noqa: PLC0415 - loads what is left

    serve(channel, config)


def _say(kind: type[BaseException], exc: BaseException, _traceback: object) -> None:
    """Say in one line, without its words, what ends this process: it is logged (proxy/workers/stderr.py)."""
    from shared.stack import origin  # noqa: PLC0415 - the end of it all

    sys.stderr.write(f"the fork server ended by {kind.__qualname__} at {origin(exc)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
