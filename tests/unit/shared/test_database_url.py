"""A database's address is shown without secrets, however it is written."""

from __future__ import annotations

import pytest

from shared.database_url import is_database, shown, without_secrets
from shared.errors import SettingsError
from shared.settings import load

_SHOWN = {
    "postgresql://u:secret@h:5432,h2:5433/db?sslmode=require&password=secret": "postgresql://u@h:5432,h2:5433/db",
    "postgres://u@h/db": "postgres://u@h/db",
    "postgresql://h/db?user=u&password=secret": "postgresql://h/db",
    "postgresql:///db?host=/run/postgresql": "postgresql:///db",
    "postgresql://u:sec@ret@h/db": "postgresql://u@h/db",
    "postgresql://u:sec/ret@h/db": "postgresql://u@h/db",
    "postgresql://u:sec?ret@h/db": "postgresql://...",
    "postgresql://[::1]:5433/db": "postgresql://[::1]:5433/db",
}


@pytest.mark.parametrize("url", _SHOWN)
def test_it_is_shown_without_password_and_parameters(url: str) -> None:
    """User, host and database are what people need."""
    assert is_database(url)
    assert shown(url) == _SHOWN[url]


def test_a_file_is_no_database() -> None:
    """Whatever its name."""
    assert not is_database("postgresql.sqlite3")
    assert not is_database("")


def test_what_was_said_of_it_loses_every_part_of_a_password() -> None:
    """As written, and decoded."""
    said = "no such host: ret; tried se%20cret and se cret"
    assert without_secrets("postgresql://u:se%20cret@h/db", said) == "no such host: ret; tried *** and ***"
    assert without_secrets("postgresql://u:sec/ret@h/db", said) == "no such host: ***; tried se%20c*** and se c***"
    assert without_secrets("postgresql://h/db?password=ret", said).count("***") == 3
    assert without_secrets("postgresql://u@h/db", said) == said


def test_a_bad_one_is_refused_without_its_password() -> None:
    """The settings only name the address."""
    with pytest.raises(SettingsError) as error:
        load({"JOURNAL": "postgresql://u:geheim@h/d b"})
    assert "got 'postgresql://u@h/d b'" in str(error.value)
