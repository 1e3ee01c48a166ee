"""Strict JSON: untrusted input is read exactly or refused."""

from __future__ import annotations

import contextlib
import gzip
import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import strict_json
from shared.errors import StrictJSONError
from tests.support.bad_json import BAD_VALUES, NO_OBJECTS


@pytest.mark.parametrize(("data", "reason"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_each_kind_of_bad_json_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    """Both parsers raise the same exception, whose message says why."""
    with pytest.raises(StrictJSONError, match=reason):
        strict_json.loads(data)
    with pytest.raises(StrictJSONError):
        strict_json.object_members(data)


@pytest.mark.parametrize("data", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
def test_what_is_json_but_no_object_has_no_members(data: bytes) -> None:
    """Only an object can be a job."""
    strict_json.loads(data)
    with pytest.raises(StrictJSONError, match="not a JSON object"):
        strict_json.object_members(data)


@pytest.mark.parametrize(
    "data",
    [b'{"a": 1, "a": 1}', b'{"a": 1, "\\u0061": 2}'],
    ids=["as written", "by an escape"],
)
def test_a_name_that_stands_twice_is_refused(data: bytes) -> None:
    """Readers of such an object may not agree which one counts."""
    with pytest.raises(StrictJSONError, match="duplicate name"):
        strict_json.object_members(data)


@pytest.mark.parametrize(
    "data",
    [b'{"a" 1}', b'{"a": 1 "b": 2}', b"{1: 2}", b"{,}", b'{"a": 1,, "b": 2}', b'{"a": 1} x', b'{"a":}', b"{"],
)
def test_an_object_that_is_not_quite_one_is_refused(data: bytes) -> None:
    """The parser of members is as strict as the whole decoder."""
    with pytest.raises(StrictJSONError):
        strict_json.object_members(data)
    with pytest.raises(StrictJSONError):
        strict_json.loads(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1} {"b": 2}', "unexpected text at character 9"),
        (b"{}x", "unexpected text at character 2"),
        (b'{"a": 1', "expected a comma or a closing brace at character 7"),
        (b'{"a": 1 "b": 2}', "expected a comma or a closing brace at character 8"),
        (b'{"a": "\t"}', "Invalid control character at character 7"),
    ],
)
def test_a_reason_says_where_it_is(data: bytes, reason: str) -> None:
    """The first character that is wrong, counted from zero, in one phrase."""
    with pytest.raises(StrictJSONError) as caught:
        strict_json.object_members(data)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "text",
    [
        "1e400",
        "-1E+400",
        "0.10",
        "1.0000000000000000001",
        "123456789012345678901234567890",
        "-0",
        "-0.0",
        "1E5",
        '"\\u00e9"',
        '"é"',
        '"\\ud83d\\ude00"',
        '"\\/"',
        "[1,2 ,3]",
        '{ "b":1, "a" : 0.10 }',
        "null",
    ],
)
def test_a_value_keeps_its_exact_text(text: str) -> None:
    """It is not parsed and serialised again."""
    data = f' {{ "first" : 1 ,\n "value":\t{text}\r , "last":2}} '.encode()
    assert strict_json.object_members(data) == {"first": "1", "value": text, "last": "2"}


@pytest.mark.parametrize("data", [b"{}", b" { } ", b"{\n}"])
def test_an_empty_object_has_no_members(data: bytes) -> None:
    """With or without white space."""
    assert strict_json.object_members(data) == {}


def test_names_are_told_by_what_they_mean() -> None:
    """An escaped name is decoded."""
    assert strict_json.object_members(b'{"c\\u0061llback": 1}') == {"callback": "1"}


def test_a_pair_of_surrogates_is_a_character() -> None:
    """Only lone ones are refused."""
    assert strict_json.loads(b'"\\ud83d\\ude00"') == "\U0001f600"


_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]))
_VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
    max_leaves=6,
)


@given(value=_VALUES, ensure_ascii=st.booleans(), indent=st.sampled_from([None, 1, "\t"]))
def test_all_good_json_is_read_as_it_is(value: object, ensure_ascii: bool, indent: int | str | None) -> None:
    """The strict parser agrees with the standard one about all valid JSON."""
    data = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent).encode()
    assert strict_json.loads(data) == value


@given(value=st.dictionaries(_TEXT, _VALUES), indent=st.sampled_from([None, 1, "\t"]))
def test_members_put_together_again_are_the_same_object(value: dict[str, Any], indent: int | str | None) -> None:
    """Splitting an object and joining it again changes nothing."""
    members = strict_json.object_members(json.dumps(value, indent=indent).encode())
    again = "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in members.items()) + "}"
    assert json.loads(again) == value


@given(data=st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_input_breaks_the_reader(data: bytes) -> None:
    """Any input is either JSON or raises StrictJSONError."""
    for read in (strict_json.loads, strict_json.object_members):
        with contextlib.suppress(StrictJSONError):
            read(data)


@given(data=st.lists(st.sampled_from(["{", "}", "[", "]", ",", ":", '"a"', '"', "1", "null", " ", "\\ud800"])))
def test_both_readers_agree_what_an_object_is(data: list[str]) -> None:
    """Both accept the same objects, except those with duplicate names."""
    text = "".join(data).encode()
    try:
        value: object = strict_json.loads(text)
    except StrictJSONError:
        value = None
    try:
        members: dict[str, str] | None = strict_json.object_members(text)
    except StrictJSONError as exc:
        if "twice" in str(exc):
            return
        members = None
    assert (members is not None) is isinstance(value, dict)


@pytest.mark.parametrize(
    ("data", "what"),
    [(gzip.compress(b"{}", mtime=0), "gzip"), ("{}".encode("utf-16"), "UTF-16"), (b"\xfe\xff\x00{\x00}", "UTF-16")],
)
def test_what_is_often_sent_for_utf_8_is_refused_by_its_name(data: bytes, what: str) -> None:
    """So that the sender knows what to do."""
    with pytest.raises(StrictJSONError, match=f"it is {what}"):
        strict_json.loads(data)
