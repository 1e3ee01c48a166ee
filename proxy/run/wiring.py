"""Wires the parts of the front end together; no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.routing import Route, Router

from proxy.api import health
from proxy.api.callbacks import CallbackRoute
from proxy.api.clients.answers import Answers
from proxy.api.clients.one_job import JobOfMessage, JobResult, Jobs, JobStatus
from proxy.api.clients.post_job import QueueJob
from proxy.api.description import docs_page, openapi
from proxy.api.stray_callbacks import StrayCallbacks
from proxy.api.submitted import submitted_of
from proxy.http.asgi import Guard
from proxy.http.forwarded import Forwarded
from proxy.run.wiring_core import create_core, observe
from proxy.run.wiring_operators import create_operators

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp

    from proxy.http.connections import OnRefused
    from proxy.http.problems import Problem
    from proxy.jobs.callback_intake import CallbackIntake
    from proxy.run.wiring_core import Core
    from proxy.run.wiring_operators import Operators
    from proxy.sqs.consumer import Consumer
    from proxy.sqs.message_jobs import MessageJobs
    from proxy.sqs.service import QueueService
    from proxy.store.protocol import JobStore, Peers
    from proxy.workers.pool import Pool
    from shared.settings import Settings
    from shared.worker_config import JobServer

__all__ = ["App", "create_app"]

_CALLED: Final = ["POST", "PUT", "GET"]


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The parts of the front end that others need."""

    #: For `PORT`: clients, health, and the callbacks unless they have a listener of their own.
    public: ASGIApp
    #: For `CALLBACK_PORT`.
    callbacks: ASGIApp
    #: Notified of requests that reach none of them.
    refused: OnRefused
    core: Core
    #: The admin address: its application is for `ADMIN_PORT`.
    operators: Operators
    #: The queue entrance, if there is one.
    consumer: Consumer | None


def create_app(
    settings: Settings,
    job_servers: Sequence[JobServer],
    *,
    pool: Pool,
    store: JobStore,
    callback_url: str,
    peers: Peers | None = None,
    queue_service: QueueService | None = None,
) -> App:
    """Return the front end for `settings`; `callback_url` is where the job server reaches the callback route.

    `peers`: the instances that share `store`; None: there can be no others. `queue_service`: for jobs from a queue;
    None: there is none.
    """
    core = create_core(settings, job_servers, pool=pool, store=store, callback_url=callback_url, peers=peers)
    observe(core, settings)
    message_jobs, consumer = _queue(settings, core, queue_service) if queue_service is not None else (None, None)
    callback_route = CallbackRoute(
        core.callback_intake,
        core.named_callbacks,
        core.served,
        url=callback_url,
        max_body_bytes=settings.max_body_bytes,
        max_jobs=settings.max_jobs,
    )
    callbacks = _callback_routes(callback_route, core.callback_intake)
    alive = Route("/healthz", health.Alive(), methods=["GET"])
    healths = [alive, Route("/readyz", core.ready, methods=["GET"])]
    clients = [*_client_routes(settings, core, message_jobs), *healths]
    public = clients if settings.callback_port is not None else [*callbacks, *clients]
    called = [*callbacks, *(healths if settings.port is None else [alive])]
    operators = create_operators(settings, core, consumer)
    return App(
        public=_app(settings, core, public, documentation="/docs"),
        callbacks=_app(settings, core, called),
        refused=_refused(core),
        core=core,
        operators=operators,
        consumer=consumer,
    )


def _queue(settings: Settings, core: Core, queue_service: QueueService) -> tuple[MessageJobs, Consumer]:
    """Return the queue entrance."""
    from proxy.sqs.consumer import Consumer  # noqa: PLC0415 - only if it is used
    from proxy.sqs.message_jobs import MessageJobs  # noqa: PLC0415
    from proxy.sqs.metrics import QueueMetrics  # noqa: PLC0415

    message_jobs = MessageJobs(
        queue_service,
        core.entrance,
        core.reader,
        core.store,
        queue_url=settings.sqs_queue_url,
        result_ttl_s=settings.result_ttl,
        granular_errors=settings.granular_errors,
    )
    consumer = Consumer(queue_service, settings, core.entrance, message_jobs, core.ready.on_hold)
    core.observers.metrics.registry.register(QueueMetrics(consumer.counts))
    return message_jobs, consumer


def _callback_routes(route: CallbackRoute, callback_intake: CallbackIntake) -> list[Route]:
    stray = StrayCallbacks(callback_intake, [*_CALLED, "HEAD"])
    return [
        Route("/callback/{token}", route, methods=_CALLED),
        Route("/callback/{token}/{route:path}", route, methods=_CALLED),
        Route("/callback/{token}", stray),
        Route("/callback/{token}/{route:path}", stray),
    ]


def _client_routes(settings: Settings, core: Core, message_jobs: MessageJobs | None) -> list[Route]:
    dispatcher, elsewhere = core.dispatcher, core.elsewhere
    answers = Answers(elsewhere, dispatcher.check_descriptors, granular_errors=settings.granular_errors)
    queue_job = QueueJob(
        core.entrance, core.authorization, answers, core.reader, max_body_bytes=settings.max_body_bytes
    )
    jobs = Jobs(core.in_flight, core.store, core.authorization)
    return [
        Route("/queueJob", queue_job, methods=["POST"]),
        Route("/queueJob/{profile}", queue_job, methods=["POST"]),
        Route("/queueJob/{profile}/{path:path}", queue_job, methods=["POST"]),
        Route("/start", queue_job, methods=["POST"]),
        Route("/jobs/{id}", JobStatus(jobs, dispatcher, elsewhere), methods=["GET", "DELETE"]),
        Route("/jobs", JobOfMessage(jobs, message_jobs.find if message_jobs else None), methods=["GET"]),
        Route("/jobs/{id}/result", JobResult(jobs, answers), methods=["GET"]),
        *docs_page.routes(openapi.Description(lambda: openapi.document(settings))),
    ]


def _app(settings: Settings, core: Core, routes: list[Route], *, documentation: str = "") -> ASGIApp:
    """Return an application with these routes; any other request may be a stray callback."""
    # Only the router: the two layers of a Starlette application would duplicate the guard.
    app: ASGIApp = Router(routes, redirect_slashes=False, default=StrayCallbacks(core.callback_intake))
    app = Guard(app, core.observers.request_refused, documentation, submitted_of)
    return Forwarded(app, settings.trusted_proxies) if settings.trusted_proxies else app


def _refused(core: Core) -> OnRefused:
    """Return the callback for requests that are not valid HTTP."""
    stray = StrayCallbacks(core.callback_intake)

    def refused(problem: Problem, line: bytes) -> None:
        core.observers.request_refused(problem.code)
        stray.unread(line, problem.detail)

    return refused
