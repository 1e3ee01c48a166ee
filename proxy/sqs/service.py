"""Amazon SQS by its SDK: the only file that knows it. Its errors are translated here.

The SDK is loaded only if there is a queue: it takes 0.3 s of CPU and 30 MB. It does not retry by itself: the callers
decide what is retried, and for how long.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from proxy.sqs.message import Message, Outgoing
from shared.errors import QueueError

__all__ = ["BATCH", "QueueService", "Sqs", "connect"]

T = TypeVar("T")

#: The most messages in one call, of any kind.
BATCH: Final = 10
#: The attributes of each message to ask for, besides the sender's own: those that `Message.from_api` reads.
_SYSTEM_ATTRIBUTES: Final = (
    "ApproximateReceiveCount",
    "SentTimestamp",
    "MessageGroupId",
    "MessageDeduplicationId",
)
_CONNECT_S: Final = 5.0
_READ_S: Final = 10.0
#: The number of concurrent calls: a poll, and two batches of each kind for each queue.
_CONNECTIONS: Final = 32
_DUAL_STACK: Final = ".api.aws"
_AWS: Final = (".amazonaws.com", ".amazonaws.com.cn", _DUAL_STACK)
_FIPS: Final = ".sqs-fips."
#: Permanent errors: a retry would fail in the same way.
_REFUSALS: Final = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "AccessDenied"})


class QueueService(Protocol):
    """What the entrance needs of a queue service. Every method raises QueueError.

    The result of a batch has an entry for each item: None, or its error.
    """

    async def attributes(self, url: str) -> Mapping[str, str]:
        """Return the answer of GetQueueAttributes for a queue."""
        ...

    async def url_of(self, arn: str) -> str:
        """Return the address of the queue with this ARN."""
        ...

    async def receive(self, url: str, *, count: int, wait_s: int, visibility_s: int) -> list[Message]:
        """Return up to `count` messages, or none after `wait_s`; they are hidden from others for `visibility_s`."""
        ...

    async def send(self, url: str, messages: Sequence[Outgoing], *, fifo: bool) -> list[QueueError | None]:
        """Send up to BATCH messages, together no larger than the queue's limit for one."""
        ...

    async def delete(self, url: str, handles: Sequence[str]) -> list[QueueError | None]:
        """Delete up to BATCH deliveries."""
        ...

    async def hide(self, url: str, pauses: Sequence[tuple[str, int]]) -> list[QueueError | None]:
        """Have up to BATCH messages delivered again, each after its number of seconds."""
        ...


class Sqs:
    """A `QueueService`: Amazon SQS, or a service that speaks its protocol."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401 - the SDK creates its classes at run time
        self._client = client

    async def attributes(self, url: str) -> Mapping[str, str]:
        """See `QueueService.attributes`."""
        return await self._call(
            "get_queue_attributes", lambda answer: dict(answer["Attributes"]), QueueUrl=url, AttributeNames=["All"]
        )

    async def url_of(self, arn: str) -> str:
        """See `QueueService.url_of`."""
        *_, account, name = arn.split(":")
        return await self._call(
            "get_queue_url", lambda answer: str(answer["QueueUrl"]), QueueName=name, QueueOwnerAWSAccountId=account
        )

    async def receive(self, url: str, *, count: int, wait_s: int, visibility_s: int) -> list[Message]:
        """See `QueueService.receive`. If it is cancelled, messages may be hidden although nobody got them."""
        return await self._call(
            "receive_message",
            lambda answer: [Message.from_api(message) for message in answer.get("Messages", ())],
            wait_s=wait_s,
            QueueUrl=url,
            MaxNumberOfMessages=min(count, BATCH),
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=visibility_s,
            MessageSystemAttributeNames=_SYSTEM_ATTRIBUTES,
            MessageAttributeNames=["All"],
        )

    async def send(self, url: str, messages: Sequence[Outgoing], *, fifo: bool) -> list[QueueError | None]:
        """See `QueueService.send`."""
        entries: list[dict[str, Any]] = []
        for message in messages:
            entry: dict[str, Any] = {"MessageBody": message.body, "MessageAttributes": message.attributes}
            if fifo:
                entry |= {
                    "MessageGroupId": message.group,
                    "MessageDeduplicationId": message.deduplication_id,
                }
            entries.append(entry)
        return await self._batch("send_message_batch", url, entries)

    async def delete(self, url: str, handles: Sequence[str]) -> list[QueueError | None]:
        """See `QueueService.delete`."""
        return await self._batch("delete_message_batch", url, [{"ReceiptHandle": handle} for handle in handles])

    async def hide(self, url: str, pauses: Sequence[tuple[str, int]]) -> list[QueueError | None]:
        """See `QueueService.hide`."""
        entries: list[dict[str, Any]] = [
            {"ReceiptHandle": handle, "VisibilityTimeout": pause_s} for handle, pause_s in pauses
        ]
        return await self._batch("change_message_visibility_batch", url, entries)

    async def _batch(self, call: str, url: str, entries: Sequence[dict[str, Any]]) -> list[QueueError | None]:
        numbered = [{"Id": str(number), **entry} for number, entry in enumerate(entries)]
        return await self._call(
            call, lambda answer: [_error_of(entry["Id"], answer) for entry in numbered], QueueUrl=url, Entries=numbered
        )

    async def _call(
        self, call: str, read: Callable[[Mapping[str, Any]], T], *, wait_s: float = 0.0, **parameters: Any
    ) -> T:
        """Return what `read` makes of the answer."""
        import botocore.exceptions  # noqa: PLC0415 - see above

        try:
            async with asyncio.timeout(_CONNECT_S + _READ_S + wait_s):
                return read(await getattr(self._client, call)(**parameters))
        except botocore.exceptions.ClientError as exc:
            error = exc.response.get("Error", {})
            code = str(error.get("Code", ""))
            words = f"{code}: {error.get('Message', '')}".rstrip(": ")
            raise QueueError(words, code=code, refused=_is_refusal(code)) from exc
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as exc:
            raise QueueError("the AWS SDK finds no credentials", code="NoCredentials", refused=True) from exc
        except botocore.exceptions.ParamValidationError as exc:
            raise QueueError("the AWS SDK refuses what it was given", code="Invalid", refused=True) from exc
        except (botocore.exceptions.BotoCoreError, OSError, TimeoutError) as exc:
            raise QueueError(f"the service does not answer ({type(exc).__name__})") from exc
        except (AttributeError, LookupError, TypeError, ValueError) as exc:  # of the SDK, too
            raise QueueError(f"the service's answer is invalid ({type(exc).__name__})") from exc


def _error_of(entry_id: str, answer: Mapping[str, Any]) -> QueueError | None:
    """Return the error of an entry of a batch; an entry that the answer does not mention has one, too."""
    for failed in answer.get("Failed", ()):
        if failed["Id"] == entry_id:
            code = str(failed.get("Code", ""))
            refused = bool(failed.get("SenderFault")) and "Throttl" not in code
            return QueueError(failed.get("Message") or code, code=code, refused=refused)
    if any(done["Id"] == entry_id for done in answer.get("Successful", ())):
        return None
    return QueueError("the service's answer does not say what became of it")


def _region_of(host: str) -> str | None:
    """Return the region that a service's host names: `sqs.eu-west-1.amazonaws.com`, `sqs-fips.us-east-1.api.aws`."""
    _, _, after = f".{host}".replace(_FIPS, ".sqs.").partition(".sqs.")
    label = after.partition(".")[0]
    return label if label.count("-") > 1 else None


def _is_refusal(code: str) -> bool:
    return code in _REFUSALS or code.startswith(("AccessDenied", "InvalidClientTokenId", "SignatureDoesNotMatch"))


@asynccontextmanager
async def connect(queue_url: str) -> AsyncIterator[Sqs]:
    """Open a client for the service that has this queue, with the credentials that the SDK finds.

    The region is that of the queue's address, or else the SDK's. If the address is not Amazon's, or that of a VPC
    endpoint, it is the endpoint, too, unless the environment names one. The SDK would ask a region's usual endpoint,
    unless it is told that the address is the one with FIPS, or with IPv6.

    Raises:
        QueueError: no region is known, or the SDK's own configuration is wrong.
    """
    import botocore.exceptions  # noqa: PLC0415 - see above
    from aiobotocore.config import AioConfig  # noqa: PLC0415
    from aiobotocore.session import get_session  # noqa: PLC0415

    parts = urlsplit(queue_url)
    host = parts.hostname or ""
    is_endpoint = (not host.endswith(_AWS) or ".vpce." in host) and not any(
        os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS")
    )
    config = AioConfig(
        connect_timeout=_CONNECT_S,
        read_timeout=None,  # a poll may wait; _call sets the limit
        max_pool_connections=_CONNECTIONS,
        retries={"total_max_attempts": 1},
        use_fips_endpoint=_FIPS in f".{host}" or None,  # None: as the SDK is configured
        use_dualstack_endpoint=host.endswith(_DUAL_STACK) or None,
        tcp_keepalive=True,
        user_agent="async-job-proxy",  # the SDK would build its own at each call, and search it 88 times
        parameter_validation=False,  # the service validates, too
    )
    try:
        opening = get_session().create_client(
            "sqs",
            region_name=_region_of(host),
            endpoint_url=f"{parts.scheme}://{parts.netloc}" if is_endpoint else None,
            config=config,
        )
        client = await opening.__aenter__()
    except botocore.exceptions.NoRegionError as exc:
        raise QueueError(
            "SQS_QUEUE_URL: no region is known: set AWS_DEFAULT_REGION in the environment",
            code="NoRegion",
            refused=True,
        ) from exc
    except (botocore.exceptions.BotoCoreError, ValueError) as exc:
        raise QueueError(
            f"SQS_QUEUE_URL: the AWS SDK cannot be set up: {exc}", code=type(exc).__name__, refused=True
        ) from exc
    try:
        yield Sqs(client)
    finally:
        await opening.__aexit__(None, None, None)
