"""Addresses: URLs from the job server are only called on that server, and a value stays in its place in a URL."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.job_server.addresses import address, origin
from shared.job_server.calls import Call, masked
from shared.job_server.placeholders import UnfilledError
from shared.job_server.profile import Cancel, Result, Server, Status

SERVER = "http://jobs:8080/v1/"


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("", {}, SERVER),
        ("/jobs", {}, "http://jobs:8080/v1/jobs"),
        (
            "/jobs/{id}:cancel?wait=false",
            {"id": "a b/c?d#e%"},
            "http://jobs:8080/v1/jobs/a%20b%2Fc%3Fd%23e%25:cancel?wait=false",
        ),
        ("/{path}/run", {"path": "a/b c"}, "http://jobs:8080/v1/a/b%20c/run"),
        ("{url}?f=json", {"url": "http://jobs:8080/jobs/1"}, "http://jobs:8080/jobs/1?f=json"),
        ("{url}/results", {"url": "/jobs/1"}, "http://jobs:8080/jobs/1/results"),
        ("{url}", {"url": "HTTP://JOBS:8080/x"}, "http://JOBS:8080/x"),
    ],
)
def test_a_template_is_filled_in(template: str, values: dict[str, str], expected: str) -> None:
    """A value that is a URL is inserted unchanged at the beginning; any other is encoded."""
    assert address(SERVER, template, values) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("http://jobs:8080/s//1?a=@", "http://a%40b:c@jobs:8080/s//1?a=@"),
        ("HTTP://JOBS:8080/s", "http://a%40b:c@JOBS:8080/s"),
        ("/s", "http://a%40b:c@jobs:8080/s"),
        ("http://d:e@jobs:8080/s", "http://d:e@jobs:8080/s"),
    ],
)
def test_a_url_that_the_job_server_named_is_called_with_its_password(named: str, expected: str) -> None:
    """Job servers do not repeat the one that they were called with."""
    assert address("http://a%40b:c@jobs:8080/v1", "{url}", {"url": named}) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://other:8080/jobs/1",
        "https://jobs:8080/jobs/1",
        "http://jobs/jobs/1",
        "//other/jobs",
        "http://jobs:8080@other/",
        "http://jobs:8080.other/",
        "http://jobs:99999/",
        "http://[::1/",
        "http://jobs:8080/a\r\nX: y",
    ],
)
def test_a_url_that_is_not_on_the_job_server_is_not_called(url: str) -> None:
    """Credentials are not sent elsewhere."""
    with pytest.raises(UnfilledError, match="not on the job server"):
        address(SERVER, "{url}", {"url": url})


@pytest.mark.parametrize(
    ("server", "template", "value"),
    [
        ("http://127.0.0.1", "{url}", "0"),
        ("https://api.example.com", "{url}", ".evil.com"),
        ("https://api.example.com", "{url}", "@evil.com/"),
        ("https://api.example.com", "{url}", ":8443/jobs"),
        ("https://api.example.com/v1", "{url}/status", "jobs/1"),
        ("https://api.example.com", "{url}", ""),
        ("https://api.example.com", "{url}.evil.com", "https://api.example.com"),
        ("https://api.example.com", "{url}{url}", "https://api.example.com"),
    ],
)
def test_nothing_is_appended_to_the_host(server: str, template: str, value: str) -> None:
    """It would be another host, or another port."""
    with pytest.raises(UnfilledError, match="the address that the job server named is "):
        address(server, template, {"url": value})


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("/jobs/{id}", {}),
        ("/jobs/{id}", {"id": ""}),
        ("/jobs/{id}", {"id": ".."}),
        ("/{path}", {"path": "a/../b"}),
        ("/{path}", {"path": "a//b"}),
        ("/{path}", {"path": "a/"}),
        ("/{path}", {"path": "./a"}),
    ],
)
def test_a_call_without_a_value_or_with_one_that_leaves_its_place_is_not_made(
    template: str, values: dict[str, str]
) -> None:
    """Such values come from a broken or malicious job server."""
    with pytest.raises(UnfilledError):
        address(SERVER, template, values)


@given(st.text(min_size=1).filter(lambda text: text not in {".", ".."}))
def test_whatever_an_id_is_it_stays_one_segment(text: str) -> None:
    """And means the same to its reader."""
    try:
        parts = urlsplit(address(SERVER, "/jobs/{id}/cancel", {"id": text}))
    except UnicodeEncodeError:
        return
    *_, jobs, segment, cancel = parts.path.split("/")
    assert (jobs, unquote(segment), cancel, parts.query, parts.fragment) == ("jobs", text, "cancel", "", "")


def test_an_origin_is_scheme_host_and_port() -> None:
    """With the scheme's default port."""
    assert origin("https://Jobs/a") == origin("https://jobs:443/b") != origin("http://jobs/a")


def test_a_call_says_what_it_needs_of_the_job_server() -> None:
    """Our own values are always known; others decide whether the call can be made after a lost reply."""
    server = Server(headers={"Authorization": "Bearer {env:KEY}"})
    assert Call(SERVER, server, Status(url="/threads/{job_uuid}")).needs == frozenset()
    assert Call(SERVER, server, Status(url="/j/{id}", headers={"X": "{key}"})).needs == {"id", "key"}
    assert Call(SERVER, server, Cancel(url="/c", body={"a": [{"b": "{id}"}]})).needs == {"id"}


def test_a_call_is_made_with_headers_and_body() -> None:
    """With the server's headers."""
    server = Server(headers={"Authorization": "Bearer {env:KEY}"})
    values = {"env:KEY": "k", "id": "7"}
    cancel = Call(SERVER, server, Cancel(url="/cancel", body={"uuid": "{id}"})).request(values)
    assert (cancel.method, cancel.url, cancel.body) == ("POST", "http://jobs:8080/v1/cancel", b'{"uuid": "7"}')
    assert cancel.headers == {"Authorization": "Bearer k", "Content-Type": "application/json"}
    result = Call(SERVER, Server(), Result(url="/r/{id}")).request(values)
    assert (result.method, result.headers, result.body) == ("GET", {}, b"")


def test_a_calls_own_headers_replace_the_servers_in_whatever_case() -> None:
    """Two credentials in one request are none."""
    server = Server(headers={"Authorization": "Bearer all", "X": "1"})
    status = Call(SERVER, server, Status(url="/s", headers={"authorization": "Bearer own"})).request({})
    assert status.headers == {"authorization": "Bearer own", "X": "1"}
    cancel = Call(SERVER, server, Cancel(url="/c", headers={"content-type": "text/json"}, body={"a": 1})).request({})
    assert cancel.headers == {"content-type": "text/json", "Authorization": "Bearer all", "X": "1"}


def test_what_cannot_stand_in_a_header_is_not_sent() -> None:
    """A line break would start another header."""
    with pytest.raises(UnfilledError, match="the header X"):
        Call(SERVER, Server(), Status(url="/", headers={"X": "{key}"})).request({"key": "a\r\nB: c"})


def test_secrets_are_masked() -> None:
    """And nothing else."""
    assert masked({"env:KEY": "secret", "id": "7"}) == {"env:KEY": "•••", "id": "7"}


def test_what_looks_like_a_placeholder_in_a_value_is_text() -> None:
    """If a job server names a job `{env:KEY}`, or after another value, it gets no secret, and no loop is endless."""
    section = Cancel(url="/jobs/{a}", headers={"X-A": "{a}"}, body={"a": "{a}", "b": ["{b}"]})
    values = {"a": "{env:KEY}", "b": "{a}", "env:KEY": "hush"}
    request = Call(SERVER, Server(), section).request(values)
    assert request.url == "http://jobs:8080/v1/jobs/%7Benv:KEY%7D"
    assert request.headers["X-A"] == "{env:KEY}"
    assert request.body == b'{"a": "{env:KEY}", "b": ["{a}"]}'
