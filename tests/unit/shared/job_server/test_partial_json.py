"""A partial parse of a document finds what a full one does, and refuses what that refuses."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import strict_json
from shared.errors import StrictJSONError
from shared.job_server.partial_json import MAX_MEMBERS, ExactPart, PartialReader, object_members
from shared.job_server.verdict import Part
from tests.support.bad_json import BAD_VALUES

READER = PartialReader(["state", "data", "state"])

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["state", "data"]), inner),
)
#: Pieces of almost valid and of invalid JSON.
_PIECES = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", '"', "state", ":", ",", "\\", "\\\\", "u", "\\ud83d", "\\ude00", "d800", "1", "0", "e9",
         "-", ".", "null", "NaN", " ", "\n", "\x00", "é", '{"state":', '"x"', "\ufeff"]
    )
)  # fmt: skip


def whole(data: bytes) -> object:
    """Return what the full parser says: the members, nothing if it is not an object, or the error."""
    try:
        document = strict_json.loads(data)
    except StrictJSONError as exc:
        return str(exc)
    return {name: document.get(name) for name in ("state", "data")} if isinstance(document, dict) else None


def partial(data: bytes) -> object:
    """Return the same for a partial parse."""
    try:
        return READER.read(data)
    except StrictJSONError as exc:
        return str(exc)


@given(_JSON, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_is_is_read_alike(value: object, ascii_only: bool, indent: int | None) -> None:
    """Whatever it contains, and however it is formatted."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    data = text.encode("utf-8", "surrogatepass")

    assert partial(data) == whole(data)


@given(_PIECES)
def test_what_is_almost_json_is_judged_alike(pieces: list[str]) -> None:
    """Accepted by both, or refused by both with the same reason."""
    data = "".join(pieces).encode()

    assert partial(data) == whole(data)


@given(st.binary())
def test_any_bytes_are_judged_alike(data: bytes) -> None:
    """Accepted by both, or refused by both with the same reason."""
    assert partial(data) == whole(data)


@pytest.mark.parametrize("data", [data for data, _ in BAD_VALUES.values()], ids=BAD_VALUES)
def test_what_is_refused_is_refused_in_a_member_that_nobody_asks_for(data: bytes) -> None:
    """Skipping a member does not mean accepting it."""
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
        '{"state": "a", "x": "' + "1" * 5_000 + '"}',
        '{"state": "a", "x": [1, -' + "1" * 5_000 + "]}",
        '{"state": "a", "x": 1e-' + "0" * 5_000 + "1}",
        '{"state": "a", "x": ' + "1" * 5_000 + "e-5}",
        r'{"state": "a", "x": "\\\\ud83d\ude00"}',
        r'{"state": "a", "x": "\\\\\ud83d\ude00"}',
        r'{"state": "a", "x": "\ud83d\\\\ude00"}',
        '{"state": "a", "x": ' + "[" * 900 + "]" * 900 + "}",
        '{"state": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_where_two_parsers_could_differ_they_do_not(text: str) -> None:
    """Surrogates, large numbers, a duplicate name, depth."""
    assert partial(text.encode()) == whole(text.encode())


@given(_JSON, st.sampled_from([None, 1]))
def test_an_exact_part_is_what_any_other_part_is(value: object, indent: int | None) -> None:
    """Its text, or null if there is none: below a list, a text, or another member."""
    document = {"state": value, "data": {"state": value, 'a"\u00e9': 0}}
    data = json.dumps(document, indent=indent).encode()
    seen = {"body": document}
    for path in (
        ("state",),
        ("data", "state"),
        ("state", "data", "state"),
        ("data", "x"),
        ("x", "y"),
        ("data", 'a"\u00e9'),
    ):
        expression = ".".join(["body", *(json.dumps(name, ensure_ascii=False) for name in path)])
        if "\\" not in expression:
            assert ExactPart(expression, path).of(seen, data) == Part(expression).of(seen, data)


def test_what_stands_for_a_word_is_not_read_if_it_is_large() -> None:
    """A megabyte of arrays takes a tenth of a second to parse, and is no word anyway; a string always is."""
    reader = PartialReader(["state", "data"], words={"state"})
    large = b"[" + b"[1]," * 50_000 + b"1]"
    string = b'"' + b"x" * 100_000 + b'"'

    assert reader.read(b'{"state": %b, "data": %b}' % (large, large)) == {
        "state": large[:2_000].decode(),
        "data": json.loads(large),
    }
    assert reader.read(b'{"state": %b}' % string) == {"state": json.loads(string), "data": None}
    assert reader.read(b'{"state": [1, 1e400]}') == {"state": [1, float("inf")], "data": None}


# --- the members of a client's object --------------------------------------------------------------------------------


def exact(read: Callable[[bytes], dict[str, str]], data: bytes) -> object:
    """Return the members, or the error."""
    try:
        return read(data)
    except StrictJSONError as exc:
        return str(exc)


_NAMES = st.sampled_from(["a", "b", "", "state", "é", '"', "\\", "\n", "😀"]) | st.text()


@given(st.lists(st.tuples(_NAMES, _JSON), max_size=6), st.booleans(), st.sampled_from(["", " ", "\n\t"]))
def test_members_keep_their_exact_text_and_stand_once(
    pairs: list[tuple[str, object]], ascii_only: bool, space: str
) -> None:
    """As with the strict parser, also for duplicate names."""
    text = ",".join(
        f"{space}{json.dumps(name, ensure_ascii=ascii_only)}{space}:{space}{json.dumps(value)}{space}"
        for name, value in pairs
    )
    data = f"{space}{{{text or space}}}{space}".encode("utf-8", "surrogatepass")

    assert exact(object_members, data) == exact(strict_json.object_members, data)


@given(_PIECES)
def test_what_is_almost_an_object_is_judged_alike(pieces: list[str]) -> None:
    """Accepted by both, or refused by both with the same reason."""
    data = "".join(["{", *pieces, "}"]).encode()

    assert exact(object_members, data) == exact(strict_json.object_members, data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 12}',
        b'{"a": 12, "a": 1}',
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 1}',
        b'{"a": [1], "b": 2, "a": [1]}',
    ],
)
def test_a_name_that_stands_twice_is_refused(data: bytes) -> None:
    """Readers may not agree which one counts."""
    assert exact(object_members, data) == "an object has a duplicate name"


def test_an_object_has_no_more_members_than_can_be_looked_at() -> None:
    """A megabyte of short members would block the event loop."""
    members = {f"n{n}": n for n in range(MAX_MEMBERS)}

    assert len(object_members(json.dumps(members).encode())) == MAX_MEMBERS
    for body in (members | {"one": 1}, {f"n{n}": 0 for n in range(100_000)}):
        assert exact(object_members, json.dumps(body).encode()) == f"it has more than {MAX_MEMBERS} members"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": [' + b"1," * 50_000 + b"x]}", "malformed"),
        (b'{"a": [' + b"1," * 50_000, "truncated"),
        (b"[" + b"1," * 50_000 + b"1]", "not a JSON object"),
        (b'{"a":' + b"[" * 100_000, "nested too deep"),
        (b'{"a": "' + b"x" * 100_000 + b'\xff"}', "not UTF-8"),
    ],
)
def test_a_large_body_is_refused_in_few_words(data: bytes, reason: str) -> None:
    """To find a better one would take as long as parsing it."""
    assert reason in str(exact(object_members, data))
