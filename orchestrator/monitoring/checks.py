"""Django system checks: settings that cannot work, or that work against each other.

The plain ones look at settings only. Those with ``--deploy`` ask the running Redis.
Registered by ``orchestrator.apps``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register

from orchestrator import conf
from orchestrator.celery import get_app, named
from orchestrator.contracts.errors import ConfigurationError
from orchestrator.monitoring import database_checks

TAG = "orchestrator"
#: Apps of ours that the platform's rows, pages and verbs live in.
APPS = tuple(f"orchestrator.{name}" for name in ("audit", "deadletters", "idempotency", "outbox", "runs", "schedules"))


def _parsed() -> conf.Settings | CheckMessage:
    try:
        return conf.parse(getattr(django_settings, "ORCHESTRATOR", {}))
    except (ConfigurationError, TypeError) as error:
        return Error(
            str(error), hint="Every key is described in orchestrator/docs/settings.md.", id="orchestrator.E001"
        )


@register(TAG)
def check_settings(**_: Any) -> list[CheckMessage]:
    """E001 invalid; E002 app is none of ours; E003 no Redis for letters; W003 no broker yet; E004 an app is missing."""
    found = _parsed()
    if isinstance(found, CheckMessage):
        return [found]
    return [message for question in (_app, _parts, _state, _installed) for message in question()]


def _app() -> Iterator[CheckMessage]:
    try:
        get_app()
    except ConfigurationError as error:
        yield Error(
            str(error),
            hint="Set ORCHESTRATOR['APP'] to 'package.module:name' of your OrchestratorApp.",
            id="orchestrator.E002",
        )


def _parts() -> Iterator[CheckMessage]:
    """Find what a worker would only find when its first task is there."""
    settings = conf.settings()
    for key, path in [("LETTERBOX", settings.letterbox), *(("POLICIES", path) for path in settings.policies)]:
        try:
            named(key, path)
        except ConfigurationError as error:
            yield Error(
                str(error), hint=f"Leave {key} out of ORCHESTRATOR to get what we ship.", id="orchestrator.E001"
            )


def _state() -> Iterator[CheckMessage]:
    try:
        conf.state_url()
    except ConfigurationError as error:
        if conf.settings().state_url or getattr(django_settings, "CELERY_BROKER_URL", ""):
            yield Error(
                str(error),
                hint="Dead letters must be safe before their message is acknowledged, whatever the database does.",
                id="orchestrator.E003",
            )
        else:
            # Not an error: migrations and the like must run before the first broker does.
            yield Warning(
                "No broker is known yet, so nothing can be sent.",
                hint="Set ORCHESTRATOR_BROKER_URL, or start everything with 'manage.py up', which brings a broker.",
                id="orchestrator.W003",
            )


def _installed() -> Iterator[CheckMessage]:
    for name in APPS:
        if not apps.is_installed(name):
            yield Error(
                f"{name!r} is not in INSTALLED_APPS.",
                hint="Add the apps that orchestrator/docs/adopt.md lists, then run 'manage.py migrate'.",
                id="orchestrator.E004",
            )


@register(TAG)
def check_celery(**_: Any) -> list[CheckMessage]:
    """E005 not JSON only; W006 eager; W007 early ack; W008 messages come back early; W009 RabbitMQ delays nothing."""
    found = _parsed()
    if isinstance(found, CheckMessage) or list(_app()):
        # Said by check_settings already; there is no app to look at.
        return []
    app_conf = get_app().conf
    return [
        message for question in (_json_only, _eager, _late_ack, _visibility, _delays) for message in question(app_conf)
    ]


def _json_only(app_conf: Any) -> Iterator[CheckMessage]:
    for name in ("task_serializer", "result_serializer", "event_serializer", "accept_content", "result_accept_content"):
        value = app_conf[name]
        given = [value] if isinstance(value, str) else list(value or ())
        wrong = [item for item in given if item not in ("json", "application/json")]
        if wrong:
            yield Error(
                f"CELERY_{name.upper()} = {value!r} lets in {', '.join(map(repr, wrong))}, "
                "and Orchestrator speaks JSON only.",
                hint="Remove the setting, or set it to 'json'. A pickle from the broker is code from the broker.",
                id="orchestrator.E005",
            )


def _eager(app_conf: Any) -> Iterator[CheckMessage]:
    if app_conf.task_always_eager:
        yield Warning(
            "CELERY_TASK_ALWAYS_EAGER is on: tasks run in the caller, without broker, retry or dead letter.",
            hint="Remove it. In tests, run a real worker; an embedded broker starts in a tenth of a second.",
            id="orchestrator.W006",
        )


def _late_ack(app_conf: Any) -> Iterator[CheckMessage]:
    if not app_conf.task_acks_late:
        yield Warning(
            "CELERY_TASK_ACKS_LATE is off: a task whose worker dies is gone without a dead letter.",
            hint="Remove the setting. For a task that must never start twice, set acks_late=False on that task alone.",
            id="orchestrator.W007",
        )


def _visibility(app_conf: Any) -> Iterator[CheckMessage]:
    limit = app_conf.task_time_limit or app_conf.task_soft_time_limit
    hidden = (app_conf.broker_transport_options or {}).get("visibility_timeout")
    if limit and hidden and hidden <= limit:
        yield Warning(
            f"CELERY_BROKER_TRANSPORT_OPTIONS['visibility_timeout'] = {hidden} s is not longer than the hard time "
            f"limit of {limit} s: a long task is delivered a second time while it still runs.",
            hint="Raise visibility_timeout above the longest time limit, or lower CELERY_TASK_TIME_LIMIT.",
            id="orchestrator.W008",
        )


def _delays(app_conf: Any) -> Iterator[CheckMessage]:
    url = str(app_conf.broker_write_url or "")
    delays = app_conf.task_default_queue_type == "quorum" and app_conf.task_default_exchange_type == "topic"
    if url.partition("://")[0] in ("amqp", "amqps", "pyamqp") and not app_conf.task_queues and not delays:
        yield Warning(
            f"CELERY_TASK_DEFAULT_QUEUE_TYPE is {app_conf.task_default_queue_type!r} and "
            f"CELERY_TASK_DEFAULT_EXCHANGE_TYPE {app_conf.task_default_exchange_type!r}: RabbitMQ holds nothing back "
            "then, so tasks that are delayed, or deferred by a limit, wait in the memory of a worker.",
            hint="Set them to 'quorum' and 'topic'; orchestrator/docs/brokers.md has all settings for RabbitMQ.",
            id="orchestrator.W009",
        )


@register(TAG, deploy=True)
def check_redis(**_: Any) -> list[CheckMessage]:
    """W020 unreachable; W021 evicts; W022 forgets at a restart; W023 too old (the broker's and the state's Redis)."""
    if isinstance(_parsed(), CheckMessage) or list(_app()):
        return []
    from orchestrator.monitoring.reach import REDIS_SCHEMES, broker_url, redis_url

    urls = [redis_url(broker_url())] if broker_url().startswith(REDIS_SCHEMES) else []
    if not list(_state()) and conf.state_url() not in urls:
        urls.append(conf.state_url())
    return [message for url in urls for message in _redis(url)]


def _redis(url: str) -> Iterator[CheckMessage]:
    import redis

    from orchestrator.stores.redis.client import client, location

    try:
        # INFO, since hosted Redis often forbids CONFIG.
        info: dict[str, Any] = client(url, 3.0).info()
    except (redis.RedisError, ConfigurationError) as error:
        yield Warning(
            f"Redis at {location(url)} cannot be asked ({type(error).__name__}: {error}).",
            hint="Run this check where the workers run, with the same settings.",
            id="orchestrator.W020",
        )
        return
    for question in (_evicts, _forgets, _too_old):
        yield from question(info, location(url))


def _evicts(info: dict[str, Any], where: str) -> Iterator[CheckMessage]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Warning(
            f"Redis at {where} has maxmemory-policy {policy}: short of memory, it throws messages and letters away.",
            hint="Set maxmemory-policy to noeviction; then it refuses writes instead, which producers hear about.",
            id="orchestrator.W021",
        )


def _forgets(info: dict[str, Any], where: str) -> Iterator[CheckMessage]:
    if not int(info.get("aof_enabled", 0)):
        yield Warning(
            f"Redis at {where} keeps no append-only file: a restart loses every message since the last snapshot.",
            hint="Set appendonly yes (and appendfsync always, if not even a power cut may cost a message).",
            id="orchestrator.W022",
        )


def _too_old(info: dict[str, Any], where: str) -> Iterator[CheckMessage]:
    # Valkey reports the Redis version that it is compatible with under the same name.
    version = str(info.get("redis_version", "0"))
    major, minor = (int(part) for part in [*version.split("."), "0"][:2])
    if (major, minor) < (6, 2):
        yield Warning(
            f"Redis at {where} is version {version}; Orchestrator needs 6.2.",
            hint="Upgrade to Redis 6.2 or newer, or to any Valkey.",
            id="orchestrator.W023",
        )


#: For the documentation and its test: every check function.
CHECKS: tuple[Callable[..., list[CheckMessage]], ...] = (
    check_settings,
    check_celery,
    check_redis,
    database_checks.check_pools,
    database_checks.check_poolers,
)
