"""The description of the routes: complete, valid, and about what is there."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest

from proxy.api.description.docs_page import DocsPage
from proxy.api.description.html import prefers_html
from proxy.api.description.openapi import document
from proxy.http import problems
from shared.errors import Code
from shared.settings import load

_METHODS = {"get", "post", "put", "delete"}
_BY_SETTINGS = [{}, {"GRANULAR_ERRORS": "true"}, {"API_KEYS": "secret-key"}, {"CALLBACK_PORT": "0"}]


def _operations(described: dict[str, Any]) -> list[dict[str, Any]]:
    return [item[method] for item in described["paths"].values() for method in _METHODS & item.keys()]


def _documents() -> list[dict[str, Any]]:
    return [document(load(environ)) for environ in _BY_SETTINGS]


def _resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {"components": described["components"], **schema}


@pytest.mark.parametrize("described", _documents())
def test_every_example_fits_its_schema(described: dict[str, Any]) -> None:
    """What the description shows is what the description allows."""
    seen = 0
    for operation in _operations(described):
        for part in [operation.get("requestBody", {"content": {}}), *operation["responses"].values()]:
            for content in part["content"].values():
                for example in content.get("examples", {}).values():
                    jsonschema_rs.validate(_resolved(described, content["schema"]), example["value"])
                    seen += 1
    assert seen > 60


@pytest.mark.parametrize("described", _documents())
def test_every_answer_has_an_example(described: dict[str, Any]) -> None:
    """No response, and no request, is described without one."""
    for operation in _operations(described):
        for part in [
            *operation["responses"].values(),
            *([operation["requestBody"]] if "requestBody" in operation else []),
        ]:
            assert all(content.get("examples") or content.get("example") for content in part["content"].values())


@pytest.mark.parametrize("described", _documents())
def test_every_code_appears_with_its_status(described: dict[str, Any]) -> None:
    """Each code of the table is an example somewhere, under the status that it has under these settings."""
    responses = [response for op in _operations(described) for response in op["responses"].items()]
    responses.append(("405", described["components"]["responses"]["MethodNotAllowed"]))
    responses.append(("403", described["components"]["responses"]["Forbidden"]))
    found: set[str] = set()
    for status, response in responses:
        for code, example in response["content"].get("application/problem+json", {}).get("examples", {}).items():
            assert example["value"]["status"] == int(status)
            assert example["value"]["code"] == code
            found.add(code)
    assert found == {str(code) for code in problems.TABLE} == {str(code) for code in Code}


def test_operations_have_names_of_their_own() -> None:
    """No `operationId` is used twice."""
    names = [operation["operationId"] for operation in _operations(document(load({})))]
    assert len(names) == len(set(names))


def test_keys_are_asked_for_where_they_are_used() -> None:
    """Operations about jobs ask for a key exactly where API_KEYS is set, and the keys are not shown."""
    plain, keyed = document(load({})), document(load({"API_KEYS": "secret-key"}))
    assert not any("security" in operation for operation in _operations(plain))
    secured = {operation["operationId"] for operation in _operations(keyed) if "security" in operation}
    assert secured == {"queueJob", "start", "getJob", "cancelJob", "getResult"}
    assert "secret-key" not in json.dumps(keyed)


def test_the_page_shows_every_operation_and_every_code() -> None:
    """The rendered page leaves nothing of the description out, and loads nothing."""
    described = document(load({}))
    page = DocsPage(described)._body.decode()  # noqa: SLF001 - what it would send
    for operation in _operations(described):
        assert f'id="{operation["operationId"]}"' in page
    assert all(f'href="/problems/{code}"' in page for code in Code)
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
    """The `Accept` header decides, by RFC 9110's rules; without one it is JSON."""
    assert prefers_html({"headers": [(b"accept", accept.encode())]}) is html


def test_every_path_parameter_is_described() -> None:
    """What stands in braces in a path is a parameter of that path."""
    for path, item in document(load({}))["paths"].items():
        named = {parameter["name"] for parameter in item.get("parameters", [])}
        assert named == set(re.findall(r"{(\w+)}", path)), path
