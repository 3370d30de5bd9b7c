"""System checks: what ``manage.py check`` and ``check --deploy`` say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from orchestrator.celery import get_app
from orchestrator.launch.broker import EmbeddedBroker
from orchestrator.launch.ports import free_port
from orchestrator.monitoring import checks, database_checks
from tests.support.broker import Broker
from tests.support.process import MANAGE


def found(messages: list[CheckMessage]) -> list[str]:
    assert all(message.hint for message in messages), "a check without a hint leaves people alone"
    return [str(message.id).removeprefix("orchestrator.") for message in messages]


@pytest.fixture
def app_conf() -> Iterator[Any]:
    """The app's configuration, as it was before afterwards."""
    app = get_app()
    # Celery swaps its configuration for the real one when it is first asked.
    assert app.conf["task_serializer"]
    conf = app.conf
    changes: dict[str, Any] = {}
    conf.maps.insert(0, changes)
    yield changes
    conf.maps.remove(changes)


def test_the_reference_project_is_clean() -> None:
    """What we ship passes its own checks."""
    assert found(checks.check_settings()) == []
    assert found(checks.check_celery()) == []


@pytest.mark.parametrize(
    ("change", "expected", "text"),
    [
        ({"KEY_PREFIXX": "x"}, "E001", "did you mean 'KEY_PREFIX'"),
        ({"LETTERBOX_TIMEOUT": -1}, "E001", "LETTERBOX_TIMEOUT"),
        ({"APP": "tests.support:nothing"}, "E002", "nothing"),
        ({"APP": "no_such_package.celery:app"}, "E002", "No module named 'no_such_package'"),
        ({"APP": "tests.support.wait:eventually"}, "E002", "OrchestratorApp"),
    ],
)
def test_an_impossible_setting_is_an_error(settings: Any, change: dict[str, Any], expected: str, text: str) -> None:
    """The message names the key, its value or the nearest known name."""
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, **change}
    messages = checks.check_settings()
    assert found(messages) == [expected]
    assert text in messages[0].msg
    # Said once: the other checks have nothing to look at.
    assert found(checks.check_celery()) == []


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        (
            "LETTERBOX",
            "orchestrator.stores.redis.letters:RedisLetterbx",
            "orchestrator.stores.redis.letters:RedisLetterbx",
        ),
        ("POLICIES", ["orchestrator.policies.gone.Gone"], "orchestrator.policies.gone.Gone"),
    ],
)
def test_a_part_that_cannot_be_imported_is_an_error(settings: Any, key: str, value: Any, path: str) -> None:
    """At start, not when the first task is there."""
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, key: value}
    messages = checks.check_settings()
    assert found(messages) == ["E001"]
    assert f"ORCHESTRATOR[{key!r}] names {path!r}" in messages[0].msg


def test_letters_need_a_redis(settings: Any) -> None:
    """A broker that is no Redis, and no Redis for state: nowhere to keep letters."""
    settings.CELERY_BROKER_URL = "amqp://127.0.0.1"
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "STATE_URL": ""}
    messages = checks.check_settings()
    assert found(messages) == ["E003"]
    assert "ORCHESTRATOR_STATE_URL" in messages[0].msg
    assert "the broker's URL begins with 'amqp'" in messages[0].msg


def test_no_broker_yet_is_a_warning(settings: Any) -> None:
    """A fresh checkout can migrate before its first broker runs."""
    settings.CELERY_BROKER_URL = ""
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "STATE_URL": ""}
    assert found(checks.check_settings()) == ["W003"]


def test_a_missing_app_is_an_error(settings: Any) -> None:
    """Each app of ours that is not installed is named."""
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "orchestrator.audit"]
    messages = checks.check_settings()
    assert found(messages) == ["E004"]
    assert "orchestrator.audit" in messages[0].msg


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"task_serializer": "pickle"}, "E005"),
        ({"accept_content": ["json", "yaml"]}, "E005"),
        ({"result_accept_content": ["application/x-python-serialize"]}, "E005"),
        ({"task_always_eager": True}, "W006"),
        ({"task_acks_late": False}, "W007"),
        ({"broker_write_url": "amqp://rabbit//"}, "W009"),
        ({"broker_write_url": "amqp://rabbit//", "task_default_queue_type": "quorum"}, "W009"),
        ({"broker_transport_options": {"visibility_timeout": 60}, "task_time_limit": 60}, "W008"),
    ],
)
def test_celery_settings_that_work_against_us(app_conf: dict[str, Any], change: dict[str, Any], expected: str) -> None:
    """JSON only, no eager mode, late ack, and no message back while its task still runs."""
    app_conf.update(change)
    assert found(checks.check_celery()) == [expected]


def test_json_by_its_other_name_is_json(app_conf: dict[str, Any]) -> None:
    """The content type is as good as the short name, and a visibility longer than the limit is right."""
    app_conf.update(
        accept_content=["application/json"],
        broker_transport_options={"visibility_timeout": 61},
        task_time_limit=60,
    )
    assert found(checks.check_celery()) == []


def test_manage_check_reports_a_wrong_key_and_others_refuse_to_start(tmp_path: Path) -> None:
    """``check`` lists the error under its id; any other command ends with the same sentence."""
    (tmp_path / "wrong_settings.py").write_text(
        "from tests.settings import *\nORCHESTRATOR = {**ORCHESTRATOR, 'KEY_PREFIXX': 'x'}\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "wrong_settings"}
    for command, expected in (("check", "(orchestrator.E001)"), ("queue_health", "did you mean 'KEY_PREFIX'")):
        done = subprocess.run([sys.executable, MANAGE, command], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert expected in done.stderr


def test_deploy_finds_a_redis_that_forgets(broker: Broker, settings: Any) -> None:
    """Eviction and a missing append-only file are each a warning; putting them right silences it."""
    broker.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "W021" in found(checks.check_redis())
    finally:
        broker.client.config_set("maxmemory-policy", "noeviction")
    assert found(checks.check_redis()) == []
    broker.client.config_set("appendonly", "no")
    try:
        assert found(checks.check_redis()) == ["W022"]
    finally:
        broker.client.config_set("appendonly", "yes")


def test_deploy_asks_the_state_redis_too(broker: Broker, settings: Any, tmp_path: Path) -> None:
    """A second Redis for state is looked at as well."""
    other = EmbeddedBroker(tmp_path, persistent=False)
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "STATE_URL": other.start()}
    try:
        assert found(checks.check_redis()) == ["W022"]
    finally:
        other.stop()


def test_deploy_says_what_it_could_not_ask(settings: Any, broker: Broker) -> None:
    """An unreachable Redis is a warning that tells no password."""
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "STATE_URL": f"redis://:sesame@127.0.0.1:{free_port()}/0"}
    messages = checks.check_redis()
    assert found(messages) == ["W020"]
    assert "sesame" not in messages[0].msg


@pytest.mark.parametrize(
    ("version", "old"), [("5.0.14", True), ("6.0.16", True), ("6.2.0", False), ("7", False), ("10.1.0", False)]
)
def test_deploy_knows_versions(version: str, old: bool) -> None:
    """6.2 is the oldest that will do."""
    assert bool(list(checks._too_old({"redis_version": version}, "here"))) is old


@pytest.mark.parametrize("pool", [True, {"min_size": 1}])
def test_a_pool_that_django_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch, pool: Any) -> None:
    """It would be found at the first query only; a pool whose connections have no age is right."""
    given = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.postgresql",
        "OPTIONS": {"pool": pool},
        "CONN_MAX_AGE": 600,
    }
    monkeypatch.setitem(connections.settings, "pooled", given)
    assert found(database_checks.check_pools()) == ["E006"]
    with pytest.raises(ImproperlyConfigured, match="persistent"):
        connections.create_connection("pooled").connect()
    given["CONN_MAX_AGE"] = 0
    assert found(database_checks.check_pools()) == []
