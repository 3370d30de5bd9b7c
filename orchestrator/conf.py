"""The ``ORCHESTRATOR`` setting, turned into one frozen, validated object.

Unknown keys and impossible values are refused with the value, the setting and the
way out. Read it through :func:`settings`; tests that override the setting get a
fresh object, because the cache is cleared on Django's ``setting_changed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed

from orchestrator.contracts.errors import InvalidOption, UnknownOption

#: Names whose values never leave the payload, wherever they appear as an argument
#: or as a key in one.
REDACTED_NAMES = (
    "password",
    "passwd",
    "secret",
    "token",
    "access_token",
    "refresh_token",
    "api_key",
    "apikey",
    "authorization",
    "credentials",
    "private_key",
    "card_number",
    "cvv",
    "iban",
    "ssn",
)

POLICIES = (
    "orchestrator.policies.telemetry.Telemetry",
    "orchestrator.policies.attempts.Attempts",
    "orchestrator.policies.dead_letter.DeadLetters",
    "orchestrator.policies.redaction.Redaction",
    "orchestrator.policies.redrive.RedriveOnce",
    "orchestrator.policies.outbox.SendOnce",
    "orchestrator.policies.idempotency.Idempotency",
)


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
    for name in ("policies", "redacted_names"):
        value = getattr(parsed, name)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise InvalidOption(f"ORCHESTRATOR[{name.upper()!r}] = {value!r}: give a list of strings.")
    _check_transport(parsed)
    _check_outbox(parsed)
    for name in ("letterbox_timeout", "redrive_resume_seconds", "outbox_grace_seconds"):
        value = getattr(parsed, name)
        if not isinstance(value, int | float) or value <= 0:
            raise InvalidOption(f"ORCHESTRATOR[{name.upper()!r}] = {value!r}: give a number of seconds above 0.")
    for name in ("closed_letters_days", "open_letters_days", "results_days"):
        value = getattr(parsed, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidOption(
                f"ORCHESTRATOR[{name.upper()!r}] = {value!r}: give whole days, 1 or more, or None to keep for ever."
            )
    kept = parsed.results_per_task
    if kept is not None and (not isinstance(kept, int) or isinstance(kept, bool) or kept < 1):
        raise InvalidOption(
            f"ORCHESTRATOR['RESULTS_PER_TASK'] = {kept!r}: give a whole number, 1 or more, or None for no such limit."
        )
    if not isinstance(parsed.results_waiting, int) or parsed.results_waiting < 0:
        raise InvalidOption(
            f"ORCHESTRATOR['RESULTS_WAITING'] = {parsed.results_waiting!r}: give a whole number of results, 0 or more."
        )
    needed = ("app", "key_prefix", "letterbox", "transactional_records")
    for name in (*needed, "state_url", "flower_url", "metrics_token"):
        value = getattr(parsed, name)
        if not isinstance(value, str) or (not value and name in needed):
            raise InvalidOption(f"ORCHESTRATOR[{name.upper()!r}] = {value!r}: give a non-empty string.")
    return parsed


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


def _check_transport(parsed: Settings) -> None:
    if parsed.transport not in TRANSPORTS:
        raise InvalidOption(f"ORCHESTRATOR['TRANSPORT'] = {parsed.transport!r}: give one of {', '.join(TRANSPORTS)}.")
    if not isinstance(parsed.lease_seconds, int | float) or parsed.lease_seconds < SHORTEST_LEASE:
        raise InvalidOption(
            f"ORCHESTRATOR['LEASE_SECONDS'] = {parsed.lease_seconds!r}: give {SHORTEST_LEASE:g} seconds or more, "
            "or a worker on a busy machine could not renew in time."
        )
    if not isinstance(parsed.max_deliveries, int) or not 1 <= parsed.max_deliveries <= MOST_DELIVERIES:
        raise InvalidOption(
            f"ORCHESTRATOR['MAX_DELIVERIES'] = {parsed.max_deliveries!r}: give 1 to {MOST_DELIVERIES} deliveries."
        )


@cache
def settings() -> Settings:
    """Return the validated settings of this process."""
    return parse(getattr(django_settings, "ORCHESTRATOR", {}))


def state_url() -> str:
    """Return the URL of the Redis that holds letters, leases and records.

    Raises:
        InvalidOption: none is set and the broker is no Redis.
    """
    given = settings().state_url
    url = given or str(getattr(django_settings, "CELERY_BROKER_URL", "") or "")
    if not url.startswith(("redis://", "rediss://", "unix://", "redis+socket://")):
        # The scheme only: the rest may hold a password.
        which = "ORCHESTRATOR['STATE_URL']" if given else "the broker's URL"
        found = f"{which} begins with {url.partition(':')[0]!r}" if url else "none is known"
        raise InvalidOption(
            f"Orchestrator keeps dead letters in a Redis or Valkey before they reach the database, and {found}: "
            "set ORCHESTRATOR_STATE_URL (ORCHESTRATOR['STATE_URL']), or ORCHESTRATOR_BROKER_URL to a redis:// URL, "
            "or start the embedded one with 'manage.py up'."
        )
    return "unix://" + url.removeprefix("redis+socket://") if url.startswith("redis+socket://") else url


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "ORCHESTRATOR":
        settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="orchestrator.conf")
