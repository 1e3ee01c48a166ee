"""Wires the parts together; no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import Route, Router

from proxy.api import health
from proxy.api.callbacks import CallbackRoute, StrayCallbacks
from proxy.api.clients.answers import Answers
from proxy.api.clients.authorization import Authorization
from proxy.api.clients.one_job import JobOfMessage, JobResult, Jobs, JobStatus
from proxy.api.clients.post_job import QueueJob
from proxy.api.description import openapi
from proxy.api.description.docs_page import DocsPage, ProblemPage
from proxy.api.operators import admin, dashboard
from proxy.api.operators.access import log_in
from proxy.api.operators.access.access import Access
from proxy.api.operators.access.gate import Gate, GatewayUsers
from proxy.api.operators.access.headers import SafeHeaders
from proxy.api.operators.asking import AskJobServer
from proxy.api.operators.audit import Audit, AuditList
from proxy.api.operators.house import House
from proxy.api.operators.instances import InstancesView
from proxy.api.operators.intake import Drain, IntakeView
from proxy.api.operators.intake import routes as intake_routes
from proxy.api.operators.job_patterns import JobPatterns
from proxy.api.operators.list_jobs import ListJobs
from proxy.api.operators.snapshots import Snapshots
from proxy.api.operators.status import Status
from proxy.http.asgi import Guard
from proxy.http.forwarded import Forwarded
from proxy.jobs.bodies import Bodies
from proxy.jobs.callback_intake import CallbackIntake
from proxy.jobs.delivery import LocalDelivery, SharedDelivery
from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.elsewhere import Elsewhere
from proxy.jobs.entrance import Entrance
from proxy.jobs.headroom import Headroom
from proxy.jobs.in_flight import InFlight
from proxy.jobs.job_server import ServedJobServers
from proxy.jobs.polling import Poller
from proxy.jobs.reading import JobReader
from proxy.observe import tracing
from proxy.observe.gauges import LiveMetrics
from proxy.observe.observers import Observers
from proxy.run.job_server_probe import shown
from proxy.workers.local_runner import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp

    from proxy.jobs.delivery import Delivery
    from proxy.sqs.consumer import Consumer
    from proxy.sqs.message_jobs import MessageJobs
    from proxy.sqs.service import QueueService
    from proxy.store.protocol import JobStore, Peers
    from proxy.workers.pool import Pool
    from shared.settings import Settings
    from shared.worker_config import JobServer

__all__ = ["App", "create_app"]


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The parts of the front end that others need."""

    #: For `PORT`: clients, health, and the callbacks unless they have a listener of their own.
    public: ASGIApp
    #: For `CALLBACK_PORT`.
    callbacks: ASGIApp
    #: For `ADMIN_PORT`.
    admin: ASGIApp
    dispatcher: Dispatcher
    in_flight: InFlight
    #: Who may run jobs; its keys can be replaced.
    authorization: Authorization
    #: Who may look and act on the admin address; its keys can be replaced.
    gate: Gate
    #: What load balancers ask.
    ready: health.Ready
    #: What operators end the process with.
    drain: Drain
    #: What operators see of the process; who has read the settings tells it.
    house: House
    store: JobStore
    pool: Pool
    callback_route: CallbackRoute
    #: Metrics, history, event loop lag.
    observers: Observers
    #: The dashboard's snapshots.
    snapshots: Snapshots
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

    `peers`: the other instances that share `store`; None: there can be none. `queue_service` has the queue that jobs
    come from besides; None: there is none.
    """
    in_flight = InFlight()
    headroom = Headroom()
    observers = Observers(tracing.from_environment(), [one.profile.name for one in job_servers])
    served = ServedJobServers(job_servers, settings.label_members)
    runner = LocalRunner(pool, callback_url)
    poller = Poller(served, runner)
    delivery = _delivery(in_flight, peers)
    intake = CallbackIntake(in_flight, store, delivery, poller)
    poller.was_called = intake.note_name
    elsewhere = Elsewhere(in_flight=in_flight, store=store, delivery=delivery, poller=poller, peers=peers)
    bodies = Bodies(settings.record_bodies, settings.record_bodies_masked)
    dispatcher = Dispatcher(
        runner=runner,
        poller=poller,
        store=store,
        in_flight=in_flight,
        headroom=headroom,
        observer=observers,
        elsewhere=elsewhere,
        callback_counts=intake.counts,
        bodies=bodies,
        max_jobs=settings.max_jobs,
        job_timeout_s=settings.job_timeout,
    )
    authorization = Authorization(settings.api_keys)
    if peers is not None:
        peers.watch(on_changed=elsewhere.hear, on_taken_over=dispatcher.take_over)
    answers = Answers(elsewhere, dispatcher.check_descriptors, granular_errors=settings.granular_errors)
    entrance = Entrance(dispatcher, in_flight, store)
    reader = JobReader(served, max_body_bytes=settings.max_body_bytes)
    queue_job = QueueJob(entrance, authorization, answers, reader, max_body_bytes=settings.max_body_bytes)
    jobs = Jobs(in_flight, store, authorization)
    message_jobs: MessageJobs | None = None
    consumer: Consumer | None = None
    if queue_service is not None:
        from proxy.sqs.consumer import Consumer  # noqa: PLC0415 - only for who uses it
        from proxy.sqs.message_jobs import MessageJobs  # noqa: PLC0415
        from proxy.sqs.metrics import QueueMetrics  # noqa: PLC0415

        message_jobs = MessageJobs(
            queue_service,
            entrance,
            reader,
            store,
            queue_url=settings.sqs_queue_url,
            result_ttl_s=settings.result_ttl,
            granular_errors=settings.granular_errors,
        )
        consumer = Consumer(queue_service, settings, entrance, message_jobs, lambda: pool.on_hold)
        observers.metrics.registry.register(QueueMetrics(consumer.counts))
    callback_route = CallbackRoute(intake, served, max_body_bytes=settings.max_body_bytes, max_jobs=settings.max_jobs)
    called = ["POST", "PUT", "GET"]
    callbacks = [
        Route("/callback/{token}", callback_route, methods=called),
        Route("/callback/{token}/{route:path}", callback_route, methods=called),
        Route("/callback/{token}", StrayCallbacks(intake, [*called, "HEAD"])),
        Route("/callback/{token}/{route:path}", StrayCallbacks(intake, [*called, "HEAD"])),
    ]
    strays = StrayCallbacks(intake)
    healthz = Route("/healthz", health.Alive(), methods=["GET"])
    ready = health.Ready(dispatcher, store, lambda: pool.on_hold, headroom)
    health_routes = [healthz, Route("/readyz", ready, methods=["GET"])]
    description = openapi.Description(settings)
    client_routes = [
        Route("/queueJob", queue_job, methods=["POST"]),
        Route("/queueJob/{profile}", queue_job, methods=["POST"]),
        Route("/queueJob/{profile}/{path:path}", queue_job, methods=["POST"]),
        Route("/start", queue_job, methods=["POST"]),
        Route("/jobs/{id}", JobStatus(jobs, dispatcher, elsewhere), methods=["GET", "DELETE"]),
        Route("/jobs", JobOfMessage(jobs, message_jobs.find if message_jobs else None), methods=["GET"]),
        Route("/jobs/{id}/result", JobResult(jobs, answers), methods=["GET"]),
        *health_routes,
        Route("/problems/{code}", ProblemPage(), methods=["GET"]),
        Route("/openapi.json", description, methods=["GET"]),
        Route("/docs", DocsPage(description), methods=["GET"]),
    ]
    observers.metrics.registry.register(
        LiveMetrics(
            pool_status=pool.status,
            in_flight=in_flight,
            dispatcher=dispatcher,
            intake=intake,
            elsewhere=elsewhere,
            calls=(observers.metrics.submissions, poller.counts),
            store=store,
            max_jobs=settings.max_jobs,
        )
    )
    observers.loop_lag.start()
    status = Status(dispatcher, ready, lambda: pool.on_hold, elsewhere.name)
    snapshots = Snapshots(
        pool_status=pool.status,
        in_flight=in_flight,
        observers=observers,
        max_jobs=settings.max_jobs,
        status=status.shown,
        queue=consumer.counts.shown if consumer else None,
        instances=InstancesView(store, dispatcher, elsewhere).shown if peers is not None else None,
    )
    audit = Audit(store, elsewhere.name)
    gate = Gate(settings.admin_keys, _gateway_users(settings), audit)
    drain = Drain(IntakeView(dispatcher, in_flight, ready))
    house = House(
        store=store,
        job_servers={one.profile.name: shown(one.url) for one in job_servers},
        health=observers.job_servers,
        in_flight=in_flight,
        intake=drain.view,
        files={"TLS_CERTFILE": settings.tls_certfile, "JOB_SERVER_CAFILE": settings.job_server_cafile},
        keys=lambda: {"API_KEYS": authorization.keys, "ADMIN_KEYS": gate.keys},
        instance=elsewhere.name,
    )
    find = dashboard.FindJob(in_flight, observers.history, store, authorization, bodies, served)
    admin_routes = [
        *intake_routes(dispatcher, drain),
        *log_in.routes(gate, audit),
        Route("/audit", AuditList(store), methods=["GET"]),
        Route("/house", house, methods=["GET"]),
        Route("/jobs", ListJobs(in_flight, store, authorization), methods=["GET"]),
        Route("/jobs/patterns", JobPatterns(store, authorization, settings.label_members), methods=["GET"]),
        Route("/workers", admin.Workers(pool.status), methods=["GET"]),
        Route("/metrics", admin.MetricsPage(observers.metrics), methods=["GET"]),
        Route("/status", status, methods=["GET"]),
        *dashboard.routes(
            snapshots, find, dashboard.StopJob(dispatcher, elsewhere, find), AskJobServer(in_flight, poller)
        ),
    ]
    public_routes = client_routes if settings.callback_port is not None else [*callbacks, *client_routes]
    return App(
        public=_app(settings, public_routes, observers, strays=strays, documentation="/docs"),
        callbacks=_app(
            settings, [*callbacks, *(health_routes if settings.port is None else [healthz])], observers, strays=strays
        ),
        admin=_admin_app(settings, Access(Router(admin_routes, redirect_slashes=False), gate, audit), observers),
        dispatcher=dispatcher,
        in_flight=in_flight,
        authorization=authorization,
        gate=gate,
        ready=ready,
        drain=drain,
        house=house,
        store=store,
        pool=pool,
        callback_route=callback_route,
        observers=observers,
        snapshots=snapshots,
        consumer=consumer,
    )


def _delivery(in_flight: InFlight, peers: Peers | None) -> Delivery:
    here = LocalDelivery(in_flight)
    return here if peers is None else SharedDelivery(here, peers)


def _app(
    settings: Settings,
    routes: list[Route],
    observers: Observers,
    *,
    strays: ASGIApp | None = None,
    documentation: str = "",
) -> ASGIApp:
    """Return an application with these routes and `strays` for all else."""
    # Only the router: the two layers of a Starlette application would do what the guard does a second time.
    app: ASGIApp = Router(routes, redirect_slashes=False, default=strays)
    app = Guard(app, observers.request_refused, documentation)
    return Forwarded(app, settings.trusted_proxies) if settings.trusted_proxies else app


def _admin_app(settings: Settings, access: Access, observers: Observers) -> ASGIApp:
    """Return the application for operators, which is asked only by the address's own names."""
    app: ASGIApp = admin.OwnNames(access, (settings.admin_host, *settings.admin_names))
    app = SafeHeaders(Guard(app, observers.request_refused))
    trusted = (*settings.trusted_proxies, *settings.admin_trusted_peers)
    return Forwarded(app, trusted) if trusted else app


def _gateway_users(settings: Settings) -> GatewayUsers | None:
    if not settings.admin_user_header:
        return None
    return GatewayUsers(
        header=settings.admin_user_header,
        peers=settings.admin_trusted_peers,
        acting=settings.admin_acting_users,
    )
