"""Records in Redis and in the database: first owners, overlaps, retention, and people who free keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from kombu.exceptions import EncodeError

from orchestrator import conf
from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.contracts.events import LeaseLost, RunReplayed, subscribe
from orchestrator.contracts.idempotency import Began, Completed, Effect, Held
from orchestrator.contracts.outcome import Verdict
from orchestrator.idempotency.freeing import free
from orchestrator.idempotency.models import IdempotencyRecord
from orchestrator.idempotency.records import DatabaseRecords
from orchestrator.idempotency.retention import prune
from orchestrator.stores.redis.idempotency import RedisIdempotencyRecords
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.testing import perform
from orchestrator.testing.plugin import orchestrator_server, orchestrator_stores
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.charges import book, ledger, pay
from tests.support.wait import eventually

__all__ = ["orchestrator_server", "orchestrator_stores"]

EFFECT = Effect("t.pay", "order-1", "f" * 64, "id-1", 3600.0)


@pytest.fixture
def records(broker: Broker) -> RedisIdempotencyRecords:
    return RedisIdempotencyRecords(RedisLeases(broker.url, f"test:{uuid4().hex}:", 5))


def began(found: Began | Held | Completed) -> Began:
    assert isinstance(found, Began)
    return found


# --- in Redis --------------------------------------------------------------------------


def test_in_progress_then_completed(records: RedisIdempotencyRecords) -> None:
    mine = began(records.begin(EFFECT, "one", 60))
    held = records.begin(EFFECT, "two", 60)
    assert isinstance(held, Held)
    assert held.fingerprint == EFFECT.fingerprint
    assert 0 < held.seconds <= 60
    assert records.complete(EFFECT, mine.lease, {"receipt": [1, None, "é"]})
    assert records.begin(EFFECT, "two", 60) == Completed(EFFECT.fingerprint, {"receipt": [1, None, "é"]})


def test_completing_again_after_a_lost_reply_is_the_same(records: RedisIdempotencyRecords) -> None:
    mine = began(records.begin(EFFECT, "one", 60))
    assert records.complete(EFFECT, mine.lease, 1)
    assert records.complete(EFFECT, mine.lease, 1)


def test_an_owner_whose_lease_ran_out_completes_unless_somebody_else_began(records: RedisIdempotencyRecords) -> None:
    late = began(records.begin(EFFECT, "one", 0.05))
    heir = eventually(lambda: isinstance(found := records.begin(EFFECT, "two", 60), Began) and found, 10)
    assert heir.lease.fence > late.lease.fence
    assert not records.complete(EFFECT, late.lease, "late")
    assert records.complete(EFFECT, heir.lease, "heir")
    assert not records.complete(EFFECT, late.lease, "late")
    assert records.begin(EFFECT, "three", 60) == Completed(EFFECT.fingerprint, "heir")

    alone = Effect("t.pay", "order-2", "f" * 64, "id-2", 3600.0)
    slow = began(records.begin(alone, "one", 0.05))
    eventually(lambda: records._leases.holder(slow.lease.key) is None, 10)
    assert records.complete(alone, slow.lease, "slow")


def test_giving_up_frees_and_a_record_that_is_no_json_is_not_written(records: RedisIdempotencyRecords) -> None:
    mine = began(records.begin(EFFECT, "one", 60))
    with pytest.raises(EncodeError):
        records.complete(EFFECT, mine.lease, object())
    records.give_up(EFFECT, "two")
    assert isinstance(records.begin(EFFECT, "two", 60), Held), "only its owner gives it up"
    records.give_up(EFFECT, "one")
    assert isinstance(records.begin(EFFECT, "two", 60), Began)


def test_begin_is_one_round_trip(records: RedisIdempotencyRecords, broker: Broker) -> None:
    """Counted by the server itself."""
    began(records.begin(EFFECT, "warm", 60))
    before = broker.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    other = Effect("t.pay", "order-9", "f" * 64, "id", 60.0)
    mine = began(records.begin(other, "one", 60))
    assert records.complete(other, mine.lease, 1)
    stats = broker.client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] - before == 2, "one before the run, one after"


# --- in the database ---------------------------------------------------------------------


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_two_owners_at_once_take_effect_once() -> None:
    """Both leases lost at the same moment: the unique key of the record still lets one body through."""
    inside, ran, answers = threading.Event(), [], []

    def body() -> str:
        ran.append(threading.get_ident())
        AuditEntry.objects.create(actor="x", action="charge", target="o")
        inside.set()
        return f"receipt-{len(ran)}"

    def work(fence: int) -> None:
        try:
            answers.append(DatabaseRecords().run(EFFECT, fence, body))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(fence,)) for fence in (1, 2, 3)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    for thread in threads:
        thread.join(60)
    assert len(ran) == 1
    assert ledger("o") == ["charge"]
    assert sorted(did for did, _ in answers) == [False, False, True]
    assert {found.value for _, found in answers} == {"receipt-1"}


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_a_result_that_is_no_json_undoes_the_effect(orchestrator_stores: str) -> None:
    def write() -> object:
        AuditEntry.objects.create(actor="x", action="charge", target="o")
        return object()

    with pytest.raises(EncodeError):
        DatabaseRecords().run(EFFECT, 1, write)
    assert ledger("o") == []
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.django_db
def test_records_past_their_time_are_pruned_and_no_others() -> None:
    now = timezone.now()
    for number, age in enumerate((-60, 60, 3600)):
        IdempotencyRecord.objects.create(
            task="t", key=str(number), fingerprint="f", task_id="i", fence=1, expires_at=now + timedelta(seconds=age)
        )
    assert prune() == 1
    assert list(IdempotencyRecord.objects.order_by("key").values_list("key", flat=True)) == ["1", "2"]


# --- events --------------------------------------------------------------------------------


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    from orchestrator.contracts import events

    heard: list[Any] = []
    kept = {kind: list(events._subscribers.get(kind, [])) for kind in (RunReplayed, LeaseLost)}
    for kind in kept:
        subscribe(kind, heard.append)
    yield heard
    events._subscribers.update(kept)


def test_a_replay_and_a_lost_lease_are_told(orchestrator_stores: str, seen: list[Any]) -> None:
    far_side.clear()
    perform(pay, "a")
    perform(pay, "a")
    assert [type(event) for event in seen] == [RunReplayed]
    assert seen[0].key == "payment-a"
    settings = conf.settings()
    leases = RedisLeases(conf.state_url(), settings.key_prefix, 2.0)
    key = "idempotency:tests.steal:x"

    def steal(order: str) -> str:
        assert leases.free(key)
        assert leases.acquire(key, "thief", 60)
        return "mine"

    from orchestrator import Idempotent

    stolen = get_app().task(name="tests.steal", idempotency=Idempotent(key="{order}"))(steal)
    outcome = perform(stolen, "x")
    assert (outcome.verdict, outcome.value) == (Verdict.SUCCEEDED, "mine")
    assert isinstance(seen[-1], LeaseLost)
    assert leases.release(key, "thief"), "the new owner's lease was not touched"


# --- people ----------------------------------------------------------------------------------


def person(name: str, *rights: str) -> User:
    made = User.objects.create_user(name, is_staff=True)
    made.user_permissions.set(Permission.objects.filter(codename__in=rights))
    return made


@pytest.fixture
def booked(transactional_db: None, orchestrator_stores: str) -> Callable[[], Any]:
    far_side.clear()
    assert perform(book, "o").verdict is Verdict.SUCCEEDED
    return lambda: perform(book, "o").verdict


LIST = "admin:orchestrator_idempotency_idempotencyrecord_changelist"


def test_an_operator_frees_a_key_in_the_admin_and_it_is_audited(booked: Callable[[], Any], client: Client) -> None:
    client.force_login(person("olga", "view_idempotencyrecord", "free_key"))
    url = reverse(LIST)
    page = client.get(url).content.decode()
    assert "tests.support.charges.book" in page
    record = IdempotencyRecord.objects.get()
    client.post(url, {"action": "free_keys", "_selected_action": [str(record.pk)]})
    entry = AuditEntry.objects.get(action="idempotency.free")
    assert (entry.actor, entry.target) == ("olga", "tests.support.charges.book:o")
    assert booked() is Verdict.SUCCEEDED
    assert ledger("o") == ["charge", "receipt"] * 2


def test_a_viewer_sees_records_without_results_and_frees_nothing(booked: Callable[[], Any], client: Client) -> None:
    client.force_login(person("vic", "view_idempotencyrecord"))
    record = IdempotencyRecord.objects.get()
    detail = client.get(reverse("admin:orchestrator_idempotency_idempotencyrecord_change", args=[record.pk]))
    assert detail.status_code == 200
    assert "booked o" not in detail.content.decode()
    url = reverse(LIST)
    assert "free_keys" not in client.get(url).content.decode()
    client.post(url, {"action": "free_keys", "_selected_action": [str(record.pk)]})
    assert IdempotencyRecord.objects.exists()
    assert booked() is Verdict.REPLAYED


@pytest.mark.django_db
def test_freeing_reaches_what_is_only_in_redis(orchestrator_stores: str) -> None:
    far_side.clear()
    assert not free(pay.name, "payment-a")
    perform(pay, "a")
    assert free(pay.name, "payment-a", actor="test")
    assert perform(pay, "a").value["receipt"] == "a-2"
    assert AuditEntry.objects.filter(action="idempotency.free").count() == 1
