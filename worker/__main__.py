"""`python -m worker FD`: the fork server; started by the front end, useless by hand."""

from __future__ import annotations

import gc
import socket
import sys

from worker.before_fork.loading import leave_out, load_without_fork_handlers
from worker.kernel import ask_kernel


def main(fd: int) -> None:
    """Serve the front end at the other end of the socket `fd`."""
    gc.disable()  # it would leave holes in which a worker's objects would be allocated (worker/before_fork/holes.py)
    sys.excepthook = _say
    ask_kernel()
    from shared.worker_config import WorkerConfig  # noqa: PLC0415

    channel = socket.socket(fileno=fd)
    size_bytes = channel.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)  # of the whole message
    told = channel.recv(size_bytes)
    if not told:  # the front end is gone already
        return
    config = WorkerConfig.decode(told)
    leave_out(tls=config.max_jobs == 1 and not any(one.url.startswith("https:") for one in config.job_servers))
    load_without_fork_handlers()
    from worker.fork_server import main as serve  # noqa: PLC0415 - loads the rest

    serve(channel, config)


def _say(kind: type[BaseException], exc: BaseException, _traceback: object) -> None:
    """Print one line about what ends this process, without its message: it is logged (proxy/workers/stderr.py)."""
    from shared.stack import origin  # noqa: PLC0415 - only needed at the very end

    sys.stderr.write(f"the fork server ended by {kind.__qualname__} at {origin(exc)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
