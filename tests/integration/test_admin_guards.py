"""Locks and breakers in the admin: seen by those who may, changed by those who may, audited."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client, override_settings

from orchestrator import conf
from orchestrator.audit.models import AuditEntry
from orchestrator.contracts.breaker import Breaker, End
from orchestrator.contracts.deduplication import Claim, Mode
from orchestrator.guards import services
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.breakers import RedisBreakers
from orchestrator.stores.redis.deduplication import RedisDeduplicationLocks
from orchestrator.stores.redis.leases import RedisLeases
from tests.support.broker import Broker
from tests.support.inbox import person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]

LOCKS = "/admin/orchestrator_guards/deduplicationlock/"
BREAKERS = "/admin/orchestrator_guards/circuitbreaker/"
SEE_LOCKS, FREE = "orchestrator_guards.view_deduplicationlock", "orchestrator_guards.free_lock"
SEE_BREAKERS, CONTROL = "orchestrator_guards.view_circuitbreaker", "orchestrator_guards.control_breaker"


def visitor(*permissions: str) -> Client:
    client = Client()
    client.force_login(person("looking", more=permissions))
    return client


@pytest.fixture
def locks(broker: Broker) -> RedisDeduplicationLocks:
    return RedisDeduplicationLocks(RedisLeases(broker.url, "orchestrator:", 2), 30)


@pytest.fixture
def breakers(broker: Broker) -> RedisBreakers:
    return RedisBreakers(RedisLeases(broker.url, "orchestrator:", 2))


def hold(locks: RedisDeduplicationLocks, key: str, task_id: str, mode: Mode = Mode.UNTIL_FINISHED) -> Claim:
    claim = Claim("shop.report", key, mode, 5.0)
    locks.take(claim, task_id, "", None)
    locks.confirm(claim, task_id, 600)
    return claim


def messages(page: Any) -> list[str]:
    return [str(message) for message in page.context["messages"]]


@pytest.mark.parametrize(
    ("permissions", "locks_seen", "breakers_seen"),
    [((), 403, 403), ((SEE_LOCKS,), 200, 403), ((SEE_BREAKERS,), 403, 200), ((FREE, CONTROL), 403, 403)],
)
def test_pages_are_for_those_who_may_see_them(
    broker: Broker, permissions: tuple[str, ...], locks_seen: int, breakers_seen: int
) -> None:
    client = visitor(*permissions)
    assert (client.get(LOCKS).status_code, client.get(BREAKERS).status_code) == (locks_seen, breakers_seen)


def test_locks_are_shown_searched_and_paged(locks: RedisDeduplicationLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    client = visitor(SEE_LOCKS)
    assert "No locks" in client.get(LOCKS).content.decode()
    hold(locks, "<b>7</b>", "one")
    hold(locks, "8", "two")
    locks.take(Claim("shop.report", "8", Mode.UNTIL_FINISHED), "other", "", None)
    page = client.get(LOCKS).content.decode()
    assert "&lt;b&gt;7&lt;/b&gt;" in page and "<b>7</b>" not in page
    assert 'name="verb"' not in page, "only who may free is offered to"
    assert [lock["key"] for lock in client.get(LOCKS, {"q": "two"}).context["locks"]] == ["8"]
    (found,) = client.get(LOCKS, {"q": "report:8"}).context["locks"]
    assert (found["duplicates"], found["state"], found["ends"]) == (1, "waiting", "10 min")
    assert "No lock matches" in client.get(LOCKS, {"q": "nothing"}).content.decode()
    monkeypatch.setattr("orchestrator.guards.admin.PAGE", 1)
    first, second = client.get(LOCKS), client.get(LOCKS, {"p": "1"})
    assert len(first.context["locks"]) == len(second.context["locks"]) == 1
    assert first.context["locks"] != second.context["locks"]
    assert first.context["after"] and not second.context["after"]
    assert client.get(LOCKS, {"p": "-1"}).status_code == client.get(LOCKS, {"p": "9" * 30}).status_code == 200


def test_locks_are_freed_by_those_who_may_and_audited(locks: RedisDeduplicationLocks) -> None:
    claims = [hold(locks, str(number), f"id-{number}") for number in range(3)]
    chosen = {"verb": "free", "name": [claims[0].name, claims[1].name, "latest:gone:x"]}
    assert visitor(SEE_LOCKS).post(LOCKS, chosen).status_code == 403
    assert locks.count() == 3
    client = Client()
    client.force_login(person("freeing", more=(SEE_LOCKS, FREE)))
    page = client.post(LOCKS, chosen, follow=True)
    assert messages(page) == [
        "Freed 2 locks. The next call under each key is published; what is under way goes on. 1 had ended meanwhile."
    ]
    assert [lock["key"] for lock in page.context["locks"]] == ["2"]
    entries = AuditEntry.objects.filter(action="deduplication.free").values_list("actor", "target")
    assert sorted(entries) == sorted(("freeing", claim.name) for claim in claims[:2])
    assert "Nothing was chosen" in messages(client.post(LOCKS, {"verb": "free"}, follow=True))[0]
    assert "Nothing was chosen" in messages(client.post(LOCKS, {"verb": "drop", "name": "x"}, follow=True))[0]


def test_verbs_need_a_token(locks: RedisDeduplicationLocks) -> None:
    claim = hold(locks, "a", "one")
    client = Client(enforce_csrf_checks=True)
    client.force_login(person("admin"))
    assert client.post(LOCKS, {"verb": "free", "name": claim.name}).status_code == 403
    assert locks.owner(claim) == "one"


def test_breakers_are_shown_and_decided_about(breakers: RedisBreakers) -> None:
    client = visitor(SEE_BREAKERS)
    assert "No breakers" in client.get(BREAKERS).content.decode()
    breaker = Breaker("stripe", minimum=2)
    for number in range(2):
        breakers.enter(breaker, f"a{number}", 5)
        breakers.record(breaker, f"a{number}", End.FAILED)
    page = client.get(BREAKERS)
    (shown,) = page.context["breakers"]
    assert (shown["state"], shown["rule"], shown["cooldown"]) == ("open", "50 % of at least 2 in 60 s", "30 s")
    assert "probes in" in page.content.decode()
    assert client.post(BREAKERS, {"verb": "reset", "name": "stripe"}).status_code == 403
    may = Client()
    may.force_login(person("deciding", more=(SEE_BREAKERS, CONTROL)))
    for verb, state, held in (("close", "closed", True), ("open", "open", True), ("reset", "closed", False)):
        page = may.post(BREAKERS, {"verb": verb, "name": "stripe"}, follow=True)
        assert "stripe" in messages(page)[0]
        (shown,) = page.context["breakers"]
        assert (shown["state"], shown["forced"]) == (state, held)
    may.post(BREAKERS, {"verb": "open", "name": "unknown"})
    actions = list(AuditEntry.objects.order_by("id").values_list("actor", "action", "target"))
    assert actions == [("deciding", f"breaker.{done}", "stripe") for done in ("force_closed", "force_open", "reset")]


def test_from_a_shell_it_is_audited_too(locks: RedisDeduplicationLocks) -> None:
    claim = hold(locks, "a", "one")
    assert services.free_lock(claim.name)
    assert not services.free_lock(claim.name)
    assert AuditEntry.objects.get().actor == "command line"


def test_a_page_without_redis_says_so(broker: Broker) -> None:
    client = Client()
    client.force_login(person("admin"))
    away = {"STATE_URL": f"redis://127.0.0.1:{free_port()}/0"}
    with override_settings(ORCHESTRATOR=away):
        assert conf.settings().state_url
        for path, verb in ((LOCKS, "free"), (BREAKERS, "reset")):
            assert "ORCHESTRATOR_STATE_URL" in client.get(path).content.decode()
            page = client.post(path, {"verb": verb, "name": "x"}, follow=True)
            assert "stopped" in messages(page)[0]
    assert not AuditEntry.objects.exists()
