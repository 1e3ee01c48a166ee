"""A service made with CKAN Service Provider: one job type that runs in the background, and one that does not."""

import os
import time

import ckanserviceprovider.job as job
import ckanserviceprovider.util as util
import ckanserviceprovider.web as web


def _work(data: dict) -> dict:
    time.sleep(data.get("seconds", 0))
    if data.get("fail"):
        raise util.JobError("told to fail")
    return {"done": data["text"]}


@job.asynchronous
def background(task_id: str, input: dict) -> dict:
    """Run in the background."""
    return _work(input["data"])


@job.synchronous
def at_once(task_id: str, input: dict) -> dict:
    """Run before the reply."""
    return _work(input["data"])


web.init()
web.app.run("127.0.0.1", int(os.environ["PORT"]), threaded=True)
