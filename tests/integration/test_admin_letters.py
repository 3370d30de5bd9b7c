"""The inbox in the admin, asked over Django's client: who may do what, and what bad input gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from django.test import Client
from django.urls import reverse

from orchestrator.audit.models import AuditEntry
from orchestrator.contracts.message import WireMessage
from orchestrator.contracts.outcome import Reason
from orchestrator.deadletters import bulk_pages, services
from orchestrator.deadletters.models import DeadLetter, State
from tests.support.bodies import body_of
from tests.support.broker import Broker
from tests.support.inbox import filed, person

# The verbs commit step by step, so a test inside one transaction would show another thing.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker"), pytest.mark.database]

LIST = "/admin/orchestrator_deadletters/deadletter/"


def url(letter: DeadLetter, page: str) -> str:
    return reverse(f"admin:orchestrator_deadletters_{page}", args=[letter.pk])


def detail(letter: DeadLetter) -> str:
    return url(letter, "deadletter_change")


def visitor(role: str) -> Client:
    client = Client()
    client.force_login(person(role))
    return client


def waiting(broker: Broker, queue: str = "celery") -> list[dict[str, Any]]:
    """Return the messages that lie in a queue, bodies parsed."""
    with redis.Redis.from_url(broker.url) as store:
        raw = [json.loads(item) for item in store.lrange(queue, 0, -1)]
    return [{**item, "body": json.loads(body_of(item))} for item in raw]


def reload(letter: DeadLetter) -> DeadLetter:
    return DeadLetter.objects.get(pk=letter.pk)


def said(response: Any) -> str:
    return " | ".join(str(message) for message in response.context["messages"])


# --- permissions -------------------------------------------------------------------

ACTS = {
    "redrive": {},
    "edit": {"args": '["succeed"]', "kwargs": "{}"},
    "discard": {"reason": "because"},
}
MAY = {
    "viewer": set(),
    "redriver": {"redrive"},
    "discarder": {"discard"},
    "editor": {"edit"},
    # May edit, but not see arguments, which the form would show.
    "operator": {"redrive", "discard"},
    # May act, but not look.
    "blind": set(),
    "nobody": set(),
    "admin": {"redrive", "edit", "discard"},
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("role", MAY)
def test_each_act_needs_its_own_permission(role: str, act: str, broker: Broker) -> None:
    letter = filed()
    response = visitor(role).post(url(letter, act), ACTS[act])
    if act in MAY[role]:
        assert response.status_code == 302
        assert reload(letter).state == (State.DISCARDED if act == "discard" else State.REDRIVEN)
    else:
        assert response.status_code == 403
        assert reload(letter).state == State.OPEN
        assert not waiting(broker)
        assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("verb", ["redrive", "discard"])
@pytest.mark.parametrize("role", MAY)
def test_bulk_acts_need_the_same_permissions(role: str, verb: str, broker: Broker) -> None:
    letter = filed()
    client = visitor(role)
    posted = {"filter": json.dumps({"ids": [str(letter.pk)]}), "expected": "1", "reason": "because"}
    shown = client.get(f"{LIST}bulk/{verb}/")
    done = client.post(f"{LIST}bulk/{verb}/", posted)
    allowed = verb in MAY[role]
    assert (shown.status_code, done.status_code) == ((200, 200) if allowed else (403, 403))
    assert (reload(letter).state == State.OPEN) is not allowed


@pytest.mark.parametrize("role", MAY)
def test_looking_needs_the_view_permission(role: str) -> None:
    letter = filed()
    client = visitor(role)
    expected = 403 if role in ("blind", "nobody") else 200
    for page in (LIST, f"{LIST}groups/", detail(letter)):
        assert client.get(page).status_code == expected, page


@pytest.mark.parametrize("role", [role for role in MAY if role not in ("blind", "nobody")])
def test_buttons_are_shown_only_to_those_who_may_press_them(role: str) -> None:
    letter = filed()
    client = visitor(role)
    page = client.get(detail(letter)).content.decode()
    assert {act for act in ACTS if f'id="{act}"' in page} == MAY[role]
    rows = client.get(LIST).content.decode()
    for verb in ("redrive", "discard"):
        assert (f'id="{verb}-matching"' in rows) is (verb in MAY[role])
        assert (f'value="{verb}_selected"' in rows) is (verb in MAY[role])


def test_only_the_payload_permission_shows_the_message() -> None:
    letter = filed(["succeed"], {"value": "only-in-the-message"}, kwargs_repr="{'value': '***'}")
    with_it, without = visitor("editor"), visitor("operator")
    assert "only-in-the-message" in with_it.get(detail(letter)).content.decode()
    page = without.get(detail(letter)).content.decode()
    assert "only-in-the-message" not in page
    assert "***" in page
    assert without.get(url(letter, "edit")).status_code == 403
    assert without.get(url(letter, "payload")).status_code == 403
    download = with_it.get(url(letter, "payload"))
    assert "attachment" in download["Content-Disposition"]
    assert json.loads(download.content)["body"][1] == {"value": "only-in-the-message"}


def test_half_a_surrogate_pair_in_a_message_can_be_shown_and_edited(broker: Broker) -> None:
    letter = filed(["succeed"], {"value": "half \ud800"})
    client = visitor("admin")
    assert r"half \ud800" in client.get(detail(letter)).content.decode()
    assert json.loads(client.get(url(letter, "payload")).content)["body"][1] == {"value": "half \ud800"}
    initial = client.get(url(letter, "edit")).context["form"].initial
    client.post(url(letter, "edit"), {**initial, "args": '["fail"]'})
    [message] = waiting(broker)
    assert message["body"][:2] == [["fail"], {"value": "half \ud800"}]


def test_a_large_message_is_cut_on_the_page_and_whole_in_the_download() -> None:
    letter = filed(["succeed"], {"value": "x" * 300_000 + "the-end"}, kwargs_repr="{...}")
    client = visitor("admin")
    page = client.get(detail(letter)).content.decode()
    assert "the-end" not in page
    assert "Only the first part" in page
    assert "the-end" in client.get(url(letter, "payload")).content.decode()


def test_nobody_adds_changes_or_deletes_rows_by_form() -> None:
    letter = filed()
    client = visitor("admin")
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}{letter.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(detail(letter), {"state": "discarded", "task": "other"})
    assert (reload(letter).state, reload(letter).task) == (State.OPEN, letter.task)
    assert "delete_selected" not in client.get(LIST).content.decode()


@pytest.mark.parametrize("act", ["redrive", "discard"])
def test_buttons_take_only_posts_with_a_token(act: str) -> None:
    letter = filed()
    user = person("admin")
    plain, strict = Client(), Client(enforce_csrf_checks=True)
    plain.force_login(user)
    strict.force_login(user)
    assert plain.get(url(letter, act)).status_code == 405
    assert strict.post(url(letter, act), ACTS[act]).status_code == 403
    assert strict.post(f"{LIST}bulk/{act}/", {"filter": "{}", "expected": "1"}).status_code == 403
    assert reload(letter).state == State.OPEN


def test_without_a_login_the_buttons_lead_to_the_login() -> None:
    letter = filed()
    response = Client().post(url(letter, "redrive"))
    assert response.status_code == 302
    assert "/login/" in response["Location"]
    assert reload(letter).state == State.OPEN


# --- one letter ------------------------------------------------------------------------


def test_redrive_publishes_the_message_under_a_new_id_and_leaves_an_entry(broker: Broker) -> None:
    letter = filed(["succeed"], {"value": 3})
    response = visitor("admin").post(url(letter, "redrive"), follow=True)
    row = reload(letter)
    [message] = waiting(broker)
    assert message["headers"]["id"] == row.redriven_as != letter.task_id
    assert message["body"][:2] == [["succeed"], {"value": 3}]
    assert row.redriven_as in said(response)
    entry = AuditEntry.objects.get(action="deadletter.redrive")
    assert (entry.actor, entry.target) == ("admin", str(letter.pk))


def test_a_second_click_is_told_what_happened_and_does_nothing(broker: Broker) -> None:
    letter = filed()
    client = visitor("admin")
    client.post(url(letter, "redrive"))
    again = client.post(url(letter, "redrive"), follow=True)
    assert "already redriven by admin" in said(again)
    assert reload(letter).redriven_as in said(again)
    late = client.post(url(letter, "discard"), {"reason": "too late"}, follow=True)
    assert "already redriven" in said(late)
    edited = client.post(url(letter, "edit"), ACTS["edit"], follow=True)
    assert "already redriven" in said(edited)
    assert len(waiting(broker)) == 1
    assert AuditEntry.objects.count() == 1


def test_edited_arguments_are_sent_and_the_difference_is_kept(broker: Broker) -> None:
    letter = filed(["succeed"], {"value": 3})
    client = visitor("admin")
    form = client.get(url(letter, "edit")).context["form"]
    assert json.loads(form.initial["kwargs"]) == {"value": 3}
    client.post(url(letter, "edit"), {"args": '["succeed"]', "kwargs": '{"value": 4}'})
    [message] = waiting(broker)
    assert message["body"][:2] == [["succeed"], {"value": 4}]
    assert "with edited arguments" in client.get(detail(letter)).content.decode()


def test_kombu_types_survive_the_edit_form(broker: Broker) -> None:
    day = {"__type__": "date", "__value__": "2026-01-31"}
    letter = filed(["succeed"], {"value": day})
    client = visitor("admin")
    initial = client.get(url(letter, "edit")).context["form"].initial
    assert json.loads(initial["kwargs"]) == {"value": day}
    client.post(url(letter, "edit"), initial)
    [message] = waiting(broker)
    assert message["body"][1] == {"value": day}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ('["succeed"', "{}", "Broken JSON at line 1, column 11"),
        ('["succeed"]', '{"a": 1,\n "b" 2}', "Broken JSON at line 2, column 6"),
        ("", "{}", "Empty: give a list"),
        ('{"a": 1}', "{}", "This is an object: give a list"),
        ('["succeed"]', "[]", "This is a list: give an object"),
        ('["succeed", NaN]', "{}", "NaN is not JSON"),
        ("[]", "{}", "do not fit"),
    ],
)
def test_bad_edits_get_their_own_message_and_change_nothing(
    args: str, kwargs: str, message: str, broker: Broker
) -> None:
    letter = filed()
    response = visitor("admin").post(url(letter, "edit"), {"args": args, "kwargs": kwargs})
    page = response.content.decode()
    assert response.status_code == 200
    assert message in page
    assert "Nothing was changed." in page
    # What was typed is still there.
    assert response.context["form"].data["args"] == args
    assert reload(letter).state == State.OPEN
    assert not waiting(broker)
    assert not AuditEntry.objects.exists()


def test_an_unknown_task_is_named_and_nothing_changes(broker: Broker) -> None:
    letter = filed(task="shop.gone")
    response = visitor("admin").post(url(letter, "redrive"), follow=True)
    assert "shop.gone" in said(response)
    assert "not registered" in said(response) or "is registered" in said(response)
    assert reload(letter).state == State.OPEN


def test_a_message_that_cannot_be_read_is_shown_as_it_is_and_cannot_be_edited() -> None:
    raw = WireMessage(
        body=b"\xff\xfe not json",
        content_type="application/octet-stream",
        content_encoding="binary",
        headers={},
        properties={},
        queue="celery",
    )
    letter = filed(task="", message=raw, reason=Reason.UNDECODABLE)
    client = visitor("admin")
    assert "base64" in client.get(detail(letter)).content.decode()
    response = client.get(url(letter, "edit"), follow=True)
    assert "cannot be decoded" in said(response)
    assert "can only be discarded" in said(client.post(url(letter, "redrive"), follow=True))
    assert reload(letter).state == State.OPEN


def test_a_discard_needs_a_reason_and_keeps_it() -> None:
    letter = filed()
    client = visitor("admin")
    for reason in ("", "   "):
        refused = client.post(url(letter, "discard"), {"reason": reason})
        assert "Give a reason" in refused.content.decode()
        assert reload(letter).state == State.OPEN
    client.post(url(letter, "discard"), {"reason": "refunded by hand"})
    assert reload(letter).note == "refunded by hand"
    page = client.get(detail(letter)).content.decode()
    assert "refunded by hand" in page
    assert 'id="redrive"' not in page


def test_the_timeline_joins_letters_of_one_message() -> None:
    user = person("admin")
    first = filed()
    new_id = services.redrive(first.pk, by=user)
    second = filed(task_id=new_id, redrive_of=first.task_id, age=0)
    client = Client()
    client.force_login(user)
    older, newer = client.get(detail(first)).content.decode(), client.get(detail(second)).content.decode()
    assert detail(second) in older
    assert "Ended in the inbox again" in older
    assert detail(first) in newer
    assert "Attempt 1 failed, retried" in older


def test_text_of_a_task_is_shown_as_text() -> None:
    evil = "<script>alert(1)</script>"
    letter = filed(error_message=evil, args_repr=evil, traceback=evil, task="shop.send")
    client = visitor("admin")
    for page in (LIST, detail(letter), f"{LIST}groups/", f"{LIST}bulk/redrive/"):
        assert evil not in client.get(page).content.decode(), page


def test_an_id_that_does_not_exist_leads_back_with_a_message() -> None:
    client = visitor("admin")
    for path in ("not-an-id/change/", "00000000-0000-0000-0000-000000000000/change/"):
        response = client.get(LIST + path, follow=True)
        assert response.status_code == 200
        assert "exist" in said(response)


# --- the list -------------------------------------------------------------------------


def listed(client: Client, query: str) -> set[str]:
    response = client.get(f"{LIST}?{query}")
    assert response.status_code == 200, query
    return {str(row.pk) for row in response.context["cl"].result_list}


def test_the_list_filters_and_searches_and_bulk_pages_mean_the_same_rows() -> None:
    old = filed(["succeed"], {"value": "blue"}, age=90_000, queue="slow", error_message="refused by mail.example.com")
    new = filed(["fail"], task="tests.support.zoo.end", age=10, error_type="ValueError", reason=Reason.FAILED)
    closed = filed()
    services.discard(closed.pk, reason="done")
    client = visitor("admin")
    expected = {
        "": {old, new},
        "state=all": {old, new, closed},
        "state=discarded": {closed},
        "q=MAIL.example": {old},
        "q=blue": {old},
        f"q={new.task_id}": {new},
        "died=1h": {new},
        "queue=slow": {old},
        "reason=failed": {new},
        "task=tests.support.zoo.end": {old, new},
        f"fingerprint={old.fingerprint}": {old},
        "since=2020-01-01T00:00&until=2021-01-01T00:00": set(),
        "since=2020-01-01T00:00": {old, new},
        "error_type=ValueError": {new},
    }
    for query, letters in expected.items():
        assert listed(client, query) == {str(letter.pk) for letter in letters}, query
        if query != "state=discarded":
            opened = [letter for letter in letters if reload(letter).state == State.OPEN]
            bulk_query = client.get(f"{LIST}?{query}").context["cl"].bulk_query
            assert client.get(f"{LIST}bulk/redrive/?{bulk_query}").context["count"] == len(opened), query


@pytest.mark.parametrize("query", ["since=yesterday", "reason=faild", "died=2y", "state=opne"])
def test_a_filter_that_cannot_work_is_refused_with_a_message(query: str) -> None:
    response = visitor("admin").get(f"{LIST}?{query}", follow=True)
    assert response.status_code == 200
    assert query.partition("=")[2] in said(response)


@pytest.mark.parametrize("query", ["payload__contains=secret", "task__startswith=shop", "taks=shop.send", "id=1"])
def test_the_list_takes_no_condition_but_its_own(query: str) -> None:
    """The admin takes any column: payloads could be guessed at, and bulk pages would mean more than the list shows."""
    filed(["succeed"], {"value": "secret"}, kwargs_repr="{'value': '***'}")
    response = visitor("viewer").get(f"{LIST}?{query}", follow=True)
    assert f"Unknown option {query.partition('=')[0]!r}" in said(response)
    assert response.redirect_chain == [(f"{LIST}?e=1", 302)]


def test_a_large_list_is_never_counted_in_full(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    from orchestrator.audit.browsing import CappedPaginator

    for number in range(8):
        filed(age=number + 1)
    monkeypatch.setattr(CappedPaginator, "cap", 5)
    client = visitor("admin")
    with django_assert_max_num_queries(9) as seen:
        page = client.get(LIST).content.decode()
    assert "more than 5 dead letters" in page
    counts = [query["sql"] for query in seen.captured_queries if "COUNT(" in query["sql"].upper()]
    assert counts
    assert all("LIMIT 6" in sql for sql in counts), counts


# --- many letters -----------------------------------------------------------------------


def confirm(client: Client, verb: str, response: Any, **more: str) -> Any:
    """Press the button of a confirm page."""
    context = response.context
    return client.post(f"{LIST}bulk/{verb}/", {"filter": context["filter"], "expected": str(context["count"]), **more})


def test_selected_letters_are_redriven_after_a_confirm_page(broker: Broker) -> None:
    chosen, other = [filed(), filed()], filed()
    client = visitor("redriver")
    data = {"action": "redrive_selected", "_selected_action": [str(letter.pk) for letter in chosen]}
    page = client.post(LIST, data)
    assert page.context["count"] == 2
    assert "The 2 dead letters that you selected" in page.content.decode()
    assert not waiting(broker)
    report = confirm(client, "redrive", page).context["report"]
    assert len(report.done) == 2
    assert {message["headers"]["id"] for message in waiting(broker)} == {new_id for _, new_id in report.done}
    assert reload(other).state == State.OPEN
    assert AuditEntry.objects.filter(action="deadletter.redrive_where", actor="redriver").count() == 1


def test_select_all_means_all_that_match_the_list(broker: Broker) -> None:
    for _ in range(3):
        filed(queue="slow")
    other = filed()
    client = visitor("admin")
    first = DeadLetter.objects.filter(queue="slow").first()
    assert first is not None
    data = {"action": "discard_selected", "select_across": "1", "_selected_action": [str(first.pk)]}
    page = client.post(f"{LIST}?queue=slow", data)
    assert page.context["count"] == 3
    assert "on queue" in page.content.decode()
    refused = confirm(client, "discard", page, reason=" ")
    assert "Give a reason" in refused.content.decode()
    assert not DeadLetter.objects.filter(state=State.DISCARDED).exists()
    confirm(client, "discard", page, reason="host is gone")
    assert DeadLetter.objects.filter(state=State.DISCARDED, note="host is gone").count() == 3
    assert reload(other).state == State.OPEN


def test_closed_letters_are_left_alone() -> None:
    closed, still_open = filed(), filed()
    services.discard(closed.pk, reason="done")
    client = visitor("admin")
    refused = client.get(f"{LIST}bulk/redrive/?state=discarded", follow=True)
    assert "Only open letters can be redriven" in said(refused)
    data = {"action": "redrive_selected", "select_across": "1", "_selected_action": [str(closed.pk)]}
    assert "Only open letters" in said(client.post(f"{LIST}?state=discarded", data, follow=True))
    data = {"action": "redrive_selected", "_selected_action": [str(closed.pk), str(still_open.pk)]}
    page = client.post(f"{LIST}?state=all", data)
    assert page.context["count"] == 1
    assert "1 of the selected" in page.content.decode()
    assert "redrive-matching" not in client.get(f"{LIST}?state=discarded").content.decode()


def test_confirming_twice_does_it_once(broker: Broker) -> None:
    for _ in range(3):
        filed()
    client = visitor("admin")
    page = client.get(f"{LIST}bulk/redrive/?task=tests.support.zoo.end")
    assert confirm(client, "redrive", page).context["report"].count == 3
    assert confirm(client, "redrive", page).context["report"].count == 0
    assert len(waiting(broker)) == 3


def test_letters_that_nobody_has_seen_are_not_acted_on(broker: Broker) -> None:
    filed(age=50)
    client = visitor("admin")
    page = client.get(f"{LIST}bulk/redrive/")
    assert page.context["count"] == 1
    died_later = filed(age=-5)
    died_before_but_filed_late = filed(age=60)
    again = confirm(client, "redrive", page)
    assert "2 letters match now instead of 1" in said(again)
    assert not waiting(broker)
    assert again.context["count"] == 2
    confirm(client, "redrive", again)
    assert reload(died_later).state == State.OPEN
    assert reload(died_before_but_filed_late).state == State.REDRIVEN


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_more_than_one_request_can_do_is_said_and_continued(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_pages, "PER_REQUEST", 2)
    for _ in range(3):
        filed()
    client = visitor("admin")
    page = client.get(f"{LIST}bulk/{verb}/?task=tests.support.zoo.end")
    assert "acts on 2 letters at a time" in page.content.decode()
    first = confirm(client, verb, page, reason="because")
    assert (len(first.context["report"].done), first.context["left"]) == (2, 1)
    assert "Go on with the 1 left" in first.content.decode()
    second = client.get(first.context["go_on"])
    assert second.context["count"] == 1
    assert len(confirm(client, verb, second, reason="because").context["report"].done) == 1
    assert not DeadLetter.objects.filter(state=State.OPEN).exists()


def test_what_could_not_be_done_is_listed_with_its_reason() -> None:
    gone, fine = filed(task="shop.gone"), filed()
    client = visitor("admin")
    report = confirm(client, "redrive", client.get(f"{LIST}bulk/redrive/"))
    page = report.content.decode()
    assert str(gone.pk) in page
    assert "shop.gone" in page
    assert "Go on" not in page
    assert reload(fine).state == State.REDRIVEN
    assert reload(gone).state == State.OPEN


@pytest.mark.parametrize(
    ("posted", "message"),
    [
        ({}, "start from the list"),
        ({"filter": "[]", "expected": "1"}, "start from the list"),
        ({"filter": '{"tsak": "x"}', "expected": "1"}, "did you mean"),
        ({"filter": "{}", "expected": "many"}, "start from the list"),
    ],
)
def test_a_broken_bulk_form_is_refused(posted: dict[str, str], message: str) -> None:
    letter = filed()
    response = visitor("admin").post(f"{LIST}bulk/redrive/", posted, follow=True)
    assert message in said(response)
    assert reload(letter).state == State.OPEN


def test_groups_have_counts_and_times_and_link_to_their_letters() -> None:
    for number in range(3):
        filed(error_message=f"order {number} refused", age=100 + number)
    filed(error_type="ValueError")
    client = visitor("admin")
    groups = client.get(f"{LIST}groups/").context["groups"]
    assert [group["count"] for group in groups] == [3, 1]
    assert groups[0]["first_seen"] < groups[0]["last_seen"]
    assert len(listed(client, f"fingerprint={groups[0]['fingerprint']}")) == 3
    page = client.get(f"{LIST}bulk/redrive/?fingerprint={groups[0]['fingerprint']}")
    assert page.context["count"] == 3
