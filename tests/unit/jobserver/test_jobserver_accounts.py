"""The queue of an account: one connection at a time, first come, first served."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from jobserver.accounts import AccountQueue, Connection
from tests.support.waiting import IN_VAIN_S


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


def connection() -> Connection:
    """A connection that stays open until its task is cancelled."""

    async def stay_open() -> None:
        await asyncio.get_running_loop().create_future()

    return asyncio.create_task(stay_open())


async def close(*connections: Connection) -> None:
    """Close connections."""
    for one in connections:
        one.cancel()
    await asyncio.wait(connections)
    await settle()


def spawn(waiting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a coroutine."""
    return asyncio.create_task(waiting)


async def test_a_second_connection_waits_until_the_first_has_closed() -> None:
    """Holding lasts for the connection, not for the request."""
    queue, first, second = AccountQueue(), connection(), connection()
    await queue.enter("a", first)
    await queue.enter("a", first)
    turn = spawn(queue.enter("a", second))
    await settle()
    assert not turn.done()
    assert queue.waiting == 1
    await close(first)
    assert turn.done()
    await close(second)
    assert queue.waiting == 0


async def test_accounts_do_not_wait_for_each_other() -> None:
    """The rule is per account."""
    queue, first, second = AccountQueue(), connection(), connection()
    await queue.enter("a", first)
    await asyncio.wait_for(queue.enter("b", second), IN_VAIN_S)
    await close(first, second)


async def test_connections_are_served_in_the_order_they_came() -> None:
    """The queue is first in, first out."""
    queue, served = AccountQueue(), list[int]()
    connections = [connection() for _ in range(5)]

    async def come(number: int) -> None:
        await queue.enter("a", connections[number])
        served.append(number)

    comers = [spawn(come(number)) for number in range(5)]
    for one in connections:
        await settle()
        await close(one)
    await asyncio.gather(*comers)
    assert served == [0, 1, 2, 3, 4]


async def test_a_connection_that_leaves_the_queue_is_passed_over() -> None:
    """The turn goes to the next one that is still there."""
    queue, first, second, third = AccountQueue(), connection(), connection(), connection()
    await queue.enter("a", first)
    leaving, staying = spawn(queue.enter("a", second)), spawn(queue.enter("a", third))
    await settle()
    leaving.cancel()
    await close(second)
    assert queue.waiting == 1
    await close(first)
    assert staying.done()
    await close(third)


@pytest.mark.parametrize("cancel_first", [True, False])
async def test_leaving_in_the_instant_of_the_turn_does_not_lose_it(cancel_first: bool) -> None:
    """Whichever comes first, the third connection gets the account."""
    queue, first, second, third = AccountQueue(), connection(), connection(), connection()
    await queue.enter("a", first)
    leaving, staying = spawn(queue.enter("a", second)), spawn(queue.enter("a", third))
    await settle()
    if cancel_first:
        leaving.cancel()
        queue._release(first)  # noqa: SLF001 - the race cannot be provoked from outside
    else:
        queue._release(first)  # noqa: SLF001 - the same
        leaving.cancel()
    await settle()
    assert leaving.cancelled()
    assert staying.done()
    assert queue.waiting == 0
    await close(first, second, third)


async def test_a_connection_that_goes_on_with_another_account_gives_up_the_first() -> None:
    """Two connections that each want the other's account cannot block each other."""
    queue, first, second = AccountQueue(), connection(), connection()
    await queue.enter("a", first)
    await queue.enter("b", second)
    crossing = [spawn(queue.enter("b", first)), spawn(queue.enter("a", second))]
    await asyncio.wait_for(asyncio.gather(*crossing), IN_VAIN_S)
    await close(first, second)
