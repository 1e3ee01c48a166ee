"""A partial look at a document finds what a whole one does, and refuses what that refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import strict_json
from shared.errors import StrictJSONError
from shared.job_server.partial_json import PartialReader
from tests.support.bad_json import BAD_VALUES

READER = PartialReader(["state", "data", "state"])

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["state", "data"]), inner),
)
#: Pieces that come close to JSON, and to what is none.
_PIECES = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", '"', "state", ":", ",", "\\", "\\\\", "u", "\\ud83d", "\\ude00", "d800", "1", "0", "e9",
         "-", ".", "null", "NaN", " ", "\n", "\x00", "é", '{"state":', '"x"', "\ufeff"]
    )
)  # fmt: skip


def whole(data: bytes) -> object:
    """Return what the reference says: what was asked for, nothing for what is no object, or why it is refused."""
    try:
        document = strict_json.loads(data)
    except StrictJSONError as exc:
        return str(exc)
    return {name: document.get(name) for name in ("state", "data")} if isinstance(document, dict) else None


def partial(data: bytes) -> object:
    """Return the same of a partial look."""
    try:
        return READER.read(data)
    except StrictJSONError as exc:
        return str(exc)


@given(_JSON, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_is_is_read_alike(value: object, ascii_only: bool, indent: int | None) -> None:
    """Whatever it holds, and however it is written."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    data = text.encode("utf-8", "surrogatepass")

    assert partial(data) == whole(data)


@given(_PIECES)
def test_what_is_almost_json_is_judged_alike(pieces: list[str]) -> None:
    """Accepted by both, or refused by both in the same words."""
    data = "".join(pieces).encode()

    assert partial(data) == whole(data)


@given(st.binary())
def test_any_bytes_are_judged_alike(data: bytes) -> None:
    """Accepted by both, or refused by both in the same words."""
    assert partial(data) == whole(data)


@pytest.mark.parametrize("data", [data for data, _ in BAD_VALUES.values()], ids=BAD_VALUES)
def test_what_is_refused_is_refused_in_a_member_that_nobody_asks_for(data: bytes) -> None:
    """Passing over is not letting through."""
    inside = b'{"other": ' + data + b', "state": "completed"}'

    assert partial(data) == whole(data)
    assert partial(inside) == whole(inside)


@pytest.mark.parametrize(
    "text",
    [
        r'{"state": "a", "x": "\ud83d\ude00"}',
        r'{"state": "a", "x": "\\ud83d\ude00"}',
        r'{"state": "a", "x": "\ud83d"}',
        r'{"state": "\ud83d\ude00"}',
        '{"state": 1e400}',
        '{"state": "first", "state": "last"}',
        '{"state": 123456789012345678901234567890}',
        '{"state": "a", "x": 0.' + "1" * 5_000 + "}",
        '{"state": "a", "x": ' + "1" * 5_000 + "}",
        '{"state": "a", "x": ' + "[" * 900 + "]" * 900 + "}",
        '{"state": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_where_two_parsers_could_differ_they_do_not(text: str) -> None:
    """Surrogates, large numbers, a name that stands twice, depth."""
    assert partial(text.encode()) == whole(text.encode())
