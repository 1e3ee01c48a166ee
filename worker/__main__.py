"""`python -m worker FD`: the fork server; started by the front end, of no use by hand."""

from __future__ import annotations

import socket
import sys

from shared.worker_config import WorkerConfig

_CONFIG_BYTES = 65_536


def main(fd: int) -> None:
    """Serve the front end at the other end of the socket `fd`."""
    channel = socket.socket(fileno=fd)
    config = WorkerConfig.decode(channel.recv(_CONFIG_BYTES))
    if not config.job_server_url.startswith("https:"):
        # Nobody speaks TLS here. Without the modules for it each worker is smaller by some 3 MB that a fork would
        # have to map, and the start spares the 90 ms that aiohttp takes to load the system's certificates.
        for module in ("ssl", "_ssl", "_hashlib"):
            sys.modules[module] = None  # type: ignore[assignment] # "not to be had", says the import system

    from worker.fork_server import main as serve  # noqa: PLC0415 - only now: see above

    serve(channel, config)


if __name__ == "__main__":
    main(int(sys.argv[1]))
