"""`python -m cluster` as a user starts it: it works, survives a kill, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from cluster.processes import with_us
from tests.support.proxy_process import ROOT, environment, is_alive
from tests.support.waiting import IN_VAIN_S, eventually_blocking

pytestmark = pytest.mark.xdist_group("cluster")


class Running:
    """A cluster in its own process, and its output."""

    def __init__(self, output: Path, folder: Path, *arguments: str) -> None:
        """Start it; its output is in the file `output`, and its temporary files are in `folder`."""
        self.output = output
        self.folder = folder
        with self.output.open("w", encoding="utf-8") as file:
            command = with_us([sys.executable, "-m", "cluster", "--port", "0", *arguments])
            env = environment(TMPDIR=str(self.folder), WORKER_SPARES="2")
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)

    @property
    def text(self) -> str:
        """Return its output."""
        return self.output.read_text(encoding="utf-8")

    def find(self, pattern: str) -> str:
        """Return the output that matches."""
        found = re.search(pattern, self.text)
        assert found, self.text
        return found[1]

    def wait(self) -> None:
        """Wait until it has printed everything."""
        eventually_blocking(lambda: self.process.poll() is not None or "Ctrl-C ends it." in self.text, 60)
        assert self.process.poll() is None, self.text

    def below(self) -> list[psutil.Process]:
        """Return all its processes."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """A cluster that accepts jobs; a test may parametrize it with further arguments."""
    # Not below tmp_path: PostgreSQL runs as another user, who needs access.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        cluster = Running(tmp_path / "output", Path(folder), *getattr(request, "param", ()))
        try:
            cluster.wait()
            yield cluster
        finally:
            cluster.process.kill()
            cluster.process.wait()


def test_fifty_jobs_survive_the_kill_of_an_instance_and_ctrl_c_leaves_nothing(running: Running) -> None:
    """The example of the README: fifty of fifty, and the job server ran each once."""
    post = running.find(r"(http://\S+/queueJob)")
    pid = int(running.find(r"kill -9 (\d+)"))
    arguments = [post, "--idempotent", "--retries", "30", "--limit", "60", "--json", "--field", "duration=1"]
    client = subprocess.Popen(
        [sys.executable, "-m", "jobclient", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    ledger = running.find(r"ledger (http://\S+)")

    def counts() -> dict[str, int]:
        with urlopen(ledger, timeout=IN_VAIN_S) as answer:  # noqa: S310 - http
            found: dict[str, int] = json.load(answer)
            return found

    # A submission cut off by the kill has an unknown outcome: its job would not be submitted again.
    eventually_blocking(lambda: counts()["started"] == 50)
    os.kill(pid, signal.SIGKILL)
    output, _ = client.communicate(timeout=60 + IN_VAIN_S)
    report = json.loads(output)
    assert (report["succeeded"], report["ids"], client.returncode) == (50, 50, 0), report
    assert (counts()["started"], counts()["submitted_twice"]) == (50, 0)
    eventually_blocking(
        lambda: f"pid {pid}, was ended by SIGKILL" in running.text and "is started again" in running.text
    )

    everything = running.below()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(IN_VAIN_S) == 0
    # The instance that was being started again had no time to end its fork server: that ends when it has started.
    eventually_blocking(lambda: not [process for process in everything if is_alive(process)])
    assert list(running.folder.iterdir()) == []


@pytest.mark.parametrize("running", [("--queue",)], indirect=True)
def test_a_cluster_that_is_killed_takes_everything_along(running: Running) -> None:
    """Nothing can be cleaned up then; the kernel ends its children, and these end the rest.

    They have sessions of their own: Ctrl-C reaches only the cluster, which first lets the jobs in flight finish.
    """
    everything = running.below()
    assert len(everything) > 10
    children = [process.pid for process in psutil.Process(running.process.pid).children()]
    assert [os.getsid(pid) for pid in children] == children
    running.process.kill()
    eventually_blocking(lambda: not [process for process in everything if is_alive(process)])
