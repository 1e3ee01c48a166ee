"""What is at JOB_SERVER_URL, as far as a request that submits nothing can tell."""

from __future__ import annotations

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from proxy.run.job_server_probe import path_trouble
from tests.support.waiting import IN_VAIN_S


@pytest.mark.parametrize(
    ("status", "location", "is_complete", "words"),
    [
        (
            308,
            "https://user:pw@elsewhere/jobs?key=1",
            True,
            "redirects to https://elsewhere/jobs, which is not followed",
        ),
        (301, "https://elsewhere/", False, "redirects to https://elsewhere/, which is not followed"),
        (307, "/jobs/", True, "redirects to http://127.0.0.1:PORT/jobs/, which is not followed"),
        (307, "/docs", False, ""),
        (302, "", False, ""),
        (302, "http://[", True, ""),
        (302, "mailto:a", True, ""),
        (404, "", True, "answers 404 at this path, as if there were nothing"),
        (404, "", False, ""),
        (405, "", True, ""),
    ],
)
async def test_what_a_submission_would_meet_is_said(
    aiohttp_server: AiohttpServer, status: int, location: str, is_complete: bool, words: str
) -> None:
    """A redirect is not followed; where paths are appended, only one to another server would concern them."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": location} if location else {})

    app = web.Application()
    app.router.add_route("OPTIONS", "/jobs", answer)
    server = await aiohttp_server(app)
    trouble = await path_trouble(str(server.make_url("/jobs")), IN_VAIN_S, is_complete=is_complete)
    assert trouble.partition(";")[0].removesuffix("?") == words.replace("PORT", str(server.port))
