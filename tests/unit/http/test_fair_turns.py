"""Turns limit the work in one iteration of the event loop."""

import asyncio

from proxy.http.fair_turns import SMALL_BYTES, Turns
from tests.support.waiting import IN_VAIN_S


async def test_a_round_has_no_more_turns_than_allowed_and_they_come_in_order() -> None:
    """Twenty that arrive at once are served in order, three in each iteration of the loop."""
    turns = Turns(3)
    served: list[tuple[int, int]] = []
    rounds = 0

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if len(served) < 20:
            asyncio.get_running_loop().call_soon(count)

    async def one(number: int) -> None:
        await turns.take()
        served.append((number, rounds))

    asyncio.get_running_loop().call_soon(count)
    await asyncio.gather(*(one(number) for number in range(20)))
    assert [number for number, _ in served] == list(range(20))
    by_round = [at for _, at in served]
    assert max(by_round.count(at) for at in set(by_round)) == 3
    assert len(set(by_round)) == 7


async def test_a_small_turn_does_not_overtake_a_large_one() -> None:
    """Otherwise a large body would wait as long as small requests come."""
    turns = Turns(3)
    served: list[str] = []

    async def one(name: str, count: int) -> None:
        await turns.take(count)
        served.append(name)

    await asyncio.wait_for(asyncio.gather(one("first", 1), one("large", 3), one("small", 1)), IN_VAIN_S)
    assert served == ["first", "large", "small"]


async def test_one_alone_does_not_wait() -> None:
    """If nobody else waits, the coroutine does not suspend."""
    taking = Turns(1).take()
    try:
        taking.send(None)
    except StopIteration:
        pass
    else:  # pragma: no cover - the failure
        raise AssertionError("a lone turn had to be waited for")


async def test_one_that_gave_up_takes_nobody_s_turn() -> None:
    """A cancelled waiter is skipped in favour of the next one."""
    turns = Turns(1)
    first, gone, patient = (asyncio.ensure_future(turns.take()) for _ in range(3))
    await first
    gone.cancel()
    await asyncio.wait_for(patient, IN_VAIN_S)
    assert gone.cancelled()


async def test_a_large_body_takes_a_round_for_itself() -> None:
    """Whatever its size; a small one needs no turn, because its request has had one."""
    turns = Turns(3)
    served: list[tuple[str, int]] = []
    rounds = 0

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if len(served) < 9:
            asyncio.get_running_loop().call_soon(count)

    async def one(name: str, size_bytes: int) -> None:
        await turns.take_for(size_bytes)
        served.append((name, rounds))

    asyncio.get_running_loop().call_soon(count)
    sizes = {"huge": 1 << 30, "large": 3 * SMALL_BYTES, "two": 2 * SMALL_BYTES, "one": SMALL_BYTES + 1}
    await asyncio.gather(
        *(one(name, size) for name, size in sizes.items()),
        *(one(name, size) for name, size in sizes.items()),
        one("small", SMALL_BYTES),
    )
    rounds_of = {name: [at for served_name, at in served if served_name == name] for name in (*sizes, "small")}
    assert served[0][0] in {"huge", "small"}
    for name in ("huge", "large"):
        assert all([at for _, at in served if at == round_] == [round_] for round_ in rounds_of[name][1:])
    assert sorted(at for _, at in served) == [at for _, at in served]
