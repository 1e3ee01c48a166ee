"""The shipped profiles, read once in each process: many tests have a parameter for each."""

from __future__ import annotations

import functools

from shared.job_server import loader
from shared.job_server.profile import Profile

__all__ = ["shipped_profiles"]


@functools.cache
def shipped_profiles() -> tuple[Profile, ...]:
    """Return all of them, by name."""
    return tuple(map(loader.load, loader.shipped()))
