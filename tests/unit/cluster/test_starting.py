"""What `python -m cluster` prints before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import __main__ as command
from cluster import members, nginx, running
from cluster.options import parse
from cluster.postgresql import PostgreSQLError


def test_the_defaults_are_three_instances_at_the_ports_of_make_run() -> None:
    """The gateway is where `make run` has the proxy."""
    options = parse([])
    assert (options.instances, options.port) == (3, 3000)


@pytest.mark.parametrize(
    "arguments", [["--instances", "0"], ["--instances", "x"], ["--port", "65535"], ["--duration", "-1"]]
)
def test_what_makes_no_sense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With status 2 and the argument's name."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_missing_nginx_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the package."""
    monkeypatch.setattr(nginx, "is_installed", lambda: False)
    assert command.main(["--port", "0"]) == 2
    assert capsys.readouterr().err == "error: nginx is not installed. Debian, Ubuntu: apt install nginx-light\n"


def test_a_missing_postgresql_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the words of the module that starts it."""

    def missing() -> None:
        raise PostgreSQLError("PostgreSQL is not installed. Debian, Ubuntu: apt install postgresql")

    monkeypatch.setattr(nginx, "is_installed", lambda: True)
    monkeypatch.setattr(running, "PostgreSQL", missing)
    assert command.main(["--port", "0"]) == 2
    assert capsys.readouterr().err == "error: PostgreSQL is not installed. Debian, Ubuntu: apt install postgresql\n"


def test_settings_for_an_address_that_others_reach_are_not_those_of_an_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is behind nginx, which speaks plain HTTP to it."""
    mine = {"TLS_CERTFILE": "cert.pem", "TLS_KEYFILE": "key.pem", "CALLBACK_HOST": "0.0.0.0", "CALLBACK_PORT": "3003"}  # noqa: S104
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    environ: dict[str, str] = {}
    monkeypatch.setattr(members, "start", lambda _command, _log, settings, **_: environ.update(settings))
    instance = members.Instance(1, tmp_path, {})
    instance.start()
    instance.close()
    assert [environ[name] for name in mine] == ["", "", "", ""]


def test_the_site_has_a_line_for_each_instance_and_speaks_no_tls(tmp_path: Path) -> None:
    """Everything else is as in deploy/nginx.conf."""
    nginx.command(tmp_path, 4444, ["127.0.0.1:5001", "127.0.0.1:5002"])
    site = (tmp_path / "site.conf").read_text(encoding="utf-8")
    for line in ("listen 127.0.0.1:4444;", "server 127.0.0.1:5001 max_fails=0;", "server 127.0.0.1:5002 max_fails=0;"):
        assert f"    {line}\n" in site
    assert "ssl_" not in site


def test_a_change_that_changes_nothing_is_an_error() -> None:
    """If a file of deploy/ is edited, changes made here must not silently have no effect."""
    assert nginx.replaced("a b", ("a", "c")) == "c b"
    with pytest.raises(ValueError, match="'x'"):
        nginx.replaced("a b", ("x", "c"))
