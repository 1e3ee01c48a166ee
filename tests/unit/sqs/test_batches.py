"""Calls for single messages, made ten at a time."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.sqs.batches import Batches
from shared.errors import QueueError
from tests.support.jumping_loop import nothing_moves, time_passes


async def test_what_comes_together_goes_together() -> None:
    """Ten at most, and none is left."""
    calls: list[list[int]] = []

    async def do(items: Sequence[int]) -> list[QueueError | None]:
        calls.append(list(items))
        await asyncio.sleep(0)
        return [None] * len(items)

    batches = Batches(do)
    await asyncio.gather(*(batches.add(number) for number in range(45)))

    assert sorted(number for call in calls for number in call) == list(range(45))
    assert len(calls) <= 6
    assert max(len(call) for call in calls) == 10


async def test_each_hears_of_its_own_error() -> None:
    """An error of one item does not affect others; a failed call fails all its items, but not the next call."""
    broken = True

    async def do(items: Sequence[int]) -> list[QueueError | None]:
        if broken:
            raise QueueError("away")
        return [QueueError("odd") if number % 2 else None for number in items]

    batches = Batches(do)
    with pytest.raises(QueueError, match="away"):
        await batches.add(2)
    broken = False
    found = await asyncio.gather(*(batches.add(number) for number in range(4)), return_exceptions=True)
    assert [str(one) if one else "" for one in found] == ["", "odd", "", "odd"]


async def test_what_is_added_just_after_the_last_calls_goes_too() -> None:
    """They have ended, but nobody has noted that yet."""
    ending, over = asyncio.Event(), asyncio.Event()

    async def do(items: Sequence[int]) -> list[QueueError | None]:
        if 9 not in items:
            await ending.wait()
            over.set()
        return [None] * len(items)

    batches = Batches(do, max_bytes=0, size_of=lambda _: 1)

    async def add_late() -> None:
        await over.wait()
        await batches.add(9)

    late = asyncio.create_task(add_late())
    first = [asyncio.create_task(batches.add(number)) for number in range(2)]
    await asyncio.sleep(0.01)
    ending.set()
    async with asyncio.timeout(5):
        await asyncio.gather(late, *first)


async def test_a_call_is_no_larger_than_it_may_be() -> None:
    """Except for a single item that is too large, which the service refuses."""
    calls: list[list[int]] = []

    async def do(items: Sequence[int]) -> list[QueueError | None]:
        calls.append(list(items))
        return [None] * len(items)

    batches = Batches(do, size_of=lambda item: item, max_bytes=10)
    await asyncio.gather(*(batches.add(size) for size in (6, 4, 1, 12, 3)))
    assert calls == [[6, 4], [1], [12], [3]]


async def test_a_call_waits_for_more_unless_it_is_full() -> None:
    """Fewer calls cost less CPU."""
    calls: list[list[int]] = []

    async def do(items: Sequence[int]) -> list[QueueError | None]:
        calls.append(list(items))
        return [None] * len(items)

    batches = Batches(do, gather_s=1.0)
    first = asyncio.create_task(batches.add(0))
    await time_passes(0.9)
    assert calls == []
    await batches.add(1)
    assert calls == [[0, 1]]

    ten = [asyncio.create_task(batches.add(number)) for number in range(10)]
    await nothing_moves()
    assert calls[1:] == [list(range(10))]
    await asyncio.gather(first, *ten)


async def test_there_are_two_calls_at_once_and_nothing_of_them_is_kept() -> None:
    """What comes during both goes together into a third."""
    calls: list[list[int]] = []
    answered = asyncio.Event()
    tasks: list[weakref.ref[asyncio.Task[Any]]] = []

    async def do(items: Sequence[int]) -> list[QueueError | None]:
        calls.append(list(items))
        task = asyncio.current_task()
        assert task is not None
        tasks.append(weakref.ref(task))
        await answered.wait()
        return [None] * len(items)

    batches = Batches(do)
    added = []
    for number in range(4):
        added.append(asyncio.create_task(batches.add(number)))
        await nothing_moves()
    assert calls == [[0], [1]]
    answered.set()
    await asyncio.gather(*added)
    await nothing_moves()
    assert calls == [[0], [1], [2, 3]]
    assert [task() for task in tasks] == [None] * 3


async def test_a_caller_that_was_cancelled_takes_nothing_from_the_others() -> None:
    """Its item goes with theirs."""
    calls: list[list[int]] = []
    answered = asyncio.Event()

    async def do(items: Sequence[int]) -> list[QueueError | None]:
        calls.append(list(items))
        await answered.wait()
        return [None] * len(items)

    batches = Batches(do)
    first, second = (asyncio.create_task(batches.add(number)) for number in range(2))
    await nothing_moves()
    first.cancel()
    answered.set()
    await second
    assert calls == [[0, 1]]
