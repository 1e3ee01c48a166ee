"""The list of what operators did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from tests.support.http import Answer, problem
from tests.support.whole_app import WholeApp

_LOOK: Final = "look-0123456789abcdef"
_ACT: Final = "act-0123456789abcdef"
_HERE: Final = {"Host": "127.0.0.1:3001", "Origin": "http://127.0.0.1:3001"}
_FORM: Final = _HERE | {"Content-Type": "application/x-www-form-urlencoded"}
_PAGE: Final = _HERE | {"X-Requested-By": "dashboard"}


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """A front end with a key for each role."""
    keys = f"lena:look:{_LOOK},anna:act:{_ACT}"
    whole = WholeApp(monkeypatch, None, None, ADMIN_KEYS=keys)
    yield whole
    await whole.close()


async def act(app: WholeApp, path: str, key: str = _ACT, **members: Any) -> Answer:
    """Send a request with a key."""
    return await app.ask_admin("POST", path, headers={"Authorization": f"Bearer {key}"}, **members)


async def audit(app: WholeApp, query: str = "") -> dict[str, Any]:
    """Return the list, as seen by an operator who may look."""
    headers = {"Authorization": f"Bearer {_LOOK}"}
    answer = await app.ask_admin("GET", "/audit", query_string=query.encode(), headers=headers)
    assert answer.status == 200, answer
    document: dict[str, Any] = answer.document
    return document


async def log_in(app: WholeApp, key: str) -> dict[str, str]:
    """Send the form; return the browser's headers from then on."""
    answer = await app.ask_admin("POST", "/login", body=urlencode({"key": key}).encode(), headers=_FORM)
    return {"Cookie": answer.headers.get("Set-Cookie", "").partition(";")[0]}


async def test_whatever_is_done_is_listed_with_who_did_it_and_what_came_of_it(app: WholeApp) -> None:
    """By key and by session; refused actions, too; newest first. Only looking leaves no trace."""
    job = await app.waiting()
    await act(app, "/intake/pause", body=b'{"reason": "an upgrade"}')
    await act(app, "/intake/resume", _LOOK)
    await act(app, "/intake/resume")
    await log_in(app, "wrong")
    session = await log_in(app, _ACT)
    await app.ask_admin("POST", f"/jobs/{job.id}/stop", headers=_PAGE | session)
    await app.ask_admin("POST", "/jobs/none/stop", headers=_PAGE | session)
    await app.ask_admin("POST", "/jobs/none/stop", headers=_PAGE | session | {"Origin": "http://evil.example"})
    await app.ask_admin("POST", "/logout", headers=_HERE | session)
    await act(app, "/drain")
    await act(app, "/no-such-route")
    found = await audit(app)
    members = ("what", "who", "via", "of", "outcome", "detail")
    assert [tuple(entry[name] for name in members) for entry in reversed(found["entries"])] == [
        ("pause", "anna", "key", "", "done", "an upgrade"),
        ("resume", "lena", "key", "", "forbidden", ""),
        ("resume", "anna", "key", "", "done", ""),
        ("failed log-in", "", "", "", "unauthorized", ""),
        ("log-in", "anna", "session", "", "done", ""),
        ("stop", "anna", "session", job.id, "done", ""),
        ("stop", "anna", "session", "none", "not-found", ""),
        ("stop", "anna", "session", "none", "forbidden", ""),
        ("log-out", "anna", "session", "", "done", ""),
        ("drain", "anna", "key", "", "done", ""),
    ]
    assert {entry["peer"] for entry in found["entries"]} == {"127.0.0.1"}
    assert all(entry["at"] > 1.7e9 for entry in found["entries"])
    assert found["next"] is None
    assert _ACT not in str(found)


async def test_the_list_comes_in_pages(app: WholeApp) -> None:
    """Until there are no more."""
    for number in range(5):
        await act(app, "/intake/pause", body=b'{"reason": "%d"}' % number)
    seen, query = [], "limit=2"
    while True:
        page = await audit(app, query)
        seen += [entry["detail"] for entry in page["entries"]]
        if page["next"] is None:
            break
        query = f"limit=2&before={page['next']}"
    assert seen == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=1e2",
        "limit=%D9%A3",
        "before=0",
        "before=" + "9" * 30,
        "before=' OR 1=1 --",
        "who=anna",
        "limit=1&limit=2",
        "label.account=a",
    ],
)
async def test_a_question_that_is_none_is_refused(app: WholeApp, query: str) -> None:
    """The error has the parameter's name."""
    headers = {"Authorization": f"Bearer {_LOOK}"}
    answer = await app.ask_admin("GET", "/audit", query_string=query.encode(), headers=headers)
    document = problem(answer, "invalid-request", 400)
    assert query.partition("=")[0] in document["detail"] or "limit" in document["detail"]


async def test_an_empty_parameter_is_not_given(app: WholeApp) -> None:
    """As for the list of jobs."""
    await act(app, "/intake/pause")
    assert len((await audit(app, "limit=&before="))["entries"]) == 1


async def test_while_the_store_is_away_the_list_cannot_be_read(app: WholeApp) -> None:
    """But actions are carried out."""
    app.store.failing = True
    headers = {"Authorization": f"Bearer {_LOOK}"}
    problem(await app.ask_admin("GET", "/audit", headers=headers), "journal-unavailable", 503)
    assert (await act(app, "/intake/pause")).status == 200
    app.store.failing = False
    assert [entry["what"] for entry in (await audit(app))["entries"]] == ["pause"]
