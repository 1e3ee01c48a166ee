"""Wrong keys and old sessions take a limited amount of memory and time."""

from __future__ import annotations

import pytest

from proxy.api.operators.access.attempts import Attempts
from proxy.api.operators.access.sessions import Sessions
from shared.errors import AdmissionError
from tests.support.waiting import eventually


class _Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _refused(attempts: Attempts, peer: str) -> int:
    """Return for how long no key from there is checked; 0: it is checked."""
    try:
        attempts.check(peer)
    except AdmissionError as exc:
        return exc.retry_after_s
    return 0


def test_after_ten_wrong_keys_one_is_looked_at_every_six_seconds() -> None:
    """And after a minute without any, ten again."""
    clock = _Clock()
    attempts = Attempts(clock)
    for _ in range(10):
        assert _refused(attempts, "192.0.2.1") == 0
        attempts.failed("192.0.2.1")
    assert _refused(attempts, "192.0.2.1") == 6
    clock.now += 5.5
    assert _refused(attempts, "192.0.2.1") == 1
    clock.now += 0.5
    assert _refused(attempts, "192.0.2.1") == 0
    attempts.failed("192.0.2.1")
    assert _refused(attempts, "192.0.2.1") == 6
    clock.now += 60
    for _ in range(10):
        assert _refused(attempts, "192.0.2.1") == 0
        attempts.failed("192.0.2.1")
    assert _refused(attempts, "192.0.2.1") > 0


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
        ("no address", "no address", True),
    ],
)
def test_who_has_a_network_has_one_chance(first: str, second: str, same: bool) -> None:
    """A customer's IPv6 network has too many addresses to be counted separately."""
    attempts = Attempts(_Clock())
    for _ in range(10):
        attempts.failed(first)
    assert bool(_refused(attempts, second)) is same


def test_however_many_addresses_guess_no_more_are_remembered() -> None:
    """The newest ones."""
    attempts = Attempts(_Clock())
    for number in range(10_000):
        attempts.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._settled_at) <= 4096  # noqa: SLF001 - that is the claim
    for _ in range(9):
        attempts.failed("10.0.39.15")
    assert _refused(attempts, "10.0.39.15") > 0


async def test_a_session_lasts_for_its_time() -> None:
    """Then its cookie is invalid, and its streams have ended."""
    clock = _Clock()
    sessions = Sessions(3600, clock=clock)
    token = sessions.begin(b"key")
    session = sessions.find(token)
    assert session is not None
    clock.now += 3599
    assert sessions.find(token) is session
    clock.now += 1
    assert sessions.find(token) is None
    sessions.begin(b"key")
    assert session.ended
    assert len(sessions) == 1


async def test_the_end_of_a_session_comes_by_itself() -> None:
    """Without any request."""
    sessions = Sessions(0.02)
    session = sessions.find(sessions.begin(b"key"))
    assert session is not None
    await eventually(lambda: session.ended)
    assert len(sessions) == 0


async def test_one_key_cannot_throw_out_anothers_sessions() -> None:
    """However often its holder logs in, only their own oldest sessions end."""
    sessions = Sessions()
    other = sessions.begin(b"other")
    tokens = [sessions.begin(b"key") for _ in range(100)]
    assert len(set(tokens)) == 100
    assert len(sessions) == 33
    assert sessions.find(other) is not None
    assert sessions.find(tokens[0]) is None
    assert sessions.find(tokens[-1]) is not None
    sessions.keep_only({b"other"})
    assert [sessions.find(token) for token in tokens] == [None] * 100
    assert sessions.find(other) is not None
    sessions.keep_only(())
