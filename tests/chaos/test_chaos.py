"""Every scenario, through its one door, in a world of its own; small but for the one the promise names."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support import environment
from tests.support.process import ROOT

pytestmark = pytest.mark.timeout(900)
FIELDS = ["name", "seed", "asked", "took_effect", "lost", "doubled", "leaked", "recovery_s"]


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program outside of this test run's world."""
    return subprocess.run(
        [sys.executable, "-m", "tests.chaos", *arguments],
        cwd=ROOT,
        env=environment.outside(),
        capture_output=True,
        text=True,
        check=False,
    )


def play(name: str, *arguments: str, once: bool = True, lossy: bool = False) -> dict[str, Any]:
    """Play one scenario and return its report, which must be clean.

    Args:
        once: whether a task must not take effect twice.
        lossy: whether something is lost that cannot be helped.
    """
    done = chaos(name, "--json", *arguments)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(lines[0])
    assert list(report)[: len(FIELDS)] == FIELDS
    assert report["name"] == name
    assert not report["leaked"], report
    assert not report["lost"] or lossy, report
    assert not report["doubled"] or lossy or not once, report
    assert done.returncode == 0, done.stderr
    return report


def test_every_ending_in_any_order_ends_as_the_table_says() -> None:
    """A round of the zoo in an order that chance picks."""
    report = play("endings", "--seed", "11", "--seconds", "1", "--database", "sqlite")
    assert report["asked"] >= 24
    assert "wrong" not in report


def test_500_tasks_end_once_each_while_everything_but_workers_and_broker_dies() -> None:
    """SIGKILL to pool children, relay and web process, PostgreSQL stopped and started, at random moments."""
    report = play("child_kill", "--seed", "7", "--seconds", "20", "--tasks", "500")
    assert report["database"] == "postgresql"
    assert report["asked"] >= 500
    assert report["succeeded"] + report["dead_letters"] == report["asked"]
    for kind in ("children_killed", "relay_killed", "web_killed", "database_outages"):
        assert report[kind] > 0, report


def test_tasks_end_once_each_while_sqlite_is_held() -> None:
    """The same in small with the database that needs no server."""
    report = play("child_kill", "--seed", "8", "--seconds", "12", "--tasks", "100", "--database", "sqlite")
    assert report["database"] == "sqlite"
    assert report["succeeded"] + report["dead_letters"] == report["asked"]


def test_letters_clicked_by_several_of_whom_some_die_run_once_more_each() -> None:
    """Double clicks and a redriving process that dies half-way."""
    report = play("redrive", "--seed", "5", "--seconds", "15", "--tasks", "60")
    assert report["took_effect"] == report["asked"] == 60
    assert report["clickers_killed"] > 0


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_exactly_what_was_committed_runs(database: str) -> None:
    """Half of the transactions are rolled back; publishers and relays die, the broker is away for a while."""
    report = play("outbox", "--seed", "6", "--seconds", "15", "--tasks", "200", "--database", database)
    assert report["database"] == database
    assert report["took_effect"] == report["asked"] > 50
    assert report["rolled_back_but_ran"] == 0
    assert report["broker_outages"] == 1
    for kind in ("publishers_killed", "relays_killed"):
        assert report[kind] > 0, report


@pytest.mark.timeout(400)
def test_orders_are_charged_once_while_their_workers_die() -> None:
    """Every copy of an order gets the first one's result; the provider and the ledger see each order once."""
    report = play("charges", "--seed", "2", "--seconds", "5", "--tasks", "12")
    assert report["database"] == "postgresql"
    assert report["took_effect"] == report["asked"] == 12
    assert (report["lost"], report["doubled"], report["leaked"], report["unequal_results"]) == (0, 0, 0, 0)
    for kind in ("children_killed", "workers_killed", "workers_stopped", "broker_restarts", "database_restarts"):
        assert report[kind], report


def test_every_result_is_in_the_table_whatever_is_killed() -> None:
    """Relays, a swarm and a prefork worker, processes of each, Redis and PostgreSQL."""
    report = play("results", "--seed", "9", "--seconds", "6", "--tasks", "1000")
    assert report["asked"] == 1000
    # What a killed process worked on lies in the inbox; all else was done.
    assert report["took_effect"] + report["tasks_killed_with_their_child"] == 1000
    for kind in ("workers_killed", "children_killed", "relays_killed", "redis_killed", "database_killed"):
        assert report[kind] > 0, report


def test_a_chord_has_one_body_and_a_group_every_result_however_often_their_members_run() -> None:
    """Workers and their processes die; their members are delivered again, and are counted once."""
    report = play("chords", "--seed", "3", "--seconds", "3", "--tasks", "20", "--database", "sqlite")
    assert report["took_effect"] == report["asked"] == 20 + 80 + 1
    assert report["redelivered"] > 0, report
    assert report["bodies"] == 1
    for kind in ("workers_killed", "children_killed"):
        assert report[kind] > 0, report


@pytest.mark.parametrize("name", ["broker_restart", "connection_cuts"])
def test_no_worker_ends_and_nothing_starts_twice_whatever_the_broker_does(name: str) -> None:
    """Restarts and cuts under load."""
    report = play(name, "--seed", "3", "--seconds", "12", "--tasks", "120")
    assert report["took_effect"] == report["asked"] == 120
    assert report["blows"] >= 3
    assert (report["started_again"], report["workers_gone"]) == (0, 0), report


def test_a_deploy_loses_and_repeats_nothing_and_is_quick() -> None:
    """SIGTERM under load: a worker exits soon after its last task, and every task starts once."""
    report = play("deploys", "--seed", "9", "--seconds", "12", "--tasks", "120")
    assert report["took_effect"] == report["asked"] == 120
    assert report["blows"] >= 2
    assert (report["started_again"], report["workers_gone"]) == (0, 0), report
    # The promise is 2 s on a machine that has nothing else to do.
    assert report["slowest_exit_s"] < 4, report


def test_nothing_is_lost_while_whole_workers_die() -> None:
    """What ran when its worker died starts again, and nothing else."""
    report = play("worker_kill", "--seed", "4", "--seconds", "12", "--tasks", "120", once=False)
    assert report["took_effect"] == report["asked"] == 120


def test_a_cut_network_costs_nothing_but_what_ran_past_its_lease_twice() -> None:
    """Workers and a producer behind it: their tasks run elsewhere in time, what they tell afterwards is refused."""
    report = play("partition", "--seed", "5", "--seconds", "1", "--tasks", "100", "--database", "sqlite")
    assert report["took_effect"] == report["asked"] > 100
    assert report["recovered"] >= 1
    assert report["slowest_recovery_s"] < report["within_s"], report
    assert (report["taken_over_early"], report["stale_let_in"], report["workers_gone"]) == (0, 0, 0), report
    assert report["producer_refused"] >= 1
    assert report["slowest_refusal_s"] < 2, report


def test_what_a_broker_lost_with_the_end_of_its_file_is_told() -> None:
    """SIGKILL, and a file without its last seconds: every task that is lost lies within the time that workers name."""
    report = play("lost_tail", "--seed", "5", "--seconds", "6", "--tasks", "360", "--database", "sqlite", lossy=True)
    assert report["lost"] == report["told"] > 0
    assert report["told_by"] >= 1
    assert report["workers_gone"] == 0


def test_a_limit_is_kept_and_used_while_workers_die() -> None:
    """No second holds more than a hundred grants, nobody shares the slot, and no time is wasted."""
    report = play("limits", "--seed", "9", "--seconds", "5", "--tasks", "500", "--database", "sqlite", once=False)
    assert report["took_effect"] == report["asked"]
    assert report["workers_killed"] >= 1
    assert 90 <= report["most_grants_in_a_second"] <= 100
    assert report["together_in_the_slot"] == 0
    assert report["seconds"] <= report["allowed_s"]


def test_a_report_that_lost_something_fails_the_program() -> None:
    """The exit code is the gate: lost, leaked or doubled is a failure, unless its tasks may repeat."""
    from tests.chaos.catalogue import Report

    fields: dict[str, Any] = {"name": "x", "seed": 1, "asked": 2, "took_effect": 1, "recovery_s": 0.1}
    assert Report(**fields, lost=0, doubled=0, leaked=0).ok
    assert not Report(**fields, lost=0, doubled=1, leaked=0).ok
    assert Report(**fields, lost=0, doubled=1, leaked=0, may_repeat=True).ok
    assert not Report(**fields, lost=1, doubled=0, leaked=0).ok
    assert Report(**fields, lost=1, doubled=0, leaked=0, told=1).ok
    assert not Report(**fields, lost=0, doubled=0, leaked=1).ok


def test_names_are_listed_and_unknown_ones_refused() -> None:
    """``--list`` prints one name a line; an unknown name is told which there are."""
    listed = chaos("--list")
    assert listed.stdout.split() == [
        "endings",
        "child_kill",
        "redrive",
        "charges",
        "outbox",
        "worker_kill",
        "broker_restart",
        "results",
        "chords",
        "connection_cuts",
        "limits",
        "deploys",
        "lost_tail",
        "partition",
    ]
    refused = chaos("child_kil")
    assert refused.returncode == 2
    assert "no scenario child_kil; there are: endings, child_kill, redrive, charges, outbox" in refused.stderr
