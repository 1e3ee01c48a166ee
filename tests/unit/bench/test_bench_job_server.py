"""The benchmark's job server, without sockets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from unittest.mock import Mock

from bench.job_server import Connection, JobServer, rows
from bench.wire import MessageReader, request, response


def _ask(server: JobServer, method: str, path: str, document: object = None) -> tuple[int, dict[str, Any]]:
    (message,) = MessageReader().feed(request(method, "h:1", path, document))
    (answer,) = MessageReader().feed(server.answer(message))
    return answer.status, json.loads(answer.body)


async def test_a_submission_is_answered_at_once_with_an_id_of_its_own() -> None:
    """Two jobs, two ids."""
    server = JobServer()
    job = {"callback": "http://127.0.0.1:1/callback/x", "hold": True}
    answers = [_ask(server, "POST", "/start", job) for _ in range(2)]
    assert [status for status, _ in answers] == [200, 200]
    assert all(body["state"] == "running" for _, body in answers)
    assert answers[0][1]["id"] != answers[1][1]["id"]


async def test_jobs_are_held_until_they_are_released() -> None:
    """The measurement of jobs in flight waits for this count."""
    server = JobServer()
    for _ in range(3):
        _ask(server, "POST", "/start", {"callback": "http://127.0.0.1:1/callback/x", "hold": True})
    status, found = _ask(server, "GET", "/held")
    assert (status, found["held"]) == (200, 3)
    assert found["last"] <= time.monotonic()


def test_a_large_result_is_about_as_long_as_it_was_asked_to_be() -> None:
    """Records, not one long string, because records take longer to read."""
    assert 0.98 * 2**20 < len(json.dumps(rows(2**20))) <= 2**20 + 2


async def test_a_result_says_when_its_job_was_submitted() -> None:
    """The time is between the request and its reply, by the caller's clock."""
    called: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def callee(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (message,) = MessageReader().feed(await reader.readuntil(b"}"))
        writer.write(response("200 OK", {}, close=True))  # without an answer it would be called again, in vain
        writer.close()
        called.set_result(message.body)

    listener = await asyncio.start_server(callee, "127.0.0.1", 0)
    async with listener:
        host, port = listener.sockets[0].getsockname()
        before = time.monotonic()
        _ask(JobServer(), "POST", "/start", {"callback": f"http://{host}:{port}/callback/x"})
        after = time.monotonic()
        assert before <= json.loads(await called)["submitted_at"] <= after


async def test_connections_over_tls_are_counted() -> None:
    """Each has a handshake; the measurement of TLS needs the count."""
    server = JobServer()
    transport = Mock(asyncio.Transport)
    for ssl_object in (None, object()):
        transport.get_extra_info.return_value = ssl_object
        Connection(server).connection_made(transport)
    assert _ask(server, "GET", "/tls") == (200, {"port": 0, "opened": 1})


async def test_an_unknown_route_is_not_found() -> None:
    """So that a contender that calls the wrong address does not look fast."""
    assert _ask(JobServer(), "GET", "/start")[0] == 404
