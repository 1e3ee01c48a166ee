"""`GET /house`: the proxy, and the state of what it depends on."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from proxy.api.operators import certificates
from shared.errors import Code
from shared.settings import given
from tests.support.proxy_process import ROOT
from tests.support.records import finished
from tests.support.runners import SUBMIT
from tests.support.whole_app import WholeApp

_KEY: Final = "look-0123456789abcdef"
_CLIENT: Final = {"Authorization": "Bearer one"}
_PEM: Final = ROOT / "tests" / "support" / "tls" / "cert.pem"


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """A front end with keys and a certificate."""
    settings = {"ADMIN_KEYS": f"lena:look:{_KEY}", "API_KEYS": "one,two", "TLS_CERTFILE": str(_PEM)}
    settings["TLS_KEYFILE"] = str(_PEM.with_name("key.pem"))
    whole = WholeApp(monkeypatch, None, None, None, **settings)
    whole.parts.operators.house.given = given(settings)
    yield whole
    await whole.close()


async def house(app: WholeApp) -> dict[str, Any]:
    """Return it as seen by an operator who may look."""
    answer = await app.ask_admin("GET", "/house", headers={"Authorization": f"Bearer {_KEY}"})
    assert answer.status == 200, answer
    document: dict[str, Any] = answer.document
    return document


async def test_it_has_everything_and_no_secret(app: WholeApp) -> None:
    """Each member that the pages need; keys are only counted, and the count is current."""
    await app.store.put(finished())
    app.parts.core.authorization.replace(("one",))
    found = await house(app)
    assert list(found) == [
        "version", "python", "pid", "instance", "started_at", "now", "settings", "job_servers", "journal", "instances",
        "certificates", "intake", "log",
    ]  # fmt: skip
    settings = {it["name"]: (it["value"], it["source"], it["secret"]) for it in found["settings"]}
    assert settings["ADMIN_KEYS"] == ("(1 key)", "environment", True)
    assert settings["API_KEYS"] == ("(1 key)", "environment", True)
    assert settings["PORT"] == ("3000", "default", False)
    assert _KEY not in str(found)
    assert found["journal"]["kind"] == "memory"
    assert found["journal"]["trouble"] == ""
    assert found["journal"]["size_bytes"] > 0
    assert abs(found["journal"]["oldest_at"] - time.time()) < 3600
    assert found["instances"] == []
    (certificate,) = found["certificates"]
    assert (certificate["setting"], certificate["file"], certificate["trouble"]) == ("TLS_CERTFILE", str(_PEM), "")
    assert certificate["left_s"] > 0
    assert found["intake"]["paused"] is False
    assert found["log"]["seconds"] == 3600


async def test_while_the_store_is_away_the_rest_is_told(app: WholeApp) -> None:
    """The state of the store is read at that moment."""
    app.store.failing = True
    found = await house(app)
    assert found["journal"]["trouble"]
    assert (found["journal"]["size_bytes"], found["journal"]["oldest_at"]) == (None, None)
    assert found["version"]


async def test_where_no_thread_can_be_started_all_is_told(app: WholeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who looks into that needs the page."""

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", no_thread)
    assert [one["setting"] for one in (await house(app))["certificates"]] == ["TLS_CERTFILE"]


async def test_a_job_servers_last_answer_is_known_while_the_job_still_runs(app: WholeApp) -> None:
    """And the failures since; the next answer resets them."""
    (before,) = (await house(app))["job_servers"]
    assert before == {
        "profile": "spreedly",
        "url": "http://job-server/start",
        "last_success_at": None,
        "failures_since": 0,
        "last_failure_at": None,
        "last_failure": None,
    }
    await app.begun(*SUBMIT, headers=_CLIENT)
    (answered,) = (await house(app))["job_servers"]
    assert abs(answered["last_success_at"] - time.time()) < 60
    for _ in range(2):
        failing = await app.begun(*SUBMIT[:3], headers=_CLIENT)
        app.stepped.tell(failing, Code.JOB_SERVER_UNAVAILABLE)
        await failing.outcome
    (failed,) = (await house(app))["job_servers"]
    assert failed["failures_since"] == 2
    assert failed["last_failure"].startswith("job-server-unavailable: ")
    assert failed["last_failure_at"] >= failed["last_success_at"]
    await app.begun(*SUBMIT, headers=_CLIENT)
    (again,) = (await house(app))["job_servers"]
    assert (again["failures_since"], again["last_failure"]) == (0, failed["last_failure"])


def test_settings_are_shown_with_where_they_come_from_and_without_secrets(tmp_path: Path) -> None:
    """A value in `.env` that is the default does not count as set."""
    file = tmp_path / ".env"
    file.write_text("PORT=3000\nMAX_JOBS=7\nJOB_TIMEOUT=20\n", encoding="utf-8")
    environ = {
        "JOB_TIMEOUT": "60",
        "API_KEYS": "hush",
        "JOB_SERVER_URL": "https://user:hush@jobs.example.com/start?key=hush",
        "JOURNAL": "postgresql://proxy:hush@db.example.com/jobs?password=hush",
        "SQS_REPLY_TO": "https://a.example/1/q,https://user:hush@b.example/1/q",
    }
    found = {it.name: (it.value, it.source, it.secret) for it in given(environ, file)}
    assert found["PORT"] == ("3000", "default", False)
    assert found["MAX_JOBS"] == ("7", ".env", False)
    assert found["JOB_TIMEOUT"] == ("60", "environment", False)
    assert found["API_KEYS"] == ("(set)", "environment", True)
    assert found["ADMIN_KEYS"] == ("", "default", True)
    assert found["JOB_SERVER_URL"][0] == "https://...@jobs.example.com/start?..."
    assert found["JOURNAL"][0] == "postgresql://proxy@db.example.com/jobs"
    assert "hush" not in str(found)
    for url in (
        "http://user:pa,hush@jobs.example.com/",
        "http://jobs.example.com/?token=a,hush&x=1",
        "http://jobs.example.com/hooks/4eC39hushLyjWDarjtT1zdp7dc/run",
    ):
        assert "hush" not in str(given({"JOB_SERVER_URL": url}))


def _certificate(folder: Path, *options: str) -> str:
    path = folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        [*command, "-keyout", str(folder / "key.pem"), "-out", str(path), *options], check=True, capture_output=True
    )
    return str(path)


@pytest.mark.parametrize("days", ["1", "30000"], ids=["this century", "beyond 2050"])
def test_a_certificates_end_is_what_openssl_says(tmp_path: Path, days: str) -> None:
    """Also for times in the other format, from 2050 on."""
    path = _certificate(tmp_path, "-days", days, "-subj", "/O=Us, Inc./CN=proxy.example")
    found = certificates.shown("TLS_CERTFILE", path)
    command = ["openssl", "x509", "-enddate", "-noout", "-in", path]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().partition("=")[2]
    assert (found["ends_at"], found["subject"]) == (ssl.cert_time_to_seconds(told), "proxy.example")
    assert abs(found["left_s"] - int(days) * 86_400) < 120


async def test_a_certificate_that_is_not_used_yet_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients still get the earlier one, whose end may be near; a reload changes that."""
    path = Path(shutil.copy(_PEM, tmp_path))
    settings = {"TLS_CERTFILE": str(path), "TLS_KEYFILE": str(_PEM.with_name("key.pem"))}
    app = WholeApp(monkeypatch, None, None, None, ADMIN_KEYS=f"lena:look:{_KEY}", **settings)
    try:
        assert [one["trouble"] for one in (await house(app))["certificates"]] == [""]
        _certificate(tmp_path, "-days", "90", "-subj", "/CN=proxy.example")
        (found,) = (await house(app))["certificates"]
        assert (found["subject"], found["trouble"]) == ("proxy.example", "an earlier one is used until SIGHUP")
        app.parts.operators.house.reloaded(str(path))
        assert [one["trouble"] for one in (await house(app))["certificates"]] == [""]
    finally:
        await app.close()


def test_of_several_certificates_the_one_that_ends_first_counts(tmp_path: Path) -> None:
    """Whatever their order in the file."""
    texts = []
    for name, days in (("long", "900"), ("short", "9")):
        (tmp_path / name).mkdir()
        path = _certificate(tmp_path / name, "-days", days, "-subj", f"/CN={name}")
        texts.append(Path(path).read_text(encoding="ascii"))
    both = tmp_path / "both.pem"
    for order in (texts, texts[::-1]):
        both.write_text("".join(order), encoding="ascii")
        assert certificates.shown("TLS_CERTFILE", str(both))["subject"] == "short"


def test_an_authority_that_is_no_longer_valid_is_no_trouble_beside_one_that_is(tmp_path: Path) -> None:
    """In a chain it would be."""
    expired = _PEM.with_name("expired.pem").read_text(encoding="ascii")
    path = tmp_path / "ca.pem"
    path.write_text(expired + _PEM.read_text(encoding="ascii"), encoding="ascii")

    found = certificates.shown("JOB_SERVER_CAFILE", str(path), each_alone=True)
    assert (found["trouble"], found["expired"], found["count"]) == ("", 1, 2)
    assert found["left_s"] > 0
    assert certificates.shown("TLS_CERTFILE", str(path))["trouble"] == "it is no longer valid"

    path.write_text(expired, encoding="ascii")
    found = certificates.shown("JOB_SERVER_CAFILE", str(path), each_alone=True)
    assert (found["trouble"], found["expired"], found["count"]) == ("it is no longer valid", 1, 1)


@pytest.mark.parametrize("base64", [None, "AAAA", "MIIB", "MIMIMIMI", "MAA=", "MAMwAQA="])
def test_a_file_without_a_certificate_is_told(tmp_path: Path, base64: str | None) -> None:
    """And so is a missing one."""
    path = tmp_path / "cert.pem"
    line = "-----{} CERTIFICATE-----\n"
    text = "nothing" if base64 is None else line.format("BEGIN") + base64 + "\n" + line.format("END")
    path.write_text(text, encoding="ascii")
    assert certificates.shown("TLS_CERTFILE", str(path))["trouble"] == "it has no certificate that can be read"
    path.unlink()
    assert "No such file" in certificates.shown("TLS_CERTFILE", str(path))["trouble"]
