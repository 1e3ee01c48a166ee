"""Notes wait for a while, in which puts of their jobs may replace them."""

from __future__ import annotations

from msgspec.structs import replace

from proxy.store.notes import Notes
from proxy.store.record import Record
from tests.support.jumping_loop import time_passes
from tests.support.records import a_record


class Held:
    """Notes, and those that are due."""

    def __init__(self) -> None:
        self.due: list[Record] = []
        self.is_held = False
        self.notes = Notes(self.due.extend, lambda: self.is_held)


async def test_a_note_is_due_after_a_while_and_not_before() -> None:
    """Whenever other notes came."""
    held = Held()
    first, second = a_record(), a_record()
    held.notes.add(first)
    await time_passes(0.15)
    assert held.due == []
    held.notes.add(second)
    await time_passes(0.1)
    assert held.due == [first]
    await time_passes(0.15)
    assert held.due == [first, second]
    assert not held.notes


async def test_all_notes_can_be_taken_at_any_time() -> None:
    """Later ones are due as usual."""
    held = Held()
    assert held.notes.take_all() == []
    first, second = a_record(), a_record()
    held.notes.add(first)
    assert held.notes.take_all() == [first]
    held.notes.add(second)
    await time_passes(0.3)
    assert held.due == [second]


async def test_the_newest_note_of_a_job_counts_and_waits_no_longer() -> None:
    """However often it is noted."""
    held = Held()
    record = a_record()
    for duplicates in range(20):
        held.notes.add(replace(record, duplicates=duplicates))
        await time_passes(0.03)
    ended = [one.duplicates for one in held.due]
    assert 2 <= len(ended) <= 6
    assert ended == sorted(ended)


async def test_a_job_of_which_more_is_put_has_no_note_any_more() -> None:
    """Whether the note is in the newer or the older generation."""
    held = Held()
    new, old = a_record(), a_record()
    held.notes.add(old)
    await time_passes(0.15)
    held.notes.add(new)
    assert held.notes.pop(new.id)
    assert held.notes.pop(old.id)
    assert not held.notes.pop(old.id)
    await time_passes(1)
    assert held.due == []


async def test_what_came_before_a_note_does_not_take_its_place() -> None:
    """For both generations."""
    held = Held()
    record, other = a_record(), a_record()
    later = replace(record, duplicates=1)
    held.notes.add(later)
    await time_passes(0.15)
    held.notes.add_earlier([record, other])
    assert held.notes.take_all() == [later, other]
    await time_passes(1)
    assert held.due == []


async def test_notes_that_are_held_stay() -> None:
    """Until they are no longer held."""
    held = Held()
    record = a_record()
    held.is_held = True
    held.notes.add(record)
    await time_passes(1)
    assert (held.due, list(held.notes), record.id in held.notes) == ([], [record], True)
    held.is_held = False
    await time_passes(0.3)
    assert held.due == [record]
