"""What is looked up about the queues at the start."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from proxy.sqs.queues import Queue, Queues, doubts, look_up
from shared.settings import load
from tests.support.stated_queue import StatedQueue

JOBS = "http://queues/1/jobs"


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


async def test_a_fifo_queue_is_one_with_a_slash_at_the_end_of_its_address_too() -> None:
    """Some services take it: the order of a group would be lost, and replies sent without their group are refused."""
    service = StatedQueue()
    urls = {"SQS_QUEUE_URL": f"{JOBS}.fifo/", "SQS_REPLY_QUEUE_URL": f"{JOBS}-replies.fifo/"}
    service.about = {url: {} for url in urls.values()}

    queues = await look_up(service, load({**urls, "JOURNAL": "jobs.sqlite3"}))

    assert queues.replies is not None
    assert (queues.jobs.fifo, queues.replies.fifo) == (True, True)


async def test_the_limits_and_the_dead_letter_queue_are_those_of_the_queue() -> None:
    """Also if they are not the usual ones."""
    service = StatedQueue()
    policy = {"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:1:dead", "maxReceiveCount": "7"}
    service.about[JOBS] = {
        "MaximumMessageSize": "1024",
        "MessageRetentionPeriod": "60",
        "RedrivePolicy": json.dumps(policy),
    }
    service.about["http://queues/1/dead"] = {"MessageRetentionPeriod": "120"}

    queues = await look_up(service, load({"SQS_QUEUE_URL": JOBS, "JOURNAL": "jobs.sqlite3"}))

    assert (queues.jobs.fifo, queues.jobs.max_bytes, queues.jobs.retention_s) == (False, 1_024, 60)
    assert (queues.jobs.max_receives, queues.jobs.dead_letter_arn) == (7, policy["deadLetterTargetArn"])
    assert queues.dead == Queue(url="http://queues/1/dead", retention_s=120)
    assert (queues.replies, queues.allowed) == (None, {})


GOOD = Queues(
    jobs=Queue(url=JOBS, retention_s=3_600, max_receives=5),
    dead=Queue(url="http://queues/1/dead", retention_s=3_600),
    replies=Queue(url="http://queues/1/replies"),
)


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        (GOOD, []),
        (replace(GOOD, dead=None), ["one that cannot be a job is replied to"]),
        (
            replace(GOOD, dead=None, replies=None),
            ["one that cannot be a job is given back until its retention ends", "no replies are sent"],
        ),
        (replace(GOOD, jobs=replace(GOOD.jobs, max_receives=1)), ["maxReceiveCount is 1"]),
        (replace(GOOD, dead=Queue(url="dead", retention_s=3_599)), ["keeps messages for less time"]),
        (
            replace(GOOD, jobs=replace(GOOD.jobs, retention_s=3_601), dead=Queue(url="dead", retention_s=3_601)),
            ["forgotten goes to the dead-letter queue,"],
        ),
        (
            replace(GOOD, jobs=replace(GOOD.jobs, retention_s=3_601), dead=None),
            ["no dead-letter queue", "forgotten is replied to,"],
        ),
        (replace(GOOD, replies=None), ["no replies are sent"]),
        (replace(GOOD, replies=None, allowed={"other": Queue(url="other")}), []),
    ],
)
def test_what_is_hardly_intended_is_said(queues: Queues, words: list[str]) -> None:
    """And nothing else."""
    settings = load({"SQS_QUEUE_URL": JOBS, "JOURNAL": "jobs.sqlite3", "RESULT_TTL": "3600"})
    found = list(doubts(queues, settings))
    assert len(found) == len(words)
    assert all(part in said for part, said in zip(words, found, strict=True))
