"""Sessions of logged-in browsers: kept on the server, so that a copied cookie is useless once its session has ended.

They belong to this process: after a restart, and at another instance, operators have to log in again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from proxy.api import bearer

__all__ = ["LASTS_S", "Session", "Sessions"]

#: A working day, so that nobody is logged out in the middle of one.
LASTS_S: Final = 12 * 3600.0
#: The limit of sessions per key; one more ends the oldest. Per key, so that no operator can end the sessions of others.
_OF_A_KEY: Final = 32


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One session."""

    #: The hash of the key that it was started with.
    key: bytes
    #: Unix seconds.
    expires_at: float
    #: Forgets the session when it expires.
    timer: asyncio.TimerHandle
    #: Set when the session ends, so that its streams end, too.
    ended: bool = False


class Sessions:
    """All sessions, by the hashes of their tokens."""

    def __init__(self, lasts_s: float = LASTS_S, *, clock: Callable[[], float] = time.time) -> None:
        self._lasts_s = lasts_s
        self._clock = clock
        self._by_hash: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def begin(self, key: bytes) -> str:
        """Start a session for the holder of the key with this hash; return its token, which is not stored."""
        self._end_those(lambda one: one.expires_at <= self._clock())
        of_key = [hashed for hashed, one in self._by_hash.items() if one.key == key]
        for hashed in of_key[: max(0, len(of_key) - _OF_A_KEY + 1)]:
            self._end(hashed)
        token = secrets.token_urlsafe(32)
        hashed = bearer.hash_of(token)
        timer = asyncio.get_running_loop().call_later(self._lasts_s, self._end, hashed)
        self._by_hash[hashed] = Session(key=key, expires_at=self._clock() + self._lasts_s, timer=timer)
        return token

    def find(self, token: str) -> Session | None:
        """Return the session with this token, unless it is over."""
        # By its hash, so that the timing of the comparison reveals nothing about a token.
        session = self._by_hash.get(bearer.hash_of(token))
        return session if session is not None and session.expires_at > self._clock() else None

    def end(self, token: str) -> None:
        """End a session, if there is one with this token."""
        self._end(bearer.hash_of(token))

    def keep_only(self, keys: Collection[bytes]) -> None:
        """End the sessions of all other keys."""
        self._end_those(lambda one: one.key not in keys)

    def _end_those(self, is_over: Callable[[Session], bool]) -> None:
        for hashed in [hashed for hashed, one in self._by_hash.items() if is_over(one)]:
            self._end(hashed)

    def _end(self, hashed: bytes) -> None:
        session = self._by_hash.pop(hashed, None)
        if session is not None:
            session.ended = True
            session.timer.cancel()
