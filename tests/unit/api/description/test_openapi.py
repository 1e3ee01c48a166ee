"""The description of the routes is complete, valid and true."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.clients.answers import status_document
from proxy.api.clients.request_headers import key_of
from proxy.api.description.docs_page import DocsPage
from proxy.api.description.html import prefers_html
from proxy.api.description.openapi import (
    OPERATORS_SOURCE,
    PROBLEM,
    SOURCE,
    Description,
    document,
    operations,
    operators_document,
    resolved,
)
from proxy.api.operators.job_filters import FILTERS
from proxy.http import problems
from shared.errors import Code, RequestError
from shared.lifecycle import State, Submitted
from shared.settings import Settings, load
from tests.support.records import finished

_BY_SETTINGS = [{}, {"GRANULAR_ERRORS": "true"}, {"API_KEYS": "secret-key"}, {"CALLBACK_PORT": "0"}]


_KEYED = {"ADMIN_KEYS": "anna:act:0123456789abcdef"}


@functools.cache
def _documents() -> list[dict[str, Any]]:
    """Made when a test runs, not when all processes collect their tests."""
    return [document(load(environ)) for environ in _BY_SETTINGS]


@functools.cache
def _all_documents() -> list[dict[str, Any]]:
    return [*_documents(), operators_document(load({})), operators_document(load(_KEYED))]


@pytest.fixture(params=range(len(_BY_SETTINGS)))
def described(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each description for clients."""
    number: int = request.param
    return _documents()[number]


@pytest.fixture(params=range(len(_BY_SETTINGS) + 2))
def any_described(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each description, for clients and for operators."""
    number: int = request.param
    return _all_documents()[number]


def _responses(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each response of each operation, with its status; and the responses that any route can give."""
    for operation in operations(described):
        for status, response in operation["responses"].items():
            yield status, resolved(described, response)
    for status, name in [
        ("400", "MalformedRequest"),
        ("403", "Forbidden"),
        ("405", "MethodNotAllowed"),
        ("429", "TooManyAttempts"),
        ("431", "HeadersTooLarge"),
        ("501", "NotImplemented"),
        ("505", "HTTPVersionNotSupported"),
    ]:
        if name in described["components"]["responses"]:
            yield status, described["components"]["responses"][name]


def _contents(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The body of each request and answer."""
    for part in [*(op["requestBody"] for op in operations(described) if "requestBody" in op)]:
        yield from part["content"].values()
    for _, response in _responses(described):
        yield from response.get("content", {}).values()


def test_every_example_fits_its_schema(any_described: dict[str, Any]) -> None:
    """The examples are valid."""
    seen = 0
    for content in _contents(any_described):
        for example in content.get("examples", {}).values():
            jsonschema_rs.validate({"components": any_described["components"], **content["schema"]}, example["value"])
            seen += 1
    assert seen > 60


def test_every_answer_has_an_example(any_described: dict[str, Any]) -> None:
    """All requests and responses have one."""
    assert all(content.get("examples") or content.get("example") for content in _contents(any_described))


def test_no_example_says_no_where_no_answer_does(described: dict[str, Any]) -> None:
    """Whoever writes a client from the examples must not take these refusals for a proof that no job runs."""
    never = {Code.MALFORMED_REQUEST, Code.HEADERS_TOO_LARGE, Code.NOT_IMPLEMENTED, Code.HTTP_VERSION_NOT_SUPPORTED}
    never |= {Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED, Code.IDEMPOTENCY_KEY_REUSED}
    said = {
        (code, example["value"]["submitted"], example["value"]["retry_safe"])
        for _, response in _responses(described)
        for code, example in response["content"].get(PROBLEM, {"examples": {}})["examples"].items()
        if code in never
    }
    assert said == {(str(code), "unknown", False) for code in never}


def test_every_code_appears_with_its_status(described: dict[str, Any]) -> None:
    """Each code of the table has an example, under its status with these settings."""
    found: set[str] = set()
    for status, response in _responses(described):
        content = response["content"].get(PROBLEM, {"examples": {}})
        for code, example in content["examples"].items():
            assert example["value"]["status"] == int(status)
            assert example["value"]["code"] == code
            found.add(code)
        if content["examples"]:
            assert content["schema"]["properties"]["code"]["enum"] == list(content["examples"])
    assert found == {str(code) for code in problems.TABLE} == {str(code) for code in Code}


def test_a_problem_comes_with_the_headers_that_it_is_sent_with(any_described: dict[str, Any]) -> None:
    """`Job-Id`, `Retry-After` and `WWW-Authenticate` are described where an answer has them."""
    for _, response in _responses(any_described):
        for code, example in response.get("content", {}).get(PROBLEM, {"examples": {}})["examples"].items():
            made = problems.make(Code(code), "because", job_id=example["value"]["job_id"])
            sent = {name for name, _ in made.headers}
            assert sent <= {name.lower().encode() for name in response.get("headers", {})}, code


def test_a_failure_comes_with_the_headers_of_a_result(described: dict[str, Any]) -> None:
    """Such as `Idempotent-Replayed`; and the job server's `Retry-After`."""
    failures = {str(code) for code, entry in problems.TABLE.items() if entry.status == 500} - {"internal-error"}
    headers = {"Retry-After", *described["components"]["responses"]["Result"]["headers"]}
    found: set[str] = set()
    for _, response in _responses(described):
        codes = failures & response.get("content", {}).get(PROBLEM, {"examples": {}})["examples"].keys()
        assert not codes or response["headers"].keys() >= headers
        found |= codes
    assert found == failures


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/callback/{token}", "post", "415", "unsupported-media-type"),
        ("/callback/{token}/{route}", "put", "503", "overloaded"),
        ("/readyz", "get", "503", "overloaded"),
    ],
)
def test_a_refusal_that_only_some_requests_get_is_described(path: str, method: str, status: str, code: str) -> None:
    """A callback in an unknown coding, too many incomplete callbacks, a machine that is short of memory."""
    described = document(load({}))
    response = resolved(described, described["paths"][path][method]["responses"][status])
    assert code in response["content"][PROBLEM]["examples"]


def test_the_schemas_have_the_words_of_the_code() -> None:
    """Codes, states and values of `submitted`: exactly the same, in the same order."""
    schemas = document(load({}))["components"]["schemas"]
    assert schemas["Code"]["enum"] == [str(code) for code in Code]
    assert schemas["JobStatus"]["properties"]["state"]["enum"] == [str(state) for state in State]
    assert schemas["Submitted"]["enum"] == [str(word) for word in Submitted]


def test_the_schemas_have_the_members_of_the_answers() -> None:
    """Exactly the same, in the same order; all are required, except a problem's `result`."""
    schemas = document(load({}))["components"]["schemas"]
    problem = problems.make(Code.JOB_FAILED, "because", submitted=Submitted.YES, result=b"{}")
    for name, answer, optional in [
        ("JobStatus", status_document(finished()), set()),
        ("Problem", json.loads(problem.body), {"result"}),
        ("Explanation", problems.explanation(Code.CANCELLED), set()),
    ]:
        assert list(schemas[name]["properties"]) == list(answer), name
        assert set(schemas[name]["required"]) == set(answer) - optional, name


def test_every_schema_is_an_object() -> None:
    """JSON Schema also allows `true` and `false`, but generators of clients do not support these."""

    def schemas(part: object, of_schemas: bool = False) -> Iterator[object]:
        for key, value in part.items() if isinstance(part, dict) else ():
            if of_schemas or key in {"schema", "items", "not", "additionalProperties"}:
                yield value
            yield from schemas(value, key in {"properties", "schemas"} and not of_schemas)
        for value in part if isinstance(part, list) else ():
            yield from schemas(value)

    found = [schema for described in _all_documents() for schema in schemas(described)]
    assert len(found) > 200
    assert all(isinstance(schema, dict) for schema in found)


def test_the_file_is_read_in_the_same_way_with_and_without_libyaml() -> None:
    """On some machines, PyYAML is built without it."""
    for described, source in [(document(load({})), SOURCE), (operators_document(load(_KEYED)), OPERATORS_SOURCE)]:
        plain = yaml.safe_load(source.read_text(encoding="utf-8"))
        assert list(described["paths"]) == list(plain["paths"])
        assert described["components"]["schemas"].items() >= plain["components"]["schemas"].items()


@functools.cache
def _pattern() -> str:
    pattern: str = _documents()[0]["components"]["parameters"]["IdempotencyKey"]["schema"]["pattern"]
    return pattern


def _is_taken(key: str) -> bool:
    try:
        return key_of({"headers": [(b"idempotency-key", key.encode())]}, b"") is not None
    except RequestError:
        return False


_MATCHING = st.deferred(lambda: st.from_regex(_pattern()))


@given(st.one_of(_MATCHING, st.text(st.characters(min_codepoint=32, max_codepoint=126))))
def test_the_pattern_of_a_key_is_what_is_taken(key: str) -> None:
    """A key that matches the pattern is accepted, any other one is refused."""
    key = key.strip(" \t\n")
    assert _is_taken(key) is (re.search(_pattern(), key) is not None)


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("length", [0, 1, 255, 256])
def test_the_pattern_of_a_key_has_the_length_that_is_taken(length: int, quoted: bool) -> None:
    """1 to 255 characters, quotes not counted."""
    key = f'"{"a" * length}"' if quoted else "a" * length
    assert _is_taken(key) is (re.search(_pattern(), key) is not None) is (0 < length < 256)


def test_operations_have_names_of_their_own(any_described: dict[str, Any]) -> None:
    """Each `operationId` is unique."""
    names = [operation["operationId"] for operation in operations(any_described)]
    assert len(names) == len(set(names))


def test_keys_are_asked_for_where_they_are_used() -> None:
    """Operations about jobs need a key exactly if API_KEYS is set, and the keys are not shown."""
    plain, keyed = document(load({})), document(load({"API_KEYS": "secret-key"}))
    assert not any("security" in operation for operation in operations(plain))
    secured = {operation["operationId"] for operation in operations(keyed) if "security" in operation}
    assert secured == {
        "queueJob",
        "queueJobAt",
        "queueJobAtPath",
        "start",
        "getJob",
        "getJobOfMessage",
        "cancelJob",
        "getResult",
    }
    assert "secret-key" not in json.dumps(keyed)


def test_operators_are_asked_who_they_are_where_that_is_set() -> None:
    """For all routes except those for logging in; for none if no authentication is configured."""
    plain, keyed = operators_document(load({})), operators_document(load(_KEYED))
    assert not [it for it in (plain, *operations(plain)) if "security" in it]
    assert keyed["security"]
    named = {operation["operationId"] for operation in operations(keyed) if operation.get("security") == []}
    assert named == {"logInForm", "logIn", "logOut", "file"}
    assert "0123456789abcdef" not in json.dumps(keyed)


def test_every_filter_of_jobs_is_described() -> None:
    """In the same order as in the code, plus labels."""
    paths = operators_document(load({}))["paths"]
    for path, more in [("/jobs", ["sort", "limit", "after", "counts"]), ("/jobs/patterns", ["bucket", "by"])]:
        described = [parameter["name"] for parameter in paths[path]["get"]["parameters"]]
        assert described == [*FILTERS, "labels", *more]


@pytest.mark.parametrize("make", [document, operators_document])
def test_the_page_shows_every_operation_and_every_code(make: Callable[[Settings], dict[str, Any]]) -> None:
    """The rendered page is complete, and loads nothing."""
    description = Description(lambda: make(load({})))
    page = DocsPage(description).body.decode()
    for operation in operations(description.document):
        assert f'id="{operation["operationId"]}"' in page
    assert all(f'href="problems/{code}"' in page for code in Code)
    assert not re.search(r"<script|<link|<img|@import|url\(|https?://[^w]", page.replace("http://www.w3.org", ""))


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0.5, application/json;q=0.4", True),
        ("text/*, application/json;q=0.1", True),
        ("text/html;q=0", False),
        ("text/html;q=nonsense", False),
        (",;,", False),
    ],
)
def test_a_browser_gets_html_and_a_program_json(accept: str, html: bool) -> None:
    """`Accept` decides, by the rules of RFC 9110; the default is JSON."""
    assert prefers_html({"headers": [(b"accept", accept.encode())]}) is html


def test_every_path_parameter_is_described(any_described: dict[str, Any]) -> None:
    """Each name in braces in a path is a parameter of that path."""
    for path, item in any_described["paths"].items():
        named = {resolved(any_described, parameter)["name"] for parameter in item.get("parameters", [])}
        assert named == set(re.findall(r"{(\w+)}", path)), path
