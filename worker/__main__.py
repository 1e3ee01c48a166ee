"""`python -m worker FD`: the fork server; started by the front end, of no use by hand."""

from __future__ import annotations

import os
import socket
import sys

from shared.worker_config import WorkerConfig

_CONFIG_BYTES = 65_536


def main(fd: int) -> None:
    """Serve the front end at the other end of the socket `fd`."""
    channel = socket.socket(fileno=fd)
    config = WorkerConfig.decode(channel.recv(_CONFIG_BYTES))
    lighten(config)
    from worker.fork_server import main as serve  # noqa: PLC0415

    serve(channel, config)


def lighten(config: WorkerConfig) -> None:
    """Leave out what the modules that are loaded next would bring along and no worker needs.

    What they register to be run after a fork (threading, logging, random) puts right what other threads leave behind.
    This process has one thread, and each worker would pay for it.
    """
    os.register_at_fork = _forget
    unwanted = ["_lzma", "_bz2", "_uuid", "grp"]  # a fork copies, for each library, five mappings
    if config.max_jobs == 1 and not any(one.url.startswith("https:") for one in config.job_servers):
        # Nobody speaks TLS here, and nobody uses uvloop, which loads these modules. Without them each worker is smaller
        # by some 3 MB that a fork would have to map, and the start spares the 90 ms that aiohttp takes to load the
        # system's certificates.
        unwanted += ["ssl", "_ssl", "_hashlib"]
    for module in unwanted:
        sys.modules[module] = None  # type: ignore[assignment] # "not to be had", says the import system


def _forget(**_: object) -> None:
    """Stand for os.register_at_fork."""


if __name__ == "__main__":
    main(int(sys.argv[1]))
