"""The inbox in the Django admin, driven by a real browser against a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis

from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.contracts.outcome import Reason
from orchestrator.deadletters.models import DeadLetter, State
from tests.conftest import Platform
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.inbox import TASK, filed, person
from tests.support.wait import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]

Enter = Callable[..., None]
LIST = "/admin/orchestrator_deadletters/deadletter/"


def waiting(broker: Broker) -> int:
    with redis.Redis.from_url(broker.url) as store:
        return store.llen("celery")


def state_of(letter: DeadLetter) -> str:
    return DeadLetter.objects.get(pk=letter.pk).state


def rows(page: Any) -> list[str]:
    return [row.inner_text() for row in page.locator("#result_list tbody tr").all()]


def told(page: Any) -> str:
    return str(page.locator(".messagelist").inner_text())


def test_a_failed_task_is_found_redriven_and_done(
    page: Any, live_server: Any, enter: Enter, platform: Platform
) -> None:
    """The main job: a real task fails on a real worker, a person finds it and redrives it to success."""
    person("admin")
    far_side.record("fails-once-key")
    platform.worker(pool="solo")
    platform.relay()
    get_app().send_task(TASK, args=["fail"], kwargs={"key": "browser", "text": "the gateway said no"})
    letter = eventually(lambda: DeadLetter.objects.first(), 60, "the failure becomes a letter")

    enter(page, letter_user())
    page.click("#open-letters a")
    page.fill("#searchbar", "GATEWAY said")
    page.press("#searchbar", "Enter")
    page.click("#result_list tbody tr a")
    assert "the gateway said no" in page.inner_text("#error-message")
    page.click("#edit")
    page.fill("#id_args", '["succeed"]')
    page.fill("#id_kwargs", '{"key": "browser-again"}')
    page.click("#redrive-edited")
    new_id = DeadLetter.objects.get(pk=letter.pk).redriven_as
    assert new_id in told(page)
    eventually(lambda: far_side.counts()["browser-again"] == 1, 60, "the redriven task runs")
    eventually(lambda: get_app().AsyncResult(new_id).state == "SUCCESS", 60, "and succeeds")
    page.reload()
    page.click(f"text=Result of {new_id}")
    assert "SUCCESS" in page.inner_text("#content")


def letter_user() -> Any:
    from django.contrib.auth import get_user_model

    return get_user_model().objects.get(username="admin")


def test_redrive_button_and_its_audit_entry(page: Any, live_server: Any, enter: Enter, broker: Broker) -> None:
    letter = filed(["succeed"])
    enter(page, person("admin"))
    page.goto(f"{live_server.url}{LIST}{letter.pk}/change/")
    indented = page.inner_text("#traceback")
    assert "\n    receipt = gateway.charge(\n        order.amount," in indented
    assert json.loads(page.inner_text("#payload"))["body"][0] == ["succeed"]
    page.click("#redrive")
    new_id = DeadLetter.objects.get(pk=letter.pk).redriven_as
    assert new_id in told(page)
    assert waiting(broker) == 1
    assert page.locator("#redrive").count() == 0

    page.goto(f"{live_server.url}/admin/orchestrator_audit/auditentry/?action=deadletter.redrive")
    [row] = rows(page)
    assert "admin" in row
    assert str(letter.pk) in row


def test_a_double_click_redrives_once_and_says_so(page: Any, live_server: Any, enter: Enter, broker: Broker) -> None:
    letter = filed()
    enter(page, person("admin"))
    address = f"{live_server.url}{LIST}{letter.pk}/change/"
    page.goto(address)
    second = page.context.new_page()
    second.goto(address)
    page.dblclick("#redrive")
    page.wait_for_selector(".messagelist")
    second.click("#redrive")
    assert "already redriven by admin" in told(second)
    assert DeadLetter.objects.get(pk=letter.pk).redriven_as in told(second)
    assert waiting(broker) == 1


def test_search_and_filters(page: Any, live_server: Any, enter: Enter) -> None:
    filed(queue="email", error_message="refused by mail.example.com")
    filed(["fail"], {"value": "invoice-77"}, queue="payments", age=7200, reason=Reason.TIME_LIMIT)
    enter(page, person("viewer"))
    page.goto(live_server.url + LIST)
    assert len(rows(page)) == 2
    page.fill("#searchbar", "mail.example")
    page.press("#searchbar", "Enter")
    page.wait_for_url(re.compile(r"q=mail\.example"))
    assert "mail.example.com" in rows(page)[0]
    assert len(rows(page)) == 1
    page.fill("#searchbar", "INVOICE-77")
    page.press("#searchbar", "Enter")
    page.wait_for_url(re.compile(r"q=INVOICE-77"))
    assert "payments" in rows(page)[0]
    page.goto(live_server.url + LIST)
    for choice, left in (("Past hour", 1), ("Any time", 2), ("time limit", 1)):
        page.locator("#changelist-filter").get_by_text(choice, exact=True).click()
        page.wait_for_function(f"document.querySelectorAll('#result_list tbody tr').length === {left}")
    page.goto(live_server.url + LIST)
    page.fill("#died-since", "2020-01-01T00:00")
    page.fill("#died-until", "2021-01-01T00:00")
    page.click("#changelist-filter input[type=submit]")
    page.wait_for_url(re.compile(r"since="))
    assert rows(page) == []
    assert page.locator("#redrive-matching").count() == 0


def test_whole_group_from_the_failures_page(page: Any, live_server: Any, enter: Enter, broker: Broker) -> None:
    group = [filed(error_message=f"order {number} refused") for number in range(3)]
    other = filed(error_type="ValueError")
    enter(page, person("admin"))
    page.goto(live_server.url + LIST)
    page.click("text=Failures, grouped")
    first = page.locator("#groups tbody tr").first
    assert first.locator("td").first.inner_text() == "3"
    first.get_by_text("Redrive…").click()
    assert page.inner_text("#count") == "3"
    assert "failure group" in page.inner_text("#words")
    assert waiting(broker) == 0
    page.click("#confirm")
    assert page.inner_text("#done") == "3"
    assert page.inner_text("#left") == "0"
    assert {state_of(letter) for letter in group} == {State.REDRIVEN}
    assert state_of(other) == State.OPEN
    assert waiting(broker) == 3
    entry = AuditEntry.objects.get(action="deadletter.redrive_where")
    assert (entry.actor, entry.details["count"]) == ("admin", 3)


@pytest.mark.parametrize(
    ("field", "typed", "message"),
    [
        ("#id_kwargs", '{"value": 3,\n "more" 4}', "Broken JSON at line 2, column 9"),
        ("#id_args", '{"not": "a list"}', "This is an object: give a list"),
        ("#id_args", "[]", "do not fit"),
    ],
)
def test_bad_edits_keep_what_was_typed(
    page: Any, live_server: Any, enter: Enter, broker: Broker, field: str, typed: str, message: str
) -> None:
    letter = filed(["succeed"], {"value": 3})
    enter(page, person("admin"))
    page.goto(f"{live_server.url}{LIST}{letter.pk}/edit/")
    assert json.loads(page.input_value("#id_kwargs")) == {"value": 3}
    page.fill(field, typed)
    page.click("#redrive-edited")
    page.wait_for_selector(".errorlist")
    assert message in page.inner_text(".errorlist")
    assert "Nothing was changed." in page.inner_text(".errorlist")
    assert page.input_value(field) == typed
    assert state_of(letter) == State.OPEN
    assert waiting(broker) == 0


def test_discard_with_a_reason(page: Any, live_server: Any, enter: Enter) -> None:
    letter = filed()
    enter(page, person("discarder"))
    page.goto(f"{live_server.url}{LIST}{letter.pk}/change/")
    page.click("#discard")
    page.wait_for_selector(".errorlist")
    assert "Give a reason" in page.inner_text(".errorlist")
    assert state_of(letter) == State.OPEN
    page.fill("#id_reason", "refunded by hand")
    page.click("#discard")
    page.wait_for_selector(".messagelist")
    assert state_of(letter) == State.DISCARDED
    assert "refunded by hand" in page.inner_text(".orchestrator-timeline")


def test_selected_letters_after_a_confirm_page(page: Any, live_server: Any, enter: Enter, broker: Broker) -> None:
    letters = [filed(age=number + 1) for number in range(3)]
    enter(page, person("admin"))
    page.goto(live_server.url + LIST)
    boxes = page.locator("#result_list tbody input[type=checkbox]")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.select_option("select[name=action]", "discard_selected")
    page.click(".actions button")
    assert page.inner_text("#count") == "2"
    assert "2 dead letters that you selected" in page.inner_text("#words")
    assert page.locator(".orchestrator-scroll tbody tr").count() == 2
    page.fill("#id_reason", "the host is gone")
    page.click("#confirm")
    assert page.inner_text("#done") == "2"
    assert [state_of(letter) for letter in letters] == [State.DISCARDED, State.DISCARDED, State.OPEN]
    assert waiting(broker) == 0


def test_all_that_match_the_list(page: Any, live_server: Any, enter: Enter, broker: Broker) -> None:
    for _ in range(60):
        filed(queue="email")
    other = filed(queue="payments")
    enter(page, person("admin"))
    page.goto(f"{live_server.url}{LIST}?queue=email")
    page.check("#action-toggle")
    page.click("text=Select all that match this filter")
    page.select_option("select[name=action]", "redrive_selected")
    page.click(".actions button")
    assert page.inner_text("#count") == "60"
    assert "on queue 'email'" in page.inner_text("#words")
    page.click("text=No, take me back")
    page.goto(f"{live_server.url}{LIST}?queue=email")
    page.click("#redrive-matching")
    assert page.inner_text("#count") == "60"
    page.click("#confirm")
    assert page.inner_text("#done") == "60"
    assert state_of(other) == State.OPEN
    assert not DeadLetter.objects.filter(queue="email", state=State.OPEN).exists()


def test_people_see_only_what_they_may(
    new_page: Callable[..., Any], live_server: Any, enter: Enter, broker: Broker
) -> None:
    letter = filed(["succeed"], {"value": "only-in-the-message"}, kwargs_repr="{'value': '***'}")
    address = f"{live_server.url}{LIST}{letter.pk}"
    buttons = {"viewer": set(), "redriver": {"redrive"}, "operator": {"redrive", "discard"}, "editor": {"edit"}}
    for role, expected in buttons.items():
        page = new_page()
        enter(page, person(role))
        page.goto(f"{address}/change/")
        shown = {name for name in ("redrive", "edit", "discard") if page.locator(f"#{name}").count()}
        assert shown == expected, role
        assert ("only-in-the-message" in page.content()) is (role == "editor"), role
        assert (page.locator("#payload").count() == 1) is (role == "editor"), role
        for act in {"redrive", "edit", "discard"} - expected:
            # What a forged form would send, with the visitor's own cookies and token.
            token = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "csrftoken")
            answer = page.request.post(
                f"{address}/{act}/",
                form={"csrfmiddlewaretoken": token, "reason": "x", "args": "[]", "kwargs": "{}"},
            )
            assert answer.status == 403, (role, act)
    assert state_of(letter) == State.OPEN
    assert waiting(broker) == 0
    assert not AuditEntry.objects.exists()


def test_copy_button(new_page: Callable[..., Any], live_server: Any, enter: Enter) -> None:
    letter = filed()
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    enter(page, person("viewer"))
    page.goto(f"{live_server.url}{LIST}{letter.pk}/change/")
    page.click("button[data-copy='#traceback']")
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == letter.traceback


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_screen(
    new_page: Callable[..., Any], live_server: Any, enter: Enter, width: int
) -> None:
    long = "https://gateway.example.com/" + "a" * 300
    letter = filed(error_message=long, task="shop." + "b" * 120, queue="q" * 100, worker="w" * 200)
    page = new_page(width=width)
    enter(page, person("admin"))
    paths = ["", "groups/", "bulk/redrive/", "bulk/discard/", f"{letter.pk}/change/", f"{letter.pk}/edit/"]
    for path in paths:
        assert page.goto(live_server.url + LIST + path).status == 200
        extra = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert extra <= 0, f"{path} is {extra} px too wide at {width}"


def test_what_failed_and_when_is_readable_without_scrolling(
    new_page: Callable[..., Any], live_server: Any, enter: Enter
) -> None:
    filed(error_message="The price list 'incoming/february.csv' has not arrived.", task="tasks.files.import_price_list")
    page = new_page(width=1280)
    enter(page, person("admin"))
    page.goto(live_server.url + LIST)
    hidden = page.evaluate("(t => t.scrollWidth - t.clientWidth)(document.querySelector('.results'))")
    assert hidden <= 0, f"{hidden} px of the list are out of sight"
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("groups/", "bulk/redrive/"):
        page.goto(live_server.url + LIST + path)
        box = page.locator(".orchestrator-error").first.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 390, path
        narrowest = page.evaluate(
            "Math.min(...[...document.querySelectorAll('.orchestrator-scroll td')].map(cell => cell.clientWidth))"
        )
        assert narrowest >= 40, f"a column of {path} is {narrowest} px narrow"
