"""An operator's keys, from the settings to the end of the process."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

from aiohttp import ClientSession

from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

_ACT: Final = "act-0123456789abcdef"
_LOOK: Final = "look-0123456789abcdef"


async def test_an_operator_pauses_goes_on_and_drains(
    client: ClientSession, job_server: JobServer, tmp_path: Path
) -> None:
    """Jobs in flight get their answers, and the process exits with 0; keys are added and removed by SIGHUP."""
    keys = tmp_path / "admin-keys"
    keys.write_text(f"# operators\nlena:look:{_LOOK}\n", encoding="utf-8")
    settings = {
        "JOB_SERVER_URL": job_server.url,
        "ADMIN_KEYS_FILE": str(keys),
        "JOURNAL": str(tmp_path / "jobs.sqlite3"),
    }
    with ProxyProcess.started(**settings) as proxy:

        async def act(path: str, key: str = _ACT, method: str = "POST") -> Answer:
            return await fetch(client, method, proxy.admin + path, headers={"Authorization": f"Bearer {key}"})

        assert (await act("/metrics", _LOOK, "GET")).status == 200
        problem(await act("/intake/pause", _LOOK), "forbidden", 403)
        problem(await act("/intake/pause"), "unauthorized", 401)
        keys.write_text(f"anna:act:{_ACT}\n", encoding="utf-8")
        proxy.signal(signal.SIGHUP)
        await eventually(lambda: proxy.events_of("reloaded certificate and keys"))
        problem(await act("/metrics", _LOOK, "GET"), "unauthorized", 401)
        ref = new_ref()
        answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
        await eventually(lambda: job_server.submissions(ref))
        assert (await act("/intake/pause")).document["in_flight"] == 1
        problem(await post_job(client, proxy.queue_job), "intake-paused", 503, submitted="no")
        assert (await act("/intake/resume")).status == 200
        assert (await post_job(client, proxy.queue_job)).status == 200
        draining = await act("/drain")
        assert (draining.status, draining.document["draining"]) == (202, True)
        await eventually(lambda: proxy.events_of("shutting down: draining jobs in flight"))
        problem(await post_job(client, proxy.queue_job), "shutting-down", 503, submitted="no")
        assert (await fetch(client, "POST", job_server.callback_url(ref), json={"state": "completed"})).status == 200
        assert (await answer).status == 200
        assert await asyncio.to_thread(proxy.wait, 20) == 0
        deeds = [
            (line["action"], line["who"], line["outcome"]) for line in proxy.events_of("done on the admin address")
        ]
        assert deeds == [
            ("pause", "lena", "forbidden"),
            ("failed log-in", "", "unauthorized"),
            ("failed log-in", "", "unauthorized"),
            ("pause", "anna", "done"),
            ("resume", "anna", "done"),
            ("drain", "anna", "done"),
        ]
