"""Keeps modules out of the fork server that an ordinary program would load."""

from __future__ import annotations

import os
import sys
from typing import Final

__all__ = ["leave_out", "load_without_fork_handlers"]

_TLS: Final = ("ssl", "_ssl", "_hashlib")
#: Compression of files, users' names, and the parts in C of what aiohttp has for sessions and WebSockets.
_UNUSED: Final = (
    "_bz2",
    "_lzma",
    "_uuid",
    "grp",
    "frozenlist._frozenlist",
    "aiohttp._http_writer",
    "aiohttp._websocket.mask",
    "aiohttp._websocket.reader_c",
)


def leave_out(*, tls: bool) -> None:
    """Let no module load what no worker calls: a fork copies five mappings for each library, and each exit frees them.

    With `tls`, that is also TLS, where nobody speaks it, and nobody uses uvloop, which needs it: a worker maps 3 MB
    less, and the start spares the 90 ms that aiohttp takes to load the system's certificates. To be called before
    asyncio is loaded, which loads TLS.
    """
    for module in (*_UNUSED, *(_TLS if tls else ())):
        sys.modules[module] = None  # type: ignore[assignment] # "not to be had", says the import system


def load_without_fork_handlers() -> None:
    """Load those modules of the standard library that have something run after each fork, without that.

    What they run sets right what other threads leave behind, locks above all. This process has one thread, and a worker
    would copy 30 pages for it. Whatever is loaded later registers what it wants.
    """
    register = os.register_at_fork
    os.register_at_fork = _ignore
    try:
        import asyncio  # noqa: PLC0415
        import logging  # noqa: PLC0415
        import random  # noqa: PLC0415
        import threading  # noqa: PLC0415
    finally:
        os.register_at_fork = register
    del asyncio, logging, random, threading


def _ignore(**_: object) -> None:
    """A stand-in for os.register_at_fork."""
