"""Every shipped profile with the real proxy and a stand-in for its job server: the promises hold for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from shared.job_server.calls import Call
from tests.support.http import fetch
from tests.support.profiles import shipped_profiles
from tests.support.waiting import eventually

Make = Callable[..., Any]
PROFILES = {profile.name: profile for profile in shipped_profiles()}
NAMES = list(PROFILES)
GROUPS = 2


def named(names: Iterable[str]) -> list[Any]:
    """Return the profiles as test parameters, in groups that share their proxies."""
    numbers = {name: number % GROUPS for number, name in enumerate(NAMES)}
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"profiles-{numbers[name]}"), id=name) for name in names]


def _is_callable(name: str, section: str) -> bool:
    """Return whether the profile has this call, and the reply to a submission has everything it needs."""
    profile = PROFILES[name]
    call = getattr(profile, section)
    return call is not None and Call("", profile.server, call).needs <= profile.submit.outputs.keys()


ALL = named(NAMES)
WITH_STATUS = named(name for name in NAMES if _is_callable(name, "status"))
WITH_CANCEL = named(name for name in NAMES if _is_callable(name, "cancel"))
WITH_PROOF = named(name for name, one in PROFILES.items() if one.verify is not None)
FOUND_WITHOUT_REPLY = ["langgraph", "nodeodm"]


@pytest.mark.parametrize("name", ALL)
async def test_a_job_that_succeeds(make_bench: Make, name: str) -> None:
    """Its client gets the job server's result, with its media type."""
    bench = await make_bench(name)
    answer = await bench.post()
    assert answer.status == 200, answer.body
    ready = [*bench.samples("result", "ready"), *bench.samples("status", "succeeded")]
    final = [*bench.samples("callback", "succeeded"), *(ready if bench.profile.callback.notification_only else [])]
    results = {sample.body if sample.result is None else sample.result for sample in [*final, *ready]}
    assert any(answer.body.decode().startswith(result[:8]) for result in results), answer.body
    assert len(bench.stand_in.jobs) == 1


@pytest.mark.parametrize("name", ALL)
async def test_a_job_that_fails(make_bench: Make, name: str) -> None:
    """`job-failed`, with the job server's reason where it has one."""
    bench = await make_bench(name)
    wish = (
        "failed" if bench.samples("callback", "failed") or bench.profile.callback.notification_only else "lost-failed"
    )
    document = (await bench.post(wish)).document
    assert (document["code"], document["submitted"]) == ("job-failed", "yes")
    reasons = [one.error for one in bench.profile.sample if one.expect == "failed" and one.error]
    assert not reasons or any(reason in document["detail"] for reason in reasons), document["detail"]


@pytest.mark.parametrize("name", ALL)
async def test_a_refusal_and_a_job_server_that_is_busy(make_bench: Make, name: str) -> None:
    """A refusal was not submitted, wherever the job server says so; a busy job server is retried."""
    bench = await make_bench(name)
    refused = (await bench.post("refused")).document
    assert (refused["code"], refused["submitted"]) == ("job-rejected", "no")
    assert (await bench.post("busy")).status == 200
    assert (len(bench.stand_in.submissions), len(bench.stand_in.jobs)) == (3, 1)
    error = (await bench.post("error")).document
    assert (error["code"], error["submitted"]) == ("job-rejected", "unknown")


@pytest.mark.parametrize("name", ALL)
async def test_a_callback_before_the_reply_and_one_that_comes_twice(make_bench: Make, name: str) -> None:
    """The first that is final counts, and the job is submitted once."""
    bench = await make_bench(name)
    assert (await bench.post("early")).status == 200
    assert (await bench.post("twice")).status == 200
    assert len(bench.stand_in.submissions) == 2
    await eventually(lambda: len(bench.stand_in.sender.sent) == 3)
    assert {sent.status for sent in bench.stand_in.sender.sent} == {200}


@pytest.mark.parametrize("name", WITH_STATUS)
async def test_a_callback_that_is_lost_is_found_by_asking(make_bench: Make, name: str) -> None:
    """A success and a failure; a job whose callback comes in time is not asked about."""
    bench = await make_bench(name)
    assert (await bench.post("lost")).status == 200
    assert bench.stand_in.jobs[0].calls["status"] >= 1
    assert (await bench.post("lost-failed")).document["code"] == "job-failed"
    if not bench.profile.callback.notification_only:
        await bench.post("succeeded")
        assert bench.stand_in.jobs[2].calls["status"] == 0


@pytest.mark.parametrize("name", named(FOUND_WITHOUT_REPLY))
async def test_a_reply_that_is_lost_is_made_up_for_by_asking(make_bench: Make, name: str) -> None:
    """Where the call needs only our own names."""
    bench = await make_bench(name)
    bench.stand_in.jobs.clear()
    answer = await bench.post("lost-reply")
    assert answer.status == 200
    assert len(bench.stand_in.submissions) == 1


@pytest.mark.parametrize("name", named(name for name in NAMES if name not in FOUND_WITHOUT_REPLY))
async def test_a_reply_that_is_lost_is_never_followed_by_another_submission(make_bench: Make, name: str) -> None:
    """Whatever the method: aiohttp would retry a PUT."""
    bench = await make_bench(name)
    answer = await bench.post("lost-reply")
    if bench.profile.callback.correlate_with in bench.profile.submit.outputs:  # only the reply names the job
        assert (answer.document["code"], answer.document["submitted"]) == ("deadline-exceeded", "unknown")
    else:
        assert answer.status == 200, answer.body  # the callback comes
    assert len(bench.stand_in.submissions) == 1


@pytest.mark.parametrize("name", WITH_CANCEL)
async def test_a_job_that_is_cancelled_is_cancelled_at_the_job_server(make_bench: Make, name: str) -> None:
    """The client is answered at once."""
    bench = await make_bench(name)
    waiting = asyncio.ensure_future(bench.post("never"))
    accepted = await bench.post("never", Prefer="respond-async")
    await eventually(lambda: len(bench.stand_in.jobs) == 2)
    url = f"{bench.proxy.url}/jobs/{accepted.headers['Job-Id']}"

    async def is_waiting() -> bool:
        return bool((await fetch(bench.session, "GET", url)).document["state"] == "waiting")

    await eventually(is_waiting)
    document = (await fetch(bench.session, "DELETE", url)).document
    assert document["code"] == "cancelled"
    assert "the job server is told" in document["detail"]
    await eventually(lambda: sum(job.calls["cancel"] for job in bench.stand_in.jobs) == 1)
    overdue = (await waiting).document  # the deadline cancels as well
    assert overdue["code"] == "deadline-exceeded"
    await eventually(lambda: [job.calls["cancel"] for job in bench.stand_in.jobs] == [1, 1])


@pytest.mark.parametrize("name", WITH_PROOF)
async def test_a_callback_without_its_proof_changes_nothing(make_bench: Make, name: str) -> None:
    """It is answered 401, and the one with the proof counts. The metrics have it as forged only."""
    bench = await make_bench(name)

    async def count(kind: str) -> float:
        page = (await fetch(bench.session, "GET", f"{bench.proxy.admin}/metrics")).body.decode()
        return float(page.split(f'callbacks_total{{kind="{kind}"}} ')[1].split("\n")[0])

    before = [await count("forged"), await count("refused")]
    assert (await bench.post("forged")).status == 200
    await eventually(lambda: len(bench.stand_in.sender.sent) == 2)
    assert [sent.status for sent in bench.stand_in.sender.sent] == [401, 200]
    assert [await count("forged") - before[0], await count("refused") - before[1]] == [1, 0]


@pytest.mark.parametrize("name", named(name for name in NAMES if name != "spreedly"))
async def test_progress_is_kept_and_shown(make_bench: Make, name: str) -> None:
    """The latest, while the job goes on; a job with progress ends like any other."""
    bench = await make_bench(name)
    count = len(bench.samples("callback", "progress"))
    assert (await bench.post("progress")).status == 200
    assert len([sent for sent in bench.stand_in.sender.sent if sent.expect == "progress"]) == count
    assert {sent.status for sent in bench.stand_in.sender.sent} == {200}
