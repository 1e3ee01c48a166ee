"""Pausing, resuming, draining: what clients, load balancers and operators see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from shared.errors import Code
from tests.support.http import Answer, problem
from tests.support.runners import SUBMIT
from tests.support.whole_app import WholeApp

_KEY: Final = {"Authorization": "Bearer act-0123456789abcdef"}


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """A front end with a key that may act."""
    whole = WholeApp(monkeypatch, None, None, ADMIN_KEYS="anna:act:act-0123456789abcdef")
    yield whole
    await whole.close()


async def act(app: WholeApp, path: str, body: bytes = b"") -> Answer:
    """Send a request as the holder of that key."""
    return await app.ask_admin("POST", path, body=body, headers=_KEY)


async def test_a_paused_proxy_takes_no_new_job_and_does_all_else(app: WholeApp) -> None:
    """Jobs in flight end as usual, and are found by id and key. Then it resumes."""
    keyed = {"Idempotency-Key": '"order-1"'}
    job = await app.begun(*SUBMIT, headers=keyed)
    paused = await act(app, "/intake/pause", b'{"reason": "the job server is upgraded"}')
    shown = paused.document
    assert (paused.status, shown.pop("since") > 0) == (200, True)
    assert shown == {
        "paused": True,
        "by": "anna",
        "reason": "the job server is upgraded",
        "draining": False,
        "refuses": "an operator has paused the intake of new jobs",
        "in_flight": 1,
    }
    for headers in ({}, {"Idempotency-Key": '"order-2"'}):
        refused = await app.post(headers=headers)
        document = problem(refused, Code.INTAKE_PAUSED, 503, submitted="no")
        assert refused.headers["Retry-After"] == "30"
        assert "upgraded" not in document["detail"], "the reason is for operators"
    problem(await app.ask("GET", "/readyz"), Code.INTAKE_PAUSED, 503)
    assert (await app.ask("GET", "/healthz")).status == 200
    assert (await app.status(job))["state"] == "waiting"
    joined = app.posting(headers=keyed)
    assert (await app.call_back(job)).status == 200
    assert (await joined).headers["Idempotent-Replayed"] == "true"
    resumed = (await act(app, "/intake/resume")).document
    assert (resumed["paused"], resumed["since"], resumed["by"], resumed["reason"]) == (False, None, "", "")
    assert (await app.ask("GET", "/readyz")).status == 200
    assert await app.waiting() is not None


async def test_pausing_again_changes_nothing_but_who_wants_it_and_why(app: WholeApp) -> None:
    """The start time stays. Resuming twice does no harm."""
    first = (await act(app, "/intake/pause")).document
    second = (await act(app, "/intake/pause", b'{"reason": "longer"}')).document
    assert (second["since"], second["reason"]) == (first["since"], "longer")
    for _ in range(2):
        assert (await act(app, "/intake/resume")).document["paused"] is False


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"because"',
        b"null",
        b'{"reason": 1}',
        b'{"reason": null}',
        b'{"raison": "x"}',
        b'{"reason": "a\\nb"}',
        b'{"reason": "\\u001b[2J"}',
        b'{"reason": "' + b"x" * 501 + b'"}',
        b"\xff",
    ],
)
async def test_a_body_that_is_none_pauses_nothing(app: WholeApp, body: bytes) -> None:
    """The error says what is accepted."""
    problem(await act(app, "/intake/pause", body), Code.INVALID_REQUEST, 400)
    assert app.parts.core.dispatcher.pause.since is None


async def test_draining_is_begun_as_by_a_signal(app: WholeApp) -> None:
    """The answer comes before the shutdown."""
    begun = asyncio.Event()
    app.parts.operators.drain.begin = begun.set
    answer = await act(app, "/drain")
    assert (answer.status, answer.document["in_flight"]) == (202, 0)
    assert begun.is_set()


async def test_while_it_drains_operators_see_that(app: WholeApp) -> None:
    """From the first moment, even while jobs are still accepted for DRAIN_DELAY."""
    app.parts.core.ready.leaving = True
    assert (await act(app, "/intake/resume")).document["draining"] is True
    assert (await app.ask_admin("GET", "/status", headers=_KEY)).document["draining"] is True


async def test_the_metrics_say_that_it_is_paused(app: WholeApp) -> None:
    """So that it is not forgotten."""
    for action, value in (("pause", b"1.0"), ("resume", b"0.0")):
        await act(app, f"/intake/{action}")
        metrics = (await app.ask_admin("GET", "/metrics", headers=_KEY)).body
        assert b"\nasync_job_proxy_intake_paused " + value in metrics
