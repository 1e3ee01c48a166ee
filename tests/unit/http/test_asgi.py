"""Request bodies, with a limit for each and for all together; and what the log may contain of a path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from proxy.http.asgi import Bodies, ClientGoneError, content_length, route_of
from shared.errors import AdmissionError, Code, RequestError

TOKEN = "Zq0yJv0m4n3sS1c2k9Qh7bqVvF1WJm8eRk5u2y6T0dA"


def scope(length: str | None = None) -> dict[str, Any]:
    """A request's scope."""
    return {"headers": [] if length is None else [(b"content-length", length.encode())]}


def piece(body: bytes, *, more: bool = False) -> dict[str, Any]:
    """A message with a part of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


class Sender:
    """A client that sends pieces when the test says so."""

    def __init__(self, *pieces: dict[str, Any]) -> None:
        self.pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for one in pieces:
            self.pieces.put_nowait(one)

    async def receive(self) -> dict[str, Any]:
        """Return the next piece."""
        return await self.pieces.get()


async def read(bodies: Bodies, *pieces: dict[str, Any], length: str | None = None) -> bytes:
    """Read a body that comes in these pieces."""
    return await bodies.read(scope(length), Sender(*pieces).receive)


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(b"whole")],
        [piece(b"wh", more=True), piece(b"ole")],
        [piece(b"", more=True), piece(b"whole", more=True), piece(b"")],
    ],
)
async def test_a_body_is_read_whole(pieces: Sequence[dict[str, Any]]) -> None:
    """In any number of pieces."""
    assert await read(Bodies(5), *pieces) == b"whole"


@pytest.mark.parametrize(
    ("pieces", "length"),
    [
        ([piece(b"123456")], None),
        ([piece(b"123", more=True), piece(b"456", more=True)], None),
        ([], "6"),
        ([], "9" * 40),
    ],
    ids=["at once", "in pieces", "announced", "announced beyond measure"],
)
async def test_a_body_that_is_too_large_is_refused_as_soon_as_that_is_known(
    pieces: Sequence[dict[str, Any]], length: str | None
) -> None:
    """Before it is read, if its length is announced."""
    with pytest.raises(RequestError) as raised:
        await read(Bodies(5), *pieces, length=length)
    assert raised.value.code is Code.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize("before", [[], [piece(b"1", more=True)]])
async def test_a_client_that_leaves_has_no_body(before: Sequence[dict[str, Any]]) -> None:
    """Before the first byte, or in the middle."""
    with pytest.raises(ClientGoneError):
        await read(Bodies(5), *before, {"type": "http.disconnect"})


@pytest.fixture
async def half_sent() -> AsyncIterator[tuple[Bodies, list[Sender], list[asyncio.Task[bytes]]]]:
    """Two bodies of which 400 bytes each have come, with a limit of 1,000 for all together."""
    bodies = Bodies(800, together_bytes=1000)
    senders = [Sender(piece(b"x" * 400, more=True)) for _ in range(2)]
    reading = [asyncio.create_task(bodies.read(scope(), sender.receive)) for sender in senders]
    await asyncio.sleep(0)
    yield bodies, senders, reading
    for task in reading:
        task.cancel()


HalfSent = tuple[Bodies, list[Sender], list[asyncio.Task[bytes]]]


async def test_bodies_that_do_not_end_are_bounded_together(half_sent: HalfSent) -> None:
    """The one that exceeds the limit is refused, to be retried; a body that comes at once does not count."""
    bodies, _, _ = half_sent
    with pytest.raises(AdmissionError) as raised:
        await read(bodies, piece(b"x" * 300, more=True), piece(b"x" * 10, more=True))
    assert raised.value.code is Code.OVERLOADED
    assert await read(bodies, piece(b"x" * 800)) == b"x" * 800


async def test_a_body_that_ends_makes_room(half_sent: HalfSent) -> None:
    """Whether it is complete or aborted."""
    bodies, senders, reading = half_sent
    senders[0].pieces.put_nowait(piece(b"x" * 400))  # the last piece is accepted: it frees more than it needs
    assert len(await reading[0]) == 800
    reading[1].cancel()
    await asyncio.wait(reading)
    assert len(await read(bodies, piece(b"x" * 400, more=True), piece(b"x" * 300, more=True), piece(b""))) == 700


def test_there_is_room_for_several_of_the_largest() -> None:
    """Whatever the limit of a single one."""
    assert vars(Bodies(1_000))["_free_bytes"] == 64 * 1024 * 1024
    assert vars(Bodies(1_000_000_000))["_free_bytes"] == 4_000_000_000


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("", "/"),
        ("/queueJob", "/queueJob"),
        ("/openapi.json", "/openapi.json"),
        ("/callback/x/y", "/callback"),
        ("//callback/x", "/callback"),
        ("/docs?b/c", "/docs"),
        (f"/{TOKEN}", "/..."),
        (f"//{TOKEN}/callback", "/..."),
        (f"/callback{TOKEN}", "/..."),
        (f"/callback%2f{TOKEN}", "/..."),
        (f"/{TOKEN[:9]}", "/..."),
        ("/" + "a" * 17, "/..."),
    ],
)
def test_a_route_is_the_first_part_of_a_path_if_that_is_a_word(path: str, route: str) -> None:
    """Anything else may be a token or a part of one: a callback URL may lack its path, and a request may be garbled."""
    assert route_of(path) == route


@pytest.mark.parametrize(
    ("value", "length"),
    [("12", 12), ("", None), ("-1", None), ("1_0", None), ("\xb2", None), ("9" * 30, int("9" * 20)), (None, None)],
)
def test_the_announced_length_is_a_number_or_nothing(value: str | None, length: int | None) -> None:
    """Whatever the header contains."""
    headers = [] if value is None else [(b"x", b"5"), (b"content-length", value.encode("latin-1"))]
    assert content_length({"headers": headers}) == length
