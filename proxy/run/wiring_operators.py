"""Wires the routes of the admin address; no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import Route, Router

from proxy.api.description import docs_page, openapi
from proxy.api.operators import admin, dashboard
from proxy.api.operators.access import log_in
from proxy.api.operators.access.access import Access
from proxy.api.operators.access.gate import Gate, GatewayUsers
from proxy.api.operators.access.headers import SafeHeaders
from proxy.api.operators.audit import Audit, AuditList
from proxy.api.operators.house import House
from proxy.api.operators.instances import InstancesView
from proxy.api.operators.intake import Drain, IntakeView
from proxy.api.operators.intake import routes as intake_routes
from proxy.api.operators.job_patterns import JobPatterns
from proxy.api.operators.list_jobs import ListJobs
from proxy.api.operators.snapshots import Snapshots
from proxy.api.operators.status import Status
from proxy.api.stray_callbacks import StrayCallbacks
from proxy.api.submitted import submitted_of
from proxy.http.asgi import Guard
from proxy.http.forwarded import Forwarded
from shared.shown_urls import shown

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from proxy.run.wiring_core import Core
    from proxy.sqs.consumer import Consumer
    from shared.settings import Settings

__all__ = ["Operators", "create_operators"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """The application for operators, and the parts of it that others need."""

    app: ASGIApp
    #: Who may look and act on the admin address; its keys can be replaced.
    gate: Gate
    #: Lets operators drain the process.
    drain: Drain
    #: The process's description for operators; the front end sets `given`.
    house: House
    #: The dashboard's snapshots.
    snapshots: Snapshots


def create_operators(settings: Settings, core: Core, consumer: Consumer | None) -> Operators:
    """Return the application for operators, and its parts. `consumer`: the queue entrance, if there is one."""
    audit = Audit(core.store, core.elsewhere.name)
    gate = Gate(settings.admin_keys, _gateway_users(settings), audit)
    drain = Drain(IntakeView(core.dispatcher, core.in_flight, core.ready))
    house = _house(settings, core, gate, drain)
    status = Status(core.dispatcher, core.ready, core.elsewhere.name)
    snapshots = _snapshots(settings, core, status, consumer)
    routes = [
        *intake_routes(core.dispatcher, drain),
        *log_in.routes(gate, audit),
        Route("/audit", AuditList(core.store), methods=["GET"]),
        Route("/house", house, methods=["GET"]),
        Route("/workers", admin.Workers(core.pool.status), methods=["GET"]),
        Route("/metrics", admin.MetricsPage(core.observers.metrics), methods=["GET"]),
        Route("/status", status, methods=["GET"]),
        *docs_page.routes(openapi.Description(lambda: openapi.operators_document(settings))),
        *_job_routes(settings, core, snapshots),
    ]
    app = _app(settings, Access(_router(routes, core), gate, audit), core)
    return Operators(app=app, gate=gate, drain=drain, house=house, snapshots=snapshots)


def _job_routes(settings: Settings, core: Core, snapshots: Snapshots) -> list[Route]:
    store, authorization = core.store, core.authorization
    find = dashboard.FindJob(
        core.in_flight, core.observers.history, store, authorization, core.shown_bodies, core.served, core.inquiry
    )
    stop = dashboard.StopJob(core.dispatcher, core.elsewhere, find)
    return [
        Route("/jobs", ListJobs(core.in_flight, store, authorization, snapshots.closed), methods=["GET"]),
        Route("/jobs/patterns", JobPatterns(store, authorization, settings.label_members), methods=["GET"]),
        *dashboard.routes(snapshots, find, stop, dashboard.AskJobServer(core.inquiry)),
    ]


def _snapshots(settings: Settings, core: Core, status: Status, consumer: Consumer | None) -> Snapshots:
    instances = InstancesView(core.store, core.dispatcher, core.elsewhere)
    return Snapshots(
        pool_status=core.pool.status,
        in_flight=core.in_flight,
        observers=core.observers,
        max_jobs=settings.max_jobs,
        status=status.shown,
        queue=consumer.counts.shown if consumer else None,
        instances=instances.shown if core.elsewhere.instance else None,
    )


def _house(settings: Settings, core: Core, gate: Gate, drain: Drain) -> House:
    return House(
        store=core.store,
        job_servers={one.profile.name: shown(one.url) for one in core.job_servers},
        observers=core.observers,
        in_flight=core.in_flight,
        intake=drain.view,
        files={"TLS_CERTFILE": settings.tls_certfile, "JOB_SERVER_CAFILE": settings.job_server_cafile},
        keys=lambda: {"API_KEYS": core.authorization.keys, "ADMIN_KEYS": gate.keys},
        instance=core.elsewhere.name,
    )


def _router(routes: list[Route], core: Core) -> Router:
    """Return the router; any other request may be a callback, if `CALLBACK_URL` has the wrong port."""
    return Router(routes, redirect_slashes=False, default=StrayCallbacks(core.callback_intake))


def _app(settings: Settings, access: Access, core: Core) -> ASGIApp:
    """Return the application, which accepts only the address's own names as hosts."""
    app: ASGIApp = admin.OwnNames(access, (settings.admin_host, *settings.admin_names))
    app = SafeHeaders(Guard(app, core.observers.request_refused, "/docs", submitted_of))
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
