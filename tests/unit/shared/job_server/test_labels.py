"""Labels, by which people recognise a job, and what is never shown."""

from __future__ import annotations

import json

import pytest

from shared.job_server.labels import HIDDEN, Labels
from shared.job_server.partial_json import object_members


def labels(job: dict[str, object], *names: str) -> dict[str, str]:
    """Return the labels of a job that a client sent."""
    return Labels(names).of(object_members(json.dumps(job).encode()))


def test_the_members_that_are_named_are_the_labels() -> None:
    """Texts unchanged, numbers and booleans as in JSON; missing members, null and others are left out."""
    job = {"account": "example", "n": 1.50, "ok": True, "none": None, "list": [1], "object": {}, "other": "x"}

    assert labels(job, "account", "n", "ok", "none", "list", "object", "missing") == {
        "account": "example",
        "n": "1.5",
        "ok": "true",
    }


def test_a_long_value_is_cut() -> None:
    """A line of the log stays a line."""
    assert labels({"account": "long " * 100}, "account") == {"account": ("long " * 20) + "…"}


@pytest.mark.parametrize(
    "name",
    [
        *("password", "api_key", "apiKey", "card_number", "access_token", "client_secret", "cvv"),
        *("password_confirmation", "newPassword2", "db_pwd", "pass"),
    ],
)
def test_a_member_whose_name_says_secret_is_not_shown(name: str) -> None:
    """Whatever its value."""
    assert labels({name: "short"}, name) == {name: HIDDEN}


@pytest.mark.parametrize(
    "value",
    [
        "4111111111111111",
        '{"user": "a", "password": "short"}',
        json.dumps({"params": json.dumps({"pwd": "short"})}),
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "order 4111111111111111 paid",
        "sk_live_51H8xQwErTyUiOpAsDfGhJkLzXcV",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0",
        "0123456789abcdef0123456789abcdef",
        "https://anna:hunter2@hooks.example.com/done",
        "see https://hooks.example.com/done?n=1&access_token=short",
    ],
)
def test_a_value_that_looks_like_a_secret_is_not_shown(value: str) -> None:
    """Whatever its name."""
    assert labels({"account": value}, "account") == {"account": HIDDEN}


@pytest.mark.parametrize(
    "value",
    [
        "example",
        "Müller & Söhne",
        "2026-11-26T10:00:00Z",
        "order-12345678",
        "a" * 60,
        "https://example.com:81/a@b?c=d",
        '{"a": "token"}',
    ],
)
def test_a_usual_value_is_shown(value: str) -> None:
    """Names, dates, order numbers."""
    assert labels({"account": value}, "account") == {"account": value}


@pytest.mark.parametrize("name", ["passenger", "passport", "compass_point"])
def test_a_member_whose_name_only_begins_like_a_secret_is_shown(name: str) -> None:
    """A pass alone is one."""
    assert labels({name: "short"}, name) == {name: "short"}
