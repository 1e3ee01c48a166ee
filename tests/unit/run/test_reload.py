"""SIGHUP while an earlier one is being handled; tests/e2e/test_reload.py tests what is reloaded."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from proxy import log
from proxy.api.clients.request_headers import Authorization
from proxy.api.operators.access.gate import Gate
from proxy.api.operators.audit import Audit
from proxy.jobs.job_server import ServedJobServers
from proxy.run.job_servers import job_servers_of
from proxy.run.reload import Reload
from proxy.run.service_manager import ServiceManager
from proxy.store.memory import MemoryStore
from shared.settings import Settings, load
from tests.support.notify_socket import NotifySocket
from tests.support.waiting import eventually


async def test_what_is_replaced_while_files_are_read_is_read_as_well() -> None:
    """However many signals come meanwhile, the files are read once more, and not concurrently."""
    keys, reads, go_on = "old", 0, threading.Semaphore(0)

    def read() -> Settings:
        nonlocal reads
        found = load({"API_KEYS": keys})
        reads += 1
        go_on.acquire()
        return found

    authorization = Authorization(("first",))
    reload = Reload(load({"API_KEYS": "first"}), read, authorization, gate(), [], ServiceManager({}))
    reload()
    await eventually(lambda: reads == 1)
    keys = "new"
    reload()
    reload()
    go_on.release(2)
    await eventually(lambda: authorization.holders == Authorization(("new",)).holders)
    assert reads == 2


@pytest.mark.parametrize("keys", ["API_KEYS", "ADMIN_KEYS"])
async def test_keys_of_an_earlier_reload_are_not_given_up(keys: str) -> None:
    """A proxy that began without keys and has been given some is not opened to everybody again."""
    with NotifySocket() as manager:
        given = {"API_KEYS": {"API_KEYS": "secret"}, "ADMIN_KEYS": {"ADMIN_KEYS": "a:act:0123456789abcdef"}}[keys]
        settings, authorization, admin = [load({}), load(given)], Authorization(()), gate()
        service_manager = ServiceManager({"NOTIFY_SOCKET": manager.name})
        service_manager.inform(lambda: True, str)
        reload = Reload(load({}), settings.pop, authorization, admin, [], service_manager)
        reload()
        await eventually(lambda: manager.count("RELOADING=1") == 1 and authorization.keys + admin.keys == 1)
        reload()
        await eventually(lambda: manager.count("RELOADING=1") == 2 and manager.count("READY=1") == 3)
        assert not settings
        assert authorization.keys + admin.keys == 1
        service_manager.close()


async def test_secrets_in_files_are_reloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Callbacks are verified with the new one from then on; one that cannot be used changes nothing."""
    said: list[str] = []
    monkeypatch.setattr(log, "event", lambda _level, event, **_fields: said.append(event))
    file = tmp_path / "secret"
    monkeypatch.setenv("BASETEN_WEBHOOK_SECRET_FILE", str(file))
    monkeypatch.setenv("BASETEN_API_KEY", "key")
    file.write_text("old")
    (job_server,) = job_servers_of(load({"PROFILE": "baseten"}))
    (served,) = ServedJobServers([job_server])
    reload = Reload(load({}), lambda: load({}), Authorization(()), gate(), [], ServiceManager({}), job_servers=[served])
    found: list[tuple[str, str]] = []
    for content in ("new\n", "", "newer"):
        file.write_text(content)
        reload()
        await eventually(lambda: len(said) == len(found) + 1)
        found.append((said[-1].partition(",")[0], served.secrets["env:BASETEN_WEBHOOK_SECRET"]))
    assert found == [
        ("reloaded certificate and keys", "new"),
        ("the reload failed", "new"),
        ("reloaded certificate and keys", "newer"),
    ]
    assert served.secrets["env:BASETEN_API_KEY"] == "key"


async def test_a_reload_for_which_there_is_no_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not fail silently; the next one succeeds."""
    said: list[tuple[str, object]] = []
    monkeypatch.setattr(log, "event", lambda _level, what, **fields: said.append((what, fields.get("reason"))))
    reload = Reload(load({}), lambda: load({}), Authorization(()), gate(), [], ServiceManager({}))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        reload()
        await eventually(lambda: said == [("the reload failed, and nothing was changed", "can't start new thread")])
    reload()
    await eventually(lambda: said[1:] == [("reloaded certificate and keys", None)])


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_the_service_manager_is_told_of_each() -> None:
    """Also of a failed one: the proxy continues, so it is ready again."""
    with NotifySocket() as manager:
        service_manager = ServiceManager({"NOTIFY_SOCKET": manager.name})
        service_manager.inform(lambda: True, str)
        await eventually(manager.received)
        open_to_all = load({})
        authorization = Authorization(("a",))
        reload = Reload(load({"API_KEYS": "a"}), lambda: open_to_all, authorization, gate(), [], service_manager)
        reload()
        await eventually(lambda: manager.count("READY=1") == 2)
        assert manager.count("RELOADING=1") == 1
        assert authorization.holders == Authorization(("a",)).holders
        service_manager.close()


def gate() -> Gate:
    """An admin address without keys."""
    return Gate((), None, Audit(MemoryStore(60, lost_before=0)))
