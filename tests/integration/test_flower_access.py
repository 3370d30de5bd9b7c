"""Who gets into Flower, and who may do what there: a real Flower, real sessions."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client

from orchestrator.audit.models import AuditEntry
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.flower.access import Right
from tests.support.letters import dead_letter
from tests.support.people import PASSWORD, person
from tests.support.visitor import Visitor
from tests.support.worker import Flower

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

TOKEN = "a-token-for-scrapers"
READING = (Right.VIEW, Right.LETTERS)


@pytest.fixture(scope="module")
def flower(django_db_setup):
    # Flower's own ways of logging in are all set, and must change nothing.
    env = {
        "ORCHESTRATOR_METRICS_TOKEN": TOKEN,
        "FLOWER_UNAUTHENTICATED_API": "true",
        "FLOWER_BASIC_AUTH": "monitor:known",
        "FLOWER_AUTH": ".*",
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler",
    }
    with Flower(env=env) as process:
        yield process


@pytest.fixture
def visitor(flower):
    """``visitor("name", *permissions)``: a logged-in user; without a name, nobody."""

    def enter(name: str = "", *permissions: str, **flags: bool) -> Visitor:
        someone = Visitor(flower.url)
        if name:
            person(name, *permissions, **flags)
            assert someone.log_in(name, PASSWORD).status == 303
        return someone

    return enter


# --- reading ------------------------------------------------------------------------

PAGES = ("/", "/workers", "/tasks", "/dead-letters", "/workers?json=1")
API = ("/api/workers", "/api/tasks", "/api/task/types")


@pytest.mark.parametrize("path", PAGES)
def test_anonymous_readers_are_sent_to_the_login_and_back(visitor, path):
    answer = visitor().get(path)
    assert answer.status == 302
    assert answer.location.startswith("/login?next=")
    person("ada", *READING)
    someone = visitor()
    assert someone.log_in("ada", PASSWORD, following=path).location == path
    assert someone.get(path).status == 200


@pytest.mark.parametrize("path", API)
def test_anonymous_programs_get_401_and_no_open_origin(visitor, path):
    answer = visitor().get(path)
    assert answer.status == 401
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "Basic" not in answer.headers.get("WWW-Authenticate", "")


@pytest.mark.parametrize(
    ("permissions", "flags"),
    [((), {}), ((Right.CONTROL, Right.REDRIVE), {}), ((*READING, Right.CONTROL), {"staff": False})],
    ids=["staff without permission", "staff without the door's permission", "not staff"],
)
def test_users_without_the_right_to_view_stay_outside(flower, permissions, flags):
    user = person("guest", *permissions, **flags)
    someone = Visitor(flower.url)
    refused = someone.log_in("guest", PASSWORD)
    assert refused.status == 403
    assert "guest may not use Flower" in refused.text
    assert settings.SESSION_COOKIE_NAME not in someone.cookies
    # With a session of the Django site it is the same.
    client = Client()
    client.force_login(user)
    someone.cookies[settings.SESSION_COOKIE_NAME] = client.cookies[settings.SESSION_COOKIE_NAME].value
    assert {someone.get(path).status for path in (*PAGES, *API, "/metrics")} == {403}


def test_letters_need_their_own_permission(visitor):
    someone = visitor("results-only", Right.VIEW)
    letter = dead_letter("fail", "secret-order")
    assert "Dead letters" not in someone.get("/").text
    for path in ("/dead-letters", f"/dead-letters/{letter.pk}", f"/dead-letters/group/{letter.fingerprint}"):
        assert someone.get(path).status == 403
    # Flower knows nothing of this task: it must not betray the letter by a redirect either.
    assert someone.get(f"/task/{letter.task_id}").status == 404


def test_basic_auth_opens_nothing(visitor):
    known = {"Authorization": "Basic bW9uaXRvcjprbm93bg=="}
    assert visitor().get("/", known).status == 302
    assert visitor().get("/api/workers", known).status == 401
    assert visitor().post("/api/worker/shutdown/celery@nowhere", "", headers=known).status == 403


def test_health_is_open_and_says_nothing(visitor):
    answer = visitor().get("/healthcheck")
    assert (answer.status, answer.text) == (200, "OK")


def test_metrics_need_a_token_or_a_login(visitor):
    stranger = visitor()
    assert stranger.get("/metrics").status == 302
    assert stranger.get("/metrics", {"Authorization": "Bearer guessed"}).status == 401
    assert stranger.get("/metrics", {"Authorization": f"Bearer {TOKEN}"}).status == 200
    assert stranger.get(f"/metrics?token={TOKEN}").status == 302
    assert visitor("reader", Right.VIEW).get("/metrics").status == 200


# --- writing ------------------------------------------------------------------------

CONTROL = (
    "/api/worker/shutdown/celery@nowhere",
    "/api/worker/pool/restart/celery@nowhere",
    "/api/worker/pool/grow/celery@nowhere",
    "/api/worker/pool/shrink/celery@nowhere",
    "/api/worker/pool/autoscale/celery@nowhere",
    "/api/worker/queue/add-consumer/celery@nowhere",
    "/api/worker/queue/cancel-consumer/celery@nowhere",
    "/api/task/apply/tests.support.zoo.end",
    "/api/task/async-apply/tests.support.zoo.end",
    "/api/task/send-task/tests.support.zoo.end",
    "/api/task/abort/some-id",
    "/api/task/timeout/tests.support.zoo.end",
    "/api/task/rate-limit/tests.support.zoo.end",
    "/api/task/revoke/some-id",
)


def letter_posts(letter: DeadLetter) -> dict[str, Right]:
    """Every write of our pages, with what it needs."""
    return {
        f"/dead-letters/{letter.pk}/redrive": Right.REDRIVE,
        f"/dead-letters/{letter.pk}/discard": Right.DISCARD,
        f"/dead-letters/group/{letter.fingerprint}/redrive": Right.REDRIVE,
        f"/dead-letters/group/{letter.fingerprint}/discard": Right.DISCARD,
    }


def test_every_post_is_closed_to_anonymous_and_to_readers(visitor):
    letter = dead_letter("fail")
    reader = visitor("reader", *READING)
    AuditEntry.objects.all().delete()
    for path in (*CONTROL, *letter_posts(letter)):
        data = {"reason": "because", "until": "2100-01-01T00:00:00+00:00"}
        assert visitor().post(path, data).status == 403, path
        refused = reader.post(path, data)
        assert refused.status == 403, path
        assert "which reader does not have" in refused.text, path
    letter.refresh_from_db()
    assert letter.state == State.OPEN
    assert not AuditEntry.objects.exists()


def test_readers_see_no_buttons(visitor):
    letter = dead_letter("fail")
    reader = visitor("reader", *READING)
    for path in ("/dead-letters", f"/dead-letters/{letter.pk}", f"/dead-letters/group/{letter.fingerprint}"):
        page = reader.get(path)
        assert page.status == 200
        # The search form and the logout are all that is left.
        actions = re.findall(r'<form method="post" action="([^"]+)"', page.text)
        assert actions == ["/logout"], path
        assert "Redrive all" not in page.text


@pytest.mark.parametrize("right", [Right.REDRIVE, Right.DISCARD])
def test_each_verb_has_its_own_permission(visitor, right):
    letter = dead_letter("fail")
    someone = visitor("worker", *READING, right)
    data = {"reason": "no longer wanted", "until": "2100-01-01T00:00:00+00:00"}
    for path, needed in letter_posts(letter).items():
        if needed != right:
            assert someone.post(path, data).status == 403
    page = someone.get(f"/dead-letters/{letter.pk}").text
    assert ('id="redrive"' in page, 'id="discard"' in page) == (right == Right.REDRIVE, right == Right.DISCARD)
    assert someone.post(CONTROL[0]).status == 403
    path = next(path for path, needed in letter_posts(letter).items() if needed == right)
    assert someone.post(path, data).status == 303
    letter.refresh_from_db()
    assert letter.state == (State.REDRIVEN if right == Right.REDRIVE else State.DISCARDED)
    assert letter.closed_by.username == "worker"


def test_control_needs_its_permission_and_leaves_an_entry_each(visitor):
    someone = visitor("operator", *READING, Right.CONTROL)
    AuditEntry.objects.all().delete()
    statuses = {path: someone.post(path, "{}").status for path in CONTROL}
    assert 403 not in statuses.values(), statuses
    entries = AuditEntry.objects.order_by("id")
    assert [entry.actor for entry in entries] == ["operator"] * len(CONTROL)
    assert entries[0].action == "flower.worker_shut_down"
    assert entries[0].target == "celery@nowhere"


def test_the_audit_keeps_what_was_done_and_never_arguments_of_tasks(visitor):
    someone = visitor("operator", Right.VIEW, Right.CONTROL)
    AuditEntry.objects.all().delete()
    someone.post("/api/task/revoke/some-id", {"terminate": "true", "signal": "SIGKILL"})
    someone.post("/api/task/send-task/tests.support.zoo.end", '{"args": ["fail", "hush-hush"]}')
    revoke, send = AuditEntry.objects.order_by("id")
    assert (revoke.action, revoke.details) == ("flower.task_revoke", {"terminate": "true", "signal": "SIGKILL"})
    assert (send.action, send.target) == ("flower.task_send", "tests.support.zoo.end")
    assert "hush-hush" not in str(send.details)


def test_the_tasks_table_reads_by_post(visitor):
    query = {"draw": "1", "start": "0", "length": "10", "order[0][column]": "0", "columns[0][data]": "name"}
    reader = visitor("reader", Right.VIEW)
    AuditEntry.objects.all().delete()
    assert reader.post("/tasks/datatable", query).status == 200
    assert reader.post("/tasks/datatable", query, token=False).status == 403
    assert not AuditEntry.objects.exists()


# --- forgery ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        {"token": False},
        {"headers": {"X-XSRFToken": "made-up"}},
        {"headers": {"Sec-Fetch-Site": "cross-site"}},
        {"headers": {"Sec-Fetch-Site": "same-site"}},
        {"headers": {"Origin": "http://127.0.0.1:1"}},
        {"token": False, "headers": {"Authorization": "Basic YTpi"}},
    ],
    ids=lambda forged: str(forged),
)
def test_forged_posts_change_nothing_and_are_logged_by_name(flower, visitor, forged):
    letter = dead_letter("fail")
    admin = visitor("admin", superuser=True)
    AuditEntry.objects.all().delete()
    for path in (*CONTROL, *letter_posts(letter), "/logout"):
        assert admin.post(path, {"reason": "x"}, **forged).status == 403, path
        assert f"Flower refused POST {path} to admin" in flower.log
    assert admin.get("/").status == 200
    letter.refresh_from_db()
    assert letter.state == State.OPEN
    assert not AuditEntry.objects.exists()


def test_the_login_form_cannot_be_forged(flower):
    person("ada", *READING)
    stranger = Visitor(flower.url)
    data = {"username": "ada", "password": PASSWORD}
    assert stranger.post("/login", data, token=False).status == 403
    assert stranger.post("/login", data, headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert settings.SESSION_COOKIE_NAME not in stranger.cookies


# --- sessions -----------------------------------------------------------------------


def test_wrong_passwords_say_the_same_for_known_and_unknown_names(flower):
    person("ada", *READING)
    get_user_model().objects.filter(pk=person("gone", *READING).pk).update(is_active=False)
    answers = [Visitor(flower.url).log_in(*pair) for pair in (("ada", "wrong"), ("nobody", "x"), ("gone", PASSWORD))]
    assert [answer.status for answer in answers] == [403] * 3
    assert all("Name and password do not match an active user." in answer.text for answer in answers)
    assert "wrong" not in flower.log


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "http:evil"]
)
def test_the_login_never_sends_anybody_elsewhere(flower, target):
    person("ada", *READING)
    assert Visitor(flower.url).log_in("ada", PASSWORD, following=target).location == "/"


def test_login_keeps_the_rest_of_the_query(flower):
    person("ada", *READING)
    target = "/dead-letters?q=a%26b&state=open"
    assert Visitor(flower.url).log_in("ada", PASSWORD, following=target).location == target


@pytest.fixture
def shared(flower):
    """One user with one session in Flower and in the Django site."""
    user = person("ada", *READING)
    client = Client()
    assert client.login(username="ada", password=PASSWORD)
    someone = Visitor(flower.url, {settings.SESSION_COOKIE_NAME: client.cookies[settings.SESSION_COOKIE_NAME].value})
    assert someone.get("/dead-letters").status == 200
    return SimpleNamespace(user=user, site=client, flower=someone)


def test_a_session_of_the_django_site_opens_flower_until_its_logout(shared):
    shared.site.logout()
    assert shared.flower.get("/dead-letters").status == 302


def test_logout_in_flower_ends_the_session_of_the_django_site(shared):
    assert shared.flower.post("/logout").status == 303
    assert settings.SESSION_COOKIE_NAME not in shared.flower.cookies
    assert "_auth_user_id" not in shared.site.session
    assert AuditEntry.objects.filter(action="flower.logout", actor="ada").count() == 1
    # An old link must not log anybody out.
    assert shared.flower.get("/logout").status == 302


@pytest.mark.parametrize("change", ["password", "is_staff", "is_active", "permission"])
def test_what_is_taken_from_a_user_is_gone_at_once(shared, change):
    if change == "password":
        shared.user.set_password("another one entirely")
    elif change == "permission":
        shared.user.user_permissions.clear()
    else:
        setattr(shared.user, change, False)
    shared.user.save()
    assert shared.flower.get("/dead-letters").status in (302, 403)
    assert shared.flower.get("/dead-letters").status != 200


def test_the_session_cookie_has_djangos_attributes(flower):
    person("ada", *READING)
    answer = Visitor(flower.url).log_in("ada", PASSWORD)
    cookie = next(line for line in answer.headers.get_all("Set-Cookie") if settings.SESSION_COOKIE_NAME in line)
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert f"Max-Age={settings.SESSION_COOKIE_AGE}" in cookie


def test_pages_cannot_be_framed_or_cached(visitor):
    answer = visitor("ada", *READING).get("/dead-letters")
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Cache-Control"] == "no-store"
