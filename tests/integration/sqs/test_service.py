"""What the SDK makes of answers that are not the service's: of a gateway, a portal, or cut off on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import pytest
from aiobotocore.session import AioSession
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from cluster.sqs import CREDENTIALS
from proxy.sqs import service as service_module
from proxy.sqs.message import Outgoing
from proxy.sqs.service import Sqs, connect
from shared.errors import QueueError

pytestmark = pytest.mark.xdist_group("sqs")
URL: Final = "http://queues/1/q"
LETTER: Final = Outgoing(body="a", group="g", deduplication_id="d")
CALLS: Final[dict[str, Callable[[Sqs], Awaitable[object]]]] = {
    "attributes": lambda service: service.attributes(URL),
    "url_of": lambda service: service.url_of("arn:aws:sqs:eu-west-1:1:q"),
    "send": lambda service: service.send(URL, [LETTER, LETTER], fifo=False),
    "delete": lambda service: service.delete(URL, ["a", "b"]),
    "hide": lambda service: service.hide(URL, [("a", 1), ("b", 2)]),
}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


async def errors_of(
    aiohttp_server: AiohttpServer, answer: bytes, *calls: str
) -> list[tuple[str, list[QueueError | None]]]:
    """Return the errors of each call, or of each item of its batch, if the service always answers 200 with this."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/x-amz-json-1.0")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = await aiohttp_server(app)
    async with connect(str(server.make_url("/1/q"))) as service:
        return [(call, await _errors_of(service, call)) for call in calls]


async def _errors_of(service: Sqs, call: str) -> list[QueueError | None]:
    try:
        result = await CALLS[call](service)
    except QueueError as exc:
        return [exc, exc]
    return result if isinstance(result, list) else [None, None]


@pytest.mark.parametrize("answer", [b"", b"<html>", b"{}", b"[]", b"null", b'{"Successful": [{"Id": "0"', b"\xff"])
async def test_an_answer_that_says_nothing_is_an_error(aiohttp_server: AiohttpServer, answer: bytes) -> None:
    """To each call. Otherwise a reply would count as sent, and its message would be deleted; it may be tried again."""
    for call, errors in await errors_of(aiohttp_server, answer, *CALLS):
        assert [error is None or error.refused for error in errors] == [False] * len(errors), call


async def test_an_item_that_the_answer_does_not_mention_is_not_done(aiohttp_server: AiohttpServer) -> None:
    """The other one is."""
    answer = json.dumps({"Successful": [{"Id": "0"}]}).encode()
    [(_, (first, second))] = await errors_of(aiohttp_server, answer, "delete")
    assert first is None
    assert second is not None


@pytest.mark.parametrize(
    ("code", "refused"),
    [("InvalidMessageContents", True), ("RequestThrottled", False), ("KMS.ThrottlingException", False)],
)
async def test_what_is_throttled_may_be_tried_again(aiohttp_server: AiohttpServer, code: str, *, refused: bool) -> None:
    """SQS calls that a fault of the sender, too."""
    failed = [{"Id": number, "SenderFault": True, "Code": code} for number in ("0", "1")]
    [(_, errors)] = await errors_of(aiohttp_server, json.dumps({"Failed": failed}).encode(), "send")
    for error in errors:
        assert error is not None
        assert error.refused is refused


@pytest.mark.parametrize("fifo", [False, True])
async def test_the_service_is_asked_for_what_is_meant(aiohttp_server: AiohttpServer, *, fifo: bool) -> None:
    """How many messages, how long to wait, for how long they are hidden; group and deduplication id in a FIFO queue."""
    asked: list[dict[str, Any]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(await request.json())
        answer = {"Messages": [], "Successful": [{"Id": "0"}]}
        return web.Response(body=json.dumps(answer).encode(), content_type="application/x-amz-json-1.0")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = await aiohttp_server(app)
    async with connect(str(server.make_url("/1/q"))) as service:
        assert await service.receive(URL, count=12, wait_s=5, visibility_s=45) == []
        assert await service.receive(URL, count=1, wait_s=5, visibility_s=45) == []
        assert await service.send(URL, [LETTER], fifo=fifo) == [None]
        assert await service.hide(URL, [("h", 900)]) == [None]
        assert await service.delete(URL, ["h"]) == [None]

    ten, one, sent, hidden, deleted = asked
    assert {ask["QueueUrl"] for ask in asked} == {URL}
    assert (ten["MaxNumberOfMessages"], one["MaxNumberOfMessages"]) == (10, 1)
    assert (ten["WaitTimeSeconds"], ten["VisibilityTimeout"]) == (5, 45)
    assert ten["MessageAttributeNames"] == ["All"]
    in_order = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if fifo else {}
    assert sent["Entries"] == [{"Id": "0", "MessageBody": "a", "MessageAttributes": {}, **in_order}]
    assert hidden["Entries"] == [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": 900}]
    assert deleted["Entries"] == [{"Id": "0", "ReceiptHandle": "h"}]


async def test_a_service_that_does_not_answer_is_not_waited_for(
    aiohttp_server: AiohttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if it accepts the connection."""
    over = asyncio.Event()

    async def handle(_: web.Request) -> web.Response:
        await over.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = await aiohttp_server(app)
    monkeypatch.setattr(service_module, "_READ_S", 0.1)
    monkeypatch.setattr(service_module, "_CONNECT_S", 0.0)
    try:
        async with connect(str(server.make_url("/1/q"))) as service:
            with pytest.raises(QueueError, match="does not answer") as caught:
                await service.attributes(URL)
    finally:
        over.set()
    assert not caught.value.refused


@pytest.mark.parametrize(
    ("host", "environ", "region", "endpoint"),
    [
        ("sqs.eu-west-1.amazonaws.com", "", "eu-west-1", None),
        ("sqs.cn-north-1.amazonaws.com.cn", "", "cn-north-1", None),
        ("sqs.us-gov-west-1.api.aws", "", "us-gov-west-1", None),
        ("eu-west-1.queue.amazonaws.com", "", None, None),
        ("sqs-fips.us-east-1.amazonaws.com", "", "us-east-1", None),
        ("vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com", "", "eu-west-1", "https://{host}"),
        ("vpce-1a2b.sqs-fips.us-east-1.vpce.amazonaws.com", "", "us-east-1", "https://{host}"),
        ("vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com", "AWS_ENDPOINT_URL_SQS", "eu-west-1", None),
        ("sqs.internal.example.com:4566", "", None, "https://{host}"),
        ("sqs.internal.example.com:4566", "AWS_ENDPOINT_URL", None, None),
    ],
)
async def test_the_queues_address_names_the_region_and_where_no_other_does_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, host: str, environ: str, region: str | None, endpoint: str | None
) -> None:
    """None: the SDK knows it, from the environment or from the region."""
    asked: dict[str, object] = {}

    def refuse(_: AioSession, service: str, **options: object) -> NoReturn:
        asked.update(options, service=service)
        raise ValueError

    monkeypatch.setattr(AioSession, "create_client", refuse)
    if environ:
        monkeypatch.setenv(environ, "http://127.0.0.1:1")
    with pytest.raises(QueueError):
        async with connect(f"https://{host}/123456789012/jobs"):
            pass
    expected = endpoint and endpoint.format(host=host)
    assert (asked["service"], asked["region_name"], asked["endpoint_url"]) == ("sqs", region, expected)


@pytest.mark.parametrize(
    "host",
    [
        "sqs.us-east-1.amazonaws.com",
        "sqs-fips.us-east-1.amazonaws.com",
        "sqs.us-east-1.api.aws",
        "sqs-fips.us-east-1.api.aws",
    ],
)
async def test_the_endpoint_of_the_queues_address_is_asked(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The usual one has no IPv6 address, and is not the one that an operator chose for FIPS."""
    made: list[Any] = []
    monkeypatch.setattr(service_module, "Sqs", made.append)
    async with connect(f"https://{host}/123456789012/jobs"):
        assert [client.meta.endpoint_url for client in made] == [f"https://{host}"]
