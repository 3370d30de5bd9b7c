"""Locks and breakers in a real browser: found, freed, held open, and read on a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.audit.models import AuditEntry
from orchestrator.contracts.breaker import Breaker, End, State
from orchestrator.stores.redis.breakers import RedisBreakers
from orchestrator.stores.redis.leases import RedisLeases
from tests.support.broker import Broker
from tests.support.calls import finish, start
from tests.support.inbox import person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

Enter = Callable[..., None]


def told(page: Any) -> str:
    return str(page.locator(".messagelist").inner_text())


def test_a_lock_is_found_and_freed(page: Any, live_server: Any, enter: Enter, broker: Broker) -> None:
    """After that the next call is published."""
    stuck = finish.delay("customer-7")
    start.delay("other")
    assert finish.delay("customer-7").duplicate_of == stuck.id
    enter(page, person("admin"))
    page.click("text=Deduplication locks")
    page.fill("#searchbar", "customer-7")
    page.press("#searchbar", "Enter")
    (row,) = page.locator("#result_list tbody tr").all()
    assert stuck.id in row.inner_text() and "waiting" in row.inner_text()
    row.locator("input[type=checkbox]").check()
    page.click("#free")
    assert "Freed 1 lock." in told(page)
    assert "No lock matches" in page.locator("#content").inner_text()
    assert finish.delay("customer-7").duplicate_of is None
    assert AuditEntry.objects.get().target == f"until_finished:{finish.name}:customer-7"


def test_a_breaker_is_held_open_and_reset(page: Any, live_server: Any, enter: Enter, broker: Broker) -> None:
    breakers, breaker = RedisBreakers(RedisLeases(broker.url, "orchestrator:", 2)), Breaker("stripe")
    breakers.enter(breaker, "one", 5)
    breakers.record(breaker, "one", End.FAILED)
    enter(page, person("admin"))
    page.click("text=Circuit breakers")
    for button, state in (("#open", State.OPEN), ("#reset", State.CLOSED)):
        page.locator("#result_list tbody input[type=checkbox]").check()
        page.click(button)
        assert "stripe" in told(page)
        assert breakers.show("stripe").state is state
        assert str(state) in page.locator("#result_list tbody").inner_text()


@pytest.mark.parametrize("path", ["deduplicationlock", "circuitbreaker"])
def test_on_a_phone_the_page_does_not_scroll_sideways(
    new_page: Any, live_server: Any, enter: Enter, broker: Broker, path: str
) -> None:
    for number in range(3):
        start.delay(f"a-rather-long-key-{number}" * 5)
    RedisBreakers(RedisLeases(broker.url, "orchestrator:", 2)).enter(Breaker("a far side " * 8), "one", 5)
    page = new_page(width=360)
    enter(page, person("admin"))
    page.goto(f"{live_server.url}/admin/orchestrator_guards/{path}/")
    assert page.locator("#result_list tbody tr").count()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
