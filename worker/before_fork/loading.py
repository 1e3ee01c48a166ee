"""Keeps modules out of the fork server that an ordinary program would load."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Final

__all__ = ["leave_out", "load_without_fork_handlers"]

_TLS: Final = ("ssl", "_ssl", "_hashlib")
#: Compression of files, user names, and the part of aiohttp in C that writes.
_UNUSED: Final = ("_bz2", "_lzma", "_uuid", "grp", "aiohttp._http_writer")


def leave_out(*, tls: bool) -> None:
    """Keep modules from loading what no worker uses: a fork copies five mappings per library, and each exit frees them.

    With `tls`, TLS is left out as well, for when it is not used, and neither is uvloop, which needs it: a worker maps 3
    MB less. To be called before asyncio is loaded, which loads TLS.
    """
    for module in (*_UNUSED, *(_TLS if tls else ())):
        sys.modules[module] = None  # type: ignore[assignment] # the import system then says that there is no such module
    _leave_out_the_session()


def _leave_out_the_session() -> None:
    """Let the parts of aiohttp be loaded on their own.

    Its `__init__.py` would load all of it: the session, the connector, which loads the system's certificates, multipart
    messages and WebSockets. A worker uses the parser.
    """
    spec = PathFinder.find_spec("aiohttp")
    if spec is not None:  # otherwise the parser's import says what is missing
        sys.modules["aiohttp"] = module_from_spec(spec)  # not executed


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
