"""The first minutes: `--help`, `--check`, and the one line of a failed start."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.run.check import Check
from shared.job_server.loader import shipped
from shared.settings import load, variables
from shared.version import VERSION, commit
from tests.support.checked import checked
from tests.support.job_server import JobServer
from tests.support.proxy_process import ROOT, ProxyProcess, environment
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import IN_VAIN_S, eventually, eventually_blocking

Checked = Callable[..., Awaitable[tuple[int, list[str]]]]


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `python run.py` with these arguments and settings to its end; the test's time limit ends one that hangs."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
    )


def lines_of(report: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the report of `--check`: verdict and text by the name of the check; of several with one name, the last."""
    rows = [re.fullmatch(r"(ok|warn|FAIL) +(.+?)  +(\S.*)", line) for line in report]
    assert rows
    assert all(rows), report
    return {row[2]: (row[1], row[3]) for row in rows if row}


@pytest.fixture
def check(job_server: JobServer) -> Checked:
    """Returns the exit code and the lines of `--check`, from this process; there is a job server."""
    return partial(checked, JOB_SERVER_URL=job_server.url)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that is bound, so that nobody else gets it, but on which nobody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        yield other.getsockname()[1]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody else gets: bound all the time, and listened on by the process that a test starts."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


@contextlib.contextmanager
def limited_file_size(most_bytes: int = 4096) -> Iterator[None]:
    """Limit the size of files of processes started meanwhile, as on a nearly full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_lists_every_setting_with_its_default_and_what_it_takes() -> None:
    """All of them, and nothing is started."""
    ended = run("--help")
    assert ended.returncode == 0
    for name, it in variables().items():
        assert re.search(
            rf"^  {name} +{re.escape(it.default or '(empty)')} +{re.escape(it.takes)}$", ended.stdout, re.MULTILINE
        )
    assert "listens on" not in ended.stdout
    assert ended.stderr == ""


def test_the_version_is_told() -> None:
    """One line."""
    ended = run("--version")
    checked_out = f", commit {commit()}" if commit() else ""
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"async-job-proxy {VERSION}{checked_out}\n", "")


async def test_check_warns_of_what_is_most_often_an_oversight(check: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listening everywhere without a key; an address to listen on that nobody can call; a misspelt variable."""
    monkeypatch.setenv("JOB_TIMOUT", "5")
    code, lines = await check(HOST="0.0.0.0")  # noqa: S104 - for as long as the check takes
    report = lines_of(lines)
    assert code == 0
    assert [report[name][0] for name in ("keys", "callbacks")] == ["warn", "warn"]
    assert report["keys"][1].endswith("set API_KEYS")
    assert report["callbacks"][1].endswith("set CALLBACK_URL")
    assert report["settings"][1] == "JOB_TIMOUT in the environment does nothing; did you mean JOB_TIMEOUT?"


def test_an_option_that_does_not_exist_is_told_and_ends_with_2() -> None:
    """A typing error never starts a proxy."""
    ended = run("--chekc")
    assert ended.returncode == 2
    assert "unrecognized arguments: --chekc" in ended.stderr


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_profiles_are_listed_with_a_line_each() -> None:
    """All that are shipped, and nothing is started."""
    ended = run("--profiles")
    names = [line.split()[0] for line in ended.stdout.splitlines()[1:]]
    assert ended.returncode == 0
    assert names == shipped()
    assert all(re.search(r"\(tried with .+\)$", line) for line in ended.stdout.splitlines()[1:])


def test_check_shows_what_would_be_sent_but_no_secret() -> None:
    """And how the samples are read; the exit code says that the job server is unavailable."""
    ended = run(
        "--check",
        PROFILE="replicate",
        JOB_SERVER_URL="http://127.0.0.1:9",
        REPLICATE_API_TOKEN="hush-token",
        REPLICATE_WEBHOOK_SECRET="hush-secret",
    )
    report = lines_of(ended.stdout.splitlines())
    assert ended.returncode == 1
    assert report["submission"][1].startswith("POST http://127.0.0.1:9/v1/predictions ")
    assert '"webhook":"https://proxy.example/callback/TOKEN"' in report["submission"][1]
    assert report["samples"][1].startswith("read as expected: 1 job, 1 reply running, ")
    assert "hush" not in ended.stdout + ended.stderr


async def test_check_looks_at_each_of_several_profiles(check: Checked) -> None:
    """The first is at JOB_SERVER_URL, each other where its file says."""
    code, lines = await check(PROFILE="cog, runpod-local,spreedly", JOB_SERVER_URL="http://127.0.0.1:9")
    assert code == 1
    names = [line.split()[2].strip(":") for line in lines if line[5:12] == "profile"]
    assert names == ["cog", "runpod-local", "spreedly"]
    sent = [line.split()[2:4] for line in lines if line[5:15] == "submission"]
    assert [" ".join(words).partition("/0123")[0] for words in sent] == [
        "PUT http://127.0.0.1:9/predictions",
        "POST http://127.0.0.1:8000/run",
    ]
    words = "PROFILE: spreedly has no [server] url, and only the first one takes JOB_SERVER_URL"
    assert f"FAIL job server   {words}" in lines


async def test_check_fails_whenever_a_start_would_refuse_the_job_servers(check: Checked) -> None:
    """For example, an address with a query to which a profile appends a path."""
    code, lines = await check(PROFILE="cog", JOB_SERVER_URL="http://127.0.0.1:9/?code=abc")
    words = "JOB_SERVER_URL: takes no query, as the profile cog appends paths to it"
    assert f"FAIL job server   {words}" in lines
    assert code == 1
    ended = run(PROFILE="cog", JOB_SERVER_URL="http://127.0.0.1:9/?code=abc")
    assert (ended.returncode, words in ended.stderr) == (2, True)


async def test_check_fails_where_every_job_would_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start succeeds there, as in a container with a low limit of process ids, but serves nobody."""
    monkeypatch.setattr("proxy.jobs.headroom._FREE_PIDS", 10**9)
    lines: list[str] = []
    code = await Check(load(environment()), lines.append).run()
    words = "started, but the machine is short of process ids: new jobs would be refused"
    assert f"FAIL worker       {words}" in lines
    assert code == 1


async def test_check_says_which_url_a_job_server_has_to_be_configured_with(check: Checked) -> None:
    """No submission has it."""
    _, lines = await check(
        PROFILE="buildbot", JOB_SERVER_URL="http://127.0.0.1:9", CALLBACK_URL="http://127.0.0.1:9/a/callback"
    )
    words = "the job server's configuration is to have http://127.0.0.1:9/a/callback/buildbot"
    assert f"ok   fixed URL    {words}" in lines


async def test_check_looks_at_no_job_server_of_a_profile_that_cannot_be_loaded(check: Checked, tmp_path: Path) -> None:
    """Least of all at the embedded one, which has nothing to do with it."""
    profile = tmp_path / "mine.toml"
    profile.write_text('name = "mine"\n')
    code, lines = await check(PROFILE=str(profile), JOB_SERVER_URL="")
    assert code == 1
    assert f"FAIL profile      PROFILE: {profile}: the top: missing key submit" in lines
    assert "job server" not in "\n".join(line[5:18] for line in lines)


async def test_check_warns_of_a_profile_without_samples(check: Checked, tmp_path: Path) -> None:
    """An expression may be misspelt, and nobody would see it."""
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'name = "mine"\n[submit]\nbody = { a = "{callback_url}" }\n[callback]\nstate = "body.s"\nsucceeded = ["done"]'
    )
    _, lines = await check(PROFILE=str(profile), JOB_SERVER_URL="http://127.0.0.1:9")
    assert "warn samples      mine has none, so nothing shows what is sent and how answers are read" in lines


async def test_check_names_a_secret_that_is_not_set(check: Checked) -> None:
    """Like a start."""
    _, lines = await check(PROFILE="replicate", JOB_SERVER_URL="http://127.0.0.1:9")
    report = "\n".join(lines)
    assert "FAIL profile      REPLICATE_API_TOKEN: got nothing, takes what the profile replicate needs" in report
    assert "FAIL profile      REPLICATE_WEBHOOK_SECRET: got nothing" in report


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_finds_everything_in_order() -> None:
    """With an embedded job server nothing can be missing; the exit code is 0 and nothing is left behind."""
    ended = run("--check")
    report = lines_of(ended.stdout.splitlines())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list(report) == [
        "settings",
        "profile",
        "samples",
        "keys",
        "admin keys",
        "listen",
        "callbacks",
        "journal",
        "descriptors",
        "submission",
        "job server",
        "worker",
    ]
    assert {verdict for verdict, _ in report.values()} == {"ok"}
    assert ended.stderr == ""


async def test_check_misses_no_keys_where_nobody_else_can_connect(check: Checked) -> None:
    """By IPv6 as well; and at no listener for clients, if jobs come from a queue only."""
    _, lines = await check(HOST="::1", ADMIN_HOST="::1")
    report = lines_of(lines)
    assert [report[name][0] for name in ("keys", "admin keys")] == ["ok", "ok"]
    queue = {"SQS_QUEUE_URL": "http://127.0.0.1:9/1/jobs", "JOURNAL": "/dev/null/jobs.sqlite3"}
    _, lines = await check(HOST="0.0.0.0", PORT="", CALLBACK_PORT="0", **queue)  # noqa: S104 - as above
    assert "keys" not in lines_of(lines)


def test_check_names_the_settings_that_were_changed_but_not_their_values() -> None:
    """A key is a secret, and reports are passed around. With a key, any address is fine."""
    ended = run("--check", HOST="0.0.0.0", API_KEYS="hidden-key", JOB_TIMEOUT="5")  # noqa: S104 - as above
    report = lines_of(ended.stdout.splitlines())
    assert {"API_KEYS", "JOB_TIMEOUT"} < set(report["settings"][1].partition(": ")[2].split(", "))
    assert report["keys"][0] == "ok"
    assert "hidden-key" not in ended.stdout + ended.stderr


def test_check_says_what_cannot_be_reached_and_goes_on(dead_port: int, tmp_path: Path) -> None:
    """The journal's folder, the job server; later checks still run. No password is shown."""
    journal = str(tmp_path / "missing" / "jobs.sqlite3")
    ended = run("--check", JOB_SERVER_URL=f"http://user:hidden@127.0.0.1:{dead_port}/start", JOURNAL=journal)
    report = lines_of(ended.stdout.splitlines())
    assert ended.returncode == 1
    assert report["journal"][0] == "FAIL"
    assert report["job server"] == ("FAIL", f"http://127.0.0.1:{dead_port}/start: connection refused")
    assert report["worker"][0] == "ok"
    assert "hidden" not in ended.stdout


async def test_check_says_that_a_name_cannot_be_resolved(check: Checked) -> None:
    """Whatever the network does with it: RFC 6761 reserves this one as never existing."""
    code, lines = await check(JOB_SERVER_URL="https://job-server.invalid/start")
    report = lines_of(lines)
    assert code == 1
    assert report["job server"] == ("FAIL", "https://job-server.invalid/start: its name cannot be resolved")
    assert report["callbacks"][0] == "warn"
    assert "set CALLBACK_URL" in report["callbacks"][1]


async def test_check_says_that_the_job_server_does_not_speak_tls(check: Checked, taken_port: int) -> None:
    """It listens and stays silent: the handshake has its own time limit."""
    code, lines = await check(JOB_SERVER_URL=f"https://127.0.0.1:{taken_port}/start")
    assert code == 1
    assert lines_of(lines)["job server"] == (
        "FAIL",
        f"https://127.0.0.1:{taken_port}/start: no connection within 5 s",
    )


async def test_check_says_that_a_port_is_taken_and_goes_on(check: Checked, taken_port: int) -> None:
    """The line names the variables and what to do."""
    code, lines = await check(PORT=str(taken_port))
    report = lines_of(lines)
    assert code == 1
    assert report["listen"][0] == "FAIL"
    assert report["listen"][1].startswith(
        f"HOST, PORT: cannot listen on 127.0.0.1:{taken_port}: Address already in use; "
    )
    assert report["job server"][0] == "ok"


@pytest.mark.parametrize("arguments", [(), ("--check",)], ids=["start", "check"])
def test_a_setting_that_does_not_fit_is_one_line_and_2(arguments: tuple[str, ...]) -> None:
    """It names the variable, the value and the allowed values."""
    ended = run(*arguments, MAX_JOBS="many")
    assert ended.returncode == 2
    assert ended.stderr == "error: MAX_JOBS: got 'many', takes a whole number from 1 to 100000\n"
    assert ended.stdout == ""


async def test_check_doubts_a_path_at_which_the_job_server_has_nothing(check: Checked, job_server: JobServer) -> None:
    """If the job server answers there at all, the check asks what exists, and submits nothing."""
    code, lines = await check(JOB_SERVER_URL=job_server.url + "t")
    verdict, words = lines_of(lines)["job server"]
    assert (code, verdict) == (0, "warn")
    assert "answers 404 at this path" in words
    _, lines = await check()
    assert lines_of(lines)["job server"][0] == "ok"
    assert not job_server.ledger.submissions


async def test_check_follows_callback_url(check: Checked, free_port: int) -> None:
    """The check listens there and calls it, to see where it leads."""
    url = f"http://localhost:{free_port}/callback"
    _, lines = await check(PORT=str(free_port), CALLBACK_URL=url)
    assert lines_of(lines)["callbacks"] == ("ok", f"{url}/<token>")


async def test_check_follows_callback_url_to_a_proxy_that_runs(check: Checked, proxies: SharedProxies) -> None:
    """A check beside a running proxy, as before an upgrade, may find its callbacks going there."""
    proxy = proxies.get(CALLBACK_PORT="0")
    _, lines = await check(CALLBACK_URL=f"{proxy.callback}/callback")
    assert lines_of(lines)["callbacks"] == ("ok", f"{proxy.callback}/callback/<token>")
    code, lines = await check(CALLBACK_URL=f"{proxy.url}/callback")
    assert (code, lines_of(lines)["callbacks"][0]) == (1, "FAIL")


async def test_check_warns_of_a_callback_url_that_leads_elsewhere(check: Checked, job_server: JobServer) -> None:
    """Another server, or none: from the job server's network it may be different."""
    url = job_server.url.replace("/start", "/callback")
    _, lines = await check(CALLBACK_URL=url)
    verdict, words = lines_of(lines)["callbacks"]
    assert (verdict, words) == ("warn", f"{url} answers 404, unlike the callback route")


def test_check_finds_a_full_disk(tmp_path: Path) -> None:
    """With a journal that can be opened but not written, every job would get 503."""
    with limited_file_size():
        ended = run("--check", JOURNAL=str(tmp_path / "jobs.sqlite3"))
    verdict, words = lines_of(ended.stdout.splitlines())["journal"]
    assert (ended.returncode, verdict) == (1, "FAIL")
    assert words.startswith("JOURNAL: ")
    assert not list(tmp_path.iterdir())


async def test_check_finds_what_a_journal_cannot_be(check: Checked, tmp_path: Path) -> None:
    """Not large enough, because of a limit on file sizes; and not a file with this name."""
    with limited_file_size(1024 * 1024):
        limited = run("--check", JOURNAL=str(tmp_path / "jobs.sqlite3"))
    code, too_long = await check(JOURNAL=str(tmp_path / ("n" * 255)))

    assert (limited.returncode, code) == (1, 1)
    words = "no file may be larger than 1048576 bytes, jobs would be refused; raise the limit (ulimit -f)"
    assert lines_of(limited.stdout.splitlines())["journal"] == ("FAIL", f"{tmp_path / 'jobs.sqlite3'}: {words}")
    assert lines_of(too_long)["journal"][1].startswith("JOURNAL: ")
    assert not list(tmp_path.iterdir())


async def test_check_warns_of_a_journal_that_is_too_small_for_a_result(check: Checked, tmp_path: Path) -> None:
    """A retry with the key of such a job would run it again."""
    journal = tmp_path / "jobs.sqlite3"
    _, lines = await check(JOURNAL=str(journal), JOURNAL_MAX_BYTES="8388608", MAX_BODY_BYTES="8388608")
    words = f"{journal} forgets a result of MAX_BODY_BYTES at once and its key; raise JOURNAL_MAX_BYTES"
    assert lines_of(lines)["journal"] == ("warn", words)


def test_check_says_why_tls_to_the_job_server_fails(free_port: int, tmp_path: Path) -> None:
    """And that a file of authorities contains none."""
    nothing = tmp_path / "empty.pem"
    nothing.touch()
    ended = run("--check", JOB_SERVER_URL=f"https://127.0.0.1:{free_port}/start", JOB_SERVER_CAFILE=str(nothing))
    assert lines_of(ended.stdout.splitlines())["job server"] == (
        "FAIL",
        f"JOB_SERVER_CAFILE: got '{nothing}', takes a file with CA certificates, PEM",
    )
    assert ended.stderr == ""  # no worker is tried with it


async def test_check_says_that_the_certificate_is_no_longer_valid(check: Checked) -> None:
    """It can be loaded, but every client rejects it."""
    tls = ROOT / "tests/support/tls"
    _, lines = await check(TLS_CERTFILE=str(tls / "expired.pem"), TLS_KEYFILE=str(tls / "key.pem"))
    assert lines_of(lines)["certificate"] == (
        "warn",
        f"TLS_CERTFILE: '{tls / 'expired.pem'}': it is no longer valid",
    )


# --- a start that cannot be ------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_with_2(taken_port: int) -> None:
    """It names the variables, the address, the reason, what to do, and who may hold the port."""
    ended = run(ADMIN_PORT=str(taken_port))
    assert ended.returncode == 2
    line, hint = ended.stderr.splitlines()
    assert hint.startswith("error: another proxy may already be running")
    assert line.startswith(
        f"error: ADMIN_HOST, ADMIN_PORT: cannot listen on 127.0.0.1:{taken_port}: Address already in"
    )
    assert "choose another port" in line


def test_an_address_that_is_not_ours_is_one_line_and_2() -> None:
    """192.0.2.1 belongs to nobody, according to RFC 5737."""
    ended = run(HOST="192.0.2.1")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.endswith("; this machine has no such address")


def test_a_certificate_that_is_none_is_one_line_and_2() -> None:
    """A server that cannot load it would listen and answer nobody."""
    ended = run(TLS_CERTFILE="README.md", TLS_KEYFILE="README.md")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: TLS_CERTFILE, TLS_KEYFILE: got 'README.md' and 'README.md', takes a certificate")


def test_addresses_that_lead_nowhere_are_one_warning_each_and_the_proxy_starts(dead_port: int) -> None:
    """A job server that may come later: which one, why not reachable, and the consequence; no password.

    The same if it listens everywhere without CALLBACK_URL: the callback address sent with jobs is not an address.
    """
    settings = {"JOB_SERVER_URL": f"http://user:hidden@127.0.0.1:{dead_port}/start", "API_KEYS": "k"}
    with ProxyProcess.started(HOST="0.0.0.0", **settings) as proxy:  # noqa: S104 - a test's

        def warnings() -> list[dict[str, Any]]:
            return [line for line in proxy.events if line["level"] == "warning"]

        eventually_blocking(lambda: len(warnings()) >= 2)
        nowhere, away = sorted(warnings(), key=lambda line: "job_server" in line)
        assert away["job_server"] == f"http://127.0.0.1:{dead_port}/start"
        assert away["reason"] == "connection refused"
        assert "job-server-unavailable" in away["event"]
        assert nowhere["event"] == "no job server can call back; set CALLBACK_URL, or jobs fail as deadline-exceeded"
        assert nowhere["reason"] == "is not an address that can be called"
        assert proxy.stop() == 0
        assert "hidden" not in "".join(proxy.stdout + proxy.stderr)


def test_a_job_server_that_is_there_is_no_warning(taken_port: int) -> None:
    """Nothing is sent to it: the other side accepts a connection and reads its end."""
    with ProxyProcess.started(JOB_SERVER_URL=f"http://127.0.0.1:{taken_port}/start") as proxy:
        assert proxy.stop() == 0
        assert all(line["level"] == "info" for line in proxy.events)


async def test_a_callback_url_that_leads_elsewhere_is_one_warning(job_server: JobServer) -> None:
    """Every job would fail at its deadline; from the job server's network it may be different, so the proxy starts."""
    text = "CALLBACK_URL does not lead to the callback route; jobs then fail as deadline-exceeded"
    url = job_server.url.replace("/start", "/callback")
    with ProxyProcess.started(JOB_SERVER_URL=job_server.url, CALLBACK_URL=url) as proxy:
        (line,) = await eventually(lambda: proxy.events_of(text))
        assert line["reason"] == "answers 404, unlike the callback route"


async def test_a_callback_url_of_this_machine_where_nobody_listens_is_one_warning(dead_port: int) -> None:
    """A job server that could reach it would be on this machine as well."""
    text = "CALLBACK_URL does not lead to the callback route; jobs then fail as deadline-exceeded"
    with ProxyProcess.started(CALLBACK_URL=f"http://127.0.0.1:{dead_port}/callback") as proxy:
        (line,) = await eventually(lambda: proxy.events_of(text))
        assert line["reason"] == "cannot be reached from this machine: connection refused"


def test_a_callback_url_that_leads_to_the_route_is_no_warning_and_no_callback(free_port: int, taken_port: int) -> None:
    """The probe of the address counts as nothing."""
    urls = {
        "JOB_SERVER_URL": f"http://127.0.0.1:{taken_port}/start",
        "CALLBACK_URL": f"http://localhost:{free_port}/callback",
    }
    with ProxyProcess.started(PORT=str(free_port), **urls) as proxy:
        with urllib.request.urlopen(f"{proxy.admin}/metrics", timeout=IN_VAIN_S) as answer:  # noqa: S310 - ours
            assert b'callbacks_total{kind="unknown"} 0.0' in answer.read()
        assert proxy.stop() == 0
        assert all(line["level"] == "info" for line in proxy.events)
