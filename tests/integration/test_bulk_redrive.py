"""Verbs by filter, and the command that offers them in the shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.utils import timezone

from orchestrator.audit.models import AuditEntry
from orchestrator.contracts.errors import InvalidOption
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.services import Filter
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.letters import dead_letter
from tests.support.process import MANAGE
from tests.support.wait import eventually
from tests.support.worker import Relay, Worker, platform_env

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

ADD = "tests.support.zoo.add"


@pytest.fixture(autouse=True)
def empty_broker(broker: Broker) -> Broker:
    return broker


def sent(broker: Broker, queue: str = "celery") -> list[str]:
    """Return the ids on a queue, oldest first."""
    return [json.loads(raw)["headers"]["id"] for raw in reversed(broker.client.lrange(queue, 0, -1))]


def ids_of(*rows: DeadLetter) -> set[str]:
    return {str(row.pk) for row in rows}


# --- which letters ---------------------------------------------------------------------


def test_each_condition_picks_its_letters() -> None:
    now = timezone.now()
    a = dead_letter("succeed", queue="mail", error_type="builtins.KeyError", error_message="Größe FEHLT")
    b = dead_letter(1, 2, task=ADD, died_at=now - timedelta(days=2), fingerprint="b" * 32)
    c = dead_letter("succeed", reason="time_limit", verdict="timed_out", error_message="100% sure_thing")
    closed = dead_letter("succeed", state=State.DISCARDED)
    picks: list[tuple[dict[str, Any], set[str]]] = [
        ({}, ids_of(a, b, c)),
        ({"state": ""}, ids_of(a, b, c, closed)),
        ({"state": "discarded"}, ids_of(closed)),
        ({"ids": [str(a.pk), str(closed.pk)]}, ids_of(a)),
        ({"task": ADD}, ids_of(b)),
        ({"task": "tests.support.*"}, ids_of(a, b, c)),
        ({"task": "tests.support"}, set()),
        ({"queue": "mail"}, ids_of(a)),
        ({"reason": "time_limit"}, ids_of(c)),
        ({"error_type": "KeyError"}, ids_of(a)),
        ({"error_type": "builtins.KeyError"}, ids_of(a)),
        ({"error_type": "Error"}, set()),
        ({"text": "größe fehlt"}, ids_of(a)),
        ({"text": "100% SURE_"}, ids_of(c)),
        ({"text": "100_"}, set()),
        ({"text": b.task_id}, ids_of(b)),
        ({"fingerprint": "b" * 32}, ids_of(b)),
        ({"since": (now - timedelta(days=1)).isoformat()}, ids_of(a, c)),
        ({"until": (now - timedelta(days=1)).isoformat()}, ids_of(b)),
        ({"task": ADD, "queue": "mail"}, set()),
    ]
    for conditions, expected in picks:
        assert ids_of(*Filter.from_mapping(conditions).queryset()) == expected, conditions


def test_equal_failures_are_counted_together() -> None:
    now = timezone.now()
    for age in range(3):
        dead_letter("x", fingerprint="a" * 32, died_at=now - timedelta(hours=age), error_message=f"number {age}")
    dead_letter("x", fingerprint="b" * 32, error_type="KeyError")
    dead_letter("x", fingerprint="b" * 32, state=State.DISCARDED)
    first, second = services.groups(Filter())
    assert (first["fingerprint"], first["count"], first["error_message"]) == ("a" * 32, 3, "number 0")
    assert first["first_seen"] == now - timedelta(hours=2)
    assert first["last_seen"] == now
    assert (second["count"], second["error_type"]) == (1, "KeyError")
    assert len(services.groups(Filter(), limit=1)) == 1
    assert services.groups(Filter(queue="none")) == []


# --- redrive ---------------------------------------------------------------------------


def test_all_that_match_are_redriven_oldest_first_with_one_audit_entry(broker: Broker) -> None:
    now = timezone.now()
    rows = [dead_letter("succeed", died_at=now - timedelta(minutes=age)) for age in (1, 3, 2)]
    other = dead_letter(1, 2, task=ADD)
    ann = get_user_model().objects.create_user("ann")
    report = services.redrive_where(Filter(task="tests.support.zoo.end"), by=ann)
    expected = [str(rows[1].pk), str(rows[2].pk), str(rows[0].pk)]
    assert [letter_id for letter_id, _ in report.done] == expected
    assert [new_id for _, new_id in report.done] == sent(broker)
    assert (report.count, report.skipped, report.failed, report.stopped) == (3, [], [], "")
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.user) == ("deadletter.redrive_where", ann)
    assert entry.details["ids"] == expected
    assert entry.details["count"] == 3
    assert entry.details["filter"] == {"task": "tests.support.zoo.end", "state": "open"}
    other.refresh_from_db()
    assert other.state == State.OPEN


def test_a_dry_run_counts_and_changes_nothing(broker: Broker) -> None:
    for _ in range(3):
        dead_letter("succeed")
    assert services.redrive_where(Filter(), dry_run=True).count == 3
    assert services.redrive_where(Filter(), dry_run=True, limit=2).count == 2
    assert services.discard_where(Filter(), reason="x", dry_run=True).count == 3
    assert DeadLetter.objects.filter(state=State.OPEN).count() == 3
    assert not AuditEntry.objects.exists()
    assert sent(broker) == []


def test_one_that_cannot_be_redriven_does_not_hold_up_the_others(broker: Broker) -> None:
    good = [dead_letter("succeed") for _ in range(2)]
    bad = dead_letter(1, 2, 3, task=ADD)
    gone = dead_letter("succeed", task="shop.gone")
    report = services.redrive_where(Filter())
    assert {letter_id for letter_id, _ in report.done} == ids_of(*good)
    assert {letter_id for letter_id, _ in report.failed} == ids_of(bad, gone)
    assert "do not fit" in dict(report.failed)[str(bad.pk)]
    entry = AuditEntry.objects.get(action="deadletter.redrive_incomplete")
    assert entry.details["done"] == 2


def test_a_letter_that_is_closed_meanwhile_is_skipped(broker: Broker) -> None:
    rows = [dead_letter("succeed", died_at=timezone.now() - timedelta(minutes=9 - n)) for n in range(3)]

    def close_the_last(report: Any) -> None:
        if len(report.done) == 1:
            services.discard(rows[2].pk, reason="handled by hand")

    report = services.redrive_where(Filter(), on_step=close_the_last)
    assert len(report.done) == 2
    assert report.skipped[0][0] == str(rows[2].pk)
    assert "handled by hand" in report.skipped[0][1]


def test_a_rate_is_kept(broker: Broker) -> None:
    for _ in range(6):
        dead_letter("succeed")
    started = time.monotonic()
    services.redrive_where(Filter(), rate=10)
    assert time.monotonic() - started >= 0.5
    assert len(sent(broker)) == 6


def test_a_missing_broker_stops_the_run_and_leaves_the_rest_open(broker: Broker) -> None:
    for _ in range(4):
        dead_letter("succeed")

    def cut(report: Any) -> None:
        if len(report.done) == 2 and not report.stopped:
            broker.stop()

    try:
        report = services.redrive_where(Filter(), on_step=cut)
    finally:
        broker.start()
    assert (len(report.done), len(report.failed)) == (2, 1)
    assert "CELERY_BROKER_URL" in report.stopped
    assert DeadLetter.objects.filter(state=State.OPEN).count() == 2
    assert len(services.redrive_where(Filter()).done) == 2


@pytest.mark.parametrize("options", [{"limit": 0}, {"rate": -1}, {"canary": 0}, {"canary_wait": 0}])
def test_numbers_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"{next(iter(options))}=.*above 0"):
        services.redrive_where(Filter(), **options)


# --- canaries, with a real worker ------------------------------------------------------


def test_canaries_that_fail_again_stop_the_run(broker: Broker, start: Any) -> None:
    far_side.clear()
    start(Worker())
    start(Relay())
    for _ in range(5):
        dead_letter("fail")
    report = services.redrive_where(Filter(), canary=2)
    assert len(report.done) == 2
    assert "canaries" in report.stopped
    assert DeadLetter.objects.filter(state=State.OPEN, redrive_of="").count() == 3
    eventually(lambda: DeadLetter.objects.exclude(redrive_of="").count() == 2)
    assert len(far_side.effects("fail")) == 2


def test_canaries_that_succeed_let_the_rest_follow_at_once(broker: Broker, start: Any) -> None:
    far_side.clear()
    start(Worker())
    for _ in range(5):
        dead_letter("succeed")
    started = time.monotonic()
    report = services.redrive_where(Filter(), canary=1, canary_wait=120)
    assert time.monotonic() - started < 60, "a result that is heard ends the wait"
    assert (len(report.done), report.stopped) == (5, "")
    eventually(lambda: len(far_side.effects("succeed")) == 5)


def test_a_run_killed_in_the_middle_loses_and_doubles_nothing(broker: Broker, start: Any) -> None:
    far_side.clear()
    keys = {uuid4().hex for _ in range(150)}
    for key in keys:
        dead_letter("succeed", key, task="tests.support.zoo.end")
    env = {**os.environ, **{name: value for name, value in platform_env().items() if value is not None}}
    command = [sys.executable, MANAGE, "retry_failed_jobs", "--all"]
    run = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: DeadLetter.objects.filter(state=State.REDRIVEN).count() > 20, 60)
    finally:
        run.kill()
        run.wait()
    assert DeadLetter.objects.filter(state=State.OPEN).exists(), "it was killed too late to show anything"
    DeadLetter.objects.filter(state=State.REDRIVING).update(claimed_at=timezone.now() - timedelta(minutes=5))
    services.resume_interrupted()
    services.redrive_where(Filter())
    start(Worker(concurrency=2))
    eventually(lambda: far_side.counts().keys() >= keys, 120)
    eventually(lambda: broker.client.llen("celery") == 0)
    assert {key: far_side.counts()[key] for key in keys} == dict.fromkeys(keys, 1)
    assert not DeadLetter.objects.exclude(state=State.REDRIVEN).exists()


def test_two_commands_at_once_publish_each_letter_once(broker: Broker) -> None:
    rows = [dead_letter("succeed") for _ in range(60)]
    env = {**os.environ, **{name: value for name, value in platform_env().items() if value is not None}}
    command = [sys.executable, MANAGE, "retry_failed_jobs", "--all", "--json"]
    runs = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(run.communicate(timeout=120)[0]) for run in runs]
    done = [item["id"] for report in reports for item in report["done"]]
    assert sorted(done) == sorted(str(row.pk) for row in rows)
    assert len(sent(broker)) == 60


# --- discard ---------------------------------------------------------------------------


def test_all_that_match_are_discarded_with_one_audit_entry() -> None:
    rows = [dead_letter("succeed", queue="old") for _ in range(3)]
    closed = dead_letter("succeed", queue="old", state=State.REDRIVEN)
    report = services.discard_where(Filter(queue="old", state=""), reason="queue is gone", actor="janitor")
    assert {letter_id for letter_id, _ in report.done} == ids_of(*rows)
    assert [letter_id for letter_id, _ in report.skipped] == [str(closed.pk)]
    assert set(DeadLetter.objects.filter(pk__in=[row.pk for row in rows]).values_list("state", "note")) == {
        (State.DISCARDED.value, "queue is gone")
    }
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.details["count"]) == ("deadletter.discard_where", "janitor", 3)
    assert set(entry.details["ids"]) == ids_of(*rows)


def test_more_letters_than_one_statement_takes_are_discarded_too() -> None:
    sample = dead_letter("succeed")
    copies = []
    for _ in range(1200):
        sample.pk, sample.key = uuid4(), uuid4().hex
        copies.append(DeadLetter(**{f.attname: getattr(sample, f.attname) for f in DeadLetter._meta.concrete_fields}))
    DeadLetter.objects.bulk_create(copies)
    report = services.discard_where(Filter(), reason="too many")
    assert len(report.done) == 1201
    assert not DeadLetter.objects.filter(state=State.OPEN).exists()


# --- the command -----------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it wrote."""
    out, err = StringIO(), StringIO()
    try:
        call_command("retry_failed_jobs", *arguments, stdout=out, stderr=err)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), err.getvalue()
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), err.getvalue()


def test_a_dry_run_prints_what_matches_as_json(broker: Broker) -> None:
    rows = [dead_letter("succeed", died_at=timezone.now() - timedelta(minutes=9 - n)) for n in range(3)]
    code, out, _ = command("--all", "--dry-run", "--json")
    assert code == 0
    items = [
        {"id": str(row.pk), "task_id": row.task_id, "task": "tests.support.zoo.end", "reason": "failed"} for row in rows
    ]
    assert json.loads(out) == {"count": 3, "items": items}
    code, out, _ = command("--task", "none", "--dry-run", "--json")
    assert (code, json.loads(out)) == (0, {"count": 0, "items": []})
    code, out, _ = command("--all", "--dry-run")
    assert "3 open letters: would redrive." in out
    assert sent(broker) == []


def test_the_command_redrives_and_tells_the_new_ids(broker: Broker) -> None:
    row, bad = dead_letter("succeed"), dead_letter(1, 2, 3, task=ADD)
    code, out, _ = command("--id", str(row.pk), "--json")
    assert code == 0
    assert json.loads(out)["done"] == [{"id": str(row.pk), "new_task_id": sent(broker)[0]}]
    code, out, err = command("--task", ADD)
    assert code == 1
    assert f"{bad.pk}  failed: The arguments do not fit" in err
    assert "1 open letters of task" in out
    assert AuditEntry.objects.filter(actor="command line").exists()


def test_the_command_discards(broker: Broker) -> None:
    row = dead_letter("succeed")
    code, out, _ = command("--queue", "celery", "--discard", "not needed")
    assert (code, f"{row.pk}  discarded" in out) == (0, True)
    row.refresh_from_db()
    assert (row.state, row.note) == (State.DISCARDED, "not needed")


def test_the_command_acts_for_a_user_who_may(broker: Broker) -> None:
    dead_letter("succeed")
    ann = get_user_model().objects.create_user("ann")
    code, _, err = command("--all", "--by", "ann")
    assert (code, "'ann' may not redrive" in err) == (2, True)
    ann.user_permissions.add(Permission.objects.get(codename="redrive_deadletter"))
    code, _, _ = command("--all", "--by", "ann")
    assert code == 0
    assert AuditEntry.objects.get().user == ann
    assert command("--all", "--by", "ann", "--discard", "x")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "No condition is given.*--all"),
        (("--json",), "No condition is given"),
        (("--reason", "time-limit"), "did you mean 'time_limit'"),
        (("--id", "17"), "'17' is no id of a dead letter"),
        (("--since", "yesterday"), "since='yesterday' is no time"),
        (("--all", "--limit", "0"), "limit=0: give a number above 0"),
        (("--all", "--rate", "0"), "rate=0.0: give a number above 0"),
        (("--all", "--by", "nobody"), "There is no user 'nobody'"),
        (("--all", "--discard", " "), "Give a reason"),
        (("--all", "--discard", "x", "--rate", "3"), "no pacing options"),
    ],
)
def test_the_command_says_what_is_wrong_and_changes_nothing(
    broker: Broker, arguments: tuple[str, ...], says: str
) -> None:
    dead_letter("succeed")
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert re.search(says, err), err
    assert sent(broker) == []
    assert DeadLetter.objects.filter(state=State.OPEN).count() == 1


def test_the_command_without_a_broker(broker: Broker) -> None:
    dead_letter("succeed")
    broker.stop()
    try:
        code, _, err = command("--all")
    finally:
        broker.start()
    assert code == 1
    assert "CELERY_BROKER_URL" in err
    assert DeadLetter.objects.filter(state=State.OPEN).count() == 1
