"""Limits in the admin: seen and changed by those who may, audited, and heard by the workers' store."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.contracts.errors import ConfigurationError, StoreUnavailable
from orchestrator.limits import services
from orchestrator.limits.models import LimitChange
from tests.support import limited  # noqa: F401  (declares limits)
from tests.support.broker import Broker
from tests.support.people import person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]

PAGE = "/admin/orchestrator_limits/limitchange/"
RIGHTS = [f"orchestrator_limits.{verb}_limitchange" for verb in ("view", "add", "change", "delete")]


def visitor(*rights: str) -> Client:
    client = Client()
    client.force_login(person("somebody", *rights))
    return client


def changes() -> dict[str, Any]:
    return dict(get_app().limits.changes())


def test_all_limits_are_shown_with_what_waits() -> None:
    text = visitor(*RIGHTS).get(PAGE).content.decode()
    assert '<th scope="row">brisk</th><td>20/s</td><td>20/s</td><td>0</td>' in text
    assert "tenant:{tenant}" in text


def test_a_limit_is_changed_and_restored() -> None:
    client = visitor(*RIGHTS)
    assert client.post(f"{PAGE}add/", {"name": "brisk", "value": " 30/s "}, follow=True).status_code == 200
    assert changes() == {"brisk": (30, 1_000_000, 1)}
    row = LimitChange.objects.get()
    assert (row.name, row.value) == ("brisk", "30/s")
    client.post(f"{PAGE}{row.pk}/change/", {"value": "0/s"})
    assert changes() == {"brisk": (0, 1_000_000, 1)}
    client.post(f"{PAGE}{row.pk}/delete/", {"post": "yes"})
    assert changes() == {}
    entries = AuditEntry.objects.filter(action__startswith="limit.").order_by("id")
    assert [(entry.action, entry.actor, entry.details.get("value")) for entry in entries] == [
        ("limit.change", "somebody", "30/s"),
        ("limit.change", "somebody", "0/s"),
        ("limit.restore", "somebody", None),
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("brisk", "100/fortnight", "is no rate"),
        ("brisk", "5", "is no rate"),
        ("room", "2/s", "is no number of slots"),
        ("unheard", "1/s", "Select a valid choice"),
    ],
)
def test_what_cannot_work_is_refused(name: str, value: str, message: str) -> None:
    answer = visitor(*RIGHTS).post(f"{PAGE}add/", {"name": name, "value": value})
    assert message in answer.content.decode()
    assert not LimitChange.objects.exists()
    assert changes() == {}


def test_without_the_permission_nothing_is_changed() -> None:
    client = visitor(RIGHTS[0])
    assert client.get(PAGE).status_code == 200
    assert client.post(f"{PAGE}add/", {"name": "brisk", "value": "30/s"}).status_code == 403
    assert changes() == {}


def test_names_are_suggested() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'brisk'"):
        services.change("brsk", "1/s")


def test_a_relay_tells_a_store_that_lost_its_data(broker: Broker) -> None:
    services.change("room", 3)
    broker.flush()
    get_app().limits.change("slow", 9, 1_000_000)
    assert services.repair() == 1
    assert changes() == {"room": (3, 0, 0)}
    assert services.repair() == 0


def test_what_could_not_be_told_is_not_written(broker: Broker) -> None:
    broker.stop()
    try:
        with pytest.raises(StoreUnavailable):
            services.change("room", 3)
        text = visitor(*RIGHTS).post(f"{PAGE}add/", {"name": "room", "value": "3"}).content.decode()
        assert "did not answer as needed" in text
        assert "did not answer as needed" in visitor_again().get(PAGE).content.decode()
    finally:
        broker.start()
    assert not LimitChange.objects.exists()
    assert not AuditEntry.objects.filter(action__startswith="limit.").exists()


def visitor_again() -> Client:
    client = Client()
    client.force_login(person("another", *RIGHTS))
    return client
