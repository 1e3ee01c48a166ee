"""The file with keys: one per line, and never accidentally open."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import load


def keys_of(file: Path, text: bytes, api_keys: str = "") -> tuple[str, ...]:
    """The keys that clients may use with this file."""
    file.write_bytes(text)
    return load({"API_KEYS_FILE": str(file), "API_KEYS": api_keys}).api_keys


def test_each_line_is_a_key_beside_those_of_api_keys(tmp_path: Path) -> None:
    """Comments, empty lines, a byte order mark and the end of the last line are ignored."""
    text = "\ufeff# since May\r\none\n\n  two  \nthree".encode()
    assert keys_of(tmp_path / "keys", text, "zero") == ("zero", "one", "two", "three")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", " has no key, and without one everybody would be let in"),
        (b"# nothing\n", " has no key, "),
        (b"good\nhush hush\n", ", line 2: takes one key"),
        (b"hush,hush2\n", ", line 1: takes one key"),
        (b"\xff\xfe", " is not UTF-8 (byte 1)"),
    ],
)
def test_a_file_that_would_let_in_the_wrong_ones_ends_the_start(tmp_path: Path, text: bytes, words: str) -> None:
    """The error says why, without a key."""
    file = tmp_path / "keys"
    with pytest.raises(SettingsError) as caught:
        keys_of(file, text)
    assert str(caught.value).startswith(f"API_KEYS_FILE: '{file}'{words}")
    assert "hush" not in str(caught.value)


def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    """A secret that was not mounted must not open the proxy either."""
    with pytest.raises(SettingsError, match="cannot be read: No such file or directory"):
        load({"API_KEYS_FILE": str(tmp_path / "keys")})
