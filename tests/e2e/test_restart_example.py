"""The example of docs/jobs.md: 50 jobs, and a front end that is killed while they run."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.support.processes import JobServerProcess
from tests.support.proxy_process import ROOT
from tests.support.restarts import Restarts
from tests.support.waiting import IN_VAIN_S, eventually_blocking


def summary(job_server: JobServerProcess) -> dict[str, Any]:
    """Return the counts of the job server's ledger."""
    connection = HTTPConnection(job_server.base.removeprefix("http://"), timeout=IN_VAIN_S)
    with closing(connection):
        connection.request("GET", "/ledger/summary")
        counts: dict[str, Any] = json.load(connection.getresponse())
    return counts


@pytest.mark.parametrize("results", [0, 10])
def test_50_jobs_survive_a_front_end_that_is_killed(tmp_path: Path, results: int) -> None:
    """While all of them run, or while their results come in: 50 of 50, with 50 submissions."""
    with (
        JobServerProcess("--duration", "2", "--callback-retries", "100") as job_server,
        Restarts(tmp_path, JOB_SERVER_URL=job_server.url) as restarts,
    ):
        command = [sys.executable, "-m", "jobclient", restarts.queue_job, "--idempotent", "--retries", "30"]
        client = subprocess.Popen([*command, "--limit", "60", "--json"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        # A submission cut off by the kill has an unknown outcome: its job would not be submitted again.
        eventually_blocking(lambda: summary(job_server)["started"] == 50)
        eventually_blocking(lambda: summary(job_server)["callbacks"] >= results)

        restarts.restart()
        output, _ = client.communicate(timeout=60 + IN_VAIN_S)

        report = json.loads(output)
        counts = summary(job_server)
        assert (report["succeeded"], report["ids"], client.returncode) == (50, 50, 0), (report, counts)
        # Where results are coming in, all may have arrived before the kill.
        assert report["resent"] > 0 or results
        assert (counts["started"], counts["submitted_twice"]) == (50, 0)
        assert restarts.leftovers() == []
