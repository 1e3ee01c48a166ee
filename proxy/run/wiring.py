"""Wires the parts together; no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import Route, Router

from proxy.api import health
from proxy.api.callbacks import CallbackRoute
from proxy.api.clients.answers import Answers
from proxy.api.clients.authorization import Authorization
from proxy.api.clients.one_job import JobResult, Jobs, JobStatus
from proxy.api.clients.post_job import QueueJob
from proxy.api.description import openapi
from proxy.api.description.docs_page import DocsPage, ProblemPage
from proxy.api.operators import admin, dashboard
from proxy.api.operators.snapshots import Feed
from proxy.http.asgi import Guard
from proxy.jobs.callback_intake import Intake
from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.headroom import Headroom
from proxy.jobs.in_flight import Registry
from proxy.jobs.keys import Keys
from proxy.observe import tracing
from proxy.observe.gauges import LiveMetrics
from proxy.observe.observers import Observation
from proxy.workers.local_runner import Supervisor
from shared.job_server.callbacks import Callbacks
from shared.job_server.client_jobs import ClientJobs

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from proxy.store.protocol import JobStore
    from proxy.workers.pool import Pool
    from shared.job_server.profile import Profile
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
    #: The dashboard's snapshots.
    feed: Feed


def create_app(settings: Settings, profile: Profile, *, pool: Pool, store: JobStore, callback_url: str) -> App:
    """Return the front end for `settings`; `callback_url` is where the job server reaches the callback route."""
    registry = Registry()
    observation = Observation(tracing.from_environment())
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
    dispatcher.on_begin = observation.job_began if observation.tracing else None
    authorization = Authorization(settings.api_keys)
    answers = Answers(granular_errors=settings.granular_errors)
    queue_job = QueueJob(
        dispatcher,
        authorization,
        Keys(registry, store),
        answers,
        ClientJobs(profile.submit),
        max_body_bytes=settings.max_body_bytes,
    )
    jobs = Jobs(registry, store, authorization)
    callback_route = CallbackRoute(intake, Callbacks(profile.callback), max_body_bytes=settings.max_body_bytes)
    callback = Route("/callback/{token}", callback_route, methods=["POST", "PUT"])
    healthz = Route("/healthz", health.Alive(), methods=["GET"])
    description = openapi.Description(settings)
    client_routes = [
        Route("/queueJob", queue_job, methods=["POST"]),
        Route("/start", queue_job, methods=["POST"]),
        Route("/jobs/{id}", JobStatus(jobs, dispatcher), methods=["GET", "DELETE"]),
        Route("/jobs/{id}/result", JobResult(jobs, answers), methods=["GET"]),
        healthz,
        Route("/readyz", health.Ready(dispatcher, pool), methods=["GET"]),
        Route("/problems/{code}", ProblemPage(), methods=["GET"]),
        Route("/openapi.json", description, methods=["GET"]),
        Route("/docs", DocsPage(description), methods=["GET"]),
    ]
    observation.metrics.registry.register(
        LiveMetrics(
            pool=pool,
            registry=registry,
            dispatcher=dispatcher,
            intake=intake,
            store=store,
            max_jobs=settings.max_jobs,
        )
    )
    observation.loop_lag.start()
    feed = Feed(
        pool=pool, registry=registry, dispatcher=dispatcher, observation=observation, max_jobs=settings.max_jobs
    )
    find = dashboard.FindJob(registry, observation.history, store)
    admin_routes = [
        Route("/workers", admin.Workers(pool), methods=["GET"]),
        Route("/metrics", admin.MetricsPage(observation.metrics), methods=["GET"]),
        *dashboard.routes(feed, find, dashboard.StopJob(dispatcher, find)),
    ]
    public_routes = client_routes if settings.callback_port is not None else [callback, *client_routes]
    return App(
        public=_app(public_routes, observation, documentation="/docs"),
        callbacks=_app([callback, healthz], observation),
        admin=_app(admin_routes, observation, admin_host=settings.admin_host),
        dispatcher=dispatcher,
        registry=registry,
        store=store,
        pool=pool,
        callback_route=callback_route,
        observation=observation,
        feed=feed,
    )


def _app(
    routes: list[Route], observation: Observation, *, admin_host: str | None = None, documentation: str = ""
) -> ASGIApp:
    # The router alone: the two layers that an application puts around it do what the guard does, a second time.
    app: ASGIApp = Router(routes, redirect_slashes=False)
    if admin_host is not None:
        app = admin.OwnNames(app, admin_host)
    return Guard(app, observation.request_refused, documentation)
