"""Orders to the journal's thread: each has a future for its result, or none if nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

    from proxy.store.deeds import Deed
    from proxy.store.journal.answers import Answers
    from proxy.store.record import Record

__all__ = ["Ask", "Enter", "Order", "Put"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Record this."""

    record: Record
    keep: bool
    #: None: nobody waits.
    done: asyncio.Future[None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enter:
    """Record operators' actions, oldest first."""

    deeds: list[Deed]
    #: Nobody waits.
    done: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[T]):
    """Answer a question."""

    question: Callable[[Answers], T]
    #: Whether the caller waits for as long as it takes, even for a disk that does not answer.
    patient: bool = False
    done: asyncio.Future[T]


Order = Put | Enter | Ask[Any]
