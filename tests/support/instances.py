"""Front ends without HTTP and worker processes; several in one process can share a store."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from proxy.jobs.callback_intake import CallbackFate, CallbackIntake
from proxy.jobs.delivery import Delivery, SharedDelivery
from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.elsewhere import Elsewhere
from proxy.jobs.entrance import Entrance
from proxy.jobs.headroom import Headroom
from proxy.jobs.in_flight import InFlight
from proxy.jobs.inquiry import Inquiry
from proxy.jobs.job import Job, token_hash
from proxy.jobs.job_server import ServedJobServers
from proxy.jobs.named_callbacks import NamedCallbacks
from proxy.jobs.polling import Poller
from proxy.store.record import Record
from shared.job_server import loader
from shared.job_server.verdict import Kind, Verdict
from shared.messages import Told
from shared.worker_config import JobServer
from tests.support.failing_store import FailingStore
from tests.support.jobs import a_request
from tests.support.runners import SteppedRunner
from tests.support.shared_store import Member, SharedStore

if TYPE_CHECKING:
    from proxy.jobs.runner import Runner
    from proxy.store.protocol import Peers
    from shared.outcome import Outcome

__all__ = ["FAILED", "PROGRESS", "SUCCEEDED", "Cluster", "Instance", "a_job_server", "served_job_servers"]

SUCCEEDED = Verdict(kind=Kind.SUCCEEDED)
FAILED = Verdict(kind=Kind.FAILED)
PROGRESS = Verdict(kind=Kind.PROGRESS, state="running")


class StatedHeadroom(Headroom):
    """A machine that is short of a resource, as the test says."""

    def __init__(self) -> None:
        self.short_of = ""

    def shortage(self) -> str:
        """Return the scarce resource."""
        return self.short_of

    def has_descriptors(self) -> bool:
        """Return whether there are enough descriptors."""
        return self.short_of != "file descriptors"


class Notes:
    """An observer that records its notifications."""

    def __init__(self) -> None:
        self.began: list[Job] = []
        self.finished: list[tuple[Job, Outcome]] = []

    def job_began(self, job: Job) -> None:
        """Note it."""
        self.began.append(job)

    def job_finished(self, job: Job, outcome: Outcome) -> None:
        """Note it."""
        self.finished.append((job, outcome))


class StatedAsker:
    """Makes calls to a job server that answers what a test says; by default nothing useful."""

    def __init__(self) -> None:
        #: Every call: the job, the call, and its deadline.
        self.asked: list[tuple[Job, str, float]] = []
        #: The time of every call, by the event loop's clock.
        self.at: list[float] = []
        #: The answers, in order; the last one is repeated.
        self.answers: list[Told] = []

    async def ask(self, job: Job, call: str, deadline: float) -> Told:
        """Note the call, and answer as stated."""
        self.asked.append((job, call, deadline))
        self.at.append(asyncio.get_running_loop().time())
        if not self.answers:
            return Told(job_id=job.id, call=call, kind="unavailable", error="nothing is stated", body=b"")
        told = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return told._replace(job_id=job.id, call=call)


# Thousands of instances are made. What they know of job servers is read-only, and takes longer to make than the rest.


@functools.cache
def a_job_server(profile: str) -> JobServer:
    """Return a job server that nobody calls."""
    loaded = loader.load(profile)
    secrets = dict.fromkeys(loader.secret_names(loaded), "secret")
    return JobServer(url="http://job-server", profile=loaded, secrets=secrets)


@functools.cache
def served_job_servers(*profiles: str, labels: tuple[str, ...] = ()) -> ServedJobServers:
    """Return these job servers as a front end knows them."""
    return ServedJobServers([a_job_server(name) for name in profiles], labels)


class Instance:
    """The core of one front end."""

    def __init__(
        self,
        runner: Runner | None = None,
        store: FailingStore | None = None,
        *,
        peers: Peers | None = None,
        profile: str = "spreedly",
        max_jobs: int = 100,
        job_timeout_s: float = 30.0,
    ) -> None:
        """Defaults: a `runner` that the test controls; a `store` of its own; no `peers`.

        `profile`: its name, or several names as in the setting.
        """
        self.stepped = SteppedRunner()
        self.store = store or FailingStore()
        self.in_flight = InFlight()
        self.asker = StatedAsker()
        served = self.served = served_job_servers(*profile.split(","))
        self.poller = Poller(served, self.asker)
        delivery: Delivery = self.in_flight if peers is None else SharedDelivery(self.in_flight, peers)
        self.callback_intake = CallbackIntake(self.in_flight, self.store, delivery, self.poller)
        self.elsewhere = Elsewhere(
            in_flight=self.in_flight, store=self.store, delivery=delivery, poller=self.poller, peers=peers
        )
        self.named_callbacks = NamedCallbacks(self.callback_intake, self.in_flight, self.store, served)
        self.poller.was_called = self.named_callbacks.came_early
        self.inquiry = Inquiry(
            in_flight=self.in_flight,
            store=self.store,
            poller=self.poller,
            job_servers=served,
            callback_intake=self.callback_intake,
        )
        self.headroom = StatedHeadroom()
        self.notes = Notes()
        self.dispatcher = Dispatcher(
            runner=runner or self.stepped,
            store=self.store,
            in_flight=self.in_flight,
            job_servers=served,
            headroom=self.headroom,
            observer=self.notes,
            poller=self.poller,
            elsewhere=self.elsewhere,
            callback_counts=self.callback_intake.counts,
            bodies=None,
            max_jobs=max_jobs,
            job_timeout_s=job_timeout_s,
        )
        self.callback_intake.on_announced = self.dispatcher.on_announced = self.inquiry.announced
        self.callback_intake.on_named = lambda record: self.dispatcher.give_up([record])
        self.entrance = Entrance(self.dispatcher, self.in_flight, self.store)
        if peers is not None:
            peers.watch(
                on_changed=self.elsewhere.hear,
                on_taken_over=self.dispatcher.take_over,
                on_given_up=self.dispatcher.give_up,
                is_draining=lambda: self.dispatcher.draining,
            )

    def submit(self, body: bytes = b"{}", **members: Any) -> Job:
        """Begin a job; `members` of its request."""
        return self.dispatcher.submit(a_request(body, **members))

    async def join(self, body: bytes = b"{}", key: str | None = "a key", **members: Any) -> tuple[Job | Record, bool]:
        """Begin a job, or join the one with this key; `members` of its request."""
        return await self.entrance.submit_or_join(a_request(body, key, **members))

    async def call_back(
        self, job: Job, body: bytes = b'{"state": "completed"}', verdict: Verdict = SUCCEEDED
    ) -> CallbackFate:
        """Receive a callback for `job`, whichever instance runs it."""
        return await self.callback_intake.take(token_hash(job.token), body, verdict)


class Cluster:
    """Several instances, each with a runner that the test controls, with one store."""

    def __init__(self, count: int = 2, **members: Any) -> None:
        """`members`: arguments of each `Instance`."""
        self.store = SharedStore()
        self.instances: list[Instance] = []
        #: The view of the store of each instance, including those that are gone.
        self.members: dict[Instance, Member] = {}
        self._options = members
        for _ in range(count):
            self.add()

    def add(self) -> Instance:
        """Start another instance."""
        member = Member(self.store, f"instance {len(self.members) + 1}")
        instance = Instance(store=FailingStore(member), peers=member, **self._options)
        self.members[instance] = member
        self.instances.append(instance)
        return instance

    def kill(self, instance: Instance) -> None:
        """Cut off an instance from everything; its jobs are left open."""
        self.instances.remove(instance)
        self.pause(instance)

    def pause(self, instance: Instance) -> None:
        """Freeze an instance: nothing from it reaches the store, and nothing reaches it, until it wakes up."""
        self.members[instance].cut_off = True
        instance.store.hanging = True

    def wake(self, instance: Instance) -> None:
        """Let a paused instance continue with what it was about to do."""
        self.members[instance].cut_off = False
        instance.store.hanging = False

    def sleeps_through_its_lease(self, instance: Instance, heir: Instance) -> None:
        """Pause an instance until another one has taken over its jobs."""
        self.pause(instance)
        self.take_over(heir, instance)
        self.wake(instance)

    def cut_off(self, instance: Instance, *, on: bool = True) -> None:
        """Make the store unavailable for an instance."""
        self.members[instance].cut_off = on
        instance.store.failing = on

    def take_over(self, heir: Instance, *gone: Instance) -> None:
        """Let an instance find that the leases of these have expired, and take over."""
        self.members[heir].take_over({self.members[instance].instance for instance in gone})
