"""`python -m jobclient` as a user starts it."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process

from aiohttp import web
from pytest_aiohttp import AiohttpServer


async def start(*arguments: str) -> Process:
    """Start the client in a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "jobclient",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )


async def finish(process: Process) -> tuple[int, str, str]:
    """Return its exit status, standard output and standard error."""
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def serve(aiohttp_server: AiohttpServer, *, failing: int = 0) -> str:
    """Return the address of a server whose first `failing` answers are problems."""
    count = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal count
        count += 1
        if count <= failing:
            return web.json_response({"code": "worker-died", "detail": "It ended."}, status=500)
        return web.json_response({"id": str(count), "state": "completed"})

    app = web.Application()
    app.router.add_post("/queueJob", handler)
    return str((await aiohttp_server(app)).make_url("/queueJob"))


async def test_a_good_run_prints_the_agreed_summary_and_ends_with_0(aiohttp_server: AiohttpServer) -> None:
    """Line for line as the protocol shows it."""
    url = await serve(aiohttp_server)

    status, out, err = await finish(await start(url, "--limit", "30"))

    assert (status, err) == (0, "")
    assert re.fullmatch(
        r"50 / 50 \[={42}\] 100\.00 % \d+s\n"
        r"\n"
        r"Succeeded: 50\n"
        r"Average Duration: \d+\.\d{9} seconds\n"
        r"Total Duration: \d+\.\d{9} seconds\n"
        r"\n"
        r"WORK SAMPLE RESULT: PASSED\n",
        out,
    )


async def test_a_bad_run_says_what_failed_and_ends_with_1(aiohttp_server: AiohttpServer) -> None:
    """The failures are grouped above the verdict."""
    url = await serve(aiohttp_server, failing=2)

    status, out, err = await finish(await start(url, "--jobs", "3", "--limit", "30"))

    assert (status, err) == (1, "")
    assert "Succeeded: 1\nFailed: 2\n  2 x 500 worker-died: It ended.\n" in out
    assert out.endswith("\nWORK SAMPLE RESULT: FAILED\n")


async def test_json_is_all_that_standard_output_gets(aiohttp_server: AiohttpServer) -> None:
    """A program can parse it."""
    url = await serve(aiohttp_server, failing=1)

    status, out, err = await finish(await start(url, "--jobs", "4", "--json"))

    report = json.loads(out)
    assert (status, err) == (1, "")
    assert report["passed"] is False
    assert (report["jobs"], report["succeeded"], report["failed"], report["ids"]) == (4, 3, 1, 3)
    assert report["by_code"] == {"worker-died": 1}
    assert 0 < report["p50_s"] <= report["p99_s"] <= report["total_s"]


async def test_wrong_usage_ends_with_2() -> None:
    """Nothing is sent."""
    status, out, err = await finish(await start("nonsense"))

    assert (status, out) == (2, "")
    assert "is not an http:// or https:// address" in err


async def test_an_interrupt_ends_with_one_line_and_no_traceback(aiohttp_server: AiohttpServer) -> None:
    """Ctrl-C says how far the run got."""
    arrived, never = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        arrived.set()
        await never.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", handler)
    process = await start(str((await aiohttp_server(app)).make_url("/")), "--jobs", "2")
    await arrived.wait()

    process.send_signal(signal.SIGINT)
    status, out, err = await finish(process)
    never.set()

    assert (status, out) == (130, "")
    assert err == "Interrupted: 0 of 2 jobs were answered.\n"
