"""The ``ORCHESTRATOR`` setting, turned into one frozen, validated object.

Unknown keys and impossible values are refused with the value, the setting and the
way out. Read it through :func:`settings`; tests that override the setting get a
fresh object, because the cache is cleared on Django's ``setting_changed``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed

from orchestrator.contracts.addresses import SCHEMES, as_redis
from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.redaction import REDACTED_NAMES

POLICIES = (
    "orchestrator.policies.telemetry.Telemetry",
    "orchestrator.policies.attempts.Attempts",
    "orchestrator.policies.dead_letter.DeadLetters",
    "orchestrator.policies.redaction.Redaction",
    "orchestrator.policies.redrive.RedriveOnce",
    "orchestrator.policies.outbox.SendOnce",
    "orchestrator.policies.deduplication.Deduplication",
    "orchestrator.policies.idempotency.Idempotency",
    "orchestrator.policies.breaker.Breaking",
    "orchestrator.policies.limits.Limits",
    "orchestrator.policies.fairness.Fairness",
    "orchestrator.policies.tracking.Tracking",
)


#: Bytes that every message has, and then some.
SMALLEST_MESSAGE_LIMIT = 4096
TRANSPORTS = ("orchestrator", "stock")
#: Seconds. A quarter of it passes between two renewals.
SHORTEST_LEASE = 2.0
#: What the four digits in a message that came back can tell.
MOST_DELIVERIES = 9999


@dataclass(frozen=True, slots=True)
class Settings:
    """Every key of ``ORCHESTRATOR``, in lower case."""

    #: Dotted path of the project's Celery app.
    app: str = "orchestrator.celery:app"
    #: Redis that holds letters, leases and records; the broker where that is a Redis.
    state_url: str = ""
    #: Prefix of every key of ours in that Redis; may serve as hash tag.
    key_prefix: str = "orchestrator:"
    #: Which transport ``redis://`` means: "orchestrator", or kombu's "stock" one.
    transport: str = "orchestrator"
    #: Seconds after the last sign of life of a process at which what it held (messages, keys) goes to others.
    lease_seconds: float = 30.0
    #: How often a message may be delivered to workers that die over it before it goes to the inbox.
    max_deliveries: int = 5
    #: Seconds that a worker's running tasks get to finish when it is told to stop; None waits until they have ended.
    stop_grace_seconds: float | None = None
    #: Ordered policies, outermost first.
    policies: tuple[str, ...] = POLICIES
    #: Where dead letters are safe before the ack.
    letterbox: str = "orchestrator.stores.redis.letters:RedisLetterbox"
    #: Argument and key names that are redacted in every task.
    redacted_names: tuple[str, ...] = REDACTED_NAMES
    #: Seconds that a write to the letterbox may take before the message goes back.
    letterbox_timeout: float = 2.0
    #: Where records of transactional idempotency are kept: in the tasks' own database.
    transactional_records: str = "orchestrator.idempotency.records:DatabaseRecords"
    #: Whether a call is sent, "open", or refused, "closed", that cannot be checked for being a duplicate.
    deduplication_fails: str = "open"
    #: Days that closed (redriven, discarded) dead letters are kept; None keeps them.
    closed_letters_days: int | None = 90
    #: Days that open dead letters are kept; None, the default, keeps them until somebody acts.
    open_letters_days: int | None = None
    #: Days that results are kept, those of failures until somebody has acted on them; None keeps them.
    results_days: int | None = 30
    #: Successful results of each task that are kept, the newest; None keeps all of RESULTS_DAYS.
    results_per_task: int | None = None
    #: Results that may wait in Redis for a relay; beyond, workers write some themselves. 0 writes each at once.
    results_waiting: int = 50_000
    #: Seconds after which a redrive that was cut off half-way is taken up again.
    redrive_resume_seconds: float = 10.0
    #: Whether messages published inside a transaction are kept in the database until it commits. True: in the
    #: database that the router names for them; or the alias of one, or a list of aliases.
    outbox: bool | str | tuple[str, ...] = False
    #: Whether a message that the broker does not take is kept there, instead of failing the caller.
    outbox_fallback: bool = False
    #: Seconds after which a relay sends what the publishing process has not sent itself.
    outbox_grace_seconds: float = 5.0
    #: Days that the row of a message that was sent is kept while nobody knows how that ended; None keeps it till then.
    outbox_sent_days: int | None = 7
    #: Bytes that one task's message may have; more is refused where it is published.
    message_limit_bytes: int = 1024 * 1024
    #: What a task under limits does while they cannot be asked: "closed" waits, "open" runs without them.
    limits_fail: str = "closed"
    #: Seconds of waiting that make up for one step of priority, among messages that wait for a limit; None for never.
    aging_seconds: float | None = 60.0
    #: Share of claims that begin with the lowest priority, so that higher ones cannot starve it; 0 for never.
    low_priority_share: float = 0.05
    #: Where the Flower of this project is reached, for links; empty shows none.
    flower_url: str = ""
    #: What a scraper of Flower's /metrics sends as ``Authorization: Bearer``; empty asks for a login instead.
    metrics_token: str = ""


def parse(raw: Mapping[str, Any]) -> Settings:
    """Validate an ``ORCHESTRATOR`` dict.

    Raises:
        UnknownOption: a key is not known.
        InvalidOption: a value cannot work.
    """
    known = {field.name.upper(): field for field in fields(Settings)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise UnknownOption.among(key, known, "setting ORCHESTRATOR")
        values[key.lower()] = tuple(value) if isinstance(value, list) else value
    parsed = Settings(**values)
    for names, holds, wanted in _RULES:
        for name in names:
            if not holds(value := getattr(parsed, name)):
                raise InvalidOption(f"ORCHESTRATOR[{name.upper()!r}] = {value!r}: give {wanted}.")
    _check_outbox(parsed)
    return parsed


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= least


def _strings(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


#: Which settings must hold what, in words that follow "give".
_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("policies", "redacted_names"), _strings, "a list of strings"),
    (
        ("app", "key_prefix", "letterbox", "transactional_records"),
        lambda value: isinstance(value, str) and bool(value),
        "a non-empty string",
    ),
    (("state_url", "flower_url", "metrics_token"), lambda value: isinstance(value, str), "a string"),
    (("transport",), lambda value: value in TRANSPORTS, f"one of {', '.join(TRANSPORTS)}"),
    (
        ("lease_seconds",),
        lambda value: _number(value, SHORTEST_LEASE),
        f"{SHORTEST_LEASE:g} seconds or more, or a worker on a busy machine could not renew in time",
    ),
    (
        ("max_deliveries",),
        lambda value: _whole(value, 1) and value <= MOST_DELIVERIES,
        f"1 to {MOST_DELIVERIES} deliveries",
    ),
    (
        ("letterbox_timeout", "redrive_resume_seconds", "outbox_grace_seconds"),
        lambda value: _number(value, 0) and value > 0,
        "a number of seconds above 0",
    ),
    (
        ("stop_grace_seconds",),
        lambda value: value is None or _number(value, 0),
        "seconds, 0 or more, or None to wait for running tasks",
    ),
    (
        ("aging_seconds",),
        lambda value: value is None or (_number(value, 0) and value > 0),
        "seconds above 0, or None for strict priorities",
    ),
    (("low_priority_share",), lambda value: _number(value, 0) and value <= 0.5, "a share from 0 to 0.5"),
    (
        ("message_limit_bytes",),
        lambda value: _whole(value, SMALLEST_MESSAGE_LIMIT),
        f"a whole number of bytes, {SMALLEST_MESSAGE_LIMIT:,} or more, or a message without arguments would be too big",
    ),
    (
        ("closed_letters_days", "open_letters_days", "results_days"),
        lambda value: value is None or _whole(value, 1),
        "whole days, 1 or more, or None to keep for ever",
    ),
    (("results_per_task",), lambda value: value is None or _whole(value, 1), "whole results, 1 or more, or None"),
    (("outbox_sent_days",), lambda value: value is None or _whole(value, 0), "whole days, 0 or more, or None for ever"),
    (("results_waiting",), lambda value: _whole(value, 0), "a whole number of results, 0 or more"),
    (("limits_fail", "deduplication_fails"), lambda value: value in ("open", "closed"), '"open" or "closed"'),
)


def _check_outbox(parsed: Settings) -> None:
    where = parsed.outbox
    named = (where,) if isinstance(where, str) else where
    if not isinstance(where, bool) and not (
        isinstance(named, tuple) and named and all(isinstance(name, str) and name for name in named)
    ):
        raise InvalidOption(
            f"ORCHESTRATOR['OUTBOX'] = {where!r}: give True or False, the alias of a database, or a list of aliases."
        )
    if isinstance(named, tuple):
        databases = getattr(django_settings, "DATABASES", {})
        for name in named:
            if name not in databases:
                raise UnknownOption.among(name, databases, "setting ORCHESTRATOR['OUTBOX'], a database")
    if not isinstance(parsed.outbox_fallback, bool):
        raise InvalidOption(f"ORCHESTRATOR['OUTBOX_FALLBACK'] = {parsed.outbox_fallback!r}: give True or False.")
    if parsed.outbox_fallback and where is False:
        raise InvalidOption(
            "ORCHESTRATOR['OUTBOX_FALLBACK'] is True, but there is no outbox: set ORCHESTRATOR['OUTBOX'] to True, too."
        )


#: Settings of the project that are read once.
_READ = ("ORCHESTRATOR", "CELERY_BROKER_URL", "CELERY_BROKER_TRANSPORT_OPTIONS", "CELERY_BROKER_USE_SSL")


@cache
def settings() -> Settings:
    """Return the validated settings of this process."""
    return parse(getattr(django_settings, "ORCHESTRATOR", {}))


@cache
def state_url() -> str:
    """Return the URL of the Redis that holds letters, leases and records. Asked several times a task.

    Raises:
        InvalidOption: none is set and the broker is no Redis.
    """
    given = settings().state_url
    url = given or _broker_url()
    if not url.startswith(SCHEMES):
        # The scheme only: the rest may hold a password.
        which = "ORCHESTRATOR['STATE_URL']" if given else "the broker's URL"
        found = f"{which} begins with {url.partition(':')[0]!r}" if url else "none is known"
        raise InvalidOption(
            f"Orchestrator keeps dead letters in a Redis or Valkey before they reach the database, and {found}: "
            "set ORCHESTRATOR_STATE_URL (ORCHESTRATOR['STATE_URL']), or ORCHESTRATOR_BROKER_URL to a redis:// URL, "
            "or start the embedded one with 'manage.py up'."
        )
    return as_redis(given) if given else broker_as_redis()


def broker_as_redis() -> str:
    """Return the broker's URL as the stores read it, with what Celery's settings say about sentinels and TLS."""
    options = getattr(django_settings, "CELERY_BROKER_TRANSPORT_OPTIONS", None)
    return as_redis(_broker_url(), options, getattr(django_settings, "CELERY_BROKER_USE_SSL", None))


def limits_place() -> tuple[str, str]:
    """Return URL and key prefix of the Redis that counts limits: on our transport the broker, where messages wait.

    Raises:
        InvalidOption: see :func:`state_url`.
    """
    prefix = settings().key_prefix
    if not limits_beside_messages():
        return state_url(), prefix
    options = getattr(django_settings, "CELERY_BROKER_TRANSPORT_OPTIONS", None) or {}
    return broker_as_redis(), options.get("global_keyprefix", "") + prefix


def limits_beside_messages() -> bool:
    """Whether messages wait for limits in the broker, beside the counts."""
    return settings().transport == "orchestrator" and _broker_url().startswith(("redis://", "rediss://"))


def _broker_url() -> str:
    return str(getattr(django_settings, "CELERY_BROKER_URL", "") or "")


def _forget(*, setting: str, **_: Any) -> None:
    if setting in _READ:
        settings.cache_clear()
        state_url.cache_clear()


setting_changed.connect(_forget, dispatch_uid="orchestrator.conf")
