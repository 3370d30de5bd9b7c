"""What a task may declare beyond Celery's own options, validated at import."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.breaker import Breaker, check_breaker
from orchestrator.contracts.deduplication import Deduplicate
from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.fairness import check_fairness
from orchestrator.contracts.idempotency import Idempotent
from orchestrator.contracts.limits import check_limits
from orchestrator.contracts.ordering import check_ordering


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Retry on named errors, with exponential backoff and full jitter.

    The delay before retry *n* (counted from 1) is drawn evenly from
    ``[0, min(cap, base * factor ** (n - 1))]`` (full jitter, after Marc Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Args:
        on: exception classes that are worth another attempt.
        limit: retries after the first attempt.
        base: seconds, upper bound of the first delay.
        factor: growth of the bound from one retry to the next.
        cap: seconds, largest bound.
        jitter: False takes the bound itself.

    Raises:
        InvalidOption: a value cannot work.
    """

    on: tuple[type[BaseException], ...]
    limit: int = 5
    base: float = 1.0
    factor: float = 2.0
    cap: float = 600.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.on, type):
            object.__setattr__(self, "on", (self.on,))
        on = tuple(self.on)
        object.__setattr__(self, "on", on)
        if not on or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in on):
            raise InvalidOption(
                f"Retries(on={self.on!r}): name at least one exception class, as in on=(ConnectionError,)."
            )
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or self.limit < 0:
            raise InvalidOption(f"Retries(limit={self.limit!r}): give a whole number of retries, 0 or more.")
        for name in ("base", "factor", "cap"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or value < 0:
                raise InvalidOption(f"Retries({name}={value!r}): give a number that is not negative.")

    def delay(self, retry: int, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait before retry number ``retry`` (from 1)."""
        # The exponent is bounded so that a large retry number cannot overflow a float.
        bound = min(self.cap, self.base * self.factor ** min(retry - 1, 64))
        return bound * draw() if self.jitter else bound


#: Options of ours: name -> what a wrong value is told.
OPTIONS: Mapping[str, str] = {
    "retries": "a Retries(...) value or None",
    "sensitive": "a tuple of argument names",
    "bury_expired": "True or False",
    "idempotency": 'an Idempotent(key="…") value or None',
    "deduplication": 'a Deduplicate("until_started", …) value or None',
    "breaker": 'a Breaker("name", …) value or None',
    "fairness_key": 'a template such as "{tenant}", or a callable',
    "fairness_weight": "a whole number, or a callable",
    "ordering_key": 'a template such as "{order_id}", or a callable',
    "tracked": "True or False",
    "limits": "a list of RateLimit(...) and Concurrency(...) values",
}

#: Keywords that Celery understands beside the attributes of its Task class.
CELERY_KEYWORDS = frozenset(
    {
        "autoretry_for",
        "base",
        "bind",
        "compression",
        "connection",
        "delivery_mode",
        "dont_autoretry_for",
        "exchange",
        "filter",
        "immediate",
        "lazy",
        "mandatory",
        "name",
        "pydantic",
        "pydantic_context",
        "pydantic_dump_kwargs",
        "pydantic_strict",
        "queue",
        "retry_backoff",
        "retry_backoff_max",
        "retry_jitter",
        "retry_kwargs",
        "routing_key",
        "shared",
    }
)


def check_options(
    task: str,
    given: Mapping[str, Any],
    *,
    known: Iterable[str] = (),
    strict: bool = True,
) -> None:
    """Refuse unknown options and impossible values.

    Args:
        task: name for the message.
        given: options as declared.
        known: names understood besides ours and Celery's keywords.
        strict: False refuses only names that look like a slip of one of ours,
            for third-party ``@shared_task``s that carry attributes of their own.

    Raises:
        UnknownOption: nobody understands a name.
        InvalidOption: a value cannot work.
    """
    known = set(known) | CELERY_KEYWORDS | set(OPTIONS)
    for name in given:
        if name in known or name.startswith("_"):
            continue
        if strict or difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.8):
            raise UnknownOption.among(name, known if strict else OPTIONS, f"task {task!r}")
    retries = given.get("retries")
    if retries is not None and not isinstance(retries, Retries):
        raise InvalidOption(f"Task {task!r}: retries={retries!r} must be {OPTIONS['retries']}.")
    for option, kind in (("idempotency", Idempotent), ("deduplication", Deduplicate), ("breaker", Breaker)):
        value = given.get(option)
        if value is not None and not isinstance(value, kind):
            raise InvalidOption(f"Task {task!r}: {option}={value!r} must be {OPTIONS[option]}.")
    if given.get("breaker") is not None:
        check_breaker(task, given["breaker"])
    check_limits(task, given.get("limits", ()))
    if "fairness_key" in given or "fairness_weight" in given:
        check_fairness(task, given.get("fairness_key"), given.get("fairness_weight", 1))
    check_ordering(task, given.get("ordering_key"))
    sensitive = given.get("sensitive", ())
    if isinstance(sensitive, str) or not all(isinstance(name, str) for name in sensitive):
        raise InvalidOption(f"Task {task!r}: sensitive={sensitive!r} must be {OPTIONS['sensitive']}.")
    for option in ("bury_expired", "tracked"):
        if not isinstance(given.get(option, False), bool):
            raise InvalidOption(f"Task {task!r}: {option}={given[option]!r} must be {OPTIONS[option]}.")


def check_sensitive_names(task: str, sensitive: Iterable[str], parameters: Iterable[str]) -> None:
    """Refuse ``sensitive`` names that the task's signature does not have.

    Raises:
        UnknownOption: a name is not among the parameters.
    """
    parameters = list(parameters)
    for name in sensitive:
        if name not in parameters:
            raise UnknownOption.among(name, parameters, f"sensitive of task {task!r}")
