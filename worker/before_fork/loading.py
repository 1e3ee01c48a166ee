"""Keeps modules out of the fork server that an ordinary program would load."""

from __future__ import annotations

import os
import sys
from typing import Final

__all__ = ["leave_out", "load_without_fork_handlers"]

_TLS: Final = ("ssl", "_ssl", "_hashlib")
#: Compression of files, user names, and the C parts of aiohttp for sessions and WebSockets.
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
    """Keep modules from loading what no worker uses: a fork copies five mappings per library, and each exit frees them.

    With `tls`, TLS is left out as well, for when it is not used, and neither is uvloop, which needs it: a worker maps 3
    MB less, and the start saves the 90 ms in which aiohttp loads the system's certificates. To be called before asyncio
    is loaded, which loads TLS.
    """
    for module in (*_UNUSED, *(_TLS if tls else ())):
        sys.modules[module] = None  # type: ignore[assignment] # the import system then says that there is no such module


def load_without_fork_handlers() -> None:
    """Load the standard library's modules that register functions to run after a fork, without those functions.

    These functions repair what other threads leave behind, mostly locks. This process has one thread, and a worker
    would copy 30 pages for them. Modules that are loaded later can register functions as usual.
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
    """Replaces os.register_at_fork."""
