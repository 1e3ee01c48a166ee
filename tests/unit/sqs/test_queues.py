"""What is looked up about the queues at the start."""

from __future__ import annotations

import pytest

from proxy.sqs.queues import look_up
from shared.settings import load
from tests.support.stated_queue import StatedQueue


@pytest.mark.parametrize(
    ("attributes", "by_group"),
    [
        ({}, False),
        ({"FifoQueue": "true", "DeduplicationScope": "queue"}, False),
        ({"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}, True),
    ],
)
async def test_how_far_a_deduplication_id_counts_is_looked_up(*, attributes: dict[str, str], by_group: bool) -> None:
    """SQS scopes it to the queue, or to the message group."""
    service = StatedQueue()
    url = "http://queues/1/jobs.fifo"
    service.about[url] = attributes

    queues = await look_up(service, load({"SQS_QUEUE_URL": url, "JOURNAL": "jobs.sqlite3"}))

    assert (queues.jobs.fifo, queues.jobs.deduplicates_by_group) == (True, by_group)
