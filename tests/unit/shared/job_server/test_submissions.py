"""Submissions: what a client may send, and what is merged into it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import strict_json
from shared.errors import Code, RequestError
from shared.job_server import client_jobs
from shared.job_server.client_jobs import ClientJob, ClientJobs
from shared.job_server.placeholders import UnfilledError
from shared.job_server.profile import Callback, Profile, Server, Submit
from shared.job_server.submissions import Submissions

VALUES = {"callback_url": "http://proxy/callback/t", "callback_token": "t", "job_id": "j"}
SECONDS = Submit(body={"callback": "{callback_url}"}, respond_async={"wait": 0})
OBJECT = Submit(body={"callback": "{callback_url}"}, respond_async={"mode": {"a": True, "b": [1, "x"]}})
FLAT = Submit(body={"wait": False, "callback": "{callback_url}"}, overwrites=("wait",), respond_async={"wait": False})
NESTED = Submit(
    body={
        "configuration": {"now": True, "push": {"url": "{callback_url}", "token": "{callback_token}"}},
        "id": "{job_id}",
    },
    overwrites=("configuration.now",),
    respond_async={"configuration.now": True},
)


def submissions(submit: Submit, server: Server | None = None) -> Submissions:
    """Return the rules that compose submissions."""
    callback = Callback(state="body.state", succeeded=("done",))
    profile = Profile(name="test", server=server or Server(), submit=submit, callback=callback)
    return Submissions(profile, "http://jobs/v1")


def read(submit: Submit, body: bytes) -> ClientJob:
    """Check a client's object."""
    return ClientJobs(submit).read(body)


def made(submit: Submit, body: bytes) -> bytes:
    """Compose a submission from a client's object."""
    return submissions(submit).compose(read(submit, body).body, VALUES).body


def refused(submit: Submit, body: bytes) -> str:
    """Return why a client's object is refused."""
    with pytest.raises(RequestError) as caught:
        read(submit, body)
    assert caught.value.code is Code.INVALID_REQUEST
    return caught.value.detail


def test_the_clients_text_comes_first_and_is_kept() -> None:
    """Numbers that parsing and writing would change, escapes, the order."""
    body = b'{"b": 1e400, "a":0.10, "wait":true, "s": "\\u00e9 {callback_url}", "o": { "x" : [1.0,2] }}'
    assert made(FLAT, body) == (
        b'{"b":1e400,"a":0.10,"s":"\\u00e9 {callback_url}","o":{ "x" : [1.0,2] },'
        b'"wait":false,"callback":"http://proxy/callback/t"}'
    )


def test_an_empty_object_is_a_job() -> None:
    """Without an extra comma."""
    assert made(FLAT, b" { } ") == b'{"wait":false,"callback":"http://proxy/callback/t"}'


@pytest.mark.parametrize("body", [b'{"a": 1.0}', b" {}", b"", b"\x00\xff"])
def test_a_profile_that_sets_nothing_in_the_body_changes_no_byte_of_it(body: bytes) -> None:
    """Whatever it is."""
    assert made(Submit(), body) == body


def test_members_are_merged_into_those_of_the_client() -> None:
    """RFC 7396: objects are merged recursively, and other members keep their text."""
    body = b'{"m": 1.0, "configuration": {"x": 1e2, "push": {"y": [ ]}}}'
    assert made(NESTED, body) == (
        b'{"m":1.0,"configuration":{"x":1e2,"push":{"y":[ ],"url":"http://proxy/callback/t","token":"t"},"now":true},'
        b'"id":"j"}'
    )


def test_a_member_of_the_profiles_is_refused() -> None:
    """The client learns which, wherever it is."""
    assert refused(FLAT, b'{"callback": "http://mine"}') == "`callback` is set by the proxy, not by the client"
    assert "`configuration.push.url`" in refused(NESTED, b'{"configuration": {"push": {"url": 1}}}')


def test_what_cannot_be_merged_into_is_refused() -> None:
    """A member that is not an object would have to be replaced, but it is the client's."""
    assert "`configuration`" in refused(NESTED, b'{"configuration": []}')
    assert "`configuration.push`" in refused(NESTED, b'{"configuration": {"push": null}}')


def test_no_objects_are_made_of_a_large_member_that_is_merged_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte would block the event loop for a tenth of a second; only very many members are read in that way."""
    slow = strict_json.loads
    monkeypatch.setattr(client_jobs, "members_of", lambda text: dict.fromkeys(slow(text.encode()), "0"))
    rows = '"rows": [' + "[1]," * 50_000 + "1]"
    job = read(NESTED, b'{"configuration": {"now": true, %b}}' % rows.encode())
    assert job.respond_async
    assert job.body == b'{"configuration":{%b}}' % rows.replace(": ", ":").encode()
    many = json.dumps({"configuration": {f"n{n}": n for n in range(1_001)}}).encode()
    assert json.loads(read(NESTED, many).body) == {"configuration": {f"n{n}": 0 for n in range(1_001)}}


def test_a_member_that_may_be_overwritten_is_not_refused() -> None:
    """At the top and below."""
    assert json.loads(made(FLAT, b'{"wait": {"a": 1}}'))["wait"] is False
    assert json.loads(made(NESTED, b'{"configuration": {"now": null}}'))["configuration"]["now"] is True


@pytest.mark.parametrize(
    ("submit", "body", "expected"),
    [
        (FLAT, b'{"wait": false}', True),
        (FLAT, b'{"wait": true}', False),
        (FLAT, b'{"wait": 0}', False),
        (FLAT, b"{}", False),
        (NESTED, b'{"configuration": {"now": true}}', True),
        (NESTED, b'{"configuration": {}}', False),
        (NESTED, b'{"m": 1}', False),
        (Submit(), b'{"wait": false}', False),
        (SECONDS, b'{"wait": 0}', True),
        (SECONDS, b'{"wait": 0.0}', True),
        (SECONDS, b'{"wait": 0e1}', True),
        (SECONDS, b'{"wait": "0"}', False),
        (SECONDS, b'{"wait": false}', False),
        (OBJECT, b'{"mode": { "b":[1,"x"],\r\n\t"a" : null}}', False),
        (OBJECT, b'{"mode": { "b":[1,"\\u0078"],\r\n\t"a" : true}}', True),
        (OBJECT, b'{"mode": ' + b"[" * 150 + b"]" * 150 + b"}", False),
        (OBJECT, b'{"mode": {"a": true, "b": [1, "x"]' + b" " * 1_000 + b"}}", False),
    ],
)
def test_a_client_may_ask_not_to_be_kept_waiting(submit: Submit, body: bytes, expected: bool) -> None:
    """By a value that equals the profile's, in any notation; without any, there is no such client."""
    assert read(submit, body).respond_async is expected


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b'"a"', b"{", b'{"a":1,"a":2}', b'{"a": NaN}', b"\xff", b'{"configuration":{"a":1,"a":2}}'],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    """With the error, if the profile has to parse it."""
    assert refused(NESTED, body).startswith("the body is not a job: ")


def test_a_name_without_a_value_is_an_error() -> None:
    """Of the caller, who has to pass all values."""
    with pytest.raises(UnfilledError, match="callback_url"):
        submissions(FLAT).compose(b"{}", {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(st.sampled_from(["a", "b", "c", "é", '"']), json_values, max_size=4)


def merged(target: object, patch: object) -> object:
    """RFC 7396, section 2, without removals."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    return result | {name: merged(result.get(name), value) for name, value in patch.items()}


def without_braces(value: object) -> dict[str, Any]:
    """Strings without placeholders."""
    made: dict[str, Any] = json.loads(json.dumps(value).replace("{", "{ ").replace("}", " }"))
    return made


@given(objects, objects.filter(bool).map(without_braces))
def test_merging_is_that_of_the_rfc(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """If the client has the same member, it is overwritten if allowed, merged into, or refused."""
    body = json.dumps(target).encode()
    try:
        kept = read(Submit(body=patch, overwrites=tuple(patch)), body).body
    except RequestError as exc:  # a name with a dot or quotes in a nested object cannot be expressed
        raise AssertionError(exc.detail) from exc
    expected = merged({name: value for name, value in target.items() if name not in patch}, patch)
    assert json.loads(submissions(Submit(body=patch)).compose(kept, {}).body) == expected


def test_address_and_headers_are_filled_in() -> None:
    """Those of the server are sent with every call; values in a URL are percent-encoded."""
    submit = Submit(
        method="PUT",
        url="/jobs/{job_id}",
        headers={"X-Url": "{callback_url/done}", "X-Json": '{"a": "{callback_token}"}'},
        query={"hook": "{callback_url}", "x": "a b"},
    )
    request = submissions(submit, Server(headers={"Authorization": "Bearer {env:KEY}"})).compose(
        b"", VALUES | {"env:KEY": "secret", "job_id": "a/b"}
    )
    assert (request.method, request.url) == (
        "PUT",
        "http://jobs/v1/jobs/a%2Fb?hook=http%3A%2F%2Fproxy%2Fcallback%2Ft&x=a%20b",
    )
    assert request.headers == {
        "Authorization": "Bearer secret",
        "X-Url": "http://proxy/callback/t/done",
        "X-Json": '{"a": "t"}',
    }
    assert "secret" not in repr(request)


def test_a_clients_query_follows_what_the_url_has() -> None:
    """It is encoded anew, so that it stays a query. A profile that takes none ignores it, as always."""
    submit = Submit(url="/jobs", client_query=("a", "b"))
    query = ClientJobs(submit).query("b=%26x%3D1&a=%C3%A9+1&b=")
    for url, joined in (("/jobs", "?"), ("/jobs?c=1", "&")):
        made = submissions(Submit(url=url)).compose(b"", VALUES, query=query)
        assert made.url == f"http://jobs/v1{url}{joined}b=%26x%3D1&a=%C3%A9%201&b="
    assert ClientJobs(Submit()).query("b=1") == ""
    for text, words in (("a=1&c=2", "the query has `c`; "), ("a&" * 1_001, "the query has more than 1000 parameters")):
        with pytest.raises(RequestError, match=words) as caught:
            ClientJobs(submit).query(text)
        assert caught.value.code is Code.INVALID_REQUEST


def test_a_colon_in_a_path_remains_one() -> None:
    """Some job servers have methods behind it, and do not decode it."""
    compose = submissions(Submit(url="/{path}/x?of={job_id}")).compose
    values = VALUES | {"path": "models/@a/b:predict ü;/?c", "job_id": "urn:1&b=c"}
    assert compose(b"", values).url == "http://jobs/v1/models/@a/b:predict%20%C3%BC%3B/%3Fc/x?of=urn:1%26b%3Dc"


def test_in_json_that_is_written_as_a_text_a_value_stays_inside_its_quotes() -> None:
    """A client must not add members, such as another callback URL."""
    text = '{"of": "{path}", "hook": "{callback_url}"}'
    path = 'a", "hook": "http://mine'
    wanted = {"of": path, "hook": "http://proxy/callback/t"}
    submit = Submit(headers={"A": text, "B": "{path}"}, query={"q": text}, body={"params": text})
    request = submissions(submit).compose(b"{}", VALUES | {"path": path})
    assert json.loads(request.headers["A"]) == wanted
    assert request.headers["B"] == path
    assert json.loads(parse_qs(urlsplit(request.url).query)["q"][0]) == wanted
    assert json.loads(json.loads(request.body)["params"]) == wanted
    body = submissions(Submit(form={"params": text})).compose(b"", VALUES | {"path": path}, URLENCODED).body
    assert json.loads(parse_qs(body.decode())["params"][0]) == wanted


def test_a_submissions_own_headers_replace_the_servers_in_whatever_case() -> None:
    """And the type of a client's body those of both."""
    submit = Submit(headers={"authorization": "own", "content-type": "text/plain"})
    compose = submissions(submit, Server(headers={"Authorization": "all"})).compose
    assert compose(b"{}", VALUES).headers == {"authorization": "own", "content-type": "text/plain"}
    assert compose(b"a", VALUES, "text/csv").headers == {"authorization": "own", "Content-Type": "text/csv"}


def test_an_empty_address_is_that_of_the_server() -> None:
    """Unchanged, including the query."""
    assert submissions(FLAT).compose(b"{}", VALUES).url == "http://jobs/v1"


@pytest.mark.parametrize(
    ("submit", "content_type", "accepted"),
    [
        (FLAT, "application/json", True),
        (FLAT, "Application/JSON; charset=UTF-8", True),
        (FLAT, "application/json; charset=latin-1", False),
        (FLAT, "text/plain", False),
        (FLAT, "", False),
        (Submit(), "", True),
        (Submit(), "application/pdf", True),
        (Submit(), "text/plain; a=\xe9", False),
        (Submit(), "text/plain\x85", False),
        (Submit(), "text/plain;\xa0a=b", False),
        (Submit(), "text/plain\nx: y", False),
        (Submit(form={"hook": "{callback_url}"}), "multipart/form-data; boundary=b\xa0", False),
        (Submit(form={"hook": "{callback_url}"}), "application/json", False),
        (Submit(form={"hook": "{callback_url}"}), "multipart/form-data; boundary=b", True),
        (Submit(form={"hook": "{callback_url}"}, body={"a": 1}), "application/x-www-form-urlencoded", True),
        (Submit(form={"hook": "{callback_url}"}, body={"a": 1}), "application/json", True),
        (Submit(form={"hook": "{callback_url}"}, body={"a": 1}), "text/plain", False),
    ],
)
def test_only_what_the_profile_can_add_to_is_taken(submit: Submit, content_type: str, accepted: bool) -> None:
    """A submission without a callback URL would be a job that never ends."""
    jobs = ClientJobs(submit)
    if accepted:
        jobs.check_media_type(content_type)
    else:
        with pytest.raises(RequestError) as caught:
            jobs.check_media_type(content_type)
        assert caught.value.code is Code.UNSUPPORTED_MEDIA_TYPE


FORM = Submit(form={"hook": "{callback_url}"})
MULTIPART = b'--b\r\nContent-Disposition: form-data; name="a"; filename="hook"\r\n\r\n\xff\x00\r\n--b--\r\n'


URLENCODED = "application/x-www-form-urlencoded"
END = b"--b--\r\n"


def part(name: str, value: str) -> bytes:
    """Return a part of a multipart form."""
    return b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value.encode())


def sent(body: bytes, content_type: str) -> bytes:
    """Compose a submission from a client's form."""
    job = ClientJobs(FORM).read(body, content_type)
    request = submissions(FORM).compose(job.body, VALUES, job.content_type)
    assert request.headers["Content-Type"] == content_type
    return request.body


def test_a_field_is_added_to_a_form() -> None:
    """And the client's own bytes are not changed."""
    form = "application/x-www-form-urlencoded"
    assert sent(b"a=%C3%A9&b", form) == b"a=%C3%A9&b&hook=http%3A%2F%2Fproxy%2Fcallback%2Ft"
    assert sent(b"", form) == b"hook=http%3A%2F%2Fproxy%2Fcallback%2Ft"
    assert sent(MULTIPART, 'multipart/form-data; boundary="b"') == (
        b'--b\r\nContent-Disposition: form-data; name="hook"\r\n\r\nhttp://proxy/callback/t\r\n' + MULTIPART
    )


def test_a_field_that_may_be_overwritten_is_replaced() -> None:
    """In either kind of form; otherwise the job server would get two, and take either."""
    submit = Submit(form={"mode": "async"}, overwrites=("mode",))
    for content_type, body, expected in (
        (URLENCODED, b"mode=sync&x=1&m%6fde&y=2", b"x=1&y=2&mode=async"),
        (URLENCODED, b"mode=sync", b"mode=async"),
        (
            "multipart/form-data; boundary=b",
            part("x", "1") + part("mode", "sync") + END,
            part("mode", "async") + part("x", "1") + END,
        ),
        ("multipart/form-data; boundary=b", part("mode", "sync") + END, part("mode", "async") + END),
    ):
        job = ClientJobs(submit).read(body, content_type)
        assert submissions(submit).compose(job.body, VALUES, job.content_type).body == expected


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (b"hook=1", "application/x-www-form-urlencoded", "`hook` is set by the proxy"),
        (MULTIPART.replace(b'"a"', b'"hook"'), "multipart/form-data; boundary=b", "`hook` is set by the proxy"),
        (
            MULTIPART.replace(b'name="a"', b'NAME = "hook"'),
            "multipart/form-data; boundary=b",
            "`hook` is set by the proxy",
        ),
        (MULTIPART.replace(b'"a"', b"hook"), "multipart/form-data; boundary=b", "`hook` is set by the proxy"),
        (MULTIPART.replace(b'"a"', rb'"ho\ok"'), "multipart/form-data; boundary=b", "`hook` is set by the proxy"),
        (
            MULTIPART.replace(b'name="a"', b"name*=UTF-8''hook"),
            "multipart/form-data; boundary=b",
            "the body is not a job: a field's name is given as `name*`",
        ),
        (
            MULTIPART.replace(b'name="a"', b'Name *0="ho"; name*1="ok"'),
            "multipart/form-data; boundary=b",
            "the body is not a job: a field's name is given as `name*`",
        ),
        (MULTIPART, "multipart/form-data; boundary=other", "the body is not a job: it is not a multipart form"),
        (MULTIPART, "multipart/form-data", "the body is not a job: it is not a multipart form"),
        (b"", "multipart/form-data; boundary=b", "the body is not a job: it is not a multipart form"),
        (b"&" * 10_000, "application/x-www-form-urlencoded", "the body is not a job: it has more than 10000 fields"),
    ],
)
def test_a_form_is_refused_for_what_an_object_is_refused_for(body: bytes, content_type: str, why: str) -> None:
    """A field that the profile sets, or a body that does not match its type."""
    with pytest.raises(RequestError) as caught:
        ClientJobs(FORM).read(body, content_type)
    assert caught.value.detail.startswith(why)
