"""The alert rules and the Grafana dashboard only use exported metrics, and the documentation explains all of them."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import yaml

from proxy.jobs.in_flight import InFlight
from proxy.jobs.pause import Pause
from proxy.observe.counters import PREFIX, Metrics
from proxy.observe.gauges import LiveMetrics
from proxy.sqs.counts import Counts
from proxy.sqs.metrics import QueueMetrics
from proxy.store.journal.file import JournalFile
from proxy.store.journal.journal import Journal
from proxy.workers.status import PoolStatus
from shared.errors import Code

_ROOT: Final = Path(__file__).resolve().parents[3]
_ALERTS: Final = _ROOT / "deploy" / "alerts.yml"
_DASHBOARD: Final = _ROOT / "deploy" / "grafana-dashboard.json"
_RUNBOOK: Final = _ROOT / "docs" / "on-call.md"
_DOCS: Final = (_ROOT / "docs" / "observability.md").read_text()
_NAME: Final = re.compile(rf"{PREFIX}_[a-z_]+")
_SELECTOR: Final = re.compile(rf"({PREFIX}_[a-z_]+)\{{([^}}]*)\}}")
_MATCHER: Final = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


#: The additional metrics with a database as the journal, from its code: no database is available here.
_OF_DATABASE: Final = {
    f"{PREFIX}_{name}" + ("_total" if kind == "counter" else "")
    for kind, name in re.findall(
        r'\b(gauge|counter)\(\s*"(\w+)"', (_ROOT / "proxy/store/postgresql/store.py").read_text(encoding="utf-8")
    )
}


@functools.cache
def _exported() -> dict[str, set[tuple[str, str]]]:
    """Return the exported samples' names, each with its labels and values, with a journal."""

    async def collect() -> dict[str, set[tuple[str, str]]]:
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(JournalFile(f"{folder}/jobs.sqlite3"), ttl_s=1)
            try:
                return _samples(journal) | {name: set() for name in _OF_DATABASE}
            finally:
                await journal.close()

    return asyncio.run(collect())


def _samples(journal: Journal) -> dict[str, set[tuple[str, str]]]:
    metrics = Metrics(["spreedly"])
    metrics.certificate_is_used(0)
    metrics.registry.register(
        LiveMetrics(
            pool_status=PoolStatus,
            in_flight=InFlight(),
            dispatcher=cast("Any", SimpleNamespace(draining=False, pause=Pause(), taken_over=0)),
            callback_intake=cast("Any", SimpleNamespace(counts=Counter())),
            elsewhere=cast("Any", SimpleNamespace(callbacks=0, fenced=0)),
            calls=[{("cog", "submit", "refused"): 1}],
            store=journal,
            max_jobs=1,
        )
    )
    metrics.registry.register(QueueMetrics(Counts()))
    found: dict[str, set[tuple[str, str]]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels.items())
    return found


def _check(expressions: str) -> None:
    exported = _exported()
    names = set(_NAME.findall(expressions))
    assert names
    assert names <= exported.keys(), names - exported.keys()
    for name, selector in _SELECTOR.findall(expressions):
        for label, _, values in _MATCHER.findall(selector):
            if label != "instance":
                assert all((label, value) in exported[name] for value in values.split("|")), (name, label, values)


def test_the_alerts_speak_of_what_is_exported() -> None:
    """Every metric, label and value in an alert's expression exists."""
    _check(_ALERTS.read_text())


def test_the_dashboard_speaks_of_what_is_exported() -> None:
    """Every metric, label and value in a panel's expression exists."""
    dashboard = json.loads(_DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 20
    _check("\n".join(expressions))


def test_the_dashboard_shows_everything_that_is_exported() -> None:
    """Every exported metric has a panel."""
    shown = set(_NAME.findall(_DASHBOARD.read_text()))
    exported = {re.sub("_(bucket|sum|count)$", "", name) for name in _exported()}
    assert exported == {re.sub("_(bucket|sum|count)$", "", name) for name in shown}


def test_every_metric_is_explained() -> None:
    """docs/observability.md has each metric by name."""
    metrics = {re.sub("_(bucket|sum|count)$", "", name).removeprefix(f"{PREFIX}_") for name in _exported()}
    assert [name for name in metrics if f"`{name}`" not in _DOCS] == []


def test_every_alert_names_a_section_that_begins_with_its_severity() -> None:
    """A link leads from the alert to its explanation; and no section is about a removed alert."""
    (group,) = yaml.safe_load(_ALERTS.read_text())["groups"]
    sections = dict(re.findall(r"\n### (AsyncJobProxy\w+)\n\n(\w+)\. ", _RUNBOOK.read_text()))
    said = {}
    for rule in group["rules"]:
        assert rule["annotations"]["runbook"] == f"docs/on-call.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"].endswith(".")
        said[rule["alert"]] = rule["labels"]["severity"].capitalize()
    assert said == sections
    assert set(said.values()) == {"Page", "Ticket"}


def test_every_code_is_counted_from_the_first_scrape_on() -> None:
    """Each code has its series before it first occurs; otherwise `rate` would miss the first one."""
    codes = {value for labels in _exported().values() for _, value in labels}
    assert set(map(str, Code)) <= codes


_needs_promtool: Final = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package: prometheus)"
)


@_needs_promtool
def test_promtool_accepts_the_alerts() -> None:
    """`promtool check rules` finds nothing wrong."""
    done = subprocess.run(["promtool", "check", "rules", _ALERTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@_needs_promtool
def test_promtool_accepts_the_scrape_configuration() -> None:
    """Including the rules that it names, which are next to it; the job has the name that the rules use."""
    config = _ALERTS.with_name("prometheus.yml")
    done = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = re.findall(r"job_name: (\S+)", config.read_text())
    assert set(re.findall(r'up\{job="([^"]+)"\}', _ALERTS.read_text())) == {job}


@_needs_promtool
def test_promtool_accepts_what_the_dashboard_asks(tmp_path: Path) -> None:
    """Every panel's expression is PromQL, after substituting Grafana's variables."""
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    queries = [query.replace("$instance", ".*").replace("$__rate_interval", "1m") for query in asked]
    rules = [{"record": f"panel:query_{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout


@_needs_promtool
def test_the_alerts_tell_trouble_from_what_is_usual(tmp_path: Path) -> None:
    """`promtool test rules`, with courses of events that a proxy cannot easily be made to go through here.

    tests/chaos/test_alerts.py tests with running proxies that each alert fires.
    """
    cases = Path(__file__).with_name("alerts_test.yml").read_text().replace("RULES", str(_ALERTS))
    (tmp_path / "alerts_test.yml").write_text(cases)
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "alerts_test.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
