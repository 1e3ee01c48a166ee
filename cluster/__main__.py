"""`python -m cluster`: several instances on one PostgreSQL, on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from cluster.members import ClusterError
from cluster.options import parse
from cluster.running import Cluster
from cluster.sqs import QUEUE, REPLIES
from shared.settings import given

__all__ = ["banner", "main"]

CANNOT_START = 2
_ENV_FILE: Final = Path(__file__).resolve().parent.parent / ".env"
_THROUGH_IT = f"sqs://{QUEUE} --reply-queue {REPLIES} --limit 60"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a cluster; return the exit status: 0 after it was stopped, 2 if it cannot run."""
    options = parse(argv)
    # A shell starts background processes with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with Cluster(options) as cluster:
            keys = [one for one in given(env_file=_ENV_FILE) if one.name in {"API_KEYS", "API_KEYS_FILE"}]
            _say(banner(cluster, needs_key=any(one.value for one in keys)))
            try:
                cluster.watch(_say)
            except KeyboardInterrupt:
                _say("\nThe jobs in flight are finished first; Ctrl-C again ends everything at once.")
                cluster.drain()
    except KeyboardInterrupt:
        pass
    except ClusterError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return CANNOT_START
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def banner(cluster: Cluster, *, needs_key: bool) -> str:
    """Return what the cluster consists of, and commands that use it; with `needs_key`, they send `$API_KEY`."""
    post = f"{cluster.url}/queueJob"
    python = os.path.relpath(sys.executable)
    # Long enough that all jobs are submitted before the kill, and none is finished: a submission that the kill aborts
    # would be `unknown`.
    fifty = f"{python} -m jobclient {post} --idempotent --retries 30 --limit 60 --field duration=4"
    fifty += ' --api-key "$API_KEY"' * needs_key
    authorization = ' -H "Authorization: Bearer $API_KEY"' * needs_key
    lines = [
        f"gateway     {cluster.url}  (nginx; callbacks come in here, too)",
        *(
            f"{instance.name:<12}{instance.url}  dashboard {instance.admin}/  pid {instance.pid}"
            for instance in cluster.instances
        ),
        f"job server  {cluster.job_server.url}/start  ledger {cluster.job_server.url}/ledger/summary",
        f"database    {cluster.database.url()}",
        f"logs        {cluster.folder}",
        *([] if cluster.sqs is None else [f"queue       {cluster.sqs.queue_url(QUEUE)}  replies in {REPLIES}"]),
        "",
        *(["    API_KEY=...  # one of API_KEYS"] if needs_key else []),
        f"    curl -d '{{\"account\": \"example\"}}' -H 'Content-Type: application/json'{authorization} {post}",
        f"    {fifty} & sleep 3; kill -9 {cluster.instances[-1].pid}; wait",
        *([] if cluster.sqs is None else [f"    {cluster.sqs.variables} {python} -m jobclient {_THROUGH_IT}"]),
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
