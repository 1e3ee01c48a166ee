"""Every fault of the table, seen from the client and from the receiver of callbacks."""

import asyncio
import json
import zlib

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError

from jobserver.faults import FAULTS
from jobserver.options import Options
from tests.integration.jobserver.jobserver_harness import MakeHarness
from tests.support.waiting import IN_VAIN_S, eventually

#: Faults with a test below; every fault has to be here.
TESTED = {
    "none", "early", "late", "never", "duplicate", "many", "forged", "garbage-callback", "huge-callback",
    "slow-callback-body", "failed", "error", "big-result", "refuse", "refuse-first", "rate-limit", "reject",
    "server-error", "unavailable", "drop", "drop-but-run", "reset", "hang", "slow-reply", "garbage",
    "wrong-state", "short-body", "endless-body", "gzip-bomb", "many-headers", "deep-json", "redirect",
}  # fmt: skip


def test_every_fault_has_its_test_here() -> None:
    """A new row of the table must come with a test."""
    assert set(FAULTS) == TESTED


async def test_early_sends_the_callback_before_the_reply(job_server: MakeHarness) -> None:
    """By the time the reply is read, the callback has been answered."""
    jobs = await job_server()
    reply = await (await jobs.submit(fault="early")).json()
    assert [document["id"] for document in jobs.receiver.documents()] == [reply["id"]]


async def test_late_sends_the_callback_after_its_delay(job_server: MakeHarness) -> None:
    """The delay counts from the acceptance."""
    jobs = await job_server()
    await jobs.submit(fault="late", delay=0.2)
    await eventually(lambda: jobs.callbacks)
    assert jobs.callbacks[0].at_s - jobs.ledger.submissions[0].at_s >= 0.19


async def test_never_accepts_the_job_and_sends_nothing(job_server: MakeHarness) -> None:
    """A job submitted afterwards is called back, this one is not."""
    jobs = await job_server()
    assert (await jobs.submit(fault="never", callback=jobs.receiver.url("never"))).status == 200
    await jobs.submit()
    await eventually(lambda: jobs.callbacks)
    assert jobs.ledger.counts["started"] == 2
    assert [token for token, _, _ in jobs.receiver.received] == ["job"]


@pytest.mark.parametrize(("fields", "times"), [({"fault": "duplicate"}, 2), ({"fault": "many"}, 100)])
async def test_repeated_callbacks_are_all_the_same(
    job_server: MakeHarness, fields: dict[str, object], times: int
) -> None:
    """Twice for `duplicate`, a hundred times for `many`, byte for byte."""
    jobs = await job_server()
    await jobs.submit(**fields)
    await eventually(lambda: len(jobs.callbacks) == times)
    assert len(jobs.receiver.received) == times
    assert len({raw for _, raw, _ in jobs.receiver.received}) == 1


async def test_forged_calls_another_token_first(job_server: MakeHarness) -> None:
    """Then the right one, with the same result."""
    jobs = await job_server()
    await jobs.submit(fault="forged", callback=jobs.receiver.url("t" * 43))
    await eventually(lambda: len(jobs.callbacks) == 2)
    (wrong, first, _), (right, second, _) = jobs.receiver.received
    assert (wrong != right, len(wrong), right, first == second) == (True, 43, "t" * 43, True)
    assert [entry.kind for entry in jobs.callbacks] == ["forged", "result"]


async def test_garbage_callback_sends_what_is_not_json_first(job_server: MakeHarness) -> None:
    """Then the result."""
    jobs = await job_server()
    await jobs.submit(fault="garbage-callback")
    await eventually(lambda: len(jobs.callbacks) == 2)
    (_, garbage, _), (_, result, _) = jobs.receiver.received
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(garbage)
    assert json.loads(result)["state"] == "completed"


async def test_huge_callback_exceeds_the_receivers_cap_first(job_server: MakeHarness) -> None:
    """A receiver with a cap of 1 MiB refuses the first and takes the second."""
    jobs = await job_server()
    await jobs.submit(fault="huge-callback")
    await eventually(lambda: len(jobs.callbacks) == 2)
    huge, result = jobs.callbacks
    assert huge.kind == "huge"
    assert huge.status in {413, None}
    assert result.status == 200
    assert len(jobs.receiver.received) == 1


async def test_slow_callback_body_stalls_first(job_server: MakeHarness) -> None:
    """The stalled one never comes whole; the right one follows."""
    jobs = await job_server()
    await jobs.submit(fault="slow-callback-body", delay=0.1)
    await eventually(lambda: len(jobs.callbacks) == 2)
    stalled, result = jobs.callbacks
    assert (stalled.kind, stalled.error) == ("stalled", "timeout")
    assert (result.kind, result.status) == ("result", 200)
    assert len(jobs.receiver.documents()) == 1


@pytest.mark.parametrize("state", ["failed", "error"])
@pytest.mark.parametrize("wait", [True, False])
async def test_a_job_can_fail_in_both_forms(job_server: MakeHarness, state: str, wait: bool) -> None:
    """The state is in the result, wherever that is sent."""
    jobs = await job_server()
    response = await jobs.submit(fault=state, wait=wait)
    if wait:
        assert (await response.json())["state"] == state
        return
    await eventually(lambda: jobs.callbacks)
    assert [document["state"] for document in jobs.receiver.documents()] == [state]


async def test_big_result_has_the_size_asked_for(job_server: MakeHarness) -> None:
    """`bytes` counts the whole body."""
    jobs = await job_server()
    await jobs.submit(fault="big-result", bytes=100_000)
    await eventually(lambda: jobs.callbacks)
    assert len(jobs.receiver.received[0][1]) == 100_000


@pytest.mark.parametrize(("fault", "status"), [("refuse-first", 503), ("rate-limit", 429)])
async def test_a_refused_job_is_let_in_later(job_server: MakeHarness, fault: str, status: int) -> None:
    """`times` refusals with Retry-After, then one run; the ledger tells them apart."""
    jobs = await job_server()
    responses = [await jobs.submit(fault=fault, times=2, retry_after=0) for _ in range(3)]
    assert [response.status for response in responses] == [status, status, 200]
    assert [response.headers.get("Retry-After") for response in responses] == ["0", "0", None]
    await eventually(lambda: jobs.callbacks)
    assert [entry.refused for entry in jobs.ledger.submissions] == [True, True, False]
    assert [entry.ran for entry in jobs.ledger.submissions] == [False, False, True]
    assert jobs.ledger.submitted_twice() == []


async def test_refuse_never_lets_the_job_in(job_server: MakeHarness) -> None:
    """503 with the requested Retry-After, as often as it is tried."""
    jobs = await job_server()
    for _ in range(3):
        response = await jobs.submit(fault="refuse", retry_after=7)
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
    assert jobs.ledger.summary()["refused"] == 3


@pytest.mark.parametrize(
    ("fields", "status", "refused"),
    [
        ({"fault": "reject"}, 400, True),
        ({"fault": "reject", "status": 422}, 422, True),
        ({"fault": "server-error"}, 500, False),
        ({"fault": "server-error", "status": 504}, 504, False),
        ({"fault": "unavailable"}, 503, False),
    ],
)
async def test_an_error_status_runs_no_job(
    job_server: MakeHarness, fields: dict[str, object], status: int, refused: bool
) -> None:
    """Only a 4xx is a certain refusal; none asks the client to retry."""
    jobs = await job_server()
    response = await jobs.submit(**fields)
    assert (response.status, "Retry-After" in response.headers) == (status, False)
    (entry,) = jobs.ledger.submissions
    assert (entry.refused, entry.ran, entry.status) == (refused, False, status)


async def test_drop_closes_without_a_reply_and_runs_nothing(job_server: MakeHarness) -> None:
    """The client sees the end of the stream and not a single byte."""
    jobs = await job_server()
    assert await jobs.raw(fault="drop") == b""
    (entry,) = jobs.ledger.submissions
    assert (entry.ran, entry.refused, entry.status) == (False, False, None)


async def test_drop_but_run_closes_without_a_reply_and_calls_back(job_server: MakeHarness) -> None:
    """The callback is the only sign that the job runs."""
    jobs = await job_server()
    assert await jobs.raw(fault="drop-but-run") == b""
    await eventually(lambda: jobs.callbacks)
    assert len(jobs.receiver.documents()) == 1


async def test_reset_sends_rst(job_server: MakeHarness) -> None:
    """The client's read fails instead of reaching the end."""
    jobs = await job_server()
    with pytest.raises(ConnectionResetError):
        await jobs.raw(fault="reset")
    assert not jobs.ledger.submissions[0].ran


async def test_hang_sends_nothing_until_the_client_leaves(job_server: MakeHarness) -> None:
    """Its account is free again when the connection closes."""
    jobs = await job_server()
    reader, writer = await jobs.send({"account": "a", "fault": "hang"})
    await eventually(lambda: jobs.ledger.submissions)
    behind = asyncio.create_task(jobs.submit())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    assert not behind.done()
    writer.close()
    assert (await behind).status == 200


async def test_a_hanging_submission_can_run_all_the_same(job_server: MakeHarness) -> None:
    """Whatever the table says, `run` decides."""
    jobs = await job_server()
    _, writer = await jobs.send(
        {"account": "a", "wait": False, "callback": jobs.receiver.url(), "fault": "hang", "run": True}
    )
    await eventually(jobs.receiver.documents)
    writer.close()


async def test_slow_reply_comes_byte_by_byte_and_then_the_job_runs(job_server: MakeHarness) -> None:
    """The reply is right, in as many pieces as it has bytes."""
    jobs = await job_server()
    reply = await jobs.raw(fault="slow-reply", delay=0.0005)
    document = json.loads(reply.partition(b"\r\n\r\n")[2])
    assert document["state"] == "running"
    await eventually(lambda: jobs.callbacks)
    assert jobs.callbacks[0].at_s - jobs.ledger.submissions[0].at_s >= 0.0005 * len(reply)


async def test_a_slow_reply_that_is_not_awaited_runs_no_job(job_server: MakeHarness) -> None:
    """If the client leaves before the last byte, the job was not accepted."""
    jobs = await job_server()
    reader, writer = await jobs.send(
        {"account": "a", "wait": False, "callback": jobs.receiver.url(), "fault": "slow-reply", "delay": 0.01}
    )
    assert await reader.readexactly(4) == b"HTTP"
    writer.close()
    assert (await jobs.submit(callback=jobs.receiver.url("next"))).status == 200
    await eventually(lambda: jobs.callbacks)
    assert [entry.ran for entry in jobs.ledger.submissions] == [False, True]


@pytest.mark.parametrize("fault", ["garbage", "wrong-state", "deep-json"])
async def test_a_wrong_body_comes_with_a_200(job_server: MakeHarness, fault: str) -> None:
    """It is no document of the protocol, and no job runs."""
    jobs = await job_server()
    job = {"account": "a", "wait": False, "callback": jobs.receiver.url(), "fault": fault}
    async with jobs.client.post(jobs.url, json=job) as response:
        body = await response.read()
    assert response.status == 200
    assert not jobs.ledger.submissions[0].ran
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        assert fault != "wrong-state"
    else:
        assert fault == "wrong-state"
        assert document["state"] != "running"


async def test_short_body_ends_before_its_length(job_server: MakeHarness) -> None:
    """Aiohttp reports the missing rest."""
    jobs = await job_server()
    with pytest.raises(ClientPayloadError):
        await jobs.submit(fault="short-body")


async def test_endless_body_goes_on_until_the_client_leaves(job_server: MakeHarness) -> None:
    """Far more than any reply arrives, and the account is free afterwards."""
    jobs = await job_server()
    reader, writer = await jobs.send({"account": "a", "fault": "endless-body"})
    for _ in range(64):
        await reader.readexactly(64 * 1024)
    writer.close()
    assert (await jobs.submit()).status == 200


async def test_gzip_bomb_is_small_on_the_wire(job_server: MakeHarness) -> None:
    """4 MiB are sent as a few KiB, marked as gzip."""
    jobs = await job_server()
    client = jobs.client
    job = {"account": "a", "fault": "gzip-bomb", "bytes": 4 * 1024 * 1024}
    async with client.post(jobs.url, json=job) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert int(response.headers["Content-Length"]) < 10_000
        assert len(await response.read()) == 4 * 1024 * 1024


async def test_many_headers_are_all_sent(job_server: MakeHarness) -> None:
    """A hundred thousand of them."""
    jobs = await job_server()
    reply = await jobs.raw(fault="many-headers")
    assert reply.count(b"\r\nX-Header-") == 100_000


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_points_elsewhere_and_counts_who_follows(job_server: MakeHarness, status: int) -> None:
    """A client that does not follow leaves no trace, one that does is counted."""
    jobs = await job_server()
    response = await jobs.submit(fault="redirect", status=status)
    assert (response.status, response.headers["Location"]) == (status, "/elsewhere")
    assert jobs.ledger.elsewhere == 0
    async with jobs.client.post(jobs.server.make_url("/elsewhere")) as followed:
        assert followed.status == 200
    assert jobs.ledger.summary()["elsewhere"] == 1


async def test_a_fault_of_the_reply_shows_in_the_synchronous_form_too(job_server: MakeHarness) -> None:
    """The client's own form is dropped, dripped and cut just the same."""
    jobs = await job_server()
    with pytest.raises(ClientConnectionError):
        await jobs.submit(fault="drop", wait=True)
    response = await jobs.submit(fault="slow-reply", wait=True, delay=0)
    assert (await response.json())["state"] == "completed"


async def test_a_server_that_is_closed_ends_its_hanging_jobs_at_once(job_server: MakeHarness) -> None:
    """Neither a hanging reply nor a late callback delays the end."""
    jobs = await job_server(Options(duration_s=60))
    await jobs.submit()
    _, hanging = await jobs.send({"account": "a", "fault": "hang"})
    _, waiting = await jobs.send({"account": "a", "wait": True})
    await eventually(lambda: len(jobs.ledger.submissions) == 2)
    await asyncio.wait_for(jobs.server.close(), IN_VAIN_S)
    hanging.close()
    waiting.close()


def test_the_default_bomb_is_worth_its_name() -> None:
    """Zlib agrees, without inflating it, that the default inflates to at least what the table says."""
    from jobserver.replies import gzip_bomb  # noqa: PLC0415 - only here

    size = FAULTS["gzip-bomb"].size_bytes
    bomb = gzip_bomb(size)
    assert len(bomb) * 100 < size
    inflate = zlib.decompressobj(wbits=31)
    assert len(inflate.decompress(bomb, 1024)) == 1024
    assert int.from_bytes(bomb[-4:], "little") == size
