"""A target in absolute form."""

from __future__ import annotations

import pytest

from proxy.http.target import in_origin_form


@pytest.mark.parametrize(
    ("target", "origin", "host"),
    [
        (b"/a?b", b"/a?b", b"old"),
        (b"*", b"*", b"old"),
        (b"a:443", b"a:443", b"old"),
        (b"/a?to=http://other/", b"/a?to=http://other/", b"old"),
        (b"http://new/a?b=c", b"/a?b=c", b"new"),
        (b"HTTPS://new:8443/a", b"/a", b"new:8443"),
        (b"http://new", b"/", b"new"),
        (b"http://new?b", b"/?b", b"new"),
        (b"http://[::1]:3000/a", b"/a", b"[::1]:3000"),
        (b"http://new//a", b"//a", b"new"),
    ],
)
def test_the_host_of_the_target_replaces_the_header(target: bytes, origin: bytes, host: bytes) -> None:
    """And nothing else changes."""
    headers = [(b"a", b"1"), (b"host", b"old"), (b"b", b"2")]
    located = in_origin_form(target, headers)
    assert located is not None
    path, fields = located
    assert path == origin
    assert [value for name, value in fields if name == b"host"] == [host]
    assert [field for field in fields if field[0] != b"host"] == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize(
    "target",
    [
        b"ftp://new/a",
        b"http:///a",
        b"http://?a",
        b"http://user@new/a",
        b"http://user:word@new/a",
        b"http://a b/",
        b"http://new:port/",
        b"http://new/a#b",
        b"x://",
    ],
)
def test_another_url_is_refused(target: bytes) -> None:
    """One without a host, with a user, with a fragment, or of another scheme."""
    assert in_origin_form(target, [(b"host", b"old")]) is None
