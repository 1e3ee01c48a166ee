"""Submit or join, as used by every entrance: directly, and by a queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any, Final

import pytest

from proxy.jobs.entrance import JobReader
from proxy.jobs.job import Job
from proxy.jobs.job_server import ServedJobServers
from shared.errors import AdmissionError, Code, RequestError, StoreUnavailableError
from shared.job_server.verdict import job_failed
from shared.lifecycle import Submitted
from shared.outcome import Failed, Succeeded
from tests.support.instances import FAILED, Cluster, Instance, a_job_server
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.queue_entrance import Message, QueueEntrance
from tests.support.runners import SUBMIT, AnsweringRunner, InProcessRunner, RefusedError

DONE: Final = Succeeded(body=b'{"state": "completed"}')


# --- what a client sent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["f/", "a//b", "/a", ".", "a/..", "../a", "a/./b"])
def test_a_path_that_cannot_stand_in_an_address_is_the_clients_mistake(path: str) -> None:
    """As it was reported as the job server's, a message with it was delivered again and again."""
    reader = JobReader(ServedJobServers([a_job_server("openfaas")]), max_body_bytes=1_000)
    assert reader.addressed("openfaas", "a/b.c").name == "openfaas"
    with pytest.raises(RequestError, match="the path after the profile's name") as refusal:
        reader.addressed("openfaas", path)
    assert refusal.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(("section", "key"), [("server", "headers"), ("submit", "headers"), ("submit", "form")])
def test_a_path_that_cannot_stand_in_a_field_is_the_clients_mistake_where_it_would(section: str, key: str) -> None:
    """In an address, it is percent-encoded; in a multipart form, a line break could begin another field."""
    served = a_job_server("openfaas")
    reader = JobReader(ServedJobServers([served]), max_body_bytes=1_000)
    assert reader.addressed("openfaas", "a\r\nB: c").name == "openfaas"

    part = replace(getattr(served.profile, section), **{key: {"A": "{path}"}})
    served = replace(served, profile=replace(served.profile, **{section: part}))
    reader = JobReader(ServedJobServers([served]), max_body_bytes=1_000)
    assert reader.addressed("openfaas", "a/é 中").name == "openfaas"
    with pytest.raises(
        RequestError, match="the path after the profile's name has a character that no header"
    ) as refusal:
        reader.addressed("openfaas", "a\r\nB: c")
    assert refusal.value.code is Code.NOT_FOUND


# --- called directly -------------------------------------------------------------------------------------------------


async def test_requests_without_a_key_are_jobs_of_their_own() -> None:
    """Even if they are the same."""
    instance = Instance()

    asked = [await instance.join(b"{}", None) for _ in range(3)]

    assert [joined for _, joined in asked] == [False] * 3
    assert len(instance.in_flight) == 3


async def test_a_request_with_a_key_joins_then_is_replayed() -> None:
    """While in flight it gets the job itself, afterwards the record."""
    instance = Instance()
    job, joined = await instance.join()
    assert isinstance(job, Job)
    assert (joined, await instance.join()) == (False, (job, True))
    instance.stepped.tell(job, *SUBMIT, DONE)
    await job.outcome

    found, joined = await instance.join()

    assert (found.id, found.outcome, joined) == (job.id, DONE, True)
    assert instance.stepped.submitted == {job.id: 1}


async def test_a_body_is_compared_to_the_byte() -> None:
    """In flight and afterwards."""
    instance = Instance()
    job, _ = await instance.join(b'{"a": 1}')
    assert isinstance(job, Job)
    with pytest.raises(RequestError):
        await instance.join(b'{"a":1}')
    instance.stepped.tell(job, *SUBMIT, DONE)
    await job.outcome
    with pytest.raises(RequestError) as refusal:
        await instance.join(b'{"a": 1.0}')

    assert refusal.value.code is Code.IDEMPOTENCY_KEY_REUSED


async def test_a_job_that_was_not_submitted_is_begun_anew_and_leaves_the_old_one_findable() -> None:
    """By its id, and by its token: a callback for it would be late, and would show that something was wrong."""
    instance = Instance()
    first, _ = await instance.join()
    assert isinstance(first, Job)
    instance.stepped.tell(first, Failed(code=Code.NO_WORKER, detail="none", submitted=Submitted.NO))
    await first.outcome

    second, joined = await instance.join()

    assert isinstance(second, Job)
    assert (joined, second.id != first.id, second.token != first.token) == (False, True, True)
    assert await instance.store.by_id(first.id) is not None
    assert await instance.store.by_token(first.token_hash) is not None
    instance.stepped.tell(second, *SUBMIT, DONE)
    await second.outcome
    assert (await instance.join())[0].id == second.id


async def test_refusals_come_before_anything_is_begun() -> None:
    """With and without a key; the key stays free."""
    instance = Instance(max_jobs=0)
    for key in (None, "a key"):
        with pytest.raises(AdmissionError):
            await instance.join(key=key)
    with pytest.raises(AdmissionError):
        instance.entrance.check_admission()

    instance.store.failing = True
    with pytest.raises(StoreUnavailableError):
        await instance.join()
    assert (instance.notes.began, instance.store.puts) == ([], [])


async def test_a_job_is_joined_at_an_instance_that_takes_no_new_ones() -> None:
    """It exists already: neither draining nor a limit is a reason to refuse a client that asks for it again."""
    instance = Instance(max_jobs=1)
    job, _ = await instance.join()
    assert await instance.join() == (job, True)
    instance.dispatcher.draining = True
    instance.headroom.short_of = "memory"

    assert await instance.join() == (job, True)


async def test_a_key_is_known_at_every_instance() -> None:
    """At other instances, its record is returned: first open, then finished."""
    cluster = Cluster(2)
    here, there = cluster.instances
    job, _ = await here.join()
    assert isinstance(job, Job)
    here.stepped.tell(job, *SUBMIT)
    await nothing_moves()

    record, joined = await there.join()
    assert (record.id, record.outcome, joined) == (job.id, None, True)
    await there.call_back(job, DONE.body)
    await job.outcome

    record, joined = await there.join()
    assert (record.outcome, joined) == (DONE, True)
    assert there.stepped.ran == []


# --- by a queue ------------------------------------------------------------------------------------------------------


async def test_a_message_is_a_job_and_its_outcome_the_reply() -> None:
    """Without HTTP and processes; the job server is a function that calls back by itself."""
    calls: Counter[bytes] = Counter()

    async def submit(body: bytes, token: str) -> None:
        calls[body] += 1
        (job,) = (job for job in instance.in_flight if job.token == token)
        verdict = {"verdict": FAILED} if b"bad" in body else {}
        callbacks.add(asyncio.create_task(instance.call_back(job, body, **verdict)))

    callbacks: set[asyncio.Task[object]] = set()
    instance = Instance(InProcessRunner(submit))
    queue = QueueEntrance(instance.entrance)

    await asyncio.gather(*(queue.take(Message(name, b'{"%s": 1}' % name.encode())) for name in ("good", "bad")))

    assert queue.replies == {"good": Succeeded(body=b'{"good": 1}'), "bad": job_failed(b'{"bad": 1}')}
    assert calls == {b'{"good": 1}': 1, b'{"bad": 1}': 1}


async def test_a_message_that_is_delivered_fifty_times_is_one_job() -> None:
    """At once, and again after the end: each delivery gets the same reply."""
    runner = AnsweringRunner(DONE)
    queue = QueueEntrance(Instance(runner).entrance)

    await asyncio.gather(*(queue.take(Message("m")) for _ in range(50)))
    await queue.take(Message("m"))

    assert (queue.replies, queue.joined) == ({"m": DONE}, 50)
    assert runner.submitted == {b"{}": 1}


async def test_messages_of_one_key_are_one_job() -> None:
    """A sender that sends twice creates two messages, but means one job; with another body it is an error."""
    runner = AnsweringRunner(DONE)
    queue = QueueEntrance(Instance(runner).entrance)

    for message in (Message("1", key="k"), Message("2", key="k"), Message("3", b"[]", key="k"), Message("4", b"[]")):
        await queue.take(message)

    assert queue.replies == {"1": DONE, "2": DONE, "4": DONE}
    assert queue.dead == {"3": Code.IDEMPOTENCY_KEY_REUSED}
    assert runner.submitted == {b"{}": 1, b"[]": 1}


def a_form(*values: str, boundary: str) -> dict[str, Any]:
    """Return the members of a request with a multipart form: a field for each value."""
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\n{value}\r\n' for value in values]
    body = "".join((*parts, f"--{boundary}--\r\n")).encode()
    return {"body": body, "content_type": f"multipart/form-data; boundary={boundary}"}


FORM: Final = a_form("1", "2", boundary="one")


async def test_the_same_form_with_another_boundary_is_the_same_job() -> None:
    """Each request of a client has a boundary of its own: a retry was refused as another job."""
    instance = Instance()
    job, _ = await instance.join(**FORM)

    again, joined = await instance.join(**a_form("1", "2", boundary="another"))

    assert (again.id, joined) == (job.id, True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FORM, a_form("1", boundary="one")),
        (FORM, a_form("2", "1", boundary="one")),
        (FORM, a_form("1", "2", "", boundary="one")),
        (FORM, FORM | {"content_type": "multipart/form-data; boundary=on"}),
        (FORM, FORM | {"content_type": "application/octet-stream"}),
        (FORM, FORM | {"query": "model=large"}),
        (a_form("1--one", boundary="one"), a_form("1--two", boundary="two")),
    ],
)
async def test_another_form_is_another_job(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Also where a value has the boundary in it; and where the body is the same, but not all that belongs to it."""
    instance = Instance()
    await instance.join(**first)

    with pytest.raises(RequestError, match="with a different body, path, query or `Content-Type`"):
        await instance.join(**second)


async def test_only_what_was_not_submitted_goes_back_to_the_queue() -> None:
    """It is begun again with the next delivery; a job that may have run is replied to and never repeated."""
    refusing = True
    submissions: Counter[bytes] = Counter()

    async def submit(body: bytes, _token: str) -> None:
        submissions[body] += 1
        if refusing:
            raise RefusedError

    instance = Instance(InProcessRunner(submit))
    queue = QueueEntrance(instance.entrance)
    await queue.take(Message("m"))
    assert (queue.given_back["m"], queue.replies) == (1, {})

    refusing = False
    await queue.take(Message("m"))
    await queue.take(Message("m"))

    reply = queue.replies["m"]
    assert isinstance(reply, Failed)
    assert (reply.code, reply.submitted) == (Code.DEADLINE_EXCEEDED, Submitted.YES)
    assert (submissions, queue.given_back["m"]) == ({b"{}": 2}, 1)


async def test_messages_wait_in_the_queue_while_there_is_no_room_or_no_store() -> None:
    """None is lost and none is begun twice."""
    instance = Instance(AnsweringRunner(DONE), max_jobs=2)
    queue = QueueEntrance(instance.entrance)
    messages = [Message(str(number)) for number in range(5)]
    await asyncio.gather(*(queue.take(message) for message in messages))
    assert (len(queue.replies), queue.given_back.total()) == (2, 3)

    instance.store.failing = True
    left = [message for message in messages if message.id not in queue.replies]
    for message in left:
        await queue.take(message)
    assert (len(queue.replies), queue.given_back.total()) == (2, 6)

    instance.store.failing = False
    for message in left:
        await queue.take(message)
    assert queue.replies == {message.id: DONE for message in messages}


async def test_a_message_of_an_instance_that_died_is_replied_to_by_another() -> None:
    """The queue delivers it again; the job continues where it was taken over, and is not submitted again."""
    cluster = Cluster(2)
    here, there = cluster.instances
    taken = asyncio.create_task(QueueEntrance(here.entrance).take(Message("m")))
    await nothing_moves()
    (job,) = here.in_flight
    here.stepped.tell(job, *SUBMIT)
    await nothing_moves()
    cluster.kill(here)
    queue = QueueEntrance(there.entrance)

    await queue.take(Message("m"))
    assert queue.given_back == {"m": 1}
    cluster.take_over(there, here)
    again = asyncio.create_task(queue.take(Message("m")))
    await there.call_back(job, DONE.body)
    await again

    assert queue.replies == {"m": DONE}
    assert (there.stepped.ran, here.stepped.submitted) == ([], {job.id: 1})
    taken.cancel()
    await time_passes(60)
