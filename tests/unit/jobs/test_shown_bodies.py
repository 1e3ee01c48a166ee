"""Bodies as shown to people."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.jobs import shown_bodies
from proxy.jobs.shown_bodies import ShownBodies
from shared.job_server.labels import is_secret_value


def test_secrets_are_masked_wherever_they_are() -> None:
    """By their names, by their form, and by the operator's setting."""
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


def test_secrets_in_json_that_stands_in_a_text_are_masked() -> None:
    """Some APIs take JSON as a text, such as a signed one."""
    inner = {"auth": {"secret": "hunter2"}, "list": [json.dumps({"pin": 1, "a": "[b"})], "note": "[sic]"}
    body = {"params": f" {json.dumps(inner)}", "twice": json.dumps(json.dumps({"password": "x"}))}
    shown = ShownBodies(10_000, ["pin"]).shown(json.dumps(body).encode(), "")
    params, twice = json.loads(shown["body"]).values()
    assert json.loads(params) == {
        "auth": {"secret": "***"},
        "list": [json.dumps({"pin": "***", "a": "[b"})],
        "note": "[sic]",
    }
    assert json.loads(json.loads(twice)) == {"password": "***"}


def test_a_body_is_cut_after_it_was_masked() -> None:
    """Between two characters; the size is that of the whole."""
    body = '{"a": "\u00e9\u00e9\u00e9\u00e9"}'.encode()
    shown = ShownBodies(10, ()).shown(body, "")
    assert shown == {"body": '{"a": "\u00e9', "bytes": len(body), "cut": True, "content_type": ""}
    assert json.loads(ShownBodies(10, ()).recorded(body, "")) == shown


def test_no_callback_url_is_shown_with_its_token() -> None:
    """Some job servers repeat it."""
    token = "Zq0yJv0m4n3sS1c2k9Qh7bqVvF1WJm8eRk5u2y6T0dA"
    shown = ShownBodies(1_000, ()).shown(json.dumps({"at": f"http://proxy/callback/{token}"}).encode(), "")
    assert token not in shown["body"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"%PDF", "application/pdf"), (b"{", ""), (b"[" * 50_000, ""), (b'"' + b"x" * 65_536 + b'"', "")],
    ids=["not JSON", "broken", "deep", "large"],
)
def test_what_cannot_be_masked_is_not_shown(body: bytes, content_type: str) -> None:
    """Only its size."""
    shown = ShownBodies(1_000, ()).shown(body, content_type)
    assert shown["body"] == "(not shown: it is no JSON, or has more than 64 KiB)"
    assert (shown["bytes"], shown["cut"]) == (len(body), True)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        [
            "4111111111111111",
            4111111111111,
            "411111111111",
            "a1" * 16,
            '\\u00e9"',
            "",
            '[1, {"pin": "\\\\u00e9"}]',
            '"[0.10]"',
        ]
    ),
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.one_of(st.text(), st.sampled_from(["pin", "card", "", "a"])), inner)
    ),
)


@given(value=_JSON, max_bytes=st.integers(1, 200))
@example(value=[None], max_bytes=2)
@example(value={"": [None]}, max_bytes=4)
def test_what_is_cut_off_is_left_out_before(value: object, max_bytes: int) -> None:
    """The shown part is the beginning of the whole, masked; and it says whether there is more."""
    body = json.dumps(value).encode()
    whole = ShownBodies(1_000_000, ["pin"]).shown(body, "")
    shown = ShownBodies(max_bytes, ["pin"]).shown(body, "")
    assert whole is not None
    text = whole["body"].encode("utf-8", "backslashreplace")
    assert shown["body"] == text[:max_bytes].decode("utf-8", "ignore")
    assert shown["cut"] is (len(text) > max_bytes)


@pytest.mark.parametrize(
    "body",
    [[1] * 20_000, ["ab"] * 10_000, [{"a": 1}] * 8_000, [[]] * 16_000, {f"{n:x}": 0 for n in range(6_000)}],
    ids=["numbers", "texts", "objects", "empty", "names"],
)
def test_what_is_not_shown_costs_nothing(body: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop has no time for everything that a body may contain."""
    looked_at = 0

    def counted(text: str) -> bool:
        nonlocal looked_at
        looked_at += 1
        return is_secret_value(text)

    monkeypatch.setattr(shown_bodies, "is_secret_value", counted)
    monkeypatch.setattr(shown_bodies, "is_secret_name", counted)
    ShownBodies(1_000, ()).shown(json.dumps(body, separators=(",", ":")).encode(), "")
    assert looked_at <= 1_000


@pytest.mark.parametrize(("digits", "masked"), [("4" * 12, False), ("4" * 13, True)])
def test_the_shortest_card_number_is_masked(digits: str, masked: bool) -> None:
    """As a text and as a number."""
    shown = ShownBodies(1_000, ()).shown(f'["{digits}", {digits}]'.encode(), "")
    assert (digits in shown["body"]) is not masked
