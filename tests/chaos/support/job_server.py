"""`python -m tests.chaos.support.job_server`: the job server, with two changes.

It closes idle connections to a callback route at once. Otherwise they would count as descriptors of the front end for
two seconds after the last job. The result of a job with the fault `late` may come `at` an instant of the monotonic
clock, which all processes share; how long the way to the job server takes depends on the machine's load.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

from jobserver import __main__ as command
from jobserver import app, callbacks
from jobserver.protocol import Submission, parse_submission


def _aimed(raw: bytes) -> Submission:
    submission = parse_submission(raw)
    at = json.loads(raw).get("at")
    return submission if at is None else replace(submission, delay_s=max(0.0, at - time.monotonic()))


if __name__ == "__main__":
    vars(callbacks)["_KEEPALIVE_S"] = 0.1
    vars(app)["parse_submission"] = _aimed
    sys.exit(command.main())
