"""Expressions: the fast way for plain paths finds the same as jmespath, and nothing raises."""

from __future__ import annotations

import subprocess
import sys

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.job_server.expressions import body_members, compile_expression, is_true, text_of

names = st.sampled_from(["a", "b", "body", "x-y", "_1", "A9"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(names, min_size=1, max_size=4), values)
def test_a_plain_path_finds_what_jmespath_finds(steps: list[str], value: object) -> None:
    """In any value."""
    text = ".".join(f'"{step}"' if "-" in step else step for step in steps)
    assert compile_expression(text)(value) == jmespath.search(text, value)


@pytest.mark.parametrize(
    "text",
    ["max(body)", "sort(body)", "body[0].a", "sum(body)", "ceil(body)", "to_number(body)", "body.*.a", "a && b || !c"],
)
@given(values)
def test_what_goes_wrong_is_null(text: str, value: object) -> None:
    """A wrong argument of a function raises nothing."""
    compile_expression(text)({"body": value})


def test_a_number_that_is_no_number_is_null() -> None:
    """1e400 is infinite in Python, which has no integer for that."""
    assert compile_expression("ceil(body)")({"body": float("inf")}) is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://localhost:5000/jobs/9a-1", "9a-1"),
        ("/jobs/9a%201/?f=json#x", "9a 1"),
        ("9a", "9a"),
        ("http://jobs", None),
        ("http://[::1/jobs/1", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_a_location_can_count_by_its_last_segment(url: object, name: str | None) -> None:
    """For job servers whose address only works on their side."""
    assert compile_expression("basename(headers.location)")({"headers": {"location": url}}) == name


@pytest.mark.parametrize("text", ["a.", "a b", "a[", "'a", "no_such_function(a)+", '"', "a == "])
def test_what_is_no_expression_is_refused(text: str) -> None:
    """With jmespath's reason, in one line."""
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        compile_expression(text)


def test_an_empty_expression_finds_nothing() -> None:
    """A profile without one has no state."""
    assert compile_expression("")({"a": 1}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (True, "true"), (False, "false"), (0, "0"), (40, "40"), (1.5, "1.5"), (None, ""), ([], ""), ({}, "")],
)
def test_a_boolean_or_a_number_counts_by_its_text(value: object, text: str) -> None:
    """Null, lists and objects have no text."""
    assert text_of(value) == text


@given(values)
def test_true_is_what_jmespath_takes_for_true(value: object) -> None:
    """Numbers are always true, empty values never."""
    assert is_true(value) is (jmespath.search("a && 'yes' || 'no'", {"a": value}) == "yes")


def test_plain_paths_do_without_jmespath() -> None:
    """A worker is forked from a small process."""
    code = (
        "import sys; from shared.job_server.expressions import compile_expression as c;"
        "c('body.state'); c('headers.\"x-state\"'); sys.exit('jmespath' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", set()),
        ("route", set()),
        ('headers."x-state"', set()),
        ("body", None),
        ("body.state", {"state"}),
        ("body.job.state", {"job"}),
        ("body.a.b || body.c", {"a", "c"}),
        ("body.parts[0].text", {"parts"}),
        ("body.parts[?kind == `1`].text", {"parts"}),
        ("body.parts[].text", {"parts"}),
        ("body.parts[1:2]", {"parts"}),
        ("body.a | b", {"a"}),
        ("join('', ['/', body.build.url])", {"build"}),
        ("not_null(body.p.o[0], {b: body.b})", {"p", "b"}),
        ("body.{a: b}", None),
        ("body.[a, b]", None),
        ("body.*", None),
        ("body[0]", None),
        ("body | a", None),
        ("*.state", None),
        ("@.body.state", None),
        ("keys(@)", None),
        ("length(body)", None),
        ("(!body).a", None),
        ("headers.body", set()),
    ],
)
def test_it_is_known_which_members_of_the_body_an_expression_reads(text: str, members: set[str] | None) -> None:
    """All of them if that cannot be determined; with these alone it finds the same."""
    found = body_members(text)
    assert found == members
    if found is not None:
        parts = [{"kind": 1, "text": "t"}, [{"text": 1}]]
        jobs = {"state": "x", "job": {"state": 1}, "build": {"url": "u"}, "p": {"o": [0]}}
        body = {**jobs, "a": {"b": 2}, "b": None, "c": 3, "parts": parts, "other": 4}
        seen = {"route": "r", "headers": {"x-state": "h"}}
        part = {name: body.get(name) for name in found}
        read = compile_expression(text)
        assert read({**seen, "body": part}) == read({**seen, "body": body})
