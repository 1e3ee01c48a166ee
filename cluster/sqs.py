"""A stand-in for Amazon SQS on this machine: moto's server, as a separate process. Its messages are lost when it exits.

Everything here blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final, Self
from urllib.request import Request, urlopen

from cluster.processes import reserve, start

__all__ = ["ACCOUNT", "CREDENTIALS", "DEAD", "QUEUE", "REPLIES", "SqsStandIn", "SqsStandInError"]

#: The variables that an SDK needs to use it; any key will do.
CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "anybody",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_DEFAULT_REGION": "eu-west-1",
}
#: The account that the queues belong to.
ACCOUNT: Final = "123456789012"
#: The queues of a cluster.
QUEUE: Final = "jobs"
REPLIES: Final = "replies"
DEAD: Final = "dead-letters"
_MAX_RECEIVES: Final = 15
_ROOT: Final = Path(__file__).resolve().parents[1]
_START_S: Final = 30.0
_LOOK_S: Final = 0.02


class SqsStandInError(Exception):
    """It did not start; the message says why."""


class SqsStandIn:
    """One server. As a context manager it runs within the block."""

    def __init__(self) -> None:
        """Start it, and return when it answers. Raises SqsStandInError."""
        self._reservation = reserve()
        self.port: int = self._reservation.getsockname()[1]
        self._process = start(
            [sys.executable, "-m", "cluster.moto_server", "-H", "127.0.0.1", "-p", str(self.port)],
            Path(os.devnull),
            {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(_ROOT)},
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Its address: the `endpoint_url` for an SDK."""
        return f"http://127.0.0.1:{self.port}"

    def queue_url(self, name: str) -> str:
        """Return the address of a queue, whether it exists or not."""
        return f"{self.url}/{ACCOUNT}/{name}"

    @property
    def variables(self) -> str:
        """The variables for a shell, so that an SDK uses it."""
        return " ".join(f"{name}={value}" for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}.items())

    def make_queues(self) -> dict[str, str]:
        """Create a queue for jobs, its dead-letter queue, and one for replies; return the settings of an instance."""
        arn = f"arn:aws:sqs:{CREDENTIALS['AWS_DEFAULT_REGION']}:{ACCOUNT}:{DEAD}"
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": _MAX_RECEIVES})
        for name, attributes in ((DEAD, {}), (REPLIES, {}), (QUEUE, {"RedrivePolicy": redrive})):
            self._ask("CreateQueue", {"QueueName": name, "Attributes": attributes})
        return {
            **CREDENTIALS,
            "SQS_QUEUE_URL": self.queue_url(QUEUE),
            "SQS_REPLY_QUEUE_URL": self.queue_url(REPLIES),
        }

    def _ask(self, action: str, parameters: dict[str, object]) -> None:
        """Make a call as an SDK does; of the signature, only the region matters."""
        scope = f"anybody/20260101/{CREDENTIALS['AWS_DEFAULT_REGION']}/sqs/aws4_request"
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "X-Amz-Target": f"AmazonSQS.{action}",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none",
        }
        request = Request(self.url, json.dumps(parameters).encode(), headers)  # noqa: S310 - our own address
        with urlopen(request, timeout=_START_S):  # noqa: S310 - as above
            pass

    def pause(self) -> None:
        """Stop it from answering; connections are accepted and stay silent."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._reservation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self) -> None:
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise SqsStandInError(
                    "moto's server does not start. It is in requirements-dev.txt: make .venv/.dev-stamp"
                )
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(_LOOK_S)
        raise SqsStandInError(f"moto's server did not listen within {_START_S:g} s")
