"""The figures as Markdown tables: printed after a run, and shown by docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from typing import Final

from bench.contenders.table import CONTENDERS, title_of
from bench.fifty import AS_A_USER, WITH_SPARES
from bench.limits import limit_of, reckon
from bench.measures import Cores, Fifty, Results, Round, Spread, spread
from bench.targets import ratios, reached

__all__ = ["sections"]


_FIFTY_TITLES: Final = {
    WITH_SPARES: "this proxy, a fresh process per job, 64 spares",
    AS_A_USER: "this proxy, a fresh process per job, by `python -m jobclient`, embedded job server",
}


def sections(results: Results) -> dict[str, str]:
    """Return the text of each generated section of docs/performance.md, by its name."""
    return {
        "machine": _machine(results),
        "targets": _targets(results),
        "throughput": _throughput(results),
        "reckoned": _reckoned(results),
        "ratios": _ratios(results),
        "fifty": _fifty(results),
        "lone": _lone(results),
        "queue": _queue(results),
        "tls": _tls(results),
        "lag": _lag(results),
        "large-callbacks": _large_callbacks(results),
        "in-flight": _in_flight(results),
        "instances": _instances(results),
        "startup": _startup(results),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_range(form: str, figure: Spread) -> str:
    """Return the median and, if there is more than one value, the lowest and the highest."""
    median = form.format(figure.median)
    low, high = form.format(figure.low), form.format(figure.high)
    return median if low == high else f"{median} ({low} to {high})"


def _machine(results: Results) -> str:
    lines = [f"- {name}: {value}" for name, value in {**results.machine, **_options(results)}.items()]
    lines += [f"- **not measured**: {failure}" for failure in results.failures]
    return "\n".join(lines)


def _options(results: Results) -> dict[str, str]:
    names = ("rounds", "clients", "seconds", "settings")
    return {name: str(results.options[name]) for name in names if results.options.get(name)}


def _targets(results: Results) -> str:
    rows = []
    for one in reached(results):
        target = one.target
        figure = _with_range(target.form, one.figure) if one.figure is not None else ""
        rows.append(
            [
                target.title,
                target.form.format(target.at_least),
                target.form.format(target.hoped_for),
                figure,
                one.verdict,
            ]
        )
    return table(["", "at least", "hoped for", "this run", "result"], rows)


def _throughput(results: Results) -> str:
    rows = []
    for name, rounds in _by_contender(results.rounds).items():
        cores = _cores(rounds)
        rows.append(
            [
                title_of(name),
                _with_range("{:.0f}", spread(one.jobs_per_s for one in rounds)),
                _with_range("{:.1f}", spread(one.cpu_ms_per_job for one in rounds)),
                f"{statistics.median(one.database_cpu_ms_per_job for one in rounds):.2f}",
                f"{statistics.median(one.p50_ms for one in rounds):.0f}",
                f"{statistics.median(one.p99_ms for one in rounds):.0f}",
                *(f"{used:.2f}" for used in astuple(cores)),
                limit_of(cores),
            ]
        )
    head = ["", "jobs/s", "CPU ms/job", "its database's", "p50 ms", "p99 ms"]
    head += [f"cores: {name}" for name in ("front end", "fork server", "workers", "job server", "load")]
    return table([*head, "limit"], rows)


def _cores(rounds: Sequence[Round]) -> Cores:
    """Return how many cores each part used in the rounds, the median of each."""
    return Cores(**{f.name: statistics.median(getattr(one.cores, f.name) for one in rounds) for f in fields(Cores)})


def _reckoned(results: Results) -> str:
    rows = []
    for name, rounds in _by_contender(results.rounds).items():
        if not CONTENDERS[name.partition("@")[0]].ours or "@" in name:
            continue
        one = reckon(rounds)
        rows.append(
            [
                title_of(name).removeprefix("this proxy, "),
                f"{one.front_end_ms:.2f}",
                f"{one.fork_server_ms:.2f}",
                f"{one.all_ms:.2f}",
                f"{one.most_per_instance:,.0f} on {one.cores_per_instance:.1f} cores",
                *(f"{one.instances_on(n)}: {one.jobs_per_s_on(n):,.0f}" for n in (4, 16, 64)),
            ]
        )
    head = ["", "front end ms/job", "fork server ms/job", "all ms/job", "one instance, jobs/s at most"]
    return table([*head, *(f"{n} cores, instances: jobs/s" for n in (4, 16, 64))], rows)


def _ratios(results: Results) -> str:
    names = list(_by_contender(results.rounds))
    here = [name for name in names if "@" not in name]
    pairs = [(ours, other) for ours in here if CONTENDERS[ours].ours for other in here if not CONTENDERS[other].ours]
    pairs += [(f"{name}+journal", name) for name in here if f"{name}+journal" in here]
    pairs += [(name, name.replace("postgresql", "journal")) for name in here if name.endswith("+postgresql")]
    pairs += [(name.partition("@")[0], name) for name in names if "@" in name]
    rows = []
    for ours, other in pairs:
        figure = spread(ratios(results.rounds, ours, other) or [0.0])
        rows.append([title_of(ours), title_of(other), _with_range("{:.2f}", figure)])
    return table(["jobs/s of", "divided by those of", "ratio"], rows)


def _by_contender(rounds: Iterable[Round]) -> dict[str, list[Round]]:
    """Return the rounds of each contender, the contenders in the order of their table."""
    found: dict[str, list[Round]] = {name: [] for name in CONTENDERS}
    for one in rounds:
        found.setdefault(one.contender, []).append(one)
    return {name: some for name, some in found.items() if some}


def _fifty(results: Results) -> str:
    by_way: dict[str, list[Fifty]] = {}
    for one in results.fifty:
        by_way.setdefault(one.way, []).append(one)
    rows = []
    for way, some in by_way.items():
        title = _FIFTY_TITLES.get(way) or title_of(way)
        submitted = [one.submitted_s for one in some if one.submitted_s is not None]
        rows.append(
            [
                title,
                _with_range("{:.3f}", spread(one.total_s for one in some)),
                _with_range("{:.3f}", spread(submitted)) if submitted else "",
            ]
        )
    return table(["", "seconds in all", "last job submitted, s"], rows)


def _lone(results: Results) -> str:
    rows = [
        [
            title_of(one.contender),
            f"{one.duration_s:g}",
            str(one.jobs),
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
        ]
        for one in results.lone
    ]
    return table(["", "the job takes, s", "jobs", "added, p50 ms", "added, p99 ms"], rows)


def _queue(results: Results) -> str:
    rows = [
        [
            f"{one.messages}",
            f"{one.jobs_per_s:.0f}",
            f"{one.message_ms:.2f}",
            f"{one.http_ms:.2f}",
            f"{one.added_ms:.2f}",
        ]
        for one in results.queue
    ]
    return table(["messages", "jobs/s", "CPU ms/job, by message", "CPU ms/job, over HTTP", "added, ms"], rows)


def _tls(results: Results) -> str:
    rows = [
        [
            title_of(one.contender),
            "yes" if one.keep_alive else "no",
            str(one.jobs),
            str(one.handshakes),
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            f"{one.cpu_ms_per_job:.1f}",
        ]
        for one in results.tls
    ]
    head = ["", "`keep_alive`", "jobs", "connections and handshakes", "added, p50 ms", "added, p99 ms", "CPU ms/job"]
    return table(head, rows)


def _lag(results: Results) -> str:
    rows = [
        [
            f"{one.jobs} jobs in {one.took_s:.2f} s",
            f"{one.loop_p50_ms:.1f}",
            f"{one.loop_p99_ms:.1f}",
            f"{one.loop_max_ms:.1f}",
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            f"{one.max_ms:.1f}",
            f"{one.quiet_p99_ms:.1f}",
        ]
        for one in results.lag
    ]
    inside = ["loop p50 ms", "loop p99 ms", "loop longest ms"]
    outside = ["healthz p50 ms", "healthz p99 ms", "healthz longest ms", "healthz p99 ms before"]
    return table(["", *inside, *outside], rows)


def _large_callbacks(results: Results) -> str:
    rows = [
        [
            f"{one.callbacks} callbacks of {one.bytes_each / 2**20:g} MiB in {one.took_s:.2f} s",
            f"{one.loop_p50_ms:.1f}",
            f"{one.loop_p99_ms:.1f}",
            f"{one.loop_max_ms:.1f}",
        ]
        for one in results.large_callbacks
    ]
    return table(["", "loop p50 ms", "loop p99 ms", "loop longest ms"], rows)


def _instances(results: Results) -> str:
    rows = [
        [
            str(one.instances),
            f"{one.jobs_per_s:.0f}",
            f"{one.cpu_ms_per_job:.1f}",
            f"{one.database_cpu_ms_per_job:.2f}",
            f"{one.bytes_per_instance / 1e6:.0f}",
            f"{one.database_bytes_per_instance / 1e6:.0f}",
            f"{one.loop_p99_ms:.1f}",
        ]
        for one in results.instances
    ]
    head = [
        "instances",
        "jobs/s in all",
        "CPU ms/job",
        "database ms/job",
        "MB an instance",
        "database MB an instance",
        "loop lag p99 ms",
    ]
    return table(head, rows)


def _in_flight(results: Results) -> str:
    rows = [
        [
            f"{one.jobs:,}",
            f"{one.workers:,}",
            f"{one.submitted_s:.2f}",
            f"{one.answered_s:.2f}",
            f"{one.worker_p50_bytes / 1e6:.2f}",
            f"{one.worker_p90_bytes / 1e6:.2f}",
            f"{one.front_end_bytes / 1e6:.0f}",
            f"{one.jobs_per_s:.0f}",
            f"{one.cpu_ms_per_job:.1f}",
            f"{one.bytes_per_job / 1e6:.2f}",
            f"{one.loop_p99_ms:.1f}",
        ]
        for one in results.in_flight
    ]
    head = [
        "in flight",
        "worker processes",
        "all submitted, s",
        "all answered after release, s",
        "worker MB, p50",
        "worker MB, p90",
        "front end MB",
        "jobs/s",
        "CPU ms/job",
        "MB a job",
        "loop lag p99 ms",
    ]
    return table(head, rows)


def _startup(results: Results) -> str:
    rows = []
    if results.startup_s:
        rows.append(
            ["`python run.py` to the first job's answer", _with_range("{:.2f}", spread(results.startup_s)) + " s"]
        )
    rows += [
        [f"idle, spares ready, over {one.seconds:.0f} s", f"{one.cpu_percent:.3f} % of a core"] for one in results.idle
    ]
    return table(["", "figure"], rows)
