"""The program that measures says what was asked; what it measures is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks.catalogue import Result
from tests.support import environment
from tests.support.process import ROOT


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program outside of this test run's world."""
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        env=environment.outside(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("overhead", 100),
        ("throughput", 10),
        ("throughput_peers", 10),
        ("delay_one_by_one", 10),
        ("bulk_enqueue", 10),
        ("memory_per_message", 10),
        ("latency", 0.1),
        ("outbox_latency", 0.1),
        ("backlog", 10),
    ],
)
def test_a_benchmark_prints_one_object(name: str, least: float) -> None:
    """One run is enough to show the form."""
    done = benchmarks(name, "--runs", "1", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert list(report)[:8] == ["name", "ours", "peer", "ratio", "min", "max", "runs", "unit"]
    assert report["name"] == name
    assert report["runs"] == 1
    # Not a measurement, a check that both sides did work: nobody handles a task in 100 µs here.
    assert min(report["ours"], report["peer"]) > least
    assert report["ratio"] == report["min"] == report["max"]


@pytest.mark.timeout(400)
def test_policies_are_measured_against_the_task_without_them() -> None:
    """One pair a policy is enough to show the form; each has its own ratio."""
    from tests.benchmarks.policy_tasks import MEASURED

    done = benchmarks("policies", "--runs", "1", "--seconds", "5", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["name"], report["runs"], report["unit"]) == ("policies", 2 * len(MEASURED), "tasks/s")
    for pool in ("prefork", "swarm"):
        assert set(report["by_policy"][pool]) == set(report["rates"][pool]) == set(MEASURED)
    assert min(report["ours"], report["peer"]) > 1


def test_names_are_listed_and_unknown_ones_refused() -> None:
    """``--list`` prints one name a line; an unknown name is told which there are."""
    assert benchmarks("--list").stdout.split() == [
        "overhead",
        "throughput",
        "throughput_peers",
        "delay_one_by_one",
        "bulk_enqueue",
        "memory_per_message",
        "latency",
        "outbox_latency",
        "backlog",
        "delayed",
        "policies",
        "results_postgresql",
        "results_sqlite",
        "fairness",
    ]
    refused = benchmarks("overhed")
    assert refused.returncode == 2
    assert "no benchmark overhed; there are: overhead, throughput, throughput_peers" in refused.stderr


def test_a_result_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    """Pairs are compared with each other, because both were measured in the same weather."""
    result = Result.of_pairs("x", [(10, 10), (30, 20), (500, 400)], "us", extra=1)
    assert (result.ours, result.peer, result.ratio, result.min, result.max, result.runs) == (30, 20, 1.25, 1.0, 1.5, 3)
    assert result.to_json()["extra"] == 1
