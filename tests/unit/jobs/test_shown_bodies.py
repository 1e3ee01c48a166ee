"""Bodies as people may see them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.jobs.shown_bodies import ShownBodies


def test_nothing_is_shown_unless_it_was_asked_for() -> None:
    """And nothing is recorded."""
    assert ShownBodies(0, ()).shown(b"{}", "") is None
    assert ShownBodies(0, ()).recorded(b"{}", "") is None


def test_secrets_are_masked_wherever_they_are() -> None:
    """By their names, by what they look like, and as the operator says."""
    body: dict[str, Any] = {
        "account": "acme",
        "amount": 1250,
        "ok": True,
        "none": None,
        "card": {"number": "x"},
        "list": [{"api_key": 7, "Email": "a@b"}, "4111 1111 1111 1111", 4111111111111111],
        "hash": "E850075A4063332DE3D1C254E2A255424361DBDC",
    }
    shown = ShownBodies(10_000, ["email"]).shown(json.dumps(body).encode(), "application/json")
    assert shown is not None
    assert json.loads(shown["body"]) == {
        "account": "acme",
        "amount": 1250,
        "ok": True,
        "none": None,
        "card": "***",
        "list": [{"api_key": "***", "Email": "***"}, "***", "***"],
        "hash": "***",
    }
    assert (shown["cut"], shown["content_type"]) == (False, "application/json")


def test_a_body_is_cut_after_it_was_masked() -> None:
    """Between two characters; its size is that of the whole."""
    body = '{"a": "\u00e9\u00e9\u00e9\u00e9"}'.encode()
    shown = ShownBodies(10, ()).shown(body, "")
    assert shown == {"body": '{"a": "\u00e9', "bytes": len(body), "cut": True, "content_type": ""}
    assert json.loads(ShownBodies(10, ()).recorded(body, "") or b"") == shown


def test_no_callback_url_is_shown_with_its_token() -> None:
    """Some job servers repeat it."""
    token = "Zq0yJv0m4n3sS1c2k9Qh7bqVvF1WJm8eRk5u2y6T0dA"
    shown = ShownBodies(1_000, ()).shown(json.dumps({"at": f"http://proxy/callback/{token}"}).encode(), "")
    assert shown is not None
    assert token not in shown["body"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"%PDF", "application/pdf"), (b"{", ""), (b"[" * 50_000, ""), (b'"' + b"x" * 65_536 + b'"', "")],
    ids=["not JSON", "broken", "deep", "large"],
)
def test_what_cannot_be_masked_is_not_shown(body: bytes, content_type: str) -> None:
    """Only its size."""
    shown = ShownBodies(1_000, ()).shown(body, content_type)
    assert shown is not None
    assert shown["body"] == "(not shown: it is no JSON, or has more than 64 KiB)"
    assert (shown["bytes"], shown["cut"]) == (len(body), True)
