"""URLs as they may be shown."""

from __future__ import annotations

import pytest

from shared.shown_urls import shown_path


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("", ""),
        ("/start", "/start"),
        ("/v1/predictions", "/v1/predictions"),
        ("/123456789012/async-job-proxy-production-replies-2.fifo", None),
        ("/hooks/Zq0yJv0m4n3sS1c2k9Qh7bqVvF1WJm8eRk5u2y6T0dA/run", "/hooks/.../run"),
        ("/hooks/sk-live_4eC39HqLyjWDarjtT1zdp7dc", "/hooks/..."),
        ("/9f86d081-884c-7d65-9a2f-eaa0c55ad015/", "/.../"),
        ("/anendpointwithalongname/v2", "/anendpointwithalongname/v2"),
    ],
)
def test_what_looks_random_is_not_shown(path: str, shown: str | None) -> None:
    """A key, a token, a UUID; but not names made by people."""
    assert shown_path(path) == (path if shown is None else shown)
