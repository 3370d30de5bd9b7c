"""Flower as people see it: a real browser, a real Flower, real workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from orchestrator.audit.models import AuditEntry
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.flower.access import Right
from tests.conftest import Platform
from tests.support import far_side
from tests.support.letters import dead_letter
from tests.support.people import PASSWORD, person
from tests.support.wait import eventually
from tests.support.worker import Flower
from tests.support.zoo import end

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

NewPage = Callable[..., Any]
READING = (Right.VIEW, Right.LETTERS)


def log_in(page: Any, flower: Flower, name: str, path: str = "/") -> None:
    """Ask for a page, be sent to the login, fill it in and be back."""
    page.goto(flower.url + path)
    page.wait_for_url(f"{flower.url}/login?next=*")
    page.fill("#username", name)
    page.fill("#password", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_url(flower.url + path)


def overflow(page: Any) -> int:
    """Pixels by which a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_a_failed_task_is_retried_from_flowers_own_page(page: Any, platform: Platform) -> None:
    """The main job, in Flower: a real task fails, one button runs it again with the very same arguments."""
    flower = platform.flower()
    eventually(lambda: "Connected to" in flower.log)
    platform.worker(pool="solo")
    platform.relay()
    person("ada", *READING, Right.REDRIVE)
    key = "order-" + "7" * 1500
    task_id = end.delay("fail", key).id
    letter = eventually(lambda: DeadLetter.objects.filter(task_id=task_id).first(), 60)

    log_in(page, flower, "ada", f"/task/{task_id}")
    assert page.locator(".badge").inner_text() == "FAILURE"
    page.click("text=Retry with the same arguments")
    page.wait_for_url(f"{flower.url}/task/{task_id}")
    letter.refresh_from_db()
    assert letter.redriven_as in page.locator("#redriven-as").inner_text()
    assert page.locator("#retry-same-arguments").count() == 0
    eventually(lambda: len(far_side.effects(key)) == 2, 60)

    eventually(lambda: DeadLetter.objects.filter(task_id=letter.redriven_as).exists(), 60)
    page.click("#redriven-as a")
    assert page.locator(".task-uuid-value code").inner_text() == letter.redriven_as
    assert task_id in page.locator("#redrive-of").inner_text()
    assert page.locator("#retry-same-arguments").count() == 1


def test_a_group_is_found_confirmed_and_redriven(page: Any, platform: Platform) -> None:
    flower = platform.flower()
    person("ada", *READING, Right.REDRIVE)
    for n in range(3):
        dead_letter("succeed", f"customer-{n}", fingerprint="a" * 32, error_message="gateway refused")
    other = dead_letter("succeed", "somebody else", fingerprint="b" * 32)

    log_in(page, flower, "ada")
    page.click("nav >> text=Dead letters")
    page.fill("input[name=q]", "gateway")
    page.click("text=Search")
    assert page.locator("[data-letter]").count() == 3
    page.click("text=Redrive all 3…")
    assert page.locator("#group-count").inner_text() == "3 open dead letters"
    assert not DeadLetter.objects.exclude(state=State.OPEN).exists()
    page.click("#redrive-all")
    assert page.locator("#report").inner_text().strip() == "3 redriven."
    assert set(DeadLetter.objects.filter(state=State.OPEN)) == {other}


def test_a_letter_is_discarded_with_a_reason(page: Any, platform: Platform) -> None:
    flower = platform.flower()
    person("ada", *READING, Right.DISCARD)
    letter = dead_letter("fail")
    log_in(page, flower, "ada", f"/dead-letters/{letter.pk}")
    page.click("#discard")
    # The browser itself asks for the reason first.
    assert page.evaluate("document.querySelector('#reason').validity.valueMissing")
    page.fill("#reason", "customer paid in cash")
    page.click("#discard")
    assert "Discarded by ada" in page.locator("#discarded").inner_text()
    assert DeadLetter.objects.get(pk=letter.pk).note == "customer paid in cash"


def test_who_may_only_look_sees_no_buttons_anywhere(page: Any, platform: Platform) -> None:
    flower = platform.flower()
    eventually(lambda: "Connected to" in flower.log)
    worker = platform.worker(pool="solo")
    person("ada", *READING)
    task_id = end.delay("fail", "look").id
    letter = dead_letter("fail", "look", task_id=task_id)
    log_in(page, flower, "ada", f"/dead-letters/{letter.pk}")
    shown = ["Log out ada"]
    assert page.locator("main form, main button").count() == 0
    eventually(lambda: page.goto(f"{flower.url}/task/{task_id}").status == 200)
    assert page.locator("main form, .detail-actions button").count() == 0
    eventually(lambda: page.goto(f"{flower.url}/worker/{worker.name}@test").status == 200)
    assert page.locator("#worker-shutdown, #worker-pool-grow, .worker-queue-cancel").count() == 0
    assert [text.strip() for text in page.locator("form[method=post] button").all_inner_texts()] == shown


def test_flowers_own_buttons_work_for_who_may_press_them(page: Any, platform: Platform) -> None:
    """Flower's scripts send the token, the guard lets them through and writes it down."""
    flower = platform.flower()
    eventually(lambda: "Connected to" in flower.log)
    worker = platform.worker(pool="solo")
    name = f"{worker.name}@test"
    person("ada", Right.VIEW, Right.CONTROL)
    log_in(page, flower, "ada")
    eventually(lambda: page.goto(f"{flower.url}/worker/{name}").status == 200)
    page.click("text=Actions")
    page.click("#worker-shutdown")
    page.wait_for_selector("text=Shutting down!")
    assert worker.wait(60) == 0
    entry = AuditEntry.objects.get(action="flower.worker_shut_down")
    assert (entry.actor, entry.target) == ("ada", name)


def test_the_tasks_table_fills(page: Any, platform: Platform) -> None:
    flower = platform.flower()
    eventually(lambda: "Connected to" in flower.log)
    platform.worker(pool="solo")
    person("ada", Right.VIEW)
    task_id = end.delay("succeed", "table").id
    log_in(page, flower, "ada")
    eventually(lambda: page.goto(f"{flower.url}/task/{task_id}").status == 200)
    page.goto(f"{flower.url}/tasks")
    page.wait_for_selector(f"#tasks-table a[href='/task/{task_id}']")


def test_a_login_in_the_admin_opens_flower_and_its_logout_closes_it(
    page: Any, live_server: Any, platform: Platform, enter: Callable[..., None]
) -> None:
    flower = platform.flower()
    # One host, two ports: cookies know no ports.
    assert live_server.url.startswith("http://localhost:")
    here = f"http://localhost:{flower.port}"
    enter(page, person("ada", *READING))
    page.goto(f"{here}/dead-letters")
    assert page.locator("h1").inner_text() == "Messages that will not run again by themselves"
    page.goto(f"{live_server.url}/admin/")
    page.click("#logout-form button")
    page.goto(f"{here}/dead-letters")
    assert page.url.startswith(f"{here}/login")


def test_a_wrong_password_and_a_stranger_are_told(page: Any, platform: Platform) -> None:
    flower = platform.flower()
    person("ada", *READING)
    person("guest")
    page.goto(f"{flower.url}/login")
    for name, password, said in (
        ("ada", "wrong", "Name and password do not match"),
        ("guest", PASSWORD, "guest may not use Flower"),
    ):
        page.fill("#username", name)
        page.fill("#password", password)
        page.click("button[type=submit]")
        assert said in page.locator("#login-problem").inner_text()


def test_no_page_is_wider_than_a_phone(new_page: NewPage, platform: Platform) -> None:
    flower = platform.flower()
    person("ada", *READING, Right.REDRIVE, Right.DISCARD)
    long = "an.awfully.long.path.to.a.task.that.somebody.named.without.thinking.of.phones"
    letter = dead_letter(
        "fail", task=long, error_type=long + "Error", error_message="x" * 400, fingerprint="a" * 32, task_id="y" * 120
    )
    page = new_page(width=390)
    page.goto(flower.url)
    assert overflow(page) == 0
    log_in(page, flower, "ada")
    for path in (
        "/dead-letters",
        f"/dead-letters/{letter.pk}",
        f"/dead-letters/group/{'a' * 32}",
        "/dead-letters/nope",
    ):
        page.goto(flower.url + path)
        assert overflow(page) == 0, path
    # The refusal of a redrive, with all that it has to say.
    page.goto(f"{flower.url}/dead-letters/{letter.pk}")
    page.click("#redrive")
    assert long in page.locator("#problem").inner_text()
    assert overflow(page) == 0


def test_the_page_that_refuses_runs_no_script_into_an_error(page: Any, platform: Platform) -> None:
    """Who has a session of the site but may not see Flower meets this at the address of the list of workers."""
    flower = platform.flower()
    client = Client()
    client.force_login(person("nobody"))
    page.context.add_cookies([{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": flower.url}])
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    answer = page.goto(flower.url)
    page.wait_for_load_state("networkidle")
    assert answer.status == 403
    assert Right.VIEW in page.inner_text("#message")
    assert errors == []
