"""The task base class: declared options as data, behaviour from the policies."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from asgiref.sync import async_to_sync
from celery import shared_task
from celery.app.task import Task
from celery.exceptions import Reject

from orchestrator.contracts.breaker import Breaker
from orchestrator.contracts.deduplication import Deduplicate
from orchestrator.contracts.fairness import named_tenant
from orchestrator.contracts.idempotency import Idempotent
from orchestrator.contracts.limits import Concurrency, RateLimit
from orchestrator.contracts.options import Retries, check_options, check_sensitive_names
from orchestrator.contracts.ordering import named_order
from orchestrator.contracts.templates import Template
from orchestrator.engine import bulk, execution, limits, redispatch

#: Methods of Celery's Task that a declaration may replace; ``retry=`` or ``delay=`` would break the task.
HOOKS = frozenset({"before_start", "on_success", "on_failure", "on_retry", "after_return", "on_replace", "shadow_name"})
#: What the ``task`` decorator understands beside our options: attributes of Celery's own Task.
CELERY_OPTIONS = HOOKS | {
    name for name, value in vars(Task).items() if not name.startswith("_") and not inspect.isroutine(value)
}


class OrchestratedTask(redispatch.OurTask, Task):  # type: ignore[misc]  # Celery's Task is untyped
    """Base class of all tasks. Subclass it to declare options for several tasks::

        class PaymentTask(OrchestratedTask):
            abstract = True
            retries = Retries(on=(ConnectionError,), limit=8)
            sensitive = ("card_number",)

    Options only: subclasses that override ``__call__`` take the behaviour upon themselves.
    """

    abstract = True
    Request = "orchestrator.engine.request:OrchestratedRequest"

    #: Retry on named errors; None leaves Celery's own options (``autoretry_for`` …) to work.
    retries: Retries | None = None
    #: Names of arguments whose values appear nowhere outside the payload.
    sensitive: tuple[str, ...] = ()
    #: Take effect once for each key; see :class:`~orchestrator.Idempotent`.
    idempotency: Idempotent | None = None
    #: Publish calls that mean the same run once; see :class:`~orchestrator.Deduplicate`.
    deduplication: Deduplicate | None = None
    #: Leave a far side alone that fails; see :class:`~orchestrator.Breaker`.
    breaker: Breaker | None = None
    #: How often and how many at once; see :class:`~orchestrator.RateLimit` and :class:`~orchestrator.Concurrency`.
    limits: Sequence[RateLimit | Concurrency] = ()
    #: Template or callable that names the tenant of a call: queues are shared fairly among tenants, by weight.
    fairness_key: str | Callable[..., str] | None = None
    fairness_weight: int | Callable[..., int] = 1
    #: Template or callable that names what a call is about: calls of one key leave the outbox in order.
    ordering_key: str | Callable[..., str] | None = None
    #: Whether a message that expired before it started is buried instead of dropped.
    bury_expired: bool = False
    #: Whether its result shows that it is queued or delayed before a worker begins with it.
    tracked: bool = False
    #: Whether the task itself, not a setting, limits its time.
    declares_limits: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = {
            name: value
            for name, value in vars(cls).items()
            if not name.startswith("__") and not callable(value) and not isinstance(value, staticmethod | property)
        }
        name = declared.get("name") or cls.__qualname__
        check_options(name, declared, known=CELERY_OPTIONS, strict=False)
        cls.sensitive = tuple(cls.sensitive)
        cls.limits = tuple(cls.limits)
        # A function in the class would become a method.
        for option in ("fairness_key", "fairness_weight", "ordering_key"):
            if inspect.isfunction(vars(cls).get(option)):
                setattr(cls, option, staticmethod(vars(cls)[option]))
        run = vars(cls).get("run")
        if run is not None:
            named = (named_tenant(cls.fairness_key), named_order(cls.ordering_key))
            keyed = (cls.idempotency, cls.deduplication, *named, *cls.limits)
            _check_signature(name, getattr(run, "__func__", run), cls.sensitive, keyed)
        if declared.get("time_limit") is not None or declared.get("soft_time_limit") is not None:
            # Told apart now: Celery fills these attributes from its settings when it binds the task.
            cls.declares_limits = True
            limits.declare(cls, declared.get("time_limit"), declared.get("soft_time_limit"))
        if cls.retries is not None and "max_retries" not in declared:
            cls.max_retries = cls.retries.limit

    @cached_property
    def body(self) -> Callable[..., Any]:
        """The task's function; a coroutine function is run to its end, not returned unrun."""
        return async_to_sync(self.run) if inspect.iscoroutinefunction(self.run) else self.run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        return execution.execute(self, request, args, kwargs)

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish as in Celery: what Celery does on the way, without the settings that need no look now.

        Raises:
            PublishFailed: the broker did not take the message, as far as is known.
        """
        made = None
        if producer is None and link is None and link_error is None:
            made = self.publish_options(args, kwargs, {**options, "shadow": shadow} if shadow else options)
        if made is None:
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)
        return self._get_app().send_task(self.name, args, kwargs, task_id=task_id, **made)

    def publish_options(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what Celery's ``apply_async`` makes of its options, or None where only Celery knows.

        Raises:
            TypeError: the arguments do not fit the task.
        """
        if (
            self._dump_pydantic_arguments is not None
            or (self.soft_time_limit and self.time_limit and self.soft_time_limit > self.time_limit)
            or not self._get_app().quick.steady()
        ):
            return None
        if self.typing:
            self.__header__(*(args or ()), **(kwargs or {}))
        made = {**self._get_exec_options(), "ignore_result": self.ignore_result, **options}
        made["result_cls"], made["task_type"] = self.AsyncResult, self
        if not made.get("shadow"):
            made["shadow"] = self.shadow_name(args, kwargs, made)
        return made

    def bulk_options(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return :meth:`publish_options`, or None where a subclass has its own ``apply_async``, which then is asked."""
        own = type(self).apply_async is not OrchestratedTask.apply_async
        return None if own else self.publish_options(args, kwargs, options)

    def delay_many(self, arguments: Iterable[Any], *, batch_size: int = bulk.BATCH, **options: Any) -> bulk.Published:
        """Publish this task once for each item, in batches, in constant memory.

        Args:
            arguments: of any length, taken as they are needed; each item is a tuple of positional or a dict of
                named arguments.
            batch_size: messages that are sent in one call, all of them or none.
            options: as for ``apply_async``, the same for all.

        Returns:
            the ids, in order, each made when it is asked for.
        Raises:
            BulkFailed: the broker did not take a batch; says what was sent, and can go on from there.
            InvalidOption: an item is no arguments.
        """
        return bulk.delay_many(self, arguments, batch_size, options)

    def retry(
        self, args: Any = None, kwargs: Any = None, exc: BaseException | None = None, throw: bool = True, **options: Any
    ) -> Any:
        """Retry as in Celery, keeping the attempt's error in the message's history.

        Raises:
            Reject: the retry could not be published; the message goes back to its
                queue (Celery would drop it).
        """
        request = self.request
        if not request.called_directly:
            options.setdefault("headers", redispatch.with_history(request, exc or sys.exception()))
        try:
            return super().retry(args, kwargs, exc=exc, throw=throw, **options)
        except Reject as rejected:
            raise Reject(rejected.reason, requeue=True) from rejected


def _check_signature(
    name: str,
    function: Callable[..., Any],
    sensitive: tuple[str, ...],
    keyed: Iterable[Template | Idempotent | Deduplicate | RateLimit | Concurrency | None],
) -> None:
    """Refuse names of arguments that a task's function does not have."""
    declared = [option for option in keyed if option is not None]
    if not sensitive and not declared:
        return
    parameters = list(inspect.signature(function).parameters.values())
    if sensitive and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        check_sensitive_names(name, sensitive, [p.name for p in parameters])
    for option in declared:
        option.check(name, parameters, sensitive)


@overload
def task(function: Callable[..., Any], /) -> Any: ...


@overload
def task(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...


def task(*args: Any, **options: Any) -> Any:
    """Declare a task: Celery's ``shared_task`` with our options, all of them checked now.

    Usable as ``@task`` or ``@task(...)``.

    Raises:
        UnknownOption: nobody understands an option; the message names the nearest one.
        InvalidOption: a value cannot work.
    """
    base = options.get("base")
    known = CELERY_OPTIONS | (set(dir(base)) if base is not None else set())

    def declare(function: Callable[..., Any]) -> Any:
        name = options.get("name") or f"{function.__module__}.{function.__name__}"
        check_options(name, options, known=known)
        sensitive = options.get("sensitive", getattr(base, "sensitive", ()))
        keyed = [options.get(option, getattr(base, option, None)) for option in ("idempotency", "deduplication")]
        keyed.append(named_tenant(options.get("fairness_key", getattr(base, "fairness_key", None))))
        keyed.append(named_order(options.get("ordering_key", getattr(base, "ordering_key", None))))
        keyed += options.get("limits", getattr(base, "limits", ()))
        _check_signature(name, function, tuple(sensitive), keyed)
        return shared_task(**options)(function)

    if len(args) == 1 and callable(args[0]) and not options:
        return declare(args[0])
    if args:
        raise TypeError("@task takes keyword options only, as in @task(retries=Retries(on=(OSError,))).")
    return declare
