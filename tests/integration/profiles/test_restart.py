"""Jobs of a job server that can be asked outlive the front end; nothing is lost and nothing is sent twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from jobserver.stand_in.app import STAND_IN, create_app
from shared.job_server import loader
from tests.support.http import fetch
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

SECRET = "whsec_c2VjcmV0"


@pytest.mark.parametrize("name", ["ckanserviceprovider", "replicate"])
async def test_a_job_whose_callback_came_while_nobody_was_there_is_asked_for(
    client: ClientSession, aiohttp_server: AiohttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By what its reply named, which is on record; it can also be cancelled, and is not submitted again."""
    profile = loader.load(name)
    secrets = {secret.removeprefix("env:"): SECRET for secret in loader.secret_names(profile)}
    for secret in secrets:
        monkeypatch.setenv(secret, SECRET)
    app = create_app(profile, duration_s=0.5)
    stand_in = app[STAND_IN]
    server = await aiohttp_server(app)
    text = loader.path_of(name).read_text(encoding="utf-8").replace("after = ", "every = 0.5\nafter = ", 1)
    file = tmp_path / f"{name}.toml"
    file.write_text("\n".join(line for line in text.splitlines() if line != "every = 10"), encoding="utf-8")
    settings = {
        "PROFILE": str(file),
        "JOB_SERVER_URL": str(server.make_url("/")).rstrip("/"),
        "JOURNAL": str(tmp_path / "jobs.sqlite3"),
        **secrets,
    }
    sample = next(sample for sample in profile.sample if sample.kind == "job")
    with ProxyProcess.started(**settings) as first:
        body = sample.body.replace("{", '{"wish": "stand-in=lost", ', 1)
        headers = {"Content-Type": "application/json", "Prefer": "respond-async"}
        accepted = await fetch(client, "POST", first.queue_job, data=body, headers=headers)
        job_id = accepted.headers["Job-Id"]

        def is_on_record() -> bool:
            with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as db:
                return db.execute("SELECT id FROM jobs WHERE remote IS NOT NULL").fetchall() == [(job_id,)]

        await eventually(is_on_record)
    await eventually(lambda: stand_in.jobs[0].state == "succeeded")
    with ProxyProcess.started(**settings) as second:
        answer = await fetch(client, "GET", f"{second.url}/jobs/{job_id}/result", headers={"Prefer": "wait=20"})
        assert answer.status == 200, answer.body
        await eventually(lambda: bool(second.events_of("the job server was asked and reported how a job ended")))
    assert len(stand_in.submissions) == 1
    assert stand_in.jobs[0].calls["status"] >= 1


async def test_an_operator_asks_for_what_came_after_the_deadline(
    client: ClientSession, aiohttp_server: AiohttpServer, tmp_path: Path
) -> None:
    """Its callback was lost, its client was told of the timeout, the process was replaced: the result is found."""
    profile = loader.load("ckanserviceprovider")
    app = create_app(profile, duration_s=3)
    server = await aiohttp_server(app)
    settings = {
        "PROFILE": "ckanserviceprovider",
        "JOB_SERVER_URL": str(server.make_url("/")).rstrip("/"),
        "JOURNAL": str(tmp_path / "jobs.sqlite3"),
        "JOB_TIMEOUT": "2",
        "WORKER_SPARES": "1",
    }
    sample = next(sample for sample in profile.sample if sample.kind == "job")
    with ProxyProcess.started(**settings) as first:
        body = sample.body.replace("{", '{"wish": "stand-in=lost", ', 1)
        headers = {"Content-Type": "application/json"}
        told = await fetch(client, "POST", first.queue_job, data=body, headers=headers)
        assert (told.status, told.document["code"]) == (500, "deadline-exceeded"), told.body
        job = f"jobs/{told.headers['Job-Id']}"
    await eventually(lambda: app[STAND_IN].jobs[0].state == "succeeded")
    with ProxyProcess.started(**settings) as second:
        here = {"Origin": second.admin, "X-Requested-By": "dashboard"}
        before = (await fetch(client, "GET", f"{second.admin}/{job}")).document
        asked = await fetch(client, "POST", f"{second.admin}/{job}/ask", headers=here)
        after = (await fetch(client, "GET", f"{second.admin}/{job}")).document
        again = await fetch(client, "POST", f"{second.admin}/{job}/ask", headers=here)
        result = await fetch(client, "GET", f"{second.url}/{job}/result")
    assert (asked.status, asked.document["kind"]) == (200, "succeeded"), asked.body
    assert [(it["can_ask"], it["late"]) for it in (before, after)] == [(True, False), (False, True)]
    assert (again.document["kind"], result.status) == ("unavailable", 200)
    assert len(app[STAND_IN].submissions) == 1
