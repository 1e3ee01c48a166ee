"""One connection at a time per account: the rule that makes the job server hard to use.

The first connection that sends a request for an account has that account to itself, even while it is idle, until it
closes. Further connections wait in order of arrival. A connection that switches to another account gives up the first
one, so that two connections can never wait for each other.
"""

import asyncio
import contextlib
from collections import deque
from typing import Any

#: The task that serves one connection; it ends when the connection does.
Connection = asyncio.Task[Any]

_Line = deque[tuple[Connection, asyncio.Future[None]]]


class AccountQueue:
    """Gives each account to one connection at a time."""

    def __init__(self) -> None:
        """Start with every account free."""
        #: The connections that wait for an account, for each account in use.
        self._lines: dict[str, _Line] = {}
        self._held: dict[Connection, str] = {}

    @property
    def waiting(self) -> int:
        """The number of waiting connections."""
        return sum(len(line) for line in self._lines.values())

    async def enter(self, account: str, connection: Connection) -> None:
        """Wait until the connection has the account. Cancelled: it leaves the queue."""
        held = self._held.get(connection)
        if held == account:
            return
        if held is None:
            connection.add_done_callback(self._leave)
        else:
            self._release(connection)
        line = self._lines.get(account)
        if line is None:
            self._lines[account] = deque()
            self._held[connection] = account
            return
        turn = asyncio.get_running_loop().create_future()
        place = (connection, turn)
        line.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come at the same instant: then it goes to the next one.
            if self._held.get(connection) == account:
                self._release(connection)
            else:
                # Already gone if the one before left between the cancelling and this line.
                with contextlib.suppress(ValueError):
                    line.remove(place)
            raise

    def _leave(self, connection: Connection) -> None:
        if connection in self._held:
            self._release(connection)

    def _release(self, connection: Connection) -> None:
        account = self._held.pop(connection)
        line = self._lines[account]
        while line:
            following, turn = line.popleft()
            if not turn.done():
                self._held[following] = account
                turn.set_result(None)
                return
        del self._lines[account]
