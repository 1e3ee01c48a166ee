"""A client's `Prefer` header."""

from __future__ import annotations

import pytest

from proxy.api.clients.request_headers import Preference, preference


def read(*headers: str) -> Preference:
    """Return what a request with these `Prefer` headers prefers."""
    return preference({"headers": [(b"prefer", header.encode("latin-1")) for header in headers]})


@pytest.mark.parametrize(
    ("header", "wait_s", "respond_async"),
    [
        ("respond-async", None, True),
        ("Respond-Async", None, True),
        ("wait=5", 5, False),
        ('wait="5"', 5, False),
        ("wait = 5 ; a = b", 5, False),
        ("respond-async, wait=5", 5, True),
        ("respond-async;foo=bar;baz,wait=5", 5, True),
        ('foo; bar="x, wait=3"; baz, wait=5', 5, False),
        (r'foo="\", wait=3", wait=5', 5, False),
        ("foo; ; ; ;, wait=5", 5, False),
        ("foo; wait=3", None, False),
        ("wait=3, wait=5", 3, False),
        ("(, wait=5", 5, False),
    ],
)
def test_preferences_are_read_as_the_rfc_has_them(header: str, wait_s: int | None, respond_async: bool) -> None:
    """RFC 7240: a list, with parameters that are ignored here; the first of each name counts."""
    assert read(header) == Preference(wait_s=wait_s, respond_async=respond_async)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "=",
        ",,,",
        '"',
        "\\",
        'wait="',
        "wait",
        "wait=",
        "wait=-1",
        "wait=1.5",
        "wait=²",
        "wait=9999999999",
        f"wait=5, {'x' * 250}",
    ],
)
def test_invalid_preferences_are_ignored(header: str) -> None:
    """As RFC 7240 says."""
    assert read(header) == Preference()


def test_several_headers_are_one_list() -> None:
    """RFC 9110, 5.3."""
    assert read("wait=5", "respond-async, wait=6") == Preference(wait_s=5, respond_async=True)
