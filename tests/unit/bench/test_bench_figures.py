"""The benchmark's arithmetic, verdicts, tables and chart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.chart import draw, draw_growth
from bench.contenders.table import CONTENDERS, available, missing
from bench.document import SHOWN, fill
from bench.fifty import WITH_SPARES
from bench.limits import limit_of, reckon
from bench.measures import Cores, Fifty, InFlight, Instances, QueueCost, Results, Round, Spread, Tls, percentile, spread
from bench.options import parse
from bench.profile import profile_with
from bench.tables import sections
from bench.targets import TARGETS, Verdict, ratios, reached
from shared.job_server import loader

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "performance.md"


def a_round(number: int, contender: str, jobs_per_s: float) -> Round:
    """Return a round in which only the speed matters."""
    return Round(
        number=number,
        contender=contender,
        jobs=100,
        jobs_per_s=jobs_per_s,
        cpu_ms_per_job=5.0,
        database_cpu_ms_per_job=0.0,
        p50_ms=1.0,
        p99_ms=2.0,
        cores=Cores(front_end=0.5, fork_server=0.25, workers=1.0, job_server=0.1, load=0.1),
    )


def in_flight(jobs: int, workers: int) -> InFlight:
    """Return a measurement of jobs in flight."""
    return InFlight(
        jobs=jobs,
        waves=1,
        workers=workers,
        submitted_s=1.0,
        answered_s=1.0,
        worker_p50_bytes=2e6,
        worker_p90_bytes=3e6,
        idle_front_end_bytes=40_000_000,
        front_end_bytes=50_000_000,
        cpu_ms_per_job=5.0,
        loop_p99_ms=4.0,
    )


def instances(count: int) -> Instances:
    """Return a measurement of several instances."""
    return Instances(
        instances=count,
        jobs_per_s=200.0 * count,
        cpu_ms_per_job=6.0,
        database_cpu_ms_per_job=0.5,
        bytes_per_instance=60e6,
        database_bytes_per_instance=30e6,
        loop_p99_ms=3.0,
    )


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2), (51, 3), (99, 4), (100, 4)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    """Nearest rank."""
    assert percentile([4, 2, 3, 1], percent) == expected


def test_a_spread_tells_the_median_and_both_ends() -> None:
    """A median alone would hide that the machine was busy."""
    figure = spread([3.0, 1.0, 2.0])
    assert (figure.median, figure.low, figure.high) == (2.0, 1.0, 3.0)


def test_a_ratio_is_taken_within_a_round() -> None:
    """If the other did not finish a round, that round has no ratio; nothing is compared across rounds."""
    rounds = [a_round(0, "fresh", 100), a_round(0, "node", 20), a_round(1, "fresh", 90), a_round(2, "node", 30)]
    assert ratios(rounds, "fresh", "node") == [5.0]


@pytest.mark.parametrize(
    ("title", "figure", "verdict"),
    [
        ("CPU per job", 5.9, Verdict.HOPED_FOR),
        ("CPU per job", 9.0, Verdict.REACHED),
        ("CPU per job", 9.1, Verdict.MISSED),
        ("journal's cost in jobs/s, fresh", -1.0, Verdict.HOPED_FOR),
        ("journal's cost in jobs/s, reused", 10.1, Verdict.MISSED),
        ("fresh process per job", 8.0, Verdict.HOPED_FOR),
        ("fresh process per job", 6.0, Verdict.REACHED),
        ("fresh process per job", 5.9, Verdict.MISSED),
    ],
)
def test_a_figure_is_judged_in_the_right_direction(title: str, figure: float, verdict: Verdict) -> None:
    """Less CPU is better, and so are more jobs."""
    (target,) = [one for one in TARGETS if one.title.startswith(title)]
    assert target.verdict(figure) is verdict


def test_a_journals_cost_is_taken_from_the_same_way_of_working_in_the_same_round() -> None:
    """As a percentage of the jobs per second without it; the table of ratios agrees."""
    results = Results(rounds=[a_round(0, "reused", 200), a_round(0, "reused+journal", 180), a_round(1, "fresh", 100)])
    figures = {one.target.title: one.figure for one in reached(results)}
    cost = figures["journal's cost in jobs/s, reused workers"]
    assert cost is not None
    assert cost.median == pytest.approx(10)
    assert figures["journal's cost in jobs/s, fresh process per job"] is None
    assert "with a journal | this proxy, reused workers | 0.90 |" in sections(results)["ratios"]


def test_what_was_not_measured_is_said_to_be_so() -> None:
    """A missing figure is neither reached nor missed."""
    assert {one.verdict for one in reached(Results())} == {Verdict.NOT_MEASURED}


def test_jobs_in_flight_count_only_with_a_process_for_each() -> None:
    """4,000 jobs in 3,999 processes do not count as 4,000."""
    results = Results(in_flight=[in_flight(2000, 2008), in_flight(4000, 3999)])
    (one,) = [one for one in reached(results) if one.target.title.startswith("jobs in flight")]
    assert one.figure is not None
    assert one.figure.median == 2000


def test_a_way_without_a_time_of_submission_has_an_empty_cell() -> None:
    """The embedded job server does not report when it got a job."""
    results = Results(
        fifty=[
            Fifty(way="fresh", total_s=0.66, submitted_s=0.15),
            Fifty(way="fresh", total_s=0.7, submitted_s=0.17),
            Fifty(way="jobclient", total_s=0.75),
        ]
    )
    *_, fresh, job_client = sections(results)["fifty"].strip().splitlines()
    assert "0.680 (0.660 to 0.700) | 0.160 (0.150 to 0.170)" in fresh
    assert "0.750" in job_client
    assert job_client.endswith("|  |")


def test_what_tls_costs_stands_beside_its_handshakes() -> None:
    """With and without kept connections."""
    one = Tls(contender="reused", keep_alive=True, jobs=150, handshakes=2, p50_ms=2.4, p99_ms=16, cpu_ms_per_job=2.2)
    text = sections(Results(tls=[one]))["tls"]
    assert "| this proxy, reused workers | yes | 150 | 2 | 2.4 | 16.0 | 2.2 |" in text


def test_what_a_message_adds_is_what_it_takes_less_a_job_over_http() -> None:
    """In its table, and compared with its target."""
    results = Results(queue=[QueueCost(messages=200, jobs_per_s=100, message_ms=2.5, http_ms=1.75)])
    assert "| 200 | 100 | 2.50 | 1.75 | 0.75 |" in sections(results)["queue"]
    (one,) = [one for one in reached(results) if one.figure is not None and "queue" in one.target.title]
    assert (one.figure, one.verdict) == (Spread(median=0.75, low=0.75, high=0.75), Verdict.REACHED)


@pytest.mark.parametrize("keep_alive", ["true", "false"])
def test_the_profile_that_tls_is_measured_with_differs_in_one_thing(tmp_path: Path, keep_alive: str) -> None:
    """Whether connections are kept."""
    profile = loader.load(str(profile_with(tmp_path, keep_alive)))
    shipped = loader.load("spreedly")
    assert profile == replace(shipped, server=replace(shipped.server, keep_alive=keep_alive == "true"))


def test_another_checkout_stands_beside_this_one() -> None:
    """In the table under its folder's name, and as a ratio, round by round."""
    results = Results(
        rounds=[a_round(n, name, speed) for n in range(2) for name, speed in (("fresh", 90), ("fresh@old", 100))]
    )
    assert "this proxy, a fresh process per job (old) | 100 |" in sections(results)["throughput"]
    assert "| this proxy, a fresh process per job (old) | 0.90 |" in sections(results)["ratios"]


def test_every_contender_of_ours_can_come_from_another_checkout(tmp_path: Path) -> None:
    """It is started there, with the same settings."""
    here, both = available(), available(tmp_path)
    other = both[f"fresh@{tmp_path.name}"]
    assert (other.folder, other.command, other.environment) == (
        tmp_path,
        both["fresh"].command,
        here["fresh"].environment,
    )
    assert set(both) - set(here) == {f"{one.name}@{tmp_path.name}" for one in here.values() if one.ours}


def test_the_document_has_a_place_for_every_section() -> None:
    """And filling it twice gives the same as filling it once."""
    results = Results(rounds=[a_round(0, "fresh", 100), a_round(0, "node", 20)], in_flight=[in_flight(2000, 2008)])
    once = fill(DOCUMENT.read_text(encoding="utf-8"), results)
    assert all(sections(results)[name] in once for name in SHOWN)
    assert fill(once, results) == once


def test_a_document_without_markers_is_refused() -> None:
    """Figures must not be lost silently."""
    with pytest.raises(ValueError, match="targets"):
        fill("no markers", Results())


def test_the_chart_is_well_formed_and_names_every_contender() -> None:
    """One bar for each contender in each of the two panels."""
    results = Results(rounds=[a_round(0, name, 50) for name in CONTENDERS])
    chart = ET.fromstring(draw(results))  # noqa: S314 - our own
    bars = [one for one in chart.iter() if one.tag.endswith("rect")]
    texts = {one.text for one in chart.iter() if one.tag.endswith("text")}
    assert len(bars) == 2 * len(CONTENDERS)
    assert {contender.title for contender in CONTENDERS.values()} <= texts


def test_a_bar_that_would_dwarf_all_others_is_cut_and_says_so() -> None:
    """A process that costs a hundred times as much must not make the others indistinguishable."""
    results = Results(rounds=[a_round(0, "fresh", 50), a_round(0, "reused", 60), a_round(0, "uvloop", 9000)])
    texts = [one.text for one in ET.fromstring(draw(results)).iter() if one.tag.endswith("text")]  # noqa: S314 - ours
    assert "9000 (cut)" in texts
    assert "60" in texts


def test_the_growth_chart_is_well_formed_and_has_every_point() -> None:
    """Four curves over the jobs in flight, four over the instances; one that was not measured is empty."""
    results = Results(in_flight=[in_flight(10, 12), in_flight(4000, 4008)], instances=[instances(1)])
    for some, points in ((results, 4 * 2 + 4), (Results(), 0)):
        chart = ET.fromstring(draw_growth(some))  # noqa: S314 - our own
        assert len([one for one in chart.iter() if one.tag.endswith("circle")]) == points
        assert len([one for one in chart.iter() if one.tag.endswith("polyline")]) == 8
    texts = {one.text for one in ET.fromstring(draw_growth(results)).iter()}  # noqa: S314 - our own
    assert {"4,000", "2,000", "2.00", "6.50"} <= texts  # in flight, jobs/s, MB per job, CPU including the database


@pytest.mark.parametrize(
    ("cores", "limit"),
    [
        ((0.6, 0.2, 0.8, 0.2, 0.1), "all 2 cores, most of it the workers"),
        ((0.95, 0.0, 0.1, 0.4, 0.4), "all 2 cores, most of it the front end"),
        ((0.95, 0.0, 0.0, 0.4, 0.3), "one core: the front end"),
        ((0.2, 0.0, 0.1, 0.3, 0.92), "one core: the load"),
        ((0.2, 0.0, 1.2, 0.1, 0.1), "no core: it waits"),
    ],
)
def test_what_used_up_its_core_was_the_limit(cores: tuple[float, float, float, float, float], limit: str) -> None:
    """One part that cannot use another core, or all cores together."""
    front_end, fork_server, workers, job_server, load = cores
    used = Cores(front_end=front_end, fork_server=fork_server, workers=workers, job_server=job_server, load=load)
    assert limit_of(used, machine=2) == limit


def test_more_cores_are_reckoned_from_what_runs_on_one() -> None:
    """5 ms of the event loop per job are 200 jobs/s per instance, which with 10 ms in all keeps two cores busy."""
    one = reckon([replace(a_round(0, "fresh", 100), cpu_ms_per_job=10.0)])
    assert (one.front_end_ms, one.fork_server_ms, one.most_per_instance, one.cores_per_instance) == (
        5.0,
        2.5,
        200.0,
        2.0,
    )
    assert [one.instances_on(cores) for cores in (1, 4, 16)] == [1, 2, 8]
    assert [one.jobs_per_s_on(cores) for cores in (1, 4, 16)] == [100.0, 400.0, 1600.0]


def test_more_spares_are_compared_burst_by_burst() -> None:
    """Each burst with the one next to it."""
    results = Results(
        fifty=[
            Fifty(way=way, total_s=total_s)
            for way, total_s in (("fresh", 0.5), (WITH_SPARES, 0.6), ("fresh", 1.0), (WITH_SPARES, 0.9))
        ]
    )
    (one,) = [one for one in reached(results) if "64 spares" in one.target.title]
    assert one.figure is not None
    assert one.figure.low == pytest.approx(0.9)
    assert one.figure.high == pytest.approx(1.2)


def test_a_contender_that_cannot_take_part_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line with the package's name."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "beam does not take part: there is no escript (apt install erlang-base)" in missing()
    assert "beam" not in available()


def test_only_a_whole_run_writes_the_documentation() -> None:
    """Partial and trial runs leave it unchanged, unless told otherwise."""
    assert parse([]).write
    assert parse(["--quick", "--write"]).write
    for arguments in (["--quick"], ["--only", "fresh"], ["--measure", "idle"], ["--set", "MAX_JOBS=9"]):
        assert not parse(arguments).write


@pytest.mark.parametrize("arguments", [["--set", "X"], ["--measure", "speed"], ["--beside", "/"], ["--rounds", "0"]])
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    """With argparse's exit code."""
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
