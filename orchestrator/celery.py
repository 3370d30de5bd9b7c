"""Composition root: the one place where everything is wired.

``celery -A orchestrator.celery`` finds ``app``, which is made at first use, so that
a project of its own may import :class:`OrchestratorApp` without getting two apps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Any

from celery._state import _get_active_apps
from celery.contrib.django.task import DjangoTask
from celery.exceptions import TaskPredicate
from celery.utils import uuid
from django.apps import apps
from django.core.signals import setting_changed
from django.db import DEFAULT_DB_ALIAS, transaction
from kombu.utils.imports import symbol_by_name

from orchestrator import conf
from orchestrator.contracts.errors import ConfigurationError, InvalidOption
from orchestrator.contracts.idempotency import TransactionalRecords
from orchestrator.contracts.policy import Parts, PolicyStack
from orchestrator.contracts.ports import Outbox
from orchestrator.engine.app import EngineApp
from orchestrator.engine.bulk import BATCH, Published
from orchestrator.engine.bulk import bulk as _bulk
from orchestrator.engine.publication import Dispatcher
from orchestrator.engine.task import OrchestratedTask
from orchestrator.policies.redaction import Redaction, cover
from orchestrator.stores.redis.attempts import RedisAttemptLog
from orchestrator.stores.redis.breakers import RedisBreakers
from orchestrator.stores.redis.deduplication import RedisDeduplicationLocks
from orchestrator.stores.redis.ended import RedisEndedRows
from orchestrator.stores.redis.idempotency import RedisIdempotencyRecords
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.stores.redis.limits import RedisLimits
from orchestrator.stores.redis.partings import Partings
from orchestrator.stores.redis.progress import RedisProgressLog
from orchestrator.stores.redis.results import ResultStore
from orchestrator.stores.redis.revoked import RedisRevoked
from orchestrator.transport import office, registry
from orchestrator.transport.inflight import Aside

#: Seconds that a caller waits at most to hear whether it is a duplicate.
DEDUPLICATION_TIMEOUT = 1.0


class DjangoOrchestratedTask(OrchestratedTask, DjangoTask):  # type: ignore[misc]  # Celery's classes are untyped
    """Our task with Celery's Django extras, which a custom task class would lose."""

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> Any:
        """Publish when the current transaction commits; see :meth:`apply_async_on_commit`."""
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        using: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish when the current transaction commits, or now outside of one.

        Returns:
            the ``AsyncResult`` with the id under which it will run (Celery returns None).
        """
        task_id = options.pop("task_id", None) or uuid()
        outbox = self.app.outbox
        if outbox is not None and options.get("outbox") is None and outbox.place(None) == (using or DEFAULT_DB_ALIAS):
            return self.apply_async(args, kwargs, task_id=task_id, **options)

        result = self.AsyncResult(task_id)

        def publish() -> None:
            # Only now is it known whether another call was first.
            sent = self.apply_async(args, kwargs, task_id=task_id, **options)
            result.id, result.duplicate_of = sent.id, getattr(sent, "duplicate_of", None)

        transaction.on_commit(publish, using=using)
        return result


def _transactional_records() -> TransactionalRecords:
    """Return the records that live in the database; only now is their model needed."""
    records: TransactionalRecords = named("TRANSACTIONAL_RECORDS", conf.settings().transactional_records)()
    return records


class OrchestratorApp(EngineApp):
    """Celery's app with the platform wired in. Write it where you wrote ``Celery(...)``::

    app = OrchestratorApp("shop")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    app.autodiscover_tasks()
    """

    task_cls = "orchestrator.celery:DjangoOrchestratedTask"

    builtin_fixups = frozenset({"orchestrator.engine.connections:fixup"})
    _outbox: tuple[conf.Settings, Outbox | None] | None = None

    @property
    def outbox(self) -> Outbox | None:
        """The outbox of ``ORCHESTRATOR["OUTBOX"]``, made again when the settings are.

        Raises:
            ConfigurationError: its app is not installed.
        """
        settings = conf.settings()
        if self._outbox is None or self._outbox[0] is not settings:
            if settings.outbox and not apps.models_ready:
                # A producer that never set Django up has no transaction either.
                return None
            self._outbox = (settings, _outbox_of(settings))
        return self._outbox[1]

    @cached_property
    def revoked(self) -> RedisRevoked:
        """Ids of tasks that were called off."""
        settings = conf.settings()
        return RedisRevoked(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)

    @cached_property
    def partings(self) -> Partings:
        """What tasks of this process leave, made safe before their acknowledgements."""
        broker = conf.broker_as_redis() if conf.limits_beside_messages() else ""
        office.accompany(made := Partings(office.attended, broker), first=True)
        return made

    @property
    def message_limit(self) -> int:
        """Bytes of ``ORCHESTRATOR["MESSAGE_LIMIT_BYTES"]``."""
        return conf.settings().message_limit_bytes

    @cached_property
    def stack(self) -> PolicyStack:
        """The policies of ``ORCHESTRATOR["POLICIES"]``.

        Raises:
            InvalidOption: a setting cannot work.
        """
        settings = conf.settings()
        url = conf.state_url()
        letterbox = named("LETTERBOX", settings.letterbox)(url, settings.key_prefix, settings.letterbox_timeout)
        attempts = RedisAttemptLog(url, settings.key_prefix, settings.letterbox_timeout, gathers=office.attended)
        office.accompany(attempts)
        waiting = ResultStore(url, settings.key_prefix, settings.letterbox_timeout)
        leases = RedisLeases(url, settings.key_prefix, settings.letterbox_timeout)
        parts = Parts(
            letterbox=letterbox,
            leases=leases,
            idempotency=RedisIdempotencyRecords(leases),
            limits=self.limits,
            transactional_records=_transactional_records,
            deduplication=RedisDeduplicationLocks(
                # A caller waits for this and then for the broker, which may be the same server.
                RedisLeases(url, settings.key_prefix, min(DEDUPLICATION_TIMEOUT, settings.letterbox_timeout)),
                settings.lease_seconds,
            ),
            deduplication_open=settings.deduplication_fails == "open",
            dispatch=Dispatcher(self),
            breakers=RedisBreakers(leases),
            control_flow=(TaskPredicate,),
            attempts=attempts,
            progress=RedisProgressLog(waiting, lambda call, alias: transaction.on_commit(call, using=alias)),
            ended_rows=RedisEndedRows(url, settings.key_prefix, settings.letterbox_timeout),
            redacted_names=settings.redacted_names,
            lease_seconds=settings.lease_seconds,
            limits_open=settings.limits_fail == "open",
        )
        return PolicyStack(named("POLICIES", path).build(parts) for path in settings.policies)

    @cached_property
    def limits(self) -> RedisLimits:
        """Where limits are counted.

        Raises:
            InvalidOption: no Redis for it is known.
        """
        settings = conf.settings()
        return RedisLimits(RedisLeases(*conf.limits_place(), settings.letterbox_timeout), settings.aging_seconds)

    @cached_property
    def _redaction(self) -> Redaction:  # letters are redacted whatever the list of policies says
        return Redaction(conf.settings().redacted_names)

    def reprs(self, task: Any, args: Any, kwargs: Any) -> tuple[str, str]:
        """Return bounded, redacted texts of arguments."""
        return self._redaction.reprs(task, args, kwargs)

    def masked(self, task: Any, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return redacted copies of arguments."""
        return self._redaction.masked(task, args, kwargs)

    def secrets(self, task: Any, args: Any, kwargs: Any) -> list[str]:
        """Return the texts of all sensitive values among arguments."""
        return self._redaction.secrets(task, args, kwargs)

    def cover(self, text: str, secrets: Iterable[str]) -> str:
        """Return a text with all secrets masked."""
        return cover(text, secrets)


def _outbox_of(settings: conf.Settings) -> Outbox | None:
    if not settings.outbox:
        return None
    if not apps.is_installed("orchestrator.outbox"):
        raise ConfigurationError(
            f"ORCHESTRATOR['OUTBOX'] = {settings.outbox!r}, but 'orchestrator.outbox' is not in INSTALLED_APPS. "
            "Add it and run 'manage.py migrate', or set ORCHESTRATOR['OUTBOX'] to False."
        )
    made: Outbox = symbol_by_name("orchestrator.outbox.writer:DatabaseOutbox")(settings)
    return made


@cache
def _reference_app() -> OrchestratorApp:
    app = OrchestratorApp("orchestrator")
    app.config_from_object("django.conf:settings", namespace="CELERY")
    app.autodiscover_tasks()
    return app


def get_app() -> OrchestratorApp:
    """Return the project's app, importing it if need be.

    Raises:
        ConfigurationError: ``ORCHESTRATOR["APP"]`` names no OrchestratorApp.
    """
    path = conf.settings().app
    app = _reference_app() if path == "orchestrator.celery:app" else named("APP", path)
    if not isinstance(app, OrchestratorApp):
        raise ConfigurationError(
            f"ORCHESTRATOR['APP'] = {path!r} is a {type(app).__name__}, not an OrchestratorApp. "
            "Write app = OrchestratorApp(...) where your project writes app = Celery(...)."
        )
    return app


def results(task_ids: Iterable[str]) -> list[Any]:
    """Return an ``AsyncResult`` for each id, in order, with all states fetched at once::

        done = [result.id for result in results(ids) if result.state == "SUCCESS"]

    See :meth:`~orchestrator.engine.app.EngineApp.results`.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    return get_app().results(task_ids)


def bulk(signatures: Iterable[Any], *, batch_size: int = BATCH) -> Published:
    """Publish signatures of any number, in constant memory; see :func:`orchestrator.engine.bulk.bulk`."""
    return _bulk(get_app(), signatures, batch_size)


def named(key: str, path: str) -> Any:
    """Import what a key of ``ORCHESTRATOR`` names.

    Raises:
        InvalidOption: it cannot be imported.
    """
    try:
        return symbol_by_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidOption(
            f"ORCHESTRATOR[{key!r}] names {path!r}, which cannot be imported ({type(error).__name__}: {error}). "
            "Give 'package.module:name' of something that can."
        ) from error


def _bury(aside: Aside) -> None:
    get_app().bury_undelivered(aside)


def _settings_changed(**_: Any) -> None:
    """Have messages made anew: tests change settings of Celery, too."""
    for app in _get_active_apps():
        if isinstance(app, OrchestratorApp):
            app.quick.forget()


setting_changed.connect(_settings_changed, dispatch_uid="orchestrator.celery")
registry.register()  # before anybody connects: whoever uses our app imports this module first
office.bury_with(_bury)


def __getattr__(name: str) -> Any:
    if name == "app":
        return _reference_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["DjangoOrchestratedTask", "OrchestratorApp", "bulk", "get_app", "results"]
