"""Health: whether the process serves, and whether it should get jobs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.errors import Code
from tests.support.asgi import ask
from tests.support.http import problem
from tests.support.jumping_loop import nothing_moves
from tests.support.whole_app import WholeApp


def leaving(app: WholeApp) -> None:
    """The proxy is about to shut down."""
    app.parts.core.ready.leaving = True


def draining(app: WholeApp) -> None:
    """It accepts no more jobs."""
    app.parts.core.dispatcher.draining = True


def paused(app: WholeApp) -> None:
    """An operator has paused the intake."""
    app.parts.core.dispatcher.pause.begin("anna", "the reason")


def on_hold(app: WholeApp) -> None:
    """No worker can be started."""
    app.pool.on_hold = "no process ids"


def store_fails(app: WholeApp) -> None:
    """Nothing can be recorded."""
    app.store.failing = True


def short_of_memory(app: WholeApp) -> None:
    """The machine has no room."""
    app.headroom.short_of = "memory"


REASONS = [
    (leaving, Code.SHUTTING_DOWN, "shutting down"),
    (draining, Code.SHUTTING_DOWN, "shutting down"),
    (paused, Code.INTAKE_PAUSED, "an operator has paused"),
    (on_hold, Code.NO_WORKER, "no process ids"),
    (store_fails, Code.JOURNAL_UNAVAILABLE, "the disk is full"),
    (short_of_memory, Code.OVERLOADED, "memory"),
]


async def test_a_proxy_that_is_well_is_ready(app: WholeApp) -> None:
    """The answer must not be cached."""
    answer = await app.ask("GET", "/readyz")

    assert (answer.status, answer.document) == (200, {"status": "ready"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await app.ask_admin("GET", "/status")).document["refuses"] == ""


@pytest.mark.parametrize(("worsen", "code", "word"), REASONS)
async def test_a_proxy_that_would_refuse_every_job_is_not_ready_and_says_why(
    app: WholeApp, worsen: Callable[[WholeApp], None], code: Code, word: str
) -> None:
    """Operators as well. But alive: a restart would not help."""
    worsen(app)
    answer = await app.ask("GET", "/readyz")

    reason = problem(answer, code, 503)["detail"]
    assert word in reason
    assert (await app.ask_admin("GET", "/status")).document["refuses"] == reason
    assert app.parts.operators.drain.view.shown()["refuses"] == reason
    for listener in (app.parts.public, app.parts.callbacks):
        alive = await ask(listener, "GET", "/healthz")
        assert alive.status == 200
        assert alive.document["status"] == "ok"


async def test_it_is_ready_again_when_that_is_over(app: WholeApp) -> None:
    """Without a restart."""
    for worsen in (on_hold, store_fails, short_of_memory):
        worsen(app)
    app.pool.on_hold = app.headroom.short_of = ""
    assert (await app.ask("GET", "/readyz")).status == 503
    app.store.failing = False

    assert (await app.ask("GET", "/readyz")).status == 200


async def test_a_proxy_that_is_about_to_leave_still_takes_jobs(app: WholeApp) -> None:
    """Until load balancers have noticed."""
    leaving(app)

    assert await app.waiting() in app.parts.core.in_flight


async def test_a_proxy_that_is_full_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job that ends makes room."""
    app = WholeApp(monkeypatch, MAX_JOBS="1")
    await app.waiting()

    assert (await app.ask("GET", "/readyz")).status == 200
    await app.close()
    await nothing_moves()
