"""The task base class: declared options as data, behaviour from the policies."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, overload

from asgiref.sync import async_to_sync
from celery import shared_task
from celery.app.task import Task
from celery.exceptions import Reject

from orchestrator.contracts.fairness import check_names
from orchestrator.contracts.idempotency import Idempotent
from orchestrator.contracts.limits import Concurrency, RateLimit
from orchestrator.contracts.options import Retries, check_options, check_sensitive_names
from orchestrator.engine import execution, limits, redispatch

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
    #: How often and how many at once; see :class:`~orchestrator.RateLimit` and :class:`~orchestrator.Concurrency`.
    limits: Sequence[RateLimit | Concurrency] = ()
    #: Template or callable that names the tenant of a call: queues are shared fairly among tenants, by weight.
    fairness_key: str | Callable[..., str] | None = None
    fairness_weight: int | Callable[..., int] = 1
    #: Whether a message that expired before it started is buried instead of dropped.
    bury_expired: bool = False
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
        for option in ("fairness_key", "fairness_weight"):
            if inspect.isfunction(vars(cls).get(option)):
                setattr(cls, option, staticmethod(vars(cls)[option]))
        run = vars(cls).get("run")
        if run is not None:
            _check_signature(
                name, getattr(run, "__func__", run), cls.sensitive, cls.idempotency, cls.limits, cls.fairness_key
            )
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
    idempotency: Idempotent | None,
    limits: Sequence[RateLimit | Concurrency],
    fairness_key: object,
) -> None:
    """Refuse names of arguments that a task's function does not have."""
    if not sensitive and idempotency is None and not limits and fairness_key is None:
        return
    parameters = list(inspect.signature(function).parameters.values())
    if sensitive and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        check_sensitive_names(name, sensitive, [p.name for p in parameters])
    if idempotency is not None:
        idempotency.check(name, parameters, sensitive)
    for limit in limits:
        limit.check(name, parameters, sensitive)
    check_names(name, fairness_key, parameters, sensitive)


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
        inherited = getattr(base, "sensitive", ()), getattr(base, "idempotency", None)
        sensitive, idempotency = options.get("sensitive", inherited[0]), options.get("idempotency", inherited[1])
        kept = options.get("limits", getattr(base, "limits", ()))
        fairness_key = options.get("fairness_key", getattr(base, "fairness_key", None))
        _check_signature(name, function, tuple(sensitive), idempotency, kept, fairness_key)
        return shared_task(**options)(function)

    if len(args) == 1 and callable(args[0]) and not options:
        return declare(args[0])
    if args:
        raise TypeError("@task takes keyword options only, as in @task(retries=Retries(on=(OSError,))).")
    return declare
