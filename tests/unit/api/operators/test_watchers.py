"""No client can keep others from using the dashboard."""

from __future__ import annotations

import asyncio
import contextlib

from proxy.api.operators.watchers import Watchers


class Crowd:
    """Clients, in order of arrival."""

    def __init__(self, limit: int) -> None:
        self._watchers = Watchers(limit)
        self._stack = contextlib.ExitStack()
        self.leave: list[asyncio.Future[None]] = []

    def comes(self, *peers: str) -> None:
        """Let some more clients come."""
        self.leave += [self._stack.enter_context(self._watchers.admitted(peer)) for peer in peers]

    @property
    def present(self) -> list[int]:
        """Return those that are still connected."""
        return [n for n, leave in enumerate(self.leave) if not leave.done()]

    def close(self) -> None:
        """Let all of them leave."""
        self._stack.close()


async def test_whoever_opens_all_places_makes_room_for_others() -> None:
    """The address with the most pages loses its oldest one; the operator's page stays."""
    crowd = Crowd(4)
    crowd.comes("stranger", "stranger", "stranger", "stranger")
    crowd.comes("operator")
    assert crowd.present == [1, 2, 3, 4]
    crowd.comes(*["stranger"] * 20)
    assert crowd.present == [4, 22, 23, 24]
    crowd.close()


async def test_of_one_address_the_oldest_makes_room() -> None:
    """Such as a page that somebody forgot to close."""
    crowd = Crowd(2)
    crowd.comes("operator", "operator", "operator")
    assert crowd.present == [1, 2]
    crowd.close()


async def test_a_place_that_was_left_is_free() -> None:
    """Nobody is disconnected for the next one."""
    watchers = Watchers(2)
    with watchers.admitted("a") as first, contextlib.suppress(ValueError):
        with watchers.admitted("b"):
            raise ValueError
        raise AssertionError
    with watchers.admitted("c") as second, watchers.admitted("d") as third:
        assert not any(leave.done() for leave in (first, second, third))
