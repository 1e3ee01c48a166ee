"""One proxy that serves every shipped profile, and for each profile a stand-in for its job server."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from pytest_aiohttp import AiohttpServer

from jobserver.stand_in.app import STAND_IN, StandIn, create_app
from shared.job_server import loader
from shared.job_server.profile import Profile, Sample
from tests.support.http import Answer, fetch
from tests.support.proxy_process import ProxyProcess
from tests.support.samples import with_wish
from tests.support.shared_proxies import SharedProxies

SECRET = "whsec_c2VjcmV0"
#: Replace the profiles' own values, which are meant for real use; and how long a job may take.
AFTER_S, EVERY_S, JOB_TIMEOUT_S = 0.3, 0.2, 4


@pytest.fixture(scope="session")
def ports() -> Iterator[dict[str, int]]:
    """A port for each profile's job server: bound all the time, listened on by one test at a time."""
    with ExitStack() as stack:
        found = {}
        for name in loader.shipped():
            reservation = stack.enter_context(socket.socket())
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reservation.bind(("127.0.0.1", 0))
            found[name] = reservation.getsockname()[1]
        yield found


@pytest.fixture(scope="session")
def profiles(ports: Mapping[str, int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped profiles, changed so that they lead to the stand-ins and ask soon."""
    folder = tmp_path_factory.mktemp("profiles")
    found = {}
    for name in loader.shipped():
        text = loader.path_of(name).read_text(encoding="utf-8")
        url = f"http://127.0.0.1:{ports[name]}"
        own = loader.load(name).server.url
        if "[server]" not in text:
            text = text.replace("[submit]", "[server]\n\n[submit]", 1)
        text = text.replace(own, url) if own else text.replace("[server]", f'[server]\nurl = "{url}"', 1)
        text = re.sub(r"^after = .*$", f"after = {AFTER_S}\nevery = {EVERY_S}", text, flags=re.MULTILINE)
        text = re.sub(r"^every = .*\n(?=.*\n?every = )", "", text, flags=re.MULTILINE)
        text = re.sub(rf"^every = {EVERY_S}\nevery = .*$", f"every = {EVERY_S}", text, flags=re.MULTILINE)
        found[name] = folder / f"{name}.toml"
        found[name].write_text(text, encoding="utf-8")
        loader.parse(text)
    return found


@pytest.fixture(scope="session")
def all_profiles(profiles: Mapping[str, Path], proxies: SharedProxies) -> Callable[[int], ProxyProcess]:
    """Returns a proxy that serves all profiles: with fresh workers for an even number, else with reused ones."""
    names = {name for path in profiles for name in loader.secret_names(loader.load(path))}
    settings = {name.removeprefix("env:"): SECRET for name in names}
    settings |= {"PROFILE": ",".join(map(str, profiles.values())), "JOB_TIMEOUT": str(JOB_TIMEOUT_S)}
    return lambda number: proxies.get(JOB_SERVER_URL="", WORKER_MAX_JOBS=("1", "0")[number % 2], **settings)


class Bench:
    """The proxy with one profile, and the stand-in for its job server."""

    def __init__(self, proxy: ProxyProcess, profile: Profile, stand_in: StandIn, session: ClientSession) -> None:
        self.proxy = proxy
        self.profile = profile
        self.stand_in = stand_in
        self.session = session

    @property
    def job(self) -> Sample:
        """Return what a client sends."""
        return next(sample for sample in self.profile.sample if sample.kind == "job")

    async def post(self, wish: str = "succeeded", **headers: str) -> Answer:
        """Post the job of the profile's first sample, which asks for this outcome."""
        sample = self.job
        content_type = sample.headers.get("content-type", "application/json")
        path = f"/{sample.path}" if sample.path else ""
        return await fetch(
            self.session,
            "POST",
            f"{self.proxy.queue_job}/{self.profile.name}{path}",
            data=with_wish(sample, wish, content_type),
            headers={"Content-Type": content_type, **{name.replace("_", "-"): text for name, text in headers.items()}},
        )

    async def status(self, answer: Answer) -> dict[str, Any]:
        """Return the status document of an answer's job."""
        found = await fetch(self.session, "GET", f"{self.proxy.url}/jobs/{answer.headers['Job-Id']}")
        document: dict[str, Any] = found.document
        return document

    def samples(self, kind: str, expect: str) -> list[Sample]:
        """Return the profile's samples of a kind."""
        return [one for one in self.profile.sample if (one.kind, one.expect) == (kind, expect)]


@pytest.fixture
async def make_bench(
    all_profiles: Callable[[int], ProxyProcess],
    profiles: Mapping[str, Path],
    ports: Mapping[str, int],
    client: ClientSession,
    aiohttp_server: AiohttpServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Start the stand-in for a profile's job server, whose jobs take this many seconds.

    Every other profile is tried with reused workers: what a worker keeps does not depend on the profile.
    """

    async def make(name: str, duration_s: float = 0) -> Bench:
        profile = loader.load(str(profiles[name]))
        for secret in loader.secret_names(profile):
            monkeypatch.setenv(secret.removeprefix("env:"), SECRET)
        proxy = all_profiles(list(profiles).index(name))
        app = create_app(profile, duration_s=duration_s, fixed_url=proxy.callback + profile.callback.path)
        await aiohttp_server(app, port=ports[name])
        return Bench(proxy, profile, app[STAND_IN], client)

    return make
