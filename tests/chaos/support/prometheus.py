"""A running proxy's metrics, as Prometheus would have them after some scrapes, tested against the alert rules."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.proxy_process import ROOT

__all__ = ["Scrapes", "severities"]

_ALERTS: Final = ROOT / "deploy" / "alerts.yml"
#: The scrape interval and job name of deploy/prometheus.yml.
_EVERY_S: Final = 15
_UP: Final = 'up{job="async-job-proxy", instance="a"}'
#: How many scrapes of a sound proxy, and how many in trouble: 20 minutes, and longer than any alert waits.
_SOUND, _TROUBLED = 80, 260
_NOTHING: Final = "_"


def severities() -> dict[str, str]:
    """Return the severity of each alert."""
    (group,) = yaml.safe_load(_ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["labels"]["severity"] for rule in group["rules"]}


@dataclass(frozen=True, kw_only=True)
class Scrapes:
    """Pages of `/metrics`: two of a sound proxy, two in trouble; each pair gives the increase between its pages.

    With each scrape, a counter grows as it did from one page to the next; a gauge stays as on the second page. An empty
    page means that there was no answer.
    """

    sound: tuple[str, str]
    trouble: tuple[str, str]

    def check(self, folder: Path, matcher: str, *, firing: dict[str, str]) -> None:
        """Let promtool check the alerts that match `matcher` and fire at the end of both periods.

        In trouble, they are exactly those in `firing`, name and severity; while all is well, there are none.
        """
        look = 'count by (alertname, severity) (ALERTS{{alertstate="firing", {}}})'
        samples = [
            {"labels": f'{{alertname="{name}", severity="{severity}"}}', "value": 1}
            for name, severity in firing.items()
        ]
        queries = [
            {"expr": look.format(matcher), "eval_time": f"{(_SOUND - 1) * _EVERY_S}s", "exp_samples": []},
            {
                "expr": look.format(matcher),
                "eval_time": f"{(_SOUND + _TROUBLED - 1) * _EVERY_S}s",
                "exp_samples": samples,
            },
        ]
        case = {"interval": f"{_EVERY_S}s", "input_series": list(self._series()), "promql_expr_test": queries}
        test = {"rule_files": [str(_ALERTS)], "evaluation_interval": f"{_EVERY_S}s", "tests": [case]}
        file = folder / "alerts_test.yml"
        file.write_text(json.dumps(test), encoding="utf-8")  # which is valid YAML as well
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
