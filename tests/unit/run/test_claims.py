"""All resources that are in use are reported together."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.run.claims import claim
from proxy.store.journal.file import JournalFile
from shared.errors import SettingsError
from shared.settings import Settings, load


@pytest.fixture
def taken() -> Iterator[tuple[int, int]]:
    """Two ports that another process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield one.getsockname()[1], other.getsockname()[1]


def settings_for(port: int, admin_port: int, journal: str = "") -> Settings:
    """Settings with these ports and this journal."""
    return load({"PORT": str(port), "ADMIN_PORT": str(admin_port), "JOURNAL": journal})


def refusal(settings: Settings) -> list[str]:
    """The lines of the error."""
    with pytest.raises(SettingsError) as caught:
        claim(settings)
    return str(caught.value).splitlines()


def test_free_addresses_and_a_free_journal_are_claimed(tmp_path: Path) -> None:
    """And a second claim finds the journal taken."""
    sockets, journal = claim(settings_for(0, 0, str(tmp_path / "jobs.sqlite3")))
    assert set(sockets) == {"public", "admin"}
    assert journal is not None
    with pytest.raises(SettingsError, match="in use by another proxy"):
        JournalFile(str(tmp_path / "jobs.sqlite3"))
    journal.close()
    for sock in sockets.values():
        sock.close()


def test_a_second_start_is_told_everything_that_is_taken(taken: tuple[int, int], tmp_path: Path) -> None:
    """Both ports and the journal, and that another proxy may be running."""
    path = str(tmp_path / "jobs.sqlite3")
    journal = JournalFile(path)
    lines = refusal(settings_for(*taken, path))
    journal.close()
    assert [line.partition(":")[0] for line in lines[:3]] == ["HOST, PORT", "ADMIN_HOST, ADMIN_PORT", "JOURNAL"]
    assert lines[3].startswith("another proxy may already be running here")
    assert len(lines) == 4


def test_what_could_be_claimed_is_let_go_again(taken: tuple[int, int], tmp_path: Path) -> None:
    """Nothing stays bound or locked after an error."""
    path = str(tmp_path / "jobs.sqlite3")
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        free = reservation.getsockname()[1]
        refusal(settings_for(free, taken[0], path))
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", free))
            again.listen()
    JournalFile(path).close()


def test_what_is_no_other_proxys_doing_is_not_said_to_be(tmp_path: Path) -> None:
    """A missing folder."""
    (line,) = refusal(settings_for(0, 0, str(tmp_path / "missing" / "jobs.sqlite3")))
    assert line.startswith("JOURNAL: cannot open")


def test_a_name_with_an_address_that_is_not_here_is_bound_at_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` is often an IPv6 address first, even without IPv6."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*kind, ("192.0.2.1", 0)), (*kind, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)
    sockets, _ = claim(settings_for(0, 0))
    assert {sock.getsockname()[0] for sock in sockets.values()} == {"127.0.0.1"}
    for sock in sockets.values():
        sock.close()


def test_a_name_that_cannot_be_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own exception for it is no OSError."""

    def refuse(*_args: object, **_options: object) -> None:
        raise UnicodeError("label too long")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    lines = refusal(settings_for(0, 0))
    assert lines[0] == "HOST, PORT: cannot listen on 127.0.0.1:0: the name cannot be resolved"
