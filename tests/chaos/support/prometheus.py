"""A running proxy's metrics, as Prometheus would have them after some scrapes, tested against the alert rules."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.proxy_process import ROOT

__all__ = ["Scrapes", "severities"]

_ALERTS: Final = ROOT / "deploy" / "alerts.yml"
#: The scrape interval and job name of deploy/prometheus.yml.
_EVERY_S: Final = 15
#: How often the rules are evaluated: more often would take promtool a second of CPU, and only bring an alert forward.
_EVALUATED: Final = "60s"
_UP: Final = 'up{job="async-job-proxy", instance="a"}'
#: How many scrapes of a sound proxy, and how many in trouble: 20 minutes, and longer than any alert waits.
_SOUND, _TROUBLED = 80, 260
_NOTHING: Final = "_"


@functools.cache
def _group() -> dict[str, Any]:
    """Return the group of all rules."""
    (group,) = yaml.safe_load(_ALERTS.read_text(encoding="utf-8"))["groups"]
    return dict(group)


def severities() -> dict[str, str]:
    """Return the severity of each alert."""
    return {rule["alert"]: rule["labels"]["severity"] for rule in _group()["rules"]}


@dataclass(frozen=True, kw_only=True)
class Scrapes:
    """Pages of `/metrics`: two of a sound proxy, two in trouble; each pair gives the increase between its pages.

    With each scrape, a counter grows as it did from one page to the next; a gauge stays as on the second page. An empty
    page means that there was no answer.
    """

    sound: tuple[str, str]
    trouble: tuple[str, str]

    def check(self, folder: Path, alerts: Collection[str], *, firing: dict[str, str]) -> None:
        """Let promtool check which of the `alerts` fire at the end of both periods.

        In trouble, they are exactly those in `firing`, name and severity; while all is well, there are none. Promtool
        gets only the rules of these alerts, and the series that they name: all of them would take it a second of CPU.
        """
        look = 'count by (alertname, severity) (ALERTS{alertstate="firing"})'
        samples = [
            {"labels": f'{{alertname="{name}", severity="{severity}"}}', "value": 1}
            for name, severity in firing.items()
        ]
        queries = [
            {"expr": look, "eval_time": f"{(_SOUND - 1) * _EVERY_S}s", "exp_samples": []},
            {"expr": look, "eval_time": f"{(_SOUND + _TROUBLED - 1) * _EVERY_S}s", "exp_samples": samples},
        ]
        rules = [rule for rule in _group()["rules"] if rule["alert"] in alerts]
        named = set(re.findall(r"\w+", " ".join(rule["expr"] for rule in rules)))
        series = [one for one in self._series() if one["series"].partition("{")[0] in named]
        case = {"interval": f"{_EVERY_S}s", "input_series": series, "promql_expr_test": queries}
        rule_file, file = folder / "alerts.yml", folder / "alerts_test.yml"
        test = {"rule_files": [str(rule_file)], "evaluation_interval": _EVALUATED, "tests": [case]}
        rule_file.write_text(json.dumps({"groups": [_group() | {"rules": rules}]}), encoding="utf-8")  # YAML as well
        file.write_text(json.dumps(test), encoding="utf-8")
        done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _series(self) -> Iterator[dict[str, str]]:
        pages = [_read(page) for page in (*self.sound, *self.trouble)]
        up = [float(bool(page)) for page in pages]
        yield {"series": _UP, "values": f"{_steady(up[1], _SOUND)} {_steady(up[3], _TROUBLED)}"}
        for series in sorted(set().union(*pages)):
            counted = any(page[series][1] for page in pages if series in page)
            values = [page[series][0] if series in page else None for page in pages]
            yield {"series": series, "values": self._values(counted, *values)}

    def _values(
        self, counted: bool, well: float | None, last: float | None, begun: float | None, end: float | None
    ) -> str:
        if not counted or well is None or last is None or begun is None or end is None:
            return f"{_steady(last, _SOUND)} {_steady(end, _TROUBLED)}"
        grown = last - well
        at_last, added = well + grown * (_SOUND - 1), end - begun
        return f"{_growing(well, grown, _SOUND)} {_growing(at_last + added, added, _TROUBLED)}"


def _read(page: str) -> dict[str, tuple[float, bool]]:
    """Return each series of a page, written as in PromQL: its value, and whether it is a counter."""
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = {**sample.labels, "job": "async-job-proxy", "instance": "a"}
            series = f"{sample.name}{{{', '.join(f'{name}={json.dumps(value)}' for name, value in labels.items())}}}"
            found[series] = (sample.value, family.type in {"counter", "histogram"})
    return found


def _steady(value: float | None, times: int) -> str:
    return f"{_NOTHING}x{times}" if value is None else _growing(value, 0, times)


def _growing(value: float, by: float, times: int) -> str:
    return f"{value:.6f}{by:+.6f}x{times - 1}"
