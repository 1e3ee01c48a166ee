"""What the fork server loads less than an ordinary program."""

from __future__ import annotations

import os
import sys

__all__ = ["leave_out_tls", "load_without_fork_handlers"]


def leave_out_tls() -> None:
    """Let no module load TLS, where nobody speaks it, and nobody uses uvloop, which needs it.

    Each worker is then smaller by some 3 MB that a fork has to map, and the start spares the 90 ms that aiohttp takes
    to load the system's certificates.
    """
    for module in ("ssl", "_ssl", "_hashlib"):
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
