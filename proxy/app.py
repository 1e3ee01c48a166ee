"""Wires the parts together; no logic."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from proxy.api import admin, health, problems
from proxy.api.answers import Answers
from proxy.api.callbacks import CallbackRoute
from proxy.api.http import Guard
from proxy.api.idempotency import Keys
from proxy.api.job_routes import JobResult, Jobs, JobStatus
from proxy.api.jobs import Authorization, QueueJob
from proxy.dispatcher import Dispatcher
from proxy.headroom import Headroom
from proxy.intake import Intake
from proxy.live_metrics import LiveMetrics
from proxy.observation import Observation
from proxy.registry import Registry
from proxy.supervisor import Supervisor
from shared.errors import Code

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from proxy.pool import Pool
    from proxy.store import JobStore
    from shared.settings import Settings

__all__ = ["App", "create_app"]


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The front end's parts that others need."""

    #: For `PORT`: clients, health, and the callbacks unless they have a listener of their own.
    public: ASGIApp
    #: For `CALLBACK_PORT`.
    callbacks: ASGIApp
    #: For `ADMIN_PORT`.
    admin: ASGIApp
    dispatcher: Dispatcher
    registry: Registry
    store: JobStore
    pool: Pool
    callback_route: CallbackRoute
    #: Metrics, history, event loop lag.
    observation: Observation


def create_app(settings: Settings, *, pool: Pool, store: JobStore, callback_url: str) -> App:
    """Return the front end for `settings`; `callback_url` is where the job server reaches the callback route."""
    registry = Registry()
    observation = Observation()
    intake = Intake(registry, store)
    dispatcher = Dispatcher(
        runner=Supervisor(pool, callback_url),
        store=store,
        registry=registry,
        headroom=Headroom(),
        max_jobs=settings.max_jobs,
        job_timeout_s=settings.job_timeout,
        callback_counts=intake.counts,
        on_finish=observation.job_finished,
    )
    authorization = Authorization(settings.api_keys)
    answers = Answers(granular_errors=settings.granular_errors)
    queue_job = QueueJob(
        dispatcher, authorization, Keys(registry, store), answers, max_body_bytes=settings.max_body_bytes
    )
    jobs = Jobs(registry, store, authorization)
    callback_route = CallbackRoute(intake, max_body_bytes=settings.max_body_bytes)
    callback = Route("/callback/{token}", callback_route, methods=["POST", "PUT"])
    healthz = Route("/healthz", health.Alive(), methods=["GET"])
    client_routes = [
        Route("/queueJob", queue_job, methods=["POST"]),
        Route("/start", queue_job, methods=["POST"]),
        Route("/jobs/{id}", JobStatus(jobs, dispatcher), methods=["GET", "DELETE"]),
        Route("/jobs/{id}/result", JobResult(jobs, answers), methods=["GET"]),
        healthz,
        Route("/readyz", health.Ready(dispatcher, pool), methods=["GET"]),
        Route("/problems/{code}", health.ProblemPage(), methods=["GET"]),
    ]
    observation.metrics.registry.register(
        LiveMetrics(
            pool=pool,
            registry=registry,
            dispatcher=dispatcher,
            callback_route=callback_route,
            store=store,
            max_jobs=settings.max_jobs,
        )
    )
    observation.loop_lag.start()
    admin_routes = [
        Route("/workers", admin.Workers(pool), methods=["GET"]),
        Route("/metrics", admin.MetricsPage(observation.metrics), methods=["GET"]),
    ]
    public_routes = client_routes if settings.callback_port is not None else [*client_routes, callback]
    return App(
        public=_app(public_routes, observation),
        callbacks=_app([callback, healthz], observation),
        admin=_app(admin_routes, observation),
        dispatcher=dispatcher,
        registry=registry,
        store=store,
        pool=pool,
        callback_route=callback_route,
        observation=observation,
    )


def _app(routes: list[Route], observation: Observation) -> ASGIApp:
    # Inside Starlette's own outermost layer, which would answer our exceptions with a plain 500.
    guard = Middleware(Guard, on_problem=observation.request_refused)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: _http_problem})


async def _http_problem(_request: Request, exc: Exception) -> Response:
    """Answer what the router refuses as a problem document."""
    headers = dict(exc.headers or {}) if isinstance(exc, HTTPException) else {}
    wrong_method = isinstance(exc, HTTPException) and exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    if wrong_method:
        problem = problems.make(Code.METHOD_NOT_ALLOWED, "this route takes " + headers.get("Allow", "other methods"))
    else:
        problem = problems.make(Code.NOT_FOUND, "there is no such route")
    return Response(problem.body, problem.status, headers, media_type="application/problem+json")
