"""A handler for RunPod's development server: `python runpod_handler.py --rp_serve_api --rp_api_port N`."""

import time

import runpod


def handler(job):
    """Echo the job's input, fail or take time on request."""
    given = job["input"]
    time.sleep(given.get("seconds", 0))
    if given.get("fail"):
        raise ValueError("told to fail")
    return {"done": given["text"]}


runpod.serverless.start({"handler": handler})
