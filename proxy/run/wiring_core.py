"""Wires the parts that all jobs use, whichever entrance they come through; no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.api import health
from proxy.api.clients.request_headers import Authorization
from proxy.jobs.callback_intake import CallbackIntake
from proxy.jobs.delivery import SharedDelivery
from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.elsewhere import Elsewhere
from proxy.jobs.entrance import Entrance, JobReader
from proxy.jobs.headroom import Headroom
from proxy.jobs.in_flight import InFlight
from proxy.jobs.inquiry import Inquiry
from proxy.jobs.job_server import ServedJobServers
from proxy.jobs.named_callbacks import NamedCallbacks
from proxy.jobs.polling import Poller
from proxy.jobs.shown_bodies import ShownBodies
from proxy.observe import tracing
from proxy.observe.gauges import LiveMetrics
from proxy.observe.observers import Observers
from proxy.workers.local_asker import LocalAsker
from proxy.workers.local_runner import LocalRunner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.jobs.delivery import Delivery
    from proxy.store.protocol import JobStore, Peers
    from proxy.workers.pool import Pool
    from shared.settings import Settings
    from shared.worker_config import JobServer

__all__ = ["Core", "create_core", "observe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The parts that the entrances and the operators' routes use."""

    job_servers: Sequence[JobServer]
    #: Their secrets may be reloaded.
    served: ServedJobServers
    pool: Pool
    store: JobStore
    in_flight: InFlight
    poller: Poller
    callback_intake: CallbackIntake
    named_callbacks: NamedCallbacks
    inquiry: Inquiry
    elsewhere: Elsewhere
    #: None: bodies are neither recorded nor shown.
    shown_bodies: ShownBodies | None
    dispatcher: Dispatcher
    entrance: Entrance
    reader: JobReader
    #: Who may run jobs; its keys can be replaced.
    authorization: Authorization
    #: Readiness, for load balancers.
    ready: health.Ready
    #: Metrics, history, event loop lag.
    observers: Observers


def create_core(
    settings: Settings,
    job_servers: Sequence[JobServer],
    *,
    pool: Pool,
    store: JobStore,
    callback_url: str,
    peers: Peers | None,
) -> Core:
    """Return the parts for `settings`; see `create_app`."""
    in_flight = InFlight()
    headroom = Headroom(in_flight.with_workers, pool.size, reused=settings.worker_max_jobs != 1)
    observers = Observers(tracing.from_environment(), [one.profile.name for one in job_servers])
    served = ServedJobServers(job_servers, settings.label_members)
    runner = LocalRunner(pool, callback_url)
    poller = Poller(served, LocalAsker(pool, runner))
    delivery: Delivery = in_flight if peers is None else SharedDelivery(in_flight, peers)
    callback_intake = CallbackIntake(in_flight, store, delivery, poller)
    named_callbacks = NamedCallbacks(callback_intake, in_flight, store, served)
    poller.was_called = named_callbacks.came_early
    callback_intake.on_proof = observers.history.proven
    elsewhere = Elsewhere(in_flight=in_flight, store=store, delivery=delivery, poller=poller, peers=peers)
    elsewhere.on_proof = observers.history.proven
    shown_bodies = None
    if settings.record_bodies:
        shown_bodies = ShownBodies(settings.record_bodies, settings.record_bodies_masked)
    dispatcher = Dispatcher(
        runner=runner,
        poller=poller,
        store=store,
        in_flight=in_flight,
        job_servers=served,
        headroom=headroom,
        observer=observers,
        elsewhere=elsewhere,
        callback_counts=callback_intake.counts,
        bodies=shown_bodies,
        max_jobs=settings.max_jobs,
        job_timeout_s=settings.job_timeout,
    )
    inquiry = Inquiry(
        in_flight=in_flight, store=store, poller=poller, job_servers=served, callback_intake=callback_intake
    )
    callback_intake.on_named = lambda record: dispatcher.give_up([record])
    callback_intake.on_announced = dispatcher.on_announced = inquiry.announced
    if peers is not None:
        peers.watch(
            on_changed=elsewhere.hear,
            on_taken_over=dispatcher.take_over,
            on_given_up=dispatcher.give_up,
            is_draining=lambda: dispatcher.draining,
        )
    return Core(
        job_servers=job_servers,
        served=served,
        pool=pool,
        store=store,
        in_flight=in_flight,
        poller=poller,
        callback_intake=callback_intake,
        named_callbacks=named_callbacks,
        inquiry=inquiry,
        elsewhere=elsewhere,
        shown_bodies=shown_bodies,
        dispatcher=dispatcher,
        entrance=Entrance(dispatcher, in_flight, store),
        reader=JobReader(served, max_body_bytes=settings.max_body_bytes),
        authorization=Authorization(settings.api_keys),
        ready=health.Ready(dispatcher, store, lambda: pool.on_hold, headroom),
        observers=observers,
    )


def observe(core: Core, settings: Settings) -> None:
    """Start to measure the parts."""
    metrics = core.observers.metrics
    metrics.registry.register(
        LiveMetrics(
            pool_status=core.pool.status,
            in_flight=core.in_flight,
            dispatcher=core.dispatcher,
            callback_intake=core.callback_intake,
            elsewhere=core.elsewhere,
            calls=(metrics.submissions, core.poller.counts),
            store=core.store,
            max_jobs=settings.max_jobs,
        )
    )
    core.observers.loop_lag.start()
