"""The dead-letter pages: what they show, what they do, what they say when it cannot be done."""

from __future__ import annotations

import html
import json
import re
import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.flower import inbox
from orchestrator.flower.access import Right
from orchestrator.flower.pages import BULK_LIMIT, GroupRedriveHandler
from tests.support import far_side
from tests.support.bodies import body_of
from tests.support.letters import dead_letter
from tests.support.people import PASSWORD, person
from tests.support.visitor import Visitor
from tests.support.wait import eventually
from tests.support.worker import Flower
from tests.support.zoo import end

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300), pytest.mark.database]
ALL = (Right.VIEW, Right.LETTERS, Right.REDRIVE, Right.DISCARD)
LATER = "2100-01-01T00:00:00+00:00"
#: Where redriven messages wait unseen: no worker of these tests takes from it.
QUEUE = "nobody-listens"


@pytest.fixture(scope="module")
def flower(django_db_setup):
    with Flower() as process:
        yield process


@pytest.fixture
def ada(flower):
    person("ada", *ALL)
    someone = Visitor(flower.url)
    assert someone.log_in("ada", PASSWORD).status == 303
    return someone


def ids(page: str) -> list[str]:
    return re.findall(r'data-letter="([^"]+)"', page)


def waiting() -> list[dict]:
    """The messages that lie in :data:`QUEUE`, oldest first."""
    with get_app().connection() as connection:
        client = connection.default_channel.client
        return [json.loads(raw) for raw in reversed(client.lrange(QUEUE, 0, -1))]


@pytest.fixture(autouse=True)
def _empty_queue():
    yield
    with get_app().connection() as connection:
        connection.default_channel.client.delete(QUEUE)


# --- list -----------------------------------------------------------------------------


def test_an_empty_inbox_says_so(ada):
    assert "No open dead letters" in ada.get("/dead-letters").text


def test_letters_come_newest_first_in_pages_that_end(ada):
    now = timezone.now()
    made = [dead_letter("fail", died_at=now - timedelta(minutes=n)) for n in range(inbox.PAGE_SIZE + 3)]
    first = ada.get("/dead-letters")
    assert ids(first.text) == [str(letter.pk) for letter in made[: inbox.PAGE_SIZE]]
    older = html.unescape(re.search(r'rel="next" href="([^"]+)"', first.text).group(1))
    second = ada.get(older)
    assert ids(second.text) == [str(letter.pk) for letter in made[inbox.PAGE_SIZE :]]
    assert 'rel="next"' not in second.text
    assert 'rel="prev"' in second.text
    for page in ("0", "-1", "x", "%C2%B2", "99999", "9" * 50):
        assert ada.get(f"/dead-letters?page={page}").status == 200


def test_the_last_page_says_that_there_is_more(monkeypatch):
    for _ in range(4):
        dead_letter("fail")
    monkeypatch.setattr(inbox, "PAGE_SIZE", 1)
    monkeypatch.setattr(inbox, "LAST_PAGE", 2)
    assert (inbox.listing("", "", "open", 1).more, inbox.listing("", "", "open", 1).cut) == (True, False)
    last = inbox.listing("", "", "open", 1000)
    assert (last.page, last.more, last.cut) == (2, False, True)


@pytest.mark.parametrize("query", ["refused", "REFUSED", "order-77", "tests.support", "%22quoted%22+%26+more"])
def test_search_finds_errors_arguments_and_tasks(ada, query):
    found = dead_letter("fail", "order-77", error_message='"quoted" & more: connection refused')
    dead_letter("fail", task="another.task", error_message="boom")
    assert ids(ada.get(f"/dead-letters?q={query}").text) == [str(found.pk)]


def test_states_can_be_chosen(ada):
    opened, discarded = dead_letter("fail"), dead_letter("fail")
    services.discard(discarded.pk, reason="done by hand")
    assert ids(ada.get("/dead-letters").text) == [str(opened.pk)]
    assert ids(ada.get("/dead-letters?state=discarded").text) == [str(discarded.pk)]
    assert set(ids(ada.get("/dead-letters?state=any").text)) == {str(opened.pk), str(discarded.pk)}
    assert ids(ada.get("/dead-letters?state=nonsense").text) == [str(opened.pk)]


def test_groups_are_counted(ada):
    for n in range(3):
        dead_letter("fail", fingerprint="a" * 32, error_message=f"refused {n}")
    other = dead_letter("fail", fingerprint="b" * 32)
    page = ada.get("/dead-letters").text
    assert re.findall(r'data-fingerprint="(\w+)">\s*<strong class="fs-5">(\d+)<', page) == [
        ("a" * 32, "3"),
        ("b" * 32, "1"),
    ]
    assert "Redrive all 3…" in page
    assert ids(ada.get("/dead-letters?fingerprint=" + "b" * 32).text) == [str(other.pk)]


def test_what_a_task_wrote_is_text_and_never_markup(ada):
    evil = "<script>alert(1)</script>"
    letter = dead_letter(
        "fail", error_message=evil, error_type=evil, traceback=evil, args_repr=evil, worker=evil, queue="q<b>",
        task=evil, history=[{"n": 1, "at": 1, "worker": evil, "error": evil}],
    )  # fmt: skip
    services.discard(letter.pk, reason=evil)
    for path in ("/dead-letters?state=any", f"/dead-letters/{letter.pk}", f"/dead-letters?q={evil}"):
        assert evil not in ada.get(path.replace("<", "%3C").replace(">", "%3E")).text


def test_a_letter_without_a_task_can_be_opened_all_the_same(ada):
    letter = dead_letter("fail", task="", task_id="")
    page = ada.get("/dead-letters").text
    assert f'href="/dead-letters/{letter.pk}">(no task name)</a>' in page
    assert "(no task name)" in ada.get(f"/dead-letters/{letter.pk}").text
    assert 'href="/task/"' not in page + ada.get(f"/dead-letters/{letter.pk}").text


def test_the_payload_is_shown_nowhere(ada):
    letter = dead_letter("fail", "the-hidden-argument", args_repr="('fail', '[redacted]')", search="fail")
    pages = [
        ada.get(path).text
        for path in ("/dead-letters", f"/dead-letters/{letter.pk}", f"/dead-letters/group/{letter.fingerprint}")
    ]
    assert "the-hidden-argument" not in "".join(pages)
    assert "[redacted]" in pages[1]


@pytest.mark.parametrize("name", ["not-a-uuid-at-all-but-36-characters-x", str(uuid.UUID(int=0)), "f" * 34])
def test_a_letter_that_is_not_there(ada, name):
    assert ada.get(f"/dead-letters/{name}").status == 404
    # A path that is no page of ours counts as one of Flower's, whose writes need more than redrives do.
    assert ada.post(f"/dead-letters/{name}/redrive").status in (403, 404)


# --- one ------------------------------------------------------------------------------


def test_redrive_publishes_the_exact_message_once(ada):
    long = ["fail", {"text": "x" * 3000, "nested": [[[[[["deep"]]]]]], "n": 7}]
    letter = dead_letter(*long, queue=QUEUE)
    answer = ada.post(f"/dead-letters/{letter.pk}/redrive")
    assert (answer.status, answer.location) == (303, f"/dead-letters/{letter.pk}")
    letter.refresh_from_db()
    assert (letter.state, letter.closed_by.username) == (State.REDRIVEN, "ada")
    (message,) = waiting()
    assert message["headers"]["id"] == letter.redriven_as != letter.task_id
    assert json.loads(body_of(message))[0] == long
    assert f'<a href="/task/{letter.redriven_as}">' in ada.get(answer.location).text
    # A second click, from a page that was still open.
    again = ada.post(f"/dead-letters/{letter.pk}/redrive")
    assert again.status == 409
    assert letter.redriven_as in again.text
    assert len(waiting()) == 1
    assert AuditEntry.objects.filter(action="deadletter.redrive", actor="ada").count() == 1


def test_a_task_that_is_gone_is_named_and_nothing_changes(ada):
    letter = dead_letter("x", task="long.gone", queue=QUEUE)
    answer = ada.post(f"/dead-letters/{letter.pk}/redrive")
    assert answer.status == 409
    assert "long.gone" in answer.text
    letter.refresh_from_db()
    assert letter.state == State.OPEN
    assert waiting() == []


def test_discard_wants_a_reason(ada):
    letter = dead_letter("fail")
    for reason in ("", "   "):
        assert ada.post(f"/dead-letters/{letter.pk}/discard", {"reason": reason}).status == 409
    letter.refresh_from_db()
    assert letter.state == State.OPEN
    assert ada.post(f"/dead-letters/{letter.pk}/discard", {"reason": "paid <in> cash & done"}).status == 303
    letter.refresh_from_db()
    assert (letter.state, letter.note, letter.closed_by.username) == (State.DISCARDED, "paid <in> cash & done", "ada")
    assert "paid &lt;in&gt; cash &amp; done" in ada.get(f"/dead-letters/{letter.pk}").text


# --- groups ---------------------------------------------------------------------------


def test_a_group_is_confirmed_with_its_number_and_redriven_whole(ada):
    letters = [dead_letter("fail", n, queue=QUEUE, fingerprint="a" * 32) for n in range(4)]
    other = dead_letter("fail", queue=QUEUE, fingerprint="b" * 32)
    confirm = ada.get("/dead-letters/group/" + "a" * 32)
    assert "4 open dead letters" in confirm.text
    assert "Redrive all 4" in confirm.text
    assert waiting() == []
    until = html.unescape(re.search(r'name="until" value="([^"]+)"', confirm.text).group(1))
    late = dead_letter("fail", queue=QUEUE, fingerprint="a" * 32)
    done = ada.post(f"/dead-letters/group/{'a' * 32}/redrive", {"until": until})
    assert done.status == 200
    assert re.search(r"<strong>4</strong>\s+redriven", done.text)
    new = {message["headers"]["id"] for message in waiting()}
    assert new == set(DeadLetter.objects.filter(pk__in=[x.pk for x in letters]).values_list("redriven_as", flat=True))
    # Neither the other group nor what died after the confirm page was shown.
    assert set(DeadLetter.objects.filter(state=State.OPEN)) == {other, late}
    assert "1 open dead letter<" in done.text
    assert AuditEntry.objects.filter(action="deadletter.redrive_where", actor="ada").count() == 1


def test_a_group_that_cannot_be_redriven_says_why(ada):
    for _ in range(2):
        dead_letter("x", task="long.gone", fingerprint="a" * 32)
    done = ada.post(f"/dead-letters/group/{'a' * 32}/redrive", {"until": LATER})
    assert re.search(r"<strong>0</strong>\s+redriven, 2 failed", done.text)
    assert "long.gone" in done.text
    assert DeadLetter.objects.filter(state=State.OPEN).count() == 2


def test_a_group_is_discarded_with_a_reason(ada):
    for _ in range(3):
        dead_letter("fail", fingerprint="a" * 32)
    path = f"/dead-letters/group/{'a' * 32}/discard"
    assert ada.post(path, {"until": LATER, "reason": " "}).status == 409
    assert DeadLetter.objects.filter(state=State.OPEN).count() == 3
    done = ada.post(path, {"until": LATER, "reason": "duplicates"})
    assert re.search(r"<strong>3</strong>\s+discarded", done.text)
    assert set(DeadLetter.objects.values_list("state", "note")) == {(State.DISCARDED, "duplicates")}


def test_a_big_group_tells_what_one_click_does(ada):
    DeadLetter.objects.bulk_create(
        [_copy(dead_letter("fail", fingerprint="a" * 32, queue=QUEUE)) for _ in range(1)]
        + [_copy(DeadLetter.objects.first()) for _ in range(BULK_LIMIT)]
    )
    page = ada.get("/dead-letters/group/" + "a" * 32).text
    assert f"{BULK_LIMIT + 2} open dead letters" in page
    assert f"One click redrives {BULK_LIMIT} at most" in page
    assert f">Redrive {BULK_LIMIT}</button>" in page


def _copy(letter: DeadLetter) -> DeadLetter:
    letter.pk, letter.key = uuid.uuid4(), uuid.uuid4().hex
    return letter


@pytest.mark.parametrize("until", ["", "yesterday", "2026-01-01", "2026-01-01T00:00:00"])
def test_a_group_is_only_acted_on_from_its_confirm_page(ada, until):
    dead_letter("fail", fingerprint="a" * 32, queue=QUEUE)
    assert ada.post(f"/dead-letters/group/{'a' * 32}/redrive", {"until": until}).status == 400
    assert waiting() == []


def test_an_empty_group_is_404(ada):
    assert ada.get("/dead-letters/group/" + "c" * 32).status == 404
    assert GroupRedriveHandler.to_write is Right.REDRIVE


# --- Flower's task page ---------------------------------------------------------------


def test_a_task_that_flower_forgot_is_found_in_the_inbox(ada):
    letter = dead_letter("fail")
    assert ada.get(f"/task/{letter.task_id}").location == f"/dead-letters/{letter.pk}"
    assert ada.get("/task/never-heard-of").status == 404


def test_retry_with_the_same_arguments_from_the_first_failure_to_the_second(platform):
    """The whole way: a real task fails, lies in the inbox, is retried from Flower's page and runs again."""
    person("ada", *ALL)
    flower = platform.flower()
    ada = Visitor(flower.url)
    ada.log_in("ada", PASSWORD)
    eventually(lambda: "Connected to" in flower.log)
    platform.worker(pool="solo")
    platform.relay()
    key = "k" * 2000
    task_id = end.delay("fail", key).id
    letter = eventually(lambda: DeadLetter.objects.filter(task_id=task_id).first(), 60)
    page = eventually(lambda: (p := ada.get(f"/task/{task_id}")).status == 200 and "FAILURE" in p.text and p.text, 60)
    assert key not in page, "Flower itself has only a shortened text of the arguments"
    assert 'id="retry-same-arguments"' in page
    answer = ada.post(f"/dead-letters/{letter.pk}/redrive", {"back": "task"})
    assert answer.location == f"/task/{task_id}"
    letter.refresh_from_db()
    after = ada.get(answer.location).text
    assert 'id="retry-same-arguments"' not in after
    assert f'<a href="/task/{letter.redriven_as}">' in after
    eventually(lambda: len(far_side.effects(key)) == 2, 60)
    assert [effect["id"] for effect in far_side.effects(key)] == [task_id, letter.redriven_as]
    second = eventually(lambda: DeadLetter.objects.filter(task_id=letter.redriven_as).first(), 60)
    assert second.redrive_of == task_id
    new = eventually(lambda: (p := ada.get(f"/task/{letter.redriven_as}")).status == 200 and p.text, 60)
    assert 'id="redrive-of"' in new
