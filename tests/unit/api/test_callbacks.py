"""The callback route: who may call, what is read, and what is answered."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import threading
import uuid
from collections.abc import Callable
from typing import Any, Final, cast

import pytest

from proxy.api.stray_callbacks import StrayCallbacks
from proxy.http import problems
from proxy.jobs.callback_intake import CallbackFate
from proxy.jobs.job import Job, new_token, token_hash
from shared.errors import Code
from shared.job_server.loader import load
from shared.job_server.profile import Verify
from shared.lifecycle import State
from shared.worker_config import JobServer
from tests.support.asgi import ask, request_scope, sent_by
from tests.support.bad_json import BAD_VALUES
from tests.support.http import Answer, problem
from tests.support.instances import a_job_server
from tests.support.jumping_loop import nothing_moves, time_passes
from tests.support.records import a_record
from tests.support.runners import Step
from tests.support.whole_app import DONE, JSON_TYPE, WholeApp

PROGRESS: Final = b'{"state": "running"}'


@pytest.fixture
async def job(app: WholeApp) -> Job:
    """A job that the job server has."""
    return await app.waiting()


def said(answer: Answer) -> str:
    """Return the status word of a callback's answer."""
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.document.keys() == {"status"}
    return str(answer.document["status"])


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_the_sender_hears_what_its_callback_was(app: WholeApp, job: Job, method: str) -> None:
    """With either method; there is one word for each fate."""
    words = [said(await app.call_back(job, body, method)) for body in (PROGRESS, DONE, DONE, PROGRESS)]
    await job.outcome
    words.append(said(await app.call_back(job, DONE, method)))

    assert words == ["progress", "accepted", "duplicate", "progress", "duplicate"]


async def test_a_sender_that_comes_too_late_hears_so_once(app: WholeApp, job: Job) -> None:
    """Its callback is kept."""
    await job.outcome

    assert [said(await app.call_back(job)) for _ in range(2)] == ["late", "duplicate"]
    assert (await app.ask("GET", f"/jobs/{job.id}/result")).body == DONE


async def test_a_late_callback_says_what_the_job_server_calls_the_job(app: WholeApp, job: Job) -> None:
    """The reply that would have said so may be lost."""
    await job.outcome
    await app.call_back(job, b'{"state": "completed", "id": "4711"}')

    assert (await app.status(job))["remote"] == {"id": "4711"}
    found = await app.ask_admin("GET", "/jobs/4711", headers={"Host": "127.0.0.1"})
    assert (found.document["job_id"], found.document["remote_id"]) == (job.id, "4711")


@pytest.mark.parametrize("state", ["failed", "error"])
async def test_a_callback_that_names_a_failure_is_one(app: WholeApp, job: Job, state: str) -> None:
    """The profile decides."""
    assert said(await app.call_back(job, b'{"state": "%s"}' % state.encode())) == "accepted"
    await job.outcome
    assert (await app.status(job))["code"] == "job-failed"


async def test_every_other_token_gets_the_same_answer_to_the_byte_and_nothing_of_it_is_read(
    app: WholeApp, job: Job
) -> None:
    """The answer does not reveal whether a token is nearly right, nonsense, or a job's id."""
    others = [new_token(), job.id, job.token[:-1], job.token + "x", job.token.swapcase(), "x", "\udcff", "%2e%2e"]

    async def receive() -> dict[str, Any]:
        raise AssertionError("something of the body was read")

    answers = []
    for token in others:
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:  # noqa: ANN401 - ASGI has it so
            sent.append(message)

        scope = request_scope("POST", "/callback/x", headers=JSON_TYPE)
        scope["path"] = f"/callback/{token}"
        await app.parts.public(scope, receive, send)
        answers.append(sent)

    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0]["status"] == 404
    assert app.parts.core.callback_intake.counts[CallbackFate.UNKNOWN] == len(others)
    assert not job.callback.done()


@pytest.mark.parametrize("kind", BAD_VALUES)
async def test_a_callback_that_is_no_json_leaves_its_job_waiting(app: WholeApp, job: Job, kind: str) -> None:
    """Its sender gets the reason; another callback may follow."""
    body, word = BAD_VALUES[kind]
    answer = await app.call_back(job, body)

    assert word in problem(answer, "invalid-request", 400)["detail"]
    assert (app.parts.core.callback_intake.counts[CallbackFate.REFUSED], job.callback.done()) == (1, False)
    assert said(await app.call_back(job)) == "accepted"


@pytest.mark.parametrize("announced", [False, True])
async def test_a_callback_that_is_too_large_leaves_its_job_waiting(app: WholeApp, job: Job, *, announced: bool) -> None:
    """Before it is read, if its length is announced."""
    headers = JSON_TYPE | ({"Content-Length": "1048577"} if announced else {})
    body = b"{}" if announced else b'"%s"' % (b"x" * 1_048_576)
    answer = await app.ask("POST", f"/callback/{job.token}", body=body, headers=headers)

    problem(answer, "payload-too-large", 413)
    assert (app.parts.core.callback_intake.counts[CallbackFate.REFUSED], job.callback.done()) == (1, False)
    assert said(await app.call_back(job)) == "accepted"


async def test_a_callback_whose_sender_leaves_halfway_is_none(app: WholeApp, job: Job) -> None:
    """There is no answer, and the client can see why it waits; the callback may come again."""
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": DONE[:5], "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return pieces.pop(0)

    async def send(message: Any) -> None:  # noqa: ANN401 - ASGI has it so
        sent.append(message)

    await app.parts.public(request_scope("POST", f"/callback/{job.token}", headers=JSON_TYPE), receive, send)

    assert (sent, job.callback.done()) == ([], False)
    reason = "its sender left before all of it had come"
    assert (job.recorder.record.refused, job.recorder.record.refusal) == (1, reason)
    assert said(await app.call_back(job)) == "accepted"


@pytest.mark.parametrize("line", ["POST /callback/{token} HTTP/1.1\r", "PUT http://h/?y={token}", "POST /{token} X"])
async def test_a_job_knows_of_a_callback_that_is_no_valid_request(app: WholeApp, job: Job, line: str) -> None:
    """If the first line has its token; a mere GET is no callback."""
    refusal = problems.unread(Code.HEADERS_TOO_LARGE, "the headers are too large")
    for method in (line.format(token=job.token), f"GET /callback/{job.token}", line.format(token="x" * 43), ""):
        app.parts.refused(refusal, method.encode())
    await nothing_moves()

    assert (job.recorder.record.refused, job.recorder.record.refusal) == (1, "the headers are too large")
    assert not job.callback.done()


@pytest.mark.parametrize("over", [False, True])
async def test_a_callback_that_is_refused_takes_no_other_back(app: WholeApp, job: Job, *, over: bool) -> None:
    """It was so slow that the job ended, and another callback was kept, before it turned out to be invalid."""
    if over:
        await job.outcome
    begun, rest = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not begun.is_set():
            begun.set()
            return {"type": "http.request", "body": b"no JSON", "more_body": True}
        await rest.wait()
        return {"type": "http.request", "body": b"at all"}

    sent: list[Any] = []

    async def send(message: Any) -> None:  # noqa: ANN401 - ASGI has it so
        sent.append(message)

    scope = request_scope("POST", f"/callback/{job.token}", headers=JSON_TYPE)
    slow = asyncio.ensure_future(app.parts.public(scope, receive, send))
    await begun.wait()
    await job.outcome
    assert said(await app.call_back(job)) == "late"
    rest.set()
    await slow

    assert sent[0]["status"] == 400
    status = await app.status(job)
    assert (status["outcome"], status["late"], status["refused_callbacks"]["count"]) == ("succeeded", True, 1)
    assert (await app.ask("GET", f"/jobs/{job.id}/result")).body == DONE


async def test_a_callback_that_cannot_be_recorded_is_asked_for_again(app: WholeApp, job: Job) -> None:
    """The waiting client gets it anyway; while the store fails, no token is called unknown."""
    app.store.failing = True
    answer = await app.call_back(job)
    problem(answer, "journal-unavailable", 503)
    assert answer.headers["Retry-After"] == "1"
    assert job.callback.done()
    answer = await app.ask("POST", f"/callback/{new_token()}", body=DONE, headers=JSON_TYPE)
    problem(answer, "journal-unavailable", 503)

    app.store.failing = False
    assert said(await app.call_back(job)) == "duplicate"
    assert app.parts.core.callback_intake.counts[CallbackFate.UNRECORDED] == 2


async def test_two_callbacks_at_once_while_the_store_hangs_are_answered_together(app: WholeApp, job: Job) -> None:
    """Not before it is recorded; the client gets its answer after a moment."""
    app.store.hanging = True
    calling = [asyncio.create_task(app.call_back(job)) for _ in range(2)]
    await time_passes(1.1)
    assert (job.callback.done(), any(call.done() for call in calling)) == (True, False)

    app.store.hanging = False

    assert sorted(map(said, await asyncio.gather(*calling))) == ["accepted", "duplicate"]


async def test_a_token_opens_nothing_but_its_callback(app: WholeApp, job: Job) -> None:
    """Not with other methods or paths below it; a GET gets the same answer whatever the token."""
    answer = await app.ask("DELETE", f"/callback/{job.token}")
    assert problem(answer, "method-not-allowed", 405)["detail"] == "this route takes GET, HEAD, POST, PUT"
    assert answer.headers["Allow"] == "GET, HEAD, POST, PUT"
    looks = [await app.ask("GET", f"/callback/{token}") for token in (job.token, "nobodys")]
    assert [(look.status, said(look)) for look in looks] == [(200, "here")] * 2
    problem(await app.ask("POST", f"/callback/{job.token}/more", body=DONE), "not-found", 404)
    problem(await app.ask("POST", "/callback/", body=DONE), "not-found", 404)
    assert not job.callback.done()


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("POST", "/{token}", 404, "it came to a path that is no route"),
        ("PUT", "//callback/{token}", 404, "it came to a path that is no route"),
        ("POST", "/CALLBACK/{token}", 404, "it came to a path that is no route"),
        ("POST", "/api/callback/{token}/", 404, "it came to a path that is no route"),
        ("POST", "/callback/{token}/more", 404, "it came to a path that is no route"),
        ("POST", "/callback/{token}.json", 404, "it came to a path that is no route"),
        ("PUT", "/callback/{token};jsessionid=1", 404, "it came to a path that is no route"),
        ("POST", "/callback/{token} ", 404, "it came to a path that is no route"),
        ("POST", "/callback?token={token}", 404, "it came to a path that is no route"),
        ("GET", "/callback/{token}?state=completed", 200, "it came as GET, which ends no job"),
        ("PATCH", "/callback/{token}", 405, "it came as PATCH"),
        ("DELETE", "/callback/{token}/more", 405, "it came as DELETE"),
    ],
)
async def test_a_job_knows_of_a_callback_that_went_astray(
    app: WholeApp, job: Job, method: str, path: str, status: int, reason: str
) -> None:
    """The client can see that; the sender gets the same answer as for a guess."""
    answer = await app.ask(method, path.format(token=job.token), body=DONE)
    guess = await app.ask(method, path.format(token="x" * 43), body=DONE)
    assert (answer.status, answer.body) == (guess.status, guess.body)
    assert answer.status == status
    assert (job.recorder.record.refused, job.recorder.record.refusal) == (1, reason)
    assert not job.callback.done()


async def test_each_callback_is_counted_once(app: WholeApp, job: Job) -> None:
    """One with a known token is not unknown, wherever it comes to."""
    await app.ask("POST", f"/callback/{job.token}/more", body=DONE)
    await app.ask("POST", f"/callback/{new_token()}", body=DONE)
    counts = app.parts.core.callback_intake.counts
    assert (counts[CallbackFate.REFUSED], counts[CallbackFate.UNKNOWN]) == (1, 1)


@pytest.mark.parametrize("profile", ["replicate", "openai-background"])
async def test_a_callback_without_its_proof_is_forged_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    """At the job's own URL, and at one for all jobs."""
    app = WholeApp(monkeypatch, job_server=a_job_server(profile))
    job = await app.waiting()
    path = load(profile).callback.path or f"/callback/{job.token}"
    assert (await app.ask("POST", path, body=DONE, headers=JSON_TYPE)).status == 401
    assert app.parts.core.callback_intake.counts == {CallbackFate.FORGED: 1}
    await app.close()


async def test_a_signature_may_be_of_the_url_that_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the job server was told it: below `CALLBACK_URL`, with the query."""
    served = a_job_server("spreedly")
    verify = Verify(scheme="hmac", header="X-Signature", secret="plain", signed="{url}{body}")
    app = WholeApp(
        monkeypatch,
        job_server=dataclasses.replace(served, profile=dataclasses.replace(served.profile, verify=verify)),
    )
    job = await app.waiting()
    path = f"/callback/{job.token}?a=1"
    answers = []
    for url in (path, path.removesuffix("1"), "/callback/x?a=1"):
        signature = hmac.digest(b"plain", f"http://proxy{url}".encode() + DONE, "sha256").hex()
        answers.append(await app.ask("POST", path, body=DONE, headers=JSON_TYPE | {"X-Signature": signature}))

    assert [answer.status for answer in answers] == [200, 401, 401]
    await app.close()


def with_callback(**keys: Any) -> JobServer:
    """Return a job server with these keys in its `[callback]`."""
    served = a_job_server("cog")
    callback = dataclasses.replace(served.profile.callback, **keys)
    return dataclasses.replace(served, profile=dataclasses.replace(served.profile, callback=callback))


async def test_a_get_is_a_callback_where_the_profile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it has a query; it is read, answered and counted as any other. One without is a look, and so is HEAD."""
    served = with_callback(get=True, state="query.status", succeeded=("delivered",), result="query")
    app = WholeApp(monkeypatch, job_server=served)
    job = await app.waiting()

    async def get(query: str, token: str = job.token) -> str:
        return said(await app.ask("GET", f"/callback/{token}{query}"))

    looks = [await get(""), await get("?status=delivered", "x" * 43)]
    assert (await app.ask("HEAD", f"/callback/{job.token}?status=delivered")).status == 200
    assert (looks, job.callback.done()) == (["here"] * 2, False)
    words = [await get(f"?status={status}&id=5") for status in ("sent", "delivered", "delivered")]
    assert words == ["progress", "accepted", "duplicate"]
    await job.outcome
    assert (await app.ask("GET", f"/jobs/{job.id}/result")).document == {"status": "delivered", "id": "5"}
    assert app.parts.core.callback_intake.counts[CallbackFate.REFUSED] == 0
    await app.close()


async def test_a_get_at_a_fixed_url_is_a_callback_where_the_profile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names its job, as any other; one that names none is answered 200."""
    served = with_callback(
        get=True, path="/callback/sms", correlate="query.ref", state="query.status", correlate_with="job_id"
    )
    app = WholeApp(monkeypatch, job_server=served)
    job = await app.waiting()
    paths = ("?status=succeeded", f"?ref={job.id}&status=succeeded", "", "?ref=none")
    words = [said(await app.ask("GET", f"/callback/sms{path}")) for path in paths]
    assert words == ["unknown", "accepted", "here", "unknown"]
    await app.close()


async def test_an_id_of_ours_may_come_back_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A UUID is the same in either case (RFC 9562), and some databases write it in capitals."""
    served = with_callback(path="/callback/fixed", correlate="body.ref", correlate_with="job_uuid")
    app = WholeApp(monkeypatch, job_server=served)
    job = await app.waiting()
    body = b'{"ref": "%b", "status": "succeeded"}' % str(uuid.UUID(job.id)).upper().encode()
    assert said(await app.ask("POST", "/callback/fixed", body=body, headers=JSON_TYPE)) == "accepted"
    await app.close()


@pytest.mark.parametrize(
    ("answer", "media_type"), [("Hello", "text/plain; charset=utf-8"), ('{"ResultCode": 0}', "application/json")]
)
async def test_callbacks_are_answered_as_the_profile_says(
    monkeypatch: pytest.MonkeyPatch, answer: str, media_type: str
) -> None:
    """Whatever they are; also those that nobody waits for, at a fixed URL. Refusals are problems, as everywhere."""
    served = with_callback(answer=answer, path="/callback/sign", correlate="body.ref", correlate_with="job_id")
    app = WholeApp(monkeypatch, job_server=served)
    job = await app.waiting()
    bodies = [b'{"status": "succeeded"}', b'{"ref": "%b", "status": "succeeded"}' % job.id.encode()]
    answers = [await app.ask("POST", "/callback/sign", body=body, headers=JSON_TYPE) for body in (*bodies, bodies[1])]
    answers.append(await app.call_back(job))
    for one in answers:
        assert (one.status, one.body, one.headers["Content-Type"]) == (200, answer.encode(), media_type)
    await job.outcome
    problem(await app.ask("POST", "/callback/another", body=DONE, headers=JSON_TYPE), "not-found", 404)
    await app.close()


async def test_a_job_server_that_tests_its_fixed_url_gets_its_challenge_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By GET or POST, before it can sign anything; nothing else is changed. No browser takes the text for a page."""
    served = with_callback(
        path="/callback/fixed", correlate="body.id", correlate_with="job_id", challenge="query.token || body.challenge"
    )
    verify = Verify(scheme="hmac", header="X-Signature", secret="plain")
    app = WholeApp(
        monkeypatch,
        job_server=dataclasses.replace(served, profile=dataclasses.replace(served.profile, verify=verify)),
    )
    tests = [
        await app.ask("GET", "/callback/fixed?token=%3Cb%3E+5"),
        await app.ask("POST", "/callback/fixed?token=%3Cb%3E+5", headers=JSON_TYPE),
        await app.ask("POST", "/callback/fixed", body=b'{"challenge": "<b> 5"}', headers=JSON_TYPE),
    ]
    for one in tests:
        assert (one.status, one.body, one.headers["Content-Type"]) == (200, b"<b> 5", "text/plain; charset=utf-8")
        assert one.headers["X-Content-Type-Options"] == "nosniff"
    assert said(await app.ask("GET", "/callback/fixed?other=1")) == "here"
    assert len((await app.ask("GET", f"/callback/fixed?token={'x' * 5_000}")).body) == 1_000
    assert (await app.ask("POST", "/callback/fixed", body=b"{}", headers=JSON_TYPE)).status == 401
    assert app.parts.core.callback_intake.counts == {CallbackFate.FORGED: 1}
    await app.close()


@pytest.mark.parametrize("output", ["job_id", "id", "callback_token"])
async def test_the_job_that_a_callback_without_proof_names_knows(monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    """The job server may not have the secret. As anybody may send it, it proves a submission only with the token."""
    served = a_job_server("openai-background")
    callback = dataclasses.replace(served.profile.callback, correlate_with=output)
    served = dataclasses.replace(served, profile=dataclasses.replace(served.profile, callback=callback))
    app = WholeApp(monkeypatch, job_server=served)
    job = await app.begun(Step.ASSIGN, Step.RECORD, Step.CONNECT)
    job.learn({"id": "resp_1"})
    name = {"job_id": job.id, "id": "resp_1", "callback_token": job.token}[output]

    for _ in range(2):
        body = b'{"data": {"id": "%b"}}' % name.encode()
        assert (await app.ask("POST", callback.path, body=body, headers=JSON_TYPE)).status == 401

    record = job.recorder.record
    words = "the callback does not prove that it is the job server's: it has no header webhook-id"
    assert (record.refused, record.refusal) == (2, words)
    assert job.submitted == ("yes" if output == "callback_token" else "unknown")
    assert app.parts.core.callback_intake.counts == {CallbackFate.FORGED: 2}
    await app.close()


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"eventData": {"actorRunId": "another"}}'])
async def test_a_callback_without_proof_that_names_no_job_is_searched_for_nowhere(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """Strangers could keep the store busy."""
    app = WholeApp(monkeypatch, job_server=a_job_server("apify"))
    app.store.hanging = True
    assert (await app.ask("POST", "/callback/apify", body=body, headers=JSON_TYPE)).status == 401
    assert app.parts.core.callback_intake.counts == {CallbackFate.FORGED: 1}
    await app.close()


async def test_a_callback_for_a_profile_that_is_gone_is_refused(app: WholeApp) -> None:
    """Another profile cannot read it, and might ask for less proof. Its job knows."""
    token = new_token()
    record = a_record(state=State.WAITING, profile="replicate", token_hash=token_hash(token))
    await app.store.put(record)
    problem(await app.ask("POST", f"/callback/{token}", body=DONE, headers=JSON_TYPE), "not-found", 404)
    await nothing_moves()
    kept = await app.store.by_id(record.id)
    assert kept is not None
    assert (kept.callback, kept.refused) == (None, 1)
    assert kept.refusal.startswith("the profile of its job is not served any more")


async def test_a_callback_for_which_there_is_no_room_is_known_to_its_job(app: WholeApp, job: Job) -> None:
    """Its sender may retry, or not; there is room for the callbacks of all jobs in flight."""
    bodies = vars(vars(app.callback_route)["_bodies"])
    assert bodies["_free_bytes"] == 256 * 1024 * 1024  # MAX_JOBS times MAX_BODY_BYTES
    bodies["_free_bytes"] = 2
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{ ", "more_body": True}

    async def send(message: Any) -> None:  # noqa: ANN401 - ASGI has it so
        sent.append(message)

    await app.parts.public(request_scope("POST", f"/callback/{job.token}", headers=JSON_TYPE), receive, send)

    assert sent[0]["status"] == 503
    assert (job.recorder.record.refused, job.recorder.record.refusal) == (1, "too many request bodies are being read")


async def test_a_callback_that_comes_to_the_operators_is_known_to_its_job(app: WholeApp, job: Job) -> None:
    """`CALLBACK_URL` has the wrong port; the sender gets the same answer as for a guess."""
    answers = [
        await app.ask_admin("POST", f"/callback/{token}", body=DONE, headers={"Host": "localhost"})
        for token in (job.token, "x" * 43)
    ]
    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body == answers[1].body
    assert (job.recorder.record.refused, job.recorder.record.refusal) == (1, "it came to a path that is no route")


async def test_who_looks_at_a_wrong_place_refuses_nothing(app: WholeApp, job: Job) -> None:
    """Nor does a path in which a token is a part of something longer; a failing store does not change the answer."""
    await app.ask("GET", f"/{job.token}")
    await app.ask("POST", f"/x{job.token}", body=DONE)
    assert job.recorder.record.refused == 0
    app.store.failing = True
    problem(await app.ask("POST", f"/{'x' * 43}", body=DONE), "not-found", 404)


async def test_callbacks_have_a_listener_of_their_own_where_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are only available there."""
    app = WholeApp(monkeypatch, CALLBACK_PORT="3002", CALLBACK_URL="http://127.0.0.1:3002/callback")
    job = await app.waiting()
    problem(await app.call_back(job), "not-found", 404)

    answer = await ask(app.parts.callbacks, "POST", f"/callback/{job.token}", body=DONE, headers=JSON_TYPE)

    assert said(answer) == "accepted"
    for method, path in (("POST", "/queueJob"), ("GET", f"/jobs/{job.id}"), ("GET", "/docs")):
        assert (await ask(app.parts.callbacks, method, path)).status == 404
    await app.close()


async def test_a_bug_while_a_callback_is_taken_is_a_500(
    app: WholeApp, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its sender retries."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(job.recorder, "callback", broken)
        problem(await app.call_back(job), Code.INTERNAL_ERROR, 500)

    assert said(await app.call_back(job)) == "accepted"


@pytest.mark.parametrize("query", ["", "?state=completed"])
async def test_a_head_request_ends_nothing(app: WholeApp, job: Job, query: str) -> None:
    """It only checks the URL, even with a query: nothing is noted."""
    first, _ = await sent_by(app.parts.public, request_scope("HEAD", f"/callback/{job.token}{query}"))

    assert first["status"] == 200
    await nothing_moves()
    assert job.recorder.record.refused == 0


async def test_a_flood_of_callbacks_that_are_no_valid_requests_is_not_all_looked_up() -> None:
    """Each one that is waits for the store; their connections may be closed already, so nothing else limits them."""
    looked_up: list[bytes] = []

    class Hanging:
        async def find(self, hashed: bytes) -> None:
            looked_up.append(hashed)
            await asyncio.Event().wait()

    stray = StrayCallbacks(cast("Any", Hanging()))
    for _ in range(150):
        stray.unread(f"POST /callback/{new_token()} HTTP/9.9".encode(), "it is no HTTP/1.1")
    await nothing_moves()

    assert len(looked_up) == 100


def _with_expression(path: str, result: str = "body.a[0]") -> JobServer:
    """Return a job server with an expression for the result; `path` is that of a fixed callback URL, if any."""
    served = a_job_server("spreedly")
    fixed: dict[str, Any] = {"path": path, "correlate": "body.token"} if path else {}
    callback = dataclasses.replace(served.profile.callback, result=result, **fixed)
    return dataclasses.replace(served, profile=dataclasses.replace(served.profile, callback=callback))


@pytest.mark.parametrize(
    ("result", "size", "calls"), [("body.a[0]", 20_000, 1), ("body.a[0]", 1, 0), ("body.a", 20_000, 0)]
)
@pytest.mark.parametrize("path", ["", "/callback/all"])
async def test_an_expression_over_a_large_callback_does_not_block_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, result: str, size: int, calls: int, path: str
) -> None:
    """It can take seconds, and so is evaluated in a thread; a plain path takes a few milliseconds."""
    threaded: list[Callable[..., Any]] = []

    async def in_thread(call: Callable[..., Any], received: object) -> object:
        threaded.append(call)
        return call(received)

    monkeypatch.setattr("proxy.api.callbacks.in_thread", in_thread)
    app = WholeApp(monkeypatch, job_server=_with_expression(path, result))
    job = await app.waiting()
    body = b'{"state": "completed", "token": "%b", "a": [%b1]}' % (job.token.encode(), b"1," * size)
    answer = await app.ask("POST", path or f"/callback/{job.token}", body=body, headers=JSON_TYPE)
    assert said(answer) == "accepted"
    assert len(threaded) == (2 * calls if path else calls)
    assert (await app.ask("GET", f"/jobs/{job.id}/result")).body == (
        b"1" if result == "body.a[0]" else body[-2 * size - 4 : -1]
    )
    await app.close()


@pytest.mark.parametrize("path", ["", "/callback/all"])
async def test_no_more_large_callbacks_than_jobs_wait_for_a_thread(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Their bodies are in memory; the sender is told to come again."""
    free = asyncio.Event()

    async def in_thread(call: Callable[..., Any], received: object) -> object:
        await free.wait()
        return call(received)

    monkeypatch.setattr("proxy.api.callbacks.in_thread", in_thread)
    app = WholeApp(monkeypatch, job_server=_with_expression(path), MAX_JOBS="2")
    job = await app.waiting()
    body = b'{"state": "running", "token": "%b", "a": [%b1]}' % (job.token.encode(), b"1," * 20_000)

    def send() -> asyncio.Task[Answer]:
        coming = app.ask("POST", path or f"/callback/{job.token}", body=body, headers=JSON_TYPE)
        return asyncio.get_running_loop().create_task(coming)

    first = [send(), send()]
    await nothing_moves()
    assert problem(await send(), Code.OVERLOADED, 503)["detail"] == "too many large callbacks are being read"
    free.set()
    assert [said(await one) for one in first] == ["progress", "progress"]
    assert said(await send()) == "progress"
    await app.close()


async def test_a_named_callback_that_is_too_much_now_is_counted_and_known_to_its_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others may have taken the threads since its name was read."""

    async def in_thread(call: Callable[..., Any], received: object) -> object:
        vars(app.callback_route)["_in_threads"] += 1
        return call(received)

    monkeypatch.setattr("proxy.api.callbacks.in_thread", in_thread)
    app = WholeApp(monkeypatch, job_server=_with_expression("/callback/all"), MAX_JOBS="1")
    job = await app.waiting()
    body = b'{"state": "completed", "token": "%b", "a": [%b1]}' % (job.token.encode(), b"1," * 20_000)

    problem(await app.ask("POST", "/callback/all", body=body, headers=JSON_TYPE), "overloaded", 503)

    assert app.parts.core.callback_intake.counts == {CallbackFate.REFUSED: 1}
    assert (job.recorder.record.refused, job.recorder.record.refusal) == (1, "too many large callbacks are being read")
    await app.close()


async def test_a_large_callback_for_which_there_is_no_thread_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds up everything else for a moment, which is better than a lost result."""
    app = WholeApp(monkeypatch, job_server=_with_expression(""))
    job = await app.waiting()

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        body = b'{"state": "running", "a": [%b1]}' % (b"1," * 20_000)
        answer = await app.ask("POST", f"/callback/{job.token}", body=body, headers=JSON_TYPE)
    assert said(answer) == "progress"
    await app.close()


async def test_at_one_url_for_all_jobs_what_is_no_json_is_refused_where_nothing_else_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names no job, so the mistake is the sender's."""
    profile = load("buildbot")
    json_only = dataclasses.replace(profile, callback=dataclasses.replace(profile.callback, json_only=True))
    app = WholeApp(monkeypatch, job_server=JobServer(url="http://job-server", profile=json_only))
    answer = await app.ask("POST", profile.callback.path, body=b"{", headers=JSON_TYPE)
    assert "not JSON" in problem(answer, Code.INVALID_REQUEST, 400)["detail"]
    await app.close()
